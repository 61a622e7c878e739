//! Desired rows and what is in the maps -> ordered operations. Pure: the state changes as if every operation succeeds;
//! when one fails, the state is thrown away and read from the maps again.
//!
//! Order: frontends and VIPs that are gone, then backends, tables and source lists, then the frontends that name them, then VIPs. What
//! a packet in flight may still read (tables, lists, backends) is kept for two ticks, or until [`Op::AwaitReaders`] where its place is
//! wanted sooner. So at no moment does a frontend name a backend, a table or a list that is not there, and what waits to be freed
//! keeps nobody out.
//!
//! Start-up, resync and a single change take this one path: they differ in how many rows are looked at. Where not everything
//! fits, all of it is looked at, the oldest object first ([`claim`]).
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use sluice_ebpf::{
    Addr, Backend, CT_TCP_OPENING_NS, FRONTEND_SOURCES, Frontend, FrontendKey, MAX_LEFT, MAX_VIPS, Seat, Vip,
};

use super::{
    adopted::{FOREIGN, Found, backend_row},
    capacity::{self, Capacity, Shortage},
    desired::Touched,
    lists::Lists,
    placement::{Content, Placement},
    rows::{BackendRow, FrontendRow, Rows},
    space::{Run, Space},
    table::Table,
};
use crate::model::Ranges;

mod claim;

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
    /// Waits until no packet reads any more what operations before this one have replaced or removed.
    AwaitReaders,
}

/// The frontends that are not in the maps, each with what ran out.
pub type Refused = BTreeMap<FrontendKey, Shortage>;

/// What the maps held when they were read.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The frontends, each with its table's slots.
    pub frontends: BTreeMap<FrontendKey, (Frontend, Arc<[u32]>)>,
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
    tables: Placement,
    frontend_ids: Space,
    backend_ids: Space,
    capacity: Capacity,
    tick: u64,
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
    /// At the last plan not all frontends found a place.
    is_short: bool,
}

/// What stays although no row names it.
#[derive(Debug, Default)]
struct Kept {
    frontends: BTreeSet<FrontendKey>,
    vips: BTreeSet<Addr>,
    backends: BTreeSet<BackendRow>,
}

/// Ticks for which what a packet may still read is kept.
pub(super) const KEEP_TICKS: u64 = 2;
/// Ticks for which it is remembered that a backend has left: as long as a flow without an answer is, and some more.
const LEFT_TICKS: u64 = CT_TCP_OPENING_NS / 1_000_000_000 + 5;

impl State {
    /// The state of maps that were just read, and hold so much.
    #[must_use]
    pub fn new(observed: &Observed, capacity: Capacity) -> Self {
        let mut lists = Lists::new(&observed.sources, capacity.sources as usize);
        let mut found = Found::default();
        let mut rows = BTreeMap::new();
        let mut frontend_ids = Space::new(0, capacity.frontends);
        for (&key, (frontend, slots)) in &observed.frontends {
            frontend_ids.reserve(one(frontend.id));
            let is_limited = frontend.flags & FRONTEND_SOURCES != 0 && frontend.sources != 0;
            let sources = is_limited.then(|| lists.adopt(frontend.sources));
            let row = found.row(key, (frontend, slots), &observed.backends, sources);
            rows.insert(key, (row, *frontend));
        }
        lists.settle(0);
        let tables = Placement::new(
            capacity.chunks,
            rows.iter()
                .map(|(key, (row, frontend))| (key, frontend, Content::of(row).filter(|_| row.flags != FOREIGN))),
        );
        let mut state = Self {
            frontends: rows,
            backends: BTreeMap::new(),
            vips: observed.vips.clone(),
            lists,
            tables,
            frontend_ids,
            // 0 in a table means no backend.
            backend_ids: Space::new(1, capacity.backends.saturating_add(1)),
            capacity,
            tick: 0,
            unwanted: BTreeMap::new(),
            left: observed.left.iter().map(|seat| (*seat, 0)).collect(),
            adopted: observed.frontends.keys().copied().collect(),
            found,
            keep_adopted: false,
            is_short: false,
        };
        for (&id, backend) in &observed.backends {
            state.backend_ids.reserve(one(id));
            state.backends.insert(backend_row(backend), id);
        }
        state
    }

    /// How much the maps hold.
    #[must_use]
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// The operations that lead from here to `desired`, and what finds no place.
    pub fn plan(&mut self, desired: &Rows) -> (Vec<Op>, Refused) {
        let everything = Touched {
            frontends: self.frontends.keys().chain(desired.frontends.keys()).copied().collect(),
            backends: self.backends.keys().chain(&desired.backends).copied().collect(),
            vips: self.vips.keys().chain(desired.vips.keys()).copied().collect(),
            ..Touched::default()
        };
        self.follow(desired, &everything)
    }

    /// As [`Self::plan`], for when all rows but `touched` are as they were at the last plan, which refused none.
    pub fn follow(&mut self, desired: &Rows, touched: &Touched) -> (Vec<Op>, Refused) {
        let mut ops = Vec::new();
        let kept = self.kept(desired);
        self.delete(desired, touched, &kept, &mut ops);
        let fits = !self.is_short && self.put_touched(desired, touched, &mut ops);
        let refused = if fits { Refused::new() } else { self.put_by_age(desired, &kept, &mut ops) };
        self.is_short = !refused.is_empty();
        self.put_vips(desired, touched, &mut ops);
        self.note_left(touched, &mut ops);
        (ops, refused)
    }

    /// Puts what was touched as long as it fits; whether all of it did.
    fn put_touched(&mut self, desired: &Rows, touched: &Touched, ops: &mut Vec<Op>) -> bool {
        for row in touched.backends.iter().filter(|row| desired.backends.contains(row)) {
            self.unwanted.remove(row);
        }
        // All backends first: those that merely drain are in no table.
        for row in touched.backends.iter().filter(|row| desired.backends.contains(row)) {
            self.put_backend(row, ops);
        }
        let fit = touched.frontends.iter().all(|key| {
            let Some(row) = desired.frontends.get(key) else { return true };
            self.is_placed(key, row) || self.put_frontend(*key, row, ops).is_ok()
        });
        fit && self.tables.named() <= capacity::for_tables(&self.capacity)
    }

    fn put_vips(&mut self, desired: &Rows, touched: &Touched, ops: &mut Vec<Op>) {
        let wanted = touched.vips.iter().filter_map(|addr| Some((*addr, *desired.vips.get(addr)?)));
        // There is room for those that have a frontend in the maps: what is left is for the others.
        let (served, others): (Vec<_>, Vec<_>) = wanted.partition(|(addr, _)| self.serves(*addr));
        for (addr, vip) in served.into_iter().chain(others) {
            let is_full = self.vips.len() >= MAX_VIPS as usize && !self.vips.contains_key(&addr);
            if self.vips.get(&addr) != Some(&vip) && !is_full {
                ops.push(Op::PutVip(addr, vip));
                self.vips.insert(addr, vip);
            }
        }
    }

    /// Whether a frontend of this address is in the maps.
    fn serves(&self, vip: Addr) -> bool {
        let first = FrontendKey { vip, port: 0, proto: 0, family: 0 };
        let last = FrontendKey { vip, port: u16::MAX, proto: u8::MAX, family: u8::MAX };
        self.frontends.range(first..=last).next().is_some()
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

    /// Gives a backend an id if one is free; whether it has one.
    fn put_backend(&mut self, row: &BackendRow, ops: &mut Vec<Op>) -> bool {
        if self.backends.contains_key(row) {
            return true;
        }
        let &BackendRow { place: (addr, port), flags } = row;
        let Some(id) = self.backend_ids.take_one() else { return false };
        ops.push(Op::PutBackend(id, Backend { addr, port, flags }));
        self.backends.insert(*row, id);
        true
    }

    /// Whether a frontend is in the maps, whatever it leads to.
    #[must_use]
    pub fn has_frontend(&self, key: &FrontendKey) -> bool {
        self.frontends.contains_key(key)
    }

    /// Whether a frontend is there as it shall be; then a model has named it.
    fn is_placed(&mut self, key: &FrontendKey, row: &FrontendRow) -> bool {
        let placed = self.frontends.get(key).is_some_and(|(placed, _)| placed.says_what(row));
        if placed {
            self.adopted.remove(key);
        }
        placed
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

    fn delete(&mut self, desired: &Rows, touched: &Touched, kept: &Kept, ops: &mut Vec<Op>) {
        for key in touched.frontends.iter().filter(|key| !desired.frontends.contains_key(key)) {
            if !kept.frontends.contains(key) {
                self.delete_frontend(key, ops);
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

    fn delete_frontend(&mut self, key: &FrontendKey, ops: &mut Vec<Op>) {
        if let Some((_, value)) = self.frontends.remove(key) {
            ops.push(Op::DeleteFrontend(*key));
            self.found.forget(key);
            self.forget_left(|seat, _| seat.frontend == value.id, ops);
            self.frontend_ids.release(one(value.id));
            self.leave(key, &value);
        }
    }

    /// A frontend names its table and its list no more.
    fn leave(&mut self, key: &FrontendKey, value: &Frontend) {
        if value.table_slots > 0 {
            self.tables.leave(value.table_chunk, key, self.tick);
        }
        if value.flags & FRONTEND_SOURCES != 0 {
            self.lists.leave(value.sources, self.tick);
        }
    }

    /// Lets time pass: removes what no packet in flight can read any more. Call it about once a second.
    pub fn tick(&mut self) -> Vec<Op> {
        self.tick += 1;
        let tick = self.tick;
        let old = |since: u64| tick - since >= KEEP_TICKS;
        if let Some(before) = tick.checked_sub(KEEP_TICKS) {
            self.tables.release(before);
        }
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
        (self.frontends.len(), self.backends.len(), self.tables.used(), self.lists.used())
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
