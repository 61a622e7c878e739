//! How many retries the endpoints of a Service port have to bear, where a policy says it (XBackendTrafficPolicy).
//!
//! In: the requests of all routes and workers, and each retry that somebody would like. Out: whether it may be. Within the interval retries are at
//! most a part of the requests; a least rate is there in any case, for times in which requests are few.
//!
//! # Design
//! Each worker counts requests on a cache line of its own; only who wants a retry, and once a second the proxy itself, takes the lock and adds
//! them up into windows of ten parts. So a request costs one addition, and the windows are right to a second.
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::balance::Moment;
use crate::model::http::RetryBudget;

/// Workers that count apart; more share lines.
const SHARDS: usize = 16;
/// The parts of a window: it forgets one at a time.
const PARTS: usize = 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    spec: RetryBudget,
    requests: [Shard; SHARDS],
    windows: Mutex<Windows>,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(AtomicU64);

#[derive(Debug)]
struct Windows {
    /// Requests that are in the windows, or were.
    seen: u64,
    requests: Window,
    retries: Window,
    /// Retries within the time of the least rate.
    recent: Window,
}

impl Budget {
    /// Nothing has happened so far.
    #[must_use]
    pub(super) fn new(spec: RetryBudget) -> Self {
        let windows = Windows {
            seen: 0,
            requests: Window::new(spec.interval),
            retries: Window::new(spec.interval),
            recent: Window::new(spec.of),
        };
        Self { spec, requests: Default::default(), windows: Mutex::new(windows) }
    }

    /// Whether it is one of these.
    #[must_use]
    pub(super) fn is_of(&self, spec: RetryBudget) -> bool {
        self.spec == spec
    }

    /// Counts a request; not its retries.
    pub(super) fn request(&self, worker: usize) {
        self.requests[worker % SHARDS].0.fetch_add(1, Relaxed);
    }

    /// Takes a retry, if there is one.
    pub(super) fn try_retry(&self, now: Moment) -> bool {
        let mut windows = self.look(now);
        let (requests, retries) = (windows.requests.sum(now), windows.retries.sum(now));
        let is_part = (retries + 1).saturating_mul(100) <= requests.saturating_mul(self.spec.percent.into());
        let may = is_part || windows.recent.sum(now) < u64::from(self.spec.least);
        if may {
            windows.retries.add(1, now);
            windows.recent.add(1, now);
        }
        may
    }

    /// Puts what was counted into the windows; called once a second, so that it is there with its time.
    pub(super) fn tick(&self, now: Moment) {
        drop(self.look(now));
    }

    fn look(&self, now: Moment) -> MutexGuard<'_, Windows> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u64 = self.requests.iter().map(|shard| shard.0.load(Relaxed)).sum();
        let new = all.saturating_sub(windows.seen);
        windows.seen = all;
        windows.requests.add(new, now);
        windows
    }
}

/// What happened of late.
#[derive(Debug)]
struct Window {
    /// How long a part is. Units: microseconds.
    part: u64,
    /// Which part is the last, counted from the start of the process.
    last: u64,
    counts: [u64; PARTS],
}

impl Window {
    fn new(time: std::time::Duration) -> Self {
        let part = u64::try_from(time.as_micros()).unwrap_or(u64::MAX) / PARTS as u64;
        Self { part: part.max(1), last: 0, counts: [0; PARTS] }
    }

    fn add(&mut self, n: u64, now: Moment) {
        let at = self.forget(now);
        self.counts[at] += n;
    }

    fn sum(&mut self, now: Moment) -> u64 {
        self.forget(now);
        self.counts.iter().sum()
    }

    /// Forgets what is too old; where the present part is.
    fn forget(&mut self, now: Moment) -> usize {
        // A moment that another worker has taken before is now.
        let last = (now.to_bits() / self.part).max(self.last);
        for gone in (self.last + 1..=last).take(PARTS) {
            self.counts[index(gone)] = 0;
        }
        if last - self.last > PARTS as u64 {
            self.counts = [0; PARTS];
        }
        self.last = last;
        index(last)
    }
}

/// The place of a part.
fn index(part: u64) -> usize {
    usize::try_from(part % PARTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_bits(1 + millis * 1000)
    }

    fn budget(percent: u8, least: u32) -> Budget {
        let (interval, of) = (Duration::from_secs(10), Duration::from_secs(1));
        Budget::new(RetryBudget { percent, interval, least, of })
    }

    fn taken(budget: &Budget, now: Moment) -> usize {
        (0..10_000).take_while(|_| budget.try_retry(now)).count()
    }

    #[test]
    fn retries_are_a_part_of_the_requests_of_the_interval_whoever_had_them() {
        let budget = budget(20, 1);
        (0..1000).for_each(|request| budget.request(request % 40));
        assert_eq!(taken(&budget, at(0)), 200, "as the API's own example has it");
        assert!(!budget.try_retry(at(500)));
        // The least rate has one more.
        assert_eq!(taken(&budget, at(1500)), 1);
        budget.tick(at(5000));
        (0..5).for_each(|_| budget.request(0));
        budget.tick(at(9000));
        // Of the first second nothing is left: five requests, and the retry of 1.5 s.
        assert_eq!(taken(&budget, at(10_900)), 1);
        assert_eq!(taken(&budget, at(60_000)), 1, "of an empty interval the least rate is left");
    }

    #[test]
    fn the_least_rate_is_there_without_requests_and_none_of_a_hundred_is_none_more() {
        let budget = budget(0, 3);
        (0..1000).for_each(|_| budget.request(0));
        for second in 0..5 {
            assert_eq!(taken(&budget, at(second * 1100)), 3, "{second}");
        }
    }

    #[test]
    fn a_moment_that_came_late_changes_nothing() {
        let budget = budget(100, 1);
        budget.request(0);
        assert!(budget.try_retry(at(9000)));
        assert!(!budget.try_retry(at(1000)));
    }
}
