//! Headers that a proxy removes, replaces or adds, for both directions.
//!
//! The client is untrusted: what it says about itself in `X-Forwarded-*`, `Forwarded` and `X-Real-IP` is replaced by
//! what the connection shows, before any rule sees it.
use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{proxy_protocol::Source, request::Scheme};
use crate::model::http::{claim::is_claim, work::work};

/// Headers of one hop. Source: RFC 9110 part 7.6.1, and those that came before it.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Headers that `Connection` must not name: removing them would change what a request means or who sent it.
fn end_to_end(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "authorization"
            | "cookie"
            | "set-cookie"
            | "cache-control"
            | "via"
            | "forwarded"
            | "date"
            | "location"
            | "x-request-id"
            | "x-real-ip"
            | "traceparent"
            | "tracestate"
            | "baggage"
            | "origin"
            | "range"
            | "expect"
    ) || ["content-", "x-forwarded-", "if-", "access-control-", "sec-"].iter().any(|p| name.starts_with(p))
}

/// Removes the headers of one hop, and those that `Connection` names unless they are end to end.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .inspect(|token| work(token.len()))
        .map(str::trim)
        .filter(|token| !token.eq_ignore_ascii_case("keep-alive") && !token.eq_ignore_ascii_case("close"))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !end_to_end(name.as_str()))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether a comma-separated header has a token, in any case.
#[must_use]
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
}

/// Whether a value begins or ends with white space: over HTTP/2 that makes a message malformed, and nobody may pass it on. A server
/// of HTTP/1.1 behind it reads the value without, so that rules would see another one. Source: RFC 9113 part 8.2.1.
#[must_use]
pub(super) fn has_padding(headers: &HeaderMap) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers.values().map(HeaderValue::as_bytes).any(|value| is_space(value.first()) || is_space(value.last()))
}

/// What must not be in trailers: framing, routing, authentication. Source: RFC 9110 part 6.5.1.
fn is_no_trailer(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name)
        || name.as_str().starts_with("content-")
        || name.as_str().starts_with("x-forwarded-")
        || matches!(
            name.as_str(),
            "host"
                | "authorization"
                | "cookie"
                | "set-cookie"
                | "cache-control"
                | "expect"
                | "location"
                | "age"
                | "max-forwards"
                | "range"
                | "proxy-authenticate"
                | "www-authenticate"
                | "vary"
                | "expires"
                | "date"
                | "forwarded"
                | "x-real-ip"
        )
}

/// Removes from trailers what must not be there.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    let found: Vec<HeaderName> = trailers.keys().filter(|name| is_no_trailer(name)).cloned().collect();
    for name in found {
        trailers.remove(name);
    }
}

/// What `Trailer` of the next hop says, of what it says on this one; `None` when nothing of it may be a trailer.
///
/// Trailers cross HTTP/1.1 where the client has said `TE: trailers`, declared (RFC 9110 part 6.6.2) or not. HAProxy passes
/// them like that, Envoy and nginx when told to. To an HTTP/2 client they go in any case: gRPC lives by them.
#[must_use]
pub(super) fn declared_trailers(headers: &HeaderMap) -> Option<HeaderValue> {
    if !headers.contains_key(header::TRAILER) {
        return None;
    }
    let values = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).inspect(|token| work(token.len()));
    let names = names.filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok());
    let names: Vec<HeaderName> = names.filter(|name| !is_no_trailer(name)).collect();
    HeaderValue::from_str(&names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", "))
        .ok()
        .filter(|_| !names.is_empty())
}

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// How many fields [`set_forwarded`] and [`set_trace`] add at most, `CDN-Loop` and one more counted.
const ADDED: usize = 9;

/// The two ends of a client's connection, also as fields of a head say them: written once, not for each request.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// The client.
    pub peer: SocketAddr,
    /// The address it dialled.
    pub local: SocketAddr,
    /// What the connection speaks.
    pub scheme: Scheme,
    address: HeaderValue,
    port: HeaderValue,
}

impl Ends {
    /// As endpoints are told of it.
    pub(super) fn source(&self) -> Source {
        Source { client: self.peer, local: self.local }
    }

    /// Those of a connection.
    #[must_use]
    pub(super) fn new(peer: SocketAddr, local: SocketAddr, scheme: Scheme) -> Self {
        let address = HeaderValue::from_str(&peer.ip().to_string()).expect("an address is visible ASCII");
        Self { peer, local, scheme, address, port: HeaderValue::from(local.port()) }
    }
}

/// Replaces what the client says about itself by what the connection shows.
pub(super) fn set_forwarded(headers: &mut HeaderMap, ends: &Ends, authority: &HeaderValue) {
    let claims: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
    headers.reserve(ADDED);
    headers.insert(X_REAL_IP, ends.address.clone());
    headers.insert(X_FORWARDED_FOR, ends.address.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(ends.scheme.as_str()));
    headers.insert(X_FORWARDED_HOST, authority.clone());
    headers.insert(X_FORWARDED_PORT, ends.port.clone());
}

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const BAGGAGE: HeaderName = HeaderName::from_static("baggage");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest `tracestate` that is passed on. Beyond it the header is dropped. Units: bytes.
const TRACESTATE_LIMIT: usize = 512;
/// Longest `baggage` that is passed on. Beyond it the header is dropped. Units: bytes.
const BAGGAGE_LIMIT: usize = 8 << 10;
/// Longest `X-Request-Id` that is passed on. Beyond it a new one is made. Units: bytes.
const REQUEST_ID_LIMIT: usize = 128;

/// Continues the client's trace, or starts one; sees to a request id.
///
/// A valid `traceparent` goes on as it is: the proxy records no span that could be a parent. An invalid one is replaced
/// and takes `tracestate` with it. Source: W3C Trace Context part 3.2 and 4.
pub(super) fn set_trace(headers: &mut HeaderMap, start: bool) {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let valid = matches!((given.next(), given.next()), (Some(one), None) if is_traceparent(one.as_bytes()));
    if !valid {
        headers.remove(TRACESTATE);
        if start {
            headers.insert(TRACEPARENT, new_traceparent());
        } else {
            headers.remove(TRACEPARENT);
        }
    }
    for (name, limit) in [(TRACESTATE, TRACESTATE_LIMIT), (BAGGAGE, BAGGAGE_LIMIT)] {
        if headers.get_all(&name).iter().map(HeaderValue::len).sum::<usize>() > limit {
            headers.remove(name);
        }
    }
    let mut ids = headers.get_all(X_REQUEST_ID).iter();
    let graphic =
        |v: &HeaderValue| (1..=REQUEST_ID_LIMIT).contains(&v.len()) && v.as_bytes().iter().all(u8::is_ascii_graphic);
    let kept = matches!((ids.next(), ids.next()), (Some(one), None) if graphic(one));
    if !kept {
        let mut id = [0; 32];
        hex(&fastrand::u128(1..).to_be_bytes(), &mut id);
        headers.insert(X_REQUEST_ID, value(&id));
    }
}

/// Writes bytes as lower-case hexadecimal digits.
fn hex(bytes: &[u8], into: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(into.chunks_exact_mut(2)) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn value(digits: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(digits).expect("digits and dashes are a field's value")
}

fn is_traceparent(text: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let some = |part: &[u8]| hex(part) && part.iter().any(|b| *b != b'0');
    let (Some(version), Some(trace), Some(parent), Some(flags)) =
        (text.get(..2), text.get(3..35), text.get(36..52), text.get(53..55))
    else {
        return false;
    };
    let dashes = text[2] == b'-' && text[35] == b'-' && text[52] == b'-';
    let length = text.len() == 55 || (version != b"00" && text[55] == b'-');
    dashes && length && hex(version) && version != b"ff" && some(trace) && some(parent) && hex(flags)
}

fn new_traceparent() -> HeaderValue {
    // Flags 0: nothing is recorded here.
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    hex(&fastrand::u128(1..).to_be_bytes(), &mut text[3..35]);
    hex(&fastrand::u64(1..).to_be_bytes(), &mut text[36..52]);
    value(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn h76_h78_connection_takes_its_own_and_nothing_else() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Hop, Host, authorization, x-forwarded-for"),
            ("connection", "close, bad token"),
            ("x-hop", "1"),
            ("host", "a"),
            ("authorization", "b"),
            ("x-forwarded-for", "c"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("proxy-connection", "keep-alive"),
            ("x-stays", "1"),
        ]);
        remove_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "host", "x-forwarded-for", "x-stays"]);
    }

    #[test]
    fn h110_traceparents_are_checked() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(is_traceparent(good.as_bytes()));
        assert!(is_traceparent(format!("cc{}-what-the-future", &good[2..]).as_bytes()));
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn h110_traces_are_continued_or_restarted() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let mut headers = map(&[("traceparent", good), ("tracestate", "a=b"), ("x-request-id", "r1")]);
        set_trace(&mut headers, true);
        assert_eq!(headers["traceparent"], good);
        assert_eq!(headers["tracestate"], "a=b");
        assert_eq!(headers["x-request-id"], "r1");

        let mut headers = map(&[("traceparent", "junk"), ("tracestate", "a=b"), ("x-request-id", "two words")]);
        set_trace(&mut headers, true);
        assert!(is_traceparent(headers["traceparent"].as_bytes()));
        assert!(!headers.contains_key("tracestate"));
        assert_eq!(headers["x-request-id"].len(), 32);

        let mut headers = HeaderMap::new();
        set_trace(&mut headers, false);
        assert!(!headers.contains_key("traceparent"));
    }

    #[test]
    fn h17_trailers_lose_what_belongs_in_a_head() {
        let mut trailers = map(&[("content-length", "3"), ("host", "x"), ("authorization", "x"), ("grpc-status", "0")]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers.len(), 1);
    }
}
