//! Announcement: VIPs on the client's own network, found by ARP and NDP with nothing set by hand; who has them tells so.
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use netlink_packet_route::neighbour::NeighbourState;
use serde_json::{Value, json};
use sluice_tests::netns::{
    Agent, AgentSpec, Connection, Datapath, Namespace, Scene,
    addr::{self, ip},
    eventually,
    http::{self, Protocol},
    lab::UPLINK,
    manifest::{Service, Slice, gateway, http_route},
    neighbour::{Mac, Neighbour},
    ping::ping,
    pod::TCP_PORT,
    scene::{TCP, UDP, versions},
    udp,
};

/// How long anything here may take; on a busy machine a lost question alone costs a second.
const LIMIT: Duration = Duration::from_secs(60);
/// Ranges on the network of the client and the nodes.
const POOLS: [&str; 2] = ["198.51.100.192/26", "2001:db8:51::f:0/112"];
/// The addresses of the Service `web`, layer 4.
const WEB: [&str; 2] = ["198.51.100.200", "2001:db8:51::f:200"];
/// The addresses of the Gateway `front`, layer 7.
const FRONT: [&str; 2] = ["198.51.100.201", "2001:db8:51::f:201"];
/// The host that the route is for.
const HOST: &str = "shop.example";

fn spec(datapath: Datapath) -> AgentSpec {
    AgentSpec::new(datapath).pools(&POOLS)
}

/// `web` with all pods, on both families, TCP and UDP.
fn web(scene: &Scene) -> Vec<Value> {
    let service = Service::new("web").dual().annotation("sluice.dev/addresses", &WEB.join(","));
    let service = service.port("tcp", "TCP", TCP, TCP_PORT).port("udp", "UDP", UDP, TCP_PORT);
    let slices = [Slice::new("web", "v4"), Slice::v6("web", "v6")];
    let slices =
        slices.map(|s| s.port("tcp", "TCP", TCP_PORT).port("udp", "UDP", TCP_PORT).pods(&scene.lab.pods).json());
    [vec![service.json()], slices.to_vec()].concat()
}

/// `front` on both families, with one route to a pod.
fn front(scene: &Scene) -> Vec<Value> {
    let mut gateway = gateway("front", 80, None);
    gateway["spec"]["addresses"] = FRONT.iter().map(|a| json!({"type": "IPAddress", "value": a})).collect();
    let rules = json!([{"backendRefs": [{"name": "shop", "port": 80}]}]);
    let route = http_route("shop", "front", &[HOST], &rules);
    [vec![gateway, route], versions(&scene.lab, "shop", &["a1"]).to_vec()].concat()
}

fn vips() -> impl Iterator<Item = IpAddr> {
    [WEB, FRONT].into_iter().flatten().map(ip)
}

fn mac(space: &Namespace) -> Mac {
    space.net(async |net| net.mac(UPLINK).await).expect("the uplink's Ethernet address")
}

/// What the client remembers of an address.
fn remembered(scene: &Scene, vip: IpAddr) -> anyhow::Result<Neighbour> {
    scene.lab.client.net(async |net| net.neighbour(vip).await)
}

/// Waits until the client takes these VIPs to be at `mac`.
fn until_at(scene: &Scene, vips: impl IntoIterator<Item = IpAddr>, mac: Mac) {
    for vip in vips {
        eventually(&format!("{vip} is at {mac:x?}"), LIMIT, || match remembered(scene, vip)? {
            Neighbour { mac: Some(found), .. } if found == mac => Ok(()),
            other => anyhow::bail!("{other:x?}"),
        });
    }
}

/// TCP, UDP, ping and HTTP, on both families.
fn until_served(scene: &Scene) {
    let client = &scene.lab.client;
    for vip in WEB.map(ip) {
        let to = |port| SocketAddr::new(vip, port);
        eventually(&format!("TCP to {vip}"), LIMIT, || {
            Connection::open(client, to(TCP))
                .map_err(|e| e.to_string())
                .and_then(|mut c| c.exchange(9_000).map_err(|e| e.to_string()))
        });
        eventually(&format!("UDP to {vip}"), LIMIT, || udp::ask(client, to(UDP), 333).map_err(|e| e.to_string()));
        eventually(&format!("ping {vip}"), LIMIT, || ping(client, vip, 56).map_err(|e| e.to_string()));
    }
    for vip in FRONT.map(ip) {
        eventually(&format!("HTTP to {vip}"), LIMIT, || {
            let reply = http::send(client, (vip, 80).into(), Protocol::Http1, http::get(HOST, "/"))?;
            anyhow::ensure!(reply.status == 200, "{}", reply.status);
            Ok(())
        });
        eventually(&format!("ping {vip}"), LIMIT, || ping(client, vip, 56).map_err(|e| e.to_string()));
    }
}

/// A sample of `/metrics`, the sum of all with this beginning.
fn metric(agent: &Agent, name: &str) -> f64 {
    let (_, text) = agent.get("/metrics").expect("metrics");
    let lines = text.lines().filter(|l| l.starts_with(name)).filter_map(|l| l.rsplit(' ').next());
    lines.filter_map(|n| n.parse::<f64>().ok()).sum()
}

#[test]
fn a_vip_on_the_clients_network_is_found_by_tc() {
    found(Datapath::Tc);
}

#[test]
fn a_vip_on_the_clients_network_is_found_by_native_xdp() {
    found(Datapath::Xdp);
}

#[test]
fn a_vip_on_the_clients_network_is_found_by_generic_xdp() {
    found(Datapath::XdpGeneric);
}

fn found(datapath: Datapath) {
    let scene = Scene::with(spec(datapath), 1, 1);
    scene.write("objects.yaml", &[web(&scene), front(&scene)].concat());
    until_served(&scene);
    let node1 = mac(&scene.lab.node1);
    until_at(&scene, vips(), node1);
    // S106: the client asks the one that it knows whether it is still there, and drops it without an answer.
    for vip in vips() {
        let ask = scene.lab.client.net(async |net| net.remember(UPLINK, vip, node1, NeighbourState::Probe).await);
        ask.expect("the client asks");
        eventually(&format!("{vip} says that it is there"), LIMIT, || match remembered(&scene, vip)? {
            Neighbour { mac: Some(found), state: NeighbourState::Reachable } if found == node1 => Ok(()),
            other => anyhow::bail!("{other:x?}"),
        });
    }
    // The nodes' own addresses are asked for and answered as ever.
    for own in [addr::node_v4(1).into(), addr::node_v6(1).into()] {
        ping(&scene.lab.client, own, 56).expect("the node's own address answers");
        assert_eq!(remembered(&scene, own).expect("a neighbour").mac, Some(node1));
    }
    for (name, addresses) in [("default/web", WEB), ("default/front", FRONT)] {
        let shown = scene.until_state(name, "Accepted");
        assert_eq!(shown["announced"], json!(addresses), "{shown}");
    }
    let table = scene.agent.show(&["services", "-o", "wide"]).expect("a table");
    assert!(table.lines().next().is_some_and(|l| l.contains("ANNOUNCED")) && table.contains(" yes "), "{table}");
    eventually("each VIP is announced three times", LIMIT, || match metric(&scene.agent, "sluice_announcements") {
        12.0 => Ok(()),
        n => Err(n.to_string()),
    });
    for reason in ["arp_answered", "nd_answered"] {
        assert!(metric(&scene.agent, &format!("sluice_packets_total{{reason=\"{reason}\"}}")) >= 2.0, "{reason}");
    }
}

#[test]
fn a_node_that_announces_nothing_is_silent_until_it_is_told_to() {
    let mut quiet = spec(Datapath::Tc);
    quiet.extra = ["--announce", "none"].map(str::to_owned).to_vec();
    let mut scene = Scene::with(quiet, 1, 1);
    scene.write("objects.yaml", &[web(&scene), front(&scene)].concat());
    for (name, pods) in [(WEB[0], ["a1", "b1"]), (WEB[1], ["a1", "b1"])] {
        scene.until_reach((ip(name), TCP).into(), &pods, TCP_PORT);
    }
    assert_eq!(scene.until_state("default/front", "Accepted")["announced"], json!([]));
    // The route by which the stack would answer is there.
    eventually("the Gateway's VIP is local", LIMIT, || {
        let bound = scene.lab.node1.enter(|| std::net::UdpSocket::bind((ip(FRONT[0]), 0)));
        bound.map(drop)
    });
    for vip in vips() {
        let silent = Connection::open(&scene.lab.client, (vip, TCP).into());
        assert!(silent.is_err(), "{vip} answers");
        let known = remembered(&scene, vip).ok().and_then(|n| n.mac);
        assert_eq!(known, None, "{vip} is known to be somewhere");
    }
    assert!(metric(&scene.agent, "sluice_packets_total{reason=\"not_announced\"}") >= 4.0);
    assert_eq!(metric(&scene.agent, "sluice_announcements"), 0.0);
    ping(&scene.lab.client, addr::node_v4(1).into(), 56).expect("the node's own address answers");
    ping(&scene.lab.client, addr::node_v6(1).into(), 56).expect("the node's own address answers");
    scene.agent.stop().expect("it ends well");
    scene.agent.spec_mut().extra.clear();
    scene.agent.launch().expect("it starts again");
    until_served(&scene);
}

#[test]
fn s103_a_vip_that_moves_takes_the_neighbours_along() {
    let scene = Scene::with(spec(Datapath::Tc), 1, 1);
    let mut second = Agent::prepare_second(&scene.lab, spec(Datapath::Tc)).expect("directories");
    second.launch().expect("a second agent");
    let objects = [web(&scene), front(&scene)].concat();
    scene.write("objects.yaml", &objects);
    until_served(&scene);
    let [node1, node2] = [&scene.lab.node1, &scene.lab.node2].map(mac);
    until_at(&scene, vips(), node1);
    // No packet of the client's is needed: all it knows, it was told.
    for (from, to, at) in [(&scene.agent, &second, node2), (&second, &scene.agent, node1)] {
        from.remove("objects.yaml").expect("it is there");
        eventually("it is gone from one", LIMIT, || match from.show_json(&["services"])? {
            Value::Array(all) if all.is_empty() => Ok(()),
            other => anyhow::bail!("{other}"),
        });
        to.write("objects.yaml", &objects).expect("a manifest");
        until_at(&scene, vips(), at);
    }
    until_served(&scene);
}

#[test]
fn s103_a_carrier_that_returns_announces_again() {
    let scene = Scene::with(spec(Datapath::Tc), 1, 1);
    scene.write("objects.yaml", &[web(&scene), front(&scene)].concat());
    until_served(&scene);
    let node1 = mac(&scene.lab.node1);
    until_at(&scene, vips(), node1);
    let elsewhere = [2, 0, 0, 0, 0xee, 1];
    scene.lab.lan.net(async |net| net.down("node1").await).expect("the cable is pulled");
    for vip in vips() {
        let wrong = scene.lab.client.net(async |net| net.remember(UPLINK, vip, elsewhere, NeighbourState::Stale).await);
        wrong.expect("the client was told otherwise");
    }
    scene.lab.lan.net(async |net| net.up("node1").await).expect("the cable is put back");
    until_at(&scene, vips(), node1);
}
