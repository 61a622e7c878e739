//! Filters of a rule or a backendRef -> an ordered list of [`Filter`]s. One that is not served is a [`Fault`], never skipped.
//!
//! # Design
//! - No filter makes a message that this proxy would refuse from a client: one `Host` that is an authority, paths in normal
//!   form, and the fields of the connection and of the framing stay the proxy's own. Envoy and HAProxy keep them likewise.
mod cors;
mod headers;
mod mirror;
mod url;

#[cfg(test)]
mod tests;

use super::{
    http::{Cluster, Filter, Redirect, filter::Mirror},
    report::Fault,
};
use crate::api::http_route::{HttpBackendRef, HttpRouteFilter};

/// What the filters of one place amount to.
#[derive(Debug, Default)]
pub struct Filters {
    /// What is changed on the way, in the order in which it is written.
    pub list: Vec<Filter>,
    /// An answer that sends the client elsewhere.
    pub redirect: Option<Redirect>,
    /// Why mirrors lead nowhere: these are left out, and the rest is done.
    pub unresolved: Vec<Fault>,
}

/// Where filters stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a rule.
    Rule,
    /// In a backendRef.
    Backend,
}

fn bad(message: impl Into<String>) -> Fault {
    Fault::new("UnsupportedValue", message)
}

/// The filters that there are.
const SERVED: [&str; 6] =
    ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "RequestMirror", "CORS"];

/// How many filters one place may have. Source: `MaxItems` of the Gateway API.
const MOST: usize = 16;

/// Compiles filters. `prefixes` says whether every match is a path prefix, which `ReplacePrefixMatch` needs; `resolve` finds
/// the Service port that a reference names.
///
/// # Errors
/// At the first filter that cannot be obeyed.
pub fn compile(
    specs: &[HttpRouteFilter],
    place: Place,
    prefixes: bool,
    resolve: impl Fn(&HttpBackendRef) -> Result<Cluster, Fault>,
) -> Result<Filters, Fault> {
    if specs.len() > MOST {
        return Err(bad(format!("{} filters, want {MOST} at most", specs.len())));
    }
    let mut out = Filters::default();
    let mut seen: Vec<&str> = Vec::new();
    for spec in specs {
        let kind = spec.kind.as_str();
        if kind != "RequestMirror" && seen.contains(&kind) {
            return Err(bad(format!("filter {kind} is there twice")));
        }
        seen.push(kind);
        let empty = || bad(format!("filter {kind} is empty"));
        match kind {
            "RequestHeaderModifier" => {
                let spec = spec.request_header_modifier.as_ref().ok_or_else(empty)?;
                out.list.push(Filter::RequestHeaders(headers::request_edits(spec)?));
            }
            "ResponseHeaderModifier" => {
                let spec = spec.response_header_modifier.as_ref().ok_or_else(empty)?;
                out.list.push(Filter::ResponseHeaders(headers::edits(spec)?));
            }
            "RequestRedirect" if place == Place::Backend => {
                let why = "filter RequestRedirect of a backendRef is not supported: want it in the rule";
                return Err(bad(why));
            }
            "RequestRedirect" => {
                let spec = spec.request_redirect.as_ref().ok_or_else(empty)?;
                out.redirect = Some(url::redirect(spec, prefixes)?);
            }
            "URLRewrite" => {
                let spec = spec.url_rewrite.as_ref().ok_or_else(empty)?;
                out.list.push(Filter::Rewrite(url::rewrite(spec, prefixes)?));
            }
            "RequestMirror" => {
                let spec = spec.request_mirror.as_ref().ok_or_else(empty)?;
                let (numerator, denominator) = mirror::part(spec)?;
                match resolve(&spec.backend_ref) {
                    Ok(to) => out.list.push(Filter::Mirror(Mirror { to, numerator, denominator })),
                    Err(fault) => out.unresolved.push(fault.at("RequestMirror")),
                }
            }
            "CORS" if place == Place::Backend => {
                // A preflight is answered before a backend is chosen.
                return Err(bad("filter CORS of a backendRef is not supported: want it in the rule"));
            }
            "CORS" => {
                let spec = spec.cors.as_ref().ok_or_else(empty)?;
                out.list.push(Filter::Cors(cors::cors(spec)?));
            }
            "ExtensionRef" => {
                let named = spec.extension_ref.as_ref();
                let text = |name| named.and_then(|named| named[name].as_str()).unwrap_or_default();
                let (kind, name, group) = (text("kind"), text("name"), text("group"));
                let why =
                    format!("filter ExtensionRef to {kind} {name:?} of group {group:?}: there are no filters of ours");
                return Err(bad(format!("{why}, want one of {SERVED:?}")));
            }
            other => return Err(bad(format!("filter {other:?} is not supported, want one of {SERVED:?}"))),
        }
    }
    if out.redirect.is_some() && seen.contains(&"URLRewrite") {
        let message = "RequestRedirect and URLRewrite exclude each other".to_owned();
        return Err(Fault { reason: "IncompatibleFilters", message });
    }
    Ok(out)
}
