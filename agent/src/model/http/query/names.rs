//! The names of parameters that rules ask for, found by a name that a client chose.
use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::model::http::work::work;

/// Names of parameters that rules ask for, distinct.
///
/// # Design
/// A client may have a name looked up with every few bytes of its query, so a lookup takes nanoseconds: most names are told
/// from all that are known by their first byte and their length, and the hash is one for short keys, with a seed of this
/// process's own.
#[derive(Clone, Debug)]
pub struct Names {
    index: HashMap<Box<[u8]>, usize, RandomState>,
    /// The longest. Units: bytes.
    longest: usize,
    /// First byte -> which lengths names have that begin with it, by bit; the last bit is for all lengths from it on. The
    /// empty name is under 0.
    lengths: Box<[u64; 256]>,
}

impl Default for Names {
    fn default() -> Self {
        [].into_iter().collect()
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut all = Self { index: HashMap::default(), longest: 0, lengths: Box::new([0; 256]) };
        for name in names {
            let name = name.as_bytes();
            all.longest = all.longest.max(name.len());
            all.lengths[first(name)] |= length_bit(name.len());
            let next = all.index.len();
            all.index.entry(name.into()).or_insert(next);
        }
        all
    }
}

fn first(name: &[u8]) -> usize {
    name.first().copied().unwrap_or(0).into()
}

fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

impl Names {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.index.len()
    }

    /// Which name it is, if rules ask for it.
    #[inline]
    pub(super) fn find(&self, name: &[u8]) -> Option<usize> {
        if name.len() > self.longest || self.lengths[first(name)] & length_bit(name.len()) == 0 {
            return None;
        }
        work(name.len());
        self.index.get(name).copied()
    }

    /// The longest. Units: bytes.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }
}
