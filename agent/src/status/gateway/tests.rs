//! Objects as people write them -> the conditions that the conformance suite looks for.
#![expect(clippy::needless_pass_by_value, reason = "objects are written where they are used")]
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::model::{self, fixture};

mod addresses;
mod any;
mod routes;

const T0: &str = "2026-11-21T12:00:00Z";
const T1: &str = "2026-11-21T12:30:00Z";

fn known() -> Bundle {
    Bundle::Version("v1.7.0".to_owned())
}

fn gateway(listeners: Value) -> Value {
    json!({"kind": "Gateway", "metadata": {"name": "gw", "uid": "u-gw", "generation": 3},
        "spec": {"gatewayClassName": "sluice", "listeners": listeners}})
}

fn http(name: &str, more: Value) -> Value {
    with(json!({"name": name, "port": 80, "protocol": "HTTP"}), more)
}

fn with(mut object: Value, more: Value) -> Value {
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

fn service() -> Value {
    json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"name": "http", "port": 80}]}})
}

fn route(name: &str, spec: Value) -> Value {
    let spec =
        with(json!({"parentRefs": [{"name": "gw"}], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}), spec);
    json!({"kind": "HTTPRoute", "metadata": {"name": name, "uid": format!("u-{name}"), "generation": 5}, "spec": spec})
}

/// A world that status is written to.
struct World {
    snapshot: Snapshot,
    pools: &'static [&'static str],
}

impl World {
    fn new(objects: Value) -> Self {
        Self { snapshot: fixture::snapshot(&objects), pools: &["192.0.2.0/24"] }
    }

    fn put(&mut self, object: Value) {
        fixture::add(&mut self.snapshot, &object).unwrap();
    }

    fn model(&self) -> Model {
        model::compile(&self.snapshot, &fixture::node(self.pools))
    }

    /// What would be written for the Gateway.
    fn gateway(&self, is_programmed: bool, now: &str) -> Option<GatewayStatus> {
        let nodes = if is_programmed { Ok(()) } else { Err(pending()) };
        gateway_status(&self.snapshot, &self.model(), &name("gw"), nodes, now)
    }

    fn route(&self, of: &str, now: &str) -> Option<RouteStatus> {
        route_status(self.snapshot.http_routes.get(&name(of))?.as_ref(), &self.model(), &name(of), now)
    }

    /// Writes the Gateway's status; returns it, which then is as it should be.
    fn write_gateway(&mut self, is_programmed: bool, now: &str) -> GatewayStatus {
        if let Some(status) = self.gateway(is_programmed, now) {
            let mut gateway = Gateway::clone(&self.snapshot.gateways[&name("gw")]);
            gateway.status = status;
            self.snapshot.gateways.insert(name("gw"), Arc::new(gateway));
        }
        assert_eq!(self.gateway(is_programmed, T1), None, "a second write");
        self.snapshot.gateways[&name("gw")].status.clone()
    }

    /// As [`Self::write_gateway`], for a route.
    fn write_route(&mut self, of: &str, now: &str) -> Vec<Value> {
        if let Some(status) = self.route(of, now) {
            let mut route = crate::api::HttpRoute::clone(&self.snapshot.http_routes[&name(of)]);
            route.status = status;
            self.snapshot.http_routes.insert(name(of), Arc::new(route));
        }
        assert_eq!(self.route(of, T1), None, "a second write");
        self.snapshot.http_routes[&name(of)].status.parents.clone()
    }
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

/// `Accepted=True/Accepted` and so on, all of one generation.
fn says(conditions: &[crate::api::condition::Condition], generation: i64) -> Vec<String> {
    for condition in conditions {
        assert_eq!(condition.observed_generation, Some(generation), "{condition:?}");
        assert!(condition.last_transition_time.is_some(), "{condition:?}");
    }
    conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

fn gateway_says(status: &GatewayStatus) -> Vec<String> {
    says(&status.conditions, 3)
}

fn listener_says(status: &GatewayStatus, at: usize) -> Vec<String> {
    says(&status.listeners[at].conditions, 3)
}

/// What the only entry says, as one of ours.
fn parent_says(parents: &[Value]) -> Vec<String> {
    let [parent] = parents else { panic!("{parents:?}") };
    let parent: RouteParentStatus = serde_json::from_value(parent.clone()).unwrap();
    assert_eq!(parent.controller_name, "sluice.dev/gateway");
    says(&parent.conditions, 5)
}

const GOOD_LISTENER: [&str; 4] = [
    "Accepted=True/Accepted",
    "Conflicted=False/NoConflicts",
    "ResolvedRefs=True/ResolvedRefs",
    "Programmed=True/Programmed",
];

#[test]
fn a_class_of_ours_is_accepted_and_no_other_is_touched() {
    let class = |controller: &str, more: Value| -> GatewayClass {
        let spec = with(json!({"controllerName": controller}), more);
        let waiting = json!([{"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "Waiting for controller",
            "lastTransitionTime": "1970-01-01T00:00:00Z"}, {"type": "example.com/Seen", "status": "True", "reason": "Seen"}]);
        serde_json::from_value(
            json!({"metadata": {"name": "edge", "generation": 2}, "spec": spec, "status": {"conditions": waiting}}),
        )
        .unwrap()
    };
    assert_eq!(class_status(&class("example.com/other", json!({})), &known(), T0), None);

    let mut ours = class("sluice.dev/gateway", json!({}));
    let status = class_status(&ours, &known(), T0).unwrap();
    assert_eq!(says(&status.conditions[..1], 2), ["Accepted=True/Accepted"]);
    assert_eq!(status.conditions[0].last_transition_time.as_deref(), Some(T0));
    let names: Vec<&str> = status.supported_features.iter().map(|feature| feature.name.as_str()).collect();
    assert!(names.is_sorted() && names.contains(&"HTTPRouteMethodMatching") && !names.contains(&"Mesh"), "{names:?}");
    assert_eq!(status.conditions[1], ours.status.conditions[1], "somebody else's");
    assert_eq!(says(&status.conditions[2..], 2), ["SupportedVersion=True/SupportedVersion"]);
    ours.status = status;
    assert_eq!(class_status(&ours, &known(), T1), None);
    assert_eq!(class_status(&ours, &Bundle::Unknown, T1), None, "what was said stays while nobody answers");
    ours.metadata.generation = 4;
    let bumped = class_status(&ours, &known(), T1).unwrap();
    assert_eq!(says(&bumped.conditions[..1], 4), ["Accepted=True/Accepted"]);
    assert_eq!(bumped.conditions[0].last_transition_time.as_deref(), Some(T0), "what it says has not changed");

    let verdict = |class: GatewayClass| {
        let object = with(serde_json::to_value(class).unwrap(), json!({"kind": "GatewayClass"}));
        let model = World::new(json!([object])).model();
        model.verdicts.get(&ObjectRef::new("GatewayClass", ObjectName::new("", "edge"))).map(|v| v.reason)
    };
    assert_eq!(verdict(ours), Some("Accepted"));
    assert_eq!(verdict(class("example.com/other", json!({}))), Some("ForeignController"));
    let odd = class("sluice.dev/gateway", json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": "c"}}));
    assert_eq!(
        says(&class_status(&odd, &known(), T0).unwrap().conditions[..1], 2),
        ["Accepted=False/InvalidParameters"]
    );
    assert_eq!(verdict(odd), Some("InvalidParameters"));
}

#[test]
fn a_gateway_is_programmed_once_its_nodes_say_so() {
    let mut world = World::new(json!([gateway(json!([http("web", json!({}))])), service(), route("r", json!({}))]));
    let status = world.write_gateway(false, T0);
    assert_eq!(gateway_says(&status), ["Accepted=True/Accepted", "Programmed=False/Pending"]);
    assert_eq!(listener_says(&status, 0)[3], "Programmed=False/Pending");
    assert_eq!(status.addresses, [], "not before it is programmed");

    let status = world.write_gateway(true, T1);
    assert_eq!(gateway_says(&status), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    let times: Vec<_> = status.conditions.iter().map(|c| c.last_transition_time.as_deref().unwrap()).collect();
    assert_eq!(times, [T0, T1], "the time of the last change of each");
    let [web] = &status.listeners[..] else { panic!("{status:?}") };
    assert_eq!((web.name.as_str(), web.attached_routes), ("web", 1));
    assert_eq!(
        serde_json::to_value(&web.supported_kinds).unwrap(),
        json!([{"group": GROUP, "kind": "HTTPRoute"}, {"group": GROUP, "kind": "GRPCRoute"}])
    );
    assert_eq!(listener_says(&status, 0), GOOD_LISTENER);
    let addresses = serde_json::to_value(&status.addresses).unwrap();
    assert_eq!(addresses, json!([{"type": "IPAddress", "value": "192.0.2.1"}]));

    let status = world.write_gateway(false, T1);
    assert_eq!(gateway_says(&status)[1], "Programmed=False/Pending");
    assert_eq!(status.addresses.len(), 1, "an address that the Gateway has is not taken back");

    let parents = world.write_route("r", T0);
    assert_eq!(parent_says(&parents), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);
    let parent = json!({"group": GROUP, "kind": "Gateway", "name": "gw"});
    assert_eq!(parents[0]["parentRef"], parent, "as the API server stores it");
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let foreign = |class: &str, objects: Value| {
        let mut gateway = gateway(json!([http("web", json!({}))]));
        gateway["spec"]["gatewayClassName"] = json!(class);
        let mut world = World::new(json!([gateway, service(), route("r", json!({}))]));
        objects.as_array().unwrap().iter().for_each(|o| world.put(o.clone()));
        (world.gateway(true, T0).is_some(), world.route("r", T0).is_some())
    };
    let class = |name: &str, controller: &str| json!([{"kind": "GatewayClass", "metadata": {"name": name}, "spec": {"controllerName": controller}}]);
    assert_eq!(foreign("other", json!([])), (false, false), "an unknown class");
    assert_eq!(foreign("other", class("other", "example.com/other")), (false, false));
    assert_eq!(foreign("sluice", class("sluice", "example.com/other")), (false, false));
    assert_eq!(foreign("sluice", json!([])), (true, true));
    assert_eq!(foreign("edge", class("edge", "sluice.dev/gateway")), (true, true));

    let mut elsewhere = World::new(json!([route("r", json!({"parentRefs": [{"name": "nowhere"}]}))]));
    assert_eq!(elsewhere.route("r", T0), None, "nobody knows whose that is");
    elsewhere.put(route("r", json!({"parentRefs": [{"group": "", "kind": "Other", "name": "s"}]})));
    assert_eq!(elsewhere.route("r", T0), None);
}

#[test]
fn a_protocol_that_is_not_served_is_refused_listener_by_listener() {
    let odd = json!({"name": "odd", "port": 90, "protocol": "example.com/odd"});
    let refused = [
        "Accepted=False/UnsupportedProtocol",
        "Conflicted=False/NoConflicts",
        "ResolvedRefs=True/ResolvedRefs",
        "Programmed=False/Invalid",
    ];
    let status = World::new(json!([gateway(json!([odd]))])).write_gateway(true, T0);
    assert_eq!(gateway_says(&status), ["Accepted=False/ListenersNotValid", "Programmed=False/Invalid"]);
    assert_eq!(listener_says(&status, 0), refused);
    let json = serde_json::to_value(&status.listeners[0]).unwrap();
    assert_eq!(json["supportedKinds"], json!([]), "there, and empty");

    let status = World::new(json!([gateway(json!([http("web", json!({})), odd]))])).write_gateway(true, T0);
    assert_eq!(gateway_says(&status), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    assert_eq!(listener_says(&status, 0), GOOD_LISTENER);
    assert_eq!(listener_says(&status, 1), refused);
}

#[test]
fn kinds_of_routes_that_nobody_knows_are_not_listed() {
    let kinds = |kinds: Value| http("web", json!({"allowedRoutes": {"kinds": kinds}}));
    let odd = json!({"kind": "Odd"});
    let status = World::new(json!([gateway(json!([kinds(json!([odd]))]))])).write_gateway(true, T0);
    assert_eq!(listener_says(&status, 0)[2..], ["ResolvedRefs=False/InvalidRouteKinds", "Programmed=False/Invalid"]);
    assert_eq!(status.listeners[0].supported_kinds, []);

    let both = json!([odd, {"kind": "HTTPRoute"}]);
    let status = World::new(json!([gateway(json!([kinds(both)]))])).write_gateway(true, T0);
    assert_eq!(listener_says(&status, 0)[2..], ["ResolvedRefs=False/InvalidRouteKinds", "Programmed=True/Programmed"]);
    assert_eq!(status.listeners[0].supported_kinds.len(), 1);
}

#[test]
fn of_listeners_in_conflict_none_wins() {
    let clash = json!([
        http("a", json!({"hostname": "x.example.com"})),
        http("b", json!({"hostname": "X.example.com"})),
        http("c", json!({"hostname": "y.example.com"})),
    ]);
    let status = World::new(json!([gateway(clash)])).write_gateway(true, T0);
    assert_eq!(gateway_says(&status)[0], "Accepted=True/ListenersNotValid");
    for at in [0, 1] {
        let want = [
            "Accepted=False/HostnameConflict",
            "Conflicted=True/HostnameConflict",
            "ResolvedRefs=True/ResolvedRefs",
            "Programmed=False/HostnameConflict",
        ];
        assert_eq!(listener_says(&status, at), want);
    }
    assert_eq!(listener_says(&status, 2), GOOD_LISTENER);
    let mixed = json!([http("a", json!({})), {"name": "b", "port": 80, "protocol": "TCP"}]);
    let status = World::new(json!([gateway(mixed)])).write_gateway(true, T0);
    assert_eq!(listener_says(&status, 0)[..2], ["Accepted=False/ProtocolConflict", "Conflicted=True/ProtocolConflict"]);
    assert_eq!(listener_says(&status, 1)[1], "Conflicted=True/ProtocolConflict");
}

#[test]
fn an_address_that_cannot_be_had_is_not_the_gateways_fault() {
    let asking = |address: Value| {
        let mut gateway = gateway(json!([http("web", json!({}))]));
        gateway["spec"]["addresses"] = json!([address]);
        gateway
    };
    let mut world = World::new(json!([asking(json!({"type": "Hostname", "value": "lb.example.com"}))]));
    assert_eq!(
        gateway_says(&world.write_gateway(true, T0)),
        ["Accepted=False/UnsupportedAddress", "Programmed=False/Invalid"]
    );

    let mut first = with(gateway(json!([http("web", json!({}))])), json!({}));
    first["metadata"] = json!({"name": "first", "creationTimestamp": "2026-01-01T00:00:00Z"});
    let mut second = asking(json!({"type": "IPAddress", "value": "192.0.2.1"}));
    second["metadata"]["creationTimestamp"] = json!("2026-02-01T00:00:00Z");
    second["metadata"]["namespace"] = json!("default");
    first["spec"]["addresses"] = json!([{"value": "192.0.2.1"}]);
    world = World::new(json!([first, second]));
    let status = world.write_gateway(true, T0);
    assert_eq!(gateway_says(&status), ["Accepted=True/Accepted", "Programmed=False/AddressNotUsable"]);
    assert_eq!(listener_says(&status, 0)[3], "Programmed=False/Pending");
    assert_eq!(status.addresses, []);

    world = World::new(json!([gateway(json!([http("web", json!({}))]))]));
    world.pools = &[];
    let status = world.write_gateway(true, T0);
    assert_eq!(gateway_says(&status), ["Accepted=True/Accepted", "Programmed=False/AddressNotAssigned"]);
    assert!(!status.conditions[1].message.is_empty());
    world.pools = &["192.0.2.0/24"];
    assert_eq!(gateway_says(&world.write_gateway(true, T1))[1], "Programmed=True/Programmed");

    let mut odd = gateway(json!([http("web", json!({}))]));
    odd["spec"]["infrastructure"] = json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": "c"}});
    assert_eq!(gateway_says(&World::new(json!([odd])).write_gateway(true, T0))[0], "Accepted=False/InvalidParameters");
    let mut odd = gateway(json!([http("web", json!({}))]));
    odd["metadata"]["annotations"] = json!({"proxy.sluice.dev/max-request": "1", "proxy.sluice.dev/underscores": "no"});
    let status = World::new(json!([odd])).write_gateway(true, T0);
    let says =
        ["Accepted=True/Accepted", "Programmed=True/Programmed", "sluice.dev/InvalidParameters=True/InvalidParameters"];
    assert_eq!(gateway_says(&status), says, "a typo takes no Gateway down");
    let message = &status.conditions[2].message;
    assert_eq!(*message, status.conditions[0].message);
    assert!(message.contains("did you mean proxy.sluice.dev/max-requests?") && message.contains("; "), "{message}");
    assert_eq!(
        gateway_says(&World::new(json!([gateway(json!([]))])).write_gateway(true, T0))[0],
        "Accepted=False/ListenersNotValid"
    );
}

#[test]
fn a_route_that_goes_is_not_counted_any_more() {
    let mut world = World::new(json!([
        gateway(json!([http("web", json!({})), http("alt", json!({"port": 8080}))])),
        service(),
        route("r", json!({"parentRefs": [{"name": "gw", "sectionName": "web"}, {"name": "gw", "port": 80}]})),
        route("q", json!({}))
    ]));
    let counts = |status: GatewayStatus| status.listeners.iter().map(|l| l.attached_routes).collect::<Vec<_>>();
    assert_eq!(counts(world.write_gateway(true, T0)), [2, 1], "one that names a listener twice counts once");
    world.snapshot.http_routes.remove(&name("q"));
    assert_eq!(counts(world.write_gateway(true, T0)), [1, 0]);
    world.snapshot.http_routes.remove(&name("r"));
    assert_eq!(counts(world.write_gateway(true, T0)), [0, 0]);
}

#[test]
fn foreign_conditions_stay_and_listeners_are_those_of_the_spec() {
    let theirs = json!({"type": "example.com/Scanned", "status": "True", "reason": "Clean", "message": "m",
        "observedGeneration": 1, "lastTransitionTime": "2020-01-01T00:00:00Z"});
    let unknown = json!({"type": "Accepted", "status": "Unknown", "reason": "Pending", "lastTransitionTime": "1970-01-01T00:00:00Z"});
    let mut object = gateway(json!([http("web", json!({})), http("new", json!({"port": 81}))]));
    object["status"] = json!({"conditions": [theirs, unknown], "listeners": [
        {"name": "old", "attachedRoutes": 7, "conditions": []},
        {"name": "web", "supportedKinds": null, "attachedRoutes": 0, "conditions": [theirs]}
    ]});
    let status = World::new(json!([object])).write_gateway(true, T0);
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!((&json["conditions"][0], &json["listeners"][0]["conditions"][0]), (&theirs, &theirs));
    assert_eq!(says(&status.conditions[1..], 3), ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
    assert_eq!(status.listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["web", "new"]);
    assert_eq!(says(&status.listeners[0].conditions[1..], 3), GOOD_LISTENER);
}

#[test]
fn a_report_on_another_object_of_the_same_name_is_not_written() {
    let mut world = World::new(json!([gateway(json!([http("web", json!({}))])), service(), route("r", json!({}))]));
    let model = world.model();
    let (mut again, mut newer) = (gateway(json!([])), route("r", json!({})));
    (again["metadata"]["uid"], newer["metadata"]["generation"]) = (json!("another"), json!(6));
    world.put(again);
    world.put(newer);
    assert_eq!(gateway_status(&world.snapshot, &model, &name("gw"), Ok(()), T0), None);
    let status = route_status(world.snapshot.http_routes[&name("r")].as_ref(), &model, &name("r"), T0).unwrap();
    assert_eq!(status.parents[0]["conditions"][0]["observedGeneration"], 5, "what was looked at, not what there is");

    let mut leaving = gateway(json!([http("web", json!({}))]));
    leaving["metadata"]["deletionTimestamp"] = json!(T0);
    world.put(leaving);
    assert_eq!(world.gateway(true, T0), None);
}

#[test]
fn b8_a_gateway_whose_address_another_host_has_is_not_programmed_and_says_so() {
    let said = "192.0.2.1: another host (02:00:00:00:00:09) has the address".to_owned();
    let world = World::new(json!([gateway(json!([http("http", json!({}))]))]));
    let status =
        gateway_status(&world.snapshot, &world.model(), &name("gw"), Err(contested(std::slice::from_ref(&said))), T0);
    let status = status.unwrap();
    let programmed = status.conditions.iter().find(|c| c.type_ == "Programmed").unwrap();
    assert_eq!((programmed.status.as_str(), programmed.reason.as_str()), ("False", "AddressNotUsable"));
    assert_eq!(programmed.message, said);
    assert!(status.addresses.is_empty(), "{:?}", status.addresses);
}
