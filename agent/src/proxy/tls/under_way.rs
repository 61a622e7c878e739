//! The handshakes that are under way on a worker, and the bound on them.
//!
//! # Design
//! At the bound the one that has taken longest is ended, and the new one begins ([`Claims`]). A client that means it is through within a
//! few round trips; whoever opens connections and stays silent has the oldest ones, and loses those first.
use std::sync::Arc;

use crate::proxy::claims::{Claim, Claims};

/// The handshakes of one worker.
#[derive(Debug)]
pub(in crate::proxy) struct UnderWay {
    most: usize,
    all: Arc<Claims>,
}

impl UnderWay {
    /// None yet, and so many at most.
    pub(in crate::proxy) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, all: Arc::default() })
    }

    /// One more; whether another one had to end for it.
    pub(super) fn begin(&self) -> (Claim, bool) {
        let (handshake, evicted) = self.all.claim(1, self.most);
        (handshake, evicted > 0)
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
        assert_eq!([&one, &two, &three].map(|h| h.ended().is_cancelled()), [true, false, false]);
        drop(two);
        let (four, evicts) = under_way.begin();
        assert!(!evicts, "who is through makes room");
        drop((one, three, four));
        assert!(under_way.all.is_empty());
    }
}
