//! What the proxy counts. Plain atomics: the admin stage reads them, nobody else does.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::StatusCode;

/// Counters and gauges of the proxy. All counts are since the start of the process.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once: their local address is no listener.
    pub unclaimed: AtomicU64,
    /// Connections of clients that are open now.
    pub active_connections: AtomicU64,
    /// Requests whose response is not finished yet.
    pub active_requests: AtomicU64,
    /// Responses by status class, 1xx to 5xx; the proxy's own ones are among them.
    pub responses: [AtomicU64; 5],
    /// Responses that the proxy made itself: refusals, redirects, 404, 500, 503, 504.
    pub own_responses: AtomicU64,
    /// Requests refused as malformed or unsafe.
    pub refused_requests: AtomicU64,
    /// Upstream connections that could not be opened.
    pub connect_errors: AtomicU64,
    /// Upstream exchanges that broke before a response.
    pub upstream_errors: AtomicU64,
    /// Requests that ran out of time.
    pub timeouts: AtomicU64,
    /// Tries beyond the first.
    pub retries: AtomicU64,
    /// Upstream connections opened.
    pub upstream_connects: AtomicU64,
    /// Upstream connections that are open and idle now.
    pub idle_upstream: AtomicU64,
    /// Upgraded connections that are open now.
    pub tunnels: AtomicU64,
    /// Route tables put in place.
    pub tables: AtomicU64,
}

impl Stats {
    /// Counts a response.
    pub fn response(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        add(&self.responses[class]);
    }
}

/// Counts one more.
pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Counts one less.
pub(super) fn sub(counter: &AtomicU64) {
    counter.fetch_sub(1, Relaxed);
}
