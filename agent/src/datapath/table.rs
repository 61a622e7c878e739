//! A frontend's lookup table, as it goes into the array of chunks.
//!
//! # Design
//! It is worked out when it is written, not when it is planned: a start writes thousands of them, each of some kilobytes.
use sluice_ebpf::{CHUNK_SLOTS, TableChunk};

use super::rendezvous::{Place, Split};

/// A table that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its backends with their ids, sorted and distinct.
    backends: Vec<(Place, u32)>,
    split: Split,
    slots: u32,
}

impl Table {
    /// The table of these backends, which must be sorted and distinct, and have all members of the shares.
    #[must_use]
    pub fn new(backends: Vec<(Place, u32)>, split: Split, slots: u32) -> Self {
        Self { backends, split, slots }
    }

    /// Its slots: in each the id of a backend, or 0 where there is none.
    #[must_use]
    pub fn ids(&self) -> Vec<u32> {
        let places: Vec<Place> = self.backends.iter().map(|(place, _)| *place).collect();
        let table = self.split.table(&places, self.slots);
        table.into_iter().map(|index| index.map_or(0, |index| self.backends[index as usize].1)).collect()
    }

    /// Its chunks, one after the other.
    #[must_use]
    pub fn chunks(&self) -> Vec<TableChunk> {
        let chunk = |part: &[u32]| {
            let mut chunk = TableChunk::default();
            chunk.ids[..part.len()].copy_from_slice(part);
            chunk
        };
        self.ids().chunks(CHUNK_SLOTS as usize).map(chunk).collect()
    }
}

/// Chunks that hold so many slots.
#[must_use]
pub fn chunks(slots: u32) -> u32 {
    slots.div_ceil(CHUNK_SLOTS)
}
