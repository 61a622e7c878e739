//! RequestRedirect and URLRewrite -> [`Redirect`], [`Rewrite`].
use http::{HeaderValue, StatusCode};

use super::bad;
use crate::{
    api::http_route::{HttpPathModifier, HttpRequestRedirect, HttpUrlRewrite},
    model::{
        Port,
        http::{Hostname, PathChange, Redirect, Rewrite, path},
        report::Fault,
    },
};

/// A RequestRedirect. `prefixes` as in [`rewrite`].
///
/// # Errors
/// A scheme, port, status, host or path that is none.
pub(super) fn redirect(spec: &HttpRequestRedirect, prefixes: bool) -> Result<Redirect, Fault> {
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

/// A URLRewrite. `prefixes` says whether every match is a path prefix, which `ReplacePrefixMatch` needs.
///
/// # Errors
/// A host or path that is none.
pub(super) fn rewrite(spec: &HttpUrlRewrite, prefixes: bool) -> Result<Rewrite, Fault> {
    let hostname = spec.hostname.as_deref().map(exact_host).transpose()?;
    let hostname = hostname.map(|h| HeaderValue::from_str(&h).map_err(|_| bad("hostname"))).transpose()?;
    let path = spec.path.as_ref().map(|p| path_change(p, prefixes)).transpose()?;
    Ok(Rewrite { hostname, path })
}

fn exact_host(text: &str) -> Result<String, Fault> {
    match Hostname::try_new(text) {
        Some(Hostname::Exact(name)) => Ok(name.to_string()),
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
