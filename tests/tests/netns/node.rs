//! Services at the addresses of nodes: what they may serve there, and host-network endpoints behind them (issue 8, B2 and F1).
use std::net::SocketAddr;

use serde_json::{Value, json};
use sluice_tests::netns::{
    Connection, Datapath, Failure, Scene, addr,
    manifest::{Service, Slice},
    pod::TCP_PORT,
    serve::{self, Identity},
    udp,
};

/// The Service's port.
const PORT: u16 = 81;

fn at_node(port: u16) -> SocketAddr {
    (addr::node_v4(1), port).into()
}

/// Both nodes, and a pool of their addresses.
fn nodes() -> [Value; 3] {
    let node = |n: u8| {
        let address = json!({"type": "InternalIP", "address": addr::node_v4(n).to_string()});
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node{n}")},
            "status": {"addresses": [address]},
        })
    };
    let pool = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "AddressPool", "metadata": {"name": "nodes"},
        "spec": {"nodeAddresses": {}},
    });
    [node(1), node(2), pool]
}

/// A Service at node1's address.
fn web() -> Service {
    let service = Service::new("web").annotation("sluice.dev/address-pool", "nodes");
    service.port("web", "TCP", PORT, TCP_PORT).port("dns", "UDP", PORT, TCP_PORT)
}

/// Its slice: host-network endpoints on these nodes.
fn slice(nodes: &[u8]) -> Slice {
    let endpoint = |n: &u8| {
        json!({
            "addresses": [addr::node_v4(*n).to_string()], "nodeName": format!("node{n}"),
            "conditions": {"ready": true},
        })
    };
    let slice = Slice::new("web", "v4").port("web", "TCP", TCP_PORT).port("dns", "UDP", TCP_PORT);
    nodes.iter().map(endpoint).fold(slice, Slice::endpoint)
}

#[test]
fn a_host_network_endpoint_answers_behind_the_nodes_own_address() {
    for datapath in [Datapath::Tc, Datapath::Xdp] {
        let scene = Scene::empty(datapath, 0, 0);
        let identity = |pod: &str| Identity { pod: pod.to_owned(), version: "v1".to_owned() };
        let _here = serve::start(&scene.lab.node1, identity("node1")).expect("servers on node1");
        let _there = serve::start(&scene.lab.node2, identity("node2")).expect("servers on node2");
        scene.write("nodes.yaml", &nodes());
        // On another node its address is a VIP as well.
        for n in [1, 2] {
            scene.write("web.yaml", &[web().json(), slice(&[n]).json()]);
            let state = scene.until_state("default/web", "Accepted");
            let want = std::collections::BTreeSet::from([SocketAddr::from((addr::node_v4(n), TCP_PORT))]);
            sluice_tests::netns::eventually("it leads there", sluice_tests::netns::scene::APPLIED, || {
                match scene.maps.reach(at_node(PORT)) {
                    Ok(Some(found)) if found == want => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
            let mut held = Connection::open(&scene.lab.client, at_node(PORT))
                .unwrap_or_else(|e| panic!("node{n} behind node1's address, {datapath:?}: {e}; {state}"));
            assert_eq!(held.answer.pod, format!("node{n}"));
            held.exchange(5_000).expect("both ways");
            let datagram = udp::ask(&scene.lab.client, at_node(PORT), 100).expect("a datagram's answer");
            assert_eq!(datagram.pod, format!("node{n}"));
        }
    }
}

#[test]
fn a_service_that_has_a_nodes_address_does_not_get_the_nodes_ports() {
    let scene = Scene::empty(Datapath::Tc, 1, 0);
    scene.write("nodes.yaml", &nodes());
    let slice = |ports: &[(&str, u16)]| {
        let slice = Slice::new("web", "v4").pod(scene.lab.pod("a1"));
        ports.iter().fold(slice, |slice, (name, _)| slice.port(name, "TCP", TCP_PORT)).json()
    };
    let service = |ports: &[(&str, u16)]| {
        let service = Service::new("web").annotation("sluice.dev/address-pool", "nodes");
        ports.iter().fold(service, |service, (name, port)| service.port(name, "TCP", *port, TCP_PORT)).json()
    };
    let harmless = [("web", 80)];
    scene.write("web.yaml", &[service(&harmless), slice(&harmless)]);
    scene.until_state("default/web", "Accepted");
    scene.until_reach(at_node(80), &["a1"], TCP_PORT);
    let more = [("web", 80), ("ssh", 22), ("api", 6443), ("kubelet", 10_250), ("snat", 20_000)];
    scene.write("web.yaml", &[service(&more), slice(&more)]);
    let state = scene.until_state("default/web", "PortReserved");
    assert_eq!(Connection::open(&scene.lab.client, at_node(80)).expect("port 80").answer.pod, "a1");
    for (_, port) in &more[1..] {
        let outcome = Connection::open(&scene.lab.client, at_node(*port)).map(|c| c.answer.pod);
        assert_eq!(outcome, Err(Failure::Refused), "port {port} is the node's: {state}");
        assert!(scene.maps.reach(at_node(*port)).expect("the maps").is_none(), "port {port}");
    }
}
