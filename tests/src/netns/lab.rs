//! The topology: a lan with a client and two nodes, pods behind the nodes.
use std::{net::IpAddr, path::PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{
    addr::{self, ip},
    namespace::Namespace,
    pass::Pass,
    pod::Pod,
    run::Run,
};

/// What to build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabSpec {
    /// The first part of the run's id.
    pub kind: String,
    /// The pods.
    pub pods: Vec<PodSpec>,
    /// Put the pass program behind the nodes' uplinks, so that `XDP_TX` works on them.
    pub xdp: bool,
}

/// One pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodSpec {
    /// Its name, unique.
    pub name: String,
    /// What it says its version is.
    pub version: String,
    /// The node that it runs on: 1 or 2.
    pub node: u8,
}

impl PodSpec {
    /// A pod of version v1.
    #[must_use]
    pub fn new(name: &str, node: u8) -> Self {
        Self { name: name.to_owned(), version: "v1".to_owned(), node }
    }

    /// The same pod, of another version.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self }
    }
}

impl LabSpec {
    /// For a test: `local` pods on node1 called `a1`, `a2`, and `remote` ones on node2 called `b1`, `b2`.
    #[must_use]
    pub fn test(local: u8, remote: u8) -> Self {
        let a = (1..=local).map(|n| PodSpec::new(&format!("a{n}"), 1));
        let b = (1..=remote).map(|n| PodSpec::new(&format!("b{n}"), 2));
        Self { kind: "test".to_owned(), pods: a.chain(b).collect(), xdp: false }
    }

    /// The same lab, with or without the pass program.
    #[must_use]
    pub fn xdp(self, xdp: bool) -> Self {
        Self { xdp, ..self }
    }
}

/// The topology, standing. Everything is gone when it is dropped.
pub struct Lab {
    /// Where connections come from.
    pub client: Namespace,
    /// The node with the agent.
    pub node1: Namespace,
    /// The other node: it forwards to its pods, no agent.
    pub node2: Namespace,
    /// The bridge between them.
    pub lan: Namespace,
    /// The pods, in the order of the spec.
    pub pods: Vec<Pod>,
    spec: LabSpec,
    _pass: Option<Pass>,
    // Last: the names go when everything that lives in the namespaces has ended.
    run: Run,
}

/// The interface that leads to the lan, in the client and in the nodes.
pub const UPLINK: &str = "eth0";
/// The bridge in the lan.
const BRIDGE: &str = "br0";
/// The bridge's ends of the nodes' uplinks.
const BEHIND_UPLINKS: [&str; 2] = ["node1", "node2"];
/// Where a lab that is handed over describes itself, in its directory.
const SPEC: &str = "lab.json";

impl Lab {
    /// Builds it, with every pod serving.
    ///
    /// # Errors
    /// Not root, or the kernel lacks what it takes.
    pub fn build(spec: &LabSpec) -> anyhow::Result<Self> {
        let run = Run::start(&spec.kind)?;
        let (lan, client) = (run.namespace("lan")?, run.namespace("client")?);
        let (node1, node2) = (run.namespace("node1")?, run.namespace("node2")?);
        for space in [&lan, &client, &node1, &node2] {
            without_dad(space)?;
        }
        lan.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        lan.net(async |net| {
            net.bridge(BRIDGE).await?;
            for (port, space) in [("client", &client), ("node1", &node1), ("node2", &node2)] {
                net.veth(port, Some(BRIDGE), UPLINK, space).await?;
            }
            Ok(())
        })?;
        build_client(&client)?;
        build_node(&node1, 1)?;
        build_node(&node2, 2)?;
        let mut pods = Vec::new();
        for (pod, n) in numbered(spec) {
            let space = build_pod(&run, if pod.node == 1 { &node1 } else { &node2 }, pod, n)?;
            pods.push(Pod::start(pod, n, space)?);
        }
        let pass = spec.xdp.then(|| Pass::attach(&lan, &BEHIND_UPLINKS)).transpose()?;
        Ok(Self { client, node1, node2, lan, pods, spec: spec.clone(), _pass: pass, run })
    }

    /// A pod by its name.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// A pod by its name, to kill or to start it.
    ///
    /// # Panics
    /// There is none.
    pub fn pod_mut(&mut self, name: &str) -> &mut Pod {
        self.pods.iter_mut().find(|p| p.name == name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// Pods by their names.
    #[must_use]
    pub fn select(&self, names: &[&str]) -> Vec<&Pod> {
        names.iter().map(|name| self.pod(name)).collect()
    }

    /// The run that owns the names.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// The run's directory.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.run.dir()
    }

    /// Connects node1 to the lan, again: its uplink, with its addresses and routes.
    ///
    /// # Errors
    /// It has an uplink.
    pub fn connect_node1(&self) -> anyhow::Result<()> {
        self.lan.net(async |net| net.veth("node1", Some(BRIDGE), UPLINK, &self.node1).await)?;
        build_node(&self.node1, 1)
    }

    /// Gives it to another process, which `heir` starts and which calls [`Lab::adopt`]. The servers in the pods stop
    /// here and start again there.
    ///
    /// # Errors
    /// What `heir` returns. It must return when the other process has the lab.
    pub fn hand_over<T>(self, heir: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let Self { spec, pods, _pass: pass, run, .. } = self;
        let text = serde_json::to_string(&spec).context("describe the lab")?;
        std::fs::write(run.dir().join(SPEC), text).context("write the lab's description")?;
        drop((pods, pass));
        run.hand_over(heir)
    }

    /// Takes over a lab that another process has built.
    ///
    /// # Errors
    /// There is none of that id.
    pub fn adopt(id: &str) -> anyhow::Result<Self> {
        let run = Run::adopt(id)?;
        let text = std::fs::read_to_string(run.dir().join(SPEC)).context("read the lab's description")?;
        let spec: LabSpec = serde_json::from_str(&text).context("read the lab's description")?;
        let [lan, client, node1, node2] = ["lan", "client", "node1", "node2"].map(|role| run.open_namespace(role));
        let (lan, client, node1, node2) = (lan?, client?, node1?, node2?);
        let pods = numbered(&spec).map(|(pod, n)| Pod::start(pod, n, run.open_namespace(&pod.name)?));
        let pods = pods.collect::<anyhow::Result<_>>()?;
        let pass = spec.xdp.then(|| Pass::attach(&lan, &BEHIND_UPLINKS)).transpose()?;
        Ok(Self { client, node1, node2, lan, pods, spec, _pass: pass, run })
    }
}

/// Each pod with its number on its node, from 1.
fn numbered(spec: &LabSpec) -> impl Iterator<Item = (&PodSpec, u8)> {
    let mut counts = [0u8; 2];
    spec.pods.iter().map(move |pod| {
        let count = &mut counts[usize::from(pod.node == 2)];
        *count += 1;
        (pod, *count)
    })
}

fn build_client(client: &Namespace) -> anyhow::Result<()> {
    client.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
    client.sysctl("net/ipv4/ip_local_port_range", "10000 65535")?;
    client.net(async |net| {
        net.up(UPLINK).await?;
        net.address(UPLINK, addr::CLIENT_V4.into(), 24).await?;
        net.address(UPLINK, addr::CLIENT_V6.into(), 64).await?;
        for node in [1, 2] {
            let (v4, v6) = (addr::node_v4(node).into(), addr::node_v6(node).into());
            net.route(addr::pods_v4(node).into(), 24, UPLINK, Some(v4)).await?;
            net.route(addr::pods_v6(node).into(), 64, UPLINK, Some(v6)).await?;
        }
        for (vips, prefix) in addr::VIPS_V4 {
            net.route(vips.into(), prefix, UPLINK, Some(addr::node_v4(1).into())).await?;
        }
        let (vips, prefix) = addr::VIPS_V6;
        net.route(vips.into(), prefix, UPLINK, Some(addr::node_v6(1).into())).await
    })
}

fn build_node(space: &Namespace, node: u8) -> anyhow::Result<()> {
    space.sysctl("net/ipv4/ip_forward", "1")?;
    space.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    space.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    let other = 3 - node;
    space.net(async |net| {
        net.up(UPLINK).await?;
        net.address(UPLINK, addr::node_v4(node).into(), 24).await?;
        net.address(UPLINK, addr::node_v6(node).into(), 64).await?;
        net.route(addr::pods_v4(other).into(), 24, UPLINK, Some(addr::node_v4(other).into())).await?;
        net.route(addr::pods_v6(other).into(), 64, UPLINK, Some(addr::node_v6(other).into())).await
    })
}

fn build_pod(run: &Run, node: &Namespace, pod: &PodSpec, n: u8) -> anyhow::Result<Namespace> {
    let space = run.namespace(&pod.name)?;
    without_dad(&space)?;
    let host = format!("veth-{}", pod.name);
    let (v4, v6): (IpAddr, IpAddr) = (addr::pod_v4(pod.node, n).into(), addr::pod_v6(pod.node, n).into());
    let (gateway_v4, gateway_v6) = (addr::gateway_v4(pod.node).into(), addr::GATEWAY_V6.into());
    node.net(async |net| {
        net.veth(&host, None, UPLINK, &space).await?;
        net.address(&host, gateway_v4, 32).await?;
        net.address(&host, gateway_v6, 64).await?;
        net.route(v4, 32, &host, None).await?;
        net.route(v6, 128, &host, None).await
    })?;
    space.net(async |net| {
        net.up(UPLINK).await?;
        net.address(UPLINK, v4, 32).await?;
        net.address(UPLINK, v6, 128).await?;
        net.route(gateway_v4, 32, UPLINK, None).await?;
        net.route(ip("0.0.0.0"), 0, UPLINK, Some(gateway_v4)).await?;
        net.route(ip("::"), 0, UPLINK, Some(gateway_v6)).await
    })?;
    Ok(space)
}

/// IPv6 addresses are usable at once.
fn without_dad(space: &Namespace) -> anyhow::Result<()> {
    space.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
    space.sysctl("net/ipv6/conf/default/accept_dad", "0")
}
