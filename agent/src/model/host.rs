//! This host, as far as the model must know it: its addresses, and the ports that it needs for itself there.
//!
//! In: what the agent finds on the host and was told by flags. Out: [`super::pool::Pools::reserves`], which is asked whenever a
//! frontend is made, for Services and Gateways alike. Invariant: a reserved port is never programmed on an address that is a
//! host's, whatever the object had before.
//!
//! # Design
//! The check belongs where frontends are made. At the allocation alone it is passed by whoever gets an address with one port
//! and adds another port later.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use super::{Frontend, Port};
use crate::api::address_pool::RESERVED_PORTS;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The addresses of its uplinks.
    pub addresses: BTreeSet<IpAddr>,
    /// The ports that this process listens at, with what for. No list of a pool opens them.
    pub own_ports: BTreeMap<Port, &'static str>,
    /// `--snat-ports`: replies to forwarded flows come to them. No list of a pool opens them.
    pub snat_ports: Option<RangeInclusive<u16>>,
    /// Frontends at which a process of this host listens as well.
    pub listening: BTreeSet<Frontend>,
}

impl Host {
    /// Why no list of a pool opens a port, as in "port 9640 is ...".
    pub(super) fn needs(&self, port: Port) -> Option<String> {
        if let Some(what) = self.own_ports.get(&port) {
            return Some(format!("reserved on addresses of hosts for {what}"));
        }
        let range = self.snat_ports.as_ref().filter(|range| range.contains(&port.get()))?;
        Some(format!("one of --snat-ports {}-{}, reserved on addresses of hosts", range.start(), range.end()))
    }

    /// Says it of a frontend at which a process of this host listens as well.
    pub(super) fn warning(&self, frontend: &Frontend) -> Option<String> {
        let is_shadowed = self.listening.contains(frontend);
        is_shadowed.then(|| {
            format!("a process of this host listens at {frontend} too: clients on the network do not reach it")
        })
    }
}

/// Why a port is reserved where no pool says anything else, as in "port 22 is ...".
pub(super) fn reserved_by_default(port: Port) -> Option<String> {
    let (_, what) = RESERVED_PORTS.iter().find(|(reserved, _)| *reserved == port.get())?;
    Some(format!("reserved on addresses of hosts for {what}"))
}
