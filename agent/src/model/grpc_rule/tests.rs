//! GRPCRoutes as manifests have them -> which rule gets a call.
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::*;
use crate::model::{
    self, Model, Node, ObjectRef, Outcome,
    fixture::snapshot,
    http::{Action, RequestHead, ShareTarget, query::Query},
};

fn gateway() -> Value {
    json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice", "listeners": [
        {"name": "l", "port": 80, "protocol": "HTTP"}]}})
}

fn route(kind: &str, name: &str, more: Value) -> Value {
    let mut spec = more;
    spec["parentRefs"] = json!([{"name": "gw"}]);
    json!({"kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn grpc(name: &str, rules: Value) -> Value {
    route("GRPCRoute", name, json!({"rules": rules}))
}

fn service() -> Value {
    json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})
}

fn compile(mut objects: Value) -> Model {
    objects.as_array_mut().unwrap().extend([gateway(), service()]);
    let pools = vec!["192.0.2.0/24".parse().unwrap()];
    model::compile(&snapshot(&objects), &Node { pools, ..Node::alone("n") })
}

/// `route#rule` of the first entry that holds for a request.
fn first(model: &Model, path: &str, headers: &[(&'static str, &'static str)]) -> Option<String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let head = RequestHead { method: &Method::POST, path, query: None, headers: &map };
    let names = std::iter::empty::<&str>().collect();
    let query = Query::new(None, &names);
    let entries = &model.http.frontends.values().next().unwrap()[0].entries;
    let found = entries.iter().find(|entry| entry.matches.holds(&head, &query))?;
    Some(format!("{}#{}", found.rule.route.name, found.rule.index))
}

/// As [`first`], for a call of gRPC.
fn call(model: &Model, path: &str, more: &[(&'static str, &'static str)]) -> Option<String> {
    first(model, path, &[&[("content-type", "application/grpc")], more].concat())
}

fn method(service: Option<&str>, method: Option<&str>) -> Value {
    json!({"method": {"service": service, "method": method}})
}

fn pattern(service: Option<&str>, method: Option<&str>) -> Value {
    json!({"method": {"type": "RegularExpression", "service": service, "method": method}})
}

#[test]
fn a_call_goes_to_the_rule_that_names_its_service_and_method() {
    let model = compile(json!([grpc(
        "r",
        json!([
            {"matches": [method(Some("foo.Greeter"), Some("Hello"))]},
            {"matches": [method(Some("foo.Greeter"), None)]},
            {"matches": [method(None, Some("Ping"))]},
            {"matches": [pattern(Some("bar\\..*"), Some("Get[A-Z][a-z]+"))]},
            {"matches": [{"headers": [{"name": "Version", "value": "two"}]}]},
        ])
    )]));
    for (path, want) in [
        ("/foo.Greeter/Hello", Some("r#0")),
        ("/foo.Greeter/Bye", Some("r#1")),
        ("/foo.greeter/Hello", None),
        ("/other.Service/Ping", Some("r#2")),
        // Whose service is named comes before whose method alone is.
        ("/foo.Greeter/Ping", Some("r#1")),
        ("/bar.a/GetThing", Some("r#3")),
        ("/bar.a/GetThings2", None),
        ("/bar/GetThing", None),
        ("/foo.Greeter2/Hello", None),
        ("/x/foo.Greeter/Hello", None),
    ] {
        assert_eq!(call(&model, path, &[]).as_deref(), want, "{path}");
    }
    assert_eq!(call(&model, "/any.Thing/At", &[("version", "two")]).as_deref(), Some("r#4"));
    assert_eq!(call(&model, "/any.Thing/At", &[("version", "one")]), None);
    // What is no gRPC is not matched, gRPC-Web neither.
    assert_eq!(first(&model, "/foo.Greeter/Hello", &[]), None);
    assert_eq!(first(&model, "/foo.Greeter/Hello", &[("content-type", "application/grpc-web")]), None);
    assert_eq!(first(&model, "/foo.Greeter/Hello", &[("content-type", "text/plain")]), None);
    for spelt in ["application/grpc+proto", "application/grpc;charset=x"] {
        assert_eq!(first(&model, "/foo.Greeter/Hello", &[("content-type", spelt)]).as_deref(), Some("r#0"), "{spelt}");
    }
}

/// Part 1.7 of the API's rules: longest service, longest method, most headers, then the tail.
#[test]
fn service_comes_before_method_and_method_before_headers() {
    let with_header = |mut one: Value| {
        one["headers"] = json!([{"name": "a", "value": "1"}]);
        one
    };
    let model = compile(json!([
        grpc(
            "z-headers",
            json!([
                {"matches": [with_header(json!({}))]},
                {"matches": [with_header(method(None, Some("M")))]},
                {"matches": [with_header(method(Some("s.A"), None))]},
            ])
        ),
        grpc(
            "b-plain",
            json!([
                {"matches": [json!({})]},
                {"matches": [method(None, Some("M"))]},
                {"matches": [method(Some("s.A"), None)]},
                {"matches": [method(Some("s.A"), Some("M"))]},
            ])
        ),
        grpc("c-pattern", json!([{"matches": [pattern(Some("s\\.[A-Z][a-z]*"), Some("[A-Z].*"))]}])),
    ]));
    let a = [("a", "1")];
    assert_eq!(call(&model, "/s.A/M", &a).as_deref(), Some("b-plain#3"), "a method beats headers");
    assert_eq!(call(&model, "/s.A/N", &a).as_deref(), Some("z-headers#2"), "headers decide between equals");
    assert_eq!(call(&model, "/s.A/N", &[]).as_deref(), Some("b-plain#2"), "what is written out beats a pattern");
    assert_eq!(call(&model, "/s.B/M", &a).as_deref(), Some("c-pattern#0"), "a service by pattern beats a method alone");
    assert_eq!(call(&model, "/t.B/M", &a).as_deref(), Some("z-headers#1"));
    assert_eq!(call(&model, "/t.B/N", &a).as_deref(), Some("z-headers#0"));
    assert_eq!(call(&model, "/t.B/N", &[]).as_deref(), Some("b-plain#0"));
}

#[test]
fn routes_of_both_kinds_live_on_one_host_name_and_the_more_specific_name_comes_first() {
    let backend = json!([{"backendRefs": [{"name": "s", "port": 80}]}]);
    let named =
        |kind: &str, name: &str, host: &str| route(kind, name, json!({"hostnames": [host], "rules": backend.clone()}));
    let model = compile(json!([
        named("HTTPRoute", "a-http", "a.example.com"),
        named("GRPCRoute", "z-grpc", "a.example.com"),
        named("GRPCRoute", "b-wide", "*.example.com"),
    ]));
    assert_eq!(call(&model, "/s.A/M", &[]).as_deref(), Some("z-grpc#0"), "calls are the GRPCRoute's");
    assert_eq!(first(&model, "/s.A/M", &[]).as_deref(), Some("a-http#0"), "and all else the HTTPRoute's");
    let entries = &model.http.frontends.values().next().unwrap()[0].entries;
    let order: Vec<&str> = entries.iter().map(|entry| entry.rule.route.name.as_str()).collect();
    assert_eq!(order, ["z-grpc", "a-http", "b-wide"]);
    for (kind, name) in [("HTTPRoute", "a-http"), ("GRPCRoute", "z-grpc"), ("GRPCRoute", "b-wide")] {
        let verdict = &model.verdicts[&ObjectRef::new(kind, ObjectName::new("default", name))];
        assert_eq!(verdict.outcome, Outcome::Accepted, "{verdict:?}");
    }
    assert_eq!(model.gateways.values().next().unwrap().listeners[0].attached, 3);
}

#[test]
fn what_cannot_be_obeyed_is_said_and_never_skipped() {
    let verdict = |rule: Value| {
        let model = compile(json!([grpc("r", json!([rule, {"backendRefs": [{"name": "s", "port": 80}]}]))]));
        let verdict = model.verdicts[&ObjectRef::new("GRPCRoute", ObjectName::new("default", "r"))].clone();
        let entries = &model.http.frontends.values().next().unwrap()[0].entries;
        let refuses = entries.iter().any(|e| e.rule.index == 0 && matches!(e.rule.action, Action::Refuse(_)));
        let is_there = entries.iter().any(|e| e.rule.index == 0);
        (verdict.outcome, verdict.reason, is_there, refuses)
    };
    for one in [
        method(Some("a/b"), None),
        method(Some("a b"), None),
        method(None, Some("M/")),
        pattern(Some("("), None),
        pattern(Some("a)(b"), None),
        json!({"method": {"type": "Prefix", "service": "a"}}),
        json!({"headers": [{"name": "no name", "value": "x"}]}),
    ] {
        let found = verdict(json!({"matches": [one], "backendRefs": [{"name": "s", "port": 80}]}));
        assert_eq!(
            found,
            (Outcome::Partial, "UnsupportedValue", false, false),
            "{one}: a match that is none matches nothing"
        );
    }
    for kind in ["URLRewrite", "RequestRedirect", "CORS", "Nonsense"] {
        let found = verdict(json!({"filters": [{"type": kind}], "backendRefs": [{"name": "s", "port": 80}]}));
        assert_eq!(found, (Outcome::Partial, "UnsupportedValue", true, true), "{kind}");
    }
    assert_eq!(verdict(json!({"matches": [method(None, None)]})), (Outcome::Accepted, "Accepted", true, true), "500");
}

#[test]
fn a_grant_for_grpc_routes_is_not_one_for_http_routes() {
    let grant = |kind: &str| {
        json!({"kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": "other"}, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "default"}],
            "to": [{"group": "", "kind": "Service"}]}})
    };
    let target = |kind: &str| {
        let mut there = service();
        there["metadata"]["namespace"] = json!("other");
        let rules = json!([{"backendRefs": [{"name": "s", "namespace": "other", "port": 80, "weight": 3}]}]);
        let model = compile(json!([grpc("r", rules), there, grant(kind)]));
        let entries = &model.http.frontends.values().next().unwrap()[0].entries;
        let Action::Forward(shares) = &entries[0].rule.action else { panic!("{:?}", entries[0].rule) };
        (shares[0].weight, !matches!(shares[0].to, ShareTarget::Invalid(_)))
    };
    assert_eq!(target("GRPCRoute"), (3, true));
    assert_eq!(target("HTTPRoute"), (3, false));
}
