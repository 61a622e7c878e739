//! How many Events may be told about one object: an object that flaps must not fill the API server.
use std::time::{Duration, Instant};

/// Events that may be told at once. Source: the spam filter of upstream's event recorder.
const BURST: u32 = 25;
/// After so long there may be one more. Source: the same.
const REFILL: Duration = Duration::from_secs(300);

/// What is left of an object's Events. What is not told stands in its condition all the same.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    /// Up to when what has come back is counted in.
    since: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Takes one Event; `false` where none is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now >= self.since + REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }

    /// Whether it is as good as a new one.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        now >= self.since + REFILL * (BURST - self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s87_an_object_has_a_burst_of_events_and_then_one_now_and_then() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        assert!(allowance.is_whole(now));
        assert_eq!((0..100).filter(|_| allowance.take(now)).count(), 25);
        assert!(!allowance.take(now + REFILL - Duration::from_secs(1)));
        assert!(allowance.take(now + REFILL) && !allowance.take(now + REFILL));
        assert!(allowance.take(now + REFILL * 2), "the pauses do not begin anew");
        assert!(!allowance.is_whole(now + REFILL * 10));
        assert!(allowance.is_whole(now + REFILL * 27));
        assert_eq!((0..100).filter(|_| allowance.take(now + REFILL * 1000)).count(), 25);
    }
}
