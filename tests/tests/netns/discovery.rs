//! The discovery API on the sockets of a real agent: who is behind a Service, since when, and how to follow it.
use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use serde_json::{Value, json};
use sluice_tests::netns::{
    AgentSpec, Datapath, Scene, eventually,
    manifest::{Slice, cluster_service},
};

/// How long a change may take to show.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    /// The value of a header.
    fn header(&self, name: &str) -> &str {
        let found = self.head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }
}

fn ask(mut stream: impl Read + Write, method: &str, path: &str, headers: &str) -> Answer {
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: sluice\r\nconnection: close\r\n{headers}\r\n")
        .expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    Answer { status, head: head.to_lowercase(), body: serde_json::from_str(body).unwrap_or(Value::Null) }
}

/// Asks on the admin socket.
fn admin(scene: &Scene, method: &str, path: &str, headers: &str) -> Answer {
    let stream = UnixStream::connect(scene.agent.socket()).expect("a socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    ask(stream, method, path, headers)
}

fn get(scene: &Scene, path: &str) -> Answer {
    admin(scene, "GET", path, "")
}

/// Writes the endpoints of `db`, a Service that asks for no address: pods and whether each is ready.
fn publish(scene: &Scene, pods: &[(&str, bool)]) {
    let slices = [Slice::new("db", "v4"), Slice::v6("db", "v6")].map(|slice| {
        let all = pods.iter().fold(slice.port("sql", "TCP", 5432), |slice, (pod, ready)| {
            slice.pod_with(scene.lab.pod(pod), &json!({"ready": ready, "serving": ready, "terminating": false}))
        });
        all.json()
    });
    let [v4, v6] = slices;
    scene.write("db.yaml", &[cluster_service("db"), v4, v6]);
}

const DB: &str = "/api/v1/services/default/db/instances";

/// Waits until so many instances of `db` are ready, of so many.
fn until_ready(scene: &Scene, ready: u64, total: u64) -> Answer {
    eventually("the instances of db", PATIENCE, || {
        let answer = get(scene, DB);
        let is_so =
            answer.status == 200 && answer.body["counts"]["ready"] == ready && answer.body["counts"]["total"] == total;
        if is_so { Ok(answer) } else { Err(format!("{answer:?}")) }
    })
}

#[test]
fn the_instances_of_any_service_are_told_with_both_families_and_their_last_change() {
    let scene = Scene::empty(Datapath::Tc, 1, 1);
    publish(&scene, &[("a1", true), ("b1", true)]);
    let before = until_ready(&scene, 2, 2);
    let one = before.body["instances"][0].clone();
    let a1 = scene.lab.pod("a1");
    assert_eq!(one["id"], "a1");
    assert_eq!(one["addresses"], json!([a1.ip(false).to_string(), a1.ip(true).to_string()]));
    assert_eq!(one["ports"]["sql"], json!({"port": 5432, "protocol": "TCP", "appProtocol": null}));
    assert_eq!((&one["ready"], &one["node"]), (&json!(true), &json!(a1.node_name())));
    assert_eq!(one["targetRef"], json!({"kind": "Pod", "namespace": "default", "name": "a1", "uid": ""}));

    publish(&scene, &[("a1", true), ("b1", false)]);
    let after = until_ready(&scene, 1, 2);
    assert_eq!(after.body["instances"][0], one, "what did not change has its time as before");
    assert_ne!(after.body["instances"][1]["lastChange"], before.body["instances"][1]["lastChange"]);
    assert_eq!(after.body["lastChange"], after.body["instances"][1]["lastChange"]);

    let all = get(&scene, "/api/v1/instances?namespace=default&ready=false");
    assert_eq!((all.status, &all.body["instances"][0]["id"]), (200, &json!("b1")));
    assert_eq!((all.body["instances"].as_array().map(Vec::len), &all.body["counts"]["total"]), (Some(1), &json!(2)));

    let table = scene.agent.show(&["instances", "default/db"]).expect("a table");
    for word in ["a1", "sql:5432/TCP", "not ready", "Pod/b1", "2 in all: 1 ready, 1 not ready"] {
        assert!(table.contains(word), "no {word:?} in\n{table}");
    }
    let listed = scene.agent.show_json(&["instances", "--ready", "true"]).expect("JSON");
    assert_eq!(listed["instances"][0]["service"], "db");
}

#[test]
fn what_is_unknown_or_not_allowed_is_said_in_json() {
    let scene = Scene::empty(Datapath::Tc, 1, 0);
    publish(&scene, &[("a1", true)]);
    until_ready(&scene, 1, 1);
    let unknown = get(&scene, "/api/v1/services/default/nobody/instances");
    assert_eq!((unknown.status, unknown.header("content-type")), (404, "application/json"));
    assert_eq!(unknown.body["error"], "no Service default/nobody is known to this node");
    let refused = admin(&scene, "POST", DB, "content-length: 0\r\n");
    assert_eq!((refused.status, refused.header("allow")), (405, "get, head"));
    assert!(refused.body["error"].is_string(), "{refused:?}");
    let wrong = get(&scene, "/api/v1/instances?ready=perhaps");
    assert_eq!((wrong.status, wrong.body["error"].is_string()), (400, true));
    let output = scene.agent.cli(&["instances", "default/nobody"]).expect("a process");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("no Service default/nobody"));
}

#[test]
fn a_service_is_followed_without_asking_again_and_again() {
    let scene = Scene::empty(Datapath::Tc, 2, 0);
    publish(&scene, &[("a1", true)]);
    let first = until_ready(&scene, 1, 1);
    let known = format!("if-none-match: {}\r\n", first.header("etag"));
    let unchanged = admin(&scene, "GET", DB, &known);
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, first.header("etag")));

    let waiting = UnixStream::connect(scene.agent.socket()).expect("a socket");
    waiting.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let waiting = std::thread::spawn(move || ask(waiting, "GET", &format!("{DB}?wait=60"), &known));
    publish(&scene, &[("a1", true), ("a2", true)]);
    let told = waiting.join().expect("an answer");
    assert_eq!((told.status, &told.body["counts"]["total"]), (200, &json!(2)), "{told:?}");
    assert_ne!(told.header("etag"), first.header("etag"));
}

#[test]
fn the_discovery_address_serves_instances_and_nothing_else_of_the_objects() {
    let mut spec = AgentSpec::new(Datapath::Tc);
    spec.extra = ["--discovery-addr", "127.0.0.1:9501"].map(str::to_owned).to_vec();
    let scene = Scene::with(spec, 1, 0);
    publish(&scene, &[("a1", true)]);
    until_ready(&scene, 1, 1);
    let tcp = |path: &str| {
        let stream = scene.lab.node1.enter(|| TcpStream::connect("127.0.0.1:9501")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        ask(stream, "GET", path, "")
    };
    assert_eq!(tcp(DB).body["instances"][0]["id"], "a1");
    assert_eq!(tcp("/livez").status, 200);
    assert_eq!(tcp("/api/v1/services").status, 404);
}
