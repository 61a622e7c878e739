//! Listeners of TCP and UDP: `deploy/examples/streams` as it is, with real endpoints; the kernel splits flows by weight, and no
//! proxy is in the way.
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Connection, Datapath, Scene, addr, eventually,
    manifest::Slice,
    outcome::Failure,
    pod::TCP_PORT,
    scene::APPLIED,
    udp::{self, Flow},
};

/// So many flows show a share of 30 % to a few percent.
const FLOWS: usize = 600;
/// How far a share may be off: more than five standard deviations of 30 % of all.
const NEAR: usize = 62;

/// The example, with these pods behind its Services; returns the addresses of its two listeners.
fn example(scene: &Scene, blue: &[&str], green: &[&str]) -> (SocketAddr, SocketAddr) {
    let dir = xtask::root().join("deploy/examples/streams");
    for entry in std::fs::read_dir(&dir).expect("the example") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        scene.agent.write_text(&name, &std::fs::read_to_string(&path).expect("a text")).expect("a manifest");
    }
    endpoints(scene, "blue", blue);
    endpoints(scene, "green", green);
    let vip = eventually("the Gateway has an address", APPLIED, || {
        let found = scene.agent.addresses("Gateway default/streams")?;
        found.into_iter().find(IpAddr::is_ipv4).ok_or_else(|| anyhow::anyhow!("none"))
    });
    let (tcp, udp) = (SocketAddr::from((vip, 9300)), SocketAddr::from((vip, 5300)));
    until(scene, tcp, udp, &[blue, green].concat());
    (tcp, udp)
}

/// Waits until both frontends lead to exactly these pods.
fn until(scene: &Scene, tcp: SocketAddr, udp: SocketAddr, pods: &[&str]) {
    scene.until_reach(tcp, pods, TCP_PORT);
    eventually("UDP as well", APPLIED, || match scene.maps.reach_udp(udp)? {
        Some(found) if found.len() == pods.len() => Ok(()),
        other => anyhow::bail!("{other:?}"),
    });
}

fn endpoints(scene: &Scene, service: &str, pods: &[&str]) {
    let slice = Slice::new(service, "v4").port("tcp", "TCP", TCP_PORT).port("udp", "UDP", TCP_PORT);
    scene.write(&format!("{service}-endpoints.yaml"), &[slice.pods(scene.lab.select(pods)).json()]);
}

/// Who answers so many flows; those that are refused under `""`. Nothing else may become of one.
fn count(flows: usize, ask: impl Fn() -> Result<String, Failure>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..flows {
        let who = match ask() {
            Ok(pod) => pod,
            Err(Failure::Refused) => String::new(),
            Err(other) => panic!("{other}"),
        };
        *counts.entry(who).or_default() += 1;
    }
    counts
}

fn connections(scene: &Scene, to: SocketAddr) -> BTreeMap<String, usize> {
    count(FLOWS, || Connection::open(&scene.lab.client, to).map(|connection| connection.answer.pod))
}

fn datagrams(scene: &Scene, to: SocketAddr) -> BTreeMap<String, usize> {
    count(FLOWS, || udp::ask(&scene.lab.client, to, 10).map(|answer| answer.pod))
}

/// Whether these parts of a hundred are what was counted, and nobody else has any.
fn assert_shares(counts: &BTreeMap<String, usize>, want: &[(&str, usize)]) {
    assert!(counts.keys().all(|who| want.iter().any(|(name, _)| name == who)), "{counts:?}, want {want:?}");
    for (who, percent) in want {
        let (found, want) = (counts.get(*who).copied().unwrap_or_default(), FLOWS * percent / 100);
        assert!(found.abs_diff(want) <= NEAR, "{counts:?}: want {want} of {who:?}");
    }
}

/// A TCPRoute at the example's listener.
fn tcp_route(name: &str, created: &str, service: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "TCPRoute",
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
        "spec": {"parentRefs": [{"name": "streams", "sectionName": "tcp"}],
                 "rules": [{"backendRefs": [{"name": service, "port": 7}]}]}
    })
}

#[test]
fn flows_are_split_by_weight_over_services_by_tc() {
    split(Datapath::Tc);
}

#[test]
fn flows_are_split_by_weight_over_services_by_xdp() {
    split(Datapath::Xdp);
}

fn split(datapath: Datapath) {
    let scene = Scene::empty(datapath, 2, 1);
    let (tcp, udp) = example(&scene, &["a1", "b1"], &["a2"]);
    assert_shares(&connections(&scene, tcp), &[("a1", 35), ("b1", 35), ("a2", 30)]);
    assert_shares(&datagrams(&scene, udp), &[("a1", 35), ("b1", 35), ("a2", 30)]);
    let who = |pod: &str| {
        let mut all = (0..FLOWS).map(|_| Connection::open(&scene.lab.client, tcp).expect("a connection").answer);
        all.find(|answer| answer.pod == pod).expect("it answers").peer
    };
    assert_eq!(who("a1"), IpAddr::from(addr::CLIENT_V4), "an endpoint here sees the client");
    let said = scene.agent.show(&["why", "tcproute/default/streams"]).expect("why");
    let line = "by TCPRoute default/streams: 70 of 100 to Service default/blue port 7 (2 endpoints), 30 of 100 to Service \
                default/green port 7 (1 endpoint)";
    assert!(said.contains(line), "{said}");

    // A weight of 0 gets nothing.
    let text = std::fs::read_to_string(xtask::root().join("deploy/examples/streams/3-tcp-route.yaml")).expect("a text");
    scene.agent.write_text("3-tcp-route.yaml", &text.replace("weight: 30", "weight: 0")).expect("a manifest");
    scene.until_reach(tcp, &["a1", "b1"], TCP_PORT);
    assert_shares(&connections(&scene, tcp), &[("a1", 50), ("b1", 50)]);
}

#[test]
fn flows_go_on_without_an_agent_and_with_the_next_one() {
    let mut scene = Scene::empty(Datapath::Xdp, 2, 1);
    let (tcp, udp) = example(&scene, &["a1", "b1"], &["a2"]);
    let open = |scene: &Scene| Connection::open(&scene.lab.client, tcp).expect("a connection");
    let mut held: Vec<Connection> = (0..30).map(|_| open(&scene)).collect();
    let flows: Vec<Flow> = (0..10).map(|_| Flow::open(&scene.lab.client, udp).expect("a socket")).collect();
    let pods: Vec<String> = flows.iter().map(|flow| flow.ask(10).expect("an answer").pod).collect();
    scene.agent.kill9().expect("it runs");
    held.iter_mut().for_each(|c| c.exchange(500).expect("an old connection, without an agent"));
    assert_shares(&connections(&scene, tcp), &[("a1", 35), ("b1", 35), ("a2", 30)]);
    let before = scene.maps.reach(tcp).expect("the maps");
    scene.agent.launch().expect("it starts again");
    assert_eq!(scene.maps.reach(tcp).expect("the maps"), before);
    held.iter_mut().for_each(|c| c.exchange(500).expect("an old connection, with a new agent"));
    assert_shares(&connections(&scene, tcp), &[("a1", 35), ("b1", 35), ("a2", 30)]);
    for (flow, pod) in flows.iter().zip(&pods) {
        assert_eq!(&flow.ask(10).expect("an answer").pod, pod, "a UDP flow keeps its endpoint");
    }
}

#[test]
fn a_service_without_endpoints_has_its_share_refused_and_the_others_keep_theirs() {
    let scene = Scene::empty(Datapath::Tc, 2, 1);
    let (tcp, udp) = example(&scene, &["a1", "b1"], &["a2"]);
    let mut held: Vec<Connection> =
        (0..30).map(|_| Connection::open(&scene.lab.client, tcp).expect("a connection")).collect();
    assert!(held.iter().any(|c| c.answer.pod == "a2"));
    endpoints(&scene, "green", &[]);
    until(&scene, tcp, udp, &["a1", "b1"]);
    assert_shares(&connections(&scene, tcp), &[("a1", 35), ("b1", 35), ("", 30)]);
    assert_shares(&datagrams(&scene, udp), &[("a1", 35), ("b1", 35), ("", 30)]);
    for connection in &mut held {
        let pod = connection.answer.pod.clone();
        connection.exchange(500).unwrap_or_else(|e| panic!("the connection of {pod}, which answers: {e}"));
    }
    // An endpoint of one Service leaves while others stay: only its own flows move.
    endpoints(&scene, "green", &["a2"]);
    endpoints(&scene, "blue", &["a1"]);
    until(&scene, tcp, udp, &["a1", "a2"]);
    assert_shares(&connections(&scene, tcp), &[("a1", 70), ("a2", 30)]);
}

#[test]
fn the_oldest_route_has_all_flows_and_another_takes_over_when_it_is_deleted() {
    let scene = Scene::empty(Datapath::Tc, 2, 0);
    let (tcp, _) = example(&scene, &["a1"], &["a2"]);
    scene.agent.remove("3-tcp-route.yaml").expect("a file");
    scene.write("older.yaml", &[tcp_route("z-older", "2026-01-01T00:00:00Z", "blue")]);
    scene.write("younger.yaml", &[tcp_route("a-younger", "2026-01-02T00:00:00Z", "green")]);
    scene.until_reach(tcp, &["a1"], TCP_PORT);
    eventually("the younger one says so", APPLIED, || {
        let said = scene.agent.show(&["why", "tcproute/default/a-younger"])?;
        let why = "TCPRoute default/z-older, which is older, gets all flows";
        anyhow::ensure!(said.contains("accepted") && said.contains(why), "{said}");
        Ok(())
    });
    assert_eq!(Connection::open(&scene.lab.client, tcp).expect("a connection").answer.pod, "a1");
    scene.agent.remove("older.yaml").expect("a file");
    scene.until_reach(tcp, &["a2"], TCP_PORT);
    assert_eq!(Connection::open(&scene.lab.client, tcp).expect("a connection").answer.pod, "a2");
    scene.agent.remove("younger.yaml").expect("a file");
    scene.until_reach(tcp, &[], TCP_PORT);
    let outcome = Connection::open(&scene.lab.client, tcp).map(|c| c.answer);
    assert_eq!(outcome, Err(Failure::Refused), "no route: the listener is there, and refuses");
}
