//! A pod: a namespace behind a veth pair, with servers that say who they are.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    addr,
    lab::PodSpec,
    namespace::{Namespace, Task},
    serve::{self, Identity},
};

/// Where the pod's TCP identity server listens; see [`serve::tcp`].
pub const TCP_PORT: u16 = 7000;
/// A second port of the same server: for changes of `targetPort`.
pub const OTHER_TCP_PORT: u16 = 7001;
/// Where the pod's UDP identity server listens; see [`serve::udp`].
pub const UDP_PORT: u16 = 7000;
/// Where the pod's HTTP server listens; see [`serve::http`].
pub const HTTP_PORT: u16 = 8080;

/// A pod, serving unless it was killed.
#[derive(Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// What it says its version is.
    pub version: String,
    /// The node that it runs on: 1 or 2.
    pub node: u8,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    servers: Option<Task>,
    space: Namespace,
}

impl Pod {
    /// Starts the servers of a node's `n`-th pod in its namespace.
    ///
    /// # Errors
    /// A port is taken.
    pub fn start(spec: &PodSpec, n: u8, space: Namespace) -> anyhow::Result<Self> {
        let (v4, v6) = (addr::pod_v4(spec.node, n), addr::pod_v6(spec.node, n));
        let PodSpec { name, version, node } = spec.clone();
        let mut pod = Self { name, version, node, v4, v6, servers: None, space };
        pod.revive()?;
        Ok(pod)
    }

    /// The node's name as slices have it.
    #[must_use]
    pub fn node_name(&self) -> String {
        format!("node{}", self.node)
    }

    /// Its address of the family that a VIP has.
    #[must_use]
    pub fn ip(&self, v6: bool) -> IpAddr {
        if v6 { self.v6.into() } else { self.v4.into() }
    }

    /// Its namespace.
    #[must_use]
    pub fn space(&self) -> &Namespace {
        &self.space
    }

    /// Kills the servers: their sockets close as those of a killed process do, the address stays.
    pub fn kill(&mut self) {
        self.servers = None;
    }

    /// Starts the servers again.
    ///
    /// # Errors
    /// A port is taken.
    pub fn revive(&mut self) -> anyhow::Result<()> {
        self.servers = None;
        let identity = Identity { pod: self.name.clone(), version: self.version.clone() };
        self.servers = Some(serve::start(&self.space, identity)?);
        Ok(())
    }
}
