//! ICMP errors through a VIP: path MTU discovery behind a link of the client's that takes less, and ports where nobody
//! listens; layer 4 with endpoints here and elsewhere, and layer 7 (issue 8, B9).
use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use serde_json::json;
use sluice_tests::netns::{
    Connection, Datapath, Namespace, Scene,
    addr::{self, ip},
    eventually,
    http::{self, Protocol},
    lab::UPLINK,
    manifest::{Service, Slice, gateway, http_route},
    scene::{APPLIED, FRONT, TCP, versions},
};

/// The link behind the lab's client, which is the router to it: the router's address, the far host's, and the network.
const LINK: [(&str, &str, &str, u8); 2] =
    [("192.0.2.1", "192.0.2.10", "192.0.2.0", 24), ("2001:db8:fa::1", "2001:db8:fa::10", "2001:db8:fa::", 64)];
/// The largest packet that the router sends over it. The far host itself does not know.
const MTU: u32 = 1_300;
/// Many packets of full size.
const LARGE: usize = 300_000;
/// A port of the pods where nobody listens, and the VIPs that lead there.
const NOBODY: u16 = 7_999;
const VOID: [&str; 2] = ["203.0.113.9", "2001:db8:113::9"];

/// A host behind the lab's client.
fn far(scene: &Scene) -> anyhow::Result<Namespace> {
    let (far, router) = (scene.lab.run().namespace("far")?, &scene.lab.client);
    for conf in ["all", "default"] {
        far.sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0")?;
    }
    router.sysctl("net/ipv4/ip_forward", "1")?;
    router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    router.net(async |net| {
        net.veth("far0", None, UPLINK, &far).await?;
        net.mtu("far0", MTU).await?;
        for (own, _, _, prefix) in LINK {
            net.address("far0", ip(own), prefix).await?;
        }
        Ok(())
    })?;
    far.net(async |net| {
        net.up(UPLINK).await?;
        for (gateway, own, _, prefix) in LINK {
            net.address(UPLINK, ip(own), prefix).await?;
            let any = if ip(own).is_ipv4() { "0.0.0.0" } else { "::" };
            net.route(ip(any), 0, UPLINK, Some(ip(gateway))).await?;
        }
        Ok(())
    })?;
    scene.lab.node1.net(async |net| {
        for ((_, _, network, prefix), by) in LINK.into_iter().zip([addr::CLIENT_V4.into(), addr::CLIENT_V6.into()]) {
            net.route(ip(network), prefix, UPLINK, Some(by)).await?;
        }
        Ok(())
    })?;
    Ok(far)
}

/// Errors that were sent on so far.
fn translated(scene: &Scene) -> u64 {
    scene.agent.show_json(&["status"]).expect("status")["reasons"]["icmp_translated"].as_u64().unwrap_or(0)
}

#[test]
fn b9_large_answers_reach_a_client_behind_a_smaller_mtu_by_tc() {
    discovers(Datapath::Tc);
}

#[test]
fn b9_large_answers_reach_a_client_behind_a_smaller_mtu_by_native_xdp() {
    discovers(Datapath::Xdp);
}

fn discovers(datapath: Datapath) {
    let scene = Scene::web(datapath, 1, 1);
    let far = far(&scene).expect("a far host");
    for pod in ["a1", "b1"] {
        scene.endpoints(&[pod]);
        for to in Scene::both(TCP) {
            let before = translated(&scene);
            let mut connection = Connection::open(&far, to).unwrap_or_else(|e| panic!("{to} at {pod}: {e}"));
            assert_eq!(connection.answer.pod, pod);
            connection.exchange(LARGE).unwrap_or_else(|e| panic!("300 kB both ways, {to} at {pod}: {e}"));
            assert!(translated(&scene) > before, "the pod was told: {to} at {pod}");
        }
    }
    let mut rules = vec![gateway("front", 80, Some(&FRONT.to_string()))];
    rules.push(http_route(
        "shop",
        "front",
        &["shop.example"],
        &json!([{"backendRefs": [{"name": "shop", "port": 80}]}]),
    ));
    rules.extend(versions(&scene.lab, "shop", &["a1"]));
    scene.write("front.yaml", &rules);
    eventually("300 kB by HTTP", Duration::from_secs(60), || {
        let request = http::with(http::get("shop.example", "/"), "x-test-body", &LARGE.to_string());
        let reply = http::send(&far, (IpAddr::from(FRONT), 80).into(), Protocol::Http1, request)?;
        anyhow::ensure!(reply.status == 200 && reply.body.len() == LARGE, "{} {}", reply.status, reply.body.len());
        Ok(())
    });
}

#[test]
fn b9_a_datagram_to_a_port_where_nobody_listens_is_refused() {
    let scene = Scene::web(Datapath::Tc, 1, 1);
    let far = far(&scene).expect("a far host");
    let service = Service::new("void").dual().annotation("sluice.dev/addresses", &VOID.join(","));
    let service = service.port("udp", "UDP", 53, NOBODY).json();
    for pod in ["a1", "b1"] {
        let pods = || scene.lab.select(&[pod]).into_iter();
        let slices = [Slice::new("void", "v4"), Slice::v6("void", "v6")];
        let slices = slices.map(|slice| slice.port("udp", "UDP", NOBODY).pods(pods()).json());
        scene.write("void.yaml", &[vec![service.clone()], slices.to_vec()].concat());
        for vip in VOID.map(ip) {
            let before = translated(&scene);
            eventually(&format!("{vip} at {pod} refuses"), APPLIED * 4, || {
                let said = far.enter(|| ask((vip, 53).into())).map_err(|e| e.kind());
                // Before the VIP has an endpoint Sluice itself refuses.
                anyhow::ensure!(said == Err(io::ErrorKind::ConnectionRefused), "{said:?}");
                anyhow::ensure!(translated(&scene) > before, "it was not the pod that refused");
                Ok(())
            });
        }
    }
}

/// Sends a datagram and waits for what comes back.
fn ask(to: SocketAddr) -> io::Result<usize> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(to)?;
    socket.send(b"hello")?;
    socket.recv(&mut [0; 16])
}
