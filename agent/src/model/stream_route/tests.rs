//! TLSRoutes, TCPRoutes and UDPRoutes at listeners of their protocols, as if all of these were served.
use serde_json::{Value, json};

use super::*;
use crate::{
    model::{
        Model, Node, Port,
        endpoints::SliceIndex,
        fixture,
        gateway::Listeners,
        http::HttpModel,
        listener::{Open, Protocol, Served},
        report::RouteReports,
        route::{Endpoints, Routes},
        service::Targets,
    },
    source::Snapshot,
};

fn route(kind: &str, name: &str, age: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["parentRefs"] = json!([{"name": "gw"}]);
    json!({"kind": kind, "metadata": {"name": name, "creationTimestamp": age}, "spec": spec})
}

fn to(backends: Value) -> Value {
    json!({"rules": [{"backendRefs": backends}]})
}

/// The entries of each listener in words, and the reports.
fn compile(objects: Value) -> (Vec<Vec<String>>, RouteReports) {
    let mut objects = objects;
    objects.as_array_mut().unwrap().extend([
        json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice", "listeners": [
            {"name": "tcp", "port": 1, "protocol": "TCP"}, {"name": "udp", "port": 1, "protocol": "UDP"},
            {"name": "tls", "port": 2, "protocol": "TLS", "hostname": "*.example.com"}]}}),
        json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "t", "port": 80}, {"name": "u", "port": 53, "protocol": "UDP"}]}}),
    ]);
    let snapshot = fixture::snapshot(&objects);
    let gateway = &snapshot.gateways[&ObjectName::new("default", "gw")];
    let mut all = Served::all(gateway);
    for served in &mut all {
        let protocol = Protocol::of(&served.spec.protocol).unwrap();
        let (port, hostname) = (Port::try_new(served.spec.port).unwrap(), served.hostname.clone().unwrap());
        served.accepted = Ok(Open { protocol, port, hostname });
        served.kinds = protocol.kinds().to_vec();
    }
    let gateway = ObjectName::new("default", "gw");
    let listeners: Listeners = [(gateway.clone(), Arc::new(all))].into();
    let (mut routes, mut model) = (Routes::default(), Model::default());
    let mut changed = routes.changed(&Snapshot::default(), &snapshot);
    changed.gateways.insert(gateway.clone());
    let (slices, targets, node) = (SliceIndex::default(), Targets::default(), Node::alone("n"));
    let endpoints = Endpoints { snapshot: &snapshot, slices: &slices, targets: &targets, node: &node };
    routes.compile(&World::of(&snapshot), &listeners, &changed, endpoints, (&HttpModel::default(), &mut model));
    let share = |share: &StreamShare| match &share.to {
        StreamTarget::Service(port) => format!("{port}*{}", share.weight),
        StreamTarget::Invalid(_) => format!("none*{}", share.weight),
    };
    let entry = |entry: &StreamEntry| {
        let shares: Vec<_> = entry.shares.iter().map(share).collect();
        format!("{} {:?} {}", entry.route.name, entry.hostnames, shares.join(" "))
    };
    let entries = routes.held(&gateway).iter().map(|held| {
        assert_eq!(held.attached, held.streams.len());
        held.streams.iter().map(entry).collect()
    });
    (entries.collect(), model.routes)
}

#[test]
fn routes_attach_to_listeners_of_their_protocol_the_oldest_first() {
    let backends = json!([{"name": "s", "port": 80, "weight": 7}, {"name": "none", "port": 80, "weight": 3}]);
    let mut tls = to(json!([{"name": "s", "port": 80}]));
    tls["hostnames"] = json!(["a.example.com", "other.test"]);
    let (entries, reports) = compile(json!([
        route("TCPRoute", "a-new", "2026-02-01T00:00:00Z", to(json!([{"name": "s", "port": 80}]))),
        route("TCPRoute", "z-old", "2026-01-01T00:00:00Z", to(backends)),
        route("UDPRoute", "u", "2026-01-01T00:00:00Z", to(json!([{"name": "s", "port": 53}]))),
        route("TLSRoute", "t", "2026-01-01T00:00:00Z", tls),
    ]));
    let any = format!("{:?}", [Hostname::Any]);
    let named = format!("{:?}", [Hostname::try_new("a.example.com").unwrap()]);
    assert_eq!(entries[0], [format!("z-old {any} default/s:80*7 none*3"), format!("a-new {any} default/s:80*1")]);
    assert_eq!(entries[1], [format!("u {any} default/s:53*1")]);
    assert_eq!(entries[2], [format!("t {named} default/s:80*1")]);
    let report = |kind, name: &str| &reports[&(kind, ObjectName::new("default", name))];
    assert!(reports.values().all(|report| report.parents.iter().all(|parent| parent.accepted.is_ok())), "{reports:?}");
    assert_eq!(report(RouteKind::Tcp, "z-old").resolved.as_ref().unwrap_err().reason, "BackendNotFound");
    assert!(report(RouteKind::Udp, "u").resolved.is_ok());
}

#[test]
fn what_cannot_be_obeyed_is_said() {
    let fault = |kind: &str, backends: Value| {
        let (_, reports) = compile(json!([route(kind, "r", "2026-01-01T00:00:00Z", to(backends))]));
        reports.values().next().unwrap().resolved.as_ref().unwrap_err().reason
    };
    // A port of the other protocol is none.
    assert_eq!(fault("TCPRoute", json!([{"name": "s", "port": 53}])), "BackendNotFound");
    assert_eq!(fault("UDPRoute", json!([{"name": "s", "port": 80}])), "BackendNotFound");
    assert_eq!(fault("TCPRoute", json!([{"name": "s", "port": 80, "kind": "Bucket"}])), "InvalidKind");
    assert_eq!(fault("UDPRoute", json!([{"name": "s", "port": 53, "namespace": "other"}])), "RefNotPermitted");
    let (_, reports) = compile(json!([route("TCPRoute", "r", "2026-01-01T00:00:00Z", json!({"rules": []}))]));
    let report = reports.values().next().unwrap();
    assert_eq!(report.parents[0].accepted.as_ref().unwrap_err().reason, "UnsupportedValue");
    let mut two = to(json!([{"name": "s", "port": 80}]));
    two["rules"] = json!([two["rules"][0], two["rules"][0]]);
    let (_, reports) = compile(json!([route("TCPRoute", "r", "2026-01-01T00:00:00Z", two)]));
    let report = reports.values().next().unwrap();
    assert!(report.parents[0].accepted.is_ok());
    assert_eq!(report.partial.as_ref().unwrap().reason, "UnsupportedValue");
}
