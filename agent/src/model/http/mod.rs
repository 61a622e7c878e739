//! What the proxy must do: frontends, listeners, rules in precedence order, and the backends of each Service port.
//!
//! Written by `model::gateway` and `model::route`, read by `proxy`. Nothing here does I/O; everything is immutable and
//! compares, so that the proxy can keep what did not change. Endpoints live apart from rules: an EndpointSlice that
//! changes leaves every rule as it was.
//!
//! # Design
//! - Which rule a request gets is decided by order alone: the listener with the most specific host name, then its
//!   entries from the first to the last. `proxy::router` answers the same question faster; a property test compares.
//! - Paths are compared in the normal form of [`path::normalise`], on both sides.
pub mod claim;
mod escape;
pub mod host;
pub mod listing;
pub mod matching;
pub mod path;
pub mod query;
pub(crate) mod work;

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

pub use host::Hostname;
pub use matching::{HttpMatch, Pattern, RequestHead};

use super::{Backend, Port};
use crate::api::ObjectName;

/// The layer 7 part of a [`super::Model`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpModel {
    /// What clients dial -> the listeners there. Addresses that share listeners share the `Arc`.
    pub frontends: BTreeMap<SocketAddr, Arc<Vec<HttpListener>>>,
    /// The backends of each Service port that some rule names: distinct, in order; empty when none is ready.
    pub services: BTreeMap<ServicePort, Vec<Backend>>,
}

/// One listener of a Gateway. Host names are distinct within a frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpListener {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The listener's name in the Gateway.
    pub name: String,
    /// Which requests are its own; no other listener is asked for them.
    pub hostname: Hostname,
    /// What it does, first match wins: the most specific host name first, then the most specific match, then age.
    pub entries: Vec<HttpEntry>,
}

/// One match of one rule under one host name.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpEntry {
    /// The host name as the route has it.
    pub hostname: Hostname,
    /// What else must hold.
    pub matches: Arc<HttpMatch>,
    /// What is done then.
    pub rule: Arc<HttpRule>,
}

/// What is done with a request.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRule {
    /// The HTTPRoute.
    pub route: ObjectName,
    /// Which of its rules, from 0.
    pub index: usize,
    /// Changes of the request's headers.
    pub request: HeaderEdits,
    /// Changes of the response's headers.
    pub response: HeaderEdits,
    /// Changes of host and path.
    pub rewrite: Option<Rewrite>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Where it goes.
    pub action: Action,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To one of these, by weight.
    Forward(Vec<Share>),
    /// Back to the client.
    Redirect(Redirect),
    /// Nowhere: 500, because the rule cannot be obeyed. The text says why.
    Refuse(String),
}

/// A part of a rule's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// The weight; may be 0.
    pub weight: u32,
    /// Who gets it.
    pub to: ShareTarget,
    /// Changes of the request's headers on the way to this backend, after those of the rule.
    pub request: HeaderEdits,
    /// Changes of the response's headers on the way back, before those of the rule.
    pub response: HeaderEdits,
}

/// Who gets a share.
#[derive(Clone, Debug, PartialEq)]
pub enum ShareTarget {
    /// The backends of a Service port: 503 when there are none.
    Service(ServicePort),
    /// Nobody: 500, because the reference is bad. The text says why.
    Invalid(String),
}

/// A port of a Service. Written `namespace/name:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServicePort {
    /// The Service.
    pub service: ObjectName,
    /// Its port, not the endpoints'.
    pub port: Port,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// Changes of headers: first `set`, then `add`, then `remove`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HeaderEdits {
    /// Exactly this value.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// One value more.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// None.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Makes the changes.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// Changes of host and path.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewrite {
    /// The new host.
    pub hostname: Option<HeaderValue>,
    /// The new path.
    pub path: Option<PathChange>,
}

/// A change of a path. The query stays.
#[derive(Clone, Debug, PartialEq)]
pub enum PathChange {
    /// All of it.
    Full(String),
    /// The prefix that matched.
    Prefix(String),
}

/// An answer that sends the client elsewhere. What is `None` stays as in the request.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// The host.
    pub hostname: Option<String>,
    /// The port.
    pub port: Option<Port>,
    /// The path.
    pub path: Option<PathChange>,
    /// The status.
    pub status: StatusCode,
}

/// How long a request may take; `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the end of the response, over all tries.
    pub request: Option<Duration>,
    /// For one try, likewise to the end of the response.
    pub backend: Option<Duration>,
}
