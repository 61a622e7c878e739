//! Floods from sources that do not exist: what is open goes on, and what is new gets through (issue 8, F6).
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use sluice_ebpf::{CT_UDP_STREAM_NS, MAX_CONNTRACK};
use sluice_tests::netns::{
    AgentSpec, Connection, Datapath, Scene, eventually,
    flood::{self, Kind},
    manifest::{Service, Slice},
    pod::TCP_PORT,
    scene::{TCP, UDP},
    udp,
};

/// Source ports where a test is about them: few, so that few packets hold them all.
const PORTS: u32 = 1_000;

/// Packets in a second: about as many as the lab carries without losing some itself.
const RATE: u32 = 40_000;

/// Says that it is over when it goes, also where a test fails meanwhile.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A connection to each of these pods, over both families.
fn connections(scene: &Scene, pods: &[&str]) -> Vec<(String, Connection)> {
    let mut open = BTreeMap::new();
    for to in Scene::both(TCP) {
        for _ in 0..200 {
            let connection = Connection::open(&scene.lab.client, to).expect("a connection");
            if pods.contains(&connection.answer.pod.as_str()) {
                open.entry((connection.answer.pod.clone(), to)).or_insert(connection);
            }
        }
    }
    assert_eq!(open.len(), 2 * pods.len(), "the table leads to all pods");
    open.into_iter().map(|((pod, to), connection)| (format!("{pod} at {to}"), connection)).collect()
}

#[test]
fn f6_a_flood_that_fills_conntrack_twice_evicts_nothing_that_is_open() {
    let scene = Scene::web(Datapath::Xdp, 2, 2);
    flood::prepare(&scene.lab).expect("routes");
    let mut open = connections(&scene, &["a1", "b1"]);
    // Only their entries tell where the connections go from now on.
    scene.endpoints(&["a2", "b2"]);
    let flows: Vec<udp::Flow> = Scene::both(UDP)
        .into_iter()
        .flat_map(|to| (0..8).map(move |_| to))
        .map(|to| udp::Flow::open(&scene.lab.client, to).expect("a socket"))
        .collect();
    let ask = |flow: &udp::Flow| {
        let answer = flow.ask(100).expect("an answer");
        (answer.pod, answer.peer)
    };
    let flows: Vec<_> = flows.into_iter().map(|flow| (ask(&flow), flow)).collect();
    // A conversation, no longer a question.
    std::thread::sleep(Duration::from_nanos(CT_UDP_STREAM_NS) + Duration::from_millis(100));
    for (before, flow) in &flows {
        assert_eq!(ask(flow), *before);
    }
    for (name, connection) in &mut open {
        connection.exchange(100).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let [web, web_v6] = Scene::both(TCP);
    let [dns, _] = Scene::both(UDP);
    let over = AtomicBool::new(false);
    let (sent, others) = std::thread::scope(|s| {
        // Others' connections get through all the while.
        let others = s.spawn(|| {
            let mut times = Vec::new();
            while !over.load(Relaxed) {
                let began = Instant::now();
                // The lab itself may lose a SYN, and some more.
                let mut new =
                    (0..3).find_map(|_| Connection::open(&scene.lab.client, web_v6).ok()).unwrap_or_else(|| {
                        panic!("no new connection; {}", scene.agent.show(&["status"]).unwrap_or_default())
                    });
                new.exchange(100).expect("an exchange");
                times.push(began.elapsed());
                std::thread::sleep(Duration::from_millis(10));
            }
            times
        });
        let began = Instant::now();
        // Each has two entries.
        let each = MAX_CONNTRACK / 3;
        for (kind, to, n) in [(Kind::Syn, web, 0), (Kind::Ack, web, 1), (Kind::Datagram, dns, 2)] {
            flood::send(&scene.lab, kind, to, n * each..(n + 1) * each, RATE).expect("a flood");
        }
        over.store(true, Relaxed);
        (began.elapsed(), others.join().expect("no panic"))
    });
    println!(
        "{} packets in {sent:.1?}; {} connections, the slowest {:?}",
        MAX_CONNTRACK,
        others.len(),
        others.iter().max()
    );
    for (name, connection) in &mut open {
        connection.exchange(100).unwrap_or_else(|e| panic!("{name}, after the flood: {e}"));
    }
    for (before, flow) in &flows {
        assert_eq!(ask(flow), *before, "the same endpoint, and the same source");
    }
    assert!(!others.is_empty());
    Connection::open(&scene.lab.client, web).expect("and a new one to what was flooded").close().expect("in order");
}

#[test]
fn f6_who_only_sends_syns_does_not_hold_an_endpoints_ports() {
    let mut spec = AgentSpec::new(Datapath::Tc);
    spec.extra.push(format!("--snat-ports=40000-{}", 40_000 + PORTS - 1));
    let scene = Scene::with(spec, 0, 1);
    let service =
        Service::new("web").annotation("sluice.dev/addresses", "203.0.113.7").port("tcp", "TCP", TCP, TCP_PORT);
    let slice = Slice::new("web", "v4").port("tcp", "TCP", TCP_PORT).pods(scene.lab.select(&["b1"]));
    scene.write("web.yaml", &[service.json(), slice.json()]);
    let [web, _] = Scene::both(TCP);
    scene.until_reach(web, &["b1"], TCP_PORT);
    flood::prepare(&scene.lab).expect("routes");
    let mut kept = Connection::open(&scene.lab.client, web).expect("a connection");
    let over = AtomicBool::new(false);
    let opened = std::thread::scope(|s| {
        let client = s.spawn(|| {
            let mut opened = 0;
            while !over.load(Relaxed) {
                Connection::open(&scene.lab.client, web).expect("a new connection").exchange(10).expect("an exchange");
                opened += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            opened
        });
        // Three times the ports.
        flood::send(&scene.lab, Kind::Syn, web, 0..4 * PORTS, 1_000).expect("a flood");
        over.store(true, Relaxed);
        client.join().expect("no panic")
    });
    println!("{opened} connections");
    kept.exchange(100).expect("a connection that is open keeps its port");
    let reasons = scene.agent.show_json(&["status"]).expect("status")["reasons"].clone();
    assert_eq!(reasons["snat_exhausted"], serde_json::Value::Null, "{reasons}");
}

#[test]
fn f6_a_flood_is_told_of() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    flood::prepare(&scene.lab).expect("routes");
    let [web, _] = Scene::both(TCP);
    // Below the frontend's share, and over and over: the walk comes every ten seconds.
    let over = AtomicBool::new(false);
    let (limits, metrics, flows) = std::thread::scope(|s| {
        let _over = Over(&over);
        s.spawn(|| {
            let mut n = 0;
            while !over.load(Relaxed) {
                flood::send(&scene.lab, Kind::Syn, web, n..n + 2_000, 8_000).expect("a flood");
                n += 2_000;
            }
        });
        let told = eventually("status tells", Duration::from_secs(60), || {
            let limits = scene.agent.show_json(&["status"])?["limits"].clone();
            let text = limits.to_string();
            anyhow::ensure!(text.contains("most of them to Service default/web at 203.0.113.7:80/TCP"), "{text}");
            Ok(text)
        });
        let metrics = scene.agent.get("/metrics").expect("metrics").1;
        let flows = scene.agent.show_json(&["flows"]).expect("flows");
        over.store(true, Relaxed);
        (told, metrics, flows)
    });
    println!("{limits}");
    let value = |name: &str| {
        let line =
            metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}:\n{metrics}"));
        line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")
    };
    assert!(value("sluice_map_occupancy_ratio{map=\"OPENING\"}") >= 0.75);
    assert!(value("sluice_map_occupancy_ratio{map=\"CONNTRACK\"}") < 0.01);
    assert!(value("sluice_unproved_flows ") >= 20_000.0);
    assert!(value("sluice_flow_entries{map=\"OPENING\"}") >= 40_000.0);
    assert_eq!(flows["flows"][0]["state"], "opening", "{flows}");
    eventually("and that it is over", Duration::from_secs(60), || {
        let limits = scene.agent.show_json(&["status"])?["limits"].clone();
        anyhow::ensure!(limits == serde_json::json!([]), "{limits}");
        Ok(())
    });
}
