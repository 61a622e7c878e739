//! The ClusterIPs that the proxy serves to pods of this node: the rows of the map `MESH`, and the programs where pods enter the host.
//!
//! In: what is served where ([`HttpModel::mesh`](crate::model::http::HttpModel::mesh)), and the host's interfaces. Out: rows and links.
//! Invariant: a ClusterIP is led to the proxy only where the proxy's answers are led back; a row that is dialled comes last and goes
//! first.
//!
//! # Design
//! - The links are not pinned: they end with the process, as the proxy does, and what pods dial from then on is kube-proxy's.
//! - Without a row there is no link: where no route has a Service as its parent, packets of pods pass no program of ours.
//! - A pod's interface is a veth or netkit whose other end is in another network namespace, and neither an uplink nor a port of one:
//!   who is on the clients' own network is no guest here. One that comes costs two links, whatever else there is.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use aya::{
    maps::{HashMap, MapData},
    programs::links::FdLink,
};
use sluice_ebpf::{Addr, MAX_MESH, MESH_DIALLED, MESH_SERVED, MeshKey, map};

use super::{
    load::Programs,
    maps::{TableError, fault, open},
    rows::addr,
};
use crate::host::network::{Head, Link};

/// What is served at each address of the host: a ClusterIP.
type Served = BTreeMap<SocketAddr, SocketAddr>;

/// See the module.
pub(super) struct Mesh {
    rows: HashMap<MapData, MeshKey, Addr>,
    written: BTreeMap<MeshKey, Addr>,
    /// By the interface's index: its name, and its links or why there are none.
    guests: BTreeMap<u32, (String, Result<[FdLink; 2], String>)>,
    /// The uplinks, by their indices.
    uplinks: BTreeSet<u32>,
}

impl Mesh {
    /// Opens the map and reads what an earlier run has left in it.
    ///
    /// # Errors
    /// The pin is missing or of another kind, or the map cannot be read.
    pub(super) fn open(dir: &Path) -> Result<Self, TableError> {
        let rows: HashMap<MapData, MeshKey, Addr> = open(dir, map::MESH)?;
        let written = rows.iter().collect::<Result<_, _>>().map_err(|e| fault(map::MESH, e))?;
        Ok(Self { rows, written, guests: BTreeMap::new(), uplinks: BTreeSet::new() })
    }

    /// The addresses of the host at which something is served: as many as there is room for.
    pub(super) fn addresses(served: &Served) -> impl Iterator<Item = IpAddr> {
        served.keys().take(MAX_MESH as usize / 2).map(SocketAddr::ip)
    }

    /// Whether the rows are not those of what is served.
    pub(super) fn differs(&self, served: &Served) -> bool {
        wanted(served) != self.written
    }

    /// Removes the rows of what is not served any more.
    ///
    /// # Errors
    /// A removal fails; the next call tries again.
    pub(super) fn remove_others(&mut self, served: &Served) -> Result<(), TableError> {
        let wanted = wanted(served);
        let gone: Vec<MeshKey> = self.written.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        for key in in_order(gone, [MESH_DIALLED, MESH_SERVED]) {
            self.rows.remove(&key).map_err(|e| fault(map::MESH, e))?;
            self.written.remove(&key);
        }
        if self.written.is_empty() {
            self.guests.clear();
        }
        Ok(())
    }

    /// Writes the rows of what is served; the local routes and the proxy must know of it.
    ///
    /// # Errors
    /// A write fails; the next call tries again. Or there is no room for all.
    pub(super) fn add(&mut self, served: &Served) -> Result<(), TableError> {
        let wanted = wanted(served);
        let new: Vec<MeshKey> =
            wanted.iter().filter(|(k, v)| self.written.get(k) != Some(v)).map(|(k, _)| *k).collect();
        for key in in_order(new, [MESH_SERVED, MESH_DIALLED]) {
            self.rows.insert(key, wanted[&key], 0).map_err(|e| fault(map::MESH, e))?;
            self.written.insert(key, wanted[&key]);
        }
        match served.len().checked_sub(MAX_MESH as usize / 2) {
            None | Some(0) => Ok(()),
            Some(n) => {
                let reason = format!("{n} ClusterIPs and ports find no room among {MAX_MESH}, and stay kube-proxy's");
                Err(TableError { map: map::MESH, reason })
            }
        }
    }

    /// Whether no interface needs a program.
    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Attaches to the interfaces of pods among these, all that there are, and forgets those that are gone.
    pub(super) fn follow<'a>(
        &mut self,
        programs: &mut Programs,
        links: impl Iterator<Item = &'a Link> + Clone,
        is_uplink: impl Fn(&str) -> bool,
    ) {
        self.uplinks = links.clone().filter(|link| is_uplink(&link.name)).map(|link| link.index).collect();
        let mut present = BTreeSet::new();
        for link in links.filter(|link| is_of_pod(link, &self.uplinks)).collect::<Vec<_>>() {
            present.insert(link.index);
            self.attach(programs, link);
        }
        self.guests.retain(|index, _| present.contains(index));
    }

    /// Attaches to an interface, where it is a pod's.
    pub(super) fn follow_one(&mut self, programs: &mut Programs, link: &Link) {
        if is_of_pod(link, &self.uplinks) {
            self.attach(programs, link);
        }
    }

    fn attach(&mut self, programs: &mut Programs, link: &Link) {
        let known = self.guests.get(&link.index);
        if self.written.is_empty() || known.is_some_and(|(_, links)| links.is_ok()) {
            return;
        }
        let made = programs.attach_guest(link).map_err(|e| e.to_string());
        match &made {
            Ok(_) => tracing::debug!(iface = %link.name, "attached to a pod's interface"),
            Err(reason) if known.is_some_and(|(_, links)| links.as_ref().err() == Some(reason)) => {}
            Err(reason) => {
                tracing::warn!(iface = %link.name, reason, "a pod is not led to the routes of the Services that it dials");
            }
        }
        self.guests.insert(link.index, (link.name.clone(), made));
    }

    /// Sentences about interfaces whose pods reach no route of a Service.
    pub(super) fn faults(&self) -> Vec<String> {
        let fault = |(name, links): &(String, Result<_, String>)| {
            let reason = links.as_ref().err()?;
            Some(format!("pods behind {name} dial Services past their routes: {reason}"))
        };
        self.guests.values().filter_map(fault).collect()
    }
}

/// Whether a pod's packets come by it, with an Ethernet header, and not from the network of the clients.
fn is_of_pod(link: &Link, uplinks: &BTreeSet<u32>) -> bool {
    let is_inside = !uplinks.contains(&link.index) && link.master.is_none_or(|master| !uplinks.contains(&master));
    link.guest && link.up && link.head == Head::Ethernet && is_inside
}

/// The rows of what is served.
fn wanted(served: &Served) -> BTreeMap<MeshKey, Addr> {
    let row = |at: SocketAddr, side, other: SocketAddr| {
        (MeshKey { addr: addr(at.ip()), port: at.port(), side }, addr(other.ip()))
    };
    let room = served.iter().take(MAX_MESH as usize / 2);
    room.flat_map(|(at, dialled)| [row(*at, MESH_SERVED, *dialled), row(*dialled, MESH_DIALLED, *at)]).collect()
}

/// Keys by their side.
fn in_order(mut keys: Vec<MeshKey>, sides: [u16; 2]) -> Vec<MeshKey> {
    keys.sort_by_key(|key| sides.iter().position(|side| *side == key.side));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_leads_to_the_other_and_what_pods_dial_comes_last() {
        let served = Served::from([("250.96.0.10:80".parse().unwrap(), "10.96.0.10:80".parse().unwrap())]);
        let rows = wanted(&served);
        let key = |ip: &str, side| MeshKey { addr: addr(ip.parse().unwrap()), port: 80, side };
        let (dialled, at) = (key("10.96.0.10", MESH_DIALLED), key("250.96.0.10", MESH_SERVED));
        assert_eq!(rows, BTreeMap::from([(dialled, at.addr), (at, dialled.addr)]));
        let keys: Vec<MeshKey> = rows.keys().copied().collect();
        assert_eq!(in_order(keys.clone(), [MESH_SERVED, MESH_DIALLED]), [at, dialled]);
        assert_eq!(in_order(keys, [MESH_DIALLED, MESH_SERVED]), [dialled, at]);
    }

    #[test]
    fn a_pods_interface_leads_into_another_namespace_and_is_no_part_of_an_uplink() {
        let link = |guest, up, head, master| Link {
            index: 7,
            name: "veth7".to_owned(),
            veth: true,
            guest,
            master,
            bridge: false,
            head,
            up,
            mac: None,
            carrier: None,
            addresses: BTreeSet::new(),
            usable: Vec::new(),
        };
        let uplinks = BTreeSet::from([2]);
        for (link, expected) in [
            (link(true, true, Head::Ethernet, None), true),
            (link(true, true, Head::Ethernet, Some(3)), true),
            (link(true, true, Head::Ethernet, Some(2)), false),
            (link(false, true, Head::Ethernet, None), false),
            (link(true, false, Head::Ethernet, None), false),
            (link(true, true, Head::Bare, None), false),
        ] {
            assert_eq!(is_of_pod(&link, &uplinks), expected, "{link:?}");
        }
        assert!(!is_of_pod(&link(true, true, Head::Ethernet, None), &BTreeSet::from([7])), "an uplink itself");
    }

    #[test]
    fn what_finds_no_room_is_not_led_anywhere() {
        let at = |n: u32, first: u8| SocketAddr::new(std::net::Ipv4Addr::from(n | u32::from(first) << 24).into(), 80);
        let served: Served = (0..MAX_MESH).map(|n| (at(n, 250), at(n, 10))).collect();
        assert_eq!(wanted(&served).len(), MAX_MESH as usize);
        assert_eq!(Mesh::addresses(&served).count(), MAX_MESH as usize / 2);
    }
}
