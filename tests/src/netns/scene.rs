//! What most tests begin with: a lab, an agent, and the Service `web` on both families, TCP and UDP.
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;

use super::{
    Agent, AgentSpec, Datapath, Lab, LabSpec, Maps, eventually,
    manifest::{Service, Slice},
    pod::{HTTP_PORT, TCP_PORT},
};

/// How long a change may take to be in the maps.
pub const APPLIED: Duration = Duration::from_secs(5);
/// The IPv4 address of `web`.
pub const WEB_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// The IPv6 address of `web`.
pub const WEB_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 7);
/// The port of `web`, TCP: the pods' identity server.
pub const TCP: u16 = 80;
/// The port of `web`, UDP: the pods' identity server.
pub const UDP: u16 = 53;
/// The address of the Gateway `front`.
pub const FRONT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);

/// A lab with an agent. The agent ends before the lab goes.
pub struct Scene {
    /// The agent.
    pub agent: Agent,
    /// The lab.
    pub lab: Lab,
    /// The pinned maps.
    pub maps: Maps,
}

impl Scene {
    /// Builds a lab with so many pods on node1 (`a1`..) and node2 (`b1`..), and starts an agent without manifests.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn empty(datapath: Datapath, local: u8, remote: u8) -> Self {
        Self::with(AgentSpec::new(datapath), local, remote)
    }

    /// The same, with the agent run in another way.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn with(spec: AgentSpec, local: u8, remote: u8) -> Self {
        let lab = Lab::build(&LabSpec::test(local, remote).xdp(spec.datapath == Datapath::Xdp)).expect("a lab");
        Self::on(lab, spec)
    }

    /// Starts an agent without manifests in a lab.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn on(lab: Lab, spec: AgentSpec) -> Self {
        let agent = Agent::start(&lab, spec).expect("an agent");
        Self::around(lab, agent)
    }

    /// With an agent that runs already.
    ///
    /// # Panics
    /// If it has no maps.
    #[must_use]
    pub fn around(lab: Lab, agent: Agent) -> Self {
        let maps = Maps::open(agent.bpf_dir()).expect("pinned maps");
        Self { agent, lab, maps }
    }

    /// The same, with `web` leading to all pods.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn web(datapath: Datapath, local: u8, remote: u8) -> Self {
        let scene = Self::empty(datapath, local, remote);
        scene.agent.write("web.yaml", &[web().json()]).expect("a manifest");
        let names: Vec<String> = scene.lab.pods.iter().map(|p| p.name.clone()).collect();
        scene.endpoints(&names.iter().map(String::as_str).collect::<Vec<_>>());
        scene
    }

    /// Makes these pods the endpoints of `web` and waits until the maps have them.
    ///
    /// # Panics
    /// If the maps do not come to have them.
    pub fn endpoints(&self, pods: &[&str]) {
        self.publish(pods);
        self.until_reach((WEB_V4, TCP).into(), pods, TCP_PORT);
        self.until_reach((WEB_V6, TCP).into(), pods, TCP_PORT);
    }

    /// Makes these pods the endpoints of `web` and does not wait.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn publish(&self, pods: &[&str]) {
        let pods = self.lab.select(pods);
        let [v4, v6] = [Slice::new("web", "v4"), Slice::v6("web", "v6")].map(|slice| {
            let slice = slice.port("tcp", "TCP", TCP_PORT).port("udp", "UDP", TCP_PORT);
            slice.pods(pods.iter().copied()).json()
        });
        self.agent.write("web-endpoints.yaml", &[v4, v6]).expect("a manifest");
    }

    /// Writes objects and does not wait.
    ///
    /// # Panics
    /// If the file cannot be written.
    pub fn write(&self, file: &str, objects: &[Value]) {
        self.agent.write(file, objects).expect("a manifest");
    }

    /// Waits until the maps lead `vip:port/TCP` to exactly these pods, at this port of theirs.
    ///
    /// # Panics
    /// If they do not.
    pub fn until_reach(&self, frontend: SocketAddr, pods: &[&str], port: u16) {
        let at = |name: &&str| SocketAddr::from((self.lab.pod(name).ip(frontend.is_ipv6()), port));
        let wanted: BTreeSet<SocketAddr> = pods.iter().map(at).collect();
        eventually(&format!("{frontend} leads to {pods:?}"), APPLIED, || match self.maps.reach(frontend) {
            Ok(Some(found)) if found == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Waits until there is no frontend `vip:port/TCP`.
    ///
    /// # Panics
    /// If there still is.
    pub fn until_gone(&self, frontend: SocketAddr) {
        eventually(&format!("{frontend} is gone"), APPLIED, || match self.maps.reach(frontend) {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Waits until `sluice services` shows a state for an object, `default/web`; returns what it shows.
    ///
    /// # Panics
    /// If it does not.
    pub fn until_state(&self, name: &str, reason: &str) -> Value {
        eventually(&format!("{name} is {reason}"), APPLIED, || {
            let all = self.agent.show_json(&["services"])?;
            let found = all.as_array().into_iter().flatten().find(|s| s["name"] == name).cloned();
            match found {
                Some(service) if service["reason"] == reason => Ok(service),
                other => anyhow::bail!("{}", other.unwrap_or(all)),
            }
        })
    }

    /// The addresses of `web`, with a port.
    #[must_use]
    pub fn both(port: u16) -> [SocketAddr; 2] {
        [(IpAddr::from(WEB_V4), port).into(), (IpAddr::from(WEB_V6), port).into()]
    }
}

/// The Service `web`: both families, TCP and UDP.
#[must_use]
pub fn web() -> Service {
    let addresses = format!("{WEB_V4},{WEB_V6}");
    let service = Service::new("web").dual().annotation("sluice.dev/addresses", &addresses);
    service.port("tcp", "TCP", TCP, TCP_PORT).port("udp", "UDP", UDP, TCP_PORT)
}

/// A Service that names backends for routes, and its slice: these pods' HTTP servers.
#[must_use]
pub fn versions(lab: &Lab, name: &str, pods: &[&str]) -> [Value; 2] {
    let slice = Slice::new(name, "v4").port("http", "TCP", HTTP_PORT).pods(lab.select(pods));
    [super::manifest::cluster_service(name), slice.json()]
}
