//! Local replies: responses of the proxy's own.
use http::{HeaderValue, Response, StatusCode, Uri, header};

use super::{
    body::ResponseBody,
    filters::changed,
    grpc::Code,
    hops::HopFault,
    request::{Refusal, Scheme},
    upstream::Failure,
};
use crate::model::http::{Redirect, matching::PathMatch};

/// Why a request goes no further: what the client is told instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LocalReply {
    /// The status.
    pub status: StatusCode,
    /// For the client.
    pub reason: &'static str,
    /// The client's connection ends with it: what is left of the request is not read.
    pub closes: bool,
    /// The status in gRPC, where that of HTTP does not say it.
    pub code: Option<Code>,
}

impl LocalReply {
    /// One after which the connection stays.
    pub(super) const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason, closes: false, code: None }
    }

    /// The rule cannot be obeyed, or its backend cannot be used.
    pub(super) const fn misconfigured(reason: &'static str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, reason)
    }

    /// As a response.
    #[must_use]
    pub(super) fn response(self) -> Response<ResponseBody> {
        let response = plain(self.status, self.reason);
        if self.closes { closing(response) } else { response }
    }
}

impl From<Refusal> for LocalReply {
    fn from(Refusal { status, reason }: Refusal) -> Self {
        Self { status, reason, closes: true, code: None }
    }
}

impl From<HopFault> for LocalReply {
    fn from(fault: HopFault) -> Self {
        match fault {
            HopFault::Loop => Self::new(StatusCode::LOOP_DETECTED, "the request has come by here too often"),
            HopFault::Long => Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "cdn-loop is too long"),
        }
    }
}

impl From<Failure> for LocalReply {
    fn from(failure: Failure) -> Self {
        let (status, reason) = failure.answer();
        // The request's body may be half read.
        Self { status, reason, closes: true, code: failure.code() }
    }
}

/// An answer with one line of text.
#[must_use]
pub(super) fn plain(status: StatusCode, reason: &str) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(format!("{}: {reason}\n", status.as_u16())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// Has the client's connection closed after this answer. HTTP/2 ignores it.
#[must_use]
pub(super) fn closing(mut response: Response<ResponseBody>) -> Response<ResponseBody> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Whether it has.
#[must_use]
pub(super) fn is_closing(response: &Response<ResponseBody>) -> bool {
    response.headers().get(header::CONNECTION).is_some_and(|value| value == "close")
}

/// The answer of a RequestRedirect filter. `matched` is the path match that led to it, `scheme` is the request's, `port` the
/// listener's.
#[must_use]
pub(super) fn redirect(
    to: &Redirect,
    host: &str,
    uri: &Uri,
    matched: &PathMatch,
    (scheme, port): (Scheme, u16),
) -> Response<ResponseBody> {
    let scheme = to.scheme.unwrap_or(scheme.as_str());
    // Source: HTTPRequestRedirectFilter.port: the given one, else that of the given scheme, else the listener's.
    let known = if scheme == "https" { 443 } else { 80 };
    let port = match (to.port, to.scheme) {
        (Some(port), _) => port.get(),
        (None, Some(_)) => known,
        (None, None) => port,
    };
    let port = if port == known { String::new() } else { format!(":{port}") };
    let host = to.hostname.as_deref().unwrap_or(host);
    let path = to.path.as_ref().map_or_else(|| uri.path().to_owned(), |change| changed(change, uri.path(), matched));
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let Ok(location) = HeaderValue::from_str(&format!("{scheme}://{host}{port}{path}{query}")) else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the redirect's target is no header value");
    };
    let mut response = Response::new(ResponseBody::own(""));
    *response.status_mut() = to.status;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Port, http::PathChange};

    #[test]
    fn h102_redirects_keep_the_query_and_drop_default_ports() {
        let base = Redirect { scheme: None, hostname: None, port: None, path: None, status: StatusCode::FOUND };
        let root = PathMatch::Prefix(String::new());
        let uri = Uri::from_static("/a?b=c");
        let location = |to: &Redirect, port| {
            let response = redirect(to, "h.example", &uri, &root, (Scheme::Http, port));
            response.headers()[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(location(&base, 8080), "http://h.example:8080/a?b=c");
        assert_eq!(location(&base, 80), "http://h.example/a?b=c");
        let https = Redirect { scheme: Some("https"), ..base.clone() };
        assert_eq!(location(&https, 8080), "https://h.example/a?b=c");
        let port = Redirect { port: Port::try_new(8443), ..https };
        assert_eq!(location(&port, 80), "https://h.example:8443/a?b=c");
        let host = Redirect { hostname: Some("x.example".into()), path: Some(PathChange::Full("/z".into())), ..base };
        assert_eq!(location(&host, 80), "http://x.example/z?b=c");
    }
}
