//! `cargo xtask cluster`: a cluster for people, held by a process of its own until it is told to end.
use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Cluster, ControlPlane, assets::Assets, nodes, process::tail};
use crate::netns::{
    Namespace,
    run::{self, RUNS, Run},
};

/// Where the process that holds a cluster writes its id when the cluster stands, in the run's directory.
const HOLDER: &str = "cluster.pid";
/// How long a cluster may take to stand.
const UP: Duration = Duration::from_secs(600);
/// How long it may take to go.
const DOWN: Duration = Duration::from_secs(60);

/// From a cluster that stands to a Service with an address; the README has the same lines.
const QUICK_START: &str = "  cargo xtask image --name test.local/sluice:1
  cargo xtask cluster load target/image/sluice.tar
  cargo xtask cluster kubectl apply -k deploy/overlays/test
  cargo xtask cluster kubectl -n sluice-system rollout status daemonset sluice
  cargo xtask cluster kubectl apply -f deploy/examples/pools/lab.yaml
  cargo xtask cluster kubectl create deployment web --image=sluice.test/echo:1 --port=8080
  cargo xtask cluster kubectl expose deployment web --port=80 --target-port=8080 --type=LoadBalancer
  cargo xtask cluster kubectl get service web";

/// Starts a cluster, of so many nodes, that stays.
///
/// # Errors
/// One stands already, or it does not start.
pub fn up(count: u8) -> anyhow::Result<()> {
    run::require_root()?;
    if let Ok(dir) = kept() {
        anyhow::bail!("a cluster stands already, {}: end it with `cargo xtask cluster down`", dir.display());
    }
    let log = tempfile::NamedTempFile::new().context("make a file for the holder's output")?;
    let mut holder = Command::new("/proc/self/exe");
    holder.args(["keep", &count.to_string()]).process_group(0);
    holder.stdin(Stdio::null()).stdout(log.reopen()?).stderr(log.reopen()?);
    let mut holder = holder.spawn().context("start the process that holds the cluster")?;
    let began = Instant::now();
    let dir = loop {
        if let Some(status) = holder.try_wait()? {
            anyhow::bail!("the cluster does not stand: its holder ended with {status}\n{}", tail(log.path()));
        }
        match kept() {
            Ok(dir) => break dir,
            Err(_) if began.elapsed() > UP => {
                let _ = kill(Pid::from_raw(holder.id().cast_signed()), Signal::SIGTERM);
                anyhow::bail!("the cluster does not stand after {UP:?}\n{}", tail(log.path()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let space = space_name(&dir)?;
    println!(
        "
A control plane and {count} nodes stand after {:.1} s, with Gateway API. To try, as root:

  cargo xtask cluster kubectl get nodes
  cargo xtask cluster exec 1 ip address          # inside node1
  cargo xtask cluster load IMAGES.tar            # into every node
  cargo xtask cluster logs [PART]
  cargo xtask cluster down

Sluice on it, and a Service, line by line:

{QUICK_START}
  ip netns exec {space} curl -s http://$(cargo xtask cluster kubectl get service web -o jsonpath='{{.status.loadBalancer.ingress[0].ip}}')/

The client outside, and the control plane: ip netns exec {space} COMMAND
A kubeconfig that leads from there: {}",
        began.elapsed().as_secs_f64(),
        dir.join("admin.kubeconfig").display(),
    );
    Ok(())
}

/// Holds a cluster until a signal ends this process; the handler of [`Run`] then removes everything.
///
/// # Errors
/// It does not start.
pub fn keep(count: u8) -> anyhow::Result<()> {
    let (plane, cluster);
    let plane = if count == 0 {
        plane = ControlPlane::start()?;
        &plane
    } else {
        cluster = Cluster::up(count)?;
        &cluster.plane
    };
    plane.install_gateway_api()?;
    let (new, path) = (plane.run().dir().join("cluster.new"), plane.run().dir().join(HOLDER));
    fs::write(&new, std::process::id().to_string()).context("write the holder's id")?;
    fs::rename(new, path).context("write the holder's id")?;
    loop {
        std::thread::park();
    }
}

/// Runs `kubectl` on the cluster that stands.
///
/// # Errors
/// None stands.
pub fn kubectl(arguments: &[&str]) -> anyhow::Result<ExitStatus> {
    let dir = kept()?;
    let mut command = Assets::find()?.command("kubectl");
    command.args(arguments).env("KUBECONFIG", dir.join("admin.kubeconfig"));
    command.env("KUBECACHEDIR", dir.join("kubectl-cache"));
    Namespace::open(&space_name(&dir)?)?.enter(|| command.status()).context("run kubectl")
}

/// Runs a command in a node of the cluster that stands.
///
/// # Errors
/// None stands, or it has no such node.
pub fn exec(number: &str, arguments: &[&str]) -> anyhow::Result<ExitStatus> {
    let number = number.parse().with_context(|| format!("node {number:?}: want its number"))?;
    nodes::enter(&kept()?, number)?.args(arguments).status().context("enter the node")
}

/// Loads an archive of images into every node of the cluster that stands.
///
/// # Errors
/// None stands, or it is no such archive.
pub fn load(archive: &str) -> anyhow::Result<()> {
    nodes::load(&kept()?, Path::new(archive))
}

/// Prints the ends of all logs of the cluster that stands, or one of them whole: `kubelet`, `node1/log/kubelet`.
///
/// # Errors
/// None stands, or there is no such log.
pub fn logs(part: Option<&str>) -> anyhow::Result<()> {
    let dir = kept()?;
    let mut found = Vec::new();
    find_logs(&dir, &mut found);
    found.sort();
    if let Some(part) = part {
        found.retain(|log| log.with_extension("").ends_with(part));
        anyhow::ensure!(!found.is_empty(), "no log {part} in {}", dir.display());
    }
    for log in found {
        println!("==> {} <==", log.display());
        match part {
            None => println!("{}\n", tail(&log)),
            Some(_) => println!("{}", String::from_utf8_lossy(&fs::read(&log)?)),
        }
    }
    Ok(())
}

/// Removes the cluster that stands.
///
/// # Errors
/// It does not go.
pub fn down() -> anyhow::Result<()> {
    run::require_root()?;
    let Ok(dir) = kept() else {
        println!("no cluster stands");
        return Ok(());
    };
    kill(holder(&dir).context("the holder's id")?, Signal::SIGTERM).context("end the cluster's holder")?;
    let began = Instant::now();
    while dir.exists() {
        anyhow::ensure!(began.elapsed() < DOWN, "{} is still there", dir.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("removed {}", dir.display());
    Ok(())
}

/// The directory of the cluster that stands.
fn kept() -> anyhow::Result<PathBuf> {
    let mut dirs = Run::held().into_iter().map(|id| Path::new(RUNS).join(id));
    dirs.find(|dir| holder(dir).is_some()).context("no cluster stands: start one with `cargo xtask cluster up`")
}

fn holder(dir: &Path) -> Option<Pid> {
    fs::read_to_string(dir.join(HOLDER)).ok()?.parse().ok().map(Pid::from_raw)
}

fn space_name(dir: &Path) -> anyhow::Result<String> {
    let id = dir.file_name().and_then(|n| n.to_str()).context("a run without a name")?;
    let mut names = run::namespaces_of(id).into_iter();
    names.find(|name| name.ends_with("-plane")).context("the control plane has no namespace")
}

/// The logs of the control plane and of each node; not what the nodes keep besides.
fn find_logs(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|e| e == "log") {
            found.push(path);
        } else if path.join("log").is_dir() {
            find_logs(&path.join("log"), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// D9 of issue 8.
    #[test]
    fn the_quick_start_is_that_of_the_readme_and_names_files_that_are_there() {
        let readme = fs::read_to_string(xtask::root().join("README.md")).expect("a README");
        for line in QUICK_START.lines().map(str::trim) {
            assert!(readme.lines().any(|known| known == line), "the README lacks {line:?}");
            for path in line.split(' ').filter(|word| word.starts_with("deploy/")) {
                assert!(xtask::root().join(path).exists(), "no {path}");
            }
        }
        assert!(QUICK_START.contains(xtask::image::TEST_NAME) && QUICK_START.contains(xtask::kubernetes::IMAGE_PREFIX));
    }
}
