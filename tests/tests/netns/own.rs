//! A flow is judged by its own frontend, protocol and backend, whoever else has that backend (issue 8, B1).
use std::{net::SocketAddr, process::Command, time::Duration};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Connection, Datapath, Failure, Scene, addr, eventually,
    manifest::{Service, Slice},
    pod::TCP_PORT,
    scene::APPLIED,
    udp::Flow,
};

/// Nobody listens there.
const NO_PORT: u16 = 9090;
/// SYNs that are sent at once.
const SYNS: u16 = 24;
/// Until all SYNs are on their way, and no second one is.
const ON_THE_WAY: Duration = Duration::from_millis(300);

fn vip(n: u8) -> SocketAddr {
    ([203, 0, 113, n], 80).into()
}

/// A Service at `vip(n)`, port 80 of both protocols.
fn service(name: &str, n: u8) -> Value {
    let service = Service::new(name).port("tcp", "TCP", 80, TCP_PORT).port("udp", "UDP", 80, TCP_PORT);
    service.address(&vip(n).ip().to_string()).json()
}

/// Its slice.
fn slice(scene: &Scene, name: &str, pods: &[&str]) -> Value {
    let slice = Slice::new(name, "v4").port("tcp", "TCP", TCP_PORT).port("udp", "UDP", TCP_PORT);
    slice.pods(scene.lab.select(pods)).json()
}

/// A UDP flow to a frontend that has chosen this pod.
fn flow_to(scene: &Scene, to: SocketAddr, pod: &str) -> Flow {
    eventually(&format!("a flow to {pod}"), APPLIED, || {
        let flow = Flow::open(&scene.lab.client, to).map_err(|e| e.to_string())?;
        match flow.ask(10) {
            Ok(answer) if answer.pod == pod => Ok(flow),
            other => Err(format!("{other:?}")),
        }
    })
}

fn until_answered_by(flow: &Flow, pod: &str) {
    eventually(&format!("{pod} answers"), APPLIED, || match flow.ask(10) {
        Ok(answer) if answer.pod == pod => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_datagram_leaves_an_endpoint_that_left_its_service_though_another_service_has_it() {
    for datapath in [Datapath::Tc, Datapath::Xdp] {
        let scene = Scene::empty(datapath, 1, 1);
        for (name, n) in [("web", 7), ("all", 8)] {
            scene.write(&format!("{name}.yaml"), &[service(name, n)]);
            scene.write(&format!("{name}-slice.yaml"), &[slice(&scene, name, &["a1", "b1"])]);
            scene.until_reach(vip(n), &["a1", "b1"], TCP_PORT);
        }
        let (left, stays) = (flow_to(&scene, vip(7), "b1"), flow_to(&scene, vip(8), "b1"));
        scene.write("web-slice.yaml", &[slice(&scene, "web", &["a1"])]);
        until_answered_by(&left, "a1");
        assert_eq!(stays.ask(10).expect("an answer").pod, "b1", "a flow of the other Service goes on");
    }
}

#[test]
fn a_datagram_leaves_an_endpoint_that_stopped_serving_though_tcp_still_has_it() {
    let scene = Scene::empty(Datapath::Tc, 2, 0);
    scene.write("web.yaml", &[service("web", 7)]);
    scene.write("slice.yaml", &[slice(&scene, "web", &["a1", "a2"])]);
    scene.until_reach(vip(7), &["a1", "a2"], TCP_PORT);
    let flow = flow_to(&scene, vip(7), "a2");
    let mut held = eventually("a connection to a2", APPLIED, || {
        let connection = Connection::open(&scene.lab.client, vip(7)).map_err(|e| e.to_string())?;
        if connection.answer.pod == "a2" { Ok(connection) } else { Err("a1".to_owned()) }
    });
    let ports = Slice::new("web", "v4").port("tcp", "TCP", TCP_PORT).port("udp", "UDP", TCP_PORT);
    let stopped = json!({"ready": false, "serving": false, "terminating": false});
    let slice = ports.pod(scene.lab.pod("a1")).pod_with(scene.lab.pod("a2"), &stopped).json();
    scene.write("slice.yaml", &[slice]);
    until_answered_by(&flow, "a1");
    held.exchange(100).expect("the TCP connection goes on for as long as it is answered");
}

#[test]
fn a_datagram_leaves_a_target_port_that_its_port_left_though_another_port_has_it() {
    let scene = Scene::empty(Datapath::Tc, 1, 0);
    let slice = |target| {
        let slice = Slice::new("web", "v4").port("a", "UDP", target).port("b", "UDP", TCP_PORT);
        slice.pod(scene.lab.pod("a1")).json()
    };
    let service = Service::new("web").port("a", "UDP", 80, TCP_PORT).port("b", "UDP", 81, TCP_PORT);
    scene.write("web.yaml", &[service.address(&vip(7).ip().to_string()).json()]);
    scene.write("slice.yaml", &[slice(TCP_PORT)]);
    let (moved, stays) = (flow_to(&scene, vip(7), "a1"), flow_to(&scene, (vip(7).ip(), 81).into(), "a1"));
    scene.write("slice.yaml", &[slice(NO_PORT)]);
    eventually("nobody answers at the new port", APPLIED, || match moved.ask(10) {
        Err(Failure::Timeout | Failure::Refused) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(stays.ask(10).expect("an answer").pod, "a1");
}

#[test]
fn two_services_that_exchange_their_addresses_answer_at_their_new_ones() {
    let scene = Scene::empty(Datapath::Tc, 2, 0);
    scene.write("web.yaml", &[service("blue", 7), service("green", 8)]);
    scene.write("slices.yaml", &[slice(&scene, "blue", &["a1"]), slice(&scene, "green", &["a2"])]);
    let (seven, eight) = (flow_to(&scene, vip(7), "a1"), flow_to(&scene, vip(8), "a2"));
    scene.write("web.yaml", &[service("blue", 8), service("green", 7)]);
    until_answered_by(&seven, "a2");
    until_answered_by(&eight, "a1");
}

#[test]
fn a_syn_that_was_never_answered_goes_elsewhere_though_another_service_has_its_endpoint() {
    let scene = Scene::empty(Datapath::Tc, 2, 0);
    for (name, n) in [("web", 7), ("all", 8)] {
        scene.write(&format!("{name}.yaml"), &[service(name, n)]);
        scene.write(&format!("{name}-slice.yaml"), &[slice(&scene, name, &["a1", "a2"])]);
        scene.until_reach(vip(n), &["a1", "a2"], TCP_PORT);
    }
    // It gets every SYN, and its answers lead nowhere.
    let client = addr::CLIENT_V4.to_string();
    let silence = || Command::new("ip").args(["route", "add", "blackhole", &client]).status();
    assert!(scene.lab.pod("a2").space().enter(silence).expect("run ip").success());
    let answers: Vec<_> = std::thread::scope(|s| {
        let open = |n: u16| {
            let scene = &scene;
            s.spawn(move || Connection::open_from(&scene.lab.client, 40_000 + n, vip(7)).map(|c| c.answer.pod))
        };
        let all: Vec<_> = (0..SYNS).map(open).collect();
        std::thread::sleep(ON_THE_WAY);
        assert!(all.iter().any(|one| !one.is_finished()), "none of {SYNS} SYNs went to a2");
        scene.write("web-slice.yaml", &[slice(&scene, "web", &["a1"])]);
        all.into_iter().map(|one| one.join().expect("connecting does not panic")).collect()
    });
    assert_eq!(answers, vec![Ok("a1".to_owned()); usize::from(SYNS)]);
}
