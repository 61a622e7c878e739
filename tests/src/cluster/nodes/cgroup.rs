//! A cgroup for each node, below our own, in every hierarchy of cgroup v1 and in the unified one beside them.
//!
//! What is made is written down in the run's directory, so that whoever removes the run finds it.
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;

/// Where the host has its hierarchies.
pub(super) const ROOT: &str = "/sys/fs/cgroup";
/// The file of a run's directory that lists its cgroups.
const LIST: &str = "cgroups";
/// How long the kernel may take to see that a cgroup is empty.
const EMPTY: Duration = Duration::from_secs(10);

/// A hierarchy, as the current process is in it.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    /// The directory below [`ROOT`]: `memory`, `systemd`, `unified`.
    pub(super) dir: String,
    /// The options of its mount; `None` for the unified one.
    pub(super) options: Option<String>,
    /// The current process's own cgroup.
    own: PathBuf,
}

/// The hierarchies that the current process is in.
///
/// # Errors
/// The host has no cgroup v1, which the nodes are made for.
pub(super) fn hierarchies() -> anyhow::Result<Vec<Hierarchy>> {
    let text = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let mut found = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (dir, options) = match controllers {
            "" => ("unified".to_owned(), None),
            "name=systemd" => ("systemd".to_owned(), Some("none,name=systemd".to_owned())),
            named if named.starts_with("name=") => continue,
            controllers => (controllers.to_owned(), Some(controllers.to_owned())),
        };
        let own = Path::new(ROOT).join(&dir).join(path.trim_start_matches('/'));
        if own.is_dir() {
            found.push(Hierarchy { dir, options, own });
        }
    }
    let memory = found.iter().any(|h| h.dir.split(',').any(|c| c == "memory"));
    anyhow::ensure!(
        memory,
        "the nodes of a test cluster need cgroup v1 (or both, as `hybrid`): {ROOT}/memory is missing"
    );
    Ok(found)
}

/// Makes the cgroup `name` in every hierarchy, and writes it into the list of the run's directory.
pub(super) fn create(run_dir: &Path, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for hierarchy in hierarchies()? {
        let dir = hierarchy.own.join(name);
        made.push(dir.clone());
        // Written down first: what is on the list and was not made is no harm.
        append(run_dir, &dir)?;
        match fs::create_dir(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("create {}", dir.display()));
            }
            _ => {}
        }
        if hierarchy.dir.split(',').any(|c| c == "cpuset") {
            // Nothing may run where these are empty.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read(hierarchy.own.join(file)).with_context(|| format!("read {file}"))?;
                fs::write(dir.join(file), value).with_context(|| format!("write {file}"))?;
            }
        }
    }
    Ok(made)
}

/// Puts the current process into these.
pub(super) fn enter(cgroups: &[PathBuf]) -> anyhow::Result<()> {
    for cgroup in cgroups {
        let path = cgroup.join("cgroup.procs");
        fs::write(&path, std::process::id().to_string()).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Removes every cgroup of a run, when their processes are gone.
pub(crate) fn remove_all(run_dir: &Path) {
    let text = fs::read_to_string(run_dir.join(LIST)).unwrap_or_default();
    remove(&text.lines().map(PathBuf::from).collect::<Vec<_>>());
}

/// Removes these, with what is below them; tasks leave with delay, so it is tried again.
pub(super) fn remove(cgroups: &[PathBuf]) {
    let began = Instant::now();
    while cgroups.iter().filter(|dir| remove_tree(dir)).count() > 0 && began.elapsed() < EMPTY {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether something is left.
fn remove_tree(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    // Files go with their directory and cannot be removed.
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    fs::remove_dir(dir).is_err() && dir.exists()
}

fn append(run_dir: &Path, line: &Path) -> anyhow::Result<()> {
    let path = run_dir.join(LIST);
    let file = fs::File::options().create(true).append(true).open(&path);
    let mut file = file.with_context(|| format!("open {}", path.display()))?;
    writeln!(file, "{}", line.display()).with_context(|| format!("write {}", path.display()))
}
