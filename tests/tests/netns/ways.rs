//! The ways that flows take where there is more than the uplink: endpoints behind another card, an overlay or a tunnel, and
//! a way back to the client that leaves by an interface that nobody named.
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Agent, AgentSpec, Connection, Datapath, Lab, LabSpec, Namespace, Scene,
    addr::{self, ip},
    eventually,
    lab::UPLINK,
    manifest::Slice,
    namespace::Task,
    pod::{TCP_PORT, UDP_PORT},
    scene::{TCP, UDP, WEB_V4, WEB_V6, web},
    serve::{self, Identity},
    tunnel,
    udp::Flow,
};

/// How long anything here may take; on a busy machine a lost question alone costs a second.
const LIMIT: Duration = Duration::from_secs(60);
/// Connections, and flows of datagrams, that must all be served: enough for every endpoint to be chosen.
const FLOWS: usize = 12;

/// The slices of `web` with these endpoints, each an address and perhaps the node that it is said to run on.
fn slices(endpoints: &[(&str, Option<&str>)]) -> Vec<Value> {
    let of = |slice: Slice, v6: bool| {
        let slice = slice.port("tcp", "TCP", TCP_PORT).port("udp", "UDP", UDP_PORT);
        let ready = json!({"ready": true, "serving": true, "terminating": false});
        let here = endpoints.iter().filter(|(address, _)| ip(address).is_ipv6() == v6);
        here.fold(slice, |slice, (address, node)| {
            let mut endpoint = json!({"addresses": [address], "conditions": ready});
            if let Some(node) = node {
                endpoint["nodeName"] = json!(node);
            }
            slice.endpoint(endpoint)
        })
        .json()
    };
    vec![of(Slice::new("web", "v4"), false), of(Slice::v6("web", "v6"), true)]
}

/// Leads `web` to these endpoints.
fn lead(scene: &Scene, endpoints: &[(&str, Option<&str>)]) {
    scene.write("web.yaml", &[vec![web().json()], slices(endpoints)].concat());
}

/// A TCP connection and a flow of datagrams from an address of the client's, or any; whom the endpoints saw.
fn ask(client: &Namespace, from: Option<IpAddr>, vip: IpAddr) -> Result<[(String, IpAddr); 2], String> {
    let from = from.unwrap_or(if vip.is_ipv4() { ip("0.0.0.0") } else { ip("::") });
    let mut connection = Connection::open_bound(client, (from, 0).into(), (vip, TCP).into())
        .map_err(|e| format!("TCP to {vip}: {e}"))?;
    connection.exchange(200_000).map_err(|e| format!("200 kB over TCP to {vip}: {e}"))?;
    let flow = Flow::open_bound(client, (from, 0).into(), (vip, UDP).into());
    let datagram = flow.and_then(|flow| flow.ask(64)).map_err(|e| format!("UDP to {vip}: {e}"))?;
    Ok([connection.answer, datagram].map(|answer| (answer.pod, answer.peer)))
}

/// Waits until `web` is served in both families, and then wants every flow to be, and each of these pods to be chosen.
fn until_all_serve(scene: &Scene, pods: &[&str], from: [Option<&str>; 2], seen: &dyn Fn(&str, IpAddr) -> bool) {
    for vip in [IpAddr::from(WEB_V4), WEB_V6.into()] {
        for pod in pods {
            eventually(&format!("{vip} leads to {pod}"), LIMIT, || {
                let from = from[usize::from(vip.is_ipv6())].map(ip);
                let answers = ask(&scene.lab.client, from, vip)?;
                if answers.iter().any(|(who, _)| who == pod) { Ok(()) } else { Err(format!("{answers:?}")) }
            });
        }
    }
    until_served(scene, from, seen);
}

/// Waits until `web` is served in both families, and then wants every flow to be.
fn until_served(scene: &Scene, from: [Option<&str>; 2], seen: &dyn Fn(&str, IpAddr) -> bool) {
    for (vip, from) in [IpAddr::from(WEB_V4), WEB_V6.into()].into_iter().zip(from) {
        let from = from.map(ip);
        eventually(&format!("{vip} is served"), LIMIT, || ask(&scene.lab.client, from, vip).map(drop));
        for n in 0..FLOWS {
            let answers = ask(&scene.lab.client, from, vip).unwrap_or_else(|e| panic!("flow {n}: {e}"));
            for (pod, peer) in answers {
                assert!(seen(&pod, peer), "flow {n} to {vip}: {pod} saw {peer}");
            }
        }
    }
}

/// A host without a route to the client, whose servers answer as `far`.
struct Far {
    space: Namespace,
    _servers: Task,
}

impl Far {
    fn new(lab: &Lab) -> Self {
        let space = lab.run().namespace("far").expect("a namespace");
        for key in ["all", "default"] {
            space.sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0").expect("a setting");
        }
        let servers = serve::start(&space, Identity { pod: "far".to_owned(), version: "v1".to_owned() });
        Self { space, _servers: servers.expect("servers") }
    }
}

/// Gives a link addresses of both families.
fn give(space: &Namespace, link: &str, v4: (&str, u8), v6: (&str, u8)) {
    space
        .net(async |net| {
            net.up(link).await?;
            net.address(link, ip(v4.0), v4.1).await?;
            net.address(link, ip(v6.0), v6.1).await
        })
        .expect("addresses");
}

#[test]
fn b7_an_endpoint_on_a_second_card_is_served_whether_or_not_its_node_is_named() {
    let scene = Scene::empty(Datapath::Tc, 1, 0);
    let far = Far::new(&scene.lab);
    // The card comes after the agent.
    scene.lab.node1.net(async |net| net.veth("nic1", None, UPLINK, &far.space).await).expect("a cable");
    give(&scene.lab.node1, "nic1", ("10.50.0.1", 24), ("2001:db8:50::1", 64));
    give(&far.space, UPLINK, ("10.50.0.9", 24), ("2001:db8:50::9", 64));
    let seen = |pod: &str, peer: IpAddr| pod == "far" && [ip("10.50.0.1"), ip("2001:db8:50::1")].contains(&peer);
    for node in [None, Some("node9")] {
        lead(&scene, &[("10.50.0.9", node), ("2001:db8:50::9", node)]);
        until_served(&scene, [None, None], &seen);
    }
    // A pod of this node, whose node nobody names either, still sees the client.
    let pod = [scene.lab.pod("a1").ip(false).to_string(), scene.lab.pod("a1").ip(true).to_string()];
    lead(&scene, &[(&pod[0], None), (&pod[1], None)]);
    let client = [IpAddr::from(addr::CLIENT_V4), addr::CLIENT_V6.into()];
    eventually("the pod serves", LIMIT, || match ask(&scene.lab.client, None, WEB_V4.into()) {
        Ok([(pod, _), _]) if pod == "a1" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    until_served(&scene, [None, None], &|pod, peer| pod == "a1" && client.contains(&peer));
    let shown = scene.agent.show(&["status"]).expect("status");
    assert!(shown.lines().any(|line| line.starts_with("nic1") && line.contains("TC")), "{shown}");
    // Without the card nothing is attached to it.
    scene.lab.node1.net(async |net| net.delete("nic1").await).expect("the card");
    eventually("the card is forgotten", LIMIT, || {
        let sides = scene.agent.show_json(&["status"])?["sides"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(sides == 0, "{sides} side interfaces");
        Ok(())
    });
}

/// The overlay's device on the nodes.
const OVERLAY: &str = "flannel.1";

/// The address of a node in the overlay.
fn overlay_address(node: u8, v6: bool) -> IpAddr {
    if v6 { ip(&format!("2001:db8:244:{node}::1")) } else { addr::pods_v4(node).into() }
}

/// Makes the overlay between the nodes: pods of the other node are reached by it alone.
fn overlay(lab: &Lab) {
    for (space, node, other) in [(&lab.node1, 1, 2), (&lab.node2, 2, 1)] {
        space
            .net(async |net| {
                net.vxlan(OVERLAY, UPLINK, addr::node_v4(node), addr::node_v4(other)).await?;
                for v6 in [false, true] {
                    net.address(OVERLAY, overlay_address(node, v6), if v6 { 128 } else { 32 }).await?;
                    let gateway = overlay_address(other, v6);
                    net.route(gateway, if v6 { 128 } else { 32 }, OVERLAY, None).await?;
                    if v6 {
                        net.remove_route((addr::pods_v6(other).into(), 64), UPLINK).await?;
                    }
                    let pods = if v6 { (addr::pods_v6(other).into(), 64) } else { (addr::pods_v4(other).into(), 24) };
                    net.replace_route(pods, OVERLAY, Some(gateway), None).await?;
                }
                anyhow::Ok(())
            })
            .expect("an overlay");
    }
    for pod in &lab.pods {
        // As a CNI sets it.
        pod.space().net(async |net| net.mtu(UPLINK, 1450).await).expect("an MTU");
    }
}

fn until_overlaid(scene: &Scene) {
    let seen = |pod: &str, peer: IpAddr| match pod {
        "a1" => [IpAddr::from(addr::CLIENT_V4), addr::CLIENT_V6.into()].contains(&peer),
        _ => [overlay_address(1, false), overlay_address(1, true)].contains(&peer),
    };
    until_all_serve(scene, &["a1", "b1"], [None, None], &seen);
}

#[test]
fn b7_endpoints_behind_an_overlay_that_was_there_before_are_served() {
    let lab = Lab::build(&LabSpec::test(1, 1)).expect("a lab");
    overlay(&lab);
    let mut scene = Scene::on(lab, AgentSpec::new(Datapath::Tc));
    scene.write("web.yaml", &[web().json()]);
    scene.publish(&["a1", "b1"]);
    until_overlaid(&scene);
    // What was attached stays over a restart, and goes at the end.
    let mut connection = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection");
    scene.agent.kill9().expect("it ends");
    connection.exchange(100_000).expect("the programs forward alone");
    until_all_serve(&scene, &["a1", "b1"], [None, None], &|_, _| true);
    scene.agent.launch().expect("it starts again");
    connection.exchange(100_000).expect("the next agent has not cut it");
    until_overlaid(&scene);
}

#[test]
fn b7_endpoints_behind_an_overlay_that_comes_later_are_served_by_xdp_as_well() {
    let scene = Scene::empty(Datapath::Xdp, 1, 1);
    scene.write("web.yaml", &[web().json()]);
    scene.publish(&["a1", "b1"]);
    until_served(&scene, [None, None], &|_, _| true);
    overlay(&scene.lab);
    eventually("the overlay is noticed", LIMIT, || {
        let status = scene.agent.show_json(&["status"])?;
        anyhow::ensure!(status["sides"].to_string().contains(OVERLAY), "{}", status["sides"]);
        Ok(())
    });
    until_overlaid(&scene);
}

#[test]
fn b7_endpoints_behind_a_tunnel_for_ip_alone_are_served() {
    let scene = Scene::empty(Datapath::Tc, 0, 0);
    let far = Far::new(&scene.lab);
    let _tunnel = tunnel::tun("wg0", [&scene.lab.node1, &far.space]).expect("a tunnel");
    give(&scene.lab.node1, "wg0", ("10.80.0.1", 24), ("2001:db8:80::1", 64));
    give(&far.space, "wg0", ("10.80.0.9", 24), ("2001:db8:80::9", 64));
    let seen = |_: &str, peer: IpAddr| [ip("10.80.0.1"), ip("2001:db8:80::1")].contains(&peer);
    for node in [None, Some("node9")] {
        lead(&scene, &[("10.80.0.9", node), ("2001:db8:80::9", node)]);
        until_served(&scene, [None, None], &seen);
    }
}

/// The client's addresses that are reached by the default route alone.
const BEHIND: [&str; 2] = ["192.0.2.10", "2001:db8:77::10"];

/// Makes the way back to them leave by `link`, which joins node1 and the client and is no uplink.
fn back_by(lab: &Lab, link: &str) {
    give(&lab.node1, link, ("10.70.0.1", 24), ("2001:db8:70::1", 64));
    give(&lab.client, link, ("10.70.0.254", 24), ("2001:db8:70::254", 64));
    lab.client.sysctl("net/ipv4/conf/all/rp_filter", "0").expect("a setting");
    lab.client.sysctl(&format!("net/ipv4/conf/{link}/rp_filter"), "0").expect("a setting");
    give(&lab.client, "lo", (BEHIND[0], 32), (BEHIND[1], 128));
    lab.node1
        .net(async |net| {
            net.replace_route((ip("0.0.0.0"), 0), link, Some(ip("10.70.0.254")), None).await?;
            net.replace_route((ip("::"), 0), link, Some(ip("2001:db8:70::254")), None).await
        })
        .expect("default routes");
}

/// What `sluice status` says of the host's settings.
fn settings(agent: &Agent) -> anyhow::Result<String> {
    Ok(agent.show_json(&["status"])?["host"].to_string())
}

fn answers_return(scene: &Scene) {
    scene.write("web.yaml", &[web().json()]);
    scene.publish(&["a1", "b1"]);
    let strict = "net.ipv4.conf.eth0.rp_filter is strict, want 2";
    eventually("the strict filter is named", LIMIT, || {
        let said = settings(&scene.agent)?;
        anyhow::ensure!(said.contains(strict), "{said}");
        Ok(())
    });
    let why = scene.agent.show(&["why", "service/default/web"]).expect("why");
    assert!(why.contains(strict), "{why}");
    scene.lab.node1.sysctl("net/ipv4/conf/eth0/rp_filter", "2").expect("a setting");
    eventually("it is named no more", LIMIT, || {
        let said = settings(&scene.agent)?;
        anyhow::ensure!(said == "[]", "{said}");
        Ok(())
    });
    let seen = |pod: &str, peer: IpAddr| match pod {
        "a1" => BEHIND.map(ip).contains(&peer),
        _ => [IpAddr::from(addr::node_v4(1)), addr::node_v6(1).into()].contains(&peer),
    };
    until_all_serve(scene, &["a1", "b1"], BEHIND.map(Some), &seen);
}

#[test]
fn b7_answers_return_by_an_interface_that_nobody_named() {
    let scene = Scene::empty(Datapath::Tc, 1, 1);
    let (node, client) = (&scene.lab.node1, &scene.lab.client);
    node.net(async |net| net.veth("eth1", None, "eth1", client).await).expect("a cable");
    back_by(&scene.lab, "eth1");
    answers_return(&scene);
    // Clients are not served there: nothing was said of that.
    let direct: SocketAddr = (WEB_V4, TCP).into();
    let (vips, bits) = addr::VIPS_V4[0];
    let by_eth1 =
        client.net(async |net| net.replace_route((vips.into(), bits), "eth1", Some(ip("10.70.0.1")), None).await);
    by_eth1.expect("a route");
    assert!(Connection::open(client, direct).is_err(), "a VIP is served at an interface that is no uplink");
}

#[test]
fn b7_answers_return_by_a_tunnel_for_ip_alone() {
    let scene = Scene::empty(Datapath::Tc, 1, 1);
    let _tunnel = tunnel::tun("wg0", [&scene.lab.node1, &scene.lab.client]).expect("a tunnel");
    back_by(&scene.lab, "wg0");
    answers_return(&scene);
}

/// A sample of `/metrics`.
fn metric(agent: &Agent, name: &str) -> Option<f64> {
    let (_, text) = agent.get("/metrics").ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[test]
fn b7_an_endpoint_that_cannot_be_reached_is_left_out_and_named_and_comes_back() {
    let scene = Scene::empty(Datapath::Tc, 1, 1);
    let (a1, b1) = (scene.lab.pod("a1"), scene.lab.pod("b1"));
    let pods = [a1.ip(false), a1.ip(true), b1.ip(false), b1.ip(true)].map(|ip| ip.to_string());
    let (nowhere, refused) = ("10.99.99.9", "2001:db8:99::9");
    let node1 = &scene.lab.node1;
    node1.net(async |net| net.blackhole("2001:db8:99::".parse()?, 64).await).expect("a route");
    lead(&scene, &[(&pods[0], Some("node1")), (&pods[1], Some("node1")), (nowhere, Some("node9")), (refused, None)]);
    let until_left_out = |count: f64| {
        eventually(&format!("{count} endpoints are left out"), LIMIT, || {
            let found = metric(&scene.agent, "sluice_endpoints_left_out");
            if found == Some(count) { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    until_left_out(2.0);
    scene.until_reach((WEB_V4, TCP).into(), &["a1"], TCP_PORT);
    scene.until_reach((WEB_V6, TCP).into(), &["a1"], TCP_PORT);
    until_served(&scene, [None, None], &|pod, _| pod == "a1");
    let why = |object| scene.agent.show(&["why", object]).expect("why");
    for (object, endpoint, said) in [
        ("service/default/web", nowhere, "is left out on this node: no route leads there"),
        ("service/default/web", refused, "is left out on this node: a route refuses it (blackhole)"),
        ("endpointslice/default/web-v4", nowhere, "is left out on this node: no route leads there"),
    ] {
        let text = why(object);
        assert!(text.contains(&format!("endpoint {endpoint} {said}")), "{text}");
    }
    let status = scene.agent.show(&["status"]).expect("status");
    assert!(status.contains("endpoints that are left out:") && status.contains(nowhere), "{status}");
    // The way is there: the place is taken by a pod that really is on the other node.
    lead(&scene, &[(&pods[0], Some("node1")), (&pods[2], Some("node2")), (&pods[1], None), (&pods[3], None)]);
    until_left_out(0.0);
    until_all_serve(&scene, &["a1", "b1"], [None, None], &|_, _| true);
    // A route that goes and comes: out, and in again.
    let far = (addr::pods_v4(2).into(), 24);
    node1.net(async |net| net.remove_route(far, UPLINK).await).expect("a route");
    until_left_out(1.0);
    scene.until_reach((WEB_V4, TCP).into(), &["a1"], TCP_PORT);
    let back = node1.net(async |net| net.replace_route(far, UPLINK, Some(addr::node_v4(2).into()), None).await);
    back.expect("a route");
    until_left_out(0.0);
    scene.until_reach((WEB_V4, TCP).into(), &["a1", "b1"], TCP_PORT);
}

#[test]
fn an_uplink_with_a_dot_in_its_name_serves() {
    let lab = Lab::build(&LabSpec::test(1, 0)).expect("a lab");
    let name = "eth0.100";
    lab.node1.net(async |net| net.delete(UPLINK).await).expect("the uplink goes");
    lab.lan.net(async |net| net.veth("vlan100", Some("br0"), name, &lab.node1).await).expect("a cable");
    let (v4, v6) = (addr::node_v4(1).to_string(), addr::node_v6(1).to_string());
    give(&lab.node1, name, (&v4, 24), (&v6, 64));
    let mut spec = AgentSpec::new(Datapath::XdpGeneric);
    spec.interfaces = vec![name.to_owned()];
    let scene = Scene::on(lab, spec);
    scene.write("web.yaml", &[web().json()]);
    scene.publish(&["a1"]);
    until_all_serve(&scene, &["a1"], [None, None], &|_, _| true);
}
