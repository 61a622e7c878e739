//! Who gets which address.
//!
//! # Design
//! Four rounds, the oldest claim first in each: what the object had, what status shows, what it asks for, the lowest
//! free address. The first two come before anybody gets something new, so that no order of events and no restart takes
//! an address from an object that has it; a newcomer that asks for it is refused. Where the two differ, status is right,
//! for others have read it, unless another object had the address. An address that contradicts what the
//! object now asks for is not kept. One that no pool contains any more is kept: a pool that shrinks must not cut flows.
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    Allocations, Node, ObjectRef, Outcome, Verdict,
    endpoints::{Family, unusable},
    pool::Pool,
};

/// The annotation that asks for addresses, separated by commas.
pub const ADDRESSES: &str = "sluice.dev/addresses";
/// The annotation that lets objects of one namespace share an address: all of them carry it with the same value.
pub const SHARING_KEY: &str = "sluice.dev/sharing-key";

/// An object that wants addresses.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The object.
    pub object: ObjectRef,
    /// When it was created; older claims win, then the lesser name. `None` is older than any time.
    pub created: Option<String>,
    /// Wants an IPv4 address. Neither this nor `v6`: one address, of the family of the first pool.
    pub v4: bool,
    /// Wants an IPv6 address.
    pub v6: bool,
    /// Neither family may stay without an address (`RequireDualStack`).
    pub all_families: bool,
    /// Addresses that `status` already shows: adopted before anything is given.
    pub in_status: Vec<IpAddr>,
    /// Addresses that the object asks for; no other is given instead.
    pub requested: Vec<IpAddr>,
    /// The value of [`SHARING_KEY`].
    pub sharing_key: Option<String>,
}

impl Claim {
    /// What is asked for in one family; at most one, [`Book::check`] sees to it.
    fn request(&self, family: Family) -> Option<IpAddr> {
        self.requested.iter().copied().find(|a| family.admits(*a))
    }

    /// Whether an address that the object has is one that it wants.
    fn may_keep(&self, family: Family, addr: IpAddr) -> bool {
        unusable(addr).is_none() && self.request(family).is_none_or(|requested| requested == addr)
    }

    /// The address that status shows, if it may be kept.
    fn shown(&self, family: Family) -> Option<IpAddr> {
        self.in_status.iter().copied().find(|a| family.admits(*a)).filter(|a| self.may_keep(family, *a))
    }

    /// Whether both may have one address.
    fn shares_with(&self, other: &Self) -> bool {
        self.sharing_key.is_some()
            && self.sharing_key == other.sharing_key
            && self.object.object.ns == other.object.object.ns
    }
}

/// Gives every claim its addresses: those in its status, else those it asks for, else those it had, else free ones.
///
/// A claim that cannot be met has no entry in the allocations and a verdict in the second result.
#[must_use]
pub fn assign(claims: &[Claim], node: &Node) -> (Allocations, Vec<(ObjectRef, Verdict)>) {
    let mut book = Book::new(node);
    let mut refusals = Vec::new();
    let mut open = Vec::with_capacity(claims.len());
    for claim in claims {
        match book.check(claim, node) {
            Ok(()) => open.push(Entry { families: book.families(claim, node), claim, held: Vec::new() }),
            Err(verdict) => refusals.push((claim.object.clone(), verdict)),
        }
    }
    open.sort_by(|a, b| (&a.claim.created, &a.claim.object).cmp(&(&b.claim.created, &b.claim.object)));

    for round in [Round::Kept, Round::Status, Round::Requested, Round::Free] {
        open.retain_mut(|entry| match book.serve(entry, round, node) {
            Ok(()) => true,
            Err(verdict) => {
                book.release(entry);
                refusals.push((entry.claim.object.clone(), verdict));
                false
            }
        });
    }
    (open.into_iter().map(|entry| (entry.claim.object.clone(), entry.held)).collect(), refusals)
}

/// Where addresses come from, in the order of the rounds.
#[derive(Clone, Copy)]
enum Round {
    Kept,
    Status,
    Requested,
    Free,
}

/// A claim on its way to its addresses.
struct Entry<'a> {
    claim: &'a Claim,
    /// The families it wants, in the order in which addresses are listed.
    families: Vec<Family>,
    held: Vec<IpAddr>,
}

impl Entry<'_> {
    fn lacks(&self, family: Family) -> bool {
        !self.held.iter().any(|a| family.admits(*a))
    }
}

/// Who holds what.
struct Book<'a> {
    holders: BTreeMap<IpAddr, Vec<&'a Claim>>,
    pools: Vec<Pool>,
}

impl<'a> Book<'a> {
    fn new(node: &Node) -> Self {
        Self { holders: BTreeMap::new(), pools: node.pools.iter().filter_map(Pool::try_new).collect() }
    }

    /// The families that a claim wants.
    fn families(&self, claim: &Claim, node: &Node) -> Vec<Family> {
        if claim.v4 || claim.v6 {
            let wanted = [(claim.v4, Family::V4), (claim.v6, Family::V6)];
            return wanted.into_iter().filter_map(|(wants, family)| wants.then_some(family)).collect();
        }
        let previous = node.allocations.get(&claim.object).into_iter().flatten();
        let named = claim.requested.iter().chain(&claim.in_status).chain(previous).next();
        let family = named.map(|a| Family::of(*a)).or_else(|| self.pools.first().map(Pool::family));
        vec![family.unwrap_or(Family::V4)]
    }

    /// Refuses requests that cannot be met whoever else is there.
    fn check(&self, claim: &Claim, node: &Node) -> Result<(), Verdict> {
        let families = self.families(claim, node);
        let had = |addr: &IpAddr| {
            claim.in_status.contains(addr) || node.allocations.get(&claim.object).is_some_and(|a| a.contains(addr))
        };
        for addr in &claim.requested {
            if let Some(other) = claim.requested.iter().find(|o| *o != addr && o.is_ipv4() == addr.is_ipv4()) {
                let text = format!("{addr} and {other} are asked for, want one address of each family at most");
                return Err(refused("TooManyAddresses", text));
            }
            if !families.contains(&Family::of(*addr)) {
                let wanted = families.iter().map(|f| name(*f)).collect::<Vec<_>>().join(" and ");
                let text = format!("{addr} is asked for, want an {wanted} address as the object's families say");
                return Err(refused("AddressFamilyMismatch", text));
            }
            if !had(addr) && !self.pools.iter().any(|p| p.contains(*addr)) {
                let pools = node.pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let pools = if pools.is_empty() { "there is none".to_owned() } else { pools };
                return Err(refused(
                    "AddressOutsidePools",
                    format!("{addr} is asked for, want one of a pool: {pools}"),
                ));
            }
        }
        Ok(())
    }

    fn serve(&mut self, entry: &mut Entry<'a>, round: Round, node: &Node) -> Result<(), Verdict> {
        match round {
            Round::Kept => {
                self.keep(entry, node);
                Ok(())
            }
            Round::Status => self.adopt_status(entry),
            Round::Requested => self.grant_request(entry),
            Round::Free => self.give_free(entry),
        }
    }

    fn adopt_status(&mut self, entry: &mut Entry<'a>) -> Result<(), Verdict> {
        for family in entry.families.clone() {
            if let Some(addr) = entry.claim.shown(family).filter(|_| entry.lacks(family)) {
                self.hold(entry, addr).map_err(|holder| taken(addr, "shown in status", holder))?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, entry: &mut Entry<'a>, node: &Node) {
        let previous = node.allocations.get(&entry.claim.object);
        for family in entry.families.clone() {
            let had = previous.into_iter().flatten().copied().find(|a| family.admits(*a));
            let Some(addr) = had.filter(|a| entry.claim.may_keep(family, *a)) else { continue };
            if entry.claim.shown(family).is_none_or(|shown| shown == addr) {
                // Taken: the object gets another one, or is refused the one it asks for.
                let _ = self.hold(entry, addr);
            }
        }
    }

    fn grant_request(&mut self, entry: &mut Entry<'a>) -> Result<(), Verdict> {
        for family in entry.families.clone() {
            if let Some(addr) = entry.claim.request(family).filter(|_| entry.lacks(family)) {
                self.hold(entry, addr).map_err(|holder| taken(addr, "asked for", holder))?;
            }
        }
        Ok(())
    }

    fn give_free(&mut self, entry: &mut Entry<'a>) -> Result<(), Verdict> {
        let mut missed = Vec::new();
        for family in entry.families.clone() {
            if !entry.lacks(family) {
                continue;
            }
            let Self { pools, holders } = self;
            match pools.iter_mut().filter(|p| p.family() == family).find_map(|p| p.lowest_free(holders)) {
                Some(addr) => {
                    // Free, hence held without fail.
                    let _ = self.hold(entry, addr);
                }
                None => missed.push(family),
            }
        }
        if missed.is_empty() || !(entry.held.is_empty() || entry.claim.all_families) {
            // The order of the families, whichever round an address came from.
            entry.held.sort_by_key(|a| entry.families.iter().position(|f| f.admits(*a)));
            return Ok(());
        }
        let no_pool = missed.iter().all(|family| !self.pools.iter().any(|p| p.family() == *family));
        Err(Verdict {
            outcome: Outcome::Refused,
            reason: if no_pool { "NoPool" } else { "PoolExhausted" },
            messages: missed.into_iter().map(|family| self.exhausted(family)).collect(),
        })
    }

    fn exhausted(&self, family: Family) -> String {
        let pools = self.pools.iter().filter(|p| p.family() == family);
        let counts = pools.map(|p| p.occupancy(&self.holders)).collect::<Vec<_>>().join(", ");
        let family = name(family);
        if counts.is_empty() {
            format!("no pool has {family} addresses, want one: --pool CIDR")
        } else {
            format!("no {family} address is free: {counts}; want a larger pool or another one")
        }
    }

    /// Enters a holder, or names the one that does not share.
    fn hold(&mut self, entry: &mut Entry<'a>, addr: IpAddr) -> Result<(), &'a ObjectRef> {
        let holders = self.holders.entry(addr).or_default();
        if let Some(holder) = holders.iter().find(|h| !h.shares_with(entry.claim)) {
            return Err(&holder.object);
        }
        holders.push(entry.claim);
        entry.held.push(addr);
        Ok(())
    }

    fn release(&mut self, entry: &Entry<'a>) {
        for addr in &entry.held {
            let Some(holders) = self.holders.get_mut(addr) else { continue };
            holders.retain(|h| h.object != entry.claim.object);
            if holders.is_empty() {
                self.holders.remove(addr);
                self.pools.iter_mut().for_each(|p| p.release(*addr));
            }
        }
    }
}

fn taken(addr: IpAddr, how: &str, holder: &ObjectRef) -> Verdict {
    let want = format!("want another address, or annotation {SHARING_KEY} with one value on both, in one namespace");
    refused("AddressTaken", format!("{addr} is {how}, but {holder} has it; {want}"))
}

fn refused(reason: &'static str, message: String) -> Verdict {
    Verdict { outcome: Outcome::Refused, reason, messages: vec![message] }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
        Family::Any => "IP",
    }
}
