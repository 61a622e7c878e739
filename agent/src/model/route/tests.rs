//! Gateways and routes as manifests have them -> verdicts, frontends, entries.
#![expect(clippy::needless_pass_by_value, reason = "objects are written where they are used")]
mod filters;

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::*;
use crate::model::{
    self, Frontend, Outcome, Proto, Target, Verdict,
    fixture::snapshot,
    http::{Action, ShareTarget},
};

fn compile(objects: Value) -> Model {
    compile_with(objects, &["192.0.2.0/24"])
}

fn compile_with(objects: Value, pools: &[&str]) -> Model {
    let pools = pools.iter().map(|p| p.parse().unwrap()).collect();
    model::compile(&snapshot(&objects), &Node { pools, ..Node::alone("n") })
}

fn gateway(listeners: Value) -> Value {
    json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice", "listeners": listeners}})
}

fn http(name: &str, more: Value) -> Value {
    let mut listener = json!({"name": name, "port": 80, "protocol": "HTTP"});
    listener.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    listener
}

fn route(name: &str, parent: Value, spec: Value) -> Value {
    let mut spec = spec;
    spec["parentRefs"] = json!([parent]);
    json!({"kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec})
}

fn verdict<'a>(model: &'a Model, kind: &str, name: &str) -> &'a Verdict {
    &model.verdicts[&ObjectRef::new(kind, ObjectName::new("default", name))]
}

/// Outcome and reason of the route `r` under a Gateway with these listeners.
fn attached(listeners: Value, parent: Value, spec: Value) -> (Outcome, &'static str) {
    let model = compile(json!([gateway(listeners), route("r", parent, spec), service("s")]));
    let verdict = verdict(&model, "HTTPRoute", "r");
    (verdict.outcome, verdict.reason)
}

fn service(name: &str) -> Value {
    json!({"kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn to_s() -> Value {
    json!({"rules": [{"backendRefs": [{"name": "s", "port": 80}]}]})
}

#[test]
fn a_gateway_gets_frontends_and_its_routes_their_endpoints() {
    let slice = json!({"kind": "EndpointSlice", "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["198.51.100.7"], "conditions": {"ready": true}}]});
    let listeners = json!([http("a", json!({})), http("b", json!({"port": 8080}))]);
    let objects = json!([gateway(listeners), route("r", json!({"name": "gw"}), to_s()), service("s"), slice]);
    let model = compile_with(objects, &["192.0.2.0/24", "2001:db8::/120"]);
    let gw = ObjectRef::new("Gateway", ObjectName::new("default", "gw"));
    let vips = &model.allocations[&gw];
    assert_eq!(vips.len(), 2, "an address of each family: {vips:?}");
    for &vip in vips {
        for port in [80, 8080] {
            let frontend = Frontend { vip, port: model::Port::try_new(port).unwrap(), proto: Proto::Tcp };
            assert!(
                matches!(&model.frontends[&frontend], Target::Proxy { gateway, service: None, sources: None, .. } if *gateway == gw.object)
            );
            let listeners = &model.http.frontends[&SocketAddr::new(vip, u16::try_from(port).unwrap())];
            assert_eq!(listeners[0].entries.len(), 1);
        }
    }
    let rows = model.http.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].frontends.len(), 2);
    assert_eq!((rows[0].hostname.as_str(), rows[0].matches.as_str()), ("*", "/*"));
    let endpoint = SocketAddr::new("198.51.100.7".parse::<IpAddr>().unwrap(), 8080);
    assert_eq!(rows[0].backends[0].ready, [endpoint]);
    assert_eq!(verdict(&model, "Gateway", "gw").outcome, Outcome::Accepted);
    assert_eq!(verdict(&model, "HTTPRoute", "r").outcome, Outcome::Accepted);
}

#[test]
fn a_gateway_of_another_class_is_not_ours() {
    let mut other = gateway(json!([http("a", json!({}))]));
    other["spec"]["gatewayClassName"] = json!("other");
    let model = compile(json!([other, route("r", json!({"name": "gw"}), to_s()), service("s")]));
    assert!(model.frontends.is_empty() && model.http.frontends.is_empty());
    assert_eq!(verdict(&model, "HTTPRoute", "r").outcome, Outcome::Ignored);
}

#[test]
fn listeners_that_cannot_be_served_are_refused_by_name() {
    for (listener, reason) in [
        (json!({"name": "x", "port": 81, "protocol": "HTTPS"}), "InvalidCertificateRef"),
        (json!({"name": "x", "port": 81, "protocol": "SPDY"}), "UnsupportedProtocol"),
        (json!({"name": "x", "port": 0, "protocol": "HTTP"}), "PortUnavailable"),
        (json!({"name": "x", "port": 81, "protocol": "HTTP", "hostname": "a b"}), "UnsupportedValue"),
        (
            json!({"name": "x", "port": 81, "protocol": "HTTP", "allowedRoutes": {"kinds": [{"kind": "TCPRoute"}]}}),
            "InvalidRouteKinds",
        ),
        (
            json!({"name": "x", "port": 81, "protocol": "HTTP",
                "allowedRoutes": {"namespaces": {"from": "Selector", "selector": {"matchExpressions": [{"key": "a"}]}}}}),
            "UnsupportedValue",
        ),
    ] {
        let model = compile(json!([gateway(json!([http("good", json!({})), listener]))]));
        let verdict = verdict(&model, "Gateway", "gw");
        assert_eq!((verdict.outcome, verdict.reason), (Outcome::Partial, reason), "{listener}");
        assert!(verdict.messages[0].contains("\"x\""), "{verdict:?}");
        assert_eq!(model.http.frontends.len(), 1, "the good one is served");
    }
}

#[test]
fn of_listeners_in_conflict_none_wins() {
    let same = json!([http("a", json!({"hostname": "x.example"})), http("b", json!({"hostname": "X.example"}))]);
    let model = compile(json!([gateway(same)]));
    let found = verdict(&model, "Gateway", "gw");
    assert_eq!((found.outcome, found.reason, found.messages.len()), (Outcome::Refused, "HostnameConflict", 2));
    assert!(model.frontends.is_empty());

    let mixed =
        json!([http("a", json!({})), {"name": "b", "port": 80, "protocol": "TCP"}, http("c", json!({"port": 81}))]);
    let model = compile(json!([gateway(mixed)]));
    assert_eq!(verdict(&model, "Gateway", "gw").outcome, Outcome::Partial);
    assert_eq!(model.frontends.len(), 1);

    let distinct = json!([http("a", json!({})), http("b", json!({"hostname": "*.x.example"})), {"name": "c", "port": 80, "protocol": "UDP"}]);
    let model = compile(json!([gateway(distinct)]));
    let listeners = model.http.frontends.values().next().unwrap();
    assert_eq!(listeners.len(), 2, "UDP conflicts with nobody");
}

#[test]
fn addresses_are_claimed_as_asked_for() {
    let mut asked = gateway(json!([http("a", json!({}))]));
    asked["spec"]["addresses"] = json!([{"type": "IPAddress", "value": "192.0.2.77"}]);
    let model = compile_with(json!([asked]), &["192.0.2.0/24", "2001:db8::/120"]);
    assert_eq!(model.vips(), BTreeSet::from(["192.0.2.77".parse().unwrap()]));

    let mut kept = gateway(json!([http("a", json!({}))]));
    kept["status"]["addresses"] = json!([{"type": "IPAddress", "value": "192.0.2.88"}]);
    assert_eq!(compile(json!([kept])).vips(), BTreeSet::from(["192.0.2.88".parse().unwrap()]));

    let mut named = gateway(json!([http("a", json!({}))]));
    named["spec"]["addresses"] = json!([{"type": "Hostname", "value": "lb.example"}]);
    let model = compile(json!([named]));
    assert_eq!(verdict(&model, "Gateway", "gw").reason, "UnsupportedAddress");
    assert!(model.vips().is_empty());
}

#[test]
fn parents_answer_with_the_reasons_of_the_api() {
    use Outcome::{Accepted, Refused};
    let one = || json!([http("a", json!({"hostname": "*.example.com"}))]);
    let hosts = |name: &str| {
        let mut spec = to_s();
        spec["hostnames"] = json!([name]);
        spec
    };
    assert_eq!(attached(one(), json!({"name": "gw"}), to_s()), (Accepted, "Accepted"));
    assert_eq!(attached(one(), json!({"name": "gw", "sectionName": "a", "port": 80}), to_s()), (Accepted, "Accepted"));
    assert_eq!(attached(one(), json!({"name": "gw", "sectionName": "b"}), to_s()), (Refused, "NoMatchingParent"));
    assert_eq!(attached(one(), json!({"name": "gw", "port": 81}), to_s()), (Refused, "NoMatchingParent"));
    assert_eq!(attached(one(), json!({"name": "none"}), to_s()), (Refused, "NoMatchingParent"));
    assert_eq!(attached(one(), json!({"name": "gw"}), hosts("a.example.com")), (Accepted, "Accepted"));
    assert_eq!(attached(one(), json!({"name": "gw"}), hosts("example.com")), (Refused, "NoMatchingListenerHostname"));
    assert_eq!(
        attached(one(), json!({"name": "gw", "kind": "Service", "group": ""}), to_s()),
        (Refused, "NoMatchingParent")
    );
    assert_eq!(attached(one(), json!({"name": "gw", "kind": "Other", "group": ""}), to_s()).0, Outcome::Ignored);
}

#[test]
fn routes_of_other_namespaces_need_leave() {
    let attach = |from: &str| {
        let listeners = json!([http("a", json!({"allowedRoutes": {"namespaces": {"from": from}}}))]);
        let mut guest = route("r", json!({"name": "gw", "namespace": "default"}), json!({"rules": []}));
        guest["metadata"]["namespace"] = json!("guest");
        let model = compile(json!([gateway(listeners), guest]));
        model.verdicts[&ObjectRef::new("HTTPRoute", ObjectName::new("guest", "r"))].reason
    };
    assert_eq!(attach("Same"), "NotAllowedByListeners");
    assert_eq!(attach("None"), "NotAllowedByListeners");
    assert_eq!(attach("All"), "Accepted");
}

#[test]
fn a_listener_may_choose_namespaces_by_their_labels() {
    let attach = |labels: Value| {
        let by = json!({"from": "Selector", "selector": {"matchLabels": {"team": "shop"}}});
        let by_name =
            json!({"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "guest"}}});
        let listeners = json!([
            http("a", json!({"allowedRoutes": {"namespaces": by}})),
            http("b", json!({"port": 81, "allowedRoutes": {"namespaces": by_name}}))
        ]);
        let mut guest = route("r", json!({"name": "gw", "namespace": "default"}), json!({"rules": []}));
        guest["metadata"]["namespace"] = json!("guest");
        let namespace = json!({"kind": "Namespace", "metadata": {"name": "guest", "labels": labels}});
        let model = compile(json!([gateway(listeners), guest, namespace]));
        let report = &model.gateways[&ObjectName::new("default", "gw")];
        report.listeners.iter().map(|l| l.attached).collect::<Vec<_>>()
    };
    assert_eq!(attach(json!({"team": "shop"})), [1, 1], "the name is a label that every namespace has");
    assert_eq!(attach(json!({"team": "other", "kubernetes.io/metadata.name": "guest"})), [0, 1]);
}

#[test]
fn a_class_says_whose_its_gateways_are() {
    let frontends = |class: &str, controller: Option<&str>| {
        let mut gateway = gateway(json!([http("a", json!({}))]));
        gateway["spec"]["gatewayClassName"] = json!(class);
        let object = controller
            .map(|name| json!({"kind": "GatewayClass", "metadata": {"name": class}, "spec": {"controllerName": name}}));
        compile(object.into_iter().chain([gateway]).collect()).frontends.len()
    };
    assert_eq!(frontends("edge", Some("sluice.dev/gateway")), 1);
    assert_eq!(frontends("edge", Some("example.com/other")), 0);
    assert_eq!(frontends("edge", None), 0);
    assert_eq!(frontends("sluice", None), 1, "manifests need no object");
    assert_eq!(frontends("sluice", Some("example.com/other")), 0, "somebody else took the name");
}

#[test]
fn references_are_checked_for_leave_before_existence() {
    use Outcome::Partial;
    let listeners = || json!([http("a", json!({}))]);
    for (backend, reason) in [
        (json!({"name": "s", "port": 80, "namespace": "other"}), "RefNotPermitted"),
        (json!({"name": "none", "port": 80, "namespace": "other"}), "RefNotPermitted"),
        (json!({"name": "none", "port": 80}), "BackendNotFound"),
        (json!({"name": "s", "port": 81}), "BackendNotFound"),
        (json!({"name": "s", "port": 80, "kind": "Bucket"}), "InvalidKind"),
        (json!({"name": "s"}), "UnsupportedValue"),
        (json!({"name": "s", "port": 80, "filters": [{"type": "RequestMirror"}]}), "UnsupportedValue"),
    ] {
        let spec = json!({"rules": [{"backendRefs": [backend]}]});
        assert_eq!(attached(listeners(), json!({"name": "gw"}), spec), (Partial, reason), "{backend}");
    }
}

/// Issue 9: a reference across namespaces is permitted by a grant there, and by nothing else.
#[test]
fn a_grant_permits_a_backend_of_another_namespace() {
    let grant = |ns: &str, from: &str| {
        json!({"kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": ns}, "spec": {
            "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": from}],
            "to": [{"group": "", "kind": "Service", "name": "s"}, {"group": "", "kind": "Service", "name": "none"}]}})
    };
    let outcome = |name: &str, grant: Value| {
        let rules = json!({"rules": [{"backendRefs": [{"name": name, "namespace": "other", "port": 80}]}]});
        let mut there = service("s");
        there["metadata"]["namespace"] = json!("other");
        let route = route("r", json!({"name": "gw"}), rules);
        let model = compile(json!([gateway(json!([http("a", json!({}))])), route, there, grant]));
        let services: Vec<String> = model.http.services.keys().map(ToString::to_string).collect();
        (verdict(&model, "HTTPRoute", "r").reason, services)
    };
    assert_eq!(outcome("s", grant("other", "default")), ("Accepted", vec!["other/s:80".to_owned()]));
    assert_eq!(outcome("none", grant("other", "default")), ("BackendNotFound", vec![]));
    assert_eq!(outcome("s", grant("other", "guest")), ("RefNotPermitted", vec![]));
    assert_eq!(outcome("s", grant("default", "default")), ("RefNotPermitted", vec![]));
    assert_eq!(outcome("third", grant("other", "default")), ("RefNotPermitted", vec![]));
}

#[test]
fn what_cannot_be_obeyed_is_said_and_never_skipped() {
    let rules = json!([
        {"filters": [{"type": "ExtensionRef"}], "backendRefs": [{"name": "s", "port": 80}]},
        {"matches": [{"path": {"type": "RegularExpression", "value": "("}}], "backendRefs": [{"name": "s", "port": 80}]},
        {"retry": {"attempts": -2}, "matches": [{"path": {"value": "/r"}}], "backendRefs": [{"name": "s", "port": 80}]},
        {"timeouts": {"request": "soon"}, "matches": [{"path": {"value": "/t"}}], "backendRefs": [{"name": "s", "port": 80}]},
        {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "transfer-encoding", "value": "x"}]}}],
            "matches": [{"path": {"value": "/h"}}], "backendRefs": [{"name": "s", "port": 80}]},
        {"filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "a\r\nb: c"}]}}],
            "matches": [{"path": {"value": "/i"}}], "backendRefs": [{"name": "s", "port": 80}]},
    ]);
    let objects = json!([
        gateway(json!([http("a", json!({}))])),
        route("r", json!({"name": "gw"}), json!({"rules": rules})),
        service("s")
    ]);
    let model = compile(objects);
    let verdict = verdict(&model, "HTTPRoute", "r");
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::Partial, "UnsupportedValue"));
    assert_eq!(verdict.messages.len(), 6, "{verdict:?}");
    let entries = &model.http.frontends.values().next().unwrap()[0].entries;
    let action = |index: usize| entries.iter().find(|e| e.rule.index == index).map(|e| &e.rule.action);
    assert!(matches!(action(0), Some(Action::Refuse(_))));
    assert!(action(1).is_none(), "a pattern that is none matches nothing");
    assert!(matches!(action(2), Some(Action::Forward(_))));
    for index in [3, 4, 5] {
        assert!(matches!(action(index), Some(Action::Refuse(_))), "{index}");
    }
}

#[test]
fn a_route_whose_host_names_are_all_bad_serves_nothing() {
    let mut spec = to_s();
    spec["hostnames"] = json!(["not a name"]);
    let model =
        compile(json!([gateway(json!([http("a", json!({}))])), route("r", json!({"name": "gw"}), spec), service("s")]));
    assert_eq!(verdict(&model, "HTTPRoute", "r").outcome, Outcome::Refused);
    assert!(model.http.rows().is_empty());
}

#[test]
fn two_parent_refs_to_one_listener_attach_once() {
    let mut twice = route("r", json!({"name": "gw"}), to_s());
    twice["spec"]["parentRefs"] = json!([{"name": "gw"}, {"name": "gw", "sectionName": "a"}]);
    let model = compile(json!([gateway(json!([http("a", json!({}))])), twice, service("s")]));
    assert_eq!(model.http.rows().len(), 1);
}

/// A slice of `s` with this endpoint.
fn slice_to(endpoint: &str) -> Value {
    json!({"kind": "EndpointSlice", "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 80}], "endpoints": [{"addresses": [endpoint]}]})
}

#[test]
fn an_address_of_ours_is_no_endpoint_of_a_route_and_the_route_says_so() {
    let mut gw = gateway(json!([http("a", json!({}))]));
    gw["spec"]["addresses"] = json!([{"value": "192.0.2.7"}]);
    let objects = |endpoint| json!([gw, route("r", json!({"name": "gw"}), to_s()), service("s"), slice_to(endpoint)]);
    let node = Node { pools: vec!["192.0.2.0/24".parse().unwrap()], ..Node::alone("n") };
    let mut memo = model::Memo::default();
    // Whole, then a slice alone changes: to the Gateway's own address, and back.
    for (endpoint, loops) in [("198.51.100.7", false), ("192.0.2.7", true), ("198.51.100.8", false)] {
        let model = memo.compile(&Arc::new(snapshot(&objects(endpoint))), &node);
        let backends: Vec<_> =
            model.http.services.values().flat_map(|backends| backends.iter()).map(|b| b.addr.to_string()).collect();
        assert_eq!(backends, if loops { vec![] } else { vec![endpoint.to_owned()] });
        let verdict = verdict(&model, "HTTPRoute", "r");
        assert_eq!((verdict.outcome, verdict.messages.len()), (Outcome::Accepted, usize::from(loops)), "{verdict:?}");
        assert!(verdict.messages.iter().all(|m| m.contains("default/s:80") && m.contains("192.0.2.7")), "{verdict:?}");
    }
}

#[test]
fn a_match_that_can_never_hold_is_said() {
    let header = |name: &str, value: &str| json!({"headers": [{"name": name, "value": value}]});
    let path = |kind: &str, value: &str| json!({"path": {"type": kind, "value": value}});
    let listeners = || json!([http("a", json!({}))]);
    let asked = |matches: &Value| {
        let spec = json!({"rules": [{"matches": [matches], "backendRefs": [{"name": "s", "port": 80}]}]});
        attached(listeners(), json!({"name": "gw"}), spec)
    };
    for never in [
        json!({"method": "CONNECT", "path": {"type": "Exact", "value": "/"}}),
        json!({"method": "CONNECT", "queryParams": [{"name": "a", "value": "b"}]}),
        json!({"method": "TRACE"}),
        header("Forwarded", "for=192.0.2.1"),
        header("X-Forwarded-Prefix", "/a"),
        header("x_real_ip", "192.0.2.1"),
        header(":path", "/"),
        header("x-a", " 1"),
        path("Exact", "/a?b=1"),
        path("PathPrefix", "/a#b"),
        path("Exact", "/<a>"),
    ] {
        assert_eq!(asked(&never), (Outcome::Partial, "UnsupportedValue"), "{never}");
    }
    for fine in [
        json!({"method": "PATCH"}),
        header("X-Forwarded-For", "192.0.2.1"),
        header("X-Real-IP", "192.0.2.1"),
        header("Upgrade", "websocket"),
        header("Connection", "Upgrade"),
        header("Transfer-Encoding", "chunked"),
        header("my_header", "1"),
        path("Exact", "/a%3Fb"),
    ] {
        assert_eq!(asked(&fine), (Outcome::Accepted, "Accepted"), "{fine}");
    }
}

#[test]
fn only_the_protocols_that_are_spoken_are_accepted() {
    let asked = |protocol: Value| {
        let service = json!({"kind": "Service", "metadata": {"name": "s"},
            "spec": {"ports": [{"name": "http", "port": 80, "appProtocol": protocol}]}});
        let model = compile(json!([
            gateway(json!([http("a", json!({}))])),
            route("r", json!({"name": "gw"}), to_s()),
            service
        ]));
        let verdict = verdict(&model, "HTTPRoute", "r");
        let entries = &model.http.frontends.values().next().unwrap()[0].entries;
        let Action::Forward(shares) = &entries[0].rule.action else { panic!("{:?}", entries[0].rule) };
        (verdict.reason, matches!(shares[0].to, ShareTarget::Cluster(_)))
    };
    for spoken in
        [json!(null), json!(""), json!("http"), json!("HTTP"), json!("kubernetes.io/ws"), json!("kubernetes.io/h2c")]
    {
        assert_eq!(asked(spoken.clone()), ("Accepted", true), "{spoken}");
    }
    for not in [
        "grpc",
        "http2",
        "h2c",
        "HTTPS",
        "https",
        "tls",
        "kubernetes.io/grpc",
        "kubernetes.io/wss",
        "mysql",
        "tcp",
        "example.com/http",
    ] {
        assert_eq!(asked(json!(not)), ("UnsupportedProtocol", false), "{not}");
    }
}
