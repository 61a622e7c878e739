//! CONNECT: a client asks for a tunnel, and gets one to a backend of a route.
//!
//! In: a request whose target is an authority, over HTTP/1.1 or HTTP/2, that a rule has which matches the method CONNECT by name. Out: the
//! same request to an endpoint of that rule; a 2xx makes a tunnel of it, all else is an ordinary answer.
//!
//! # Design
//! - The target says which route, as a host does, and never where to: the endpoints are those of the route's Service, and nobody looks up
//!   a name. A backend that is a forward proxy gets the target and may follow it.
//! - A rule without a method does not take it (Envoy asks for a `connect_matcher` likewise): who writes one for requests has not thought of
//!   tunnels. Without such a rule it is refused with 405.
//! - What follows a CONNECT of HTTP/1.1 that is refused may be meant for the tunnel. The connection ends with the answer, so that nobody
//!   reads it as a request (RFC 9931).
//!
//! Source: RFC 9110 part 9.3.6, RFC 9112 part 3.2.3, RFC 9113 part 8.5.
use http::{HeaderValue, Method, Response, StatusCode, Uri, Version, header, request::Parts};
use hyper::{ext::Protocol, upgrade::OnUpgrade};

use super::headers;
use crate::model::http::host::Authority;

/// What a client is told where no rule has it.
pub(super) const UNSERVED: &str = "CONNECT is not served: no route for the host matches the method CONNECT";

/// Whether a request asks for a tunnel, and not for another protocol over one (RFC 8441).
///
/// # Errors
/// It does in a way that has no meaning.
pub(super) fn is_asked(parts: &Parts, has_body: bool) -> Result<bool, &'static str> {
    if parts.method != Method::CONNECT || parts.extensions.get::<Protocol>().is_some() {
        return Ok(false);
    }
    let Some(target) = parts.uri.authority().filter(|_| parts.uri.scheme().is_none()) else {
        return Err("the target of CONNECT is no authority");
    };
    if parts.uri.path_and_query().is_some_and(|path| !path.as_str().is_empty()) {
        return Err("the target of CONNECT has a path");
    }
    if Authority::try_new(target.as_str()).is_none_or(|target| target.port.is_none_or(|port| port == 0)) {
        return Err("the target of CONNECT has no port");
    }
    match parts.version {
        // Over HTTP/2 it is the tunnel's bytes that follow.
        Version::HTTP_2 => Ok(true),
        Version::HTTP_11 if has_body => Err("CONNECT with a body"),
        Version::HTTP_11 => Ok(true),
        _ => Err("CONNECT of another version than HTTP/1.1 and HTTP/2"),
    }
}

/// A tunnel that was asked for.
#[derive(Debug)]
pub(super) struct Tunnel {
    /// Becomes the client's bytes.
    pub(super) client: OnUpgrade,
}

impl Tunnel {
    /// Gives a request the form in which a backend is asked: with the authority that filters have left it, at the port that the client named.
    ///
    /// # Errors
    /// Filters have left none.
    pub(super) fn begin(client: OnUpgrade, authority: &HeaderValue, parts: &mut Parts) -> Result<Self, &'static str> {
        let wrong = "the host that the route gives to CONNECT is no authority";
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let mut host = parts.headers.get(header::HOST).and_then(text).ok_or(wrong)?;
        if Authority::try_new(&host).ok_or(wrong)?.port.is_none() {
            let asked = text(authority).ok_or(wrong)?;
            let port = Authority::try_new(&asked).and_then(|asked| asked.port).ok_or(wrong)?;
            host = format!("{}:{port}", host.trim_end_matches(':'));
            parts.headers.insert(header::HOST, HeaderValue::try_from(&host).map_err(|_| wrong)?);
        }
        parts.uri = Uri::builder().authority(host).build().map_err(|_| wrong)?;
        parts.headers.remove(header::TE);
        parts.headers.remove(header::CONNECTION);
        Ok(Self { client })
    }

    /// Whether a backend has made one; the client gets other responses as they are.
    ///
    /// # Errors
    /// What is wrong with its answer.
    pub(super) fn is_made<B>(response: &Response<B>) -> Result<bool, &'static str> {
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Err("the backend switched protocols unasked"),
            status => Ok(status.is_success()),
        }
    }

    /// Gives the head of the answer its form: what follows is no content, whatever the backend says.
    pub(super) fn answer<B>(response: &mut Response<B>) {
        headers::remove_hop_by_hop(response.headers_mut());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.version_mut() = Version::HTTP_11;
    }
}
