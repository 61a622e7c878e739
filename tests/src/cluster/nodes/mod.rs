//! The nodes half: real kubelets and containerd, each in namespaces of its own, on one lan with the control plane.
//!
//! ```text
//!   plane: control plane, and the client outside       .10  ::10   198.51.100.0/24, 2001:db8:51::/64
//!     └── br0 ── eth0 in node1                         .1   ::1    pods 10.244.1.0/24, 2001:db8:244:1::/64 on cni0
//!             └─ eth0 in node2                         .2   ::2    pods 10.244.2.0/24, 2001:db8:244:2::/64 on cni0
//! ```
//!
//! Plain routes lead to the pods of every node, and nothing is translated: pods see the true client. Where no test starts
//! one ([`product`]) there is no kube-proxy: the only cluster IP that answers is that of the Service `kubernetes`, which
//! the control plane has itself.
//!
//! # Design
//! A node is two processes of ours ([`inside`]) and what they start. All of it is in the node's network namespace and
//! below its cgroups, by which a [`Run`](crate::netns::Run) finds and removes it.
mod cgroup;
mod config;
pub mod inside;
pub mod product;

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use self::config::{NodeSpec, SOCKET};
use super::{ControlPlane, Patch, guard, plane::KUBERNETES, process::Process};
use crate::netns::{Namespace, addr};

pub(crate) use cgroup::remove_all as remove_cgroups;

/// The bridge between the control plane and the nodes, in the control plane's namespace.
pub const BRIDGE: &str = "br0";
/// A node's interface on the lan.
pub const UPLINK: &str = "eth0";
/// Where a node's outer process has its id, in the node's directory.
const PID: &str = "pid";
/// How long a node may take to be Ready: seconds, on a machine that is not busy with something else.
const READY: Duration = Duration::from_secs(180);

/// A cluster with nodes. Everything is gone when it is dropped.
pub struct Cluster {
    /// Its control plane, and the client outside: [`ControlPlane::space`] is on the nodes' lan.
    pub plane: ControlPlane,
    programs: PathBuf,
    nodes: Mutex<BTreeMap<u8, Node>>,
}

struct Node {
    space: Namespace,
    spec: NodeSpec,
    process: Process,
}

impl Cluster {
    /// Starts a control plane and so many nodes, `node1` and on; returns when all are Ready.
    ///
    /// # Errors
    /// A part is not ready in time; the error holds the end of its log.
    pub fn up(nodes: u8) -> anyhow::Result<Self> {
        let programs = xtask::kubernetes::nodes()?;
        let plane = ControlPlane::prepare("cluster", addr::CLIENT_V4.into(), true)?;
        anyhow::ensure!(plane.is_own(), "nodes need our own build of Kubernetes: unset KUBEBUILDER_ASSETS");
        without_dad(&plane.space)?;
        plane.space.net(async |net| {
            net.bridge(BRIDGE).await?;
            net.address(BRIDGE, addr::CLIENT_V4.into(), 24).await?;
            net.address(BRIDGE, addr::CLIENT_V6.into(), 64).await?;
            for kubernetes in KUBERNETES {
                let ip: IpAddr = addr::ip(kubernetes);
                net.address("lo", ip, if ip.is_ipv6() { 128 } else { 32 }).await?;
            }
            Ok(())
        })?;
        let cluster = Self { plane: plane.launch()?, programs, nodes: Mutex::default() };
        for number in 1..=nodes {
            cluster.begin_node(number)?;
        }
        for number in 1..=nodes {
            cluster.wait_node(number)?;
        }
        Ok(cluster)
    }

    /// Starts a node that does not run, and waits until it is Ready. It begins with an empty disk and the images.
    ///
    /// # Errors
    /// It is not Ready in time; the error holds the ends of its logs.
    pub fn start_node(&self, number: u8) -> anyhow::Result<()> {
        self.begin_node(number)?;
        self.wait_node(number)
    }

    /// A power failure: the node, its pods and its link are gone at once.
    pub fn kill_node(&self, number: u8) {
        let Some(mut node) = self.nodes().remove(&number) else { return };
        node.process.kill();
        self.plane.run().remove_namespace(&node.spec.name);
        // The kernel removes it with the namespace, when it comes to it.
        let _ = self.plane.space.net(async |net| net.delete(&node.spec.name).await);
        cgroup::remove(&node.spec.cgroups);
        let _ = fs::remove_dir_all(&node.spec.data);
    }

    /// Runs a command in a node, as root there; its end and output are returned.
    ///
    /// # Errors
    /// The node does not run, or there is no such program.
    pub fn node_exec(&self, number: u8, command: &[&str]) -> anyhow::Result<Output> {
        let mut enter = enter(&self.plane.run().dir(), number)?;
        enter.args(command).stdin(Stdio::null());
        enter.output().with_context(|| format!("run {} in node{number}", command.join(" ")))
    }

    /// The network namespace of a node, without the rest of it: to send from, or to look at its links.
    ///
    /// # Errors
    /// The node does not run.
    pub fn node_space(&self, number: u8) -> anyhow::Result<Namespace> {
        let nodes = self.nodes();
        let node = nodes.get(&number).with_context(|| format!("node{number} does not run"))?;
        Namespace::open(node.space.name())
    }

    /// Loads an archive of images into every node, also into those that start later. Pods that use it say
    /// `imagePullPolicy: Never`, or `IfNotPresent`.
    ///
    /// # Errors
    /// It is no archive of images.
    pub fn load_image(&self, archive: &Path) -> anyhow::Result<()> {
        load(&self.plane.run().dir(), archive)
    }

    /// The log of a node's kubelet or containerd.
    #[must_use]
    pub fn node_log(&self, number: u8, part: &str) -> PathBuf {
        self.plane.run().dir().join(format!("node{number}/log/{part}.log"))
    }

    /// The addresses of a node on the lan.
    #[must_use]
    pub fn node_addresses(&self, number: u8) -> [IpAddr; 2] {
        [addr::node_v4(number).into(), addr::node_v6(number).into()]
    }

    /// Makes the node's network, object and cgroups, and starts its processes.
    fn begin_node(&self, number: u8) -> anyhow::Result<()> {
        anyhow::ensure!(!self.nodes().contains_key(&number), "node{number} runs already");
        let run = self.plane.run();
        let name = format!("node{number}");
        let cgroups = cgroup::create(&run.dir(), &format!("sluice-{}-{name}", run.id()))?;
        let (data, kube) = (run.dir().join(&name), xtask::kubernetes::control_plane()?);
        let programs = self.programs.clone();
        let spec = NodeSpec { number, name: name.clone(), run_dir: run.dir(), data, kube, programs, cgroups };
        let _ = fs::remove_dir_all(&spec.data);
        fs::create_dir_all(&spec.data).with_context(|| format!("create {}", spec.data.display()))?;
        let (v4, v6) = spec.addresses();
        let hosts = [name.clone(), v4.to_string(), v6.to_string()];
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let user = format!("system:node:{name}");
        let credential = self.plane.authority.issue(&name, &user, Some("system:nodes"), &hosts)?;
        self.plane.write_kubeconfig(&name, &credential.user())?;
        let space = run.namespace(&name)?;
        self.connect(&space, &spec)?;
        self.plane.api().patch(&format!("/api/v1/nodes/{name}"), Patch::Apply, &spec.object())?;
        let mut command = Command::new(guard::binary()?);
        command.arg("node").arg(serde_json::to_string(&spec)?);
        let process = Process::start(&space, command, &run.dir().join(format!("{name}.log")))?;
        let pid = spec.data.join(PID);
        fs::write(&pid, process.pid().to_string()).with_context(|| format!("write {}", pid.display()))?;
        self.nodes().insert(number, Node { space, spec, process });
        Ok(())
    }

    /// The node's link, addresses, and the routes to its pods and from it.
    fn connect(&self, space: &Namespace, spec: &NodeSpec) -> anyhow::Result<()> {
        without_dad(space)?;
        let plane = &self.plane.space;
        plane.net(async |net| net.veth(&spec.name, Some(BRIDGE), UPLINK, space).await)?;
        let (v4, v6) = spec.addresses();
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            space.sysctl(key, "1")?;
        }
        for conf in ["all", "default", UPLINK] {
            space.sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "0")?;
        }
        let others: Vec<u8> = self.nodes().keys().copied().filter(|n| *n != spec.number).collect();
        space.net(async |net| {
            // A machine that comes back has the Ethernet address that its neighbours remember.
            net.set_mac(UPLINK, [0x02, 0x53, 0x4c, 0x4e, 0x00, spec.number]).await?;
            net.address(UPLINK, v4.into(), 24).await?;
            net.address(UPLINK, v6.into(), 64).await?;
            net.up(UPLINK).await?;
            net.route(addr::ip("0.0.0.0"), 0, UPLINK, Some(addr::CLIENT_V4.into())).await?;
            net.route(addr::ip("::"), 0, UPLINK, Some(addr::CLIENT_V6.into())).await?;
            for other in &others {
                route_pods(net, *other, UPLINK).await?;
            }
            Ok(())
        })?;
        // Its routes stay when the node goes: it comes back to the same place.
        plane.net(async |net| {
            let _ = route_pods(net, spec.number, BRIDGE).await;
            Ok(())
        })?;
        for other in others {
            self.node_space(other)?.net(async |net| {
                let _ = route_pods(net, spec.number, UPLINK).await;
                Ok(())
            })?;
        }
        let prepare = |space: &Namespace, arguments: &[&str]| {
            let mut command = Command::new(self.programs.join("xdpprep"));
            let output = space.enter(|| command.args(arguments).output()).context("start xdpprep")?;
            let said = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(output.status.success(), "xdpprep {}: {said}", arguments.join(" "));
            Ok(())
        };
        prepare(plane, &[&spec.name, "pass"])?;
        prepare(space, &[UPLINK])
    }

    /// Waits until the node is Ready. The object and its conditions outlive a node, so its word must be of now.
    fn wait_node(&self, number: u8) -> anyhow::Result<()> {
        let began = Instant::now();
        let path = format!("/api/v1/nodes/node{number}");
        let before = self.heartbeat(&path).unwrap_or_default();
        loop {
            let ready = match self.heartbeat(&path) {
                Ok(heartbeat) => heartbeat.ready && heartbeat.at != before.at,
                Err(_) => false,
            };
            if ready {
                return Ok(());
            }
            let tails = || {
                let logs = ["kubelet", "containerd"].map(|part| self.node_log(number, part));
                logs.map(|log| format!("{}:\n{}", log.display(), super::process::tail(&log))).join("\n")
            };
            let mut nodes = self.nodes();
            let node = nodes.get_mut(&number).with_context(|| format!("node{number} does not run"))?;
            node.process.lives().with_context(tails)?;
            drop(nodes);
            anyhow::ensure!(began.elapsed() < READY, "node{number} is not Ready after {READY:?}:\n{}", tails());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn heartbeat(&self, node: &str) -> anyhow::Result<Heartbeat> {
        let node = self.plane.api().get(node)?;
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.into_iter().find(|c| c["type"] == "Ready").context("it has said nothing yet")?;
        let at = ready["lastHeartbeatTime"].as_str().unwrap_or_default().to_owned();
        Ok(Heartbeat { ready: ready["status"] == "True", at })
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<u8, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let numbers: Vec<u8> = self.nodes().keys().copied().collect();
        numbers.into_iter().for_each(|number| self.kill_node(number));
    }
}

/// What a node last said of itself.
#[derive(Default)]
struct Heartbeat {
    ready: bool,
    at: String,
}

/// `ctr images import`, as a node runs it.
fn import(programs: &Path, archive: &Path) -> Command {
    let mut command = Command::new(programs.join("ctr"));
    command.args(["--address", SOCKET, "--namespace", "k8s.io", "images", "import", "--local"]);
    command.args(["--label", "io.cri-containerd.image=managed"]).arg(archive);
    command
}

/// A command whose arguments are run in a node of the run in `run_dir`.
pub(super) fn enter(run_dir: &Path, number: u8) -> anyhow::Result<Command> {
    let outer = fs::read_to_string(run_dir.join(format!("node{number}/{PID}")));
    let outer = outer.with_context(|| format!("node{number} does not run"))?;
    let path = format!("/proc/{outer}/task/{outer}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let first = children.split(' ').next().filter(|c| !c.is_empty()).context("the node has no process")?;
    let mut command = Command::new("nsenter");
    command.args(["--target", first, "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--"]);
    Ok(command)
}

/// Loads an archive of images into every node of the run in `run_dir`, and keeps it for those that start later.
pub(super) fn load(run_dir: &Path, archive: &Path) -> anyhow::Result<()> {
    let images = run_dir.join("images");
    fs::create_dir_all(&images).with_context(|| format!("create {}", images.display()))?;
    let name = archive.file_name().with_context(|| format!("{} is no file", archive.display()))?;
    // The directory is seen in every node; what is made elsewhere after its start may not be.
    let copy = images.join(name);
    fs::copy(archive, &copy).with_context(|| format!("copy {}", archive.display()))?;
    let import = import(&xtask::kubernetes::nodes()?, &copy);
    for number in (1..=u8::MAX).filter(|n| run_dir.join(format!("node{n}/{PID}")).exists()) {
        let mut enter = enter(run_dir, number)?;
        enter.arg(import.get_program()).args(import.get_args());
        let Output { status, stderr, .. } = enter.output().context("start ctr")?;
        let said = String::from_utf8_lossy(&stderr);
        anyhow::ensure!(status.success(), "import of {} into node{number}: {said}", archive.display());
    }
    Ok(())
}

async fn route_pods(net: &crate::netns::link::Net, node: u8, link: &str) -> anyhow::Result<()> {
    net.route(addr::pods_v4(node).into(), 24, link, Some(addr::node_v4(node).into())).await?;
    net.route(addr::pods_v6(node).into(), 64, link, Some(addr::node_v6(node).into())).await
}

/// Addresses are usable at once.
fn without_dad(space: &Namespace) -> anyhow::Result<()> {
    space.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    space.sysctl("net/ipv6/conf/all/accept_dad", "0")
}
