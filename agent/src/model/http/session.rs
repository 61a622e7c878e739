//! Session persistence of a rule: who has been at an endpoint comes back to it.
//!
//! Source: GEP-1619 of the Gateway API, experimental channel.
use std::time::Duration;

use http::HeaderName;

/// What a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Where clients keep it.
    pub place: SessionPlace,
    /// How long one lasts from its beginning on.
    pub absolute: Option<Duration>,
    /// How long one lasts without a request.
    pub idle: Option<Duration>,
    /// What its tokens are sealed with: known to all nodes, to no client, and of no other rule; `None` where nodes have nothing of the
    /// kind in common, as with manifests.
    pub seed: Option<String>,
}

/// Where clients keep a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionPlace {
    /// In a cookie of this name.
    Cookie {
        /// Its name.
        name: String,
        /// The browser keeps it when it is closed, for as long as the session lasts.
        is_permanent: bool,
    },
    /// In a field of this name, which responses set and requests repeat.
    Header(HeaderName),
}
