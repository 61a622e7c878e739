//! How many clients move when an endpoint comes or goes (issue 8, B5).
use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::json;
use sluice_tests::netns::{
    Datapath, Scene,
    lab::UPLINK,
    pod::TCP_PORT,
    scene::{TCP, UDP, WEB_V4, web},
    udp::Flow,
};

/// Clients, each with an address of its own.
const CLIENTS: u8 = 64;

fn client(n: u8) -> std::net::IpAddr {
    [198, 51, 100, 100 + n].into()
}

/// Which pod answers each client, every time on a new flow.
fn answers(scene: &Scene) -> BTreeMap<u8, String> {
    let to = SocketAddr::from((WEB_V4, UDP));
    let answer = |n| {
        let flow = Flow::open_bound(&scene.lab.client, (client(n), 0).into(), to).expect("a socket");
        (n, flow.ask(10).expect("an answer").pod)
    };
    (0..CLIENTS).map(answer).collect()
}

#[test]
fn clients_with_affinity_stay_where_they_are_but_for_about_one_of_n() {
    let scene = Scene::empty(Datapath::Tc, 11, 0);
    let addresses = scene.lab.client.net(async |net| {
        for n in 0..CLIENTS {
            net.address(UPLINK, client(n), 32).await?;
        }
        Ok(())
    });
    addresses.expect("addresses of the clients");
    scene.write("web.yaml", &[web().spec("sessionAffinity", json!("ClientIP")).json()]);
    let names: Vec<String> = (1..=11).map(|n| format!("a{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let publish = |n: usize| {
        scene.publish(&names[..n]);
        scene.until_reach((WEB_V4, TCP).into(), &names[..n], TCP_PORT);
        answers(&scene)
    };
    // Of 64, 46 and 57 moved where the size of the table was another: of a third and an eleventh, these are the bounds.
    for (few, bound) in [(2, 30), (10, 16)] {
        let (before, more, after) = (publish(few), publish(few + 1), publish(few));
        let moved = before.iter().filter(|(n, pod)| more[n] != **pod).count();
        assert!((1..=bound).contains(&moved), "{moved} of {CLIENTS} moved from {few} to {}", few + 1);
        assert_eq!(before, after, "and back: the table is that of its endpoints, whatever came before");
    }
}
