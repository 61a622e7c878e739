//! Who holds what, and what is free.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Claim, Entry, Round, text};
use crate::model::{
    HostAddresses, Port, Proto, Verdict,
    endpoints::Family,
    pool::{Pool, Pools, Range, Source},
};

/// See the module.
pub(super) struct Book<'a> {
    pools: &'a Pools,
    /// What this host has.
    host: &'a HostAddresses,
    holders: BTreeMap<IpAddr, Vec<&'a Claim>>,
    /// The addresses that are shared by each key.
    shared: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    /// Where to look for a free address, for each range of each pool.
    next: Vec<Vec<Option<u128>>>,
}

/// What keeps an object from sharing an address; each includes those before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Care {
    /// It has the address: that it may not share it. Neither its ports nor its policy take it away.
    Had,
    /// It asks for the address: that other pods must answer there, that nodes need the port. A port of another object is
    /// left out when its own are programmed.
    Asked,
    /// Any address will do: that a port is another object's.
    Free,
}

/// Why an address cannot be had.
pub(super) enum Conflict<'a> {
    /// Somebody has it and does not share it.
    Held(&'a Claim),
    /// Somebody shares it but has the port too.
    Port(&'a Claim, (Port, Proto)),
    /// Somebody shares it but other pods must answer there.
    Local(&'a Claim),
    /// It is this host's.
    Host,
    /// The nodes need the port.
    Reserved(Port, String),
}

impl<'a> Book<'a> {
    pub(super) fn new(pools: &'a Pools, host: &'a HostAddresses) -> Self {
        let next = pools.iter().map(|pool| match pool.source() {
            Source::Ranges(ranges) => ranges.iter().map(Range::start).collect(),
            Source::Nodes { .. } => Vec::new(),
        });
        Self { pools, host, holders: BTreeMap::new(), shared: BTreeMap::new(), next: next.collect() }
    }

    /// Refuses requests that cannot be met whoever else is there.
    pub(super) fn check(&self, entry: &Entry<'a>) -> Option<Verdict> {
        let claim = entry.claim;
        for addr in &claim.requested {
            if let Some(other) = claim.requested.iter().find(|o| *o != addr && o.is_ipv4() == addr.is_ipv4()) {
                return Some(text::too_many(*addr, *other));
            }
            if !entry.families.contains(&Family::of(*addr)) {
                return Some(text::other_family(*addr, &entry.families));
            }
            if !entry.is_confirmed(*addr)
                && let Some(verdict) = self.out_of_reach(claim, *addr)
            {
                return Some(verdict);
            }
        }
        None
    }

    /// Why no pool that is open to an object has an address.
    fn out_of_reach(&self, claim: &Claim, addr: IpAddr) -> Option<Verdict> {
        let mut excluded = None;
        for pool in self.pools.iter().filter(|pool| pool.contains(addr)) {
            if let Some(named) = claim.pool.as_ref().filter(|named| *named != pool.name()) {
                excluded.get_or_insert_with(|| text::of_another_pool(addr, pool, named));
            } else if let Some(why) = pool.excludes(&claim.object.object.ns, &claim.labels) {
                excluded.get_or_insert_with(|| text::not_for(addr, pool, &why));
            } else {
                return None;
            }
        }
        Some(excluded.unwrap_or_else(|| text::outside_pools(addr, self.pools)))
    }

    pub(super) fn serve(&mut self, entry: &mut Entry<'a>, round: Round) -> Result<(), Verdict> {
        if entry.claim.is_leaving && matches!(round, Round::Requested | Round::Free) {
            return Ok(());
        }
        match round {
            Round::Kept => self.keep(entry),
            Round::Status => return self.adopt_status(entry),
            Round::Given => self.take_given(entry),
            Round::Requested => return self.grant_request(entry),
            Round::Free => return self.give_free(entry),
        }
        Ok(())
    }

    /// Taken by another: the object gets another one, or is refused the one it asks for.
    fn keep(&mut self, entry: &mut Entry<'a>) {
        for family in entry.families.clone() {
            if let Some(addr) = entry.kept(family, self.pools).filter(|_| entry.lacks(family)) {
                let _ = self.hold(entry, addr, Care::Had);
            }
        }
    }

    fn adopt_status(&mut self, entry: &mut Entry<'a>) -> Result<(), Verdict> {
        for family in entry.families.clone() {
            if let Some(addr) = entry.shown(family, self.pools).filter(|_| entry.lacks(family))
                && let Err(conflict) = self.hold(entry, addr, Care::Had)
            {
                if entry.claim.is_leaving {
                    continue;
                }
                return Err(text::taken(addr, "shown in status", &conflict));
            }
        }
        Ok(())
    }

    fn take_given(&mut self, entry: &mut Entry<'a>) {
        for addr in std::mem::take(&mut entry.given) {
            let family = Family::of(addr);
            let is_wanted = entry.families.contains(&family) && entry.lacks(family);
            if is_wanted && entry.may_keep(family, addr, self.pools) && self.out_of_reach(entry.claim, addr).is_none() {
                let _ = self.hold(entry, addr, Care::Asked);
            }
        }
    }

    fn grant_request(&mut self, entry: &mut Entry<'a>) -> Result<(), Verdict> {
        for family in entry.families.clone() {
            if let Some(addr) = entry.claim.request(family).filter(|_| entry.lacks(family)) {
                self.hold(entry, addr, Care::Asked).map_err(|conflict| text::taken(addr, "asked for", &conflict))?;
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
            match self.find(entry, family) {
                Some(addr) => {
                    // Found free, hence held without fail.
                    let _ = self.hold(entry, addr, Care::Free);
                }
                None => missed.push(family),
            }
        }
        if missed.is_empty() || !(entry.held.is_empty() || entry.claim.all_families) {
            // The order of the families, whichever round an address came from.
            entry.held.sort_by_key(|a| entry.families.iter().position(|f| f.admits(*a)));
            return Ok(());
        }
        let open = |pool: &&Pool| entry.may_use(pool);
        let of_family = |family: Family| self.pools.iter().filter(open).filter(move |p| p.families().contains(&family));
        let no_pool = missed.iter().all(|family| of_family(*family).next().is_none());
        let sentence = |family: &Family| {
            let full = of_family(*family).map(|pool| self.occupancy(pool, *family, entry.claim)).collect::<Vec<_>>();
            if full.is_empty() {
                text::no_pool(*family, entry.claim, self.pools)
            } else {
                text::exhausted(*family, &full)
            }
        };
        let messages = missed.iter().map(sentence).collect();
        Err(text::without(if no_pool { "NoPool" } else { "PoolExhausted" }, messages))
    }

    /// An address that can be had: one that is shared by the object's key, or a free one.
    fn find(&mut self, entry: &Entry<'a>, family: Family) -> Option<IpAddr> {
        let claim = entry.claim;
        let Self { pools, host, holders, shared, next } = self;
        let pools: &'a Pools = pools;
        let open = pools.iter().zip(next.iter_mut()).filter(|(pool, _)| entry.may_use(pool)).collect::<Vec<_>>();
        let of_key = claim.sharing_key.as_deref().and_then(|key| shared.get(key)).into_iter().flatten();
        let mut of_key = of_key.copied().filter(|addr| family.admits(*addr));
        let fits = |addr: &IpAddr| conflict((pools, host), holders, claim, *addr, Care::Free).is_none();
        if let Some(addr) = of_key.find(|addr| open.iter().any(|(pool, _)| pool.contains(*addr)) && fits(addr)) {
            return Some(addr);
        }
        open.into_iter().find_map(|(pool, next)| match pool.source() {
            Source::Ranges(ranges) => {
                let mut ranges = ranges.iter().zip(next).filter(|(range, _)| range.family() == family);
                ranges.find_map(|(range, next)| {
                    range.lowest_free(next, |addr| holders.contains_key(addr) || host.anywhere.contains(addr))
                })
            }
            Source::Nodes { addrs, .. } => addrs.iter().copied().filter(|addr| family.admits(*addr)).find(fits),
        })
    }

    /// Enters a holder, or says why not.
    fn hold(&mut self, entry: &mut Entry<'a>, addr: IpAddr, care: Care) -> Result<(), Conflict<'a>> {
        if let Some(conflict) = conflict((self.pools, self.host), &self.holders, entry.claim, addr, care) {
            return Err(conflict);
        }
        self.holders.entry(addr).or_default().push(entry.claim);
        if let Some(key) = &entry.claim.sharing_key {
            self.shared.entry(key).or_default().insert(addr);
        }
        entry.held.push(addr);
        Ok(())
    }

    pub(super) fn release(&mut self, entry: &Entry<'a>) {
        for addr in &entry.held {
            let Some(holders) = self.holders.get_mut(addr) else { continue };
            holders.retain(|h| h.object != entry.claim.object);
            if !holders.is_empty() {
                continue;
            }
            self.holders.remove(addr);
            for addrs in self.shared.values_mut() {
                addrs.remove(addr);
            }
            for (pool, next) in self.pools.iter().zip(&mut self.next) {
                if let Source::Ranges(ranges) = pool.source() {
                    ranges.iter().zip(next).for_each(|(range, next)| *next = range.freed(*next, *addr));
                }
            }
        }
    }

    /// How full a pool is, in one family.
    fn occupancy(&self, pool: &Pool, family: Family, claim: &Claim) -> String {
        let name = pool.name();
        match pool.source() {
            Source::Ranges(ranges) => {
                let ranges = ranges.iter().filter(|range| range.family() == family).collect::<Vec<_>>();
                let size = ranges.iter().fold(0_u128, |sum, range| sum.saturating_add(range.size()));
                let used = self.holders.keys().filter(|addr| ranges.iter().any(|range| range.gives_addr(**addr)));
                let own = self.host.anywhere.iter().filter(|&addr| {
                    !self.holders.contains_key(addr) && ranges.iter().any(|range| range.gives_addr(*addr))
                });
                let own = own.map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let own = if own.is_empty() { own } else { format!(", and {own} is this node's own") };
                format!("{} of {size} addresses of pool {name} are in use{own}", used.count())
            }
            Source::Nodes { addrs, .. } => {
                let why = addrs.iter().filter(|addr| family.admits(**addr)).filter_map(|addr| {
                    let conflict = conflict((self.pools, self.host), &self.holders, claim, *addr, Care::Free)?;
                    Some(format!("{addr} of pool {name}: {}", text::reason(&conflict)))
                });
                why.collect::<Vec<_>>().join(", ")
            }
        }
    }
}

/// Why an object cannot have an address.
fn conflict<'a>(
    (pools, host): (&'a Pools, &HostAddresses),
    holders: &BTreeMap<IpAddr, Vec<&'a Claim>>,
    claim: &Claim,
    addr: IpAddr,
    care: Care,
) -> Option<Conflict<'a>> {
    let is_of_node = pools.is_of_node(addr);
    // Who has the address keeps it, without that port.
    if care >= Care::Asked {
        let reserved = |(port, _): &(Port, Proto)| Some(Conflict::Reserved(*port, pools.reserves(addr, *port)?));
        if let Some(reserved) = claim.ports.iter().find_map(reserved) {
            return Some(reserved);
        }
    }
    // Something may have bound what an object had before, or asks for by name; an uplink's own address is nobody else's.
    let is_hosts = match care {
        Care::Had => false,
        Care::Asked => host.on_uplinks.contains(&addr),
        Care::Free => host.anywhere.contains(&addr),
    };
    if is_hosts && !is_of_node {
        return Some(Conflict::Host);
    }
    holders.get(&addr).into_iter().flatten().find_map(|holder| {
        if !is_of_node && !claim.has_key_of(holder) {
            return Some(Conflict::Held(holder));
        }
        let is_apart = (claim.local.is_some() || holder.local.is_some()) && claim.local != holder.local;
        if care >= Care::Asked && is_apart && !is_of_node {
            return Some(Conflict::Local(holder));
        }
        let port = claim.ports.intersection(&holder.ports).next().filter(|_| care == Care::Free)?;
        Some(Conflict::Port(holder, *port))
    })
}
