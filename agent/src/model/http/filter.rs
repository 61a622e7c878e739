//! What filters do, compiled: the parts of a rule that change what passes. Which filters there are is one enum.
//!
//! Written by `model::filter`, run by `proxy::filters`. A new filter is a variant here, its compile there, its run, a test.
//!
//! # Design
//! - Filters run in the order in which they are written: on the way to the backend those of the rule, then those of the
//!   backendRef; on the way back those of the backendRef first.
//! - A prefix is replaced in the path that was matched, and of two that change the path the backendRef's counts.
use http::{HeaderName, HeaderValue, StatusCode};

use super::{Cluster, ServicePort, cors::Cors};
use crate::model::Port;

/// One filter of a rule or a backendRef.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    /// Changes of the request's headers.
    RequestHeaders(HeaderEdits),
    /// Changes of the response's headers.
    ResponseHeaders(HeaderEdits),
    /// Changes of host and path.
    Rewrite(Rewrite),
    /// Which pages of other origins may use the responses.
    Cors(Cors),
    /// A copy of the request for somebody else.
    Mirror(Mirror),
}

impl Filter {
    /// The Service port that it sends something to.
    #[must_use]
    pub fn service(&self) -> Option<&ServicePort> {
        match self {
            Self::Mirror(mirror) => Some(&mirror.to.port),
            Self::RequestHeaders(_) | Self::ResponseHeaders(_) | Self::Rewrite(_) | Self::Cors(_) => None,
        }
    }
}

/// Who gets copies of requests, and of how many: `numerator` of `denominator`, which is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Who gets them.
    pub to: Cluster,
    /// So many
    pub numerator: u32,
    /// of so many.
    pub denominator: u32,
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
