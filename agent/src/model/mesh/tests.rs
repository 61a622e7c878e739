//! Services as parents, as manifests have them -> listeners, verdicts, what is served where.
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::{
    api::{ObjectName, RouteKind},
    model::{
        Memo, Model, ObjectRef, Outcome, compile,
        fixture::{add, node, snapshot},
        http::HttpListener,
    },
};

/// A Service of both families.
fn service(name: &str, more: &Value) -> Value {
    let mut spec = json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00:10:96::a"], "ports": [
        {"name": "http", "port": 80, "targetPort": 8080},
        {"name": "alt", "port": 8080, "appProtocol": "http"},
        {"name": "https", "port": 443},
        {"name": "tcp-raw", "port": 9090},
        {"name": "other", "port": 5432, "appProtocol": "postgres"},
        {"name": "grpc", "port": 7070, "appProtocol": "grpc"},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    ]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn route(kind: &str, name: &str, parent: &Value) -> Value {
    let mut of_service = json!({"group": "", "kind": "Service", "name": "web"});
    of_service.as_object_mut().unwrap().extend(parent.as_object().unwrap().clone());
    json!({"kind": kind, "metadata": {"name": name}, "spec": {"parentRefs": [of_service],
        "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}})
}

fn with(objects: &[Value]) -> Model {
    compile(&snapshot(&json!(objects)), &node(&[]))
}

/// What is dialled -> the listener there.
fn dialled(model: &Model) -> Vec<(String, &HttpListener)> {
    let all = model.http.frontends.iter().map(|(at, listeners)| (model.http.dialled(*at).to_string(), &listeners[0]));
    let mut all: Vec<_> = all.collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

fn ports(model: &Model) -> Vec<u16> {
    let mut ports: Vec<u16> = model.http.mesh.values().filter(|at| at.is_ipv4()).map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports
}

fn verdict(model: &Model, kind: &str) -> (Outcome, &'static str, String) {
    let verdict = &model.verdicts[&ObjectRef::new(kind, ObjectName::new("default", "r"))];
    (verdict.outcome, verdict.reason, verdict.messages.join("; "))
}

#[test]
fn a_route_without_a_port_has_each_port_of_http_in_each_family() {
    let model = with(&[service("web", &json!({})), route("HTTPRoute", "r", &json!({}))]);
    assert_eq!(verdict(&model, "HTTPRoute"), (Outcome::Accepted, "Accepted", String::new()));
    let found = dialled(&model);
    let at: Vec<&str> = found.iter().map(|(at, _)| at.as_str()).collect();
    let v6 = [7070, 80, 8080].map(|port| format!("[fd00:10:96::a]:{port}"));
    assert_eq!(at, ["10.96.0.10:7070", "10.96.0.10:80", "10.96.0.10:8080", &v6[0], &v6[1], &v6[2]]);
    assert!(found.iter().all(|(_, listener)| listener.entries.len() == 1), "{found:?}");
    assert!(model.frontends.is_empty(), "nothing of it is for the network");
    let report = &model.routes[&(RouteKind::Http, ObjectName::new("default", "r"))];
    assert!(report.parents.len() == 1 && report.parents[0].accepted.is_ok() && report.resolved.is_ok());
}

#[test]
fn a_port_or_its_name_is_what_a_route_asks_for() {
    for (parent, expected) in [
        (json!({"port": 80}), vec![80]),
        (json!({"sectionName": "alt"}), vec![8080]),
        (json!({"sectionName": "alt", "port": 8080}), vec![8080]),
        // Whoever names it knows what is spoken there.
        (json!({"port": 9090}), vec![9090]),
        (json!({"port": 5432}), vec![5432]),
        (json!({"port": 443}), vec![443]),
    ] {
        for kind in ["HTTPRoute", "GRPCRoute"] {
            let model = with(&[service("web", &json!({})), route(kind, "r", &parent)]);
            assert_eq!(ports(&model), expected, "{parent}");
            assert_eq!(verdict(&model, kind).0, Outcome::Accepted, "{parent}");
        }
    }
    for parent in
        [json!({"port": 81}), json!({"port": 53}), json!({"sectionName": "alt", "port": 80}), json!({"port": -1})]
    {
        let model = with(&[service("web", &json!({})), route("HTTPRoute", "r", &parent)]);
        let (outcome, reason, why) = verdict(&model, "HTTPRoute");
        assert_eq!((outcome, reason), (Outcome::Refused, "NoMatchingParent"), "{parent}: {why}");
        assert!(model.http.mesh.is_empty() && model.http.frontends.is_empty(), "{parent}");
    }
    let secured = json!({"ports": [{"name": "web", "port": 443, "appProtocol": "https"}]});
    let model = with(&[service("web", &secured), route("HTTPRoute", "r", &json!({"port": 443}))]);
    let (_, _, why) = verdict(&model, "HTTPRoute");
    let why = why.split("; ").next();
    assert_eq!(
        why,
        Some("Service default/web has no port 443 of HTTP in clear text (port 443: its appProtocol is \"https\")")
    );
}

#[test]
fn a_service_that_nobody_can_dial_serves_no_route() {
    for (spec, why) in [
        (json!({"clusterIP": "None", "clusterIPs": ["None"]}), "is headless"),
        (json!({"type": "ExternalName", "externalName": "a.example"}), "is an ExternalName"),
        (json!({"clusterIP": "", "clusterIPs": []}), "has no ClusterIP yet"),
        (json!({"clusterIP": "nonsense", "clusterIPs": null}), "has no ClusterIP yet"),
        (json!({"clusterIP": "127.0.0.1", "clusterIPs": ["127.0.0.1", "0.0.0.0"]}), "has no ClusterIP yet"),
    ] {
        let model = with(&[service("web", &spec), route("HTTPRoute", "r", &json!({}))]);
        let expected = format!("Service default/web {why}: there is no address that its clients dial");
        let (outcome, reason, said) = verdict(&model, "HTTPRoute");
        assert_eq!((outcome, reason), (Outcome::Refused, "NoMatchingParent"), "{spec}");
        assert!(said.starts_with(&expected), "{said}");
        assert!(model.http.mesh.is_empty() && model.http.frontends.is_empty(), "{spec}");
    }
    let model = with(&[route("HTTPRoute", "r", &json!({}))]);
    assert_eq!(verdict(&model, "HTTPRoute").1, "NoMatchingParent");
    let report = &model.routes[&(RouteKind::Http, ObjectName::new("default", "r"))];
    assert!(report.parents[0].accepted.is_err(), "and its status says so");
}

#[test]
fn host_names_of_a_route_count_for_nothing_and_the_older_route_comes_first() {
    let mut named = route("HTTPRoute", "named", &json!({}));
    named["spec"]["hostnames"] = json!(["a.example", "*.b.example"]);
    named["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    let mut old = route("GRPCRoute", "old", &json!({"port": 80}));
    old["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    let model = with(&[service("web", &json!({})), named, old]);
    let found = dialled(&model);
    let (_, listener) = found.iter().find(|(at, _)| at == "10.96.0.10:80").unwrap();
    let entries: Vec<_> =
        listener.entries.iter().map(|entry| (entry.hostname.to_string(), &entry.rule.route.name)).collect();
    assert_eq!(entries.iter().map(|(_, route)| route.as_str()).collect::<Vec<_>>(), ["old", "named"]);
    assert!(entries.iter().all(|(host, _)| *host == entries[0].0), "{entries:?}");
}

#[test]
fn parents_of_other_kinds_groups_and_namespaces_are_not_served() {
    for (parent, outcome) in [
        (json!({"group": "gateway.networking.k8s.io"}), Outcome::Ignored),
        (json!({"kind": "service"}), Outcome::Ignored),
        (json!({"namespace": "elsewhere"}), Outcome::Refused),
    ] {
        let model = with(&[service("web", &json!({})), route("HTTPRoute", "r", &parent)]);
        assert_eq!(verdict(&model, "HTTPRoute").0, outcome, "{parent}");
        assert!(model.http.mesh.is_empty(), "{parent}");
    }
    let model = with(&[service("web", &json!({})), route("TLSRoute", "r", &json!({}))]);
    assert_eq!(verdict(&model, "TLSRoute").0, Outcome::Ignored);
}

#[test]
fn two_cluster_ips_that_would_be_served_at_one_address_are_not_mixed() {
    let mut other = service("other", &json!({"clusterIP": "26.96.0.10", "clusterIPs": ["26.96.0.10"]}));
    let mut of_other = route("HTTPRoute", "s", &json!({"port": 80}));
    of_other["spec"]["parentRefs"][0]["name"] = json!("other");
    other["metadata"]["name"] = json!("other");
    let model = with(&[service("web", &json!({})), other, route("HTTPRoute", "r", &json!({"port": 80})), of_other]);
    let v4: Vec<_> = model.http.mesh.iter().filter(|(at, _)| at.is_ipv4()).collect();
    assert_eq!(v4.len(), 1, "one of the two is left to kube-proxy");
    let (at, dialled) = v4[0];
    let of = &model.http.frontends[at][0].gateway.name;
    assert_eq!(dialled.ip().to_string() == "10.96.0.10", of == "service/web", "{dialled} is {of}");
}

#[test]
fn a_changed_route_touches_one_and_the_last_one_gives_the_service_back() {
    let mut memo = Memo::default();
    let mut now = snapshot(&json!([
        service("web", &json!({})),
        route("HTTPRoute", "a", &json!({})),
        route("HTTPRoute", "r", &json!({"port": 80}))
    ]));
    let first = memo.compile(&std::sync::Arc::new(now.clone()), &node(&[]));
    let mut changed = route("HTTPRoute", "r", &json!({"port": 80}));
    changed["spec"]["rules"][0]["matches"] = json!([{"path": {"value": "/only"}}]);
    add(&mut now, &changed).unwrap();
    let second = memo.compile(&std::sync::Arc::new(now.clone()), &node(&[]));
    assert_eq!((second.work.whole, second.work.routes), (first.work.whole, first.work.routes + 1));
    let entries = |model: &Model, at: &str| {
        let at = model.http.mesh.iter().find(|(_, dialled)| dialled.to_string() == at).map(|(at, _)| *at).unwrap();
        model.http.frontends[&at][0].entries.iter().map(|entry| entry.matches.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(entries(&second, "10.96.0.10:80"), ["/only/*", "/*"]);
    assert_eq!(entries(&second, "[fd00:10:96::a]:80"), ["/only/*", "/*"]);
    assert_eq!(entries(&second, "10.96.0.10:8080"), ["/*"]);
    now.http_routes.remove(&ObjectName::new("default", "a"));
    let third = memo.compile(&std::sync::Arc::new(now.clone()), &node(&[]));
    assert_eq!(ports(&third), [80], "the port that the other route asks for");
    now.http_routes.remove(&ObjectName::new("default", "r"));
    let fourth = memo.compile(&std::sync::Arc::new(now.clone()), &node(&[]));
    assert!(fourth.http.mesh.is_empty() && fourth.http.frontends.is_empty());
}

#[test]
fn an_answer_follows_the_service() {
    let mut memo = Memo::default();
    let mut now = snapshot(&json!([route("HTTPRoute", "r", &json!({}))]));
    let mut said = |now: &crate::source::Snapshot| {
        let model = memo.compile(&std::sync::Arc::new(now.clone()), &node(&[]));
        (verdict(&model, "HTTPRoute").2, ports(&model).len())
    };
    assert!(said(&now).0.contains("does not exist"));
    add(&mut now, &service("web", &json!({"clusterIP": "None", "clusterIPs": ["None"]}))).unwrap();
    assert!(said(&now).0.contains("is headless"));
    add(&mut now, &service("web", &json!({}))).unwrap();
    assert_eq!(said(&now), (String::new(), 3));
    now.services.remove(&ObjectName::new("default", "web"));
    assert!(said(&now).0.contains("does not exist"));
}
