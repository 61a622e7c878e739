//! The lists of source ranges in the map: equal lists are one, whoever names them, under an id that never means another
//! list while a packet may read it.
//!
//! A list is written before the first frontend that names it and removed two ticks after the last one. It never changes: an
//! edited list is another one, so a packet is judged by the old list or by the new one, never by half of each.
use std::collections::{BTreeMap, BTreeSet};

use super::{
    plan::{KEEP_TICKS, Op},
    space::{Run, Space},
};
use crate::model::Ranges;
use ipnet::IpNet;

/// See the module.
#[derive(Debug)]
pub struct Lists {
    held: BTreeMap<u32, Held>,
    by_content: BTreeMap<Ranges, u32>,
    /// Lists that no frontend names any more, with the tick at which they were left.
    retired: Vec<(u64, u32, Ranges)>,
    ids: Space,
    /// Ranges in the map, those of retired lists too.
    used: usize,
    /// Ranges at most.
    capacity: usize,
}

#[derive(Debug)]
struct Held {
    ranges: Ranges,
    /// Frontends that name it.
    users: usize,
}

impl Lists {
    /// Those that were found in the map, which nobody names yet.
    #[must_use]
    pub fn new(observed: &BTreeMap<u32, BTreeSet<IpNet>>, capacity: usize) -> Self {
        // 0 in a frontend means no list.
        let ids = Space::new(1, u32::MAX);
        let (held, by_content, retired) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut lists = Self { held, by_content, retired, ids, used: 0, capacity };
        for (&id, ranges) in observed {
            lists.hold(id, ranges.iter().copied().collect());
        }
        lists
    }

    fn hold(&mut self, id: u32, ranges: Ranges) {
        self.ids.reserve(Run { start: id, len: 1 });
        self.used += ranges.len();
        self.by_content.entry(Ranges::clone(&ranges)).or_insert(id);
        self.held.insert(id, Held { ranges, users: 0 });
    }

    /// A frontend was found that names this list: what it holds.
    pub fn adopt(&mut self, id: u32) -> Ranges {
        if !self.held.contains_key(&id) {
            // A list without a range leaves nothing in the map.
            self.hold(id, Ranges::from([]));
        }
        let held = self.held.get_mut(&id).expect("held just now, or before");
        held.users += 1;
        Ranges::clone(&held.ranges)
    }

    /// Gives up what nobody has named.
    pub fn settle(&mut self, tick: u64) {
        let idle: Vec<u32> = self.held.iter().filter(|(_, held)| held.users == 0).map(|(id, _)| *id).collect();
        idle.into_iter().for_each(|id| self.retire(id, tick));
    }

    /// Ranges in the map.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Whether a list is in the map or finds room there.
    #[must_use]
    pub fn has_room(&self, ranges: &Ranges) -> bool {
        self.by_content.contains_key(ranges) || self.used + ranges.len() <= self.capacity
    }

    /// The id of a list that one more frontend names; it is written where it is not in the map.
    pub fn take(&mut self, ranges: &Ranges, ops: &mut Vec<Op>) -> Option<u32> {
        let id = match self.by_content.get(ranges) {
            Some(id) => *id,
            None => {
                let id = self.ids.take_one()?;
                self.hold(id, Ranges::clone(ranges));
                ops.push(Op::PutSources(id, Ranges::clone(ranges)));
                id
            }
        };
        self.held.get_mut(&id)?.users += 1;
        Some(id)
    }

    /// A frontend names this list no more.
    pub fn leave(&mut self, id: u32, tick: u64) {
        let Some(held) = self.held.get_mut(&id) else { return };
        held.users = held.users.saturating_sub(1);
        if held.users == 0 {
            self.retire(id, tick);
        }
    }

    fn retire(&mut self, id: u32, tick: u64) {
        let Some(Held { ranges, users: _ }) = self.held.remove(&id) else { return };
        if self.by_content.get(&ranges) == Some(&id) {
            self.by_content.remove(&ranges);
        }
        self.retired.push((tick, id, ranges));
    }

    /// Removes what no packet in flight can read any more.
    pub fn tick(&mut self, tick: u64, ops: &mut Vec<Op>) {
        if let Some(before) = tick.checked_sub(KEEP_TICKS) {
            self.release(before, ops);
        }
    }

    /// Whether something waits for its readers.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Removes what was left before this tick or in it.
    pub fn release(&mut self, tick: u64, ops: &mut Vec<Op>) {
        let Self { retired, ids, used, .. } = self;
        retired.retain(|(since, id, ranges)| {
            let keep = *since > tick;
            if !keep {
                *used -= ranges.len();
                ids.release(Run { start: *id, len: 1 });
                ops.push(Op::DeleteSources(*id, Ranges::clone(ranges)));
            }
            keep
        });
    }
}
