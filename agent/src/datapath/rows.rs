//! Model -> rows of the maps: the only place where the model's types become those of the ABI.
//!
//! Rows say what must be in the maps, without ids and without places in the table array; [`super::plan`] gives those.
use std::{collections::BTreeMap, net::IpAddr};

use sluice_ebpf::{
    Addr, BACKEND_LOCAL, BACKEND_REMOTE, FRONTEND_AFFINITY, FRONTEND_DROP, FRONTEND_PROXY, FrontendKey, TCP, UDP,
    VIP_ECHO, VIP_REJECT, Vip,
};

use super::maglev::Place;
use crate::model::{Frontend, Locality, Model, Proto, Target, WhenEmpty};

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

/// The rows of a model.
#[must_use]
pub fn rows(model: &Model) -> Rows {
    let mut rows = Rows::default();
    for (frontend, target) in &model.frontends {
        let mut row = FrontendRow::default();
        match target {
            Target::Proxy { .. } => row.flags = FRONTEND_PROXY,
            Target::Endpoints(endpoints) => {
                if endpoints.affinity {
                    row.flags |= FRONTEND_AFFINITY;
                }
                if endpoints.when_empty == WhenEmpty::Drop {
                    row.flags |= FRONTEND_DROP;
                }
                for backend in endpoints.backends.iter().chain(&endpoints.draining) {
                    let flags = rows.backends.entry((addr(backend.addr), backend.port.get())).or_default();
                    *flags |= locality(backend.locality);
                }
                row.backends = endpoints.backends.iter().map(|b| (addr(b.addr), b.port.get())).collect();
                row.backends.sort_unstable();
                row.backends.dedup();
            }
        }
        let vip = rows.vips.entry(addr(frontend.vip)).or_default();
        vip.flags = VIP_ECHO | VIP_REJECT;
        vip.frontends += 1;
        rows.frontends.insert(frontend_key(frontend), row);
    }
    // Two slices may disagree on where an endpoint runs; then neither is believed and the route decides.
    for flags in rows.backends.values_mut().filter(|f| **f == BACKEND_LOCAL | BACKEND_REMOTE) {
        *flags = 0;
    }
    rows
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

fn locality(locality: Locality) -> u16 {
    match locality {
        Locality::Local => BACKEND_LOCAL,
        Locality::Remote => BACKEND_REMOTE,
        Locality::Unknown => 0,
    }
}
