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
