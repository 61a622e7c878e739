//! How often a request is sent, and after what.
use std::{collections::BTreeSet, time::Duration};

/// `retry` of a rule. What endpoints surely did not process is tried again in any case; this says what else, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Tries beyond the first; 0 is none.
    pub attempts: u32,
    /// Statuses after which there is another try, 400 to 599.
    pub codes: BTreeSet<u16>,
    /// The least pause before a try; the proxy's own where absent.
    pub backoff: Option<Duration>,
}

/// How many retries the endpoints of a Service port have to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// As a part of the requests of `interval`. Units: percent.
    pub percent: u8,
    /// How far back requests and retries count.
    pub interval: Duration,
    /// So many in each `of` in any case.
    pub least: u32,
    /// See `least`.
    pub of: Duration,
}

impl Default for RetryBudget {
    /// Source: the defaults of `RetryConstraint`.
    fn default() -> Self {
        Self { percent: 20, interval: Duration::from_secs(10), least: 10, of: Duration::from_secs(1) }
    }
}
