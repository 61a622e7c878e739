//! Services that ask for a Route -> the Route, and what is said of it.
use std::sync::Arc;

use super::{super::write::Verb, *};
use crate::{
    config::route_hosts::RouteHosts,
    membership::{Members, Revisions},
    model::{
        self,
        fixture::{node, snapshot},
    },
    status::version::Bundle,
};

fn service(annotation: &str, ports: &Value) -> Value {
    json!({"kind": "Service", "metadata": {"name": "front", "uid": "u", "annotations": {HOST: annotation}},
        "spec": {"type": "LoadBalancer", "ports": ports}})
}

/// Everybody may ask for everything below `example`, and for what the cluster gives.
fn allowed() -> RouteHosts {
    RouteHosts(["*/*.example", "*/auto"].map(|entry| entry.parse().unwrap()).into())
}

fn plan_of(snapshot: &Snapshot, model: &Model, route_hosts: &RouteHosts) -> Vec<Write> {
    plan(
        snapshot,
        &View {
            model,
            members: &Members::default(),
            revisions: &Revisions::default(),
            route_hosts,
            bundle: &Bundle::Unknown,
        },
    )
}

fn state_of(snapshot: &Snapshot, model: &Model, route_hosts: &RouteHosts) -> Option<Wanted> {
    let (members, revisions) = (Members::default(), Revisions::default());
    let view = View { model, members: &members, revisions: &revisions, route_hosts, bundle: &Bundle::Unknown };
    routed(snapshot.services.values().next().unwrap(), snapshot, &view)
}

fn compile(service: &Value) -> (Snapshot, Model) {
    let snapshot = snapshot(&json!([service]));
    let model = model::compile(&snapshot, &node(&["192.0.2.0/24"]));
    (snapshot, model)
}

/// The Route that is created for a Service with these ports: port and TLS.
fn made(ports: &Value) -> (Value, Value) {
    let (snapshot, model) = compile(&service("auto", ports));
    let writes = plan_of(&snapshot, &model, &allowed());
    let [write] = writes.as_slice() else { panic!("{writes:?}") };
    assert_eq!((write.verb, write.object.to_string().as_str()), (Verb::Create, "Route default/sluice-front"));
    assert_eq!(write.body["spec"]["host"], Value::Null, "the cluster chooses");
    (write.body["spec"]["port"]["targetPort"].clone(), write.body["spec"]["tls"]["termination"].clone())
}

#[test]
fn the_port_is_one_that_a_router_can_speak_to() {
    let port = |name: &str, port: i64| json!({"name": name, "port": port});
    let (status, http, https) = (port("status-port", 15021), port("http", 80), port("https", 443));
    assert_eq!(made(&json!([http])), (json!("http"), Value::Null));
    assert_eq!(made(&json!([status, http])), (json!("http"), Value::Null));
    assert_eq!(made(&json!([status, http, https])), (json!("https"), json!("passthrough")));
    assert_eq!(made(&json!([port("sql", 5432), port("web", 9000)])), (json!("web"), Value::Null));
    assert_eq!(made(&json!([port("sql", 5432), port("more", 5433)])), (json!("sql"), Value::Null));
    assert_eq!(made(&json!([{"port": 80}])), (Value::Null, Value::Null));
}

#[test]
fn a_port_of_the_gateway_comes_first() {
    let gateway = json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
        "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}});
    let mut front = service("auto", &json!([{"name": "https", "port": 443}, {"name": "http", "port": 80}]));
    front["metadata"]["labels"] = json!({"gateway.networking.k8s.io/gateway-name": "gw"});
    let snapshot = snapshot(&json!([gateway, front]));
    let model = model::compile(&snapshot, &node(&["192.0.2.0/24"]));
    assert_eq!(plan_of(&snapshot, &model, &allowed())[0].body["spec"]["port"]["targetPort"], "http");
}

#[test]
fn a_route_follows_its_service_and_that_of_another_is_left_alone() {
    let http = json!([{"name": "http", "port": 80}]);
    let (mut with, model) = compile(&service("a.example", &http));
    let [create] = <[Write; 1]>::try_from(plan_of(&with, &model, &allowed())).unwrap();
    let mut route: OpenShiftRoute = serde_json::from_value(create.body).unwrap();
    assert_eq!(route.spec.host, "a.example");
    let name = route.metadata.object_name();
    let put = |snapshot: &mut Snapshot, route: &OpenShiftRoute| {
        snapshot.openshift_routes.insert(name.clone(), Arc::new(route.clone()));
    };
    put(&mut with, &route);
    assert_eq!(plan_of(&with, &model, &allowed()), vec![]);
    let state =
        |snapshot: &Snapshot, model: &Model| state_of(snapshot, model, &allowed()).map(|w| (w.status, w.reason));
    assert_eq!(state(&with, &model), Some((true, "Routed")));

    // Another host, somebody's hand on it, another port.
    route.spec.host = "b.example".to_owned();
    put(&mut with, &route);
    assert_eq!(plan_of(&with, &model, &allowed())[0].body["spec"]["host"], "a.example");
    let (mut other, changed) = compile(&service("auto", &json!([{"name": "https", "port": 443}])));
    put(&mut other, &route);
    let [patch] = <[Write; 1]>::try_from(plan_of(&other, &changed, &allowed())).unwrap();
    assert_eq!((patch.verb, &patch.body["spec"]["host"]), (Verb::Patch, &Value::Null));
    assert_eq!(patch.body["spec"]["tls"]["termination"], "passthrough");

    // It asks no more.
    let (mut without, model_without) = compile(&service("", &http));
    put(&mut without, &route);
    assert_eq!(plan_of(&without, &model_without, &allowed())[0].verb, Verb::Delete);
    assert_eq!(state(&without, &model_without), None);

    // One of the same name that is another's.
    route.metadata.labels.clear();
    put(&mut with, &route);
    put(&mut without, &route);
    assert_eq!((plan_of(&with, &model, &allowed()), plan_of(&without, &model_without, &allowed())), (vec![], vec![]));
    assert_eq!(state(&with, &model), Some((false, "NameTaken")));
}

#[test]
fn where_there_are_no_routes_none_is_written_and_it_is_said() {
    let (mut snapshot, model) = compile(&service("auto", &json!([{"name": "http", "port": 80}])));
    for (off, reason) in [(Off::Absent, "NoRouteApi"), (Off::Forbidden, "Forbidden"), (Off::Unread, "Unread")] {
        snapshot.off.insert("routes.route.openshift.io".to_owned(), off);
        assert_eq!(plan_of(&snapshot, &model, &allowed()), vec![]);
        let said = state_of(&snapshot, &model, &allowed()).unwrap();
        assert_eq!((said.status, said.reason), (false, reason));
    }
}

/// F11 of issue 8: whoever edits a Service would have the leader make a Route for any host.
#[test]
fn a_host_that_is_not_allowed_gets_no_route_and_loses_the_one_that_it_had() {
    let (mut snapshot, model) = compile(&service("a.example", &json!([{"name": "http", "port": 80}])));
    let [create] = <[Write; 1]>::try_from(plan_of(&snapshot, &model, &allowed())).unwrap();
    let elsewhere = RouteHosts(vec!["other/*.example".parse().unwrap(), "default/b.example".parse().unwrap()]);
    for hosts in [RouteHosts::default(), elsewhere] {
        assert_eq!(plan_of(&snapshot, &model, &hosts), vec![], "{hosts:?}");
        let said = state_of(&snapshot, &model, &hosts).unwrap();
        assert_eq!((said.status, said.reason), (false, "HostNotAllowed"));
        assert!(said.message.contains("want default/a.example in --route-hosts"), "{}", said.message);
    }
    let route: OpenShiftRoute = serde_json::from_value(create.body).unwrap();
    snapshot.openshift_routes.insert(route.metadata.object_name(), Arc::new(route));
    assert_eq!(plan_of(&snapshot, &model, &allowed()), vec![]);
    assert_eq!(plan_of(&snapshot, &model, &RouteHosts::default())[0].verb, Verb::Delete);
}
