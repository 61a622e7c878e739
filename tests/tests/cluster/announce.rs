//! Announcement in a cluster: for each VIP one node answers, whatever happens to it or to its way to the API server.
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use serde_json::json;
use sluice_tests::{
    cluster::{
        Calls, Fault, Patch, TestNamespace, Verb,
        look::condition,
        scene::{Scene, load_balancer, pool_of},
    },
    netns::{Agent, Connection, lab::UPLINK, pod::TCP_PORT},
};

/// Longer than the Lease of a node is valid.
const LEASE: Duration = Duration::from_secs(6);
/// Changes of a Service that concern no node, ten a second.
const CHANGES: u64 = 30;
/// For how long the Lease of an agent is valid that has ended on purpose.
const LEAVING: Duration = Duration::from_secs(40);

/// The node that answers the client when it asks anew for a VIP, from 0, and forwards for it.
fn asked(scene: &Scene, vip: IpAddr) -> anyhow::Result<usize> {
    let client = &scene.lab.client;
    client.net(async |net| net.forget(vip).await)?;
    Connection::open(client, (vip, 80).into())?.exchange(100)?;
    let known = client.net(async |net| net.neighbour(vip).await)?;
    for (node, space) in [&scene.lab.node1, &scene.lab.node2].into_iter().enumerate() {
        if known.mac == Some(space.net(async |net| net.mac(UPLINK).await)?) {
            return Ok(node);
        }
    }
    anyhow::bail!("{:x?} is no node", known.mac)
}

/// The node that answers, and no other: of two that answer now the one is quicker, now the other.
fn alone(scene: &Scene, vip: IpAddr) -> anyhow::Result<usize> {
    let node = asked(scene, vip)?;
    for _ in 0..5 {
        anyhow::ensure!(asked(scene, vip)? == node, "{vip} is at both nodes");
    }
    Ok(node)
}

/// Waits until each VIP is at its node.
fn until(scene: &Scene, what: &str, vips: &[(IpAddr, usize)]) {
    let began = Instant::now();
    scene.plane.until(what, |_| {
        for (vip, wanted) in vips {
            let node = alone(scene, *vip)?;
            anyhow::ensure!(node == *wanted, "{vip} is at node{}, want node{}", node + 1, wanted + 1);
        }
        Ok(())
    });
    eprintln!("{what}: after {:.1?}", began.elapsed());
}

/// Each VIP is at its node for longer than a Lease is valid.
fn stays(scene: &Scene, what: &str, vips: &[(IpAddr, usize)]) {
    let began = Instant::now();
    while began.elapsed() < LEASE {
        for (vip, node) in vips {
            assert_eq!(alone(scene, *vip).expect(what), *node, "{what}: {vip}");
        }
    }
}

/// Issue 10: a change of what is shown already has no node write, and no condition names one.
fn a_change_costs_no_lease(scene: &Scene, ns: &TestNamespace<'_>) {
    let path = format!("/api/v1/namespaces/{}/services/web", ns.name());
    let service = scene.plane.until("its condition is written", |api| {
        let service = api.get(&path)?;
        anyhow::ensure!(condition(&service).is_some_and(|c| c["status"] == "True"), "{service:#}");
        Ok(service)
    });
    let conditions = service["status"]["conditions"].to_string();
    assert!(!conditions.contains("node1") && !conditions.contains("node2"), "{conditions}");
    let leases = Calls::of(&[Verb::Patch]).to("leases");
    let count = || scene.proxies.iter().map(|proxy| proxy.count(&leases)).collect::<Vec<_>>();
    let (before, began) = (count(), Instant::now());
    for turn in 0..CHANGES {
        let label = json!({ "metadata": { "labels": { "turn": turn.to_string() } } });
        scene.plane.api().patch(&path, Patch::Merge, &label).expect("a label");
        std::thread::sleep(Duration::from_millis(100));
    }
    // What is due at rest, and a few for whatever else goes on.
    let most = began.elapsed().as_secs() + 8;
    for (node, (before, after)) in before.into_iter().zip(count()).enumerate() {
        let written = after - before;
        assert!(written <= most, "node{}: {written} writes for {CHANGES} changes, want {most} at most", node + 1);
    }
}

/// Kills an agent and starts it; it does not reach the API server, so that it is not ready.
fn restart(agent: &mut Agent) {
    agent.kill9().expect("it runs");
    agent.spawn().expect("it starts again");
}

fn cut(scene: &Scene, node: usize) {
    scene.proxies[node].fault(Calls::all(), Fault::Cut).expect("a fault");
    scene.proxies[node].close_watches(Calls::all());
}

#[test]
fn s99_s100_s101_s102_one_node_answers_for_a_vip_whatever_happens() {
    let mut scene = Scene::start(2, 1);
    pool_of(&scene.plane, "lan", &json!({ "addresses": ["198.51.100.192/28", "2001:db8:51::f:0/124"], "priority": 1 }));
    let ns = scene.plane.namespace("announce");
    ns.apply("", "services/web", &load_balancer(&json!({ "ipFamilyPolicy": "RequireDualStack" })));
    scene.endpoints(ns.name(), "web", TCP_PORT, &["a1", "b1"]);
    let vips = scene.plane.until("an address", |_| scene.addresses(ns.name(), "web"));
    assert_eq!(vips.len(), 2, "{vips:?}");
    // The hash chooses for each address by itself.
    let home: Vec<_> =
        vips.iter().map(|vip| (*vip, scene.plane.until("it is announced", |_| alone(&scene, *vip)))).collect();
    let away: Vec<_> = home.iter().map(|(vip, _)| (*vip, 1 - home[0].1)).collect();
    let first = home[0].1;
    // Every node says who announces it.
    let name = format!("{}/web", ns.name());
    for agent in &scene.agents {
        let services = agent.show_json(&["services"]).expect("services");
        let shown =
            services.as_array().into_iter().flatten().find(|s| s["name"] == name.as_str()).expect("it is listed");
        let why = agent.show(&["why", &format!("service/{name}")]).expect("why");
        for (vip, node) in &home {
            let by = format!("node{}", node + 1);
            assert_eq!(shown["announcers"][vip.to_string()], by, "{shown:#}");
            assert!(why.contains(&format!("{vip}: of pool lan, announced by {by}")), "{why}");
            assert!(why.contains("80/TCP: to 2 endpoints, 1 of them on this node"), "{why}");
        }
    }

    a_change_costs_no_lease(&scene, &ns);

    cut(&scene, first);
    until(&scene, "S101: who is cut off from the API server yields", &away);
    // An agent that starts there knows no more than the one before it, and its programs have heard who has the VIPs.
    restart(&mut scene.agents[first]);
    stays(&scene, "S101: a start does not take them back", &away);
    scene.proxies[first].clear();
    until(&scene, "it hears of the others again", &home);

    scene.agents[first].kill9().expect("it can be killed");
    until(&scene, "S102: another takes over from one that was killed", &away);
    // One that ends as soon as it has come, while the other still says that it stands in for it.
    scene.agents[first].launch().expect("it starts again");
    scene.agents[first].stop().expect("it ends");
    let left = Instant::now();
    until(&scene, "S102: another goes on for one that ends at once", &away);
    assert!(left.elapsed() < LEAVING / 2, "it was waited for: {:.1?}", left.elapsed());
    std::thread::sleep(LEASE / 2);
    stays(&scene, "nobody waits for it", &away);
    scene.agents[first].launch().expect("it starts again");
    until(&scene, "it is back", &home);
    stays(&scene, "it has settled", &home);

    // An agent that ends on purpose is expected back, and its node keeps its VIPs; unless the machine goes as well.
    scene.endpoints(ns.name(), "web", TCP_PORT, &[["b1", "a1"][first]]);
    scene.agents[first].stop().expect("it ends");
    let left = Instant::now();
    while left.elapsed() < LEASE {
        for (vip, node) in &home {
            assert_eq!(alone(&scene, *vip).expect("S141: it answers while the agent is away"), *node);
        }
    }
    let port = ["node1", "node2"][first];
    scene.lab.lan.net(async |net| net.down(port).await).expect("the machine is switched off");
    until(&scene, "S100: another takes over from a machine that is switched off in order", &away);
    assert!(left.elapsed() < LEAVING, "only when its Lease had ended: after {:.1?}", left.elapsed());
    scene.lab.lan.net(async |net| net.up(port).await).expect("the machine is switched on");
    until(&scene, "its programs yield to who has taken over", &away);
    scene.agents[first].launch().expect("it starts again");
    until(&scene, "it is back again", &home);

    (0..2).for_each(|node| cut(&scene, node));
    // One that has been dead for longer than its Lease was valid goes on as well: nobody can have taken over.
    scene.agents[first].kill9().expect("it runs");
    scene.plane.until("its programs fall silent", |_| match alone(&scene, home[0].0) {
        Ok(node) => anyhow::bail!("node{} answers", node + 1),
        Err(_) => Ok(()),
    });
    scene.agents[first].spawn().expect("it starts again");
    until(&scene, "an agent that starts while the API server is away", &home);
    stays(&scene, "S39: it answers while the API server is away", &home);
    scene.proxies.iter().for_each(sluice_tests::cluster::Proxy::clear);
    std::thread::sleep(LEASE);
    until(&scene, "the API server is back", &home);
}
