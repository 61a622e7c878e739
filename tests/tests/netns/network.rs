//! The node's place in the network: which address flows to other nodes come from, and VIPs that something else has bound.
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use netlink_packet_route::{address::AddressFlags, neighbour::NeighbourState};
use serde_json::{Value, json};
use sluice_tests::netns::{
    Agent, AgentSpec, Connection, Datapath, Failure, Lab, LabSpec, Scene,
    addr::{self, ip},
    eventually,
    lab::UPLINK,
    manifest::{Service, Slice},
    ping::ping,
    pod::TCP_PORT,
    scene::{TCP, WEB_V4, WEB_V6, web},
    serve::{self, Identity},
};

/// How long anything here may take; on a busy machine a lost question alone costs a second.
const LIMIT: Duration = Duration::from_secs(60);
/// The interface to which something else binds VIPs, as kube-proxy does.
const OTHER: &str = "kube-ipvs0";
/// VIPs on the network of the client and the nodes.
const VIPS: [&str; 2] = ["198.51.100.200", "2001:db8:51::f:200"];

/// Waits until the pod on the other node sees this node come from `source`.
fn until_from(scene: &Scene, source: &str, why: &str) {
    let source = ip(source);
    let to: SocketAddr = if source.is_ipv4() { (WEB_V4, TCP).into() } else { (WEB_V6, TCP).into() };
    eventually(&format!("{why}: flows come from {source}"), LIMIT, || {
        let mut connection = Connection::open(&scene.lab.client, to).map_err(|e| e.to_string())?;
        connection.exchange(2_000).map_err(|e| e.to_string())?;
        if connection.answer.peer == source { Ok(()) } else { Err(connection.answer.peer.to_string()) }
    });
}

#[test]
fn flows_to_another_node_come_from_where_the_routing_table_says_by_tc() {
    sources(Datapath::Tc);
}

#[test]
fn flows_to_another_node_come_from_where_the_routing_table_says_by_native_xdp() {
    sources(Datapath::Xdp);
}

fn sources(datapath: Datapath) {
    let scene = Scene::web(datapath, 0, 1);
    let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
    let pods = (addr::pods_v4(2).into(), 24);
    until_from(&scene, "198.51.100.1", "one address");
    let second = ["198.51.101.1", "198.51.101.2"].map(ip);
    node2.net(async |net| net.address(UPLINK, second[1], 24).await).expect("a second subnet");
    node1
        .net(async |net| {
            net.address(UPLINK, second[0], 24).await?;
            net.replace_route(pods, UPLINK, Some(second[1]), None).await
        })
        .expect("a second subnet");
    until_from(&scene, "198.51.101.1", "the gateway is on the second subnet");
    let loopback = ip("192.0.2.77");
    node2.net(async |net| net.route(loopback, 32, UPLINK, Some(second[0])).await).expect("the way back");
    node1
        .net(async |net| {
            net.up("lo").await?;
            net.address("lo", loopback, 32).await?;
            net.replace_route(pods, UPLINK, Some(second[1]), Some(loopback)).await
        })
        .expect("a route with a source");
    until_from(&scene, "192.0.2.77", "the route names its source");
    // Routed: the uplink has no address at all.
    let own = addr::node_v4(1).into();
    node1
        .net(async |net| {
            for address in [second[0], own] {
                net.remove_address(UPLINK, address).await?;
            }
            net.remove_address("lo", loopback).await?;
            net.address("lo", own, 32).await?;
            net.replace_route((ip("198.51.100.0"), 24), UPLINK, None, None).await?;
            net.replace_route(pods, UPLINK, Some(addr::node_v4(2).into()), None).await
        })
        .expect("the address moves to lo");
    until_from(&scene, "198.51.100.1", "the node's only address is on lo");
}

#[test]
fn b4_a_flow_from_an_address_that_the_host_has_lost_is_ended_and_others_are_not() {
    let scene = Scene::web(Datapath::Tc, 0, 1);
    let (node1, node2) = (&scene.lab.node1, &scene.lab.node2);
    let (pods, [second, gateway]) = ((addr::pods_v4(2).into(), 24), ["198.51.101.1", "198.51.101.2"].map(ip));
    let stays = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection");
    assert_eq!(stays.answer.peer, ip("198.51.100.1"));
    node2.net(async |net| net.address(UPLINK, gateway, 24).await).expect("a second subnet");
    node1
        .net(async |net| {
            net.address(UPLINK, second, 24).await?;
            net.replace_route(pods, UPLINK, Some(gateway), None).await
        })
        .expect("a second subnet");
    until_from(&scene, "198.51.101.1", "the gateway is on the second subnet");
    let uptime = || scene.agent.show_json(&["status"]).expect("status")["uptimeSeconds"].as_u64().unwrap_or_default();
    let began = uptime();
    // The agent has looked at the interface by then.
    eventually("the agent has seen the address", LIMIT, || if uptime() > began + 2 { Ok(()) } else { Err(uptime()) });
    let mut goes = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection");
    assert_eq!(goes.answer.peer, second);
    node1
        .net(async |net| {
            net.replace_route(pods, UPLINK, Some(addr::node_v4(2).into()), None).await?;
            net.remove_address(UPLINK, second).await
        })
        .expect("the second subnet goes");
    eventually("the client is reset", LIMIT, || match goes.exchange(10) {
        Err(Failure::Reset) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut stays = stays;
    stays.exchange(1_000).expect("the other flow goes on");
}

#[test]
fn no_flow_comes_from_an_address_that_may_not_be_used() {
    let scene = Scene::web(Datapath::Tc, 0, 1);
    let node1 = &scene.lab.node1;
    let (deprecated, duplicate, fresh) = (ip("2001:db8:51::d"), ip("2001:db8:51::10"), ip("2001:db8:51::5"));
    until_from(&scene, "2001:db8:51::1", "one address");
    node1.net(async |net| net.address_deprecated(UPLINK, deprecated, 64).await).expect("an address");
    for key in ["all", "eth0"] {
        node1.sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "1").expect("a setting");
    }
    node1.net(async |net| net.address_detected(UPLINK, duplicate, 64).await).expect("the client's address");
    eventually("the address is found to be the client's", LIMIT, || {
        let flags = node1.net(async |net| net.address_flags(UPLINK, duplicate).await)?;
        anyhow::ensure!(flags.contains(AddressFlags::Dadfailed), "{flags:?}");
        Ok(())
    });
    let shown = || {
        let status = scene.agent.show_json(&["status"]).expect("status");
        status["uplinks"][0]["addresses"][1].as_str().unwrap_or_default().to_owned()
    };
    // The agent has looked at the interface by then.
    eventually("the agent has seen all", LIMIT, || {
        let seen = scene.agent.show_json(&["status"])?["uptimeSeconds"].as_u64().unwrap_or_default();
        anyhow::ensure!(seen > 3, "{seen} s");
        Ok(())
    });
    for _ in 0..5 {
        until_from(&scene, "2001:db8:51::1", "neither the deprecated nor the duplicate one");
        assert_eq!(shown(), "2001:db8:51::1");
    }
    // It follows.
    node1
        .net(async |net| {
            net.address(UPLINK, fresh, 64).await?;
            net.address_deprecated(UPLINK, addr::node_v6(1).into(), 64).await
        })
        .expect("another address");
    until_from(&scene, "2001:db8:51::5", "the old one is deprecated now");
    eventually("the status follows", LIMIT, || if shown() == "2001:db8:51::5" { Ok(()) } else { Err(shown()) });
}

/// A Service on the network of the client and the nodes.
fn on_the_lan(scene: &Scene) -> Vec<Value> {
    let service = Service::new("lan").dual().annotation("sluice.dev/addresses", &VIPS.join(","));
    let slices = [Slice::new("lan", "v4"), Slice::v6("lan", "v6")];
    let slices = slices.map(|s| s.port("tcp", "TCP", TCP_PORT).pods(&scene.lab.pods).json());
    [vec![service.port("tcp", "TCP", TCP, TCP_PORT).json()], slices.to_vec()].concat()
}

fn spec() -> AgentSpec {
    AgentSpec::new(Datapath::Tc).pools(&["198.51.100.192/26", "2001:db8:51::f:0/112"])
}

/// Binds the VIPs on a node as something else would, `arp_ignore` being as given.
fn bind(scene: &Scene, arp_ignore: &str) {
    let node = &scene.lab.node1;
    node.sysctl("net/ipv4/conf/all/arp_ignore", arp_ignore).expect("a setting");
    node.net(async |net| {
        // There is no dummy device here; a bridge without ports is as good.
        net.bridge(OTHER).await?;
        for vip in VIPS.map(ip) {
            net.address(OTHER, vip, if vip.is_ipv4() { 32 } else { 128 }).await?;
        }
        Ok(())
    })
    .expect("an interface with the VIPs");
}

/// What the client knows of where an address is.
fn known(scene: &Scene, vip: IpAddr) -> Option<[u8; 6]> {
    scene.lab.client.net(async |net| net.neighbour(vip).await).ok().and_then(|n| n.mac)
}

fn until_said(agent: &Agent) {
    eventually("the status says that something has bound the VIPs", LIMIT, || {
        let status = agent.show_json(&["status"])?;
        let bound = status["bound"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(bound == 2, "{}", status["bound"]);
        Ok(())
    });
    let why = agent.show(&["why", "service/default/lan"]).expect("why");
    for vip in VIPS {
        let said = format!("{vip}: something has bound it to {OTHER}; Sluice answers for it all the same");
        assert!(why.contains(&said), "{said:?} is not in: {why}");
    }
    let shown = agent.show(&["status"]).expect("status");
    assert!(shown.contains("VIPs that are bound on this host:"), "{shown}");
}

#[test]
fn a_vip_that_is_bound_on_another_interface_is_announced_by_the_announcer() {
    for arp_ignore in ["0", "1"] {
        let scene = Scene::with(spec(), 1, 1);
        bind(&scene, arp_ignore);
        scene.write("lan.yaml", &on_the_lan(&scene));
        until_said(&scene.agent);
        for vip in VIPS.map(ip) {
            eventually(&format!("{vip} is served, arp_ignore {arp_ignore}"), LIMIT, || {
                let mut connection =
                    Connection::open(&scene.lab.client, (vip, TCP).into()).map_err(|e| e.to_string())?;
                connection.exchange(2_000).map_err(|e| e.to_string())
            });
            ping(&scene.lab.client, vip, 56).expect("an echo");
        }
        // It goes again, and leaves nothing behind.
        scene.lab.node1.net(async |net| net.delete(OTHER).await).expect("an interface");
        eventually("the status says so no more", LIMIT, || {
            match scene.agent.show_json(&["status"])?["bound"].as_array() {
                Some(bound) if bound.is_empty() => Ok(()),
                other => anyhow::bail!("{other:?}"),
            }
        });
        Connection::open(&scene.lab.client, (ip(VIPS[0]), TCP).into()).expect("a connection");
    }
}

#[test]
fn a_node_that_does_not_announce_a_vip_is_silent_about_one_that_is_bound_there() {
    for arp_ignore in ["0", "1"] {
        let mut quiet = spec();
        quiet.extra = ["--announce", "none"].map(str::to_owned).to_vec();
        let scene = Scene::with(quiet, 1, 1);
        bind(&scene, arp_ignore);
        scene.write("lan.yaml", &on_the_lan(&scene));
        until_said(&scene.agent);
        let client = addr::CLIENT_V4.into();
        for vip in VIPS.map(ip) {
            assert!(Connection::open(&scene.lab.client, (vip, TCP).into()).is_err(), "{vip} answers");
            assert_eq!(known(&scene, vip), None, "{vip} is known to be somewhere, arp_ignore {arp_ignore}");
        }
        // The host speaks from the address, and looks for the client first: it must not say that the VIP is here.
        scene.lab.node1.net(async |net| net.forget(client).await).expect("the client is forgotten");
        let say = || UdpSocket::bind((ip(VIPS[0]), 0)).and_then(|s| s.send_to(b"hello", (client, 9)));
        scene.lab.node1.enter(say).expect("a datagram");
        eventually("the client has been found", LIMIT, || {
            let found = scene.lab.node1.net(async |net| net.neighbour(client).await)?;
            let is_known = found.mac.is_some() && found.state != NeighbourState::Incomplete;
            anyhow::ensure!(is_known, "{found:?}");
            Ok(())
        });
        assert_eq!(known(&scene, ip(VIPS[0])), None, "the question has named the VIP");
    }
}

/// A sample of `/metrics`.
fn metric(agent: &Agent, name: &str) -> Option<f64> {
    let (_, text) = agent.get("/metrics").ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn b8_an_address_that_another_host_has_is_not_announced_until_that_host_is_gone() {
    let scene = Scene::with(spec(), 1, 1);
    let node2 = &scene.lab.node2;
    let other = node2
        .net(async |net| {
            for vip in VIPS.map(ip) {
                net.address(UPLINK, vip, if vip.is_ipv4() { 32 } else { 128 }).await?;
            }
            net.mac(UPLINK).await
        })
        .expect("another host has the addresses");
    scene.write("lan.yaml", &on_the_lan(&scene));
    eventually("the conflict is known", LIMIT, || match scene.agent.show_json(&["status"])?["conflicts"].as_array() {
        Some(conflicts) if conflicts.len() == 2 => Ok(()),
        other => anyhow::bail!("{other:?}"),
    });
    let [a, b, c, d, e, f] = other;
    let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let why = scene.agent.show(&["why", "service/default/lan"]).expect("why");
    for vip in VIPS {
        assert!(why.contains(&format!("{vip}: another host ({mac}) has the address: it is not announced")), "{why}");
        assert!(!why.contains("announced here"), "{why}");
    }
    assert_eq!(metric(&scene.agent, "sluice_address_conflicts"), Some(2.0));
    assert_eq!(metric(&scene.agent, "sluice_announcements_total"), Some(0.0));
    assert_eq!(scene.until_state("default/lan", "Accepted")["announced"], json!([]));
    // Nobody is led here.
    for vip in VIPS.map(ip) {
        ping(&scene.lab.client, vip, 56).expect("the other host answers");
        assert_eq!(known(&scene, vip), Some(other), "{vip}");
    }
    node2
        .net(async |net| {
            for vip in VIPS.map(ip) {
                net.remove_address(UPLINK, vip).await?;
            }
            anyhow::Ok(())
        })
        .expect("it gives them up");
    for vip in VIPS.map(ip) {
        eventually(&format!("{vip} is served"), LIMIT, || {
            let mut connection = Connection::open(&scene.lab.client, (vip, TCP).into()).map_err(|e| e.to_string())?;
            connection.exchange(2_000).map_err(|e| e.to_string())
        });
    }
    assert_eq!(scene.until_state("default/lan", "Accepted")["announced"], json!(VIPS));
    assert_eq!(metric(&scene.agent, "sluice_address_conflicts"), Some(0.0));
}

#[test]
fn b8_an_agent_alone_gives_no_address_that_its_host_has() {
    // .1 is this node's, .2 and .10 are found by asking when they are about to be announced.
    let scene = Scene::with(AgentSpec::new(Datapath::Tc).pools(&["198.51.100.0/29"]), 1, 0);
    let service = |name: &str| Service::new(name).port("tcp", "TCP", TCP, TCP_PORT).json();
    let names = ["s1", "s2", "s3", "s4", "s5", "s6"];
    scene.write("services.yaml", &names.map(service));
    let last = scene.until_state("default/s6", "PoolExhausted");
    assert!(last["messages"].to_string().contains("198.51.100.1 is this node's own"), "{last}");
    let given: Vec<Value> = names[..5]
        .iter()
        .map(|n| scene.until_state(&format!("default/{n}"), "Accepted")["addresses"][0].clone())
        .collect();
    assert_eq!(given, ["2", "3", "4", "5", "6"].map(|n| json!(format!("198.51.100.{n}"))));
    eventually(
        "the other node's address is found out",
        LIMIT,
        || match scene.agent.show_json(&["status"])?["conflicts"].as_array() {
            Some(conflicts) if conflicts.len() == 1 && conflicts[0].to_string().contains("198.51.100.2: ") => Ok(()),
            other => anyhow::bail!("{other:?}"),
        },
    );
}

#[test]
fn b7_a_pod_on_the_clients_own_network_behind_the_uplink_answers_through_the_node() {
    for datapath in [Datapath::Tc, Datapath::XdpGeneric] {
        let lab = Lab::build(&LabSpec::test(0, 0)).expect("a lab");
        let guest = lab.run().namespace("guest").expect("a namespace");
        let (bridge, own, addresses) =
            ("br-up", ["198.51.100.5", "2001:db8:51::5"], ["198.51.100.50", "2001:db8:51::50"]);
        lab.lan.net(async |net| net.veth("seg", Some("br0"), "seg0", &lab.node1).await).expect("a cable");
        lab.node1
            .net(async |net| {
                net.down(UPLINK).await?;
                net.bridge(bridge).await?;
                net.down(bridge).await?;
                net.set_mac(bridge, [2, 0, 0, 0, 0xbb, 1]).await?;
                net.up(bridge).await?;
                net.enslave("seg0", bridge).await?;
                net.veth("veth-guest", Some(bridge), UPLINK, &guest).await?;
                net.address(bridge, ip(own[0]), 24).await?;
                net.address(bridge, ip(own[1]), 64).await
            })
            .expect("an uplink that is a bridge");
        for key in ["all", "default"] {
            guest.sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0").expect("a setting");
        }
        guest
            .net(async |net| {
                net.up(UPLINK).await?;
                net.address(UPLINK, ip(addresses[0]), 24).await?;
                net.address(UPLINK, ip(addresses[1]), 64).await
            })
            .expect("a guest on the clients' network");
        let _servers = serve::start(&guest, Identity { pod: "guest".to_owned(), version: "v1".to_owned() });
        lab.client
            .net(async |net| {
                let [(v4, bits), _] = addr::VIPS_V4;
                net.replace_route((v4.into(), bits), UPLINK, Some(ip(own[0])), None).await?;
                let (v6, bits) = addr::VIPS_V6;
                net.remove_route((v6.into(), bits), UPLINK).await?;
                net.replace_route((v6.into(), bits), UPLINK, Some(ip(own[1])), None).await
            })
            .expect("the way to the VIPs");
        let mut spec = AgentSpec::new(datapath);
        spec.interfaces = vec![bridge.to_owned()];
        let scene = Scene::on(lab, spec);
        let [v4, v6] =
            [(Slice::new("web", "v4"), addresses[0]), (Slice::v6("web", "v6"), addresses[1])].map(|(s, at)| {
                let ready = json!({"ready": true, "serving": true, "terminating": false});
                s.port("tcp", "TCP", TCP_PORT)
                    .port("udp", "UDP", TCP_PORT)
                    .endpoint(json!({"addresses": [at], "conditions": ready, "nodeName": "node1"}))
                    .json()
            });
        scene.write("web.yaml", &[web().json(), v4, v6]);
        for (to, own) in Scene::both(TCP).into_iter().zip(own) {
            eventually(&format!("{to} is served, {datapath:?}"), LIMIT, || {
                let mut connection = Connection::open(&scene.lab.client, to).map_err(|e| e.to_string())?;
                connection.exchange(300_000).map_err(|e| e.to_string())?;
                if connection.answer.peer == ip(own) { Ok(()) } else { Err(format!("{:?}", connection.answer)) }
            });
        }
    }
}
