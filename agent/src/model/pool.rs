//! The pools that addresses are given from: AddressPools and the flags `--pool`, understood and in the order of trial.
//!
//! In: the snapshot's pools, namespaces and nodes, and the flags. Out: [`Pools`], which `ipam` gives from and [`status`]
//! counts.
//!
//! # Design
//! - Order of trial: the higher priority first, then the lesser name; the flags come last, in their order. Where pools
//!   overlap, the one that is tried first gives the address; both say so.
//! - An entry that cannot be given from (nonsense, reserved, the addresses of pods, nodes or Services) is refused by
//!   name; the others of the pool work. What was given from it before stays where it is.
//! - Selectors decide who gets new addresses. What somebody has is not taken away because labels change.
mod range;
mod read;
mod status;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

pub use range::Range;
use range::{Avoid, RESERVED};
pub(super) use read::node_addr;
use read::{Taken, node_addrs};
pub use status::pool_status;

use super::{
    Node, ObjectRef, Outcome, Port, Verdict,
    endpoints::Family,
    host::{self, Host},
};
use crate::{
    api::{LabelSelector, ObjectName, address_pool::Announce},
    source::Snapshot,
};

/// The label that every namespace has: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What is wrong with the flags: ranges that no VIP may come from, which are not used, and overlaps, where the pool
/// named first gives the addresses.
#[must_use]
pub fn check_pools(pools: &[IpNet]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, pool) in pools.iter().enumerate() {
        let range = Range::of(pool, Avoid::Ends);
        if let Some(reserved) = RESERVED.iter().find(|r| range.overlaps_net(r)) {
            found.push(format!("pool {pool} is not used: {}", is_reserved(reserved)));
            continue;
        }
        for earlier in pools.iter().take(index).filter(|earlier| range.overlaps_net(earlier)) {
            found.push(format!(
                "pool {pool} overlaps pool {earlier}, which comes first and gives the addresses of both"
            ));
        }
    }
    found
}

fn is_reserved(reserved: &IpNet) -> String {
    format!("it overlaps the reserved range {reserved}; want unicast addresses that are routed")
}

/// All pools, in the order of trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    pools: Vec<Pool>,
    /// The addresses of all nodes, be they in a pool or not.
    of_nodes: BTreeSet<IpAddr>,
    host: Arc<Host>,
}

/// A pool as it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    name: String,
    origin: Origin,
    priority: i32,
    source: Source,
    /// By name; of a namespace that is not here, the selector sees the name alone.
    namespaces: BTreeMap<String, bool>,
    namespace_selector: Option<LabelSelector>,
    service_selector: Option<LabelSelector>,
    auto_assign: bool,
    announce: Announce,
    /// What is wrong: reason and sentence.
    faults: Vec<(&'static str, String)>,
    /// With which other pools it shares addresses, in sentences.
    overlaps: Vec<String>,
}

/// Where a pool is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Object,
    /// And which of the flags.
    Flag(usize),
}

/// Where a pool's addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Ranges; each address is one object's, or shared by key.
    Ranges(Vec<Range>),
    /// The nodes' own addresses; each is shared by all objects whose ports differ.
    Nodes {
        /// In the order of trial.
        addrs: Vec<IpAddr>,
        /// What no object gets.
        reserved_ports: BTreeSet<Port>,
    },
}

impl Pools {
    /// Understands the pools of a snapshot and the flags.
    #[must_use]
    pub fn new(snapshot: &Snapshot, node: &Node) -> Self {
        let taken = Taken::new(snapshot);
        let objects = snapshot.pools.values().map(|pool| Pool::of(pool, snapshot, &taken));
        let flags = node.pools.iter().enumerate().map(|(index, net)| Pool::of_flag(index, net, &taken));
        let mut pools = objects.chain(flags).collect::<Vec<_>>();
        pools.sort_by(|a, b| a.rank().cmp(&b.rank()));
        note_overlaps(&mut pools);
        let addrs = snapshot.nodes.values().flat_map(|node| node_addrs(node));
        let of_nodes = addrs.filter(|(type_, _)| type_.ends_with("IP")).map(|(_, addr)| addr).collect();
        Self { pools, of_nodes, host: Arc::clone(&node.host) }
    }

    /// All, in the order of trial.
    pub fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter()
    }

    /// No pool, and nodes with these addresses.
    #[cfg(test)]
    pub(crate) fn of_nodes(of_nodes: BTreeSet<IpAddr>) -> Self {
        Self { of_nodes, ..Self::default() }
    }

    /// The pool of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Pool> {
        self.iter().find(|pool| pool.name == name)
    }

    /// The pool that an address belongs to: the first that has it.
    #[must_use]
    pub fn of(&self, addr: IpAddr) -> Option<&Pool> {
        self.iter().find(|pool| pool.contains(addr))
    }

    /// Whether an address is a node's own, which objects share as long as their ports differ.
    #[must_use]
    pub fn is_of_node(&self, addr: IpAddr) -> bool {
        self.of_nodes.contains(&addr)
    }

    /// Why no object has a port at an address, as in "port 6443 is ..."; `None` where it may.
    #[must_use]
    pub fn reserves(&self, addr: IpAddr, port: Port) -> Option<String> {
        if !self.is_of_node(addr) && !self.host.addresses.contains(&addr) {
            return None;
        }
        let listed = self.iter().find_map(|pool| match &pool.source {
            Source::Nodes { addrs, reserved_ports } if addrs.contains(&addr) => Some((pool, reserved_ports)),
            _ => None,
        });
        self.host.needs(port).or_else(|| match listed {
            Some((pool, ports)) if ports.contains(&port) => {
                Some(format!("reserved for the nodes by pool {}", pool.name))
            }
            Some(_) => None,
            None => host::reserved_by_default(port),
        })
    }

    /// Whether somebody must answer for an address; so must somebody for one that no pool has any more.
    #[must_use]
    pub fn is_announced(&self, addr: IpAddr) -> bool {
        !self.is_of_node(addr) && self.of(addr).is_none_or(|pool| pool.announce == Announce::Auto)
    }

    /// Whether any pool looks at the labels of objects.
    pub(super) fn needs_labels(&self) -> bool {
        self.iter().any(|pool| pool.service_selector.is_some())
    }

    /// What became of each AddressPool.
    pub(super) fn verdicts(&self) -> impl Iterator<Item = (ObjectRef, Verdict)> {
        let objects = self.iter().filter(|pool| pool.origin == Origin::Object);
        objects.map(|pool| (ObjectRef::new("AddressPool", ObjectName::new("", &pool.name)), pool.verdict()))
    }
}

impl Pool {
    fn rank(&self) -> (Reverse<i32>, Origin, &str) {
        (Reverse(self.priority), self.origin, &self.name)
    }

    /// Its name; of a flag's pool, the CIDR.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its addresses are the nodes' own.
    #[must_use]
    pub fn is_of_nodes(&self) -> bool {
        matches!(self.source, Source::Nodes { .. })
    }

    /// Where its addresses come from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whether an address is one of its own, be it one that is given unasked or not.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        match &self.source {
            Source::Ranges(ranges) => ranges.iter().any(|range| range.contains(addr)),
            Source::Nodes { addrs, .. } => addrs.contains(&addr),
        }
    }

    /// The families that it has, in the order of its entries.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut families = match &self.source {
            Source::Ranges(ranges) => ranges.iter().map(Range::family).collect::<Vec<_>>(),
            Source::Nodes { addrs, .. } => addrs.iter().map(|addr| Family::of(*addr)).collect(),
        };
        let mut seen = Vec::with_capacity(2);
        families.retain(|family| !seen.contains(family) && (seen.push(*family), true).1);
        families
    }

    /// Whether objects that do not ask for it get addresses from it.
    pub(super) fn is_automatic(&self) -> bool {
        self.auto_assign
    }

    /// Whether it gives nothing any more.
    pub(super) fn is_closed(&self) -> bool {
        self.faults.iter().any(|(reason, _)| *reason == "Deleted")
    }

    /// Why an object cannot have addresses from here, as in "pool edge is ...".
    pub(super) fn excludes(&self, ns: &str, labels: &BTreeMap<String, String>) -> Option<String> {
        if self.is_closed() {
            return Some("being deleted".to_owned());
        }
        if let Some(selector) = &self.namespace_selector {
            let by_name = || selector.selects(&BTreeMap::from([(NAME_LABEL.to_owned(), ns.to_owned())]));
            if !self.namespaces.get(ns).copied().unwrap_or_else(by_name) {
                return Some(format!("for namespaces {selector} and namespace {ns} is not one"));
            }
        }
        let selector = self.service_selector.as_ref().filter(|selector| !selector.selects(labels))?;
        Some(format!("for objects {selector} and this is not one"))
    }

    fn verdict(&self) -> Verdict {
        let is_empty = self.families().is_empty();
        let outcome = match (self.faults.is_empty(), is_empty) {
            (true, _) => Outcome::Accepted,
            (false, false) => Outcome::Partial,
            (false, true) => Outcome::Refused,
        };
        let sentences = self.faults.iter().map(|(_, sentence)| sentence).chain(&self.overlaps);
        let reason = self.faults.first().map_or("Accepted", |(reason, _)| *reason);
        Verdict { outcome, reason, messages: sentences.cloned().collect() }
    }
}

/// Says in both of two pools that they share addresses.
fn note_overlaps(pools: &mut [Pool]) {
    let shared = |a: &Pool, b: &Pool| match (&a.source, &b.source) {
        (Source::Ranges(a), Source::Ranges(b)) => {
            a.iter().find_map(|a| b.iter().find(|b| a.overlaps(b)).map(|b| (a.to_string(), b.to_string())))
        }
        (Source::Nodes { addrs: a, .. }, Source::Nodes { addrs: b, .. }) => {
            a.iter().find(|addr| b.contains(addr)).map(|addr| (addr.to_string(), addr.to_string()))
        }
        // Ranges that hold an address of a node are not used.
        _ => None,
    };
    for later in 1..pools.len() {
        let (before, after) = pools.split_at_mut(later);
        let Some(after) = after.first_mut() else { continue };
        for before in before {
            if let Some((a, b)) = shared(before, after) {
                before.overlaps.push(format!("{a} overlaps {b} of pool {}; this pool is tried first", after.name));
                after.overlaps.push(format!("{b} overlaps {a} of pool {}, which is tried first", before.name));
            }
        }
    }
}
