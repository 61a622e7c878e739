//! A request's head as it came in -> the head that rules see and that goes upstream.
//!
//! Everything that two servers could read differently is refused here or brought into one form: framing, target, host,
//! path, expectation. After [`canonicalise`], `host` is in the headers exactly once, the target is in origin form and
//! normal; rules are matched against that, with all fields of the client's hop still there. [`leave_hop`] takes these
//! away when the request has its rule.
use std::{borrow::Cow, net::SocketAddr};

use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, request::Parts, uri::PathAndQuery};

use super::{
    connect, framing,
    headers::{self, Ends},
    http1::Doubt,
    websocket::take_connect,
};
use crate::model::http::{
    host::Authority,
    limits::{Length, Underscores},
    path,
    query::normal::{self, QueryFault},
    work::work,
};

/// A request that is not served, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// For the client.
    pub reason: &'static str,
}

fn refuse<T>(status: StatusCode, reason: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, reason })
}

fn bad<T>(reason: &'static str) -> Result<T, Refusal> {
    refuse(StatusCode::BAD_REQUEST, reason)
}

/// What the checks found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Canonical {
    /// The host for rules: lower case, without port.
    pub host: String,
    /// The authority as sent.
    pub authority: HeaderValue,
    /// The client asks for a WebSocket.
    pub websocket: bool,
    /// The client asks for a tunnel.
    pub tunnel: bool,
    /// The client takes trailers.
    pub trailers: bool,
}

/// What a connection speaks underneath HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Clear text.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What is known about a request beside its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    /// Of the connection.
    pub ends: &'a Ends,
    /// A body follows the head.
    pub has_body: bool,
    /// How many fields a head may have, cookies counted once. Beyond it 431.
    pub max_fields: usize,
    /// What is in doubt about its framing.
    pub doubt: Option<Doubt>,
    /// What the Gateway says of two framings.
    pub length_beside_chunked: Length,
    /// What it says of names with `_`.
    pub underscores: Underscores,
}

/// How long the values of a field of this hop may be together. Beyond it 431: such lists are looked through token by
/// token, and nobody's have more than a few. Units: bytes.
const HOP_FIELD_LIMIT: usize = 1024;

/// How many members the values of such a field may have together. Beyond it 431: each costs what a field does.
const HOP_MEMBERS_LIMIT: usize = 32;

/// How long a target may be, as sent and in its one form: what `http` takes. Beyond it 414. Units: bytes.
const TARGET_LIMIT: usize = 65_534;

/// How long an authority may be: a name of 255 bytes, or an address, and a port. Units: bytes.
const AUTHORITY_LIMIT: usize = 255 + 1 + ":65535".len();

/// Checks a head and brings it into its one form.
///
/// # Errors
/// With the status that the client gets.
///
/// Cost: linear in the head. HTTP/1.1 heads are bounded in fields by hyper, HTTP/2 heads only here.
pub(super) fn canonicalise(parts: &mut Parts, arrival: Arrival<'_>) -> Result<Canonical, Refusal> {
    let Arrival { ends, has_body, max_fields, doubt, length_beside_chunked, underscores } = arrival;
    match doubt {
        Some(Doubt::TwoFramings) if length_beside_chunked == Length::Reject => {
            return bad("content-length beside transfer-encoding");
        }
        Some(Doubt::Lost) => return bad("it is not certain where the request begins"),
        Some(Doubt::TwoFramings) | None => {}
    }
    let connects = take_connect(parts);
    let tunnel = connect::is_asked(parts, has_body).or_else(bad)?;
    method(&parts.method, tunnel)?;
    fields(&parts.headers, max_fields)?;
    // Over HTTP/1.1 it is no part of a value, and hyper takes it away.
    if parts.version == Version::HTTP_2 && headers::has_padding(&parts.headers) {
        return bad("a field value begins or ends with white space");
    }
    without_underscores(&mut parts.headers, underscores)?;
    if framing::is_chunked(&parts.headers).is_err() {
        return bad("transfer coding other than chunked");
    }
    expectation(&parts.headers)?;
    let authority = authority(parts, ends.local, ends.scheme)?;
    let text = Some(&authority).filter(|a| a.len() <= AUTHORITY_LIMIT).and_then(|a| a.to_str().ok());
    let Some(host) = text.and_then(Authority::try_new) else { return bad("malformed host") };
    let host = host.host.into_owned();
    if tunnel {
        // To rules it is a request for `/`.
        parts.uri = Uri::from_static("/");
    } else {
        target(parts)?;
    }
    parts.headers.insert(header::HOST, authority.clone());

    let websocket = connects || websocket(parts, has_body)?;
    join_cookies(&mut parts.headers);
    headers::set_forwarded(&mut parts.headers, ends, &authority);
    let trailers = headers::has_token(&parts.headers, &header::TE, "trailers");
    Ok(Canonical { host, authority, websocket, tunnel, trailers })
}

/// Takes away what belongs to the client's hop, but for trailers if the client takes them, and sees to the trace: `start`
/// says whether one is started.
pub(super) fn leave_hop(headers: &mut HeaderMap, trailers: bool, start: bool) {
    let declared = headers::declared_trailers(headers).filter(|_| trailers);
    headers::remove_hop_by_hop(headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        headers.extend(declared.map(|names| (header::TRAILER, names)));
    }
    // hyper answers `100-continue` itself when the body is read.
    headers.remove(header::EXPECT);
    headers::set_trace(headers, start);
}

/// Bounds what is looked at field by field, and token by token.
fn fields(headers: &HeaderMap, max: usize) -> Result<(), Refusal> {
    let large = |reason| refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason);
    // HTTP/2 clients send cookies one by one.
    let cookies = headers.get_all(header::COOKIE).iter().inspect(|_| work(0)).count();
    if headers.len() - cookies.saturating_sub(1) > max {
        return large("too many header fields");
    }
    for name in [header::CONNECTION, header::UPGRADE, header::TE, header::TRAILER] {
        if headers.get_all(&name).iter().map(HeaderValue::len).sum::<usize>() > HOP_FIELD_LIMIT {
            return large("a field of the connection is too long");
        }
        let members = |value: &HeaderValue| 1 + value.as_bytes().iter().filter(|b| **b == b',').count();
        if headers.get_all(&name).iter().map(members).sum::<usize>() > HOP_MEMBERS_LIMIT {
            return large("a field of the connection has too many members");
        }
    }
    Ok(())
}

/// Does with names that have a `_` what the Gateway asks for.
fn without_underscores(headers: &mut HeaderMap, asked: Underscores) -> Result<(), Refusal> {
    if asked == Underscores::Allow {
        return Ok(());
    }
    let has = |name: &&http::HeaderName| name.as_str().contains('_');
    let found: Vec<http::HeaderName> =
        headers.keys().inspect(|n| work(n.as_str().len())).filter(has).cloned().collect();
    if asked == Underscores::Reject && !found.is_empty() {
        return bad("a field name has an underscore");
    }
    found.iter().for_each(|name| drop(headers.remove(name)));
    Ok(())
}

fn method(method: &Method, tunnel: bool) -> Result<(), Refusal> {
    match *method {
        Method::CONNECT if !tunnel => {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT to a protocol other than websocket is not served")
        }
        Method::TRACE => refuse(StatusCode::METHOD_NOT_ALLOWED, "TRACE is not served"),
        _ => Ok(()),
    }
}

/// Whether the client asks for a WebSocket, the only protocol that is switched to; an upgrade to another one is ignored.
///
/// The handshake has no body (RFC 6455 part 4.1). With one it is refused: a server that switches at the end of the head
/// reads the body as frames or as the next request, one that does not reads it as a body.
fn websocket(parts: &Parts, has_body: bool) -> Result<bool, Refusal> {
    let asked = parts.version == Version::HTTP_11
        && headers::has_token(&parts.headers, &header::CONNECTION, "upgrade")
        && headers::has_token(&parts.headers, &header::UPGRADE, "websocket");
    if asked && has_body {
        return bad("upgrade with a body");
    }
    Ok(asked && parts.method == Method::GET)
}

/// `100-continue` is the one expectation that there is. Source: RFC 9110 part 10.1.1.
fn expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let known = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(known) {
        return Ok(());
    }
    refuse(StatusCode::EXPECTATION_FAILED, "unknown expectation")
}

/// The one authority of the request. In an absolute target it beats `Host` (RFC 9112 part 3.2.2); `:authority` must
/// not contradict it (RFC 9113 part 8.3.1).
fn authority(parts: &Parts, local: SocketAddr, scheme: Scheme) -> Result<HeaderValue, Refusal> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return bad("more than one host");
    }
    let http2 = parts.version == Version::HTTP_2;
    if parts.uri.scheme_str().is_some_and(|s| !s.eq_ignore_ascii_case(scheme.as_str())) {
        return bad(match scheme {
            Scheme::Http => "scheme other than http",
            Scheme::Https => "scheme other than https",
        });
    }
    match (parts.uri.authority(), host) {
        (Some(target), Some(host)) if http2 && !host.as_bytes().eq_ignore_ascii_case(target.as_str().as_bytes()) => {
            bad("host differs from authority")
        }
        // HTTP/1.1 wants a Host beside an absolute target too.
        (Some(_), None) if parts.version == Version::HTTP_11 => bad("no host"),
        (Some(target), _) => HeaderValue::from_str(target.as_str()).or_else(|_| bad("malformed host")),
        (None, Some(host)) => Ok(host.clone()),
        // HTTP/1.0 may have none: it is the address that was dialled then, which listeners and routes without host names
        // serve (RFC 9112 part 3.3; nginx and HAProxy serve it likewise, Envoy when told to).
        (None, None) if parts.version == Version::HTTP_10 => {
            HeaderValue::from_str(&local.to_string()).or_else(|_| bad("no host"))
        }
        (None, None) => bad("no host"),
    }
}

fn target(parts: &mut Parts) -> Result<(), Refusal> {
    let given = parts.uri.path();
    if parts.uri.scheme().is_none() && parts.uri.authority().is_some() {
        return bad("target is no path");
    }
    // `OPTIONS *` asks about the proxy, of which there is nothing to say; the other methods have no such target.
    if given == "*" {
        return bad("target is no path");
    }
    let given = if given.is_empty() { "/" } else { given };
    let normal = match path::normalise(given) {
        Ok(normal) => normal,
        Err(path::PathFault::Relative) => return bad("target is no path"),
        Err(path::PathFault::Escape) => return bad("broken escape in path"),
        Err(path::PathFault::Character) => return bad("forbidden character in path"),
        Err(path::PathFault::HiddenDots) => return bad("hidden dot segment in path"),
    };
    let room = TARGET_LIMIT.saturating_sub(normal.len() + 1);
    let query = match parts.uri.query().map(|query| normal::normalise(query, room)).transpose() {
        Ok(query) => query,
        Err(QueryFault::Character) => return bad("forbidden character in query"),
        Err(QueryFault::Parameters) => return bad("too many parameters in query"),
        Err(QueryFault::Long) => return refuse(StatusCode::URI_TOO_LONG, "query too long with its escapes"),
    };
    let same = matches!((&normal, &query), (Cow::Borrowed(_), None | Some(Cow::Borrowed(_))));
    let target = match parts.uri.path_and_query() {
        Some(target) if same && target.as_str().starts_with('/') => target.clone(),
        _ => {
            let target = query.map_or_else(|| normal.clone().into_owned(), |query| format!("{normal}?{query}"));
            work(2 * target.len());
            match PathAndQuery::try_from(target) {
                Ok(target) => target,
                Err(_) => return bad("malformed target"),
            }
        }
    };
    parts.uri = Uri::from(target);
    Ok(())
}

/// HTTP/2 may split cookies into fields, HTTP/1 may not. Source: RFC 9113 part 8.2.3.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let cookies = || headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    work(cookies().map(|crumb| 2 + crumb.len()).sum());
    if cookies().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = cookies().collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}
