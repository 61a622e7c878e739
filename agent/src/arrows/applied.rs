//! datapath -> membership, status, admin: what is really programmed.
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::Serialize;

use sluice_ebpf::map;

use super::{Capacity, Census};
use crate::mac::Mac;

/// From this part of a map's entries on people are told, in percent: while there is time to do something about it.
const NEARLY_FULL: u64 = 90;

/// What is in the kernel now.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The revision of the model that is programmed; 0 before the first.
    pub rev: u64,
    /// How long the last change took, from the model to the last write.
    pub took: Duration,
    /// Writes that the last change took.
    pub ops: usize,
    /// Frontends in the maps.
    pub frontends: usize,
    /// Backends in the maps, with those that are about to be removed.
    pub backends: usize,
    /// Chunks of lookup table in use.
    pub table_chunks: u32,
    /// Ranges in use that clients must come from.
    pub sources: usize,
    /// The interfaces that were asked for, and what became of each.
    pub uplinks: Vec<UplinkStatus>,
    /// The interfaces besides by which endpoints are reached, or replies return to clients.
    pub sides: Vec<SideStatus>,
    /// Why pods behind some interfaces dial Services past their routes, a sentence for each.
    pub guests: Vec<String>,
    /// Endpoints that this node cannot reach and leaves out of its tables, each with the reason.
    pub left_out: BTreeMap<IpAddr, String>,
    /// The objects that they are endpoints of, `Service default/web`, each with a sentence about the first of them.
    pub lacking: BTreeMap<String, String>,
    /// What could not be programmed, and why.
    pub faults: Vec<String>,
    /// The objects that lack a frontend in the maps, `Service default/web`, each with the reason of the first: which map is full, what
    /// was found and what was wanted, or what the kernel said.
    pub unprogrammed: BTreeMap<String, String>,
    /// Frontends that found no place, by the map that is full.
    pub refused: BTreeMap<&'static str, usize>,
    /// How much the maps hold.
    #[serde(skip)]
    pub capacity: Capacity,
    /// Settings of this host that keep flows from being forwarded.
    pub host: Vec<String>,
    /// VIPs that something has bound to an interface of this host, each with that interface.
    pub bound: BTreeMap<IpAddr, Bound>,
    /// The Ethernet addresses of the uplinks, by which the other nodes know this one.
    #[serde(skip)]
    pub macs: Vec<Mac>,
    /// VIPs that another host has: they are not announced.
    pub conflicts: BTreeMap<IpAddr, Holder>,
    /// The objects with a VIP that is not announced yet, or that another host has, `Service default/web`.
    pub unannounced: Vec<String>,
    /// Announcements of VIPs sent since the start.
    pub announcements: u64,
    /// The flows that the last walk has found.
    pub census: Census,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// How XDP is attached; `None`: TC alone.
    pub xdp: Option<XdpKind>,
    /// Whether the TC programs are attached.
    pub tc: bool,
    /// The source of flows to other nodes.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
    /// What is wrong, or why XDP is not used.
    pub note: Option<String>,
}

/// How XDP is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum XdpKind {
    /// In the driver.
    Native,
    /// On the socket buffer: works everywhere, saves little.
    Generic,
}

/// What became of a side interface: one by which endpoints are reached, or replies return.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SideStatus {
    /// Its name.
    pub name: String,
    /// Why the programs are not there; `None` where they are.
    pub fault: Option<String>,
}

/// Another host that has a VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its Ethernet address.
    pub mac: String,
}

impl Holder {
    /// A sentence for people, behind the address.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("another host ({}) has the address: it is not announced; want an address that nobody has", self.mac)
    }
}

/// Where a VIP is bound that this host should not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bound {
    /// The interface.
    pub interface: String,
    /// It is an uplink: the host answers for the address by itself, on every node where it is so.
    pub on_uplink: bool,
}

impl Bound {
    /// A sentence for people, without the address.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { interface, on_uplink } = self;
        if *on_uplink {
            format!(
                "something has bound it to the uplink {interface}: the host answers for it there, whichever node announces \
                 it; want it removed from the interface"
            )
        } else {
            format!("something has bound it to {interface}; Sluice answers for it all the same, and the host does not")
        }
    }
}

/// How full a map is. (What packets can fill is LRU, and of those conntrack is meant to be full.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupancy {
    /// The map.
    pub map: &'static str,
    /// Entries in use.
    pub used: u64,
    /// The most there can be.
    pub capacity: u32,
}

impl Occupancy {
    /// Whether people are to be told.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.used * 100 >= u64::from(self.capacity) * NEARLY_FULL
    }
}

impl fmt::Display for Occupancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} of {} entries are in use", self.map, self.used, self.capacity)
    }
}

impl Applied {
    /// How full the maps are that objects fill.
    #[must_use]
    pub fn occupancy(&self) -> [Occupancy; 4] {
        [
            Occupancy { map: map::FRONTENDS, used: self.frontends as u64, capacity: self.capacity.frontends },
            Occupancy { map: map::BACKENDS, used: self.backends as u64, capacity: self.capacity.backends },
            Occupancy { map: map::TABLES, used: self.table_chunks.into(), capacity: self.capacity.chunks },
            Occupancy { map: map::SOURCES, used: self.sources as u64, capacity: self.capacity.sources },
        ]
    }

    /// The maps that are nearly full.
    pub fn nearly_full(&self) -> impl Iterator<Item = Occupancy> {
        self.occupancy().into_iter().filter(Occupancy::is_nearly_full)
    }

    /// Why the node is not ready to forward; `None` when it is.
    #[must_use]
    pub fn blocker(&self) -> Option<String> {
        if self.rev == 0 {
            return Some("datapath: no model is programmed yet".to_owned());
        }
        let detached = self.uplinks.iter().find(|u| !u.tc);
        if let Some(uplink) = detached {
            let why = uplink.note.as_deref().unwrap_or("not attached yet");
            return Some(format!("datapath: interface {}: {why}", uplink.name));
        }
        self.uplinks.is_empty().then(|| "datapath: no interface to attach to".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s149_from_nine_tenths_on_a_map_is_nearly_full() {
        let of = |frontends| Applied { frontends, ..Applied::default() };
        assert_eq!(of(58_982).nearly_full().count(), 0);
        let told: Vec<String> = of(58_983).nearly_full().map(|o| o.to_string()).collect();
        assert_eq!(told, ["FRONTENDS: 58983 of 65536 entries are in use"]);
    }
}
