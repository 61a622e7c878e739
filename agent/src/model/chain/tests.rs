//! Services before Gateways -> frontends, chains, what is said of them.
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::*;
use crate::model::{
    self, Candidate, Frontend, Model, Node, Role, Target,
    fixture::{node, snapshot},
};

const POOLS: &[&str] = &["192.0.2.0/24", "2001:db8::/64"];

fn gateway() -> Value {
    json!({"kind": "Gateway", "metadata": {"name": "gw", "uid": "g1"}, "spec": {"gatewayClassName": "sluice",
        "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}})
}

fn route(weights: &[(&str, u32)]) -> Value {
    let backend = |(name, weight): &(&str, u32)| json!({"name": name, "port": 80, "weight": weight});
    let backends: Vec<Value> = weights.iter().map(backend).collect();
    json!({"kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": backends}]}})
}

fn backend(name: &str) -> Value {
    json!({"kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn slice(name: &str, service: &str, more: &Value, endpoints: &[Value]) -> Value {
    let mut slice = json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
    if let Some(labels) = more.as_object() {
        slice["metadata"]["labels"].as_object_mut().unwrap().extend(labels.clone());
    }
    slice
}

fn at(addr: &str) -> Value {
    json!({"addresses": [addr], "nodeName": "n1", "conditions": {"ready": true}})
}

/// The Service `front`, or one of another name, with this metadata besides.
fn front(name: &str, metadata: &Value) -> Value {
    let mut service = json!({"kind": "Service", "metadata": {"name": name},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]}});
    service["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    service
}

fn labelled() -> Value {
    front("front", &json!({"labels": {GATEWAY_LABEL: "gw"}}))
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn compile(objects: &[Value]) -> Model {
    model::compile(&snapshot(&json!(objects)), &node(POOLS))
}

fn whole() -> Vec<Value> {
    vec![gateway(), route(&[("s", 1)]), backend("s"), slice("s-1", "s", &json!({}), &[at("10.0.0.1")])]
}

/// The endpoints of a chain, `ADDR:PORT`, over all of its ports.
fn endpoints(model: &Model, service: &str) -> Vec<String> {
    let ports = &model.chains[&name(service)].ports;
    ports.iter().flat_map(|p| p.endpoints.keys()).map(|(ip, port)| format!("{ip}:{port}")).collect()
}

/// The reason why nothing is behind a Service; `Resolved` where something is.
fn reason(model: &Model, service: &str) -> &'static str {
    match model.chains[&name(service)].resolved() {
        Some(Ok(_)) => "Resolved",
        Some(Err(fault)) => fault.reason,
        None => "None",
    }
}

/// Whether the flows of a Service go to the proxy.
fn is_proxied(model: &Model, service: &str) -> bool {
    let of = ObjectRef::new("Service", name(service));
    let mut targets = model.frontends.values().filter(|target| target.owner() == of).peekable();
    targets.peek().is_some() && targets.all(|target| matches!(target, Target::Proxy { service: Some(_), .. }))
}

#[test]
fn s151_a_service_for_a_gateway_serves_its_routes_and_has_their_endpoints() {
    let owner = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "gw", "uid": "g1"});
    let services = [labelled(), front("front", &json!({"ownerReferences": [owner]})), front("gw-sluice", &json!({}))];
    for service in services {
        let of = service["metadata"]["name"].as_str().unwrap().to_owned();
        let model = compile(&[whole(), vec![service]].concat());
        assert!(is_proxied(&model, &of), "{:#?}", model.frontends);
        assert_eq!((reason(&model, &of), endpoints(&model, &of)), ("Resolved", vec!["10.0.0.1:8080".to_owned()]));
        let vip = model.allocations[&ObjectRef::new("Service", name(&of))][0];
        let listeners = &model.http.frontends[&SocketAddr::new(vip, 80)];
        assert_eq!((listeners[0].name.as_str(), listeners[0].entries.len()), ("web", 1));
        let own = model.allocations[&ObjectRef::new("Gateway", name("gw"))][0];
        assert!(Arc::ptr_eq(listeners, &model.http.frontends[&SocketAddr::new(own, 80)]), "one data plane");
        let verdict = &model.verdicts[&ObjectRef::new("Service", name(&of))];
        assert_eq!((verdict.outcome, verdict.messages.len()), (Outcome::Accepted, 0), "{verdict:?}");
    }
}

#[test]
fn what_is_missing_is_said() {
    let without = |kind: &str| -> Vec<Value> {
        whole().into_iter().filter(|object| object["kind"] != kind).chain([labelled()]).collect()
    };
    assert_eq!(reason(&compile(&without("Gateway")), "front"), "GatewayNotFound");
    assert_eq!(reason(&compile(&without("HTTPRoute")), "front"), "NoRoute");
    assert_eq!(reason(&compile(&without("EndpointSlice")), "front"), "NoEndpoints");
    let class =
        json!({"kind": "GatewayClass", "metadata": {"name": "sluice"}, "spec": {"controllerName": "a.example/b"}});
    assert_eq!(reason(&compile(&[whole(), vec![labelled(), class]].concat()), "front"), "GatewayNotOurs");
    let mut other = labelled();
    other["spec"]["ports"][0]["port"] = json!(8443);
    let model = compile(&[whole(), vec![other]].concat());
    assert_eq!((reason(&model, "front"), is_proxied(&model, "front")), ("NoListener", false));
    let verdict = &model.verdicts[&ObjectRef::new("Service", name("front"))];
    assert!(verdict.messages.iter().any(|m| m.contains("no listener that is served at port 8443")), "{verdict:?}");
    // An owner of the same name that is another object.
    let owner = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": "gw", "uid": "g0"});
    let model = compile(&[whole(), vec![front("front", &json!({"ownerReferences": [owner]}))]].concat());
    assert_eq!((reason(&model, "front"), is_proxied(&model, "front")), ("GatewayNotFound", false));
}

#[test]
fn who_has_endpoints_of_others_gets_none_of_ours() {
    let theirs = |service: &str| slice("theirs", service, &json!({}), &[at("10.0.0.9")]);
    // Named by a label: the data plane is ours, the endpoints are theirs.
    let model = compile(&[whole(), vec![labelled(), theirs("front")]].concat());
    assert!(is_proxied(&model, "front") && !model.chains[&name("front")].is_written());
    // Named by its name alone: it is theirs.
    let model = compile(&[whole(), vec![front("gw-sluice", &json!({})), theirs("gw-sluice")]].concat());
    assert!(!is_proxied(&model, "gw-sluice") && !model.chains[&name("gw-sluice")].is_written());
    assert_eq!(reason(&model, "gw-sluice"), "None");
    // The mesh that the Gateway belongs to stands behind it.
    let class =
        json!({"kind": "GatewayClass", "metadata": {"name": "sluice"}, "spec": {"controllerName": "a.example/b"}});
    let model = compile(&[whole(), vec![labelled(), theirs("front"), class]].concat());
    assert_eq!((reason(&model, "front"), is_proxied(&model, "front")), ("None", false));
    let verdict = &model.verdicts[&ObjectRef::new("Service", name("front"))];
    assert!(verdict.messages.is_empty(), "{verdict:?}");
    // A slice without endpoints, as the cluster writes for every selector, is nobody's answer.
    let model = compile(&[whole(), vec![labelled(), slice("theirs", "front", &json!({}), &[])]].concat());
    assert!(model.chains[&name("front")].is_written());
}

#[test]
fn our_own_slices_are_never_read() {
    let ours = |n: &str, service: &str, addr: &str| {
        slice(n, service, &json!({"endpointslice.kubernetes.io/managed-by": "sluice.dev"}), &[at(addr)])
    };
    // The route leads back to the Service itself, and to another one whose slices are ours.
    let mut objects =
        vec![gateway(), route(&[("front", 1), ("s", 1), ("t", 1)]), backend("s"), backend("t"), labelled()];
    objects.extend([ours("a", "front", "10.0.0.1"), ours("b", "s", "10.0.0.2")]);
    objects.push(slice("t-1", "t", &json!({}), &[at("10.0.0.3"), at("192.0.2.1"), at("127.0.0.1")]));
    let model = compile(&objects);
    // Nor are addresses that Sluice gave, nor those that nothing can be sent to.
    assert_eq!(endpoints(&model, "front"), ["10.0.0.3:8080"]);
    assert_eq!(model.own_slices.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(model.chains[&name("front")].is_written());
}

#[test]
fn endpoints_keep_their_state_and_weight_0_gets_nothing() {
    let ending = json!({"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true},
        "hints": {"forZones": [{"name": "z"}]}, "hostname": "h", "targetRef": {"kind": "Pod", "name": "p"}});
    let mut objects = vec![gateway(), route(&[("s", 1), ("t", 0), ("u", 2)]), labelled()];
    objects.extend(["s", "t", "u"].map(backend));
    objects.push(slice("s-1", "s", &json!({}), &[at("10.0.0.1"), ending]));
    objects.push(slice("t-1", "t", &json!({}), &[at("10.0.0.3")]));
    objects.push(slice("u-1", "u", &json!({}), &[at("10.0.0.1")]));
    let model = compile(&objects);
    assert_eq!(endpoints(&model, "front"), ["10.0.0.1:8080", "10.0.0.2:8080"], "who is behind two is there once");
    let all = &model.chains[&name("front")].ports[0].endpoints;
    let ending = all.values().last().unwrap();
    assert_eq!((ending.conditions.ready, ending.conditions.terminating), (Some(false), Some(true)));
    assert_eq!((ending.hostname.as_deref(), ending.hints.for_zones.len()), (None, 0));
    assert_eq!(ending.target_ref.as_ref().unwrap().name, "p");
}

#[test]
fn s153_ports_without_a_listener_stay_at_layer_4() {
    let mut service = labelled();
    service["spec"]["ports"] = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 80, "protocol": "UDP"},
        {"name": "sql", "port": 5432}, {"name": "status", "port": 15021}]);
    let model = compile(&[whole(), vec![service]].concat());
    let vip = model.allocations[&ObjectRef::new("Service", name("front"))][0];
    let target = |port, proto| &model.frontends[&Frontend { vip, port: Port::try_new(port).unwrap(), proto }];
    assert!(matches!(target(80, Proto::Tcp), Target::Proxy { .. }));
    for (port, proto) in [(80, Proto::Udp), (5432, Proto::Tcp), (15021, Proto::Tcp)] {
        assert!(matches!(target(port, proto), Target::Endpoints(_)), "{port}/{proto}");
    }
    let verdict = &model.verdicts[&ObjectRef::new("Service", name("front"))];
    assert!(verdict.messages.iter().any(|m| m.ends_with("served at port 5432")), "{verdict:?}");
}

#[test]
fn s4_s8_services_of_others_are_none_of_ours() {
    let mut foreign = labelled();
    foreign["spec"]["loadBalancerClass"] = json!("example.com/lb");
    let mut shown = labelled();
    shown["status"] = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}});
    let mut leaving = labelled();
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut internal = labelled();
    internal["spec"]["type"] = json!("ClusterIP");
    for service in [foreign, shown, leaving, internal] {
        let model = compile(&[whole(), vec![service.clone()]].concat());
        assert!(model.chains.is_empty() && !is_proxied(&model, "front"), "{service}");
    }
}

#[test]
fn s151_it_is_announced_where_the_proxy_takes_connections() {
    let mut service = labelled();
    service["metadata"]["annotations"] = json!({"sluice.dev/allocated": "192.0.2.7"});
    service["spec"]["externalTrafficPolicy"] = json!("Local");
    let candidate = |name: &str, has_proxy| Candidate { name: name.to_owned(), has_proxy };
    for has_proxy in ["a", "b", "c"] {
        let candidates = ["a", "b", "c"].map(|n| candidate(n, n == has_proxy)).to_vec();
        let node = Node { role: Role::Member, candidates, ..node(POOLS) };
        let model = model::compile(&snapshot(&json!([whole(), vec![service.clone()]].concat())), &node);
        assert_eq!(model.announcers[&"192.0.2.7".parse::<IpAddr>().unwrap()], has_proxy);
    }
}
