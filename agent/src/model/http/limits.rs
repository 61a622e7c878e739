//! How one Gateway's clients are served, as far as the Gateway says so itself; the proxy has defaults for what is absent.
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnet::IpNet;

/// The settings of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections of clients at a time. Beyond it they are closed.
    pub max_connections: Option<usize>,
    /// Requests in flight. Beyond it 503.
    pub max_requests: Option<usize>,
    /// Memory for bodies that are not taken. Beyond it the one that has not moved for longest is ended. Units: bytes.
    pub max_held: Option<usize>,
    /// How large a request's head may be. Beyond it 431. Units: bytes.
    pub max_head: Option<usize>,
    /// Field names with `_`.
    pub underscores: Underscores,
    /// `Content-Length` beside `Transfer-Encoding`.
    pub length_beside_chunked: Length,
    /// How fast a request's body must come, on the average of the time that the proxy waits for it. Then 408. Units: bytes a
    /// second.
    pub min_body_rate: Option<u64>,
    /// Requests of one connection. Then it is closed in order.
    pub requests_per_connection: Option<u64>,
    /// How old a connection may become. Then it is closed in order.
    pub max_age: Option<Duration>,
    /// HTTP/2 streams that a client has reset before they were looked at. Beyond it GOAWAY.
    pub max_resets: Option<usize>,
    /// How long a client may take nothing of a response that is there. Then the HTTP/2 stream is reset.
    pub stream_idle: Option<Duration>,
    /// Who is believed what he says about a client.
    pub trust: Trust,
    /// The ports whose connections begin with a head of the PROXY protocol, all of them.
    pub proxy_ports: BTreeSet<u16>,
}

/// Which proxies before us are believed. None by default: whoever dials is the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    /// So many hops, whoever they are, the one that dials first.
    pub hops: usize,
    /// Their addresses.
    pub ranges: Vec<IpNet>,
}

impl Trust {
    /// Whether it is believed that stands so many hops before the one that dials.
    #[must_use]
    pub fn has(&self, addr: IpAddr, hop: usize) -> bool {
        hop < self.hops || self.ranges.iter().any(|range| range.contains(&addr))
    }
}

/// What is done with field names that have a `_`: gateways of CGI and its kin read it as `-`, so that `X_User` is taken for what
/// something in between has written as `X-User`. What would be taken for a field that the proxy itself checks or writes
/// (`Content_Length`, `X_Forwarded_For`) never passes.
///
/// Envoy and HAProxy pass them, nginx drops them; Envoy advises an edge to refuse them. Passed by default, since clients
/// and backends of one house use them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They pass.
    #[default]
    Allow,
    /// They are taken away.
    Drop,
    /// 400.
    Reject,
}

/// What is done with a request that has both framings. RFC 9112 part 6.3 lets a server refuse it; Envoy does by default, and
/// so does this proxy: who sends both hopes that somebody reads the other one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// 400.
    #[default]
    Reject,
    /// The length does not count, and the connection closes after the exchange.
    Ignore,
}
