//! `sessionPersistence` of a rule -> [`Session`].
use std::time::Duration;

use http::HeaderName;

use super::{
    backend_ref::Referrer,
    http::{
        claim,
        session::{Keys, Session, SessionPlace},
    },
    report::Fault,
    rule::{World, duration},
};
use crate::api::{RouteKind, http_route::SessionPersistence};

/// How long a name may be. Source: `sessionPersistence.cookie.name` and `.header.name`. Units: bytes.
const MOST_NAME: usize = 256;
/// How long a cookie's path may be. Source: `sessionPersistence.cookie.path`. Units: bytes.
const MOST_PATH: usize = 1024;
/// Fields that are no place for a session: others read them, or they are the connection's.
const TAKEN: [&str; 12] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Reads what the `index`th rule of a route asks for.
///
/// # Errors
/// Something makes no sense; the rule is served without.
pub(super) fn compile(
    world: &World<'_>,
    from: Referrer<'_>,
    index: usize,
    spec: &SessionPersistence,
) -> Result<Session, Fault> {
    let bad = |what: String| Fault::new("UnsupportedValue", format!("sessionPersistence.{what}; served without"));
    let spec = Fields::of(spec).map_err(bad)?;
    let time = |what: &str, text: Option<&String>| match text.map(|text| (text, duration(text))) {
        None => Ok(None),
        Some((_, Some(time))) if time >= Duration::from_secs(1) => Ok(Some(time)),
        Some((text, _)) => Err(bad(format!("{what} {text:?}, want for example \"1h30m\", and 1s at the least"))),
    };
    let absolute = time("absoluteTimeout", spec.absolute)?;
    let idle = time("idleTimeout", spec.idle)?;
    let uid = match from.kind {
        RouteKind::Http => world.snapshot.http_routes.get(from.route).map(|route| &route.metadata.uid),
        RouteKind::Grpc => world.snapshot.grpc_routes.get(from.route).map(|route| &route.metadata.uid),
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => None,
    };
    let seed = uid.filter(|uid| !uid.is_empty()).map(|uid| format!("{uid}#{index}"));
    let name = spec.name.map_or_else(|| default_name(from, index), str::to_owned);
    let place = match spec.kind {
        "Cookie" => {
            let is_permanent = match spec.lifetime.unwrap_or("Session") {
                "Session" => false,
                "Permanent" if absolute.is_some() => true,
                "Permanent" => {
                    return Err(bad("absoluteTimeout is absent, want it where lifetimeType is Permanent".into()));
                }
                other => {
                    return Err(bad(format!("cookie.lifetimeType {other:?}, want \"Session\" or \"Permanent\"")));
                }
            };
            // A token of HTTP, as a field's name is. Source: RFC 6265 part 4.1.1.
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(bad(format!("cookie.name {name:?}, want a cookie's name")));
            }
            let path = cookie_path(spec.path).map_err(bad)?;
            SessionPlace::Cookie { name, path, is_permanent }
        }
        "Header" => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(field) if !TAKEN.contains(&field.as_str()) && !claim::is_claim(field.as_str()) => {
                SessionPlace::Header(field)
            }
            _ => return Err(bad(format!("header.name {name:?}, want a field's name that nothing else uses"))),
        },
        other => return Err(bad(format!("type {other:?}, want \"Cookie\" or \"Header\""))),
    };
    Ok(Session { place, absolute, idle, seed, keys: Keys::default() })
}

/// What is asked for, whichever release's fields say it.
struct Fields<'a> {
    kind: &'a str,
    name: Option<&'a str>,
    lifetime: Option<&'a str>,
    path: Option<&'a str>,
    absolute: Option<&'a String>,
    idle: Option<&'a String>,
}

impl<'a> Fields<'a> {
    /// Reads the fields of v1.7.0, and those of the releases before it, where the API server has them.
    ///
    /// # Errors
    /// Two fields contradict each other, or a name is too long.
    fn of(spec: &'a SessionPersistence) -> Result<Self, String> {
        let SessionPersistence { kind, absolute_timeout, cookie, header, session_name, idle_timeout, cookie_config } =
            spec;
        let kind = kind.as_deref().unwrap_or("Cookie");
        let (is_cookie, is_header) = (kind == "Cookie", kind == "Header");
        for (field, is_set, fits) in [
            ("cookie", cookie.is_some(), is_cookie),
            ("cookieConfig", cookie_config.is_some(), is_cookie),
            ("header", header.is_some(), is_header),
        ] {
            if is_set && !fits {
                return Err(format!("{field} is set, want it absent where type is {kind}"));
            }
        }
        let named = match (cookie, header) {
            (Some(cookie), _) => ("cookie.name", cookie.name.as_ref()),
            (None, Some(header)) => ("header.name", header.name.as_ref()),
            (None, None) => ("name", None),
        };
        let (what, name) = one(named, ("sessionName", session_name.as_ref()))?;
        if let Some(name) = name.filter(|name| name.len() > MOST_NAME) {
            return Err(format!("{what} has {} bytes, want {MOST_NAME} at most", name.len()));
        }
        let lifetime = cookie.as_ref().and_then(|cookie| cookie.lifetime_type.as_ref());
        let before = cookie_config.as_ref().and_then(|config| config.lifetime_type.as_ref());
        let (_, lifetime) = one(("cookie.lifetimeType", lifetime), ("cookieConfig.lifetimeType", before))?;
        let path = cookie.as_ref().and_then(|cookie| cookie.path.as_deref());
        let (absolute, idle) = (absolute_timeout.as_ref(), idle_timeout.as_ref());
        Ok(Self { kind, name, lifetime, path, absolute, idle })
    }
}

/// The one of two fields that says something, with its name: that of now, that of before.
///
/// # Errors
/// Both do, and not the same.
fn one<'a>(
    (new, now): (&'static str, Option<&'a String>),
    (old, before): (&'static str, Option<&'a String>),
) -> Result<(&'static str, Option<&'a str>), String> {
    let said = |text: Option<&'a String>| text.map(String::as_str).filter(|text| !text.is_empty());
    match (said(now), said(before)) {
        (Some(now), Some(before)) if now != before => {
            Err(format!("{new} is {now:?} and {old} {before:?}, want one of them"))
        }
        (None, Some(before)) => Ok((old, Some(before))),
        (now, _) => Ok((new, now)),
    }
}

/// For which paths a browser shows a cookie. Source: RFC 6265 part 4.1.1, `path-av`.
fn cookie_path(asked: Option<&str>) -> Result<String, String> {
    let path = asked.filter(|path| !path.is_empty()).unwrap_or("/");
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
    if path.len() > MOST_PATH || !path.starts_with('/') || !is_plain {
        return Err(format!(
            "cookie.path {path:?}, want one that begins with `/`, of {MOST_PATH} visible characters at most and no `;`"
        ));
    }
    Ok(path.to_owned())
}

/// A name that no other rule has.
fn default_name(from: Referrer<'_>, index: usize) -> String {
    let hash = crate::stable::hash(format!("{}/{}#{index}", from.kind.name(), from.route).as_bytes());
    format!("sluice-session-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        api::ObjectName,
        model::{compile, fixture, http::HttpRule},
    };

    fn rule(kind: &str, spec: Value) -> (std::sync::Arc<HttpRule>, Vec<String>) {
        let objects = json!([
            {"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
                "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}},
            {"kind": kind, "metadata": {"name": "r", "uid": "u1"}, "spec": {"parentRefs": [{"name": "gw"}],
                "rules": [{"backendRefs": [{"name": "a", "port": 80}], "sessionPersistence": spec}]}},
            {"kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}},
        ]);
        let model = compile(&fixture::snapshot(&objects), &fixture::node(&["192.0.2.0/24"]));
        let rule = model.http.frontends.values().next().unwrap()[0].entries.iter().next().unwrap().rule.clone();
        let object = crate::model::ObjectRef::new(kind, ObjectName::new("default", "r"));
        (rule, model.verdicts[&object].messages.clone())
    }

    #[test]
    fn both_kinds_of_routes_have_sessions_in_cookies_and_fields() {
        for kind in ["HTTPRoute", "GRPCRoute"] {
            let (found, messages) = rule(kind, json!({}));
            assert_eq!(messages, Vec::<String>::new());
            let Session { place, absolute, idle, seed, keys: _ } = Session::clone(found.session.as_ref().unwrap());
            let SessionPlace::Cookie { name, path, is_permanent: false } = place else { panic!("{place:?}") };
            assert!(name.starts_with("sluice-session-") && name.len() == 31 && path == "/", "{name} {path}");
            assert_eq!((absolute, idle, seed.as_deref()), (None, None, Some("u1#0")));
        }
        let spec = json!({"absoluteTimeout": "1h", "type": "Cookie",
            "cookie": {"name": "JSESSIONID", "lifetimeType": "Permanent", "path": "/shop"}});
        let session = rule("HTTPRoute", spec).0.session.clone().unwrap();
        let permanent =
            |path: &str| SessionPlace::Cookie { name: "JSESSIONID".into(), path: path.into(), is_permanent: true };
        let (hour, minutes) = (Duration::from_secs(3600), Duration::from_secs(300));
        assert_eq!((&session.place, session.absolute, session.idle), (&permanent("/shop"), Some(hour), None));
        let session =
            rule("HTTPRoute", json!({"type": "Header", "header": {"name": "X-Session"}})).0.session.clone().unwrap();
        assert_eq!(session.place, SessionPlace::Header("x-session".parse().unwrap()));
        // As API servers with the definitions of the releases before v1.7.0 have it.
        let spec = json!({"sessionName": "JSESSIONID", "absoluteTimeout": "1h", "idleTimeout": "5m",
            "type": "Cookie", "cookieConfig": {"lifetimeType": "Permanent"}});
        let session = rule("HTTPRoute", spec).0.session.clone().unwrap();
        assert_eq!((&session.place, session.absolute, session.idle), (&permanent("/"), Some(hour), Some(minutes)));
        let session =
            rule("HTTPRoute", json!({"type": "Header", "sessionName": "X-Session"})).0.session.clone().unwrap();
        assert_eq!(session.place, SessionPlace::Header("x-session".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_named_and_the_rule_is_served_without() {
        for (spec, want) in [
            (json!({"cookie": {"lifetimeType": "Permanent"}}), "absoluteTimeout is absent"),
            (json!({"cookie": {"lifetimeType": "Long"}}), "lifetimeType \"Long\", want"),
            (json!({"cookie": {"name": "a b"}}), "cookie.name \"a b\", want a cookie's name"),
            (json!({"cookie": {"name": "a".repeat(257)}}), "cookie.name has 257 bytes"),
            (json!({"cookie": {"path": "shop"}}), "cookie.path \"shop\", want"),
            (json!({"cookie": {"path": "/a; Domain=x"}}), "cookie.path \"/a; Domain=x\", want"),
            (json!({"cookie": {"path": "/".repeat(1025)}}), "want one that begins with `/`"),
            (json!({"cookie": {"name": "a"}, "sessionName": "b"}), "cookie.name is \"a\" and sessionName \"b\""),
            (json!({"header": {"name": "x-a"}}), "header is set, want it absent where type is Cookie"),
            (json!({"type": "Header", "header": {"name": "Cookie"}}), "want a field's name that nothing else uses"),
            (json!({"type": "Header", "cookie": {}}), "cookie is set, want it absent where type is Header"),
            (json!({"cookieConfig": {"lifetimeType": "Permanent"}}), "absoluteTimeout is absent"),
            (json!({"cookieConfig": {"lifetimeType": "Long"}}), "lifetimeType \"Long\", want"),
            (json!({"idleTimeout": "0s"}), "idleTimeout \"0s\", want"),
            (json!({"absoluteTimeout": "soon"}), "absoluteTimeout \"soon\", want"),
            (json!({"sessionName": "a b"}), "cookie.name \"a b\", want a cookie's name"),
            (json!({"sessionName": "a".repeat(257)}), "sessionName has 257 bytes"),
            (json!({"type": "Header", "sessionName": "Cookie"}), "want a field's name that nothing else uses"),
            (json!({"type": "Header", "sessionName": "X-Forwarded-For"}), "want a field's name that nothing else uses"),
            (json!({"type": "Header", "cookieConfig": {}}), "cookieConfig is set"),
            (json!({"type": "Query"}), "type \"Query\", want \"Cookie\" or \"Header\""),
        ] {
            let (found, messages) = rule("HTTPRoute", spec);
            assert_eq!(found.session, None);
            assert!(matches!(found.action, crate::model::http::Action::Forward(_)));
            assert!(messages.iter().any(|m| m.contains(want) && m.contains("served without")), "{messages:?}");
        }
    }
}
