//! Round trips through the real programs: both families, TCP and UDP, endpoints here and on another node, in every
//! datapath mode.
use std::{collections::BTreeMap, net::IpAddr};

use sluice_tests::netns::{
    Connection, Datapath, Scene, addr, eventually,
    lab::UPLINK,
    load,
    ping::ping,
    scene::{APPLIED, TCP, UDP, WEB_V4},
    udp,
};

/// Large enough to fill windows, TSO packets and several rounds of buffers.
const LARGE: usize = 300_000;
/// Attempts after which every one of two endpoints has been chosen, but for one run in 10^12.
const ATTEMPTS: usize = 40;

#[test]
fn tc_alone() {
    round_trips(&Scene::web(Datapath::Tc, 1, 1));
}

#[test]
fn native_xdp_and_tc() {
    round_trips(&Scene::web(Datapath::Xdp, 1, 1));
}

#[test]
fn generic_xdp_and_tc() {
    round_trips(&Scene::web(Datapath::XdpGeneric, 1, 1));
}

fn round_trips(scene: &Scene) {
    for to in Scene::both(TCP) {
        let mut seen = BTreeMap::new();
        for _ in 0..ATTEMPTS {
            let mut connection = Connection::open(&scene.lab.client, to).expect("a connection");
            connection.exchange(100).expect("100 bytes both ways");
            // S117: bodies that the sender leaves to segmentation offload, with partial checksums.
            if seen.insert(connection.answer.pod.clone(), connection.answer.peer).is_none() {
                let pod = connection.answer.pod.clone();
                connection.exchange(LARGE).unwrap_or_else(|e| panic!("300 kB both ways at {pod}, {to}: {e}"));
            }
            connection.close().expect("an orderly end");
        }
        assert_eq!(seen, who_calls_whom(to.is_ipv6()), "{to}");
    }
    for to in Scene::both(UDP) {
        let headers = if to.is_ipv6() { 48 } else { 28 };
        let mut seen = BTreeMap::new();
        for _ in 0..ATTEMPTS {
            // Nothing, an odd length, exactly the MTU.
            for len in [0, 333, 1500 - headers] {
                let answer =
                    udp::ask(&scene.lab.client, to, len).unwrap_or_else(|e| panic!("{len} bytes to {to}: {e}"));
                seen.insert(answer.pod, answer.peer);
            }
        }
        assert_eq!(seen, who_calls_whom(to.is_ipv6()), "{to}");
        // S108, and the echo's own checksum.
        ping(&scene.lab.client, to.ip(), 56).expect("an echo");
    }
    let tally = load::burst(&scene.lab.client, Scene::both(TCP)[0], 1000, 8);
    assert_eq!((tally.failed(), tally.slow), (0, 0), "{tally}");
    assert!(tally.by_pod.values().all(|n| *n > 350), "uneven: {tally}");
}

/// An endpoint here sees the client; one on another node sees this node, so that its replies return.
fn who_calls_whom(v6: bool) -> BTreeMap<String, IpAddr> {
    let (client, node): (IpAddr, IpAddr) = if v6 {
        (addr::CLIENT_V6.into(), addr::node_v6(1).into())
    } else {
        (addr::CLIENT_V4.into(), addr::node_v4(1).into())
    };
    [("a1".to_owned(), client), ("b1".to_owned(), node)].into()
}

#[test]
fn pods_and_nodes_are_reached_as_without_us() {
    // A packet that is not ours passes untouched: the programs are attached to the uplink that all this crosses.
    let scene = Scene::web(Datapath::Xdp, 1, 1);
    for pod in &scene.lab.pods {
        for v6 in [false, true] {
            let to = (pod.ip(v6), sluice_tests::netns::pod::TCP_PORT).into();
            let mut direct = Connection::open(&scene.lab.client, to).expect("a direct connection");
            direct.exchange(LARGE).expect("300 kB both ways");
            assert_eq!(direct.answer.pod, pod.name);
        }
    }
    ping(&scene.lab.client, addr::node_v4(1).into(), 56).expect("the node's own address answers");
    ping(&scene.lab.client, addr::node_v6(1).into(), 56).expect("the node's own address answers");
}

#[test]
fn f10_who_speaks_from_an_address_of_the_node_is_not_served_and_counted() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    // The client must know its neighbour: node1 answers no question of its own address.
    Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("who speaks for himself is served");
    // On an interface of node1 that is no uplink.
    let own = addr::gateway_v4(1);
    scene.lab.client.net(async |net| net.address(UPLINK, own.into(), 32).await).expect("the client takes it");
    let send = || {
        let socket = std::net::UdpSocket::bind((own, 0))?;
        socket.send_to(b"hello", (WEB_V4, UDP))
    };
    eventually("it is counted", APPLIED, || {
        scene.lab.client.enter(send)?;
        let status = scene.agent.show_json(&["status"])?;
        match status["reasons"]["source_forged"].as_u64() {
            Some(1..) => Ok(()),
            _ => anyhow::bail!("{}", status["reasons"]),
        }
    });
    let flows = scene.agent.show(&["flows"]).expect("flows");
    // With what ends an address: the pod's begins with the same digits.
    assert!(!flows.contains(&format!("{own}:")) && !flows.contains(&format!("{own} ")), "it has no flow: {flows}");
}
