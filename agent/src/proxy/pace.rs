//! How fast a request's body comes: who sends a byte now and then holds a connection to an endpoint for as long as he likes.
//!
//! Counted is the time that the proxy waits for the client, not that in which the endpoint takes nothing.
use std::time::Duration;

use tokio::time::Instant;

/// The pace of one body.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Bytes a second; 0 is any.
    least: u64,
    /// Over how long it is averaged.
    window: Duration,
    waits_since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// A body that must come with so many bytes a second, on the average of so long a time.
    #[must_use]
    pub(super) fn new(least: u64, window: Duration) -> Self {
        Self { least, window, waits_since: None, waited: Duration::ZERO, bytes: 0 }
    }

    /// The same, from the start.
    #[must_use]
    pub(super) fn again(&self) -> Self {
        Self::new(self.least, self.window)
    }

    /// There is nothing yet.
    pub(super) fn waits(&mut self, now: Instant) {
        if self.least > 0 {
            self.waits_since.get_or_insert(now);
        }
    }

    /// So many bytes came. Whether that is too slow; then the time begins anew.
    #[must_use]
    pub(super) fn is_too_slow(&mut self, bytes: usize, now: Instant) -> bool {
        self.bytes += bytes as u64;
        let Some(since) = self.waits_since.take() else { return false };
        self.waited += now.saturating_duration_since(since);
        if self.waited < self.window {
            return false;
        }
        let is_slow = u128::from(self.bytes) * 1000 < u128::from(self.least) * self.waited.as_millis();
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_that_is_waited_counts() {
        let (mut pace, mut now) = (Pace::new(10, Duration::from_secs(10)), Instant::now());
        let mut waits = |bytes| {
            // The endpoint takes its time before it wants more.
            now += Duration::from_secs(60);
            pace.waits(now);
            now += Duration::from_secs(1);
            pace.waits(now - Duration::from_millis(1));
            pace.is_too_slow(bytes, now)
        };
        let slow: Vec<bool> = (0..20).map(|_| waits(9)).collect();
        assert_eq!(slow.iter().enumerate().filter(|(_, slow)| **slow).map(|(at, _)| at).collect::<Vec<_>>(), [9, 19]);
        assert!((0..30).all(|_| !waits(10)));
    }

    #[test]
    fn any_pace_will_do_where_none_is_asked_for() {
        let (mut pace, now) = (Pace::new(0, Duration::from_secs(1)), Instant::now());
        pace.waits(now);
        assert!(!pace.is_too_slow(0, now + Duration::from_secs(3600)));
    }
}
