//! What the proxy counts: each worker for itself, on cache lines of its own. The admin stage adds them up, nobody else reads them.
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::StatusCode;

/// Counters and gauges of one worker. All counts are since the start of the process.
///
/// A gauge may wrap below 0: what one worker has opened another may close. The sums are right.
#[derive(Debug, Default)]
#[repr(align(128))]
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
    /// Workers at which they do now.
    pub accept_waiting: AtomicU64,
    /// Connections closed at once: their Gateway had as many as it may have.
    pub gateway_refusals: AtomicU64,
    /// Streams and connections ended because their Gateway held as much in memory as it may, and they had taken nothing for longest.
    pub stalled_evictions: AtomicU64,
    /// Connections ended because the client was gone: reset, given up by the kernel, or silent after FIN.
    pub clients_gone: AtomicU64,
    /// TLS handshakes that were made.
    pub tls_handshakes: AtomicU64,
    /// Those among them that went on from an earlier session.
    pub tls_resumed: AtomicU64,
    /// TLS handshakes that failed: the client and we do not agree, or it has gone.
    pub tls_failures: AtomicU64,
    /// Those among them whose server name no listener has.
    pub tls_unknown_names: AtomicU64,
    /// TLS handshakes that took too long.
    pub tls_timeouts: AtomicU64,
    /// TLS handshakes that were ended because too many were under way.
    pub tls_evicted: AtomicU64,
    /// Requests whose host is not one of the listener that the TLS handshake was made with: 421.
    pub misdirected: AtomicU64,
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
    /// Those among them that were connected and with which no TLS was made as their policy wants it.
    pub upstream_tls_failures: AtomicU64,
    /// Upstream connections that could not be opened for want of descriptors, memory, ports or places; accepts likewise.
    pub exhausted: AtomicU64,
    /// Upstream exchanges that broke before a response.
    pub upstream_errors: AtomicU64,
    /// Requests that ran out of time.
    pub timeouts: AtomicU64,
    /// Tries beyond the first.
    pub retries: AtomicU64,
    /// Endpoints that were ejected: passed over for a while.
    pub ejections: AtomicU64,
    /// Endpoints that were well again after it.
    pub readmissions: AtomicU64,
    /// Upstream connections opened.
    pub upstream_connects: AtomicU64,
    /// Upstream connections that are open now.
    pub open_upstream: AtomicU64,
    /// How many of them there may be.
    pub max_upstream: AtomicU64,
    /// Upstream connections that are open and idle now.
    pub idle_upstream: AtomicU64,
    /// Copies of requests that were sent to mirrors.
    pub mirrors: AtomicU64,
    /// Copies that were not made, or did not get through: the mirror was too slow, too many were on their way, or it failed.
    pub dropped_mirrors: AtomicU64,
    /// Copies that are on their way now.
    pub active_mirrors: AtomicU64,
    /// Upgraded connections that are open now.
    pub tunnels: AtomicU64,
    /// Streams that are open now: TLS passed through, or terminated to TCP.
    pub streams: AtomicU64,
    /// Route tables put in place.
    pub tables: AtomicU64,
    /// Host names whose rules were indexed for them.
    pub table_parts: AtomicU64,
}

/// The counters of all workers.
#[derive(Clone, Debug)]
pub struct Counters(Arc<[Arc<Stats>]>);

impl Counters {
    /// Counters for so many workers.
    #[must_use]
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    /// Those of one worker.
    #[must_use]
    pub(super) fn of(&self, worker: usize) -> &Arc<Stats> {
        &self.0[worker]
    }

    /// One of them, added up.
    #[must_use]
    pub fn sum(&self, one: impl Fn(&Stats) -> &AtomicU64) -> u64 {
        self.0.iter().fold(0, |sum, stats| sum.wrapping_add(one(stats).load(Relaxed)))
    }

    /// One of them, by worker.
    #[must_use]
    pub fn each(&self, one: impl Fn(&Stats) -> &AtomicU64) -> Vec<u64> {
        self.0.iter().map(|stats| one(stats).load(Relaxed)).collect()
    }

    /// All of them, added up, as they are now.
    #[must_use]
    pub fn total(&self) -> Stats {
        let sum = |one: fn(&Stats) -> &AtomicU64| AtomicU64::new(self.sum(one));
        Stats {
            accepted: sum(|s| &s.accepted),
            unclaimed: sum(|s| &s.unclaimed),
            active_connections: sum(|s| &s.active_connections),
            max_connections: sum(|s| &s.max_connections),
            accept_waits: sum(|s| &s.accept_waits),
            accept_waiting: sum(|s| &s.accept_waiting),
            gateway_refusals: sum(|s| &s.gateway_refusals),
            stalled_evictions: sum(|s| &s.stalled_evictions),
            clients_gone: sum(|s| &s.clients_gone),
            tls_handshakes: sum(|s| &s.tls_handshakes),
            tls_resumed: sum(|s| &s.tls_resumed),
            tls_failures: sum(|s| &s.tls_failures),
            tls_unknown_names: sum(|s| &s.tls_unknown_names),
            tls_timeouts: sum(|s| &s.tls_timeouts),
            tls_evicted: sum(|s| &s.tls_evicted),
            misdirected: sum(|s| &s.misdirected),
            active_requests: sum(|s| &s.active_requests),
            responses: std::array::from_fn(|class| AtomicU64::new(self.sum(|s| &s.responses[class]))),
            own_responses: sum(|s| &s.own_responses),
            refused_requests: sum(|s| &s.refused_requests),
            connect_errors: sum(|s| &s.connect_errors),
            upstream_tls_failures: sum(|s| &s.upstream_tls_failures),
            exhausted: sum(|s| &s.exhausted),
            upstream_errors: sum(|s| &s.upstream_errors),
            timeouts: sum(|s| &s.timeouts),
            retries: sum(|s| &s.retries),
            ejections: sum(|s| &s.ejections),
            readmissions: sum(|s| &s.readmissions),
            upstream_connects: sum(|s| &s.upstream_connects),
            open_upstream: sum(|s| &s.open_upstream),
            max_upstream: sum(|s| &s.max_upstream),
            idle_upstream: sum(|s| &s.idle_upstream),
            mirrors: sum(|s| &s.mirrors),
            dropped_mirrors: sum(|s| &s.dropped_mirrors),
            active_mirrors: sum(|s| &s.active_mirrors),
            tunnels: sum(|s| &s.tunnels),
            streams: sum(|s| &s.streams),
            tables: sum(|s| &s.tables),
            table_parts: sum(|s| &s.table_parts),
        }
    }
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
