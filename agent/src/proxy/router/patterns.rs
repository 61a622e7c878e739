//! Entries that want a regular expression of one thing, found in one pass over it.
//!
//! Tried one by one, a hundred expressions that begin with `.*` take 17 ms for a path of 64 KiB; together they take
//! 0.1 ms. Only so many go together as the compiled set stays small: a set whose states do not fit the engine's cache is
//! slower than its members are.
use std::ops::Range;

use regex::{RegexSet, RegexSetBuilder};

use crate::model::http::{Pattern, work::work};

/// How large a compiled set may be. Beyond it it is halved. Units: bytes.
const SET_SIZE_LIMIT: usize = 1 << 20;

/// Entries by pattern, ascending.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    entries: Vec<usize>,
    /// What is asked for which of the entries.
    sets: Vec<(RegexSet, Range<usize>)>,
}

impl Patterns {
    /// Compiles the patterns of entries, given in ascending order. A pattern too large for any set is taken alone.
    pub(super) fn new(patterns: &[(usize, &Pattern)]) -> Self {
        let mut new = Self { entries: patterns.iter().map(|(entry, _)| *entry).collect(), sets: Vec::new() };
        new.add(patterns, 0..patterns.len());
        new
    }

    fn add(&mut self, patterns: &[(usize, &Pattern)], range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let texts = patterns[range.clone()].iter().map(|(_, pattern)| pattern.anchored());
        let limit = if range.len() == 1 { usize::MAX } else { SET_SIZE_LIMIT };
        match RegexSetBuilder::new(texts).size_limit(limit).build() {
            Ok(set) => self.sets.push((set, range)),
            Err(_) => {
                let middle = range.start + range.len() / 2;
                self.add(patterns, range.start..middle);
                self.add(patterns, middle..range.end);
            }
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// The entries whose pattern holds, ascending. Cost: one pass over the text for each set, from when it is asked for.
    pub(super) fn holding(&self, text: &str) -> impl Iterator<Item = usize> {
        self.sets.iter().flat_map(move |(set, range)| {
            work(text.len());
            set.matches(text).into_iter().map(move |i| self.entries[range.start + i])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_in_order_however_many_sets_they_are_in() {
        for part in ["/[a-z]+", r"/\w+/\w*\w+"] {
            let patterns: Vec<Pattern> =
                (0..40).map(|i| Pattern::try_new(&format!("{part}|/{}|/both", i % 20)).unwrap()).collect();
            let listed: Vec<(usize, &Pattern)> = patterns.iter().enumerate().map(|(i, p)| (3 * i, p)).collect();
            let all = Patterns::new(&listed);
            assert_eq!(all.sets.len() > 1, part.contains('w'), "{}", all.sets.len());
            assert_eq!(all.holding("/7").collect::<Vec<_>>(), [21, 81], "{part}");
            assert!(all.holding("/both").eq(listed.iter().map(|(entry, _)| *entry)), "{part}");
            assert_eq!(all.holding("/7/").count() + all.holding("").count() + all.holding("x/7").count(), 0);
        }
        assert_eq!(Patterns::new(&[]).holding("/").count(), 0);
    }
}
