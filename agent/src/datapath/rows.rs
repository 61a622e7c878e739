//! Rows of the maps, and how the model's types become those of the ABI.
//!
//! Rows say what must be in the maps, without ids and without places in the table array; [`super::plan`] gives those.
//! [`super::desired`] collects them from models.
use std::{collections::BTreeMap, net::IpAddr};

use sluice_ebpf::{Addr, FRONTEND_AFFINITY, FRONTEND_DROP, FRONTEND_PROXY, FrontendKey, TCP, UDP, Vip};

use super::maglev::Place;
use crate::model::{Backend, Frontend, Proto, Target, WhenEmpty};

/// What must be in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Every frontend.
    pub frontends: BTreeMap<FrontendKey, FrontendRow>,
    /// Every backend that a table names or that drains, with its flags.
    pub backends: BTreeMap<Place, u16>,
    /// Every owned VIP.
    pub vips: BTreeMap<Addr, Vip>,
}

/// One frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontendRow {
    /// `FRONTEND_*` bits.
    pub flags: u32,
    /// The backends in its table, sorted and distinct.
    pub backends: Vec<Place>,
}

impl FrontendRow {
    /// The row of a frontend with this target.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let endpoints = match target {
            Target::Proxy { .. } => return Self { flags: FRONTEND_PROXY, backends: Vec::new() },
            Target::Endpoints(endpoints) => endpoints,
        };
        let affinity = if endpoints.affinity { FRONTEND_AFFINITY } else { 0 };
        let drop = if endpoints.when_empty == WhenEmpty::Drop { FRONTEND_DROP } else { 0 };
        let mut backends: Vec<Place> = endpoints.backends.iter().map(place).collect();
        backends.sort_unstable();
        backends.dedup();
        Self { flags: affinity | drop, backends }
    }
}

/// A backend as the maps know it.
#[must_use]
pub fn place(backend: &Backend) -> Place {
    (addr(backend.addr), backend.port.get())
}

/// An address as the maps hold it: IPv4 becomes IPv4-mapped.
#[must_use]
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

/// The way back from [`addr`].
#[must_use]
pub fn ip(addr: Addr) -> IpAddr {
    IpAddr::from(addr.octets).to_canonical()
}

/// The key of a frontend.
#[must_use]
pub fn frontend_key(frontend: &Frontend) -> FrontendKey {
    FrontendKey {
        vip: addr(frontend.vip),
        port: frontend.port.get(),
        proto: match frontend.proto {
            Proto::Tcp => TCP,
            Proto::Udp => UDP,
        },
        family: if frontend.vip.is_ipv4() { 4 } else { 6 },
    }
}
