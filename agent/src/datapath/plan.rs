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
    Addr, Backend, CT_TCP_OPENING_NS, FRONTEND_SOURCES, Frontend, FrontendKey, MAX_BACKENDS, MAX_CHUNKS, MAX_FRONTENDS,
    MAX_LEFT, MAX_SOURCES, MAX_VIPS, Seat, Vip,
};

use super::{
    adopted::{FOREIGN, Found, backend_row},
    desired::Touched,
    lists::Lists,
    rendezvous,
    rows::{BackendRow, FrontendRow, Rows},
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
    /// Remembers that a backend has left a frontend.
    PutLeft(Seat),
    /// Forgets it.
    DeleteLeft(Seat),
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
    /// Which backends have left which frontends.
    pub left: BTreeSet<Seat>,
}

/// What is in the maps, with the ids and places that are in use.
#[derive(Debug)]
pub struct State {
    frontends: BTreeMap<FrontendKey, (FrontendRow, Frontend)>,
    /// With their ids.
    backends: BTreeMap<BackendRow, u32>,
    vips: BTreeMap<Addr, Vip>,
    lists: Lists,
    chunks: Space,
    frontend_ids: Space,
    backend_ids: Space,
    tick: u64,
    /// Tables that no frontend names any more, with the tick at which they were left.
    retired: Vec<(u64, Run)>,
    /// Backends that no row wants any more, with the tick since when.
    unwanted: BTreeMap<BackendRow, u64>,
    /// Which backends have left which frontends, with the tick at which they did.
    left: BTreeMap<Seat, u64>,
    /// Frontends that were found in the maps and that no model has named since.
    adopted: BTreeSet<FrontendKey>,
    /// The tables among those that are not of equal shares.
    found: Found,
    /// Whether frontends that were found stay.
    keep_adopted: bool,
}

/// What a frontend has taken.
struct Claimed {
    id: u32,
    /// Nobody counts under this id yet.
    is_new: bool,
    /// Where its table is, and its size.
    run: Run,
    slots: u32,
    /// Its list of sources; 0 is none.
    sources: u32,
    /// What writes that list.
    list: Vec<Op>,
}

/// What stays although no row names it.
#[derive(Debug, Default)]
struct Kept {
    frontends: BTreeSet<FrontendKey>,
    vips: BTreeSet<Addr>,
    backends: BTreeSet<BackendRow>,
}

/// Chunks that only the smallest tables get: where space is short, many frontends have small tables and not a few large ones.
const RESERVE: u32 = MAX_CHUNKS / 8;

/// Ticks for which what a packet may still read is kept.
pub(super) const KEEP_TICKS: u64 = 2;
/// Ticks for which it is remembered that a backend has left: as long as a flow without an answer is, and some more.
const LEFT_TICKS: u64 = CT_TCP_OPENING_NS / 1_000_000_000 + 5;

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
            left: observed.left.iter().map(|seat| (*seat, 0)).collect(),
            adopted: observed.frontends.keys().copied().collect(),
            found: Found::default(),
            keep_adopted: false,
        };
        for (&id, backend) in &observed.backends {
            state.backend_ids.reserve(one(id));
            state.backends.insert(backend_row(backend), id);
        }
        for (&key, (frontend, slots)) in &observed.frontends {
            state.frontend_ids.reserve(one(frontend.id));
            state.chunks.reserve(Run { start: frontend.table_chunk, len: chunks(frontend.table_slots) });
            let is_limited = frontend.flags & FRONTEND_SOURCES != 0 && frontend.sources != 0;
            let sources = is_limited.then(|| state.lists.adopt(frontend.sources));
            let row = state.found.row(key, (frontend, slots), &observed.backends, sources);
            state.frontends.insert(key, (row, *frontend));
        }
        state.lists.settle(state.tick);
        state
    }

    /// The operations that lead from here to `desired`, and what could not be placed, as sentences.
    pub fn plan(&mut self, desired: &Rows) -> (Vec<Op>, Vec<String>) {
        let everything = Touched {
            frontends: self.frontends.keys().chain(desired.frontends.keys()).copied().collect(),
            backends: self.backends.keys().chain(&desired.backends).copied().collect(),
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
        self.note_left(touched, &mut ops);
        (ops, faults)
    }

    /// Remembers which backends have left which frontends, and forgets it of those that are back.
    fn note_left(&mut self, touched: &Touched, ops: &mut Vec<Op>) {
        for (key, row) in &touched.left {
            let (Some((_, value)), Some(&backend)) = (self.frontends.get(key), self.backends.get(row)) else {
                continue;
            };
            let seat = Seat { frontend: value.id, backend };
            if self.left.len() < MAX_LEFT as usize && self.left.insert(seat, self.tick).is_none() {
                ops.push(Op::PutLeft(seat));
            }
        }
        if self.left.is_empty() {
            return;
        }
        let placed = touched.frontends.iter().filter_map(|key| self.frontends.get(key));
        let seats = placed.flat_map(|(row, value)| {
            let ids = row.backends.iter().filter_map(|row| self.backends.get(row));
            ids.map(|backend| Seat { frontend: value.id, backend: *backend })
        });
        for seat in seats {
            if self.left.remove(&seat).is_some() {
                ops.push(Op::DeleteLeft(seat));
            }
        }
    }

    /// Forgets who has left where that can mean nothing any more.
    fn forget_left(&mut self, is_over: impl Fn(Seat, u64) -> bool, ops: &mut Vec<Op>) {
        self.left.retain(|seat, since| {
            let is_over = is_over(*seat, *since);
            if is_over {
                ops.push(Op::DeleteLeft(*seat));
            }
            !is_over
        });
    }

    fn put_backends(&mut self, desired: &Rows, touched: &Touched, ops: &mut Vec<Op>, faults: &mut Vec<String>) {
        for row in touched.backends.iter().filter(|row| desired.backends.contains(row)) {
            self.unwanted.remove(row);
            if self.backends.contains_key(row) {
                continue;
            }
            let &BackendRow { place: (addr, port), flags } = row;
            let Some(id) = self.backend_ids.take_one() else {
                let ip = super::rows::ip(addr);
                faults.push(format!("backend {ip} port {port}: {MAX_BACKENDS} are in use, the most there can be"));
                continue;
            };
            ops.push(Op::PutBackend(id, Backend { addr, port, flags }));
            self.backends.insert(*row, id);
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
        // A backend that found no id is left out of the table until it has one; `put_backends` has said so.
        let mut row = row.clone();
        row.retain(|backend| self.backends.contains_key(backend));
        let before = self.frontends.get(&key).cloned();
        let kept = before.as_ref().filter(|(old, value)| self.has_table(&key, (old, value), &row));
        let kept = kept.map(|(_, value)| (value.table_chunk, value.table_slots));
        let id = before.as_ref().map(|(_, value)| value.id);
        let claimed = self.claim(&row, id, kept);
        let Claimed { id, is_new, run, slots, sources, list } =
            claimed.map_err(|why| format!("frontend {} port {}: {why}", super::rows::ip(key.vip), key.port))?;
        if is_new {
            ops.push(Op::ResetCounters(id));
        }
        if kept.is_none() && slots > 0 {
            ops.push(Op::WriteTable(run.start, self.table(&row, slots)));
        }
        ops.extend(list);
        if let Some((_, old)) = &before {
            if kept.is_none() {
                self.retire(old);
            }
            self.leave_list(old);
        }
        let backends = count(row.backends.len());
        let value = Frontend { id, flags: row.flags, backends, table_chunk: run.start, table_slots: slots, sources };
        if before.is_none_or(|(_, old)| old != value) {
            ops.push(Op::PutFrontend(key, value));
        }
        self.frontends.insert(key, (row, value));
        self.adopted.remove(&key);
        Ok(())
    }

    /// The table of a frontend, with the backends' ids.
    fn table(&self, row: &FrontendRow, slots: u32) -> Table {
        let ids = row.backends.iter().filter_map(|row| Some((row.place, *self.backends.get(row)?)));
        Table::new(ids.collect(), row.split.clone(), slots)
    }

    /// Whether the table that a frontend has is the one that this row asks for.
    fn has_table(&mut self, key: &FrontendKey, (old, value): (&FrontendRow, &Frontend), row: &FrontendRow) -> bool {
        if old.flags != FOREIGN {
            return old.backends == row.backends && old.split == row.split;
        }
        let slots = value.table_slots;
        slots == rendezvous::slots(row.split.sized_for(row.backends.len())) && {
            let table = self.table(row, slots);
            self.found.is(key, &table)
        }
    }

    /// Takes what a frontend needs that has none of it yet (`id`) or keeps its table (`kept`): all of it or, with the reason why
    /// not, nothing.
    fn claim(&mut self, row: &FrontendRow, id: Option<u32>, kept: Option<(u32, u32)>) -> Result<Claimed, String> {
        if let Some(ranges) = row.sources.as_ref().filter(|ranges| !self.lists.has_room(ranges)) {
            return Err(format!("no room for its {} source ranges, {MAX_SOURCES} are the most", ranges.len()));
        }
        let (run, slots) = match kept {
            Some((start, slots)) => (Run { start, len: chunks(slots) }, slots),
            None => self.take_table(row.split.sized_for(row.backends.len())).ok_or("no space for its table")?,
        };
        let mut list = Vec::new();
        let claimed = match id.or_else(|| self.frontend_ids.take_one()) {
            None => Err(format!("{MAX_FRONTENDS} are in use, the most there can be")),
            Some(taken) => match &row.sources {
                None => Ok((taken, 0)),
                Some(ranges) => self.lists.take(ranges, &mut list).map(|sources| (taken, sources)).ok_or_else(|| {
                    if id.is_none() {
                        self.frontend_ids.release(one(taken));
                    }
                    "no id for its sources".to_owned()
                }),
            },
        };
        match claimed {
            Ok((taken, sources)) => Ok(Claimed { id: taken, is_new: id.is_none(), run, slots, sources, list }),
            Err(why) => {
                if kept.is_none() {
                    self.chunks.release(run);
                }
                Err(why)
            }
        }
    }

    /// Space for a table of so many backends; a smaller one where the array is nearly full.
    fn take_table(&mut self, backends: usize) -> Option<(Run, u32)> {
        let mut slots = rendezvous::slots(backends);
        if slots == 0 {
            return Some((Run { start: 0, len: 0 }, 0));
        }
        loop {
            let reserve = if slots > rendezvous::SMALLEST { RESERVE } else { 0 };
            if self.chunks.available() >= chunks(slots) + reserve
                && let Some(run) = self.chunks.take(chunks(slots))
            {
                return Some((run, slots));
            }
            slots = rendezvous::smaller(slots)?;
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
                self.found.forget(key);
                self.forget_left(|seat, _| seat.frontend == value.id, ops);
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
        for row in touched.backends.iter().filter(|row| !desired.backends.contains(row) && !kept.backends.contains(row))
        {
            if self.backends.contains_key(row) {
                self.unwanted.entry(*row).or_insert(self.tick);
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
        let mut gone = BTreeSet::new();
        unwanted.retain(|row, since| {
            let keep = !old(*since);
            if !keep && let Some(id) = backends.remove(row) {
                ops.push(Op::DeleteBackend(id));
                backend_ids.release(one(id));
                gone.insert(id);
            }
            keep
        });
        self.forget_left(|seat, since| tick - since >= LEFT_TICKS || gone.contains(&seat.backend), &mut ops);
        ops
    }

    /// Occupancy for metrics: frontends, backends, table chunks, source ranges in use.
    #[must_use]
    pub fn occupancy(&self) -> (usize, usize, u32, usize) {
        (self.frontends.len(), self.backends.len(), MAX_CHUNKS - self.chunks.available(), self.lists.used())
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
