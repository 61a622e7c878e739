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

/// How long a name may be. Source: `SessionPersistence.sessionName`.
const MOST_NAME: usize = 128;
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
    let time = |what: &str, text: Option<&String>| match text.map(|text| (text, duration(text))) {
        None => Ok(None),
        Some((_, Some(time))) if time >= Duration::from_secs(1) => Ok(Some(time)),
        Some((text, _)) => Err(bad(format!("{what} {text:?}, want for example \"1h30m\", and 1s at the least"))),
    };
    let absolute = time("absoluteTimeout", spec.absolute_timeout.as_ref())?;
    let idle = time("idleTimeout", spec.idle_timeout.as_ref())?;
    let uid = match from.kind {
        RouteKind::Http => world.snapshot.http_routes.get(from.route).map(|route| &route.metadata.uid),
        RouteKind::Grpc => world.snapshot.grpc_routes.get(from.route).map(|route| &route.metadata.uid),
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => None,
    };
    let seed = uid.filter(|uid| !uid.is_empty()).map(|uid| format!("{uid}#{index}"));
    let named = spec.session_name.as_deref().filter(|name| !name.is_empty());
    if let Some(name) = named.filter(|name| name.len() > MOST_NAME) {
        return Err(bad(format!("sessionName has {} bytes, want {MOST_NAME} at most", name.len())));
    }
    let name = named.map_or_else(|| default_name(from, index), str::to_owned);
    let config = spec.cookie_config.as_ref();
    let place = match spec.kind.as_deref().unwrap_or("Cookie") {
        "Cookie" => {
            let is_permanent = match config.and_then(|config| config.lifetime_type.as_deref()).unwrap_or("Session") {
                "Session" => false,
                "Permanent" if absolute.is_some() => true,
                "Permanent" => {
                    return Err(bad("absoluteTimeout is absent, want it where lifetimeType is Permanent".into()));
                }
                other => {
                    return Err(bad(format!("cookieConfig.lifetimeType {other:?}, want \"Session\" or \"Permanent\"")));
                }
            };
            // A token of HTTP, as a field's name is. Source: RFC 6265 part 4.1.1.
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err(bad(format!("sessionName {name:?}, want a cookie's name")));
            }
            SessionPlace::Cookie { name, is_permanent }
        }
        "Header" if config.is_some() => {
            return Err(bad("cookieConfig is set, want it absent where type is Header".into()));
        }
        "Header" => match HeaderName::from_bytes(name.as_bytes()) {
            Ok(field) if !TAKEN.contains(&field.as_str()) && !claim::is_claim(field.as_str()) => {
                SessionPlace::Header(field)
            }
            _ => return Err(bad(format!("sessionName {name:?}, want a field's name that nothing else uses"))),
        },
        other => return Err(bad(format!("type {other:?}, want \"Cookie\" or \"Header\""))),
    };
    Ok(Session { place, absolute, idle, seed, keys: Keys::default() })
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
            let SessionPlace::Cookie { name, is_permanent: false } = place else { panic!("{place:?}") };
            assert!(name.starts_with("sluice-session-") && name.len() == 31, "{name}");
            assert_eq!((absolute, idle, seed.as_deref()), (None, None, Some("u1#0")));
        }
        let spec = json!({"sessionName": "JSESSIONID", "absoluteTimeout": "1h", "idleTimeout": "5m",
            "type": "Cookie", "cookieConfig": {"lifetimeType": "Permanent"}});
        let session = rule("HTTPRoute", spec).0.session.clone().unwrap();
        let (hour, minutes) = (Duration::from_secs(3600), Duration::from_secs(300));
        assert_eq!(session.place, SessionPlace::Cookie { name: "JSESSIONID".into(), is_permanent: true });
        assert_eq!((session.absolute, session.idle), (Some(hour), Some(minutes)));
        let session =
            rule("HTTPRoute", json!({"type": "Header", "sessionName": "X-Session"})).0.session.clone().unwrap();
        assert_eq!(session.place, SessionPlace::Header("x-session".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_named_and_the_rule_is_served_without() {
        for (spec, want) in [
            (json!({"cookieConfig": {"lifetimeType": "Permanent"}}), "absoluteTimeout is absent"),
            (json!({"cookieConfig": {"lifetimeType": "Long"}}), "lifetimeType \"Long\", want"),
            (json!({"idleTimeout": "0s"}), "idleTimeout \"0s\", want"),
            (json!({"absoluteTimeout": "soon"}), "absoluteTimeout \"soon\", want"),
            (json!({"sessionName": "a b"}), "sessionName \"a b\", want a cookie's name"),
            (json!({"sessionName": "a".repeat(129)}), "sessionName has 129 bytes"),
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
