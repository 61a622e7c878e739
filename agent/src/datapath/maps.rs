//! The maps: one way to write them, in the kernel or in memory, and one way to read back what they hold.
use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::LpmTrie};
use sluice_ebpf::{
    Addr, Backend, Counters, Frontend, FrontendKey, SEAT_LEFT, SOURCE_ADMITTED, Seat, Source, TableChunk, Vip, map,
    user,
};

use super::{
    plan::{Observed, Op},
    rows::{source, source_key},
    table::chunks,
};
use crate::telemetry::chain;

/// A map could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[error("map {map}: {reason}")]
pub struct TableError {
    /// The map's name.
    pub map: &'static str,
    /// What the kernel said; `E2BIG` is a full map.
    pub reason: String,
}

/// Something that operations can be run on.
pub trait Tables {
    /// Runs one operation. Removing what is not there is no error.
    ///
    /// # Errors
    /// The write fails; earlier operations stay in effect.
    fn run(&mut self, op: &Op) -> Result<(), TableError>;
}

/// The pinned maps that the agent writes.
pub struct Pinned {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    backends: HashMap<MapData, u32, Backend>,
    tables: Array<MapData, TableChunk>,
    vips: HashMap<MapData, Addr, Vip>,
    counters: PerCpuArray<MapData, Counters>,
    sources: LpmTrie<MapData, Source, u32>,
    left: HashMap<MapData, Seat, u32>,
    cpus: usize,
}

impl Pinned {
    /// Opens the maps below the directory of the pins.
    ///
    /// # Errors
    /// A pin is missing or of another kind.
    pub fn open(dir: &Path) -> Result<Self, TableError> {
        Ok(Self {
            frontends: open(dir, map::FRONTENDS)?,
            backends: open(dir, map::BACKENDS)?,
            tables: open(dir, map::TABLES)?,
            vips: open(dir, map::VIPS)?,
            counters: open(dir, map::COUNTERS)?,
            sources: open(dir, map::SOURCES)?,
            left: open(dir, map::LEFT)?,
            cpus: aya::util::nr_cpus().map_err(|(_, error)| fault(map::COUNTERS, error))?,
        })
    }

    /// Reads everything back.
    ///
    /// # Errors
    /// A read fails.
    pub fn observe(&self) -> Result<Observed, TableError> {
        let mut observed = Observed::default();
        for row in &self.backends {
            let (id, backend) = row.map_err(|e| fault(map::BACKENDS, e))?;
            observed.backends.insert(id, backend);
        }
        for row in &self.vips {
            let (addr, vip) = row.map_err(|e| fault(map::VIPS, e))?;
            observed.vips.insert(addr, vip);
        }
        for seat in self.left.keys() {
            observed.left.insert(seat.map_err(|e| fault(map::LEFT, e))?);
        }
        for row in &self.sources {
            let (key, _) = row.map_err(|e| fault(map::SOURCES, e))?;
            if let Some((list, range)) = source(&key) {
                observed.sources.entry(list).or_default().insert(range);
            }
        }
        // Frontends of equal backends name one table.
        let mut tables: BTreeMap<(u32, u32), Arc<[u32]>> = BTreeMap::new();
        for row in &self.frontends {
            let (key, frontend) = row.map_err(|e| fault(map::FRONTENDS, e))?;
            let at = (frontend.table_chunk, frontend.table_slots);
            if let Some(slots) = tables.get(&at) {
                observed.frontends.insert(key, (frontend, Arc::clone(slots)));
                continue;
            }
            let mut slots = Vec::with_capacity(frontend.table_slots as usize);
            for chunk in 0..chunks(frontend.table_slots) {
                let chunk = self.tables.get(&(frontend.table_chunk + chunk), 0).map_err(|e| fault(map::TABLES, e))?;
                slots.extend(chunk.ids);
            }
            slots.truncate(frontend.table_slots as usize);
            let slots: Arc<[u32]> = slots.into();
            tables.insert(at, Arc::clone(&slots));
            observed.frontends.insert(key, (frontend, slots));
        }
        Ok(observed)
    }
}

/// Opens a pinned map as the type that its user wants.
pub(super) fn open<M: TryFrom<aya::maps::Map, Error = MapError>>(
    dir: &Path,
    name: &'static str,
) -> Result<M, TableError> {
    let data = MapData::from_pin(dir.join(name)).map_err(|e| fault(name, e))?;
    let map = aya::maps::Map::from_map_data(data).map_err(|e| fault(name, e))?;
    M::try_from(map).map_err(|e| fault(name, e))
}

pub(super) fn fault(map: &'static str, error: impl std::error::Error + 'static) -> TableError {
    TableError { map, reason: chain(&error) }
}

/// Removing what is gone already is what was wanted.
fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Tables for Pinned {
    fn run(&mut self, op: &Op) -> Result<(), TableError> {
        match op {
            Op::PutBackend(id, backend) => self.backends.insert(id, backend, 0).map_err(|e| fault(map::BACKENDS, e)),
            Op::WriteTable(first, table) => (*first..)
                .zip(table.chunks())
                .try_for_each(|(index, chunk)| self.tables.set(index, chunk, 0).map_err(|e| fault(map::TABLES, e))),
            Op::ResetCounters(id) => {
                let zeros = PerCpuValues::try_from(vec![Counters::default(); self.cpus])
                    .map_err(|e| fault(map::COUNTERS, e))?;
                self.counters.set(*id, zeros, 0).map_err(|e| fault(map::COUNTERS, e))
            }
            Op::AwaitReaders => {
                user::await_readers();
                Ok(())
            }
            Op::PutSources(list, ranges) => ranges.iter().try_for_each(|range| {
                let written = self.sources.insert(&source_key(*list, range), SOURCE_ADMITTED, 0);
                written.map_err(|e| fault(map::SOURCES, e))
            }),
            Op::PutFrontend(key, value) => self.frontends.insert(key, value, 0).map_err(|e| fault(map::FRONTENDS, e)),
            Op::PutVip(addr, vip) => self.vips.insert(addr, vip, 0).map_err(|e| fault(map::VIPS, e)),
            Op::PutLeft(seat) => self.left.insert(seat, SEAT_LEFT, 0).map_err(|e| fault(map::LEFT, e)),
            Op::DeleteLeft(seat) => absent_is_fine(self.left.remove(seat)).map_err(|e| fault(map::LEFT, e)),
            Op::DeleteFrontend(key) => absent_is_fine(self.frontends.remove(key)).map_err(|e| fault(map::FRONTENDS, e)),
            Op::DeleteVip(addr) => absent_is_fine(self.vips.remove(addr)).map_err(|e| fault(map::VIPS, e)),
            Op::DeleteBackend(id) => absent_is_fine(self.backends.remove(id)).map_err(|e| fault(map::BACKENDS, e)),
            Op::DeleteSources(list, ranges) => ranges.iter().try_for_each(|range| {
                let removed = self.sources.remove(&source_key(*list, range));
                absent_is_fine(removed).map_err(|e| fault(map::SOURCES, e))
            }),
        }
    }
}

/// The maps in memory, with the invariant that the programs rely on.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) frontends: BTreeMap<FrontendKey, Frontend>,
    pub(crate) backends: BTreeMap<u32, Backend>,
    pub(crate) vips: BTreeMap<Addr, Vip>,
    pub(crate) sources: BTreeMap<u32, std::collections::BTreeSet<ipnet::IpNet>>,
    pub(crate) left: std::collections::BTreeSet<Seat>,
    tables: BTreeMap<u32, TableChunk>,
    /// Chunks that packets in flight may still read: those that a frontend named in the last ticks, each apart.
    read: std::collections::VecDeque<std::collections::BTreeSet<u32>>,
}

#[cfg(test)]
impl Memory {
    /// Runs one operation.
    pub(crate) fn run(&mut self, op: &Op) {
        match op {
            Op::PutBackend(id, backend) => drop(self.backends.insert(*id, *backend)),
            Op::WriteTable(first, table) => {
                let chunks: Vec<_> = (*first..).zip(table.chunks()).collect();
                let is_read = |at: &u32| self.read.iter().any(|read| read.contains(at));
                assert!(!chunks.iter().any(|(at, _)| is_read(at)), "a table is written that packets may read");
                self.tables.extend(chunks);
            }
            Op::ResetCounters(_) => {}
            Op::PutFrontend(key, value) => {
                if self.read.is_empty() {
                    self.forget_readers();
                }
                let named = value.table_chunk..value.table_chunk + chunks(value.table_slots);
                self.read.back_mut().unwrap().extend(named);
                self.frontends.insert(*key, *value);
            }
            Op::AwaitReaders => self.forget_readers(),
            Op::PutVip(addr, vip) => drop(self.vips.insert(*addr, *vip)),
            Op::PutLeft(seat) => drop(self.left.insert(*seat)),
            Op::DeleteLeft(seat) => drop(self.left.remove(seat)),
            Op::DeleteFrontend(key) => drop(self.frontends.remove(key)),
            Op::DeleteVip(addr) => drop(self.vips.remove(addr)),
            Op::DeleteBackend(id) => drop(self.backends.remove(id)),
            Op::PutSources(list, ranges) => self.sources.entry(*list).or_default().extend(&ranges[..]),
            Op::DeleteSources(list, _) => drop(self.sources.remove(list)),
        }
    }

    /// Nobody reads what no frontend names any more.
    pub(crate) fn forget_readers(&mut self) {
        self.read = [self.named()].into();
    }

    /// A tick passes: what was named before the last ones is read no more.
    pub(crate) fn tick(&mut self) {
        self.read.push_back(self.named());
        while self.read.len() > usize::try_from(super::plan::KEEP_TICKS).unwrap() {
            self.read.pop_front();
        }
    }

    fn named(&self) -> std::collections::BTreeSet<u32> {
        let named = self.frontends.values();
        named.flat_map(|value| value.table_chunk..value.table_chunk + chunks(value.table_slots)).collect()
    }

    /// What a frontend's list holds; `None` where everybody may come.
    pub(crate) fn ranges(&self, key: &FrontendKey) -> Option<Vec<ipnet::IpNet>> {
        let frontend = &self.frontends[key];
        let is_limited = frontend.flags & sluice_ebpf::FRONTEND_SOURCES != 0;
        is_limited.then(|| self.sources.get(&frontend.sources).into_iter().flatten().copied().collect())
    }

    fn slots(&self, frontend: &Frontend) -> Vec<u32> {
        let chunks = (0..chunks(frontend.table_slots)).map(|c| self.tables[&(frontend.table_chunk + c)]);
        chunks.flat_map(|chunk| chunk.ids).take(frontend.table_slots as usize).collect()
    }

    /// Every slot of every frontend leads to a backend that is there, and the list of each is whole; no two ids are the same, and two
    /// tables are one or apart.
    pub(crate) fn check(&self) {
        let (mut used, mut ids) = (BTreeMap::new(), std::collections::BTreeSet::new());
        for frontend in self.frontends.values() {
            assert!(ids.insert(frontend.id), "two frontends have the id {}", frontend.id);
            let is_limited = frontend.flags & sluice_ebpf::FRONTEND_SOURCES != 0;
            assert_eq!(is_limited, frontend.sources != 0, "a list without a flag, or a flag without a list");
            assert!(
                self.slots(frontend).iter().all(|id| *id == 0 || self.backends.contains_key(id)),
                "a slot without a backend"
            );
            for chunk in 0..chunks(frontend.table_slots) {
                let at = (frontend.table_chunk, frontend.table_slots);
                assert_eq!(*used.entry(frontend.table_chunk + chunk).or_insert(at), at, "two tables in one place");
            }
        }
    }

    /// The distinct backends that a frontend's table leads to.
    pub(crate) fn places(&self, key: &FrontendKey) -> Vec<(Addr, u16)> {
        let ids: std::collections::BTreeSet<u32> =
            self.slots(&self.frontends[key]).into_iter().filter(|id| *id != 0).collect();
        let mut places: Vec<_> = ids.iter().map(|id| (self.backends[id].addr, self.backends[id].port)).collect();
        places.sort_unstable();
        places
    }

    /// What a restart would read.
    pub(crate) fn observed(&self) -> Observed {
        let frontends = self.frontends.iter().map(|(k, f)| (*k, (*f, self.slots(f).into()))).collect();
        let (backends, vips, sources) = (self.backends.clone(), self.vips.clone(), self.sources.clone());
        Observed { frontends, backends, vips, sources, left: self.left.clone() }
    }
}
