//! What is asked while kinds are missing, and when who waits for one is told.
use serde_json::{Value, json};

use super::{
    super::{
        fake::{Answer, Server, status},
        pace::Agents,
    },
    *,
};
use crate::api::{Gateway, HttpRoute, OpenShiftRoute};

fn aggregated(resources: &[&str]) -> Value {
    let resources: Vec<Value> = resources.iter().map(|name| json!({"resource": name, "scope": "Namespaced"})).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": [
        {"metadata": {"name": "apps"}, "versions": [{"version": "v1", "resources": [{"resource": "gateways"}]}]},
        {"metadata": {"name": "gateway.networking.k8s.io", "creationTimestamp": null}, "versions": [
            {"version": "v1", "resources": resources, "freshness": "Current"},
            {"version": "v1beta1", "resources": [{"resource": "httproutes"}]},
        ]},
    ]})
}

fn quick() -> Pace {
    Pace::hurried(Agents::default())
}

#[tokio::test]
async fn one_look_serves_all_kinds_and_each_is_told_when_it_is_there() {
    let server = Server::new([
        Answer::Tagged("\"1\"", aggregated(&[])),
        Answer::Document(304, Value::Null),
        Answer::Document(503, status(503, "ServiceUnavailable", "no", "")),
        Answer::Tagged("\"2\"", aggregated(&["gateways"])),
        Answer::Document(304, Value::Null),
        Answer::Tagged("\"3\"", aggregated(&["gateways", "httproutes"])),
    ]);
    let (served, task) = served(server.client(), quick());
    let task = tokio::spawn(task);
    let (gateways, routes) = (served.clone(), served.clone());
    let both = async {
        tokio::join!(
            async {
                gateways.wait::<Gateway>().await;
                server.asked().len()
            },
            async {
                routes.wait::<HttpRoute>().await;
                server.asked().len()
            }
        )
    };
    tokio::select! {
        looks = both => assert_eq!(looks, (4, 6), "looks after which each was there"),
        () = served.wait::<OpenShiftRoute>() => panic!("nobody has Routes"),
    }
    assert_eq!(server.asked_if_not(), ["-", "\"1\"", "\"1\"", "\"1\"", "\"2\"", "\"2\""]);
    drop((served, gateways, routes));
    task.await.unwrap();
}

#[tokio::test]
async fn nothing_is_asked_while_no_kind_is_missing() {
    let server = Server::new([Answer::Document(200, aggregated(&["gateways"]))]);
    let (served, task) = served(server.client(), quick());
    let task = tokio::spawn(task);
    served.wait::<Gateway>().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.asked().len(), 1);
    drop(served);
    task.await.unwrap();
}

#[tokio::test]
async fn a_server_that_lists_groups_alone_or_nothing_has_who_waits_ask_himself() {
    let groups = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [
        {"name": "gateway.networking.k8s.io", "versions": [{"groupVersion": "gateway.networking.k8s.io/v1", "version": "v1"}]}]});
    for answer in [
        Answer::Document(200, groups),
        Answer::Document(403, status(403, "Forbidden", "no", "")),
        Answer::Document(200, json!("nonsense")),
    ] {
        let server = Server::new([answer]);
        let (served, task) = served(server.client(), quick());
        let task = tokio::spawn(task);
        served.wait::<Gateway>().await;
        task.abort();
    }
}
