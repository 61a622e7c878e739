//! The processes that are a node: one outside, which holds its life, and the first one inside.
//!
//! `cluster node SPEC` puts itself into the node's cgroups and makes new namespaces (mount, pid, cgroup, uts, ipc; it was
//! started in the node's network namespace). Its child, `cluster node-init SPEC`, is process 1 there: it builds the root,
//! starts containerd and the kubelet, starts them again when they end, and reaps what is left to it. When the outer one is
//! killed the inner one is too, and with process 1 all of the node: a power failure.
//!
//! # Design
//! The root is the host's, under an overlay in memory: the node has every program of the host and changes none of its
//! files. Sysctls of the whole machine that the kubelet writes are plain files here.
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, pivot_root, sethostname},
};

use super::{
    cgroup::{self, ROOT},
    config::{NodeSpec, SOCKET},
};

/// Sysctls that the kubelet sets, and the values that content it.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
/// How long containerd may take to have its socket.
const CONTAINERD: Duration = Duration::from_secs(120);
/// How long a part that has ended stays away.
const AGAIN: Duration = Duration::from_secs(1);

/// The outer process: returns when the node has ended.
///
/// # Errors
/// The kernel refuses a cgroup or a namespace.
pub fn outer(spec: &str) -> anyhow::Result<()> {
    let node: NodeSpec = serde_json::from_str(spec).context("read the node's description")?;
    cgroup::enter(&node.cgroups)?;
    let new = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    unshare(new).context("unshare the node's namespaces")?;
    // Not by its path: a build may have replaced the file since.
    let mut inner = Command::new("/proc/self/exe");
    let status =
        inner.args(["node-init", spec]).stdin(Stdio::null()).status().context("start the node's first process")?;
    anyhow::bail!("the node's first process ended with {status}")
}

/// The first process inside: never returns well.
///
/// # Errors
/// The root cannot be built, or a program is missing.
pub fn inner(spec: &str) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("ask to end with the outer process")?;
    let node: NodeSpec = serde_json::from_str(spec).context("read the node's description")?;
    build_root(&node)?;
    sethostname(&node.name).context("set the host's name")?;
    configure(&node)?;
    let mut parts = [Part::containerd(&node)?, Part::kubelet(&node)?];
    parts[0].start()?;
    let began = Instant::now();
    while !Path::new(SOCKET).exists() {
        anyhow::ensure!(began.elapsed() < CONTAINERD, "containerd has no socket after {CONTAINERD:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    import_images(&node)?;
    parts[1].start()?;
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) => {
                if let Some(part) = parts.iter_mut().find(|p| p.pid == Some(pid)) {
                    std::thread::sleep(AGAIN);
                    part.start()?;
                }
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for the node's processes"),
        }
    }
}

/// containerd or the kubelet.
struct Part {
    command: Command,
    pid: Option<Pid>,
}

impl Part {
    fn containerd(node: &NodeSpec) -> anyhow::Result<Self> {
        let mut command = Command::new(node.programs.join("containerd"));
        // It finds its shim there.
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-c", "/run/containerd.toml"]).env("PATH", format!("{}:{path}", node.programs.display()));
        Self::logging(command, "containerd")
    }

    fn kubelet(node: &NodeSpec) -> anyhow::Result<Self> {
        let mut command = Command::new(node.kube.join("kubelet"));
        let kubeconfig = node.run_dir.join(format!("{}.kubeconfig", node.name));
        let (v4, v6) = node.addresses();
        command.arg("--config=/run/kubelet.json").arg(format!("--kubeconfig={}", kubeconfig.display()));
        command.args([format!("--hostname-override={}", node.name), format!("--node-ip={v4},{v6}")]);
        Self::logging(command, "kubelet")
    }

    fn logging(mut command: Command, name: &str) -> anyhow::Result<Self> {
        let log = fs::File::options().create(true).append(true).open(format!("/var/log/{name}.log"));
        let log = log.with_context(|| format!("open the log of {name}"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        Ok(Self { command, pid: None })
    }

    fn start(&mut self) -> anyhow::Result<()> {
        // Reaped by the loop above, with all others.
        let child = self.command.spawn().with_context(|| format!("start {:?}", self.command.get_program()))?;
        self.pid = Some(Pid::from_raw(child.id().cast_signed()));
        Ok(())
    }
}

fn build_root(node: &NodeSpec) -> anyhow::Result<()> {
    let hierarchies = cgroup::hierarchies()?;
    // Nothing of what is mounted here is to be seen outside.
    mount_none("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    let (root, layers) = (node.data.join("root"), node.data.join("layers"));
    for dir in ["root", "layers", "kubelet", "containerd", "log"] {
        make_dir(&node.data.join(dir))?;
    }
    mount_fs("tmpfs", &layers, "tmpfs", "mode=755")?;
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    let options = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mount_fs("overlay", &root, "overlay", &options)?;
    mount_fs("proc", &root.join("proc"), "proc", "")?;
    mount_fs("sysfs", &root.join("sys"), "sysfs", "")?;
    bind(Path::new("/dev"), &root.join("dev"), MsFlags::MS_REC)?;
    mount_fs("tmpfs", &root.join("run"), "tmpfs", "mode=755")?;
    for dir in ["run/lock", "run/netns", "old", "etc/cni/net.d"] {
        make_dir(&root.join(dir))?;
    }
    for path in node.bound() {
        let inside = root.join(path.strip_prefix("/").context("a path that does not begin at the root")?);
        make_dir(&inside)?;
        bind(path, &inside, MsFlags::empty())?;
    }
    for (ours, theirs) in [("kubelet", "var/lib/kubelet"), ("containerd", "var/lib/containerd"), ("log", "var/log")] {
        make_dir(&root.join(theirs))?;
        bind(&node.data.join(ours), &root.join(theirs), MsFlags::empty())?;
    }
    let cgroups = root.join(ROOT.trim_start_matches('/'));
    mount_fs("tmpfs", &cgroups, "tmpfs", "mode=755")?;
    for hierarchy in &hierarchies {
        let dir = cgroups.join(&hierarchy.dir);
        make_dir(&dir)?;
        match &hierarchy.options {
            Some(options) => mount_fs("cgroup", &dir, "cgroup", options)?,
            None => mount_fs("cgroup2", &dir, "cgroup2", "")?,
        }
    }
    mount_fs("bpf", &root.join("sys/fs/bpf"), "bpf", "")?;
    for (key, value) in SYSCTLS {
        let file = root.join("run").join(key.replace('/', "."));
        fs::write(&file, format!("{value}\n")).with_context(|| format!("write {}", file.display()))?;
        bind(&file, &root.join("proc/sys").join(key), MsFlags::empty())?;
    }
    pivot_root(&root, &root.join("old")).context("make it the root")?;
    std::env::set_current_dir("/").context("enter the root")?;
    umount2("/old", MntFlags::MNT_DETACH).context("let go of the old root")?;
    fs::remove_dir("/old").context("remove the old root's place")?;
    // Pods may ask for mounts that are seen on both sides.
    mount_none("/", MsFlags::MS_REC | MsFlags::MS_SHARED)
}

fn configure(node: &NodeSpec) -> anyhow::Result<()> {
    for (path, text) in [
        ("/etc/cni/net.d/10-pods.conflist", node.cni().to_string()),
        ("/run/containerd.toml", node.containerd()),
        ("/run/kubelet.json", node.kubelet().to_string()),
    ] {
        fs::write(path, text).with_context(|| format!("write {path}"))?;
    }
    Ok(())
}

fn import_images(node: &NodeSpec) -> anyhow::Result<()> {
    for dir in [node.programs.join("images"), node.run_dir.join("images")] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let status = super::import(&node.programs, &entry.path()).status().context("start ctr")?;
            anyhow::ensure!(status.success(), "the import of {} ended with {status}", entry.path().display());
        }
    }
    Ok(())
}

const NONE: Option<&str> = None;

fn mount_fs(source: &str, target: &Path, kind: &str, options: &str) -> anyhow::Result<()> {
    mount(Some(source), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("mount {kind} ({options}) at {}", target.display()))
}

fn bind(source: &Path, target: &Path, also: MsFlags) -> anyhow::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | also, NONE)
        .with_context(|| format!("bind {} to {}", source.display(), target.display()))
}

fn mount_none(target: &str, how: MsFlags) -> anyhow::Result<()> {
    mount(NONE, target, NONE, how, NONE).with_context(|| format!("change the mount {target}: {how:?}"))
}

fn make_dir(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))
}
