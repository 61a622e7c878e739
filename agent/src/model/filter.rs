//! Filters of a rule or a backendRef -> changes on the way. A filter that is not served is a [`Fault`], never skipped.
//!
//! # Design
//! - No filter makes a message that this proxy would refuse from a client: one `Host` that is an authority, paths in normal
//!   form, and the fields of the connection and of the framing stay the proxy's own. Envoy and HAProxy keep them likewise.

#[cfg(test)]
mod tests;

use http::{HeaderName, HeaderValue, StatusCode, header};

use super::{
    Port,
    http::{HeaderEdits, Hostname, PathChange, Redirect, Rewrite, host::Authority, path},
    report::Fault,
};
use crate::api::http_route::{HttpHeader, HttpHeaderFilter, HttpPathModifier, HttpRequestRedirect, HttpRouteFilter};

/// What the filters of one place amount to.
#[derive(Debug, Default)]
pub struct Filters {
    /// Changes of the request's headers.
    pub request: HeaderEdits,
    /// Changes of the response's headers.
    pub response: HeaderEdits,
    /// Changes of host and path.
    pub rewrite: Option<Rewrite>,
    /// An answer that sends the client elsewhere.
    pub redirect: Option<Redirect>,
}

fn bad(message: impl Into<String>) -> Fault {
    Fault::new("UnsupportedValue", message)
}

/// Compiles filters. `prefixes` says whether every match is a path prefix, which `ReplacePrefixMatch` needs.
///
/// # Errors
/// At the first filter that cannot be obeyed.
pub fn compile(specs: &[HttpRouteFilter], prefixes: bool) -> Result<Filters, Fault> {
    let mut out = Filters::default();
    let mut seen: Vec<&str> = Vec::new();
    for spec in specs {
        let kind = spec.kind.as_str();
        if seen.contains(&kind) {
            return Err(bad(format!("filter {kind} is there twice")));
        }
        seen.push(kind);
        let empty = || bad(format!("filter {kind} is empty"));
        match kind {
            "RequestHeaderModifier" => {
                out.request = request_edits(spec.request_header_modifier.as_ref().ok_or_else(empty)?)?;
            }
            "ResponseHeaderModifier" => {
                out.response = edits(spec.response_header_modifier.as_ref().ok_or_else(empty)?)?;
            }
            "RequestRedirect" => {
                out.redirect = Some(redirect(spec.request_redirect.as_ref().ok_or_else(empty)?, prefixes)?);
            }
            "URLRewrite" => {
                let spec = spec.url_rewrite.as_ref().ok_or_else(empty)?;
                let hostname = spec.hostname.as_deref().map(exact_host).transpose()?;
                let hostname = hostname.map(|h| HeaderValue::from_str(&h).map_err(|_| bad("hostname"))).transpose()?;
                let path = spec.path.as_ref().map(|p| path_change(p, prefixes)).transpose()?;
                out.rewrite = Some(Rewrite { hostname, path });
            }
            other => return Err(bad(format!("filter {other} is not supported yet"))),
        }
    }
    if out.redirect.is_some() && out.rewrite.is_some() {
        return Err(Fault {
            reason: "IncompatibleFilters",
            message: "RequestRedirect and URLRewrite exclude each other".to_owned(),
        });
    }
    Ok(out)
}

/// [`edits`] of a request, which has one `Host`: an added one replaces it, and it cannot be removed (RFC 9112 part 3.2).
fn request_edits(spec: &HttpHeaderFilter) -> Result<HeaderEdits, Fault> {
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

fn edits(spec: &HttpHeaderFilter) -> Result<HeaderEdits, Fault> {
    let headers = |all: &[HttpHeader]| {
        let mut out: Vec<(HeaderName, HeaderValue)> = Vec::new();
        for one in all {
            let name = header_name(&one.name)?;
            let value = HeaderValue::from_str(&one.value)
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

fn redirect(spec: &HttpRequestRedirect, prefixes: bool) -> Result<Redirect, Fault> {
    let scheme = match spec.scheme.as_deref() {
        None | Some("") => None,
        Some("http") => Some("http"),
        Some("https") => Some("https"),
        Some(other) => return Err(bad(format!("redirect scheme {other:?}, want \"http\" or \"https\""))),
    };
    let port = |n| Port::try_new(n).ok_or_else(|| bad(format!("redirect port {n}, want 1 to 65535")));
    let status = match spec.status_code.unwrap_or(302) {
        301 => StatusCode::MOVED_PERMANENTLY,
        302 => StatusCode::FOUND,
        303 => StatusCode::SEE_OTHER,
        307 => StatusCode::TEMPORARY_REDIRECT,
        308 => StatusCode::PERMANENT_REDIRECT,
        other => return Err(bad(format!("redirect status {other}, want 301, 302, 303, 307 or 308"))),
    };
    Ok(Redirect {
        scheme,
        hostname: spec.hostname.as_deref().map(exact_host).transpose()?,
        port: spec.port.map(port).transpose()?,
        path: spec.path.as_ref().map(|p| path_change(p, prefixes)).transpose()?,
        status,
    })
}

fn exact_host(text: &str) -> Result<String, Fault> {
    match Hostname::try_new(text) {
        Some(Hostname::Exact(name)) => Ok(name),
        _ => Err(bad(format!("hostname {text:?} is no DNS name"))),
    }
}

fn path_change(spec: &HttpPathModifier, prefixes: bool) -> Result<PathChange, Fault> {
    let sound = |what: &str, text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>`".contains(&b));
        let normal = path::normalise(text).map_err(|e| e.to_string());
        let normal = normal.and_then(|n| if plain { Ok(n) } else { Err("it has a forbidden character".to_owned()) });
        normal.map(std::borrow::Cow::into_owned).map_err(|why| bad(format!("{what} {text:?}: {why}")))
    };
    match spec.kind.as_str() {
        "ReplaceFullPath" => {
            let text = spec.replace_full_path.as_deref().unwrap_or("/");
            sound("replaceFullPath", text).map(PathChange::Full)
        }
        "ReplacePrefixMatch" if !prefixes => Err(bad("ReplacePrefixMatch needs PathPrefix matches alone")),
        "ReplacePrefixMatch" => {
            let text = Some(spec.replace_prefix_match.as_deref().unwrap_or("/")).filter(|text| !text.is_empty());
            let normal = sound("replacePrefixMatch", text.unwrap_or("/"))?;
            Ok(PathChange::Prefix(normal.trim_end_matches('/').to_owned()))
        }
        other => Err(bad(format!("path change {other:?}, want \"ReplaceFullPath\" or \"ReplacePrefixMatch\""))),
    }
}
