//! Desired rows and what is in the maps -> ordered operations. Pure: the state changes as if every operation succeeds;
//! when one fails, the state is thrown away and read from the maps again.
//!
//! Order: backends, then tables and source lists, then the frontends that name them, then VIPs; removals in reverse, and what
//! a packet in flight may still read (tables, lists, backends) is kept for two ticks. So at no moment does a frontend name a
//! backend, a table or a list that is not there.
//!
//! Start-up, resync and a single change take this one path: they differ in how many rows are looked at.
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use sluice_ebpf::{
    Addr, Backend, FRONTEND_SOURCES, Frontend, FrontendKey, MAX_BACKENDS, MAX_CHUNKS, MAX_FRONTENDS, MAX_SOURCES,
    MAX_VIPS, Vip,
};

use super::{
    desired::Touched,
    lists::Lists,
    maglev::{self, Place},
    rows::{FrontendRow, Rows},
    space::{Run, Space},
    table::{Table, chunks},
};
use crate::model::Ranges;

/// One write to one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Adds or replaces a backend.
    PutBackend(u32, Backend),
    /// Writes a table from this chunk on.
    WriteTable(u32, Table),
    /// Writes the ranges of a list.
    PutSources(u32, Ranges),
    /// Sets a frontend's counters to zero before their id is used again.
    ResetCounters(u32),
    /// Adds or replaces a frontend: publishes its table.
    PutFrontend(FrontendKey, Frontend),
    /// Adds or replaces a VIP.
    PutVip(Addr, Vip),
    /// Removes a frontend.
    DeleteFrontend(FrontendKey),
    /// Removes a VIP.
    DeleteVip(Addr),
    /// Removes a backend.
    DeleteBackend(u32),
    /// Removes the ranges of a list.
    DeleteSources(u32, Ranges),
}

/// What the maps held when they were read.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The frontends, each with its table's slots.
    pub frontends: BTreeMap<FrontendKey, (Frontend, Vec<u32>)>,
    /// The backends.
    pub backends: BTreeMap<u32, Backend>,
    /// The VIPs.
    pub vips: BTreeMap<Addr, Vip>,
    /// The ranges of each list.
    pub sources: BTreeMap<u32, BTreeSet<IpNet>>,
}

/// What is in the maps, with the ids and places that are in use.
#[derive(Debug)]
pub struct State {
    frontends: BTreeMap<FrontendKey, (FrontendRow, Frontend)>,
    backends: BTreeMap<Place, Held>,
    vips: BTreeMap<Addr, Vip>,
    lists: Lists,
    chunks: Space,
    frontend_ids: Space,
    backend_ids: Space,
    tick: u64,
    /// Tables that no frontend names any more, with the tick at which they were left.
    retired: Vec<(u64, Run)>,
    /// Backends that no row wants any more, with the tick since when.
    unwanted: BTreeMap<Place, u64>,
    /// Frontends that were found in the maps and that no model has named since.
    adopted: BTreeSet<FrontendKey>,
    /// Whether those stay.
    keep_adopted: bool,
}

/// What stays although no row names it.
#[derive(Debug, Default)]
struct Kept {
    frontends: BTreeSet<FrontendKey>,
    vips: BTreeSet<Addr>,
    backends: BTreeSet<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    id: u32,
    flags: u16,
}

/// The flags of a row whose table is not ours: no desired row equals it.
const FOREIGN: u32 = u32::MAX;

/// Ticks for which what a packet may still read is kept.
pub(super) const KEEP_TICKS: u64 = 2;

impl State {
    /// The state of maps that were just read.
    #[must_use]
    pub fn new(observed: &Observed) -> Self {
        let mut state = Self {
            frontends: BTreeMap::new(),
            backends: BTreeMap::new(),
            vips: observed.vips.clone(),
            lists: Lists::new(&observed.sources),
            chunks: Space::new(0, MAX_CHUNKS),
            frontend_ids: Space::new(0, MAX_FRONTENDS),
            // 0 in a table means no backend.
            backend_ids: Space::new(1, MAX_BACKENDS),
            tick: 0,
            retired: Vec::new(),
            unwanted: BTreeMap::new(),
            adopted: observed.frontends.keys().copied().collect(),
            keep_adopted: false,
        };
        for (&id, backend) in &observed.backends {
            state.backend_ids.reserve(one(id));
            let held = Held { id, flags: backend.flags };
            state.backends.insert((backend.addr, backend.port), held);
        }
        for (&key, (frontend, slots)) in &observed.frontends {
            state.frontend_ids.reserve(one(frontend.id));
            state.chunks.reserve(Run { start: frontend.table_chunk, len: chunks(frontend.table_slots) });
            let is_limited = frontend.flags & FRONTEND_SOURCES != 0 && frontend.sources != 0;
            let sources = is_limited.then(|| state.lists.adopt(frontend.sources));
            state.frontends.insert(key, (observed_row(frontend, slots, &observed.backends, sources), *frontend));
        }
        state.lists.settle(state.tick);
        state
    }

    /// The operations that lead from here to `desired`, and what could not be placed, as sentences.
    pub fn plan(&mut self, desired: &Rows) -> (Vec<Op>, Vec<String>) {
        let everything = Touched {
            frontends: self.frontends.keys().chain(desired.frontends.keys()).copied().collect(),
            backends: self.backends.keys().chain(desired.backends.keys()).copied().collect(),
            vips: self.vips.keys().chain(desired.vips.keys()).copied().collect(),
            ..Touched::default()
        };
        self.follow(desired, &everything)
    }

    /// As [`Self::plan`], for when all rows but `touched` are as they were at the last plan, which had no fault.
    pub fn follow(&mut self, desired: &Rows, touched: &Touched) -> (Vec<Op>, Vec<String>) {
        let (mut ops, mut faults) = (Vec::new(), Vec::new());
        self.put_backends(desired, touched, &mut ops, &mut faults);
        for key in &touched.frontends {
            if let Some(row) = desired.frontends.get(key)
                && !self.is_placed(key, row)
                && let Err(fault) = self.put_frontend(*key, row, &mut ops)
            {
                faults.push(fault);
            }
        }
        for &addr in &touched.vips {
            if let Some(&vip) = desired.vips.get(&addr)
                && self.vips.get(&addr) != Some(&vip)
            {
                if self.vips.len() >= MAX_VIPS as usize && !self.vips.contains_key(&addr) {
                    faults.push(format!("VIP {}: {MAX_VIPS} are in use, the most there can be", super::rows::ip(addr)));
                    continue;
                }
                ops.push(Op::PutVip(addr, vip));
                self.vips.insert(addr, vip);
            }
        }
        self.delete(desired, touched, &mut ops);
        (ops, faults)
    }

    fn put_backends(&mut self, desired: &Rows, touched: &Touched, ops: &mut Vec<Op>, faults: &mut Vec<String>) {
        for &(addr, port) in &touched.backends {
            let Some(&flags) = desired.backends.get(&(addr, port)) else { continue };
            let known = self.backends.get(&(addr, port)).copied();
            let id = match known.map(|held| held.id).or_else(|| self.backend_ids.take_one()) {
                Some(id) => id,
                None => {
                    let ip = super::rows::ip(addr);
                    faults.push(format!("backend {ip} port {port}: {MAX_BACKENDS} are in use, the most there can be"));
                    continue;
                }
            };
            if known.is_none_or(|held| held.flags != flags) {
                ops.push(Op::PutBackend(id, Backend { addr, port, flags }));
            }
            self.unwanted.remove(&(addr, port));
            self.backends.insert((addr, port), Held { id, flags });
        }
    }

    /// Whether a frontend is in the maps, whatever it leads to.
    #[must_use]
    pub fn has_frontend(&self, key: &FrontendKey) -> bool {
        self.frontends.contains_key(key)
    }

    /// Whether a frontend is there as it shall be; then a model has named it.
    fn is_placed(&mut self, key: &FrontendKey, row: &FrontendRow) -> bool {
        let placed = self.frontends.get(key).is_some_and(|(placed, _)| placed == row);
        if placed {
            self.adopted.remove(key);
        }
        placed
    }

    fn put_frontend(&mut self, key: FrontendKey, row: &FrontendRow, ops: &mut Vec<Op>) -> Result<(), String> {
        let name = || format!("frontend {} port {}", super::rows::ip(key.vip), key.port);
        if let Some(ranges) = row.sources.as_ref().filter(|ranges| !self.lists.has_room(ranges)) {
            return Err(format!(
                "{}: no room for its {} source ranges, {MAX_SOURCES} are the most",
                name(),
                ranges.len()
            ));
        }
        let before = self.frontends.get(&key).cloned();
        let id = match before.as_ref().map(|(_, value)| value.id) {
            Some(id) => id,
            None => {
                let id = self.frontend_ids.take_one();
                let id = id.ok_or_else(|| format!("{}: {MAX_FRONTENDS} are in use, the most there can be", name()))?;
                ops.push(Op::ResetCounters(id));
                id
            }
        };
        // A backend that found no id is left out of the table; `put_backends` has said so.
        let ids: Vec<(Place, u32)> =
            row.backends.iter().filter_map(|place| Some((*place, self.backends.get(place)?.id))).collect();
        let mut value = Frontend { id, flags: row.flags, backends: count(ids.len()), ..Frontend::default() };
        match &before {
            Some((old_row, old)) if old_row.flags != FOREIGN && old_row.backends == row.backends => {
                value.table_chunk = old.table_chunk;
                value.table_slots = old.table_slots;
            }
            _ => {
                let (run, slots) =
                    self.take_table(ids.len()).ok_or_else(|| format!("{}: no space for its table", name()))?;
                if slots > 0 {
                    ops.push(Op::WriteTable(run.start, Table::new(ids, slots)));
                }
                value.table_chunk = run.start;
                value.table_slots = slots;
                if let Some((_, old)) = &before {
                    self.retire(old);
                }
            }
        }
        if let Some(ranges) = &row.sources {
            value.sources = self.lists.take(ranges, ops).ok_or_else(|| format!("{}: no id for its sources", name()))?;
        }
        if let Some((_, old)) = &before {
            self.leave_list(old);
        }
        ops.push(Op::PutFrontend(key, value));
        self.frontends.insert(key, (row.clone(), value));
        self.adopted.remove(&key);
        Ok(())
    }

    /// Space for a table of so many backends; a smaller one where the array is nearly full.
    fn take_table(&mut self, backends: usize) -> Option<(Run, u32)> {
        let mut slots = maglev::slots(backends);
        if slots == 0 {
            return Some((Run { start: 0, len: 0 }, 0));
        }
        loop {
            if let Some(run) = self.chunks.take(chunks(slots)) {
                return Some((run, slots));
            }
            slots = maglev::smaller(slots)?;
        }
    }

    fn leave_list(&mut self, value: &Frontend) {
        if value.flags & FRONTEND_SOURCES != 0 {
            self.lists.leave(value.sources, self.tick);
        }
    }

    fn retire(&mut self, value: &Frontend) {
        if value.table_slots > 0 {
            self.retired.push((self.tick, Run { start: value.table_chunk, len: chunks(value.table_slots) }));
        }
    }

    /// Whether frontends that an earlier run has left, and that no model has named since, stay: what cannot be read yet is
    /// not gone. Returns whether that lets go of any, which takes a whole plan to find.
    pub fn keep_adopted(&mut self, keep: bool) -> bool {
        let lets_go = self.keep_adopted && !keep && !self.adopted.is_empty();
        self.keep_adopted = keep;
        if !keep {
            self.adopted.clear();
        }
        lets_go
    }

    /// The frontends, with their VIPs and backends, that stay although no row names them.
    fn kept(&self, desired: &Rows) -> Kept {
        let mut kept = Kept::default();
        if self.keep_adopted {
            for key in self.adopted.iter().filter(|key| !desired.frontends.contains_key(key)) {
                kept.vips.insert(key.vip);
                kept.backends.extend(self.frontends.get(key).into_iter().flat_map(|(row, _)| &row.backends));
                kept.frontends.insert(*key);
            }
        }
        kept
    }

    fn delete(&mut self, desired: &Rows, touched: &Touched, ops: &mut Vec<Op>) {
        let kept = self.kept(desired);
        for key in touched.frontends.iter().filter(|key| !desired.frontends.contains_key(key)) {
            if kept.frontends.contains(key) {
                continue;
            }
            if let Some((_, value)) = self.frontends.remove(key) {
                ops.push(Op::DeleteFrontend(*key));
                self.frontend_ids.release(one(value.id));
                self.retire(&value);
                self.leave_list(&value);
            }
        }
        for addr in touched.vips.iter().filter(|a| !desired.vips.contains_key(a) && !kept.vips.contains(a)) {
            if self.vips.remove(addr).is_some() {
                ops.push(Op::DeleteVip(*addr));
            }
        }
        for place in touched.backends.iter().filter(|p| !desired.backends.contains_key(p) && !kept.backends.contains(p))
        {
            if self.backends.contains_key(place) {
                self.unwanted.entry(*place).or_insert(self.tick);
            }
        }
    }

    /// Lets time pass: removes what no packet in flight can read any more. Call it about once a second.
    pub fn tick(&mut self) -> Vec<Op> {
        self.tick += 1;
        let tick = self.tick;
        let old = |since: u64| tick - since >= KEEP_TICKS;
        let chunks = &mut self.chunks;
        self.retired.retain(|(since, run)| {
            let keep = !old(*since);
            if !keep {
                chunks.release(*run);
            }
            keep
        });
        let mut ops = Vec::new();
        self.lists.tick(tick, &mut ops);
        let Self { backends, backend_ids, unwanted, .. } = self;
        unwanted.retain(|place, since| {
            let keep = !old(*since);
            if !keep && let Some(held) = backends.remove(place) {
                ops.push(Op::DeleteBackend(held.id));
                backend_ids.release(one(held.id));
            }
            keep
        });
        ops
    }

    /// Occupancy for metrics: frontends, backends, table chunks, source ranges in use.
    #[must_use]
    pub fn occupancy(&self) -> (usize, usize, u32, usize) {
        (self.frontends.len(), self.backends.len(), MAX_CHUNKS - self.chunks.available(), self.lists.used())
    }
}

/// The row that would have led to what was found. A table that we would not have written is no row of ours: its
/// frontend is written again.
fn observed_row(
    frontend: &Frontend,
    slots: &[u32],
    backends: &BTreeMap<u32, Backend>,
    sources: Option<Ranges>,
) -> FrontendRow {
    let ids: BTreeSet<u32> = slots.iter().copied().collect();
    let mut places: Vec<Place> = ids.iter().filter_map(|id| backends.get(id)).map(|b| (b.addr, b.port)).collect();
    places.sort_unstable();
    let table = maglev::table(&places, frontend.table_slots);
    let same = table.len() == slots.len()
        && table.iter().zip(slots).all(|(index, id)| {
            backends.get(id).is_some_and(|b| places.get(*index as usize) == Some(&(b.addr, b.port)))
        });
    if same {
        FrontendRow { flags: frontend.flags, backends: places, sources }
    } else {
        FrontendRow { flags: FOREIGN, ..FrontendRow::default() }
    }
}

fn one(id: u32) -> Run {
    Run { start: id, len: 1 }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
