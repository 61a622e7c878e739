//! Filters that refer to others.
use super::*;
use crate::{api::RouteKind, model::report::RouteReport};

/// The model of a rule to `s` with these filters, beside a Service `m` here and one in `other`.
fn with(filters: Value, more: &[Value]) -> Model {
    let rules = json!({"rules": [{"filters": filters, "backendRefs": [{"name": "s", "port": 80}]}]});
    let mut there = service("m");
    there["metadata"]["namespace"] = json!("other");
    let listener = json!([http("a", json!({}))]);
    let mut all = vec![gateway(listener), route("r", json!({"name": "gw"}), rules), service("s"), service("m"), there];
    all.extend_from_slice(more);
    compile(Value::Array(all))
}

fn mirror(to: Value) -> Value {
    json!([{"type": "RequestMirror", "requestMirror": {"backendRef": to}}])
}

fn services(model: &Model) -> Vec<String> {
    model.http.services.keys().map(ToString::to_string).collect()
}

fn report(model: &Model) -> &RouteReport {
    &model.routes[&(RouteKind::Http, ObjectName::new("default", "r"))]
}

#[test]
fn a_mirror_has_endpoints_as_a_backend_has() {
    let model = with(mirror(json!({"name": "m", "port": 80})), &[]);
    assert_eq!(services(&model), ["default/m:80", "default/s:80"]);
    assert_eq!(verdict(&model, "HTTPRoute", "r").reason, "Accepted");
    assert_eq!(model.http.rows()[0].actions, ["mirror to default/m:80"]);
}

#[test]
fn a_mirror_that_leads_nowhere_is_said_and_the_route_serves() {
    let to_other = json!({"name": "m", "namespace": "other", "port": 80});
    for (to, reason) in [
        (json!({"name": "none", "port": 80}), "BackendNotFound"),
        (json!({"name": "m", "port": 81}), "BackendNotFound"),
        (json!({"name": "m"}), "UnsupportedValue"),
        (json!({"name": "m", "port": 80, "kind": "Bucket"}), "InvalidKind"),
        (to_other.clone(), "RefNotPermitted"),
        (json!({"name": "none", "namespace": "other", "port": 80}), "RefNotPermitted"),
    ] {
        let model = with(mirror(to.clone()), &[]);
        assert_eq!(services(&model), ["default/s:80"], "{to}");
        let report = report(&model);
        assert_eq!(report.resolved.clone().unwrap_err().reason, reason, "{to}");
        assert!(report.parents[0].accepted.is_ok() && report.partial.is_none(), "{to}");
        let entry = &model.http.frontends.values().next().unwrap()[0].entries[0];
        assert!(matches!(entry.rule.action, Action::Forward(_)), "{to}");
    }
    let grant = json!({"kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": "other"}, "spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "default"}],
        "to": [{"group": "", "kind": "Service"}]}});
    let model = with(mirror(to_other), &[grant]);
    assert_eq!(services(&model), ["default/s:80", "other/m:80"]);
    assert!(report(&model).resolved.is_ok());
}

#[test]
fn a_part_of_the_requests_that_is_none_refuses_the_rule() {
    let of = |part: Value| {
        let mut filters = mirror(json!({"name": "m", "port": 80}));
        filters[0]["requestMirror"].as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        let model = with(filters, &[]);
        let verdict = verdict(&model, "HTTPRoute", "r");
        (verdict.reason, verdict.messages.join(""), model.http.rows()[0].actions.clone())
    };
    for part in [
        json!({"percent": -1}),
        json!({"percent": 101}),
        json!({"percent": 1, "fraction": {"numerator": 1}}),
        json!({"fraction": {"numerator": 1, "denominator": 0}}),
        json!({"fraction": {"numerator": 3, "denominator": 2}}),
        json!({"fraction": {"numerator": -1}}),
        json!({"fraction": {"numerator": 1, "denominator": 1_i64 << 40}}),
    ] {
        let (reason, message, _) = of(part.clone());
        assert_eq!(reason, "UnsupportedValue", "{part}");
        assert!(message.contains("RequestMirror"), "{part}: {message}");
    }
    for (part, words) in [
        (json!({"percent": 0}), "mirror 0 of 100 to default/m:80"),
        (json!({"percent": 35}), "mirror 35 of 100 to default/m:80"),
        (json!({"percent": 100}), "mirror to default/m:80"),
        (json!({"fraction": {"numerator": 1}}), "mirror 1 of 100 to default/m:80"),
        (json!({"fraction": {"numerator": 1, "denominator": 2}}), "mirror 1 of 2 to default/m:80"),
    ] {
        assert_eq!(of(part.clone()).2, [words], "{part}");
    }
}

#[test]
fn a_filter_that_is_not_there_says_which_there_are() {
    for (filter, want) in [
        (
            json!({"type": "ExtensionRef", "extensionRef": {"group": "x.example", "kind": "Limit", "name": "l"}}),
            "ExtensionRef to Limit \"l\" of group \"x.example\"",
        ),
        (json!({"type": "ExtensionRef"}), "ExtensionRef"),
        (json!({"type": "ExternalAuth"}), "\"ExternalAuth\" is not supported"),
        (json!({"type": ""}), "filter \"\""),
    ] {
        let model = with(json!([filter]), &[]);
        let message = verdict(&model, "HTTPRoute", "r").messages.join("");
        assert!(message.contains(want) && message.contains("RequestMirror"), "{filter}: {message}");
        let entry = &model.http.frontends.values().next().unwrap()[0].entries[0];
        assert!(matches!(entry.rule.action, Action::Refuse(_)), "an unknown filter is never skipped");
    }
    let many: Vec<Value> = (0..17).map(|_| mirror(json!({"name": "m", "port": 80}))[0].clone()).collect();
    let model = with(Value::Array(many), &[]);
    assert!(verdict(&model, "HTTPRoute", "r").messages[0].contains("17 filters, want 16 at most"));
}

#[test]
fn rules_are_named_and_no_two_alike() {
    let named = |names: [&str; 2]| {
        let rule = |name: &str| json!({"name": name, "matches": [{"path": {"value": format!("/{name}")}}], "backendRefs": [{"name": "s", "port": 80}]});
        let rules = json!({"rules": names.map(rule)});
        let listeners = json!([http("a", json!({}))]);
        compile(json!([gateway(listeners), route("r", json!({"name": "gw"}), rules), service("s")]))
    };
    let model = named(["one", "two"]);
    assert_eq!((verdict(&model, "HTTPRoute", "r").outcome, model.http.rows().len()), (Outcome::Accepted, 2));
    let model = named(["one", "one"]);
    assert_eq!((verdict(&model, "HTTPRoute", "r").outcome, model.http.rows().len()), (Outcome::Partial, 2));
    let report = report(&model);
    assert!(report.partial.as_ref().unwrap().message.contains("named \"one\""));
    assert!(report.parents[0].accepted.is_ok());
}
