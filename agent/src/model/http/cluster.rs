//! Where a share of a rule's requests goes: the endpoints of a Service port, and how they are spoken to.
//!
//! # Design
//! A [`Cluster`] is the key of everything that must not be mixed: two that differ in their [`Transport`] never share a
//! connection, though their endpoints be the same. Whether it is under TLS is not a rule's to say: it is the Service port's
//! ([`super::HttpModel::tls`]), and no connection is used under any other parameters than those that it was made with. What is known of an endpoint (load, health, how many connections it may
//! have) is one for all of them. The endpoints themselves are in [`super::HttpModel::services`], by Service port alone.
use std::fmt;

use serde::Serialize;

use super::ServicePort;

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Transport {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: in clear text with prior knowledge (RFC 9113 part 3.3), under TLS by ALPN.
    Http2,
    /// What the endpoint chooses by ALPN, HTTP/2 or HTTP/1.1: under TLS alone.
    Negotiated,
}

impl Transport {
    /// What `appProtocol` of a Service's port may say; whatever else it says, requests would be sent to a server that does not
    /// understand them. Source: KEP-3726 and the service names of IANA, which have no case.
    pub const SPOKEN: [&str; 5] = ["http", "http-alt", "www-http", "kubernetes.io/ws", "kubernetes.io/h2c"];

    /// What it may say beside that where a policy says whose certificates to trust: what the port speaks is under TLS.
    const SECURED: [&str; 2] = ["https", "kubernetes.io/wss"];

    /// Whether `appProtocol` says that the port speaks TLS.
    #[must_use]
    pub fn is_secured(app_protocol: Option<&str>) -> bool {
        let named = app_protocol.unwrap_or_default();
        Self::SECURED.iter().any(|name| name.eq_ignore_ascii_case(named))
    }

    /// What `appProtocol` says: `unsaid` where it says nothing, `None` where it names what is not spoken. `has_tls` says whether the
    /// port has a policy.
    ///
    /// `unsaid` is HTTP/1.1 for an HTTPRoute and HTTP/2 for a GRPCRoute. Under TLS an endpoint says itself what it speaks: where HTTP/1.1
    /// would be meant, it has the choice, unless the port is for WebSockets, which are begun in HTTP/1.1.
    #[must_use]
    pub fn of(app_protocol: Option<&str>, unsaid: Self, has_tls: bool) -> Option<Self> {
        let named = app_protocol.unwrap_or_default();
        if has_tls && unsaid == Self::Http1 && (named.is_empty() || named.eq_ignore_ascii_case("https")) {
            return Some(Self::Negotiated);
        }
        if named.is_empty() || (has_tls && Self::is_secured(app_protocol)) {
            return Some(unsaid);
        }
        let found = Self::SPOKEN.iter().find(|name| name.eq_ignore_ascii_case(named))?;
        Some(if *found == "kubernetes.io/h2c" { Self::Http2 } else { Self::Http1 })
    }
}

/// A Service port and how its endpoints are spoken to. Written `namespace/name:port`, with `(HTTP/2)` where it is that, and what may come of ALPN.
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
            Transport::Http2 => write!(f, "{} (HTTP/2)", self.port),
            Transport::Negotiated => write!(f, "{} (HTTP/2 or HTTP/1.1)", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_case_says_how_a_port_is_spoken_to() {
        let of = |named| (Transport::of(named, Transport::Http1, false), Transport::of(named, Transport::Http2, false));
        for unsaid in [None, Some("")] {
            assert_eq!(of(unsaid), (Some(Transport::Http1), Some(Transport::Http2)), "{unsaid:?}");
        }
        for http in ["http", "HTTP", "kubernetes.io/ws", "www-http"] {
            assert_eq!(of(Some(http)), (Some(Transport::Http1), Some(Transport::Http1)), "{http}");
        }
        assert_eq!(of(Some("kubernetes.io/H2C")), (Some(Transport::Http2), Some(Transport::Http2)));
        for not in ["h2c", "grpc", "https", "kubernetes.io/wss", " http"] {
            assert_eq!(of(Some(not)), (None, None), "{not}");
        }
        for (secured, chosen) in [
            (None, Transport::Negotiated),
            (Some("https"), Transport::Negotiated),
            (Some("HTTPS"), Transport::Negotiated),
            (Some("kubernetes.io/wss"), Transport::Http1),
            (Some("http"), Transport::Http1),
            (Some("kubernetes.io/h2c"), Transport::Http2),
        ] {
            assert_eq!(Transport::of(secured, Transport::Http1, true), Some(chosen), "{secured:?} with a policy");
        }
        for secured in [None, Some("https"), Some("kubernetes.io/wss")] {
            assert_eq!(Transport::of(secured, Transport::Http2, true), Some(Transport::Http2), "{secured:?}");
        }
        assert_eq!(Transport::of(Some("h2c"), Transport::Http1, true), None);
    }
}
