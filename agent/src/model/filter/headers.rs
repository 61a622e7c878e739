//! RequestHeaderModifier and ResponseHeaderModifier -> [`HeaderEdits`].
use http::{HeaderName, HeaderValue, header};

use super::bad;
use crate::{
    api::http_route::{HttpHeader, HttpHeaderFilter},
    model::{
        http::{HeaderEdits, host::Authority},
        report::Fault,
    },
};

/// [`edits`] of a request, which has one `Host`: an added one replaces it, and it cannot be removed (RFC 9112 part 3.2).
///
/// # Errors
/// As [`edits`]; a `Host` that is no authority.
pub(super) fn request_edits(spec: &HttpHeaderFilter) -> Result<HeaderEdits, Fault> {
    let mut edits = edits(spec)?;
    if edits.remove.contains(&header::HOST) {
        return Err(bad(
            "header host cannot be removed: a request has exactly one; want set, or URLRewrite with a hostname",
        ));
    }
    if let Some(at) = edits.add.iter().position(|(name, _)| *name == header::HOST) {
        let added = edits.add.remove(at);
        edits.set.retain(|(name, _)| *name != header::HOST);
        edits.set.push(added);
    }
    for (_, value) in edits.set.iter().filter(|(name, _)| *name == header::HOST) {
        if value.to_str().ok().and_then(Authority::try_new).is_none() {
            return Err(bad(format!(
                "header host: {value:?} is no host, want a name or an address, and a port if any"
            )));
        }
    }
    Ok(edits)
}

/// Changes of headers, as a filter asks for them.
///
/// # Errors
/// A header that no filter may change, or a value that is none.
pub(super) fn edits(spec: &HttpHeaderFilter) -> Result<HeaderEdits, Fault> {
    let headers = |all: &[HttpHeader]| {
        let mut out: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for one in all {
            let name = header_name(&one.name)?;
            // Around a value, white space is none of it (RFC 9110 part 5.5), and HTTP/2 refuses it.
            let value = HeaderValue::from_str(one.value.trim_matches([' ', '\t']))
                .map_err(|_| bad(format!("header {name}: {:?} is no header value", one.value)))?;
            // The first entry of a name wins.
            if out.iter().all(|(n, _)| *n != name) {
                out.push((name, value));
            }
        }
        Ok(out)
    };
    let remove = spec.remove.iter().map(|name| header_name(name)).collect::<Result<_, _>>()?;
    Ok(HeaderEdits { set: headers(&spec.set)?, add: headers(&spec.add)?, remove })
}

/// A header that a filter may change: not the framing, not what belongs to one hop.
fn header_name(text: &str) -> Result<HeaderName, Fault> {
    if text.starts_with(':') {
        let why = "is a pseudo header of HTTP/2 and no header field; want URLRewrite for path and host";
        return Err(bad(format!("header {text:?} {why}")));
    }
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| bad(format!("{text:?} is no header name")))?;
    // Some servers take `_` for `-`.
    let why = match name.as_str().replace('_', "-").as_str() {
        "content-length" | "transfer-encoding" | "trailer" => "says where the body ends",
        "connection" | "keep-alive" | "proxy-connection" | "te" | "upgrade" | "http2-settings" => {
            "belongs to the connection"
        }
        "expect" => "is answered by the proxy",
        "host" if name != header::HOST => "is another spelling of host",
        _ => return Ok(name),
    };
    Err(bad(format!("header {name} {why} and cannot be changed by a filter")))
}
