//! Addresses that the host has had and has no more: flows to other nodes that come from one of them get no reply, and hang.
//!
//! In: the host's addresses, tick by tick. Out: those that are gone for good, whose flows [`end_flows`] removes: the next
//! packet of such a flow is that of a new one, from an address that there is, and an endpoint that does not know it resets it.
//!
//! # Design
//! An address that comes back within [`GONE_TICKS`] was renumbered or renewed (DHCP, a daemon that starts anew), and its flows
//! go on.
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aya::maps::{HashMap, MapData};
use sluice_ebpf::{Addr, CT_REQUEST, CT_SNAT, CtEntry, CtKey, flow, map};

use super::{
    maps::{TableError, open},
    sweep::{opposite, remove},
};

/// Ticks after which an address is gone for good.
const GONE_TICKS: u32 = 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Departures {
    present: BTreeSet<Addr>,
    absent: BTreeMap<Addr, u32>,
}

impl Departures {
    /// The host had these when it was looked at last.
    pub(super) fn of(present: BTreeSet<Addr>) -> Self {
        Self { present, absent: BTreeMap::new() }
    }

    /// Lets a tick pass, in which the host has these addresses; returns those that are now gone for good.
    pub(super) fn tick(&mut self, present: &BTreeSet<Addr>) -> BTreeSet<Addr> {
        for addr in self.present.difference(present) {
            self.absent.insert(*addr, 0);
        }
        self.present.clone_from(present);
        self.absent.retain(|addr, _| !present.contains(addr));
        self.absent.values_mut().for_each(|ticks| *ticks += 1);
        let gone = self.absent.iter().filter(|(_, ticks)| **ticks > GONE_TICKS).map(|(addr, _)| *addr).collect();
        self.absent.retain(|_, ticks| *ticks <= GONE_TICKS);
        gone
    }
}

/// Removes the flows to other nodes that come from these addresses; returns how many entries there were. It walks all of
/// conntrack: call it off the stage's task.
///
/// # Errors
/// The map cannot be opened.
pub(super) fn end_flows(dir: &Path, gone: &BTreeSet<Addr>) -> Result<usize, TableError> {
    let mut conntrack: HashMap<MapData, CtKey, CtEntry> = open(dir, map::CONNTRACK)?;
    let mut doomed = Vec::new();
    // An entry that vanishes while we walk is what an LRU map does.
    for (key, entry) in conntrack.iter().filter_map(Result::ok) {
        if key.dir == CT_REQUEST && entry.flags & CT_SNAT != 0 && gone.contains(&entry.to.src) {
            let reply_key = opposite(&key, &entry);
            let reply = conntrack.get(&reply_key, 0).ok().filter(|reply| flow::is_reverse(&reply.to, &key.tuple));
            doomed.push((key, entry));
            doomed.extend(reply.map(|reply| (reply_key, reply)));
        }
    }
    Ok(remove(&mut conntrack, &doomed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_gone_after_some_ticks_and_once() {
        let (a, b) = (Addr::v4([192, 0, 2, 1]), Addr::v4([192, 0, 2, 2]));
        let (both, one) = (BTreeSet::from([a, b]), BTreeSet::from([a]));
        let mut departures = Departures::of(both.clone());
        for _ in 0..GONE_TICKS {
            assert!(departures.tick(&one).is_empty());
        }
        assert_eq!(departures.tick(&one), BTreeSet::from([b]));
        assert!(departures.tick(&one).is_empty(), "it is told once");
        // It comes back in time.
        assert!(departures.tick(&both).is_empty());
        for _ in 0..3 {
            for _ in 0..GONE_TICKS {
                assert!(departures.tick(&one).is_empty());
            }
            assert!(departures.tick(&both).is_empty());
        }
    }
}
