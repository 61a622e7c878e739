//! A node's interfaces under an agent that follows a real API server: they go, come back, change and are shared with
//! programs of others. S144, S145; with manifests in `netns/restart.rs`.
use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context as _;
use aya::programs::{SchedClassifier, TcAttachType, links::LinkOrder};
use serde_json::{Value, json};
use sluice_tests::{
    cluster::scene::{Scene, load_balancer},
    netns::{Agent, Connection, Datapath, addr, lab::UPLINK, load, pass::Pass},
};

/// The ids of the TC programs on the uplink of node1, in their order.
fn on_ingress(scene: &Scene) -> Vec<u32> {
    let found = scene.lab.node1.enter(|| SchedClassifier::query_tcx(UPLINK, TcAttachType::Ingress));
    found.expect("an uplink").1.iter().map(aya::programs::ProgramInfo::id).collect()
}

/// The first uplink in an agent's status.
fn uplink(agent: &Agent) -> Value {
    agent.show_json(&["status"]).expect("status")["uplinks"][0].take()
}

/// Waits until `/readyz` answers so, in these words.
fn until_ready(scene: &Scene, agent: &Agent, wanted: u16, words: &str) {
    scene.plane.until(&format!("/readyz says {wanted} {words}"), |_| {
        let (status, said) = agent.get("/readyz")?;
        anyhow::ensure!(status == wanted && said.contains(words), "{status}: {said}");
        Ok(())
    });
}

/// No connection of many fails, and each pod has answered some.
fn serves(scene: &Scene, vips: &[IpAddr], when: &str) {
    for vip in vips {
        let tally = load::burst(&scene.lab.client, (*vip, 80).into(), 60, 2);
        let pods: Vec<_> = tally.by_pod.keys().map(String::as_str).collect();
        assert_eq!((tally.failed(), &*pods), (0, &["a1", "b1"][..]), "{when}: {tally}");
    }
}

#[test]
fn s144_s145_interfaces_come_go_and_change_and_programs_of_others_stay() {
    let mut scene = Scene::start(1, 1);
    let mut agent = scene.agents.remove(0);
    let ns = scene.plane.namespace("interfaces");
    ns.apply("", "services/web", &load_balancer(&json!({ "ipFamilyPolicy": "RequireDualStack" })));
    scene.serve(&ns, "web", &["a1", "b1"]);
    let vips = scene.plane.until("addresses of both families", |_| {
        let vips = scene.addresses(ns.name(), "web")?;
        anyhow::ensure!(vips.len() == 2, "{vips:?}");
        Ok(vips)
    });
    scene.plane.until("they answer", |_| {
        vips.iter()
            .try_for_each(|vip| Connection::open(&scene.lab.client, (*vip, 80).into()).map(drop))
            .context("not yet")
    });
    serves(&scene, &vips, "at first");

    // S145, TC: one before us, one behind us; a new agent takes over its own place, a cleanup its own programs.
    let ours = on_ingress(&scene);
    assert_eq!(ours.len(), 1, "{ours:?}");
    let first = Pass::attach_tc(&scene.lab.node1, UPLINK, LinkOrder::first()).expect("a program before ours");
    let last = Pass::attach_tc(&scene.lab.node1, UPLINK, LinkOrder::last()).expect("a program behind ours");
    let chain = on_ingress(&scene);
    assert!(chain.len() == 3 && chain[1] == ours[0], "{chain:?} around {ours:?}");
    serves(&scene, &vips, "between two programs");
    agent.kill9().expect("it runs");
    agent.launch().expect("it starts again");
    let after = on_ingress(&scene);
    assert!(after.len() == 3 && (after[0], after[2]) == (chain[0], chain[2]), "{after:?}, were {chain:?}");
    assert_ne!(after[1], ours[0], "the new agent's program is in the place of the old one's");
    serves(&scene, &vips, "between two programs, with another agent");
    agent.stop().expect("it ends well");
    agent.cleanup().expect("it cleans up");
    let left: BTreeSet<u32> = on_ingress(&scene).into_iter().collect();
    assert_eq!(left, BTreeSet::from([chain[0], chain[2]]), "others' programs alone");
    drop((first, last));

    agent.launch().expect("it starts");

    // S144: another MTU, another name, and another device of the same name.
    let net = &scene.lab.node1;
    net.net(async |net| net.mtu(UPLINK, 1400).await).expect("an MTU");
    serves(&scene, &vips, "with another MTU");
    net.net(async |net| {
        net.down(UPLINK).await?;
        net.rename(UPLINK, "gone0").await
    })
    .expect("another name");
    until_ready(&scene, &agent, 503, UPLINK);
    // What Kubernetes says meanwhile is programmed when it is back.
    scene.serve(&ns, "web", &["a1"]);
    scene.serve(&ns, "web", &["a1", "b1"]);
    net.net(async |net| net.delete("gone0").await).expect("it can be deleted");
    scene.lab.connect_node1().expect("a new device");
    // It has another Ethernet address, which the host would have told its neighbours.
    for space in [&scene.lab.client, &scene.lab.node2] {
        for ip in [addr::node_v4(1).into(), addr::node_v6(1).into()] {
            let _ = space.net(async |net| net.forget(ip).await);
        }
    }
    until_ready(&scene, &agent, 200, "");
    assert_eq!(on_ingress(&scene).len(), 1, "on the new device");
    serves(&scene, &vips, "on another device");

    // S145, XDP: another's stays, we do without.
    let foreign = Pass::attach(&scene.lab.node1, &[UPLINK]).expect("a foreign program");
    let xdp = || scene.lab.node1.net(async |net| net.xdp(UPLINK).await).expect("the uplink");
    let theirs = xdp();
    assert!(theirs.is_some());
    agent.stop().expect("it ends well");
    agent.spec_mut().datapath = Datapath::Xdp;
    agent.launch().expect("it starts");
    let found = uplink(&agent);
    let note = found["note"].to_string();
    assert!(found["programs"] == "TC" && note.contains("sluice_xdp") && note.contains(UPLINK), "{found}");
    assert_eq!(xdp(), theirs, "another's program was replaced");
    serves(&scene, &vips, "beside a foreign XDP program");
    drop(foreign);
    scene.agents.push(agent);
}
