//! Where a share of a rule's requests goes: the endpoints of a Service port, and how they are spoken to.
//!
//! # Design
//! A [`Cluster`] is the key of everything that must not be mixed: two that differ in their [`Transport`] never share a
//! connection, though their endpoints be the same. What is known of an endpoint (load, health, how many connections it may
//! have) is one for all of them. The endpoints themselves are in [`super::HttpModel::services`], by Service port alone.
use std::fmt;

use serde::Serialize;

use super::ServicePort;

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Transport {
    /// HTTP/1.1 in clear text.
    #[default]
    Http1,
    /// HTTP/2 in clear text with prior knowledge (RFC 9113 part 3.3).
    H2c,
}

impl Transport {
    /// What `appProtocol` of a Service's port may say; whatever else it says, requests would be sent to a server that does not
    /// understand them. Source: KEP-3726 and the service names of IANA, which have no case.
    pub const SPOKEN: [&str; 5] = ["http", "http-alt", "www-http", "kubernetes.io/ws", "kubernetes.io/h2c"];

    /// What `appProtocol` says: `unsaid` where it says nothing, `None` where it names what is not spoken.
    ///
    /// `unsaid` is HTTP/1.1 for an HTTPRoute and h2c for a GRPCRoute.
    #[must_use]
    pub fn of(app_protocol: Option<&str>, unsaid: Self) -> Option<Self> {
        let named = app_protocol.unwrap_or_default();
        if named.is_empty() {
            return Some(unsaid);
        }
        let found = Self::SPOKEN.iter().find(|name| name.eq_ignore_ascii_case(named))?;
        Some(if *found == "kubernetes.io/h2c" { Self::H2c } else { Self::Http1 })
    }
}

/// A Service port and how its endpoints are spoken to. Written `namespace/name:port`, with `(h2c)` where it is that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Cluster {
    /// Whose endpoints.
    pub port: ServicePort,
    /// How they are spoken to.
    pub transport: Transport,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Http1 => write!(f, "{}", self.port),
            Transport::H2c => write!(f, "{} (h2c)", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_case_says_how_a_port_is_spoken_to() {
        let of = |named| (Transport::of(named, Transport::Http1), Transport::of(named, Transport::H2c));
        for unsaid in [None, Some("")] {
            assert_eq!(of(unsaid), (Some(Transport::Http1), Some(Transport::H2c)), "{unsaid:?}");
        }
        for http in ["http", "HTTP", "kubernetes.io/ws", "www-http"] {
            assert_eq!(of(Some(http)), (Some(Transport::Http1), Some(Transport::Http1)), "{http}");
        }
        assert_eq!(of(Some("kubernetes.io/H2C")), (Some(Transport::H2c), Some(Transport::H2c)));
        for not in ["h2c", "grpc", "https", "kubernetes.io/wss", " http"] {
            assert_eq!(of(Some(not)), (None, None), "{not}");
        }
    }
}
