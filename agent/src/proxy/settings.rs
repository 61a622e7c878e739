//! Limits of the proxy, in one place.
use std::time::Duration;

use super::access_log::AccessLog;
use crate::descriptors::Descriptors;

/// Connections of clients at most, however many descriptors there are: each takes some 2 KiB while it is idle, 11 under TLS.
const MOST_CONNECTIONS: usize = 65_536;

/// Series of metrics at most, of routes and of backends each: see [`super::metrics`] for what they take.
const MOST_SERIES: usize = 10_000;

/// Every limit has a default that suits an edge; `config` may override.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads that serve, each with a socket, connections and pools of its own: 1 at least.
    pub workers: usize,
    /// Client connections at a time. At the bound new ones wait in the backlog. One Gateway of several has half of them.
    pub max_connections: usize,
    /// Connections to endpoints at a time, used and unused. At the bound an unused one is closed, else the request waits as
    /// long as for a connection, then 503. One endpoint of several has half of them.
    pub max_upstreams: usize,
    /// Memory for bodies that clients or endpoints do not take. At the bound the one that has not moved for longest is ended.
    /// One Gateway of several has half of it. Units: bytes.
    pub max_held: usize,
    /// TLS handshakes under way at a time. At the bound the one that has taken longest is ended for a new one.
    pub max_handshakes: usize,
    /// How long a TLS handshake may take, from the connection's first moment on. Then the connection is closed.
    pub handshake_timeout: Duration,
    /// How long a client may take for a request's head once it has begun, and for the first byte of a connection.
    /// Then 408 and close.
    pub header_timeout: Duration,
    /// How long a client's connection may stay without a request. Then it is closed, HTTP/2 with GOAWAY.
    pub idle_timeout: Duration,
    /// How long a request's body may make no progress. Then both sides are cut.
    pub body_timeout: Duration,
    /// How fast a request's body must come, on the average of that time. Then both sides are cut. Units: bytes a second.
    pub min_body_rate: u64,
    /// How long an HTTP/2 client may take nothing of a response that is there. Then the stream is reset.
    pub stream_idle: Duration,
    /// HTTP/2 streams that a client has reset before they were looked at. Beyond it GOAWAY.
    pub max_resets: usize,
    /// How long a client may accept no byte of a response. Then it is cut.
    pub write_timeout: Duration,
    /// How large a request's head may be. Beyond it 431, or 414 for the target. Units: bytes.
    pub max_head: usize,
    /// How many fields a request's head may have. Beyond it 431.
    pub max_headers: usize,
    /// How many fields a response's head may have. Beyond it 502. Envoy and HAProxy have about 100 here and let it be
    /// raised, nginx counts bytes alone; a backend is trusted with more than a client.
    pub max_response_headers: usize,
    /// HTTP/2 streams of one connection at a time; beyond it they are refused.
    pub max_streams: u32,
    /// How long opening a connection to an endpoint may take. Then another endpoint is tried.
    pub connect_timeout: Duration,
    /// How many endpoints are tried when connections cannot be opened. Then 503.
    pub max_tries: usize,
    /// How long an unused upstream connection is kept. Below the 5 s that common servers close theirs after: a request
    /// that meets the closing cannot always be repeated.
    pub upstream_idle: Duration,
    /// How long an HTTP/2 connection without requests is kept. One that closes says which requests it did not take.
    pub upstream_http2_idle: Duration,
    /// How many unused connections are kept per endpoint; what is beyond it is closed after use.
    pub max_idle_per_endpoint: usize,
    /// How long nothing may move once a client has sent FIN; it may still listen, or be gone. Then both sides are cut.
    pub half_closed_timeout: Duration,
    /// How long an upgraded connection may carry no byte. Then it is cut.
    pub tunnel_idle: Duration,
    /// How long requests in flight may take after the proxy is told to stop. Then they are cut.
    pub drain: Duration,
    /// How many rules of routes, and how many ports of Services, have metrics of their own. Those beyond it are counted together;
    /// at 0 nothing is.
    pub max_series: usize,
    /// Where requests are logged, if they are.
    pub access_log: Option<AccessLog>,
    /// Whether a request without `traceparent` gets one.
    pub start_traces: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            max_connections: MOST_CONNECTIONS,
            max_upstreams: MOST_CONNECTIONS,
            max_held: 1 << 30,
            max_handshakes: 2048,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            min_body_rate: 1,
            stream_idle: Duration::from_secs(60),
            max_resets: 20,
            write_timeout: Duration::from_secs(60),
            max_head: 64 << 10,
            max_headers: 100,
            max_response_headers: 256,
            max_streams: 200,
            connect_timeout: Duration::from_secs(3),
            max_tries: 3,
            upstream_idle: Duration::from_secs(4),
            upstream_http2_idle: Duration::from_secs(60),
            max_idle_per_endpoint: 256,
            half_closed_timeout: Duration::from_secs(10),
            tunnel_idle: Duration::from_secs(600),
            drain: Duration::from_secs(30),
            max_series: MOST_SERIES,
            access_log: None,
            start_traces: true,
        }
    }
}

impl Settings {
    /// The defaults, within what the process may open, and a quarter of the memory that it may have. Units: bytes.
    #[must_use]
    pub fn within(descriptors: &Descriptors, memory: usize) -> Self {
        Self {
            max_connections: descriptors.clients.min(MOST_CONNECTIONS),
            max_upstreams: descriptors.upstreams,
            max_held: memory / 4,
            ..Self::default()
        }
    }
}
