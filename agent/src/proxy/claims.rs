//! Claims of something of which there is so much, where the oldest claim ends when the next one finds no room.
//!
//! Who means it is done soon, or makes progress and claims anew; who holds on has the oldest claims, and loses those first. To let the
//! new one wait instead would let him keep everybody out.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The claims of one thing. Cost of each: the logarithm of how many there are.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    /// How many there were.
    begun: u64,
    /// How much those that are open have together.
    taken: usize,
    /// By when they began.
    open: BTreeMap<u64, (usize, CancellationToken)>,
}

/// A claim, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    among: Arc<Claims>,
    number: u64,
    ended: CancellationToken,
}

impl Claims {
    /// So much more, of at most so much; how many claims had to end for it. One alone is always let.
    pub(super) fn claim(self: &Arc<Self>, size: usize, most: usize) -> (Claim, usize) {
        let (ended, mut evicted) = (CancellationToken::new(), Vec::new());
        let mut all = self.lock();
        while all.taken.saturating_add(size) > most
            && let Some((_, (freed, oldest))) = all.open.pop_first()
        {
            all.taken -= freed;
            evicted.push(oldest);
        }
        let number = all.begun;
        all.begun += 1;
        all.taken += size;
        all.open.insert(number, (size, ended.clone()));
        drop(all);
        evicted.iter().for_each(CancellationToken::cancel);
        (Claim { among: Arc::clone(self), number, ended }, evicted.len())
    }

    /// How much those that are open have together.
    #[must_use]
    pub(super) fn taken(&self) -> usize {
        self.lock().taken
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }
}

impl Claim {
    /// Cancelled when it has to end.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.among.lock();
        if let Some((size, _)) = all.open.remove(&self.number) {
            all.taken -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_bound_the_oldest_claims_end() {
        let held = Arc::<Claims>::default();
        let claim = |bytes| held.claim(bytes, 10);
        let ((a, none), (b, _), (c, _)) = (claim(4), claim(3), claim(3));
        assert_eq!((none, held.lock().taken), (0, 10));
        let (d, evicted) = claim(5);
        assert_eq!(([&a, &b, &c, &d].map(|c| c.ended.is_cancelled()), evicted), ([true, true, false, false], 2));
        // What has ended is not given back twice.
        drop((a, b));
        assert_eq!(held.lock().taken, 8);
        let (e, evicted) = claim(20);
        assert_eq!((evicted, held.lock().taken), (2, 20), "one alone is let");
        drop((c, d, e));
        assert!(held.lock().open.is_empty() && held.lock().taken == 0);
    }
}
