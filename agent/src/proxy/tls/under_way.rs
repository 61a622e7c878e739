//! The handshakes that are under way on a worker, and the bound on them.
//!
//! # Design
//! At the bound the one that has taken longest is ended, and the new one begins. A client that means it is through within a few
//! round trips; whoever opens connections and stays silent has the oldest ones, and loses those first. To let the new one wait
//! instead would let him keep everybody out.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The handshakes of one worker.
#[derive(Debug)]
pub(in crate::proxy) struct UnderWay {
    most: usize,
    all: Mutex<Handshakes>,
}

#[derive(Debug, Default)]
struct Handshakes {
    /// How many have begun.
    begun: u64,
    /// By when they began.
    open: BTreeMap<u64, CancellationToken>,
}

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    among: Arc<UnderWay>,
    number: u64,
    ended: CancellationToken,
}

impl UnderWay {
    /// None yet, and so many at most.
    pub(in crate::proxy) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), all: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Handshakes> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more; whether another one had to end for it.
    pub(super) fn begin(self: &Arc<Self>) -> (Handshake, bool) {
        let mut all = self.lock();
        let evicted = if all.open.len() >= self.most { all.open.pop_first() } else { None };
        if let Some((_, oldest)) = &evicted {
            oldest.cancel();
        }
        let (number, ended) = (all.begun, CancellationToken::new());
        all.begun += 1;
        all.open.insert(number, ended.clone());
        (Handshake { among: Arc::clone(self), number, ended }, evicted.is_some())
    }
}

impl Handshake {
    /// Returns when it has to end.
    pub(super) async fn evicted(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.among.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_bound_the_oldest_ends() {
        let under_way = UnderWay::new(2);
        let (one, _) = under_way.begin();
        let (two, evicts) = under_way.begin();
        assert!(!evicts);
        let (three, evicts) = under_way.begin();
        assert!(evicts);
        assert_eq!([&one, &two, &three].map(|h| h.ended.is_cancelled()), [true, false, false]);
        drop(two);
        let (four, evicts) = under_way.begin();
        assert!(!evicts, "who is through makes room");
        drop((one, three, four));
        assert!(under_way.lock().open.is_empty());
    }
}
