use serde_json::{Value, json};

use super::*;
use crate::{
    api::BackendTlsPolicy,
    model::{self, fixture},
    source::Snapshot,
};

const CA: &str = include_str!("../../model/backend_tls/ca.pem");

fn policy(name: &str, refs: &Value, status: &Value) -> Value {
    json!({"kind": "BackendTLSPolicy", "metadata": {"name": name, "generation": 3}, "status": status, "spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "validation": {"caCertificateRefs": refs, "hostname": "web.example.com"}}})
}

fn snapshot(gateways: usize, policies: &[Value]) -> Snapshot {
    let mut all = vec![
        json!({"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 443}]}}),
        json!({"kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": CA}}),
    ];
    let parents: Vec<Value> = (0..gateways).map(|i| json!({"name": format!("g{i:02}")})).collect();
    all.extend(parents.iter().map(|parent| {
        json!({"kind": "Gateway", "metadata": {"name": parent["name"]}, "spec": {"gatewayClassName": "sluice",
            "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}})
    }));
    all.push(json!({"kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": {"parentRefs": parents,
        "rules": [{"backendRefs": [{"name": "web", "port": 443}]}]}}));
    all.extend(policies.iter().cloned());
    fixture::snapshot(&json!(all))
}

fn status(snapshot: &Snapshot, name: &str) -> Option<PolicyStatus> {
    let model = model::compile(snapshot, &fixture::node(&["192.0.2.0/24"]));
    let name = ObjectName::new("default", name);
    let policy: &BackendTlsPolicy = &snapshot.backend_tls_policies[&name];
    policy_status(policy, &model, &name, "T")
}

fn conditions(entry: &Value) -> Vec<(String, String, String, i64)> {
    let of = |c: &Value| {
        let text = |field: &str| c[field].as_str().unwrap().to_owned();
        (text("type"), text("status"), text("reason"), c["observedGeneration"].as_i64().unwrap())
    };
    entry["conditions"].as_array().unwrap().iter().map(of).collect()
}

fn said(type_: &str, status: &str, reason: &str) -> (String, String, String, i64) {
    (type_.to_owned(), status.to_owned(), reason.to_owned(), 3)
}

#[test]
fn each_gateway_answers_and_what_others_wrote_stays() {
    let foreign = json!({"ancestorRef": {"name": "g00", "extra": 1}, "controllerName": "example.com/other",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Mine", "message": "", "lastTransitionTime": "then"}]});
    let stale = json!({"ancestorRef": {"name": "gone"}, "controllerName": CONTROLLER, "conditions": []});
    let refs = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
    let before = snapshot(2, &[policy("p", &refs, &json!({"ancestors": [foreign, stale]}))]);
    let written = status(&before, "p").expect("a status");
    let [first, g00, g01] = written.ancestors.as_slice() else { panic!("{:?}", written.ancestors) };
    assert_eq!(*first, foreign, "as it was");
    for (entry, gateway) in [(g00, "g00"), (g01, "g01")] {
        let ancestor = json!({"group": GROUP, "kind": "Gateway", "namespace": "default", "name": gateway});
        assert_eq!((&entry["ancestorRef"], &entry["controllerName"]), (&ancestor, &json!(CONTROLLER)));
        let want = [said("Accepted", "True", "Accepted"), said("ResolvedRefs", "True", "ResolvedRefs")];
        assert_eq!(conditions(entry), want);
    }
    let after = snapshot(2, &[policy("p", &refs, &serde_json::to_value(&written).unwrap())]);
    assert_eq!(status(&after, "p"), None, "it is so already");
    // The route leaves one Gateway.
    let after = snapshot(1, &[policy("p", &refs, &serde_json::to_value(&written).unwrap())]);
    assert_eq!(status(&after, "p").unwrap().ancestors, [foreign.clone(), g00.clone()]);
}

#[test]
fn sixteen_entries_are_all_that_there_may_be() {
    let foreign = json!({"ancestorRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []});
    let refs = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
    let all = snapshot(20, &[policy("p", &refs, &json!({"ancestors": [foreign.clone(), foreign.clone()]}))]);
    let written = status(&all, "p").unwrap().ancestors;
    assert_eq!((written.len(), &written[..2]), (16, &[foreign.clone(), foreign][..]));
}

#[test]
fn references_that_are_bad_have_the_reasons_of_the_api() {
    for (refs, reason) in [
        (json!([{"group": "", "kind": "ConfigMap", "name": "none"}]), "InvalidCACertificateRef"),
        (json!([{"group": "", "kind": "Pod", "name": "ca"}]), "InvalidKind"),
        (json!([{"group": "x", "kind": "ConfigMap", "name": "ca"}]), "InvalidKind"),
    ] {
        let written = status(&snapshot(1, &[policy("p", &refs, &json!({}))]), "p").unwrap();
        let want = [said("Accepted", "False", "NoValidCACertificate"), said("ResolvedRefs", "False", reason)];
        assert_eq!(conditions(&written.ancestors[0]), want, "{refs}");
    }
    // One that is good is enough to go on with, and the other is told.
    let refs =
        json!([{"group": "", "kind": "ConfigMap", "name": "ca"}, {"group": "", "kind": "ConfigMap", "name": "none"}]);
    let written = status(&snapshot(1, &[policy("p", &refs, &json!({}))]), "p").unwrap();
    let want = [said("Accepted", "True", "Accepted"), said("ResolvedRefs", "False", "InvalidCACertificateRef")];
    assert_eq!(conditions(&written.ancestors[0]), want);
}

#[test]
fn the_older_of_two_counts_and_the_other_is_in_conflict() {
    let refs = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
    let aged = |name: &str, at: &str| {
        let mut policy = policy(name, &refs, &json!({}));
        policy["metadata"]["creationTimestamp"] = json!(at);
        policy
    };
    let all = snapshot(1, &[aged("a", "2026-01-02T00:00:00Z"), aged("b", "2026-01-01T00:00:00Z")]);
    let of = |name| conditions(&status(&all, name).unwrap().ancestors[0])[0].clone();
    assert_eq!((of("b"), of("a")), (said("Accepted", "True", "Accepted"), said("Accepted", "False", "Conflicted")));
}
