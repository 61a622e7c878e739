//! What one kind's reflector tells, of an API server that answers in several ways.
use serde_json::{Value, json};

use super::{
    super::{
        fake::{Answer, Server, event, listed, status},
        served::served,
    },
    *,
};
use crate::api::{Gateway, Node};

fn place<T: Kind>(objects: fn(&mut Snapshot) -> &mut SharedMap<T::Key, Arc<T>>) -> Place<T, Snapshot> {
    Place { objects, seen: None, namespace: None, counts_agents: true }
}

/// As [`follow`], with looks for what is absent.
async fn following<T: Kind>(
    server: Server,
    place: Place<T, Snapshot>,
    agents: Agents,
    steps: mpsc::Sender<Step<Snapshot>>,
) where
    T::Key: Display,
{
    let (served, looks) = served(server.client(), Pace::hurried(agents.clone()));
    tokio::join!(follow(server.client(), place, agents, served, steps), looks);
}

fn node(name: &str, revision: u64, ready: &str) -> Value {
    let metadata = json!({"name": name, "resourceVersion": revision.to_string()});
    let condition = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": revision.to_string()});
    json!({"metadata": metadata, "status": {"conditions": [condition]}})
}

#[tokio::test]
async fn the_heartbeats_of_5000_nodes_are_no_steps() {
    let all = (0..5000).map(|n| event("ADDED", &node(&n.to_string(), 1, "True")));
    let renewed = (0..5000).map(|n| event("MODIFIED", &node(&n.to_string(), 10 + n, "True")));
    let last = event("MODIFIED", &node("7", 9000, "False"));
    let server = Server::new([Answer::Forgotten(all.chain([listed(9)]).chain(renewed).chain([last]).collect())]);
    let (steps, mut inbox) = mpsc::channel(16);
    let agents = Agents::default();
    let task = tokio::spawn(following(server.clone(), place::<Node>(|s| &mut s.nodes), agents.clone(), steps));
    let mut snapshot = Snapshot::default();
    for wanted in ["synced", "changed"] {
        let step = inbox.recv().await.unwrap();
        assert_eq!(step.resource, "nodes");
        match step.what {
            What::Synced(change) if wanted == "synced" => change(&mut snapshot),
            What::Change(change) if wanted == "changed" => change(&mut snapshot),
            _ => panic!("something else than {wanted}"),
        }
    }
    assert_eq!(snapshot.nodes.len(), 5000);
    assert_eq!(snapshot.nodes["7"].status.conditions[0].status, "False");
    assert!(agents.start() <= Duration::from_secs(10) && inbox.try_recv().is_err());
    task.abort();
}

/// The first three things that are told.
async fn told(inbox: &mut mpsc::Receiver<Step<Snapshot>>) -> [&'static str; 3] {
    let mut told = ["nothing"; 3];
    for one in &mut told {
        *one = match inbox.recv().await.unwrap().what {
            What::Synced(_) => "synced",
            What::Forbidden(_) => "forbidden",
            What::Trouble(_) => "trouble",
            _ => "something else",
        };
    }
    told
}

#[tokio::test]
async fn a_kind_that_may_be_read_again_is_read_whole() {
    let refused = || status(403, "Forbidden", "nodes is forbidden", "");
    let all = || vec![event("ADDED", &node("a", 1, "True")), listed(9)];
    let server =
        Server::new([Answer::Watch([all(), vec![event("ERROR", &refused())]].concat()), Answer::Forgotten(all())]);
    let (steps, mut inbox) = mpsc::channel(16);
    let task = tokio::spawn(following(server.clone(), place::<Node>(|s| &mut s.nodes), Agents::default(), steps));
    assert_eq!(told(&mut inbox).await, ["synced", "forbidden", "synced"]);
    assert_eq!(server.asked_for("resourceVersion"), ["0", "9"]);
    task.abort();
}

#[tokio::test]
async fn a_kind_that_was_read_is_not_gone_when_a_server_does_not_know_it_at_once() {
    let gateway = json!({"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "3"}});
    let missing =
        || Answer::Document(404, status(404, "NotFound", "the server could not find the requested resource", ""));
    let server = Server::new([
        Answer::Watch(vec![event("ADDED", &gateway), listed(9), event("ERROR", &status(410, "Expired", "old", ""))]),
        missing(),
        Answer::Forgotten(vec![event("ADDED", &gateway), listed(12)]),
    ]);
    let (steps, mut inbox) = mpsc::channel(16);
    let task = tokio::spawn(following(server.clone(), place::<Gateway>(|s| &mut s.gateways), Agents::default(), steps));
    assert_eq!(told(&mut inbox).await, ["synced", "trouble", "synced"]);
    assert_eq!(server.asked_for("resourceVersion"), ["0", "9", "9"]);
    task.abort();
}

#[tokio::test]
async fn a_kind_that_the_cluster_does_not_have_is_asked_for_when_it_is_listed() {
    let missing =
        Answer::Document(404, status(404, "NotFound", "the server could not find the requested resource", ""));
    let listing = |resources: Value| {
        json!({"kind": "APIGroupDiscoveryList", "items": [{"metadata": {"name": "gateway.networking.k8s.io"},
            "versions": [{"version": "v1", "resources": resources}]}]})
    };
    let gateway = json!({"metadata": {"name": "web", "namespace": "shop", "resourceVersion": "3"}});
    let server = Server::new([
        missing,
        Answer::Document(200, listing(json!([]))),
        Answer::Document(200, listing(json!([{"resource": "httproutes"}]))),
        Answer::Document(200, listing(json!([{"resource": "gateways"}]))),
        Answer::Forgotten(vec![event("ADDED", &gateway), listed(12)]),
    ]);
    let (steps, mut inbox) = mpsc::channel(16);
    let place = place::<Gateway>(|s| &mut s.gateways);
    let task = tokio::spawn(following(server.clone(), place, Agents::default(), steps));
    let mut snapshot = Snapshot::default();
    for wanted in ["absent", "synced"] {
        match inbox.recv().await.unwrap().what {
            What::Absent(change) if wanted == "absent" => change(&mut snapshot),
            What::Synced(change) if wanted == "synced" => change(&mut snapshot),
            _ => panic!("something else than {wanted}"),
        }
    }
    assert_eq!(snapshot.gateways.len(), 1);
    assert_eq!(server.asked_for("resourceVersion"), ["0", "-", "-", "-", "0"], "three looks, and two lists");
    task.abort();
}
