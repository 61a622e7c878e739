//! What is counted of the tries that the endpoints of one Service port had.
use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::StatusCode;

use super::{
    PerWorker, Registry, bump,
    histogram::{Distribution, Histogram},
};
use crate::proxy::bounds::Share;

/// What became of a try that an endpoint was sent, or would have been: the class of its status, or why there was none.
pub const OUTCOMES: [&str; 9] = ["1xx", "2xx", "3xx", "4xx", "5xx", "broken", "refused", "timeout", "aborted"];

/// An outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum TryOutcome {
    /// A response.
    Answer(StatusCode),
    /// The connection broke, or what came is no response.
    Broken,
    /// The endpoint did not take it (REFUSED_STREAM, GOAWAY).
    Refused,
    /// It took too long.
    Timeout,
    /// The client left, or its body broke off.
    Aborted,
}

impl TryOutcome {
    /// Where it is in [`OUTCOMES`].
    fn index(self) -> usize {
        match self {
            Self::Answer(status) => usize::from(status.as_u16() / 100).clamp(1, 5) - 1,
            Self::Broken => 5,
            Self::Refused => 6,
            Self::Timeout => 7,
            Self::Aborted => 8,
        }
    }
}

/// The counts of one worker, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(in crate::proxy) struct BackendCounts {
    /// By [`OUTCOMES`].
    tries: [AtomicU64; OUTCOMES.len()],
    first_byte: Histogram,
    connect_errors: AtomicU64,
    retries: AtomicU64,
}

impl BackendCounts {
    /// Counts a try, and how long its response took where there was one.
    pub(in crate::proxy) fn count(&self, outcome: TryOutcome, took: Option<Duration>) {
        bump(&self.tries[outcome.index()], 1);
        took.iter().for_each(|took| self.first_byte.observe(*took));
    }

    /// Counts a connection that could not be opened.
    pub(in crate::proxy) fn unconnected(&self) {
        bump(&self.connect_errors, 1);
    }

    /// Counts a try beyond the first.
    pub(in crate::proxy) fn retried(&self) {
        bump(&self.retries, 1);
    }
}

/// What is counted of a Service port, from its first request on; kept over changes of its endpoints.
#[derive(Debug, Default)]
pub(in crate::proxy) struct BackendSeries {
    counts: OnceLock<Admitted>,
    /// Rare, and whichever the worker.
    ejections: AtomicU64,
}

#[derive(Debug)]
enum Admitted {
    /// It has a series.
    Own(PerWorker<BackendCounts>, #[expect(dead_code, reason = "held")] Share),
    /// There are as many as there may be.
    Other,
}

impl BackendSeries {
    /// The counts of a worker; `None` where nothing is counted.
    pub(in crate::proxy) fn of(&self, registry: &Registry, worker: usize) -> Option<Arc<BackendCounts>> {
        if registry.most == 0 {
            return None;
        }
        let admit = || match registry.backends.try_share(registry.most) {
            Some(share) => Admitted::Own(PerWorker::new(registry.workers), share),
            None => Admitted::Other,
        };
        Some(match self.counts.get_or_init(admit) {
            Admitted::Own(counts, _) => counts.of(worker),
            Admitted::Other => registry.other_backends.of(worker),
        })
    }

    /// Counts an ejection.
    pub(in crate::proxy) fn ejected(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    /// All of it; `None` where it has no series.
    pub(super) fn read(&self) -> Option<BackendMetrics> {
        match self.counts.get()? {
            Admitted::Own(counts, _) => {
                Some(BackendMetrics { ejections: self.ejections.load(Relaxed), ..BackendMetrics::of(counts) })
            }
            Admitted::Other => None,
        }
    }
}

/// The counts of all workers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendMetrics {
    /// By [`OUTCOMES`].
    pub tries: [u64; OUTCOMES.len()],
    /// From the try's begin to the response's head.
    pub first_byte: Distribution,
    /// Connections that could not be opened.
    pub connect_errors: u64,
    /// Tries beyond the first of their requests.
    pub retries: u64,
    /// How often an endpoint was ejected.
    pub ejections: u64,
}

impl BackendMetrics {
    /// Those of all workers.
    pub(super) fn of(counts: &PerWorker<BackendCounts>) -> Self {
        let mut sum = Self::default();
        for BackendCounts { tries, first_byte, connect_errors, retries } in counts.all() {
            sum.tries.iter_mut().zip(tries).for_each(|(sum, one)| *sum += one.load(Relaxed));
            sum.first_byte.add(first_byte);
            sum.connect_errors += connect_errors.load(Relaxed);
            sum.retries += retries.load(Relaxed);
        }
        sum
    }
}
