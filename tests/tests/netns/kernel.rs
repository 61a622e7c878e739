//! A kernel that lacks what the datapath needs or forbids it (S148), and one whose maps are full (S149): what the agent says.
//!
//! The kernel here has everything, so a seccomp filter answers in its place, as an old one does: the agent's call to make
//! a BPF link is refused.
use std::{collections::BTreeMap, time::Duration};

use nix::libc;
use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule};
use serde_json::{Value, json};
use sluice_tests::netns::{
    Agent, AgentSpec, Connection, Datapath, Lab, LabSpec, Scene, addr, eventually,
    lab::UPLINK,
    load,
    scene::{APPLIED, TCP, WEB_V4, web},
};

/// The command of bpf(2) that attaches a program as a link. Source: linux/bpf.h.
const LINK_CREATE: u64 = 28;

/// How long tens of thousands of frontends may take.
const MANY: Duration = Duration::from_secs(180);

/// Starts the agent where making a BPF link is answered with this error.
fn spawn_without_links(agent: &mut Agent, errno: i32) {
    let is_link = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, LINK_CREATE);
    let rule = SeccompRule::new(vec![is_link.expect("a condition")]).expect("a rule");
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_bpf, vec![rule])]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into().expect("a known architecture"),
    );
    let filter: seccompiler::BpfProgram = filter.expect("a filter").try_into().expect("a program");
    std::thread::scope(|scope| {
        // A filter is for a thread and for what it starts, and for ever.
        let filtered = scope.spawn(|| {
            seccompiler::apply_filter(&filter).expect("a thread may");
            agent.spawn().expect("a process");
        });
        filtered.join().expect("it does not panic");
    });
}

/// Waits until the agent is not ready and says these words.
fn until_says(agent: &Agent, words: &[&str]) {
    eventually("/readyz says what is missing", APPLIED, || match agent.get("/readyz") {
        Ok((503, said)) if words.iter().all(|word| said.contains(word)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn s148_a_kernel_without_links_is_named_with_what_it_lacks_and_the_node_is_not_ready() {
    let lab = Lab::build(&LabSpec::test(1, 0)).expect("a lab");
    let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc)).expect("directories");
    agent.write("web.yaml", &[web().json()]).expect("a file");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let this = format!("this is Linux {}", release.trim());
    for (errno, words) in [
        (libc::EINVAL, ["BPF links for TC (TCX), in Linux since 6.6", &*this]),
        (libc::EPERM, ["this process has the capabilities for it", "seccomp filter"]),
    ] {
        spawn_without_links(&mut agent, errno);
        until_says(&agent, &[&["sluice_ingress", UPLINK][..], &words].concat());
        let status = agent.show(&["status"]).expect("it can be asked");
        assert!(status.contains("NOT READY") && status.contains(words[0]), "{status}");
        // Layer 7 has its own link, and its own sentence.
        let layer7 = if errno == libc::EINVAL { "BPF links for sk_lookup, in Linux since 5.9" } else { words[0] };
        eventually("the log names both", APPLIED, || {
            let log = agent.log();
            if log.contains("sluice_lookup") && log.contains(layer7) { Ok(()) } else { Err(log) }
        });
        agent.kill9().expect("it runs");
    }
    // The same host with all that is wanted.
    agent.launch().expect("it is ready");
}

#[test]
fn s148_links_that_are_there_are_taken_over_by_an_agent_that_could_make_none() {
    let mut scene = Scene::web(Datapath::Tc, 1, 0);
    scene.agent.stop().expect("it ends well");
    spawn_without_links(&mut scene.agent, libc::EINVAL);
    scene.agent.wait_ready().expect("what is attached gets the new programs");
    Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection");
}

#[test]
fn s148_without_links_for_xdp_the_note_says_so() {
    // TC is attached by an agent before this one, so that XDP alone lacks its link.
    let lab = Lab::build(&LabSpec::test(1, 0).xdp(true)).expect("a lab");
    let mut agent = Agent::start(&lab, AgentSpec::new(Datapath::Tc)).expect("it is ready");
    agent.stop().expect("it ends well");
    agent.spec_mut().datapath = Datapath::Xdp;
    spawn_without_links(&mut agent, libc::EINVAL);
    agent.wait_ready().expect("TC is attached already");
    let status = agent.show_json(&["status"]).expect("status");
    let (programs, note) = (&status["uplinks"][0]["programs"], status["uplinks"][0]["note"].to_string());
    assert_eq!(programs, "TC", "{status}");
    assert!(note.contains("TC alone") && note.contains("BPF links for XDP, in Linux since 5.9"), "{note}");
}

/// So many Services of 100 ports each.
fn services(name: &str, count: usize) -> String {
    let ports: Vec<_> = (1..=100).map(|port| json!({ "name": format!("p{port}"), "port": port })).collect();
    let service = |n| {
        let created = "2026-11-28T12:00:00Z";
        let metadata = json!({ "name": format!("{name}-{n}"), "namespace": "default", "creationTimestamp": created });
        let spec = json!({ "type": "LoadBalancer", "ports": ports });
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec }).to_string()
    };
    (0..count).map(service).collect::<Vec<_>>().join("\n---\n")
}

#[test]
fn s149_a_map_that_is_nearly_full_is_told_before_it_is_full_and_what_does_not_fit_by_name() {
    let spec = AgentSpec::new(Datapath::Tc).pools(&[addr::POOLS[0], addr::POOLS[1], "198.18.0.0/15"]);
    let scene = Scene::with(spec, 1, 0);
    scene.write("web.yaml", &[web().json()]);
    scene.endpoints(&["a1"]);
    let serves = || {
        let tally = load::burst(&scene.lab.client, (WEB_V4, TCP).into(), 50, 2);
        assert_eq!(tally.failed(), 0, "{tally}");
    };
    let until = |what: &str, holds: &dyn Fn(&Value) -> bool| {
        eventually(what, MANY, || {
            let status = scene.agent.show_json(&["status"])?;
            let few = json!([status["frontends"], status["nearlyFull"], status["unprogrammed"][0]]);
            anyhow::ensure!(holds(&status), "{few}");
            Ok(status)
        })
    };
    let ratio = || {
        let (_, metrics) = scene.agent.get("/metrics").expect("metrics");
        let line = metrics.lines().find_map(|l| l.strip_prefix("sluice_map_occupancy_ratio{map=\"FRONTENDS\"} "));
        line.and_then(|value| value.parse::<f64>().ok()).expect("a part of the map")
    };
    assert!(ratio() > 0.0 && ratio() < 0.001, "{}", ratio());
    assert!(!scene.agent.log().contains("nearly full"));

    // 59,004 of 65,536 frontends.
    scene.agent.write_text("many.yaml", &services("many", 590)).expect("a file");
    let status = until("the map is nearly full", &|s| s["nearlyFull"].as_array().is_some_and(|full| full.len() == 1));
    assert_eq!(status["nearlyFull"][0], "FRONTENDS: 59004 of 65536 entries are in use");
    assert!(ratio() > 0.9 && ratio() < 0.91, "{}", ratio());
    let shown = scene.agent.show(&["status"]).expect("status");
    assert!(shown.contains("maps that are nearly full:") && shown.contains("59004 of 65536"), "{shown}");
    assert!(scene.agent.log().contains("a map is nearly full"), "{}", scene.agent.log_tail());
    serves();

    // 7,000 more do not fit.
    scene.agent.write_text("more.yaml", &services("more", 70)).expect("a file");
    let status = until("some do not fit", &|s| s["unprogrammed"].as_array().is_some_and(|all| !all.is_empty()));
    let said = status["unprogrammed"][0].as_str().expect("a sentence").to_owned();
    let full = "the map FRONTENDS is full: found 0 of 65536 frontends free after the older objects, want 1";
    assert!(said.contains(full), "{said}");
    // Web, whose file says nothing of its age, is the oldest; of the others the last names are refused: 59,004 and 6,532 fit.
    serves();
    let (_, metrics) = scene.agent.get("/metrics").expect("metrics");
    assert!(metrics.contains("sluice_refused_frontends{map=\"FRONTENDS\"} 468"), "{metrics}");
    let why = |name: &str| {
        scene.agent.show_json(&["why", &format!("service/default/{name}")]).expect("what became of it").to_string()
    };
    assert!(why("more-9").contains(full) && !why("more-10").contains("is full"), "{}", why("more-9"));
    for file in ["many.yaml", "more.yaml"] {
        scene.agent.remove(file).expect("it is there");
    }
    until("there is room again", &|s| {
        ["nearlyFull", "unprogrammed"].iter().all(|field| s[field].as_array().is_some_and(Vec::is_empty))
    });
    serves();
}
