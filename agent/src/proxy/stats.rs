//! What the proxy counts. Plain atomics: the admin stage reads them, nobody else does.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::StatusCode;

/// Counters and gauges of the proxy. All counts are since the start of the process.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed at once: their local address is no listener.
    pub unclaimed: AtomicU64,
    /// Connections of clients that are open now, upgraded ones among them.
    pub active_connections: AtomicU64,
    /// How many of them there may be.
    pub max_connections: AtomicU64,
    /// How often all of them were taken, so that new connections waited in the backlog.
    pub accept_waits: AtomicU64,
    /// 1 while they do, else 0.
    pub accept_waiting: AtomicU64,
    /// Connections closed at once: their Gateway had as many as it may have.
    pub gateway_refusals: AtomicU64,
    /// Connections ended because the client was gone: reset, given up by the kernel, or silent after FIN.
    pub clients_gone: AtomicU64,
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
    /// Upstream connections that could not be opened for want of descriptors, memory, ports or places; accepts likewise.
    pub exhausted: AtomicU64,
    /// Upstream exchanges that broke before a response.
    pub upstream_errors: AtomicU64,
    /// Requests that ran out of time.
    pub timeouts: AtomicU64,
    /// Tries beyond the first.
    pub retries: AtomicU64,
    /// Upstream connections opened.
    pub upstream_connects: AtomicU64,
    /// Upstream connections that are open now.
    pub open_upstream: AtomicU64,
    /// How many of them there may be.
    pub max_upstream: AtomicU64,
    /// Upstream connections that are open and idle now.
    pub idle_upstream: AtomicU64,
    /// Upgraded connections that are open now.
    pub tunnels: AtomicU64,
    /// Route tables put in place.
    pub tables: AtomicU64,
}

impl Stats {
    /// Sentences about bounds that are reached now.
    #[must_use]
    pub fn limits(&self) -> Vec<String> {
        let (clients, upstreams) = (self.max_connections.load(Relaxed), self.max_upstream.load(Relaxed));
        let mut out = Vec::new();
        if self.accept_waiting.load(Relaxed) > 0 {
            let open = self.active_connections.load(Relaxed);
            out.push(format!(
                "{open} of {clients} client connections are open, new ones wait: end some, or raise the limit of open files"
            ));
        }
        let open = self.open_upstream.load(Relaxed);
        if open >= upstreams && upstreams > 0 {
            out.push(format!(
                "{open} of {upstreams} connections to endpoints are open, requests wait for one: raise the limit of open files"
            ));
        }
        out
    }

    /// Counts a response.
    pub fn response(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        add(&self.responses[class]);
    }
}

/// One of what a gauge counts, until dropped.
#[derive(Debug)]
pub(super) struct Counted {
    stats: Arc<Stats>,
    gauge: fn(&Stats) -> &AtomicU64,
}

impl Counted {
    /// One more.
    #[must_use]
    pub(super) fn new(stats: &Arc<Stats>, gauge: fn(&Stats) -> &AtomicU64) -> Self {
        add(gauge(stats));
        Self { stats: Arc::clone(stats), gauge }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        sub((self.gauge)(&self.stats));
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
