//! Consistent hashing: the same endpoint for the same key, on every worker and node, whoever else comes or goes.
//!
//! In: the addresses of the endpoints. Out: a table in which each has an equal part, looked up by the hash of a key. Source: Maglev (NSDI
//! 2016) part 3.4, which the datapath's tables are made after as well.
use std::net::SocketAddr;

use crate::stable;

/// Rows of a table, a prime. It is one for all, since nearly every key moves where it changes. Parts differ by one row at most, which is
/// a tenth at 5,000 endpoints; whoever is beyond it has no key.
const SIZE: u32 = 65_521;

/// How many are looked at before a key has none: others are looked at then, at random.
const LOOKS: usize = 16;

/// Row -> which endpoint.
#[derive(Debug)]
pub(in crate::proxy) struct Maglev(Box<[u32]>);

impl Maglev {
    /// The table for these endpoints; `None` where there is none.
    ///
    /// Cost: 256 KiB, and a few milliseconds.
    #[must_use]
    pub(in crate::proxy) fn new(endpoints: impl Iterator<Item = SocketAddr>) -> Option<Self> {
        let hashes: Vec<u64> = endpoints.map(|at| stable::hash(at.to_string().as_bytes())).collect();
        if hashes.is_empty() {
            return None;
        }
        let mut rows = vec![u32::MAX; SIZE as usize];
        let size = u64::from(SIZE);
        // Where each looks next for a free row, and how far it goes from there.
        let mut steps: Vec<(u64, u64)> =
            hashes.iter().map(|hash| (hash % size, stable::mix(*hash) % (size - 1) + 1)).collect();
        let mut left = rows.len();
        'filled: loop {
            for (endpoint, (at, step)) in (0_u32..).zip(&mut steps) {
                while rows[index(*at)] != u32::MAX {
                    *at = (*at + *step) % size;
                }
                rows[index(*at)] = endpoint;
                left -= 1;
                if left == 0 {
                    break 'filled;
                }
            }
        }
        Some(Self(rows.into()))
    }

    /// The one of these endpoints that a key has: the first that is fit, of some.
    pub(in crate::proxy) fn find<'a, T>(&self, key: u64, of: &'a [T], fit: impl Fn(&T) -> bool) -> Option<&'a T> {
        self.of(key).take(LOOKS).filter_map(|at| of.get(at)).find(|one| fit(one))
    }

    /// The endpoints for a key, the one to take first, then those to take where it is out of the question: of each only by chance
    /// the same, so that what an endpoint leaves is spread.
    pub(in crate::proxy) fn of(&self, key: u64) -> impl Iterator<Item = usize> {
        let size = self.0.len() as u64;
        std::iter::successors(Some(key), |last| Some(stable::mix(*last)))
            .map(move |key| self.0[index(key % size)] as usize)
    }
}

/// A row's number, which is below 2^32.
#[expect(clippy::cast_possible_truncation, reason = "below the table's size")]
fn index(row: u64) -> usize {
    row as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(ports: impl Iterator<Item = u16>) -> Maglev {
        Maglev::new(ports.map(|port| SocketAddr::from(([192, 0, 2, 1], port)))).unwrap()
    }

    #[test]
    fn parts_are_equal_and_few_keys_move_when_one_leaves() {
        for n in [1, 2, 3, 10, 100, 5000_u16] {
            let table = table(1..=n);
            let mut had = vec![0_usize; usize::from(n)];
            table.0.iter().for_each(|row| had[*row as usize] += 1);
            let (least, most) = (had.iter().min().unwrap(), had.iter().max().unwrap());
            assert!(most - least <= 1, "{n}: {least} to {most}");
        }
        for n in [1, 2, 3, 9, 63, 255] {
            let (before, after) = (table(1..=n + 1), table(1..=n));
            let keys = || (0..10_000_u64).map(stable::mix);
            let moved = keys().filter(|key| before.of(*key).next() != after.of(*key).next()).count();
            let must = 10_000 / (usize::from(n) + 1);
            assert!(
                (must * 8 / 10..must * 15 / 10 + 200).contains(&moved),
                "{moved} of 10,000, of which {must} have to"
            );
        }
        assert!(Maglev::new(std::iter::empty()).is_none());
    }

    #[test]
    fn what_one_leaves_is_spread_over_the_others() {
        let table = table(1..=5);
        let mut next = [0_usize; 5];
        for key in (0..10_000_u64).map(stable::mix).filter(|key| table.of(*key).next() == Some(2)) {
            next[table.of(key).find(|endpoint| *endpoint != 2).unwrap()] += 1;
        }
        assert!(next[2] == 0 && [0, 1, 3, 4].iter().all(|i| next[*i] > 350), "{next:?}");
    }
}
