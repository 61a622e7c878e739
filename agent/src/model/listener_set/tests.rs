//! Sets beside a Gateway's own listeners: who gets in, who wins, and what is served of it.
use serde_json::{Value, json};

use super::*;
use crate::model::{self, Model, Node, ObjectRef, Outcome, fixture::snapshot, report::ListenerReport};

fn gateway(from: &str, listeners: Value) -> Value {
    json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
        "allowedListeners": {"namespaces": {"from": from, "selector": {"matchLabels": {"team": "a"}}}},
        "listeners": listeners}})
}

fn listener(name: &str, protocol: &str, port: i64, hostname: Option<&str>) -> Value {
    json!({"name": name, "protocol": protocol, "port": port, "hostname": hostname})
}

fn set(ns: &str, name: &str, age: &str, listeners: Value) -> Value {
    json!({"kind": "ListenerSet", "metadata": {"name": name, "namespace": ns, "creationTimestamp": age},
        "spec": {"parentRef": {"name": "gw", "namespace": "default"}, "listeners": listeners}})
}

fn route(ns: &str, name: &str, parent: Value) -> Value {
    json!({"kind": "HTTPRoute", "metadata": {"name": name, "namespace": ns}, "spec": {"parentRefs": [parent]}})
}

fn compile(objects: Value) -> Model {
    let pools = vec!["192.0.2.0/24".parse().unwrap()];
    model::compile(&snapshot(&objects), &Node { pools, ..Node::alone("n") })
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-02-01T00:00:00Z";

fn own() -> Value {
    json!([listener("web", "HTTP", 80, Some("gw.example"))])
}

/// `set/listener reason` of each listener of the Gateway `default/gw`, conflicts with a mark.
fn listeners(model: &Model) -> Vec<String> {
    let say = |l: &ListenerReport| {
        let whose = l.set.as_ref().map(|set| format!("{set}/")).unwrap_or_default();
        let conflict = l.conflict.as_ref().map(|fault| fault.reason);
        assert!(conflict.is_none() || l.accepted.is_err(), "{l:?}");
        let reason = conflict.or(l.accepted.as_ref().err().map(|fault| fault.reason)).unwrap_or("ok");
        format!("{whose}{} {reason}", l.name)
    };
    model.gateways[&ObjectName::new("default", "gw")].listeners.iter().map(say).collect()
}

fn verdict(model: &Model, kind: &str, ns: &str, name: &str) -> (Outcome, &'static str) {
    let verdict = &model.verdicts[&ObjectRef::new(kind, ObjectName::new(ns, name))];
    (verdict.outcome, verdict.reason)
}

#[test]
fn a_gateway_lets_in_the_sets_of_the_namespaces_that_it_allows_and_by_default_none() {
    let web = || json!([listener("a", "HTTP", 80, Some("a.example"))]);
    let outcome = |gateway: Value, ns: &str| {
        let labelled = json!({"kind": "Namespace", "metadata": {"name": "labelled", "labels": {"team": "a"}}});
        verdict(&compile(json!([gateway, set(ns, "s", OLD, web()), labelled])), "ListenerSet", ns, "s")
    };
    let (yes, no) = ((Outcome::Accepted, "Accepted"), (Outcome::Refused, "NotAllowed"));
    for (from, ns, want) in [
        ("None", "default", no),
        ("Same", "default", yes),
        ("Same", "other", no),
        ("All", "other", yes),
        ("Selector", "labelled", yes),
        ("Selector", "other", no),
        ("Nonsense", "default", no),
    ] {
        assert_eq!(outcome(gateway(from, own()), ns), want, "{from} {ns}");
    }
    let mut silent = gateway("All", own());
    silent["spec"].as_object_mut().unwrap().remove("allowedListeners");
    assert_eq!(outcome(silent, "default"), no);
    let mut foreign = gateway("All", own());
    foreign["spec"]["gatewayClassName"] = json!("other");
    assert_eq!(outcome(foreign, "default"), (Outcome::Ignored, "NoMatchingParent"));
}

/// The Gateway's own listeners win, then the oldest set's, then by namespace and name.
#[test]
fn the_one_that_comes_later_loses_a_conflict() {
    let host = |name: &str, host: &str| listener(name, "HTTP", 80, Some(host));
    let model = compile(json!([
        gateway("All", own()),
        set("b", "late", NEW, json!([host("x", "x.example"), host("y", "y.example")])),
        set("c", "old", OLD, json!([host("mine", "gw.example"), host("x", "x.example")])),
        set("a", "late", NEW, json!([host("y", "y.example"), listener("tcp", "TCP", 80, None)])),
    ]));
    assert_eq!(
        listeners(&model),
        [
            "web ok",
            "c/old/mine HostnameConflict",
            "c/old/x ok",
            "a/late/y ok",
            "a/late/tcp ProtocolConflict",
            "b/late/x HostnameConflict",
            "b/late/y HostnameConflict",
        ]
    );
    assert_eq!(verdict(&model, "Gateway", "default", "gw"), (Outcome::Accepted, "Accepted"), "it is not the Gateway's");
    assert_eq!(verdict(&model, "ListenerSet", "c", "old"), (Outcome::Partial, "ListenersNotValid"));
    assert_eq!(verdict(&model, "ListenerSet", "b", "late").0, Outcome::Refused, "nothing of it is served");
    let served = model.http.frontends.values().next().unwrap();
    let names: Vec<&str> = served.iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["web", "c/old/x", "a/late/y"]);
    // What a set is told does not name the listeners of others.
    let reports = &model.gateways[&ObjectName::new("default", "gw")].listeners;
    let said = |i: usize| reports[i].conflict.as_ref().unwrap().message.clone();
    assert!(!said(1).contains("web") && !said(4).contains("web"), "{} {}", said(1), said(4));
}

#[test]
fn a_route_reaches_the_listeners_of_the_parent_that_it_names_and_no_others() {
    let at_set = |section: Option<&str>| json!({"kind": "ListenerSet", "name": "s", "namespace": "team", "sectionName": section});
    let at_gateway = |section: Option<&str>| json!({"name": "gw", "namespace": "default", "sectionName": section});
    let outcome = |parent: Value, ns: &str| {
        let objects = json!([
            gateway("All", json!([listener("web", "HTTP", 80, Some("gw.example"))])),
            set(
                "team",
                "s",
                OLD,
                json!([listener("web", "HTTP", 80, Some("a.example")), listener("b", "HTTP", 81, None)])
            ),
            route(ns, "r", parent),
        ]);
        let model = compile(objects);
        let report = &model.gateways[&ObjectName::new("default", "gw")];
        let attached: Vec<usize> = report.listeners.iter().map(|listener| listener.attached).collect();
        (verdict(&model, "HTTPRoute", ns, "r").1, attached)
    };
    assert_eq!(outcome(at_gateway(None), "default"), ("Accepted", vec![1, 0, 0]));
    assert_eq!(outcome(at_set(None), "team"), ("Accepted", vec![0, 1, 1]));
    assert_eq!(outcome(at_set(Some("web")), "team"), ("Accepted", vec![0, 1, 0]));
    assert_eq!(outcome(at_set(Some("none")), "team"), ("NoMatchingParent", vec![0, 0, 0]));
    assert_eq!(outcome(at_gateway(Some("b")), "default"), ("NoMatchingParent", vec![0, 0, 0]), "b is the set's");
    // `Same` is the namespace of what the listener is written in.
    assert_eq!(outcome(at_set(None), "default"), ("NotAllowedByListeners", vec![0, 0, 0]));
    assert_eq!(outcome(at_gateway(None), "team"), ("NotAllowedByListeners", vec![0, 0, 0]));
    let nowhere = json!({"kind": "ListenerSet", "name": "none", "namespace": "team"});
    assert_eq!(outcome(nowhere, "team"), ("NoMatchingParent", vec![0, 0, 0]));
}

#[test]
fn a_set_that_is_not_let_in_serves_nothing_and_its_routes_are_told() {
    let model = compile(json!([
        gateway("Same", own()),
        set("team", "s", OLD, json!([listener("a", "HTTP", 8080, None)])),
        route("team", "r", json!({"kind": "ListenerSet", "name": "s"})),
    ]));
    assert_eq!(listeners(&model), ["web ok"]);
    assert!(model.frontends.keys().all(|frontend| frontend.port.get() == 80), "{:?}", model.frontends);
    let report = &model.routes[&(crate::api::RouteKind::Http, ObjectName::new("team", "r"))];
    assert_eq!(report.parents[0].accepted.as_ref().unwrap_err().reason, "NoMatchingParent");
    assert_eq!(report.parents[0].parent.kind.as_deref(), Some("ListenerSet"));
}

#[test]
fn ports_of_sets_are_served_at_the_gateways_addresses() {
    let model = compile(json!([
        gateway("All", own()),
        set("team", "s", OLD, json!([listener("a", "HTTP", 8080, None)])),
        route("team", "r", json!({"kind": "ListenerSet", "name": "s", "sectionName": "a"})),
    ]));
    let ports: Vec<u16> = model.frontends.keys().map(|frontend| frontend.port.get()).collect();
    assert_eq!(ports, [80, 8080]);
    let entries = |port: u16| {
        let found = model.http.frontends.iter().find(|(at, _)| at.port() == port).unwrap();
        found.1.iter().map(|listener| listener.entries.len()).sum::<usize>()
    };
    assert_eq!((entries(80), entries(8080)), (0, 1));
}
