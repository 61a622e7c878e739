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

/// Free numbers.
///
/// Shape: start -> length of each free run; neighbours are merged, so it holds one entry per hole.
#[derive(Clone, Debug)]
pub struct Space {
    free: BTreeMap<u32, u32>,
    available: u32,
}

/// From which end of the space a run is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The lowest that fits.
    Bottom,
    /// The highest that fits.
    Top,
}

impl Space {
    /// All of `first..end` free.
    #[must_use]
    pub fn new(first: u32, end: u32) -> Self {
        let available = end.saturating_sub(first);
        let free = if available == 0 { BTreeMap::new() } else { BTreeMap::from([(first, available)]) };
        Self { free, available }
    }

    /// Where a run of this length that starts at a multiple of `align` would be taken; `None` when no hole has one.
    #[must_use]
    pub fn find(&self, len: u32, align: u32, from: From) -> Option<u32> {
        let lowest = |(start, hole): (&u32, &u32)| {
            let at = start.checked_next_multiple_of(align)?;
            (at.checked_add(len)? <= start + hole).then_some(at)
        };
        let highest = |(start, hole): (&u32, &u32)| {
            let at = (start + hole).checked_sub(len)? / align * align;
            (at >= *start).then_some(at)
        };
        match from {
            From::Bottom => self.free.iter().find_map(lowest),
            From::Top => self.free.iter().rev().find_map(highest),
        }
    }

    /// Takes the lowest run of this length; `None` when no hole is large enough.
    #[cfg(test)]
    pub fn take(&mut self, len: u32) -> Option<Run> {
        let run = Run { start: self.find(len, 1, From::Bottom)?, len };
        self.reserve(run).then_some(run)
    }

    /// Takes the lowest number.
    pub fn take_one(&mut self) -> Option<u32> {
        let start = *self.free.first_key_value()?.0;
        self.reserve(Run { start, len: 1 }).then_some(start)
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
        self.available -= run.len;
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
        self.available += run.len;
        self.free.insert(start, len);
    }

    /// How many numbers are free.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.available
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

    #[test]
    fn an_aligned_run_starts_at_a_multiple_whatever_is_in_the_way() {
        let mut space = Space::new(0, 100);
        assert!(space.reserve(Run { start: 5, len: 1 }));
        assert_eq!(space.find(16, 16, From::Bottom), Some(16));
        assert_eq!(space.find(16, 16, From::Top), Some(80));
        assert!(space.reserve(Run { start: 17, len: 70 }));
        assert_eq!((space.find(16, 16, From::Bottom), space.find(16, 16, From::Top)), (None, None));
        assert_eq!((space.find(5, 1, From::Bottom), space.available()), (Some(0), 29));
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
