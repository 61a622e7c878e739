//! How the requests for a Service port are spread over its endpoints, and when one of them is passed over.
//!
//! Written by `model::balance` from what objects say, read by `proxy::balance`. What nobody says anything about is [`Balance::default`].
use std::{collections::BTreeSet, fmt, time::Duration};

use http::HeaderName;

use super::RetryBudget;

/// What holds for a Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Which endpoint gets a request.
    pub balancer: Balancer,
    /// When one gets none for a while.
    pub ejection: Ejection,
    /// For how long an endpoint that is new gets less than its part.
    pub slow_start: Option<Duration>,
    /// What each connection to them begins with; nothing where nobody says it.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// How many retries they have to bear; the proxy's own bound where nobody says it.
    pub retries: Option<RetryBudget>,
}

impl Balance {
    /// The longest slow start.
    pub const LONGEST_START: Duration = Duration::from_secs(3600);
}

/// The version of the PROXY protocol in which an endpoint is told who a connection's client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// A head in binary.
    V2,
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// Which endpoint gets a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balancer {
    /// Of two at random the one that has fewer requests, each of them counted as long as they take there of late.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// The same for each key, whichever endpoints come or go (Maglev); where a request has none, as [`Balancer::LeastRequest`].
    ConsistentHash(HashKey),
}

/// What of a request is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address: the one that requests arrive upstream with as `X-Real-IP`.
    Client,
    /// The value of this field.
    Header(HeaderName),
    /// The value of the cookie of this name.
    Cookie(String),
}

/// When an endpoint is passed over for a while, which is called ejected, as in Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// After so many failures without a success between them; `None`: never. A connection that cannot be opened is
    /// enough by itself, whatever this says: what was to go there goes elsewhere.
    pub after: Option<u32>,
    /// The statuses that count as failures, beside connections that break and tries that take too long.
    pub codes: BTreeSet<u16>,
    /// For how long, the first time. It is doubled each time that the endpoint fails again, up to [`Ejection::LONGEST`].
    pub time: Duration,
    /// Of a Service port's endpoints so many may be ejected for their answers, one at the least where there are two. Units: percent.
    pub most: u8,
}

impl Ejection {
    /// The longest ejection: after it one request shows whether the endpoint is well again.
    pub const LONGEST: Duration = Duration::from_secs(10);
}

impl Default for Ejection {
    fn default() -> Self {
        Self { after: Some(5), codes: [502, 503, 504].into(), time: Duration::from_secs(1), most: 50 }
    }
}
