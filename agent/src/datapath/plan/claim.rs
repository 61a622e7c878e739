//! Frontends into the maps: all that one needs, or nothing of it.
//!
//! Where something ran out, what waits for its readers is freed first, then tables move together; only then somebody is refused, and
//! that is the youngest ([`capacity::refused`]), whoever has come last.
use std::collections::BTreeSet;

use sluice_ebpf::{Frontend, FrontendKey, map};

use super::{FOREIGN, Kept, Op, Refused, State, count, one};
use crate::datapath::{
    capacity::{self, Shortage},
    placement::{Content, length},
    rows::{BackendRow, FrontendRow, Rows},
    table::Table,
};

/// Times at most that tables move for one; beyond it that one is refused.
const MOST_MOVES: u32 = 64;

impl State {
    /// Puts all frontends that fit, the oldest object first, and removes those that do not.
    pub(super) fn put_by_age(&mut self, desired: &Rows, kept: &Kept, ops: &mut Vec<Op>) -> Refused {
        let rows = kept.frontends.iter().filter_map(|key| self.frontends.get(key));
        let rows: Vec<FrontendRow> = rows.map(|(row, _)| row.clone()).collect();
        let mut refused = capacity::refused(desired, &self.capacity, &rows);
        for key in refused.keys() {
            self.delete_frontend(key, ops);
        }
        let mut pending = capacity::by_age(desired);
        pending.retain(|(key, _)| !refused.contains_key(key));
        loop {
            let before = pending.len();
            pending.retain(|(key, row)| !self.is_settled(key, row) && self.put_frontend(*key, row, ops).is_err());
            if pending.is_empty() {
                break;
            }
            if pending.len() == before {
                // Together they fit, but not beside what they had: the youngest let go of it first.
                let placed = pending.iter().rev().map(|(key, _)| *key).filter(|key| self.frontends.contains_key(key));
                let let_go: Vec<_> = placed.take(before.div_ceil(4)).collect();
                if let_go.is_empty() {
                    let lacking = pending.iter().filter_map(|(key, row)| Some((*key, self.shortage(key, row)?)));
                    refused.extend(lacking);
                    break;
                }
                let_go.iter().for_each(|key| self.delete_frontend(key, ops));
            }
        }
        // Those that merely drain have what is left.
        for row in &desired.backends {
            self.unwanted.remove(row);
            self.put_backend(row, ops);
        }
        refused
    }

    /// Whether a frontend is there as it shall be, in the one table of its content.
    fn is_settled(&mut self, key: &FrontendKey, row: &FrontendRow) -> bool {
        let start = Content::of(row).map(|content| self.tables.find(&content));
        let has = |(_, value): &(FrontendRow, Frontend)| start.is_none_or(|start| start == Some(value.table_chunk));
        self.frontends.get(key).is_some_and(has) && self.is_placed(key, row)
    }

    /// Puts a frontend with what it needs, or says what of that is not there and takes nothing.
    pub(super) fn put_frontend(
        &mut self,
        key: FrontendKey,
        row: &FrontendRow,
        ops: &mut Vec<Op>,
    ) -> Result<(), Shortage> {
        self.recognise(&key, row);
        if let Some(shortage) = self.shortage(&key, row) {
            self.reclaim(row, shortage.map == map::BACKENDS, ops);
        }
        if self.shortage(&key, row).is_some_and(|shortage| shortage.map == map::TABLES) {
            self.make_room(row, ops);
        }
        match self.shortage(&key, row) {
            Some(shortage) => Err(shortage),
            None => self.claim(key, row, ops),
        }
    }

    /// What a frontend needs and does not find as things are.
    fn shortage(&self, key: &FrontendKey, row: &FrontendRow) -> Option<Shortage> {
        let of = |map, wanted: usize, found: u32, capacity| Shortage {
            map,
            wanted: wanted as u64,
            found: u64::from(found),
            capacity,
        };
        let new = row.backends.iter().filter(|row| !self.backends.contains_key(row)).count();
        let ids = self.backend_ids.available();
        if new > ids as usize {
            return Some(of(map::BACKENDS, new, ids, self.capacity.backends));
        }
        if !self.frontends.contains_key(key) && self.frontend_ids.available() == 0 {
            return Some(of(map::FRONTENDS, 1, 0, self.capacity.frontends));
        }
        let table = Content::of(row).filter(|content| self.tables.find(content).is_none());
        if let Some(content) = table.filter(|content| !self.tables.has_room(content.slots)) {
            let length = length(content.slots) as usize;
            return Some(of(map::TABLES, length, self.tables.available(), self.capacity.chunks));
        }
        let ranges = row.sources.as_ref().filter(|ranges| !self.lists.has_room(ranges))?;
        let free = self.capacity.sources.saturating_sub(count(self.lists.used()));
        Some(of(map::SOURCES, ranges.len(), free, self.capacity.sources))
    }

    /// Frees what waits for its readers and, where they are wanted, the ids of backends that no table names.
    fn reclaim(&mut self, row: &FrontendRow, backends: bool, ops: &mut Vec<Op>) {
        let idle = if backends { self.idle(row) } else { Vec::new() };
        if idle.is_empty() && !self.tables.has_retired() && !self.lists.has_retired() {
            return;
        }
        ops.push(Op::AwaitReaders);
        self.tables.release(self.tick);
        self.lists.release(self.tick, ops);
        let mut gone = BTreeSet::new();
        for row in idle {
            self.unwanted.remove(&row);
            if let Some(id) = self.backends.remove(&row) {
                ops.push(Op::DeleteBackend(id));
                self.backend_ids.release(one(id));
                gone.insert(id);
            }
        }
        self.forget_left(|seat, _| gone.contains(&seat.backend), ops);
    }

    /// The backends that no table names, and that of this row does not need.
    fn idle(&self, row: &FrontendRow) -> Vec<BackendRow> {
        let mut named: BTreeSet<&BackendRow> = row.backends.iter().collect();
        named.extend(self.frontends.values().flat_map(|(row, _)| &row.backends));
        self.backends.keys().filter(|row| !named.contains(row)).copied().collect()
    }

    /// Moves tables together until that of this row finds a place, where there is one in all.
    fn make_room(&mut self, row: &FrontendRow, ops: &mut Vec<Op>) {
        let slots = row.table_slots();
        if self.tables.available() < length(slots) {
            return;
        }
        for _ in 0..MOST_MOVES {
            let moved = self.tables.make_room(slots, self.tick);
            if moved.is_empty() {
                return;
            }
            for moved in moved {
                ops.push(Op::WriteTable(moved.to, self.table(&moved.content)));
                for key in moved.users {
                    if let Some((_, value)) = self.frontends.get_mut(&key) {
                        value.table_chunk = moved.to;
                        ops.push(Op::PutFrontend(key, *value));
                    }
                }
            }
            ops.push(Op::AwaitReaders);
            self.tables.release(self.tick);
            if self.tables.has_room(slots) {
                return;
            }
        }
    }

    /// Takes what a frontend needs, all of which is there, and writes it.
    fn claim(&mut self, key: FrontendKey, row: &FrontendRow, ops: &mut Vec<Op>) -> Result<(), Shortage> {
        let before = self.frontends.get(&key).map(|(_, value)| *value);
        let none = |map| Shortage { map, wanted: 1, found: 0, capacity: 0 };
        let id = match before {
            Some(value) => value.id,
            None => self.frontend_ids.take_one().ok_or(none(map::FRONTENDS))?,
        };
        if before.is_none() {
            ops.push(Op::ResetCounters(id));
        }
        for row in &row.backends {
            self.put_backend(row, ops);
        }
        let mut table_chunk = 0;
        if let Some(content) = Content::of(row) {
            let (start, is_new) = self.tables.take(&content, key).ok_or(none(map::TABLES))?;
            if is_new {
                ops.push(Op::WriteTable(start, self.table(&content)));
            }
            table_chunk = start;
        }
        let sources = match &row.sources {
            Some(ranges) => self.lists.take(ranges, ops).ok_or(none(map::SOURCES))?,
            None => 0,
        };
        let (table_slots, backends) = (row.table_slots(), count(row.backends.len()));
        let value = Frontend { id, flags: row.flags, backends, table_chunk, table_slots, sources };
        if let Some(old) = before {
            // It names the same table once more, not another one.
            let keeps = table_slots > 0 && old.table_chunk == table_chunk;
            self.leave(&key, &Frontend { table_slots: if keeps { 0 } else { old.table_slots }, ..old });
        }
        if before != Some(value) {
            ops.push(Op::PutFrontend(key, value));
        }
        self.frontends.insert(key, (row.clone(), value));
        self.found.forget(&key);
        self.adopted.remove(&key);
        Ok(())
    }

    /// Knows a table that was found as the one that this row asks for, if it is.
    fn recognise(&mut self, key: &FrontendKey, row: &FrontendRow) {
        let Some((old, value)) = self.frontends.get(key) else { return };
        let Some(content) = Content::of(row).filter(|content| content.slots == value.table_slots) else { return };
        let has_ids = content.backends.iter().all(|row| self.backends.contains_key(row));
        let start = value.table_chunk;
        if old.flags == FOREIGN && has_ids && self.found.is(key, &self.table(&content)) {
            self.tables.name(start, content);
        }
    }

    /// A table, with the backends' ids.
    fn table(&self, content: &Content) -> Table {
        let ids = content.backends.iter().filter_map(|row| Some((row.place, *self.backends.get(row)?)));
        Table::new(ids.collect(), content.split.clone(), content.slots)
    }
}
