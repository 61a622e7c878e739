//! Sets as people write them -> the conditions that the conformance suite looks for.
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Condition, Gateway},
    model::{self, fixture},
    status::gateway::gateway_status,
};

fn says(conditions: &[Condition]) -> Vec<String> {
    assert!(conditions.iter().all(|c| c.observed_generation == Some(7)), "{conditions:?}");
    conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

/// What a set with these listeners says, once its Gateway is programmed, and how many sets that one counts.
fn told(from: &str, listeners: &Value) -> (ListenerSetStatus, Option<i64>) {
    let mut snapshot = fixture::snapshot(&json!([
        {"kind": "Gateway", "metadata": {"name": "gw", "generation": 3}, "spec": {"gatewayClassName": "sluice",
            "allowedListeners": {"namespaces": {"from": from}},
            "listeners": [{"name": "web", "port": 80, "protocol": "HTTP", "hostname": "gw.example"}]}},
        {"kind": "ListenerSet", "metadata": {"name": "s", "namespace": "team", "generation": 7}, "spec": {
            "parentRef": {"name": "gw", "namespace": "default"}, "listeners": listeners}},
        {"kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "team"}, "spec": {
            "parentRefs": [{"kind": "ListenerSet", "name": "s"}]}},
    ]));
    let (gateway, set) = (ObjectName::new("default", "gw"), ObjectName::new("team", "s"));
    let model = model::compile(&snapshot, &fixture::node(&["192.0.2.0/24"]));
    let before = set_status(&snapshot.listener_sets[&set], &snapshot, &model, &set, "T").unwrap();
    assert!(before.conditions.iter().all(|c| c.type_ != "Programmed" || c.status == "False"), "{before:?}");
    let mut written = Gateway::clone(&snapshot.gateways[&gateway]);
    written.status = gateway_status(&snapshot, &model, &gateway, Ok(()), "T").unwrap();
    let attached = written.status.attached_listener_sets;
    assert_eq!(written.status.listeners.len(), 1, "exactly its own");
    snapshot.gateways.insert(gateway, Arc::new(written));
    let status = set_status(&snapshot.listener_sets[&set], &snapshot, &model, &set, "T").unwrap();
    let mut after = ListenerSet::clone(&snapshot.listener_sets[&set]);
    after.status = status.clone();
    assert_eq!(set_status(&after, &snapshot, &model, &set, "T2"), None, "a second write");
    (status, attached)
}

#[test]
fn a_set_and_each_of_its_listeners_say_what_became_of_them() {
    let good = json!({"name": "a", "port": 8080, "protocol": "HTTP"});
    let taken = json!({"name": "b", "port": 80, "protocol": "HTTP", "hostname": "gw.example"});
    let (status, attached) = told("All", &json!([good, taken]));
    assert_eq!(says(&status.conditions), ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"]);
    assert_eq!(attached, Some(1));
    let of = |i: usize| says(&status.listeners[i].conditions);
    assert_eq!(of(0)[0], "Accepted=True/Accepted");
    assert_eq!(of(0)[3], "Programmed=True/Programmed");
    assert_eq!(
        (of(1)[0].as_str(), of(1)[1].as_str()),
        ("Accepted=False/HostnameConflict", "Conflicted=True/HostnameConflict")
    );
    assert_eq!(of(1)[3], "Programmed=False/HostnameConflict");
    assert_eq!(status.listeners.iter().map(|l| l.attached_routes).collect::<Vec<_>>(), [1, 1]);

    let (status, attached) = told("All", &json!([taken]));
    assert_eq!(says(&status.conditions), ["Accepted=False/ListenersNotValid", "Programmed=False/ListenersNotValid"]);
    assert_eq!(attached, Some(0));

    let (status, attached) = told("Same", &json!([good]));
    assert_eq!(says(&status.conditions), ["Accepted=False/NotAllowed", "Programmed=False/NotAllowed"]);
    assert_eq!((attached, status.listeners.len()), (Some(0), 0));
}
