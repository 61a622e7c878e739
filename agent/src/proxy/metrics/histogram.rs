//! How long something took, by fixed bounds: what Prometheus calls a classic histogram.
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::bump;

/// Upper bounds of the buckets; what is longer has one of its own. Units: seconds. Source: the advice for
/// `http.server.request.duration` in OpenTelemetry's semantic conventions.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The same. Units: microseconds.
const MICROS: [u64; BOUNDS.len()] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];
/// One for each bound, and one for what is longer.
const BUCKETS: usize = BOUNDS.len() + 1;

/// The counts of one worker.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    /// Units: microseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// Counts one. A bound is the upper end of its bucket and belongs to it.
    pub(super) fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        bump(&self.buckets[MICROS.partition_point(|bound| *bound < micros)], 1);
        bump(&self.sum, micros);
    }
}

/// The counts of all workers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// How many were in each bucket, and in none of those before.
    pub buckets: [u64; BUCKETS],
    /// All of them together.
    pub sum: Duration,
}

impl Distribution {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Upper bounds, in seconds, and what is in each bucket.
    #[must_use]
    pub fn bounded(&self) -> Vec<(f64, u64)> {
        BOUNDS.into_iter().chain([f64::INFINITY]).zip(self.buckets).collect()
    }

    /// Adds those of one worker.
    pub(super) fn add(&mut self, of: &Histogram) {
        for (sum, one) in self.buckets.iter_mut().zip(&of.buckets) {
            *sum += one.load(Relaxed);
        }
        self.sum += Duration::from_micros(of.sum.load(Relaxed));
    }

    /// Adds those of another.
    pub fn merge(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets).for_each(|(sum, one)| *sum += one);
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for micros in [0, 5_000, 5_001, 10_000_000, 10_000_001, u64::MAX / 4] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut all = Distribution::default();
        all.add(&histogram);
        let mut want = [0; BUCKETS];
        (want[0], want[1], want[13], want[14]) = (2, 1, 1, 2);
        assert_eq!((all.buckets, all.count()), (want, 6));
        assert_eq!(all.sum, Duration::from_micros(5_000 + 5_001 + 20_000_001 + u64::MAX / 4));
        assert!(
            BOUNDS
                .iter()
                .zip(MICROS)
                .all(|(seconds, micros)| Duration::from_secs_f64(*seconds).as_micros() == micros.into())
        );
    }
}
