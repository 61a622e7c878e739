//! Session persistence of a rule: who has been at an endpoint comes back to it.
//!
//! Source: GEP-1619 of the Gateway API, experimental channel.
use std::{fmt, sync::OnceLock, time::Duration};

use http::HeaderName;
use ring::{aead::LessSafeKey, hmac};

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
    /// What follows from that.
    pub keys: Keys,
}

/// What a session's tokens are sealed with, once somebody has asked for it. It follows from the rest: all are equal, and a copy has none
/// yet.
#[derive(Default)]
pub struct Keys(OnceLock<Option<Box<Sealing>>>);

/// The keys of a session.
pub struct Sealing {
    /// Of what is sealed.
    pub seal: LessSafeKey,
    /// Of the nonce.
    pub nonce: hmac::Key,
}

impl Keys {
    /// Them; made when they are asked for the first time. `None` where they cannot be.
    pub fn get(&self, make: impl FnOnce() -> Option<Sealing>) -> Option<&Sealing> {
        self.0.get_or_init(|| make().map(Box::new)).as_deref()
    }
}

impl Clone for Keys {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Keys {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Keys {}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Where clients keep a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionPlace {
    /// In a cookie of this name.
    Cookie {
        /// Its name.
        name: String,
        /// For which paths a browser shows it.
        path: String,
        /// The browser keeps it when it is closed, for as long as the session lasts.
        is_permanent: bool,
    },
    /// In a field of this name, which responses set and requests repeat.
    Header(HeaderName),
}
