//! What is written for a Gateway's `spec.infrastructure`.
use super::*;
use crate::{
    model::{self, Node, fixture::snapshot},
    status::write::Verb,
};

fn gateway(name: &str, infrastructure: Value) -> Value {
    json!({"kind": "Gateway", "metadata": {"name": name, "uid": "g-1"}, "spec": {"gatewayClassName": "sluice",
        "infrastructure": infrastructure, "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}]}})
}

fn planned(objects: Vec<Value>) -> Vec<Write> {
    let snapshot = snapshot(&Value::Array(objects));
    plan(&snapshot, &model::compile(&snapshot, &Node::alone("n")))
}

/// The object that a create makes, as the API server has it.
fn made(write: &Write) -> Value {
    let mut object = write.body.clone();
    object["metadata"]["resourceVersion"] = json!("7");
    object["metadata"]["uid"] = json!("s-1");
    object
}

fn asked() -> Value {
    json!({"labels": {"team": "shop"}, "annotations": {"cost/centre": "7"}})
}

#[test]
fn a_gateway_with_labels_gets_a_service_that_nothing_programs() {
    let writes = planned(vec![gateway("edge", asked())]);
    let [write] = writes.as_slice() else { panic!("{writes:?}") };
    assert_eq!((write.verb, write.path.as_str()), (Verb::Create, "/api/v1/namespaces/default/services"));
    let body = &write.body;
    assert_eq!(body["metadata"]["name"], "sluice-edge");
    assert_eq!(body["metadata"]["labels"], json!({"team": "shop", GATEWAY_LABEL: "edge", MANAGED_LABEL: "true"}));
    assert_eq!(body["metadata"]["annotations"]["cost/centre"], "7");
    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], "g-1");
    assert_eq!(body["spec"], json!({"type": "ClusterIP", "clusterIP": "None"}));
    // It is there now, and no load balancer.
    let objects = vec![gateway("edge", asked()), made(write)];
    assert_eq!(planned(objects.clone()), []);
    let snapshot = snapshot(&Value::Array(objects));
    assert_eq!(model::compile(&snapshot, &Node::alone("n")).chains.len(), 0);
}

#[test]
fn who_asks_for_nothing_gets_nothing() {
    assert_eq!(planned(vec![gateway("edge", json!({}))]), []);
    let mut foreign = gateway("edge", asked());
    foreign["spec"]["gatewayClassName"] = json!("other");
    assert_eq!(planned(vec![foreign]), []);
    let mut deleted = gateway("edge", asked());
    deleted["metadata"]["deletionTimestamp"] = json!("2026-11-27T00:00:00Z");
    assert_eq!(planned(vec![deleted]), []);
}

#[test]
fn what_is_wanted_no_more_is_taken_away_and_what_others_added_stays() {
    let mut there = made(&planned(vec![gateway("edge", asked())])[0]);
    there["metadata"]["labels"]["theirs"] = json!("1");
    there["metadata"]["annotations"]["theirs"] = json!("1");
    assert_eq!(planned(vec![gateway("edge", asked()), there.clone()]), []);
    let writes = planned(vec![gateway("edge", json!({"labels": {"tier": "front"}})), there.clone()]);
    let [write] = writes.as_slice() else { panic!("{writes:?}") };
    assert_eq!((write.verb, write.path.as_str()), (Verb::Patch, "/api/v1/namespaces/default/services/sluice-edge"));
    let metadata = &write.body["metadata"];
    assert_eq!(metadata["labels"], json!({"tier": "front", "team": null}));
    assert_eq!(metadata["annotations"]["cost/centre"], Value::Null);
    assert!(metadata["annotations"].get("theirs").is_none() && write.body.get("spec").is_none());
    assert_eq!((&metadata["uid"], &metadata["resourceVersion"]), (&json!("s-1"), &json!("7")));
    // Somebody has changed what is ours: it is put right.
    there["metadata"]["labels"]["team"] = json!("mine");
    let writes = planned(vec![gateway("edge", asked()), there]);
    assert_eq!(writes[0].body["metadata"]["labels"], json!({"team": "shop"}));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let mut there = made(&planned(vec![gateway("edge", asked())])[0]);
    let changed = json!({"labels": {"tier": "front"}});
    there["metadata"]["ownerReferences"][0]["uid"] = json!("of-an-earlier-gateway");
    assert_eq!(planned(vec![gateway("edge", changed.clone()), there.clone()]), []);
    there["metadata"]["ownerReferences"][0]["uid"] = json!("g-1");
    there["metadata"]["labels"][MANAGED_LABEL] = json!("false");
    assert_eq!(planned(vec![gateway("edge", changed), there]), []);
}

#[test]
fn our_labels_win_and_names_are_bounded() {
    let write = |name: &str| {
        let labels = json!({"labels": {GATEWAY_LABEL: "forged", MANAGED_LABEL: "no"}, "annotations": {APPLIED: "x"}});
        planned(vec![gateway(name, labels)]).remove(0).body["metadata"].clone()
    };
    let metadata = write("edge");
    assert_eq!(metadata["labels"], json!({GATEWAY_LABEL: "edge", MANAGED_LABEL: "true"}));
    assert_ne!(metadata["annotations"][APPLIED], "x");
    let mut names = BTreeSet::new();
    let long = "a.".repeat(126) + "a";
    for name in [long.as_str(), &(long[..252].to_owned() + "b"), "1.edge", "1-edge", &"x".repeat(63), &"x".repeat(56)] {
        let metadata = write(name);
        for value in [&metadata["name"], &metadata["labels"][GATEWAY_LABEL]] {
            let value = value.as_str().unwrap();
            assert!(value.len() <= NAME_LIMIT && value.ends_with(|c: char| c.is_ascii_alphanumeric()), "{value}");
        }
        let service = metadata["name"].as_str().unwrap().to_owned();
        assert!(service.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{service}");
        assert!(names.insert(service), "{name}: each has its own");
    }
    assert!(names.contains(&format!("{PREFIX}{}", "x".repeat(56))));
}
