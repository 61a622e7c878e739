//! Changes while traffic flows: ports, target ports, endpoints, policies. S-numbers are those of the semantics list.
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::json;
use sluice_tests::netns::{
    Connection, Datapath, Failure, Load, Scene, eventually,
    manifest::{Service, Slice},
    pod::{OTHER_TCP_PORT, TCP_PORT},
    scene::{APPLIED, TCP, UDP, WEB_V4, web},
    udp,
};

/// A refusal comes at once, before the client asks again.
const AT_ONCE: Duration = Duration::from_millis(900);
/// Connections that the project promises to survive changes.
const CONNECTIONS: usize = 10_000;
/// The pause between two changes of endpoints.
const CHANGE: Duration = Duration::from_millis(100);
/// Changes at least, however fast the connections are.
const CHANGES: usize = 40;

#[test]
fn s17_a_port_comes_and_goes_on_a_live_service() {
    let scene = Scene::web(Datapath::Tc, 1, 1);
    let (first, second) = (SocketAddr::from((WEB_V4, TCP)), SocketAddr::from((WEB_V4, 81)));
    let mut held = Connection::open(&scene.lab.client, first).expect("a connection");
    let slice = |suffix| Slice::new("web", suffix).port("other", "TCP", OTHER_TCP_PORT).pods(&scene.lab.pods).json();
    scene.write("web-other.yaml", &[slice("other")]);
    scene.write("web.yaml", &[web().port("other", "TCP", 81, OTHER_TCP_PORT).json()]);
    scene.until_reach(second, &["a1", "b1"], OTHER_TCP_PORT);
    let answer = Connection::open(&scene.lab.client, second).expect("the new port answers").answer;
    assert_eq!(answer.port, OTHER_TCP_PORT);
    scene.write("web.yaml", &[web().json()]);
    scene.until_gone(second);
    refused(&scene, second);
    held.exchange(1000).expect("the other port's connection goes on");
    Connection::open(&scene.lab.client, first).expect("the other port answers");
}

#[test]
fn s18_a_target_port_changes_under_load_without_a_failure() {
    let scene = Scene::web(Datapath::Tc, 1, 1);
    let to = SocketAddr::from((WEB_V4, TCP));
    let load = Load::start(&scene.lab.client, to, 2);
    for port in [OTHER_TCP_PORT, TCP_PORT, OTHER_TCP_PORT] {
        scene.write(
            "web-endpoints.yaml",
            &[Slice::new("web", "v4").port("tcp", "TCP", port).pods(&scene.lab.pods).json()],
        );
        scene.until_reach(to, &["a1", "b1"], port);
        assert_eq!(Connection::open(&scene.lab.client, to).expect("a connection").answer.port, port);
    }
    let tally = load.stop();
    assert_eq!((tally.failed(), tally.slow), (0, 0), "{tally}");
}

#[test]
fn s60_without_endpoints_a_service_refuses_at_once_and_s64_serves_when_one_comes() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    scene.endpoints(&[]);
    Scene::both(TCP).into_iter().for_each(|to| refused(&scene, to));
    for to in Scene::both(UDP) {
        let began = Instant::now();
        assert_eq!(udp::ask(&scene.lab.client, to, 10), Err(Failure::Refused), "{to}");
        assert!(began.elapsed() < AT_ONCE, "ICMP unreachable from {to} took {:?}", began.elapsed());
    }
    scene.endpoints(&["a1"]);
    Scene::both(TCP).into_iter().for_each(|to| drop(Connection::open(&scene.lab.client, to).expect("a connection")));
    Scene::both(UDP).into_iter().for_each(|to| drop(udp::ask(&scene.lab.client, to, 10).expect("an answer")));
}

#[test]
fn s61_endpoints_elsewhere_and_policy_local_drop_in_silence() {
    let scene = Scene::web(Datapath::Tc, 0, 1);
    scene.write("web.yaml", &[web().spec("externalTrafficPolicy", json!("Local")).json()]);
    scene.until_reach((WEB_V4, TCP).into(), &[], TCP_PORT);
    let outcome = udp::ask(&scene.lab.client, (WEB_V4, UDP).into(), 10);
    assert_eq!(outcome, Err(Failure::Timeout), "another node may answer: this one must not");
    let outcome = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).map(|c| c.answer);
    assert_eq!(outcome, Err(Failure::Timeout), "another node may answer: this one must not");
    let status = scene.agent.show_json(&["status"]).expect("status");
    assert!(status["reasons"]["no_local_backend"].as_u64() >= Some(2), "counted by its reason: {}", status["reasons"]);
}

#[test]
fn s63_a_port_that_is_not_offered_refuses_at_once() {
    let scene = Scene::web(Datapath::Xdp, 1, 1);
    Scene::both(4711).into_iter().for_each(|to| refused(&scene, to));
    for to in Scene::both(4711) {
        assert_eq!(udp::ask(&scene.lab.client, to, 10), Err(Failure::Refused), "{to}");
    }
}

#[test]
fn s114_connections_outlive_their_endpoints_place_in_the_slice() {
    for datapath in [Datapath::Tc, Datapath::Xdp] {
        let scene = Scene::web(datapath, 2, 2);
        let mut held: Vec<Connection> = (0..40)
            .map(|n| Connection::open(&scene.lab.client, Scene::both(TCP)[n % 2]).expect("a connection"))
            .collect();
        scene.endpoints(&["a1", "b1"]);
        // Over the sweep that follows a change, and one more.
        for _ in 0..3 {
            for connection in &mut held {
                let pod = connection.answer.pod.clone();
                connection.exchange(500).unwrap_or_else(|e| panic!("the connection of {pod}, {datapath:?}: {e}"));
            }
            std::thread::sleep(Duration::from_millis(700));
        }
        assert!(held.iter().any(|c| c.answer.pod == "a2") && held.iter().any(|c| c.answer.pod == "b2"));
        for _ in 0..40 {
            let pod = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection").answer.pod;
            assert!(pod == "a1" || pod == "b1", "{pod} has left");
        }
        held.into_iter().for_each(|c| c.close().expect("an orderly end"));
    }
}

#[test]
fn s116_two_vips_share_a_backend_and_a_client_its_port() {
    for datapath in [Datapath::Tc, Datapath::Xdp] {
        for pod in ["a1", "b1"] {
            let scene = Scene::empty(datapath, 1, 1);
            let vips: Vec<SocketAddr> = [7, 8].map(|n| ([203, 0, 113, n], 80).into()).to_vec();
            for (n, vip) in vips.iter().enumerate() {
                let name = format!("web{n}");
                let service = Service::new(&name).port("tcp", "TCP", 80, TCP_PORT).port("udp", "UDP", 80, TCP_PORT);
                let slice = Slice::new(&name, "v4").port("tcp", "TCP", TCP_PORT).port("udp", "UDP", TCP_PORT);
                let service = service.address(&vip.ip().to_string()).json();
                scene.write(&format!("{name}.yaml"), &[service, slice.pod(scene.lab.pod(pod)).json()]);
                scene.until_reach(*vip, &[pod], TCP_PORT);
            }
            let open = |to: &SocketAddr| Connection::open_from(&scene.lab.client, 33_333, *to).expect("a connection");
            let mut both: Vec<Connection> = vips.iter().map(open).collect();
            for _ in 0..3 {
                for (connection, vip) in both.iter_mut().zip(&vips) {
                    connection.exchange(5000).unwrap_or_else(|e| panic!("{vip} to {pod}, {datapath:?}: {e}"));
                }
            }
            for vip in &vips {
                let flow = udp::Flow::open_from(&scene.lab.client, 33_334, *vip).expect("a socket");
                flow.ask(100).unwrap_or_else(|e| panic!("UDP, {vip} to {pod}, {datapath:?}: {e}"));
            }
        }
    }
}

#[test]
fn s125_a_datagram_goes_elsewhere_once_its_backend_is_gone() {
    for datapath in [Datapath::Tc, Datapath::Xdp] {
        let scene = Scene::web(datapath, 1, 1);
        for to in Scene::both(UDP) {
            let flow = udp::Flow::open(&scene.lab.client, to).expect("a socket");
            let first = flow.ask(10).expect("an answer").pod;
            assert_eq!(flow.ask(10).expect("an answer").pod, first, "one flow, one backend");
            let other = if first == "a1" { "b1" } else { "a1" };
            scene.endpoints(&[other]);
            eventually("the flow moves", APPLIED, || match flow.ask(10) {
                Ok(answer) if answer.pod == other => Ok(()),
                outcome => Err(format!("{outcome:?}")),
            });
            // None, then one: what was refused meanwhile must not stick.
            scene.endpoints(&[]);
            eventually("the flow is refused", APPLIED, || match flow.ask(10) {
                Err(Failure::Refused) => Ok(()),
                outcome => Err(format!("{outcome:?}")),
            });
            scene.endpoints(&[&first]);
            assert_eq!(flow.ask(10).expect("an answer").pod, first);
            scene.endpoints(&["a1", "b1"]);
        }
    }
}

#[test]
fn ten_thousand_connections_while_endpoints_come_and_go_by_tc() {
    come_and_go(Datapath::Tc);
}

#[test]
fn ten_thousand_connections_while_endpoints_come_and_go_by_xdp() {
    come_and_go(Datapath::Xdp);
}

/// Done-when 3 of the main job: one change each 100 ms, never the last endpoint, not one failed connection.
fn come_and_go(datapath: Datapath) {
    let scene = Scene::web(datapath, 2, 2);
    let all = ["a1", "a2", "b1", "b2"];
    let mut held: Vec<Connection> =
        (0..20).map(|n| Connection::open(&scene.lab.client, Scene::both(TCP)[n % 2]).expect("a connection")).collect();
    let loads = Scene::both(TCP).map(|to| Load::start(&scene.lab.client, to, 2));
    let mut random = fastrand::Rng::with_seed(1);
    let mut changes = 0;
    while changes < CHANGES || loads.iter().map(Load::done).sum::<usize>() < CONNECTIONS {
        let count = random.usize(1..=all.len());
        scene.publish(&random.choose_multiple(all, count));
        changes += 1;
        std::thread::sleep(CHANGE);
        held.iter_mut().for_each(|c| c.exchange(50).expect("a connection that was open before all this"));
    }
    for tally in loads.map(Load::stop) {
        println!("{changes} changes: {tally}");
        assert_eq!((tally.failed(), tally.slow), (0, 0), "{tally}");
        assert!(all.iter().all(|pod| tally.by_pod.contains_key(*pod)), "{tally}");
    }
}

/// The frontend answers a SYN with RST, at once.
fn refused(scene: &Scene, to: SocketAddr) {
    let began = Instant::now();
    let outcome = Connection::open(&scene.lab.client, to).map(|c| c.answer);
    assert_eq!(outcome, Err(Failure::Refused), "{to}");
    assert!(began.elapsed() < AT_ONCE, "the refusal of {to} took {:?}", began.elapsed());
}
