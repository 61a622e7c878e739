//! Cross-origin resource sharing, compiled: which pages of other origins may use what a rule serves.
//!
//! Written by `model::filter::cors`, run by `proxy::cors`. Source: `HTTPCORSFilter` of the Gateway API and the Fetch standard,
//! part 3.2 (CORS protocol).
use http::HeaderValue;

use super::{Hostname, host::Authority};
use crate::model::Port;

/// A CORS filter.
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    /// Whose pages may.
    pub origins: Origins,
    /// Whether cookies and the like may come along.
    pub credentials: bool,
    /// Methods that requests may have.
    pub methods: Listed,
    /// Fields that requests may have.
    pub headers: Listed,
    /// Fields of responses that pages may read.
    pub expose: Listed,
    /// How long a browser may remember what a preflight said. Units: seconds.
    pub max_age: u32,
}

/// Origins that are let.
#[derive(Clone, Debug, PartialEq)]
pub enum Origins {
    /// All of them.
    Any,
    /// Those that one of these means; nobody's where there is none.
    These(Vec<OriginPattern>),
}

/// What may be in a list of names.
#[derive(Clone, Debug, PartialEq)]
pub enum Listed {
    /// Nothing beside what is always let.
    Nothing,
    /// Everything.
    All,
    /// These, as the field says it.
    These(HeaderValue),
}

/// One entry of `allowOrigins`.
#[derive(Clone, Debug, PartialEq)]
pub struct OriginPattern {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The host, `*` and `*.suffix` included.
    pub host: Hostname,
    /// The port; that of the scheme where the entry has none.
    pub port: Port,
}

impl OriginPattern {
    fn holds(&self, scheme: &str, authority: &Authority<'_>) -> bool {
        let known = if self.scheme == "https" { 443 } else { 80 };
        scheme.eq_ignore_ascii_case(self.scheme)
            && authority.port.unwrap_or(known) == self.port.get()
            && self.host.holds(&authority.host)
    }
}

impl Cors {
    /// Whether a page of this origin, as `Origin` says it, may use the response.
    ///
    /// `null` is the origin of whoever wants to hide his, so with credentials it is nobody's that is let.
    #[must_use]
    pub fn admits(&self, origin: &HeaderValue) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        match &self.origins {
            Origins::Any if origin == "null" => !self.credentials,
            Origins::Any => split(origin).is_some(),
            Origins::These(patterns) => split(origin)
                .is_some_and(|(scheme, authority)| patterns.iter().any(|pattern| pattern.holds(scheme, &authority))),
        }
    }
}

/// The scheme and the rest of a serialised origin. Source: RFC 6454 part 6.2.
fn split(origin: &str) -> Option<(&str, Authority<'_>)> {
    let (scheme, rest) = origin.split_once("://")?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(plain) {
        return None;
    }
    Some((scheme, Authority::try_new(rest)?))
}
