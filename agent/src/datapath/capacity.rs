//! What fits into the maps, and who is refused where not all does: the youngest.
//!
//! In: all rows. Out: the frontends that find no place, each with what ran out. Pure: the same rows and the same capacity give the same
//! answer, whatever was in the maps before; and what an older object gets does not depend on younger ones.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use sluice_ebpf::{FrontendKey, map};

use super::{
    placement::{Content, length, longest},
    rows::{BackendRow, FrontendRow, Rows},
};
pub use crate::arrows::Capacity;
use crate::model::Ranges;

/// The chunks that tables may take in all: the rest is for those that take another's place, which both are there for a while.
#[must_use]
pub fn for_tables(capacity: &Capacity) -> u32 {
    capacity.chunks - longest().min(capacity.chunks / 8)
}

/// What a frontend did not find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The map that is full.
    pub map: &'static str,
    /// How much of it the frontend takes.
    pub wanted: u64,
    /// How much of it was left.
    pub found: u64,
    /// How much there is.
    pub capacity: u32,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, wanted, found, capacity } = self;
        let what = match *map {
            map::TABLES => "chunks of lookup table",
            map::BACKENDS => "backends",
            map::SOURCES => "source ranges",
            _ => "frontends",
        };
        write!(
            f,
            "the map {map} is full: found {found} of {capacity} {what} free after the older objects, want {wanted}"
        )
    }
}

/// The frontends that do not fit, the oldest object first served, then by name. `kept`: what stays in the maps although no row names it.
#[must_use]
pub fn refused(rows: &Rows, capacity: &Capacity, kept: &[FrontendRow]) -> BTreeMap<FrontendKey, Shortage> {
    let mut room = Room::new(capacity);
    for row in kept {
        room.add(row);
    }
    let mut refused = BTreeMap::new();
    for (key, row) in by_age(rows) {
        match room.shortage(row) {
            Some(shortage) => drop(refused.insert(key, shortage)),
            None => room.add(row),
        }
    }
    refused
}

/// The frontends, those of the oldest object first.
#[must_use]
pub fn by_age(rows: &Rows) -> Vec<(FrontendKey, &FrontendRow)> {
    let mut all: Vec<_> = rows.frontends.iter().map(|(key, row)| (*key, row)).collect();
    all.sort_by(|(_, a), (_, b)| a.age.cmp(&b.age));
    all
}

/// What is left.
struct Room<'a> {
    capacity: &'a Capacity,
    frontends: u32,
    chunks: u32,
    ranges: usize,
    backends: BTreeSet<BackendRow>,
    tables: BTreeSet<Content>,
    lists: BTreeSet<&'a Ranges>,
}

impl<'a> Room<'a> {
    fn new(capacity: &'a Capacity) -> Self {
        let (backends, tables, lists) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        Self { capacity, frontends: 0, chunks: 0, ranges: 0, backends, tables, lists }
    }

    fn shortage(&self, row: &FrontendRow) -> Option<Shortage> {
        let Capacity { frontends, backends, sources, .. } = *self.capacity;
        let new = row.backends.iter().filter(|row| !self.backends.contains(row)).count();
        let table = Content::of(row).filter(|content| !self.tables.contains(content));
        let table = table.map_or(0, |content| length(content.slots));
        let list = row.sources.as_ref().filter(|list| !self.lists.contains(list)).map_or(0, |list| list.len());
        let of = |map, wanted: usize, used: usize, capacity: u32| {
            let found = (capacity as usize).saturating_sub(used);
            (wanted > found).then_some(Shortage { map, wanted: wanted as u64, found: found as u64, capacity })
        };
        of(map::FRONTENDS, 1, self.frontends as usize, frontends)
            .or_else(|| of(map::BACKENDS, new, self.backends.len(), backends))
            .or_else(|| of(map::TABLES, table as usize, self.chunks as usize, for_tables(self.capacity)))
            .or_else(|| of(map::SOURCES, list, self.ranges, sources))
    }

    fn add(&mut self, row: &'a FrontendRow) {
        self.frontends += 1;
        self.backends.extend(&row.backends);
        if let Some(content) = Content::of(row) {
            let length = length(content.slots);
            self.chunks += if self.tables.insert(content) { length } else { 0 };
        }
        if let Some(list) = &row.sources {
            self.ranges += if self.lists.insert(list) { list.len() } else { 0 };
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::{
        api::ObjectName,
        model::{Age, ObjectRef},
    };

    /// The age of a Service.
    pub(crate) fn aged(created: &str, name: &str) -> Age {
        Age::new(Some(created.into()), ObjectRef::new("Service", ObjectName::new("default", name)))
    }

    #[test]
    fn the_older_comes_first_then_the_name_and_files_before_all() {
        let [young, old, same] =
            [aged("2026-11-28T12:00:01Z", "a"), aged("2026-11-28T12:00:00Z", "b"), aged("2026-11-28T12:00:00Z", "c")];
        let of_file = Age::new(None, ObjectRef::new("Service", ObjectName::new("default", "z")));
        let mut all = [&young, &same, &old, &of_file];
        all.sort();
        assert_eq!(all, [&of_file, &old, &same, &young]);
    }
}
