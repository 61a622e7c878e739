//! What a start finds in the maps, as the rows that would have led to it.
//!
//! In: frontends with the slots of their tables. Out: rows that compare with the desired ones, so that a start writes what differs
//! and nothing else. A table by weights does not say what the weights were: such a frontend is compared by its slots, once a
//! model has said what they ought to be ([`Found`]).
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_ebpf::{Backend, Frontend, FrontendKey};

use super::{
    rendezvous::{self, Place, Split},
    rows::{BackendRow, FrontendRow},
    table::Table,
};
use crate::model::{Age, Ranges};

/// The flags of a row whose table is not one of equal shares: no desired row equals it.
pub(super) const FOREIGN: u32 = u32::MAX;

/// The slots of tables that are not of equal shares, until a model has said what they ought to be.
#[derive(Debug, Default)]
pub(super) struct Found(BTreeMap<FrontendKey, Arc<[u32]>>);

impl Found {
    /// The row that would have led to what was found; it names all backends that the table does, whatever it is.
    pub(super) fn row(
        &mut self,
        key: FrontendKey,
        (frontend, slots): (&Frontend, &Arc<[u32]>),
        backends: &BTreeMap<u32, Backend>,
        sources: Option<Ranges>,
    ) -> FrontendRow {
        let ids: BTreeSet<u32> = slots.iter().copied().collect();
        let mut rows: Vec<BackendRow> = ids.iter().filter_map(|id| backends.get(id)).map(backend_row).collect();
        rows.sort_unstable();
        let places: Vec<Place> = rows.iter().map(|row| row.place).collect();
        let table = rendezvous::table(&places, frontend.table_slots);
        let same = frontend.table_slots == rendezvous::slots(places.len())
            && table.len() == slots.len()
            && table.iter().zip(&slots[..]).all(|(index, id)| {
                backends.get(id).is_some_and(|b| places.get(*index as usize) == Some(&(b.addr, b.port)))
            });
        let flags = if same { frontend.flags } else { FOREIGN };
        if !same {
            self.0.insert(key, Arc::clone(slots));
        }
        let slots = frontend.table_slots;
        FrontendRow { flags, backends: rows, split: Split::Equal, sources, slots, age: Age::default() }
    }

    /// Whether this is the table that was found there; asked once.
    pub(super) fn is(&mut self, key: &FrontendKey, table: &Table) -> bool {
        self.0.remove(key).is_some_and(|slots| *slots == *table.ids())
    }

    /// Forgets what was found there.
    pub(super) fn forget(&mut self, key: &FrontendKey) {
        self.0.remove(key);
    }
}

/// A backend that was found.
pub(super) fn backend_row(backend: &Backend) -> BackendRow {
    BackendRow { place: (backend.addr, backend.port), flags: backend.flags }
}
