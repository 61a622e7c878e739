//! Rows of the maps, and how the model's types become those of the ABI.
//!
//! Rows say what must be in the maps, without ids and without places in the table array; [`super::plan`] gives those.
//! [`super::desired`] collects them from models.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use sluice_ebpf::{
    Addr, BACKEND_LOCAL, BACKEND_REMOTE, FRONTEND_AFFINITY, FRONTEND_DROP, FRONTEND_PROXY, FRONTEND_SOURCES,
    FrontendKey, SOURCE_BITS, Source, TCP, UDP, Vip,
};

use super::rendezvous::{self, Place, Share, Split};
use crate::model::{Age, Backend, EndpointShare, Frontend, Locality, Proto, Ranges, Target, WhenEmpty};

/// What must be in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Every frontend.
    pub frontends: BTreeMap<FrontendKey, FrontendRow>,
    /// Every backend that a table names or that drains.
    pub backends: BTreeSet<BackendRow>,
    /// Every owned VIP.
    pub vips: BTreeMap<Addr, Vip>,
}

/// One backend: where it is, and where it runs as its frontend's slices say.
///
/// # Design
/// What slices say of an address counts for the frontends of their own Service alone: whoever says something else of it has
/// another row. So nobody decides how another's flows are forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendRow {
    /// Its address and port.
    pub place: Place,
    /// `BACKEND_*` bits.
    pub flags: u16,
}

impl BackendRow {
    /// The row of a backend.
    #[must_use]
    pub fn new(backend: &Backend) -> Self {
        let flags = match backend.locality {
            Locality::Local => BACKEND_LOCAL,
            Locality::Remote => BACKEND_REMOTE,
            Locality::Unknown => 0,
        };
        Self { place: place(backend), flags }
    }
}

/// One frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontendRow {
    /// `FRONTEND_*` bits.
    pub flags: u32,
    /// The backends in its table, sorted, of distinct places.
    pub backends: Vec<BackendRow>,
    /// How flows are split over them.
    pub split: Split,
    /// From where clients may come; `None`: from everywhere.
    pub sources: Option<Ranges>,
    /// The size of its table while it has a backend: what the model says, whichever backends this node leaves out.
    pub slots: u32,
    /// Who comes first where not all fit; says nothing about flows.
    pub age: Age,
}

impl FrontendRow {
    /// The row of a frontend with this target.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let sources = target.sources().cloned();
        let limited = if sources.is_some() { FRONTEND_SOURCES } else { 0 };
        let endpoints = match target {
            Target::Proxy { .. } => {
                return Self { flags: FRONTEND_PROXY | limited, sources, age: target.age(), ..Self::default() };
            }
            Target::Endpoints(endpoints) => endpoints,
        };
        let affinity = if endpoints.affinity { FRONTEND_AFFINITY } else { 0 };
        let drop = if endpoints.when_empty == WhenEmpty::Drop { FRONTEND_DROP } else { 0 };
        let mut backends: Vec<BackendRow> = endpoints.backends().map(BackendRow::new).collect();
        backends.sort_unstable();
        backends.dedup_by_key(|row| row.place);
        let split = match &endpoints.shares[..] {
            [_] if endpoints.refused == 0 => Split::Equal,
            shares => {
                // References without a name are one share, whatever they are.
                let refused = Share { seed: 0, weight: endpoints.refused, members: Vec::new() };
                Split::of(shares.iter().map(share).chain([refused]))
            }
        };
        let slots = rendezvous::slots(split.sized_for(backends.len()));
        Self { flags: affinity | drop | limited, backends, split, sources, slots, age: target.age() }
    }

    /// The size of its table; 0 without a backend.
    #[must_use]
    pub fn table_slots(&self) -> u32 {
        if self.backends.is_empty() { 0 } else { self.slots }
    }

    /// Whether flows are treated alike.
    #[must_use]
    pub fn says_what(&self, other: &Self) -> bool {
        let Self { flags, backends, split, sources, slots: _, age: _ } = self;
        *flags == other.flags
            && *backends == other.backends
            && *split == other.split
            && *sources == other.sources
            && self.table_slots() == other.table_slots()
    }

    /// Leaves backends out that cannot be had.
    pub fn retain(&mut self, is_there: impl Fn(&BackendRow) -> bool) {
        let before = self.backends.len();
        self.backends.retain(is_there);
        if self.backends.len() < before {
            let Self { backends, split, .. } = self;
            split.retain(|place| backends.binary_search_by_key(place, |row| row.place).is_ok());
        }
    }
}

fn share(share: &EndpointShare) -> Share {
    let EndpointShare { weight, service, port, port_name: _, backends, draining: _ } = share;
    let seed = Share::seed(&service.ns, &service.name, port.get());
    Share { seed, weight: *weight, members: backends.iter().map(place).collect() }
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

/// The key in the trie of a range in the list with this id.
#[must_use]
pub fn source_key(list: u32, range: &IpNet) -> Key<Source> {
    let bits = u32::from(range.prefix_len()) + if range.network().is_ipv4() { 96 } else { 0 };
    Key::new(SOURCE_BITS + bits, Source { list: list.to_be_bytes(), addr: addr(range.network()) })
}

/// The way back from [`source_key`]; `None` for what it does not make.
#[must_use]
pub fn source(key: &Key<Source>) -> Option<(u32, IpNet)> {
    let (Source { list, addr }, bits) = (key.data(), key.prefix_len().checked_sub(SOURCE_BITS)?);
    let bits = if ip(addr).is_ipv4() { bits.checked_sub(96)? } else { bits };
    Some((u32::from_be_bytes(list), IpNet::new(ip(addr), u8::try_from(bits).ok()?).ok()?))
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
