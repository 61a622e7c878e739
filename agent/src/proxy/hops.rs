//! How often a request has come by here: an end for loops that the proxy cannot see.
//!
//! Addresses of ours are no endpoints, but whoever runs a proxy behind a route can send requests back to the front. Each pass
//! holds two connections, so one request would take them all. Passes are counted in `CDN-Loop`, which is made for that and
//! which proxies are to leave alone.
//!
//! # Design
//! - Not `Via`: servers take it as a sign that they must not compress (nginx `gzip_proxied`).
//! - The count is what came in, and is written after all filters, so that no route can make it forget.
//! - Several Sluices one after the other are no loop; [`MOST`] leaves room for them.
//!
//! Source: RFC 8586.
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::model::http::work::work;

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// Our name in it.
const NAME: &str = "sluice";
/// How often a request may come by. Beyond it 508.
const MOST: usize = 8;
/// How long the field may be, what others wrote into it included. Beyond it 431: entries are looked through one by one, and
/// those of a few networks are short. Units: bytes.
const LIMIT: usize = 1 << 10;

/// The passes of a request, this one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hops(HeaderValue);

/// Why the passes are not counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HopFault {
    /// It has come by too often.
    Loop,
    /// The field is too long.
    Long,
}

impl Hops {
    /// Counts the passes that a request's head tells of.
    ///
    /// # Errors
    /// There were [`MOST`] of them, or more is told than anybody has to tell.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, HopFault> {
        if !headers.contains_key(&CDN_LOOP) {
            return Ok(Self(HeaderValue::from_static(NAME)));
        }
        let fields = || headers.get_all(&CDN_LOOP).iter().filter_map(|value| value.to_str().ok());
        if headers.get_all(&CDN_LOOP).iter().map(|field| field.len() + 2).sum::<usize>() > LIMIT {
            return Err(HopFault::Long);
        }
        let name = |entry: &str| entry.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(NAME);
        let entries = fields().flat_map(|field| field.split(',')).inspect(|entry| work(entry.len()));
        if entries.filter(|entry| name(entry)).count() >= MOST {
            return Err(HopFault::Loop);
        }
        let all = fields().chain([NAME]).collect::<Vec<_>>().join(", ");
        Ok(Self(HeaderValue::from_str(&all).unwrap_or(HeaderValue::from_static(NAME))))
    }

    /// Writes them into the head that goes on.
    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.insert(CDN_LOOP, self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(values: &[&str]) -> Result<String, HopFault> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CDN_LOOP, HeaderValue::from_str(value).unwrap());
        }
        Hops::of(&headers).map(|hops| {
            hops.write(&mut headers);
            assert_eq!(headers.get_all(&CDN_LOOP).iter().count(), 1);
            headers[&CDN_LOOP].to_str().unwrap().to_owned()
        })
    }

    #[test]
    fn passes_are_counted_up_to_the_bound_beside_those_of_others() {
        assert_eq!(pass(&[]).unwrap(), "sluice");
        assert_eq!(pass(&["other; v=1", "Sluice;x=2"]).unwrap(), "other; v=1, Sluice;x=2, sluice");
        assert_eq!(pass(&[&["sluice"; 7].join(",")]).unwrap().matches("sluice").count(), 8);
        assert_eq!(pass(&[&["sluice"; 8].join(",")]), Err(HopFault::Loop));
        assert_eq!(pass(&["sluice,sluice,sluice,sluice", "sluice,sluice", "sluice , sluice; a"]), Err(HopFault::Loop));
    }

    #[test]
    fn a_field_that_is_too_long_is_refused_whoever_wrote_it() {
        let others = "x".repeat(LIMIT - "sluice, sluice".len() - 4);
        assert_eq!(pass(&[&others, "sluice, sluice"]).unwrap().matches("sluice").count(), 3);
        assert_eq!(pass(&[&others, "sluice, sluice", ""]), Err(HopFault::Long));
    }
}
