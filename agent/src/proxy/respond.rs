//! Responses of the proxy's own.
use http::{HeaderValue, Response, StatusCode, Uri, header};

use super::body::ResponseBody;
use crate::model::http::{PathChange, Redirect, matching::PathMatch};

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

/// The answer of a RequestRedirect filter. `matched` is the path match that led to it, `port` the listener's.
#[must_use]
pub(super) fn redirect(to: &Redirect, host: &str, uri: &Uri, matched: &PathMatch, port: u16) -> Response<ResponseBody> {
    let scheme = to.scheme.unwrap_or("http");
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

/// A path after a change.
#[must_use]
pub(super) fn changed(change: &PathChange, path: &str, matched: &PathMatch) -> String {
    let prefix = match (change, matched) {
        (PathChange::Full(new), _) => return new.clone(),
        (PathChange::Prefix(_), PathMatch::Exact(_) | PathMatch::Regex(_)) => return path.to_owned(),
        (PathChange::Prefix(new), PathMatch::Prefix(old)) => (new, old),
    };
    let rest = path.strip_prefix(prefix.1.as_str()).unwrap_or(path);
    match (prefix.0.as_str(), rest) {
        ("", "") => "/".to_owned(),
        (new, rest) => format!("{new}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Port;

    #[test]
    fn h103_a_prefix_is_replaced_with_single_slashes() {
        for (old, new, path, want) in [
            ("/foo", "", "/foo", "/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("", "/xyz", "/", "/xyz/"),
            ("", "/xyz", "/a", "/xyz/a"),
        ] {
            assert_eq!(
                changed(&PathChange::Prefix(new.into()), path, &PathMatch::Prefix(old.into())),
                want,
                "{old} {path}"
            );
        }
    }

    #[test]
    fn h102_redirects_keep_the_query_and_drop_default_ports() {
        let base = Redirect { scheme: None, hostname: None, port: None, path: None, status: StatusCode::FOUND };
        let root = PathMatch::Prefix(String::new());
        let uri = Uri::from_static("/a?b=c");
        let location = |to: &Redirect, port| {
            let response = redirect(to, "h.example", &uri, &root, port);
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
