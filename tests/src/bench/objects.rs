//! The objects that are loaded: many small Services, as a big cluster has them.
use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::netns::{
    Agent,
    manifest::{Service, Slice},
};

/// Where the addresses come from: 131,072 of them, reserved for benchmarks (RFC 2544).
pub(super) const POOL: &str = "198.18.0.0/15";
/// The first VIP: past the network's own.
const FIRST_VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
/// The first endpoint.
const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// Addresses set aside for the endpoints of one Service: three in use, the fourth to change to.
const STRIDE: u32 = 4;
/// The port of every Service, and of its endpoints.
const PORTS: (u16, u16) = (80, 8080);

/// All Services and which endpoints each has now.
pub(super) struct Fleet {
    /// Per Service, which of its [`STRIDE`] addresses are in use.
    in_use: Vec<[u32; 3]>,
}

/// A file that is written and not yet published.
pub(super) struct Change {
    new: PathBuf,
    path: PathBuf,
}

impl Change {
    /// Renames it into place.
    pub(super) fn publish(self) -> anyhow::Result<()> {
        fs::rename(&self.new, &self.path).with_context(|| format!("rename to {}", self.path.display()))
    }
}

impl Fleet {
    /// Writes all manifests of an agent that does not run yet.
    pub(super) fn write(agent: &Agent, services: usize) -> anyhow::Result<Self> {
        let fleet = Self { in_use: vec![[0, 1, 2]; services] };
        for service in 0..services {
            let object = Service::new(&name(service)).port("http", "TCP", PORTS.0, PORTS.1);
            let object = object.address(&fleet.vip(service).ip().to_string());
            agent.write(&format!("{}-service.yaml", name(service)), &[object.json()])?;
            fleet.slice_file(agent, service)?.publish()?;
        }
        Ok(fleet)
    }

    /// What a client of a Service dials.
    pub(super) fn vip(&self, service: usize) -> SocketAddr {
        (Ipv4Addr::from_bits(FIRST_VIP.to_bits() + service as u32), PORTS.0).into()
    }

    /// Where it leads now.
    pub(super) fn endpoints(&self, service: usize) -> BTreeSet<SocketAddr> {
        self.in_use[service].iter().map(|n| (address(service, *n), PORTS.1).into()).collect()
    }

    /// Replaces one endpoint of a Service by the address that is free, in a file to be published.
    pub(super) fn replace_one(&mut self, agent: &Agent, service: usize) -> anyhow::Result<Change> {
        let used = &mut self.in_use[service];
        let free = (0..STRIDE).find(|n| !used.contains(n)).context("no free address")?;
        // Another one each time: the place of the address that is free now.
        used[free as usize % used.len()] = free;
        self.slice_file(agent, service)
    }

    fn slice_file(&self, agent: &Agent, service: usize) -> anyhow::Result<Change> {
        let slice = Slice::new(&name(service), "ipv4").port("http", "TCP", PORTS.1);
        let slice = self.in_use[service].iter().fold(slice, |slice, n| slice.endpoint(endpoint(service, *n)));
        let (dir, file) = (agent.manifests(), format!("{}-slice.yaml", name(service)));
        let new = dir.join(format!(".{file}.new"));
        fs::write(&new, format!("{:#}\n", slice.json())).with_context(|| format!("write {}", new.display()))?;
        Ok(Change { new, path: dir.join(file) })
    }
}

fn name(service: usize) -> String {
    format!("shop-{service:05}")
}

fn address(service: usize, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_ENDPOINT.to_bits() + service as u32 * STRIDE + n)
}

fn endpoint(service: usize, n: u32) -> Value {
    json!({
        "addresses": [address(service, n)], "nodeName": format!("node{}", 1 + n % 2),
        "conditions": {"ready": true, "serving": true, "terminating": false}
    })
}
