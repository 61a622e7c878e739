//! Where lookup tables are in the array of chunks. Pure bookkeeping; what it decides [`super::plan`] writes.
//!
//! In: the contents that frontends need, the tables that were found at the start. Out: runs of chunks. Invariants: frontends of one
//! content have one table; a run that a packet in flight may still read is in use; whatever fits by its sum finds a place, if
//! need be after other tables have moved.
//!
//! # Design
//! Runs have one of five lengths, each a multiple of the one before, and start at a multiple of their length. So a free run of a length
//! can be made wherever that many chunks are free in all: the emptiest place of that length holds shorter runs only, and
//! those find other places in the same way. An older agent has put tables anywhere; they are where they are until they change.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use sluice_ebpf::{Frontend, FrontendKey};

use super::{
    rendezvous::Split,
    rows::{BackendRow, FrontendRow},
    space::{From, Run, Space},
    table::chunks,
};

/// The lengths of runs: those of the sizes of tables, rounded up to multiples of each other. Units: chunks.
const LENGTHS: [u32; 5] = [1, 64, 256, 1_024, 4_096];
/// From this length on runs are taken from the top: what is short and changes often shall not lie between.
const LONG: u32 = 1_024;

/// What a table says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Content {
    /// Its size; not 0.
    pub slots: u32,
    /// Its backends, sorted, of distinct places.
    pub backends: Vec<BackendRow>,
    /// How flows are split over them.
    pub split: Split,
}

impl Content {
    /// What the table of this frontend says; `None` where it has none.
    #[must_use]
    pub fn of(row: &FrontendRow) -> Option<Self> {
        let FrontendRow { backends, split, .. } = row;
        let slots = row.table_slots();
        (slots > 0).then(|| Self { slots, backends: backends.clone(), split: split.clone() })
    }
}

/// One table in the array.
#[derive(Debug)]
struct Held {
    run: Run,
    /// `None`: an older agent's, of which nobody knows yet what it ought to say.
    content: Option<Arc<Content>>,
    users: BTreeSet<FrontendKey>,
}

/// See the module.
#[derive(Debug)]
pub struct Placement {
    space: Space,
    capacity: u32,
    /// By their first chunk.
    held: BTreeMap<u32, Held>,
    by_content: BTreeMap<Arc<Content>, u32>,
    /// What no frontend names any more, with the tick since when.
    retired: Vec<(u64, Run)>,
}

/// Chunks that a table of this size takes.
#[must_use]
pub fn length(slots: u32) -> u32 {
    let chunks = chunks(slots);
    LENGTHS.into_iter().find(|length| chunks <= *length).unwrap_or(chunks)
}

/// The longest run that a table may take.
#[must_use]
pub const fn longest() -> u32 {
    let [.., longest] = LENGTHS;
    longest
}

fn from(length: u32) -> From {
    if length >= LONG { From::Top } else { From::Bottom }
}

impl Placement {
    /// An array of so many chunks, with the tables that were found in it, each with its user and what it says.
    #[must_use]
    pub fn new<'a>(
        capacity: u32,
        found: impl Iterator<Item = (&'a FrontendKey, &'a Frontend, Option<Content>)>,
    ) -> Self {
        let space = Space::new(0, capacity);
        let mut placement =
            Self { space, capacity, held: BTreeMap::new(), by_content: BTreeMap::new(), retired: Vec::new() };
        for (key, frontend, content) in found.filter(|(_, frontend, _)| frontend.table_slots > 0) {
            let run = Run { start: frontend.table_chunk, len: chunks(frontend.table_slots) };
            let held = placement.held.entry(run.start).or_insert_with(|| {
                placement.space.reserve(run);
                Held { run, content: None, users: BTreeSet::new() }
            });
            held.users.insert(*key);
            if let Some(content) = content {
                placement.name(run.start, content);
            }
        }
        placement.round_up();
        placement
    }

    /// Gives runs that were found the length that they would have had, where that is free.
    fn round_up(&mut self) {
        for held in self.held.values_mut() {
            let Run { start, len } = held.run;
            let length = LENGTHS.into_iter().find(|length| len <= *length).unwrap_or(len);
            let rest = Run { start: start + len, len: length - len };
            if start.is_multiple_of(length) && self.space.reserve(rest) {
                held.run.len = length;
            }
        }
    }

    /// Says what the table that starts there ought to say, and does.
    pub fn name(&mut self, start: u32, content: Content) {
        if let Some(held) = self.held.get_mut(&start).filter(|held| held.content.is_none()) {
            let content = Arc::new(content);
            held.content = Some(Arc::clone(&content));
            self.by_content.entry(content).or_insert(start);
        }
    }

    /// Where the table is that says this.
    #[must_use]
    pub fn find(&self, content: &Content) -> Option<u32> {
        self.by_content.get(content).copied()
    }

    /// Whether a table of this size finds a place as things are.
    #[must_use]
    pub fn has_room(&self, slots: u32) -> bool {
        let length = length(slots);
        self.space.find(length, length, from(length)).is_some()
    }

    /// Chunks that are free, wherever they are.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.space.available()
    }

    /// Chunks in use.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.capacity - self.space.available()
    }

    /// Chunks in use that frontends name.
    #[must_use]
    pub fn named(&self) -> u32 {
        self.used() - self.retired.iter().map(|(_, run)| run.len).sum::<u32>()
    }

    /// The table that says this, for one more frontend: its first chunk, and whether it is to be written. `None`: no place.
    pub fn take(&mut self, content: &Content, key: FrontendKey) -> Option<(u32, bool)> {
        if let Some(start) = self.find(content) {
            self.held.get_mut(&start)?.users.insert(key);
            return Some((start, false));
        }
        let run = self.take_run(length(content.slots))?;
        let content = Arc::new(content.clone());
        self.by_content.insert(Arc::clone(&content), run.start);
        self.held.insert(run.start, Held { run, content: Some(content), users: BTreeSet::from([key]) });
        Some((run.start, true))
    }

    fn take_run(&mut self, length: u32) -> Option<Run> {
        let run = Run { start: self.space.find(length, length, from(length))?, len: length };
        self.space.reserve(run).then_some(run)
    }

    /// A frontend names the table no more that starts there.
    pub fn leave(&mut self, start: u32, key: &FrontendKey, tick: u64) {
        let Some(held) = self.held.get_mut(&start) else { return };
        held.users.remove(key);
        if held.users.is_empty()
            && let Some(Held { run, content, users: _ }) = self.held.remove(&start)
        {
            if let Some(content) = content
                && self.by_content.get(&content) == Some(&start)
            {
                self.by_content.remove(&content);
            }
            self.retired.push((tick, run));
        }
    }

    /// Frees what was left before this tick or in it; whether there was any.
    pub fn release(&mut self, tick: u64) -> bool {
        let Self { space, retired, .. } = self;
        let before = retired.len();
        retired.retain(|(since, run)| {
            let keep = *since > tick;
            if !keep {
                space.release(*run);
            }
            keep
        });
        retired.len() < before
    }

    /// Whether something waits for its readers.
    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// Moves tables towards a place for one of this size: what is to be written where, with those who name it from then on. Call it
    /// where nothing is retired, and again once the readers are through, until there is room. Empty: nothing can be moved.
    pub fn make_room(&mut self, slots: u32, tick: u64) -> Vec<Moved> {
        let mut moved = Vec::new();
        self.clear(length(slots), tick, &mut Vec::new(), &mut moved);
        moved
    }

    /// Moves what is in the emptiest place of this length, but not one of `cleared`; where that finds no place because what is free
    /// is in pieces, a shorter place is cleared for it first.
    fn clear(&mut self, length: u32, tick: u64, cleared: &mut Vec<Run>, moved: &mut Vec<Moved>) {
        let Some(window) = self.emptiest(length, cleared) else { return };
        let kept = self.fence(window);
        for run in self.runs_in(window) {
            let Some(content) = self.held.get(&run.start).and_then(|held| held.content.clone()) else { break };
            let Some(to) = self.take_run(run.len) else {
                if moved.is_empty() {
                    cleared.push(window);
                    self.clear(run.len, tick, cleared, moved);
                }
                break;
            };
            let users = self.held.remove(&run.start).map(|held| held.users).unwrap_or_default();
            self.by_content.insert(Arc::clone(&content), to.start);
            self.retired.push((tick, run));
            self.held.insert(to.start, Held { run: to, content: Some(Arc::clone(&content)), users: users.clone() });
            moved.push(Moved { to: to.start, content, users });
        }
        kept.into_iter().for_each(|run| self.space.release(run));
    }

    /// Takes what is free in a window, so that nothing moves there.
    fn fence(&mut self, window: Run) -> Vec<Run> {
        let mut free = Vec::new();
        let mut at = window.start;
        for run in self.runs_in(window) {
            free.push(Run { start: at, len: run.start.saturating_sub(at) });
            at = run.start + run.len;
        }
        free.push(Run { start: at, len: (window.start + window.len).saturating_sub(at) });
        free.retain(|run| run.len > 0 && self.space.reserve(*run));
        free
    }

    /// The tables in a window.
    fn runs_in(&self, window: Run) -> Vec<Run> {
        let end = window.start + window.len;
        let inside = self.held.range(window.start..end).map(|(_, held)| held.run);
        inside.collect()
    }

    /// The place of this length, at a multiple of it and in none of `cleared`, of which the least is in use and all of that can go.
    fn emptiest(&self, length: u32, cleared: &[Run]) -> Option<Run> {
        let is_cleared = |run: &Run| cleared.iter().any(|w| (w.start..w.start + w.len).contains(&run.start));
        let mut used: BTreeMap<u32, u32> = BTreeMap::new();
        let mut fixed = BTreeSet::new();
        for Held { run, content, .. } in self.held.values() {
            let (first, last) = (run.start / length, (run.start + run.len - 1) / length);
            *used.entry(first).or_default() += run.len;
            if first != last || run.len >= length || content.is_none() || is_cleared(run) {
                fixed.extend(first..=last);
            }
        }
        // A place where nothing is has room already.
        let places = used.into_iter().filter(|(at, _)| !fixed.contains(at) && (at + 1) * length <= self.capacity);
        let (at, _) = places.min_by_key(|(_, used)| *used)?;
        Some(Run { start: at * length, len: length })
    }
}

/// A table that has moved.
#[derive(Debug)]
pub struct Moved {
    /// Where it is now.
    pub to: u32,
    /// What it says.
    pub content: Arc<Content>,
    /// Who names it.
    pub users: BTreeSet<FrontendKey>,
}

#[cfg(test)]
mod tests;
