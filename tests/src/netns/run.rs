//! Everything a run leaves in the file system, and its removal.
//!
//! A run has an id, `<kind>-<pid>-<n>`. By it alone its leftovers are found: namespaces `/run/netns/sluice-<id>-*`, the
//! directory `/run/sluice-lab/<id>` (manifests, state, logs, admin socket), pins `/sys/fs/bpf/sluice/<id>`, processes in
//! the namespaces. [`Run::drop`], the signal handler and the sweep at the start of the next run all call the same
//! [`remove`].
//!
//! # Design
//! A run is alive while its owner holds the lock on `<directory>/lock`: process ids are reused, locks are not. The lock
//! of the parent directory orders births and sweeps. A run that is kept (`demo --keep`) is held by a process of its own.
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, Once, PoisonError, atomic},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::{
        signal::{Signal, kill},
        statfs,
    },
    unistd::Pid,
};

use super::namespace::{NAMES, Namespace};

/// The directories of all runs.
pub const RUNS: &str = "/run/sluice-lab";
/// Where bpffs is mounted.
const BPFFS: &str = "/sys/fs/bpf";
/// Where files that may be lost are in memory; on a host without it, on disk.
const MEMORY: &str = "/dev/shm";
/// How long killed processes may take to be gone.
const KILLED: Duration = Duration::from_secs(10);
/// The pins of all runs.
const PINS: &str = "/sys/fs/bpf/sluice";

/// The runs of this process; locked while something is created, so that a signal finds nothing half made.
static LIVE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// One run: the owner of all names that it leaves outside its own process.
#[derive(Debug)]
pub struct Run {
    id: String,
    // `None` when it was handed over.
    lock: Option<Flock<File>>,
}

impl Run {
    /// Starts a run, after removing what dead ones left behind.
    ///
    /// # Errors
    /// Not root, or the directories cannot be made.
    pub fn start(kind: &str) -> anyhow::Result<Self> {
        static COUNT: atomic::AtomicU32 = atomic::AtomicU32::new(1);
        require_root()?;
        handle_signals();
        mount_bpffs()?;
        let n = COUNT.fetch_add(1, atomic::Ordering::Relaxed);
        let id = format!("{kind}-{}-{n}", std::process::id());
        fs::create_dir_all(RUNS).with_context(|| format!("create {RUNS}"))?;
        let _births = lock(&Path::new(RUNS).join(".lock"), FlockArg::LockExclusive)?;
        sweep();
        let mut live = live();
        remove(&id);
        let dir = dir_of(&id);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).context("open the run's directory to readers")?;
        let lock = lock(&dir.join("lock"), FlockArg::LockExclusiveNonblock)?;
        live.insert(id.clone());
        Ok(Self { id, lock: Some(lock) })
    }

    /// Takes over a run whose owner is in [`Run::hand_over`].
    ///
    /// # Errors
    /// There is none of that id.
    pub fn adopt(id: &str) -> anyhow::Result<Self> {
        require_root()?;
        handle_signals();
        let lock = lock(&dir_of(id).join("lock"), FlockArg::LockExclusive)?;
        live().insert(id.to_owned());
        Ok(Self { id: id.to_owned(), lock: Some(lock) })
    }

    /// Gives it to another process, which `heir` starts and which calls [`Run::adopt`]; nothing is removed.
    ///
    /// # Errors
    /// What `heir` returns; then everything is removed. It must return when the other process has the run.
    pub fn hand_over<T>(mut self, heir: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        // Nobody may sweep while nobody holds it.
        let _births = lock(&Path::new(RUNS).join(".lock"), FlockArg::LockExclusive)?;
        live().remove(&self.id);
        self.lock = None;
        heir().inspect_err(|_| remove(&self.id))
    }

    /// The ids of runs that somebody holds.
    #[must_use]
    pub fn held() -> Vec<String> {
        runs().into_iter().filter(|id| is_held(id)).collect()
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        dir_of(&self.id)
    }

    /// A directory in memory, made on the first call: for data that nobody needs after a power failure.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn memory_dir(&self) -> anyhow::Result<PathBuf> {
        let dir = memory_of(&self.id);
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        Ok(dir)
    }

    /// The directory of its pins; the agent makes it.
    #[must_use]
    pub fn bpf_dir(&self) -> PathBuf {
        Path::new(PINS).join(&self.id)
    }

    /// Removes one of its namespaces, with the processes in it.
    pub fn remove_namespace(&self, role: &str) {
        let _live = live();
        end(&[name_of(&self.id, role)]);
    }

    /// Creates one of its namespaces.
    ///
    /// # Errors
    /// As [`Namespace::create`].
    pub fn namespace(&self, role: &str) -> anyhow::Result<Namespace> {
        let _live = live();
        Namespace::create(&name_of(&self.id, role))
    }

    /// Opens one of its namespaces that exists.
    ///
    /// # Errors
    /// As [`Namespace::open`].
    pub fn open_namespace(&self, role: &str) -> anyhow::Result<Namespace> {
        Namespace::open(&name_of(&self.id, role))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut live = live();
        if live.remove(&self.id) {
            remove(&self.id);
        }
    }
}

/// Says in one sentence what is missing when this is not root.
///
/// # Errors
/// This is not root.
pub fn require_root() -> anyhow::Result<()> {
    anyhow::ensure!(nix::unistd::geteuid().is_root(), "this needs root: it creates network namespaces and loads eBPF");
    Ok(())
}

/// Removes a run's processes, namespaces, pins and directory. Whatever is gone already is no error.
pub fn remove(id: &str) {
    let spaces = namespaces_of(id);
    end(&spaces);
    crate::cluster::nodes::remove_cgroups(&dir_of(id));
    let _ = fs::remove_dir_all(Path::new(PINS).join(id));
    let _ = fs::remove_dir(PINS);
    let _ = fs::remove_dir_all(memory_of(id));
    let _ = fs::remove_dir_all(dir_of(id));
}

/// Ends the processes in these namespaces, and removes their names.
fn end(spaces: &[String]) {
    // Until all are gone: one may have started another, and what dies slowly still writes.
    let began = Instant::now();
    loop {
        let left = processes_in(spaces);
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        if left.is_empty() || began.elapsed() > KILLED {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    for name in spaces {
        Namespace::unname(name);
    }
}

/// The names of a run's namespaces.
#[must_use]
pub fn namespaces_of(id: &str) -> Vec<String> {
    let prefix = name_of(id, "");
    names_in(Path::new(NAMES)).into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

/// Removes runs whose owner is dead.
fn sweep() {
    for id in runs().into_iter().filter(|id| !is_held(id)) {
        remove(&id);
    }
}

/// The ids of all runs, dead and alive.
fn runs() -> Vec<String> {
    names_in(Path::new(RUNS)).into_iter().filter(|id| !id.starts_with('.')).collect()
}

fn is_held(id: &str) -> bool {
    live().contains(id) || lock(&dir_of(id).join("lock"), FlockArg::LockExclusiveNonblock).is_err()
}

/// Processes, other than this one, in any of the namespaces.
fn processes_in(spaces: &[String]) -> Vec<Pid> {
    let inode = |path: PathBuf| fs::metadata(path).ok().map(|m| m.ino());
    let wanted: BTreeSet<u64> = spaces.iter().filter_map(|name| inode(Path::new(NAMES).join(name))).collect();
    let pids = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse::<i32>().ok());
    let own = Pid::this();
    pids.filter(|pid| inode(PathBuf::from(format!("/proc/{pid}/ns/net"))).is_some_and(|i| wanted.contains(&i)))
        .map(Pid::from_raw)
        .filter(|pid| *pid != own)
        .collect()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

fn dir_of(id: &str) -> PathBuf {
    Path::new(RUNS).join(id)
}

fn memory_of(id: &str) -> PathBuf {
    Path::new(MEMORY).join(name_of(id, "memory"))
}

fn name_of(id: &str, role: &str) -> String {
    format!("sluice-{id}-{role}")
}

fn lock(path: &Path, how: FlockArg) -> anyhow::Result<Flock<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    Flock::lock(file, how).map_err(|(_, errno)| errno).with_context(|| format!("lock {}", path.display()))
}

fn live() -> MutexGuard<'static, BTreeSet<String>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mounts bpffs where the host has not.
fn mount_bpffs() -> anyhow::Result<()> {
    let dir = File::open(BPFFS).with_context(|| format!("open {BPFFS}"))?;
    let kind = statfs::fstatfs(dir.as_fd()).with_context(|| format!("stat {BPFFS}"))?.filesystem_type();
    if kind == statfs::BPF_FS_MAGIC {
        return Ok(());
    }
    let none: Option<&str> = None;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), none).with_context(|| format!("mount bpffs at {BPFFS}"))
}

/// On the first call, starts the thread that removes this process's runs when it is told to end.
fn handle_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let wait = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut int = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
                let mut term = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
                let mut hup = signal(SignalKind::hangup()).expect("SIGHUP can be handled");
                let _ = ready.send(());
                tokio::select! { _ = int.recv() => {} _ = term.recv() => {} _ = hup.recv() => {} }
            });
            let live = live();
            eprintln!("\nremoving what was built");
            live.iter().for_each(|id| remove(id));
            std::process::exit(130);
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait).expect("a thread");
        let _ = is_ready.recv();
    });
}
