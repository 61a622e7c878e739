//! Which route serves a listener, how its flows are split, and what a change of endpoints costs.
use serde_json::{Value, json};

use super::*;
use crate::model::{
    self, Memo, Outcome, Target,
    fixture::{add, node, snapshot},
};

const POOL: &[&str] = &["192.0.2.0/28"];

fn gateway(listeners: &Value) -> Value {
    json!({
        "kind": "Gateway", "metadata": {"name": "gw", "namespace": "default"},
        "spec": {"gatewayClassName": "sluice", "listeners": listeners},
    })
}

/// A Gateway with TCP 9300, UDP 5300 and HTTP 80.
fn mixed() -> Value {
    gateway(&json!([
        {"name": "web", "port": 80, "protocol": "HTTP"},
        {"name": "tcp", "port": 9300, "protocol": "TCP"},
        {"name": "udp", "port": 5300, "protocol": "UDP"},
    ]))
}

/// A route of the listener with the name of its protocol, to `(Service, weight)`.
fn route(kind: &str, name: &str, created: &str, refs: &[(&str, i64)]) -> Value {
    let section = if kind == "TCPRoute" { "tcp" } else { "udp" };
    let refs: Vec<_> = refs.iter().map(|(s, weight)| json!({"name": s, "port": 7, "weight": weight})).collect();
    json!({
        "kind": kind,
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
        "spec": {"parentRefs": [{"name": "gw", "sectionName": section}], "rules": [{"backendRefs": refs}]},
    })
}

fn service(name: &str) -> Value {
    let ports = json!([
        {"name": "tcp", "port": 7, "protocol": "TCP"}, {"name": "udp", "port": 7, "protocol": "UDP"},
        {"name": "only", "port": 8, "protocol": "TCP"},
    ]);
    json!({"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": {"ports": ports}})
}

/// The endpoints of a Service, by their last number; those above 100 drain.
fn slice(service: &str, endpoints: &[u8]) -> Value {
    let endpoint = |n: &u8| {
        let (ready, leaves) = (*n <= 100, *n > 100);
        json!({"addresses": [format!("10.0.0.{n}")], "conditions": {"ready": ready, "serving": true, "terminating": leaves}})
    };
    json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "tcp", "port": 9000, "protocol": "TCP"}, {"name": "udp", "port": 9001, "protocol": "UDP"}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn compile(objects: &[Value]) -> model::Model {
    model::compile(&snapshot(&json!(objects)), &node(POOL))
}

fn target<'a>(model: &'a model::Model, frontend: &str) -> &'a Arc<EndpointTarget> {
    match model.frontends.iter().find(|(at, _)| at.to_string() == frontend) {
        Some((_, Target::Endpoints(target))) => target,
        other => panic!("{frontend}: {other:?}"),
    }
}

/// Service, weight and endpoints of each share.
fn shares(target: &EndpointTarget) -> Vec<(&str, u32, Vec<String>)> {
    let of = |share: &EndpointShare| share.backends.iter().map(|b| format!("{}:{}", b.addr, b.port)).collect();
    target.shares.iter().map(|share| (share.service.name.as_str(), share.weight, of(share))).collect()
}

fn verdict(model: &model::Model, kind: &str, name: &str) -> (Outcome, &'static str, Vec<String>) {
    let verdict = &model.verdicts[&ObjectRef::new(kind, ObjectName::new("default", name))];
    (verdict.outcome, verdict.reason, verdict.messages.clone())
}

#[test]
fn a_listener_of_tcp_or_udp_is_a_frontend_that_is_split_over_the_services_of_its_route() {
    let refs: &[(&str, i64)] = &[("blue", 70), ("green", 30), ("off", 0)];
    let model = compile(&[
        mixed(),
        service("blue"),
        service("green"),
        service("off"),
        slice("blue", &[1, 2, 101]),
        slice("green", &[3]),
        slice("off", &[4]),
        route("TCPRoute", "r", "2026-01-01T00:00:00Z", refs),
        route("UDPRoute", "r", "2026-01-01T00:00:00Z", refs),
    ]);
    let frontends: Vec<_> = model.frontends.keys().map(ToString::to_string).collect();
    assert_eq!(frontends, ["192.0.2.1:80/TCP", "192.0.2.1:5300/UDP", "192.0.2.1:9300/TCP"]);
    for (at, kind, port) in [("192.0.2.1:9300/TCP", "TCPRoute", 9000), ("192.0.2.1:5300/UDP", "UDPRoute", 9001)] {
        let target = target(&model, at);
        let of = |n: u8| format!("10.0.0.{n}:{port}");
        assert_eq!(shares(target), [("blue", 70, vec![of(1), of(2)]), ("green", 30, vec![of(3)])], "{at}");
        assert_eq!(target.draining().map(|b| b.addr.to_string()).collect::<Vec<_>>(), ["10.0.0.101"]);
        assert_eq!((target.owner.to_string(), target.refused), ("Gateway default/gw".to_owned(), 0));
        assert_eq!(target.route.as_ref().map(ToString::to_string), Some(format!("{kind} default/r")));
        assert_eq!(verdict(&model, kind, "r"), (Outcome::Accepted, "Accepted", vec![]));
    }
    assert_eq!(model.http.frontends.len(), 1, "the proxy listens at the port of HTTP alone");
    assert_eq!(verdict(&model, "Gateway", "gw").0, Outcome::Accepted);
}

#[test]
fn the_oldest_route_of_a_listener_serves_and_the_others_stay_accepted_and_are_counted() {
    let mut objects = vec![mixed(), service("blue"), service("green"), slice("blue", &[1]), slice("green", &[2])];
    objects.push(route("TCPRoute", "a-younger", "2026-01-02T00:00:00Z", &[("green", 1)]));
    objects.push(route("TCPRoute", "z-older", "2026-01-01T00:00:00Z", &[("blue", 1)]));
    let model = compile(&objects);
    assert_eq!(shares(target(&model, "192.0.2.1:9300/TCP"))[0].0, "blue");
    assert_eq!(verdict(&model, "TCPRoute", "z-older"), (Outcome::Accepted, "Accepted", vec![]));
    let why = "Gateway default/gw, listener \"tcp\": TCPRoute default/z-older, which is older, gets all flows";
    assert_eq!(verdict(&model, "TCPRoute", "a-younger"), (Outcome::Accepted, "Accepted", vec![why.to_owned()]));
    let attached: Vec<_> = model.gateways.values().flat_map(|g| &g.listeners).map(|l| l.attached).collect();
    assert_eq!(attached, [0, 2, 0]);
    objects.pop();
    assert_eq!(shares(target(&compile(&objects), "192.0.2.1:9300/TCP"))[0].0, "green", "it is deleted");
    objects.push(route("TCPRoute", "b-same-age", "2026-01-02T00:00:00Z", &[("blue", 1)]));
    assert_eq!(
        shares(target(&compile(&objects), "192.0.2.1:9300/TCP"))[0].0,
        "green",
        "of equal age the first by name"
    );
}

#[test]
fn without_a_route_or_with_bad_references_flows_are_refused_in_their_share() {
    let objects = [mixed(), service("blue"), service("empty"), slice("blue", &[1])];
    let model = compile(&objects);
    let nobody = target(&model, "192.0.2.1:9300/TCP");
    assert_eq!((nobody.shares.len(), nobody.refused, nobody.when_empty), (0, 0, WhenEmpty::Reject));
    assert_eq!(nobody.route, None);
    let mut bad =
        route("UDPRoute", "r", "2026-01-01T00:00:00Z", &[("blue", 1), ("empty", 2), ("missing", 4), ("blue", 8)]);
    let refs = bad["spec"]["rules"][0]["backendRefs"].as_array_mut().unwrap();
    refs.push(json!({"name": "blue", "port": 8, "weight": 16}));
    refs.push(json!({"name": "blue", "namespace": "other", "port": 7, "weight": 32}));
    refs.push(json!({"name": "blue", "kind": "Odd", "port": 7, "weight": 64}));
    let model = compile(&[&objects[..], &[bad]].concat());
    let target = target(&model, "192.0.2.1:5300/UDP");
    assert_eq!(shares(target), [("blue", 9, vec!["10.0.0.1:9001".to_owned()]), ("empty", 2, vec![])], "each once");
    assert_eq!(target.refused, 4 + 16 + 32 + 64);
    let (outcome, reason, messages) = verdict(&model, "UDPRoute", "r");
    assert_eq!((outcome, reason, messages.len()), (Outcome::Partial, "BackendNotFound", 4), "{messages:?}");
}

#[test]
fn a_service_is_not_led_to_the_proxy_at_a_port_that_is_not_the_proxys() {
    let mut front = service("front");
    front["metadata"]["labels"] = json!({"gateway.networking.k8s.io/gateway-name": "gw"});
    front["spec"]["type"] = "LoadBalancer".into();
    front["spec"]["ports"] = json!([{"name": "web", "port": 80}, {"name": "tcp", "port": 9300}]);
    let model = compile(&[mixed(), front, slice("front", &[1])]);
    assert!(matches!(
        model.frontends.iter().find(|(at, _)| at.to_string() == "192.0.2.2:80/TCP"),
        Some((_, Target::Proxy { .. }))
    ));
    assert_eq!(shares(target(&model, "192.0.2.2:9300/TCP")), [("front", 1, vec!["10.0.0.1:9000".to_owned()])]);
}

#[test]
fn an_endpoint_of_one_service_costs_the_frontends_that_it_has_a_share_of() {
    let mut world = snapshot(&json!([
        mixed(),
        service("blue"),
        service("green"),
        slice("blue", &[1]),
        slice("green", &[2]),
        route("TCPRoute", "r", "2026-01-01T00:00:00Z", &[("blue", 1), ("green", 1)]),
        route("UDPRoute", "r", "2026-01-01T00:00:00Z", &[("green", 1)]),
    ]));
    let (mut memo, node) = (Memo::default(), node(POOL));
    let before = memo.compile(&Arc::new(world.clone()), &node);
    let first = memo.work();
    assert_eq!((first.whole, first.streams, first.selections), (1, 0, 3));
    add(&mut world, &slice("blue", &[1, 3])).unwrap();
    let after = memo.compile(&Arc::new(world.clone()), &node);
    let work = memo.work();
    assert_eq!((work.whole, work.streams, work.selections), (1, 1, 4), "one Service, one frontend");
    let (tcp, udp) = ("192.0.2.1:9300/TCP", "192.0.2.1:5300/UDP");
    assert_eq!(shares(target(&after, tcp))[0].2, ["10.0.0.1:9000", "10.0.0.3:9000"]);
    assert!(Arc::ptr_eq(target(&before, udp), target(&after, udp)));
    add(&mut world, &slice("green", &[2, 103])).unwrap();
    let last = memo.compile(&Arc::new(world.clone()), &node);
    let work = memo.work();
    assert_eq!((work.whole, work.streams, work.selections), (1, 3, 6), "a Service of two frontends");
    assert!([tcp, udp].iter().all(|at| target(&last, at).draining().count() == 1));
    // Another object: everything is compiled, and no endpoint selected again.
    add(&mut world, &service("third")).unwrap();
    add(&mut world, &route("TCPRoute", "s", "2026-01-02T00:00:00Z", &[("blue", 1)])).unwrap();
    let whole = memo.compile(&Arc::new(world.clone()), &node);
    let work = memo.work();
    assert_eq!((work.whole, work.selections), (2, 6));
    assert!([tcp, udp].iter().all(|at| Arc::ptr_eq(target(&last, at), target(&whole, at))));
}
