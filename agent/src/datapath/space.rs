//! Free space in the flat array of table chunks, and free ids. Pure bookkeeping; the maps know nothing of it.
use std::collections::BTreeMap;

/// A run of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first.
    pub start: u32,
    /// How many.
    pub len: u32,
}

/// Free numbers, handed out lowest first.
///
/// Shape: start -> length of each free run; neighbours are merged, so it holds one entry per hole.
#[derive(Clone, Debug)]
pub struct Space {
    free: BTreeMap<u32, u32>,
}

impl Space {
    /// All of `first..end` free.
    #[must_use]
    pub fn new(first: u32, end: u32) -> Self {
        Self { free: BTreeMap::from([(first, end.saturating_sub(first))]) }
    }

    /// Takes the lowest run of this length; `None` when no hole is large enough.
    pub fn take(&mut self, len: u32) -> Option<Run> {
        let (&start, &hole) = self.free.iter().find(|(_, hole)| **hole >= len)?;
        self.free.remove(&start);
        if hole > len {
            self.free.insert(start + len, hole - len);
        }
        Some(Run { start, len })
    }

    /// Takes one number.
    pub fn take_one(&mut self) -> Option<u32> {
        self.take(1).map(|run| run.start)
    }

    /// Marks a run as used that was found in use; `false` when part of it was not free.
    pub fn reserve(&mut self, run: Run) -> bool {
        let Some((&start, &hole)) = self.free.range(..=run.start).next_back() else { return false };
        let (end, run_end) = (start + hole, run.start + run.len);
        if run_end > end || run.len == 0 {
            return run.len == 0;
        }
        self.free.remove(&start);
        if run.start > start {
            self.free.insert(start, run.start - start);
        }
        if end > run_end {
            self.free.insert(run_end, end - run_end);
        }
        true
    }

    /// Gives a run back.
    pub fn release(&mut self, run: Run) {
        if run.len == 0 {
            return;
        }
        let (mut start, mut len) = (run.start, run.len);
        if let Some((&before, &hole)) = self.free.range(..start).next_back()
            && before + hole == start
        {
            self.free.remove(&before);
            start = before;
            len += hole;
        }
        if let Some(hole) = self.free.remove(&(run.start + run.len)) {
            len += hole;
        }
        self.free.insert(start, len);
    }

    /// How many numbers are free.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_released_run_is_merged_with_its_neighbours() {
        let mut space = Space::new(0, 100);
        let runs: Vec<_> = (0..4).map(|_| space.take(25).unwrap()).collect();
        assert_eq!(space.take(1), None);
        for i in [0, 2, 1, 3] {
            space.release(runs[i]);
        }
        assert_eq!(space.take(100), Some(Run { start: 0, len: 100 }));
    }

    #[test]
    fn what_is_reserved_is_not_given_again() {
        let mut space = Space::new(0, 10);
        assert!(space.reserve(Run { start: 3, len: 4 }));
        assert!(!space.reserve(Run { start: 6, len: 1 }));
        assert_eq!(space.take(4), None);
        assert_eq!(space.take(3), Some(Run { start: 0, len: 3 }));
        assert_eq!(space.take(3), Some(Run { start: 7, len: 3 }));
        assert_eq!(space.available(), 0);
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_nothing_is_lost(steps in proptest::collection::vec((1_u32..20, any::<bool>()), 1..80)) {
            let mut space = Space::new(1, 200);
            let mut held: Vec<Run> = Vec::new();
            for (len, take) in steps {
                if take || held.is_empty() {
                    if let Some(run) = space.take(len) {
                        prop_assert!(held.iter().all(|h| h.start + h.len <= run.start || run.start + run.len <= h.start));
                        held.push(run);
                    }
                } else {
                    let run = held.swap_remove(len as usize % held.len());
                    space.release(run);
                }
                prop_assert_eq!(space.available() + held.iter().map(|h| h.len).sum::<u32>(), 199);
            }
        }
    }
}
