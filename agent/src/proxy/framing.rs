//! Where a message ends: what came in is checked, what goes out is framed anew.
//!
//! # Design
//! - `Content-Length` and `Transfer-Encoding` belong to one hop. They are read once, by hyper; the next hop gets fields
//!   that are written from the body that was decoded, whatever the method is: hyper's client takes a GET or HEAD whose
//!   length it does not know for one without body.
//! - A connection to a backend carries another request only when both sides must agree where this exchange ended. They may
//!   not after an upgrade that was refused, after a GET or HEAD with a body (RFC 9110 part 9.3.1: servers that ignore it
//!   take it for the next request), and after a response whose fields contradict each other.
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body::Body;

/// Whether both sides of a connection must see the end of an exchange at the same byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// They must.
    Certain,
    /// One of them may read on, or stop before: the connection is used no more.
    Uncertain,
}

/// A transfer coding that hyper does not undo; passed on, the body would be read as something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnknownCoding;

/// Whether a message is chunked.
///
/// # Errors
/// When it has another coding than `chunked`, or several: hyper takes any list that ends in `chunked`.
pub(super) fn is_chunked(headers: &HeaderMap) -> Result<bool, UnknownCoding> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(one), None) if one.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(UnknownCoding),
    }
}

/// Gives a request the framing that fits its body, for HTTP/1.1; the fields of the client's hop are gone after it.
///
/// Methods that are made for a body say that there is none: some servers answer 411 otherwise (RFC 9110 part 8.6).
pub(super) fn frame_request(parts: &mut Parts, body: &impl Body) -> End {
    let said = parts.headers.remove(header::CONTENT_LENGTH).is_some();
    parts.headers.remove(header::TRANSFER_ENCODING);
    if body.is_end_stream() {
        if said || matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        }
        return End::Certain;
    }
    match body.size_hint().exact() {
        Some(length) => parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length)),
        None => parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
    };
    match parts.method {
        Method::GET | Method::HEAD => End::Uncertain,
        _ => End::Certain,
    }
}

/// Checks the framing of a response and removes the length that does not count.
///
/// # Errors
/// When the body cannot be decoded.
pub(super) fn check_response(status: StatusCode, headers: &mut HeaderMap) -> Result<End, UnknownCoding> {
    let chunked = is_chunked(headers)?;
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let (length, second) = (lengths.next(), lengths.next());
    let contradicts = second.is_some()
        || (chunked && length.is_some())
        // RFC 9112 part 6.3: neither has a body, so neither says how one ends.
        || (status == StatusCode::NO_CONTENT && (chunked || length.is_some_and(|l| l != "0")))
        || (status == StatusCode::NOT_MODIFIED && chunked);
    if chunked {
        headers.remove(header::CONTENT_LENGTH);
    }
    Ok(if contradicts { End::Uncertain } else { End::Certain })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::{Empty, Full, StreamBody};

    use super::*;

    fn framed(method: &str, given: &[(&'static str, &'static str)], body: &impl Body) -> (String, End) {
        let mut request = Request::builder().method(method);
        for (name, value) in given {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let end = frame_request(&mut parts, body);
        let line = |(name, value): (&http::HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        (parts.headers.iter().map(line).collect::<Vec<_>>().join(", "), end)
    }

    #[test]
    fn a_request_is_framed_by_its_body_and_not_by_its_method() {
        let (none, three) = (Empty::<Bytes>::new(), Full::new(Bytes::from_static(b"abc")));
        let unknown = StreamBody::new(futures_util::stream::pending::<Result<http_body::Frame<Bytes>, ()>>());
        let chunked = [("transfer-encoding", "chunked")];
        for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST", "PURGE"] {
            let end = if matches!(method, "GET" | "HEAD") { End::Uncertain } else { End::Certain };
            assert_eq!(framed(method, &chunked, &unknown), ("transfer-encoding: chunked".into(), end), "{method}");
            assert_eq!(framed(method, &[], &unknown), ("transfer-encoding: chunked".into(), end), "{method}");
            assert_eq!(
                framed(method, &[("content-length", "3")], &three),
                ("content-length: 3".into(), end),
                "{method}"
            );
            assert_eq!(framed(method, &[("content-length", "0")], &none).0, "content-length: 0", "{method}");
            let silent = if method == "POST" { "content-length: 0" } else { "" };
            assert_eq!(framed(method, &[], &none), (silent.into(), End::Certain), "{method}");
        }
    }

    #[test]
    fn a_response_that_contradicts_itself_has_no_certain_end() {
        for (status, fields, want) in [
            (200, &[("content-length", "3")][..], Ok(End::Certain)),
            (200, &[("transfer-encoding", "Chunked ")], Ok(End::Certain)),
            (200, &[], Ok(End::Certain)),
            (304, &[("content-length", "3")], Ok(End::Certain)),
            (204, &[], Ok(End::Certain)),
            (204, &[("content-length", "0")], Ok(End::Certain)),
            (204, &[("content-length", "3")], Ok(End::Uncertain)),
            (204, &[("transfer-encoding", "chunked")], Ok(End::Uncertain)),
            (304, &[("transfer-encoding", "chunked")], Ok(End::Uncertain)),
            (200, &[("content-length", "3"), ("content-length", "3")], Ok(End::Uncertain)),
            (200, &[("content-length", "3"), ("transfer-encoding", "chunked")], Ok(End::Uncertain)),
            (200, &[("transfer-encoding", "gzip, chunked")], Err(UnknownCoding)),
            (200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], Err(UnknownCoding)),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(check_response(status, &mut headers), want, "{status} {fields:?}");
            let both = headers.contains_key("content-length") && headers.contains_key("transfer-encoding");
            assert!(!both || want.is_err(), "{status} {fields:?}: two framings are left");
        }
    }
}
