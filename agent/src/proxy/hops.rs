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

const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// Our name in it.
const NAME: &str = "sluice";
/// How often a request may come by. Beyond it 508.
const MOST: usize = 8;
/// How much of the field is passed on, what others wrote into it included. Beyond it only our own entries are. Units: bytes.
const LIMIT: usize = 1 << 10;

/// The passes of a request, this one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hops(HeaderValue);

/// It has come by too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loop;

impl Hops {
    /// Counts the passes that a request's head tells of.
    ///
    /// # Errors
    /// There were [`MOST`] of them.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Loop> {
        let fields = || headers.get_all(&CDN_LOOP).iter().filter_map(|value| value.to_str().ok());
        let name = |entry: &str| entry.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(NAME);
        let passes = fields().flat_map(|field| field.split(',')).filter(|entry| name(entry)).count();
        if passes >= MOST {
            return Err(Loop);
        }
        let length: usize = fields().map(|field| field.len() + 2).sum();
        let before: Vec<&str> = if length <= LIMIT { fields().collect() } else { vec![NAME; passes] };
        let all = before.into_iter().chain([NAME]).collect::<Vec<_>>().join(", ");
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

    fn pass(values: &[&str]) -> Result<String, Loop> {
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
        assert_eq!(pass(&[&["sluice"; 8].join(",")]), Err(Loop));
        assert_eq!(pass(&["sluice,sluice,sluice,sluice", "sluice,sluice", "sluice , sluice; a"]), Err(Loop));
    }

    #[test]
    fn a_field_that_is_too_long_loses_what_others_wrote_and_not_the_count() {
        let long = format!("{}, sluice, sluice", "x".repeat(LIMIT));
        assert_eq!(pass(&[&long]).unwrap(), "sluice, sluice, sluice");
    }
}
