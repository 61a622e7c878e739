//! CORS -> [`Cors`].
use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};

use super::bad;
use crate::{
    api::http_route::HttpCorsFilter,
    model::{
        Port,
        http::{
            Hostname,
            cors::{Cors, Listed, OriginPattern, Origins},
            host::Authority,
        },
        report::Fault,
        rule::{METHODS, join},
    },
};

/// How many entries a list may have. Source: `MaxItems` of `HTTPCORSFilter`.
const MOST: usize = 64;

/// How long a browser remembers a preflight where nothing is said. Units: seconds. Source: `HTTPCORSFilter.maxAge`.
const MAX_AGE: i64 = 5;

/// A CORS filter.
///
/// # Errors
/// An origin, method, field name or age that is none, `*` beside others, a list that is too long.
pub(super) fn cors(spec: &HttpCorsFilter) -> Result<Cors, Fault> {
    let HttpCorsFilter { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age } =
        spec;
    let max_age = match max_age.unwrap_or(MAX_AGE) {
        // As the API has it where the field is left out.
        0 => MAX_AGE,
        given => given,
    };
    let max_age = u32::try_from(max_age).ok().filter(|age| i32::try_from(*age).is_ok());
    let max_age = max_age
        .ok_or_else(|| bad(format!("CORS maxAge {:?}, want 1 to {} seconds", spec.max_age.unwrap_or(0), i32::MAX)))?;
    Ok(Cors {
        origins: origins(allow_origins)?,
        credentials: allow_credentials.unwrap_or(false),
        methods: listed("allowMethods", allow_methods, |text| {
            let known = METHODS.iter().any(|method| method.as_str() == text);
            known.then_some(()).ok_or_else(|| format!("want one of {} or \"*\"", join(&METHODS)))
        })?,
        headers: listed("allowHeaders", allow_headers, header_name)?,
        expose: listed("exposeHeaders", expose_headers, header_name)?,
        max_age,
    })
}

fn header_name(text: &str) -> Result<(), String> {
    HeaderName::from_bytes(text.as_bytes()).map(drop).map_err(|_| "it is no header name".to_owned())
}

fn origins(specs: &[String]) -> Result<Origins, Fault> {
    if is_all("allowOrigins", specs)? {
        return Ok(Origins::Any);
    }
    specs.iter().map(|text| origin(text)).collect::<Result<_, _>>().map(Origins::These)
}

fn origin(text: &str) -> Result<OriginPattern, Fault> {
    let why = || {
        let want = "want \"*\", or http:// or https:// with a host, \"*.\" and a host, or \"*\", and a port if any";
        bad(format!("CORS allowOrigins {text:?}: {want}"))
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(why)?;
    let (scheme, known) = match scheme {
        "http" => ("http", 80),
        "https" => ("https", 443),
        _ => return Err(why()),
    };
    let (name, port) = match rest.rsplit_once(':') {
        Some((name, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            (name, digits.parse().ok().ok_or_else(why)?)
        }
        Some((_, after)) if !after.ends_with(']') => return Err(why()),
        _ => (rest, known),
    };
    let host = match name {
        "*" => Hostname::Any,
        name if name.contains('*') => {
            Hostname::try_new(name).filter(|name| matches!(name, Hostname::Below(_))).ok_or_else(why)?
        }
        name => {
            let authority = Authority::try_new(name).filter(|found| found.port.is_none()).ok_or_else(why)?;
            Hostname::Exact(authority.host.into())
        }
    };
    Ok(OriginPattern { scheme, host, port: Port::try_new(port).ok_or_else(why)? })
}

/// A list as the field of the response says it: each name once.
fn listed(what: &str, specs: &[String], check: impl Fn(&str) -> Result<(), String>) -> Result<Listed, Fault> {
    if is_all(what, specs)? {
        return Ok(Listed::All);
    }
    for text in specs {
        check(text).map_err(|why| bad(format!("CORS {what} {text:?}: {why}")))?;
    }
    let mut seen = BTreeSet::new();
    let names: Vec<&str> = specs.iter().map(String::as_str).filter(|n| seen.insert(n.to_ascii_lowercase())).collect();
    if names.is_empty() {
        return Ok(Listed::Nothing);
    }
    let value = HeaderValue::from_str(&names.join(", "));
    value.map(Listed::These).map_err(|_| bad(format!("CORS {what}: no field can say that")))
}

/// Whether a list says `*`, which it may say alone.
fn is_all(what: &str, specs: &[String]) -> Result<bool, Fault> {
    if specs.len() > MOST {
        return Err(bad(format!("CORS {what} has {} entries, want {MOST} at most", specs.len())));
    }
    match specs.iter().any(|one| one == "*") {
        true if specs.len() > 1 => Err(bad(format!("CORS {what} has \"*\" and others, want one or the other"))),
        all => Ok(all),
    }
}
