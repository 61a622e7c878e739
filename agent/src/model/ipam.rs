//! Who gets which address.
//!
//! # Design
//! Rounds, the oldest claim first in each: what the object had, what status shows, what was given but not shown yet,
//! what it asks for, the lowest free address. The first come before anybody gets something new, so that no order of
//! events and no restart takes an address from an object that has it; a newcomer that asks for it is refused.
//!
//! - Where memory and status differ, status is right, for others have read it, unless another object had the address.
//! - [`ALLOCATED`] is what the leader decided last and beats both. But whoever may edit the object can write it:
//!   where neither memory nor status confirms it, it is worth a request to a pool that is open to the object. An address
//!   of `status` is no other controller's for it unless [`FINALIZER`] is there too, or it is remembered.
//! - An address that contradicts what the object now asks for is not kept. One that no pool contains any more is kept: a
//!   pool that shrinks, is renamed or deleted must not cut flows. The exception are the addresses of nodes: one that no
//!   node has any more cannot be served, and is given up when the nodes' addresses are all that there is.
//! - A Service that names no class, bears no annotation of ours and shows an address that is not ours is another
//!   controller's.
//! - Two objects share an address when both bear [`SHARING_KEY`] with one value, are in one namespace or name each
//!   other's in [`SHARING_NAMESPACES`], and select the same pods if either of them has `externalTrafficPolicy: Local`.
//!   The addresses of nodes are shared without a key. Nobody is put where one of its ports is another's; who asks for
//!   such an address, or takes the port later, gets the address without that port, which is the older object's.
mod book;
#[cfg(test)]
mod tests;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    Allocations, Node, ObjectRef, Port, Proto, Verdict,
    endpoints::{Family, unusable},
    pool::{Pool, Pools},
};
use crate::api::ObjectMeta;
use book::{Book, Conflict};

/// Annotations under this prefix are ours.
pub const PREFIX: &str = "sluice.dev/";
/// The annotation that asks for addresses, separated by commas.
pub const ADDRESSES: &str = "sluice.dev/addresses";
/// The annotation that names the pool to give from.
pub const POOL: &str = "sluice.dev/address-pool";
/// The annotation that lets objects share an address: all of them carry it with the same value.
pub const SHARING_KEY: &str = "sluice.dev/sharing-key";
/// The annotation that names the other namespaces, separated by commas, whose objects may share the address too. They
/// must name this one likewise.
pub const SHARING_NAMESPACES: &str = "sluice.dev/sharing-namespaces";
/// The annotation that the leader writes: the addresses that the object has, separated by commas.
pub const ALLOCATED: &str = "sluice.dev/allocated";

/// Keeps a Service until its addresses are unprogrammed. Source: `cloud-provider/service/helpers`.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// An object that wants addresses.
#[derive(Clone, Debug, Default)]
pub struct Claim {
    /// The object.
    pub object: ObjectRef,
    /// When it was created; older claims win, then the lesser name. `None` is older than any time.
    pub created: Option<String>,
    /// It is being deleted: it keeps what it has until it is gone, and gets nothing.
    pub is_leaving: bool,
    /// Its labels, where a pool looks at them.
    pub labels: BTreeMap<String, String>,
    /// The families that it wants, the primary one first. None: one address, of the first family of the first pool.
    pub families: Vec<Family>,
    /// No family may stay without an address (`RequireDualStack`).
    pub all_families: bool,
    /// The addresses that `status` shows, others' among them.
    pub in_status: Vec<IpAddr>,
    /// What else `status` shows that is no address: host names and nonsense.
    pub other_status: Vec<String>,
    /// The value of [`ALLOCATED`], as far as it could be read.
    pub given: Vec<IpAddr>,
    /// Whether it bears [`FINALIZER`], which is written together with [`ALLOCATED`].
    pub has_finalizer: bool,
    /// Whether it names our class: then every address in its status is ours.
    pub is_of_our_class: bool,
    /// Whether it bears an annotation of ours.
    pub is_annotated: bool,
    /// Addresses that the object asks for; no other is given instead.
    pub requested: Vec<IpAddr>,
    /// The value of [`POOL`].
    pub pool: Option<String>,
    /// The value of [`SHARING_KEY`].
    pub sharing_key: Option<String>,
    /// The value of [`SHARING_NAMESPACES`].
    pub sharing_namespaces: Vec<String>,
    /// The ports that it serves.
    pub ports: BTreeSet<(Port, Proto)>,
    /// With `externalTrafficPolicy: Local`, the pods that it selects.
    pub local: Option<BTreeMap<String, String>>,
}

impl Claim {
    /// What the metadata of an object say; the rest is empty.
    pub(super) fn of(object: ObjectRef, metadata: &ObjectMeta, pools: &Pools) -> Self {
        let annotation = |name| metadata.annotations.get(name).map(|v| v.trim()).filter(|v| !v.is_empty());
        let words = |name| annotation(name).into_iter().flat_map(|v| v.split(',')).map(str::trim);
        let has_finalizer = metadata.finalizers.iter().any(|f| f == FINALIZER);
        Self {
            object,
            created: metadata.creation_timestamp.clone(),
            is_leaving: metadata.deletion_timestamp.is_some(),
            labels: if pools.needs_labels() { metadata.labels.clone() } else { BTreeMap::new() },
            given: written(metadata),
            has_finalizer,
            // What the leader writes is our word only where the finalizer that comes with it is there.
            is_annotated: metadata
                .annotations
                .keys()
                .any(|name| name.starts_with(PREFIX) && (has_finalizer || name != ALLOCATED)),
            pool: annotation(POOL).map(str::to_owned),
            sharing_key: annotation(SHARING_KEY).map(str::to_owned),
            sharing_namespaces: words(SHARING_NAMESPACES).map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    /// What is asked for in one family; at most one, [`Book::check`] sees to it.
    fn request(&self, family: Family) -> Option<IpAddr> {
        self.requested.iter().copied().find(|a| family.admits(*a))
    }

    /// Whether an address that the object has is one that it wants.
    fn may_keep(&self, family: Family, addr: IpAddr, pools: &Pools) -> bool {
        let is_requested = self.request(family).is_none_or(|requested| requested == addr);
        // Told to another pool; one that is gone or has shrunk tells nothing.
        let has_left = |name: &String| {
            let named = pools.get(name);
            named.is_some_and(|pool| !pool.contains(addr)) && pools.of(addr).is_some()
        };
        unusable(addr).is_none() && is_requested && !self.pool.as_ref().is_some_and(has_left)
    }

    /// The addresses in its status that are ours.
    fn shown(&self, pools: &Pools, previous: &[IpAddr]) -> Vec<IpAddr> {
        let is_ours = |addr: &&IpAddr| {
            let is_marked = self.has_finalizer && self.given.contains(addr);
            self.is_of_our_class || is_marked || previous.contains(addr) || pools.of(**addr).is_some()
        };
        self.in_status.iter().filter(is_ours).copied().collect()
    }

    /// The addresses that are written on the object and ours: what a node programs that gives none itself.
    #[must_use]
    pub fn persisted(&self, pools: &Pools) -> Vec<IpAddr> {
        let mut all = self.given.clone();
        all.extend(self.shown(pools, &[]));
        all
    }

    /// Whether it bears the same key, and the namespaces let them share.
    fn has_key_of(&self, other: &Self) -> bool {
        let admits = |a: &Self, b: &Self| {
            let ns = &b.object.object.ns;
            a.object.object.ns == *ns || a.sharing_namespaces.contains(ns)
        };
        self.sharing_key.is_some()
            && self.sharing_key == other.sharing_key
            && admits(self, other)
            && admits(other, self)
    }
}

/// The addresses that are written on an object: the value of [`ALLOCATED`], as far as it can be read. Who has written it is not asked.
#[must_use]
pub fn written(metadata: &ObjectMeta) -> Vec<IpAddr> {
    let text = metadata.annotations.get(ALLOCATED).map_or("", String::as_str);
    text.split(',').filter_map(|addr| addr.trim().parse().ok()).collect()
}

/// So often at most what was given is taken for what objects had before.
const AGAIN: usize = 4;

/// Gives every claim its addresses. See the module.
///
/// A claim that cannot be met has no entry in the allocations and a verdict in the second result. Giving again, with what was given
/// as what objects had, gives the same: a claim that holds something for a while and then is refused may have had others refused,
/// so that where there is one it is done until nothing changes.
#[must_use]
pub fn assign(claims: &[Claim], pools: &Pools, node: &Node) -> (Allocations, Vec<(ObjectRef, Verdict)>) {
    let (mut given, mut refusals, mut gave_back) = attempt(claims, pools, node, &node.allocations);
    for _ in 0..AGAIN {
        if !gave_back {
            break;
        }
        let last = given;
        (given, refusals, gave_back) = attempt(claims, pools, node, &last);
        if given == last {
            break;
        }
    }
    (given, refusals)
}

/// One attempt, from what objects had before. The last result says whether one gave back what it held.
fn attempt(
    claims: &[Claim],
    pools: &Pools,
    node: &Node,
    before: &Allocations,
) -> (Allocations, Vec<(ObjectRef, Verdict)>, bool) {
    let mut book = Book::new(pools, &node.addresses);
    let (mut refusals, mut gave_back) = (Vec::new(), false);
    let mut open = Vec::with_capacity(claims.len());
    for claim in claims {
        let entry = Entry::new(claim, pools, before);
        match entry.foreign().or_else(|| book.check(&entry)) {
            Some(_) if claim.is_leaving => open.push(entry),
            Some(verdict) => refusals.push((claim.object.clone(), verdict)),
            None => open.push(entry),
        }
    }
    open.sort_by(|a, b| (&a.claim.created, &a.claim.object).cmp(&(&b.claim.created, &b.claim.object)));

    for round in Round::ALL {
        open.retain_mut(|entry| match book.serve(entry, round) {
            Ok(()) => true,
            Err(verdict) => {
                book.release(entry);
                gave_back |= !entry.held.is_empty();
                refusals.push((entry.claim.object.clone(), verdict));
                false
            }
        });
    }
    let staying = open.into_iter().filter(|entry| !entry.claim.is_leaving);
    (staying.map(|entry| (entry.claim.object.clone(), entry.held)).collect(), refusals, gave_back)
}

/// What objects have on a node that gives none itself: what they should have, as far as it is written on them. And a
/// verdict for those on which nothing is written yet.
#[must_use]
pub fn persisted(claims: &[Claim], pools: &Pools, wanted: &Allocations) -> (Allocations, Vec<(ObjectRef, Verdict)>) {
    let (mut persisted, mut pending) = (Allocations::new(), Vec::new());
    for claim in claims {
        let Some(addrs) = wanted.get(&claim.object) else { continue };
        let written = claim.persisted(pools);
        let addrs = addrs.iter().copied().filter(|addr| written.contains(addr)).collect::<Vec<_>>();
        if addrs.is_empty() {
            pending.push((claim.object.clone(), text::pending()));
        } else {
            persisted.insert(claim.object.clone(), addrs);
        }
    }
    (persisted, pending)
}

/// Where addresses come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Kept,
    Status,
    Given,
    Requested,
    Free,
}

impl Round {
    /// Those whose given address went to another may still have another one.
    const ALL: [Self; 7] =
        [Self::Kept, Self::Status, Self::Given, Self::Kept, Self::Status, Self::Requested, Self::Free];
}

/// A claim on its way to its addresses.
struct Entry<'a> {
    claim: &'a Claim,
    /// The families it wants, in the order in which addresses are listed.
    families: Vec<Family>,
    /// What it had at the last time.
    previous: &'a [IpAddr],
    /// What its status shows of ours.
    shown: Vec<IpAddr>,
    /// What is written on it and neither memory nor status confirms, until it was tried.
    given: Vec<IpAddr>,
    held: Vec<IpAddr>,
}

impl<'a> Entry<'a> {
    fn new(claim: &'a Claim, pools: &Pools, before: &'a Allocations) -> Self {
        let previous = before.get(&claim.object).map_or(&[][..], Vec::as_slice);
        let shown = claim.shown(pools, previous);
        let mut entry = Self { claim, families: Vec::new(), previous, shown, given: Vec::new(), held: Vec::new() };
        entry.given = claim.given.iter().copied().filter(|addr| !entry.is_confirmed(*addr)).collect();
        entry.families = entry.families(pools);
        entry
    }

    /// The families that it wants.
    fn families(&self, pools: &Pools) -> Vec<Family> {
        let claim = self.claim;
        if !claim.families.is_empty() {
            return claim.families.clone();
        }
        let named = claim.requested.iter().chain(&claim.given).chain(&self.shown).chain(self.previous).next();
        let first = || pools.iter().filter(|pool| self.may_use(pool)).find_map(|pool| pool.families().first().copied());
        vec![named.map(|a| Family::of(*a)).or_else(first).unwrap_or(Family::V4)]
    }

    /// What it has, as memory and status say, and so it is kept: its given address where that is confirmed.
    fn kept(&self, family: Family, pools: &Pools) -> Option<IpAddr> {
        let of_family = |all: &[IpAddr]| all.iter().copied().find(|addr| family.admits(*addr));
        if of_family(&self.given).is_some() {
            return None;
        }
        let kept = match of_family(&self.claim.given).filter(|addr| self.is_confirmed(*addr)) {
            Some(given) => given,
            None => {
                let had = of_family(self.previous)?;
                self.shown(family, pools).is_none_or(|shown| shown == had).then_some(had)?
            }
        };
        self.may_keep(family, kept, pools).then_some(kept)
    }

    /// The address that status shows, if it may be kept.
    fn shown(&self, family: Family, pools: &Pools) -> Option<IpAddr> {
        let of_family = |addr: &&IpAddr| family.admits(**addr);
        if self.given.iter().any(|addr| family.admits(*addr)) {
            return None;
        }
        self.shown.iter().find(of_family).copied().filter(|addr| self.may_keep(family, *addr, pools))
    }

    /// Whether memory or status say that it has an address, and one that can be served.
    fn is_confirmed(&self, addr: IpAddr) -> bool {
        (self.previous.contains(&addr) || self.shown.contains(&addr)) && unusable(addr).is_none()
    }

    fn may_keep(&self, family: Family, addr: IpAddr, pools: &Pools) -> bool {
        self.claim.may_keep(family, addr, pools) && !self.is_of_a_lost_node(addr, pools)
    }

    /// Whether an address that no pool has was that of a node: nodes' addresses are all that is open to the object.
    fn is_of_a_lost_node(&self, addr: IpAddr, pools: &Pools) -> bool {
        let mut open = pools.iter().filter(|pool| self.may_use(pool)).peekable();
        pools.of(addr).is_none() && open.peek().is_some() && open.all(Pool::is_of_nodes)
    }

    /// Whether it gets addresses from a pool, unasked or because it asks for that pool.
    fn may_use(&self, pool: &Pool) -> bool {
        let claim = self.claim;
        let is_chosen = claim.pool.as_ref().map_or(pool.is_automatic(), |name| name == pool.name());
        is_chosen && pool.excludes(&claim.object.object.ns, &claim.labels).is_none()
    }

    fn lacks(&self, family: Family) -> bool {
        !self.held.iter().any(|a| family.admits(*a))
    }

    /// Says so if it is another controller's.
    fn foreign(&self) -> Option<Verdict> {
        let Claim { is_of_our_class, is_annotated, in_status, other_status, .. } = self.claim;
        let is_ours = *is_of_our_class || *is_annotated || !self.shown.is_empty() || !self.previous.is_empty();
        if is_ours || (in_status.is_empty() && other_status.is_empty()) {
            return None;
        }
        Some(text::foreign_status(in_status, other_status))
    }
}
