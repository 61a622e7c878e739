//! A frontend's lookup table, as it goes into the array of chunks.
//!
//! # Design
//! It is worked out when it is written, not when it is planned: a start writes thousands of them, each of some kilobytes.
use sluice_ebpf::{CHUNK_SLOTS, TableChunk};

use super::rendezvous::{self, Place};

/// A table that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its backends with their ids, sorted and distinct.
    backends: Vec<(Place, u32)>,
    slots: u32,
}

impl Table {
    /// The table of these backends, which must be sorted and distinct.
    #[must_use]
    pub fn new(backends: Vec<(Place, u32)>, slots: u32) -> Self {
        Self { backends, slots }
    }

    /// Its chunks, one after the other.
    #[must_use]
    pub fn chunks(&self) -> Vec<TableChunk> {
        let places: Vec<Place> = self.backends.iter().map(|(place, _)| *place).collect();
        let table = rendezvous::table(&places, self.slots);
        let chunk = |part: &[u32]| {
            let mut chunk = TableChunk::default();
            for (id, index) in chunk.ids.iter_mut().zip(part) {
                *id = self.backends[*index as usize].1;
            }
            chunk
        };
        table.chunks(CHUNK_SLOTS as usize).map(chunk).collect()
    }
}

/// Chunks that hold so many slots.
#[must_use]
pub fn chunks(slots: u32) -> u32 {
    slots.div_ceil(CHUNK_SLOTS)
}
