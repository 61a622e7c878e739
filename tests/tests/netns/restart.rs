//! The agent's life: killed, restarted, stopped, removed; and what it meets when it starts.
use std::{fs, os::unix::process::CommandExt as _, path::Path, process::Command, time::Duration};

use aya::{
    maps::{HashMap, MapData},
    programs::{SchedClassifier, TcAttachType},
};
use sluice_tests::netns::{
    Agent, AgentSpec, Connection, Datapath, Lab, LabSpec, Load, Maps, Scene, addr, agent, eventually,
    lab::UPLINK,
    pass::Pass,
    pod::TCP_PORT,
    run::RUNS,
    scene::{APPLIED, TCP, UDP, WEB_V4, WEB_V6, web},
    udp::{self, Flow},
};

/// How long each part of a life under load lasts.
const PART: Duration = Duration::from_millis(700);

#[test]
fn s140_killed_and_restarted_under_load_by_tc() {
    killed_under_load(Datapath::Tc);
}

#[test]
fn s140_killed_and_restarted_under_load_by_xdp() {
    killed_under_load(Datapath::Xdp);
}

/// Done-when 3 of the main job: no connection fails, neither new nor old, and counters go on.
fn killed_under_load(datapath: Datapath) {
    let mut scene = Scene::web(datapath, 2, 2);
    let mut held: Vec<Connection> =
        (0..20).map(|n| Connection::open(&scene.lab.client, Scene::both(TCP)[n % 2]).expect("a connection")).collect();
    let flows = Scene::both(UDP).map(|to| Flow::open(&scene.lab.client, to).expect("a socket"));
    let pods = flows.each_ref().map(|f| f.ask(10).expect("an answer").pod);
    let loads = Scene::both(TCP).map(|to| Load::start(&scene.lab.client, to, 2));
    let counted = |scene: &Scene| -> u64 {
        let services = scene.agent.show_json(&["services"]).expect("services");
        services[0]["flows"].as_u64().expect("a number")
    };
    for _ in 0..3 {
        std::thread::sleep(PART);
        let (flows_before, done) = (counted(&scene), loads.iter().map(Load::done).sum::<usize>());
        scene.agent.kill9().expect("it runs");
        std::thread::sleep(PART);
        held.iter_mut().for_each(|c| c.exchange(500).expect("an old connection, without an agent"));
        assert!(loads.iter().map(Load::done).sum::<usize>() > done + 50, "hardly any new connection without an agent");
        scene.agent.launch().expect("it starts again");
        held.iter_mut().for_each(|c| c.exchange(500).expect("an old connection, with a new agent"));
        assert!(counted(&scene) > flows_before, "counters begin anew");
    }
    for (flow, pod) in flows.iter().zip(&pods) {
        assert_eq!(&flow.ask(10).expect("an answer").pod, pod, "a UDP flow keeps its backend");
    }
    for tally in loads.map(Load::stop) {
        println!("{tally}");
        assert_eq!((tally.failed(), tally.slow), (0, 0), "{tally}");
    }
}

#[test]
fn what_changed_while_it_was_away_is_made_good() {
    let mut scene = Scene::web(Datapath::Tc, 2, 0);
    scene.agent.kill9().expect("it runs");
    scene.publish(&["a2"]);
    scene.write("web.yaml", &[web().port("more", "TCP", 81, TCP_PORT).json()]);
    scene.agent.launch().expect("it starts again");
    scene.until_reach((WEB_V4, TCP).into(), &["a2"], TCP_PORT);
    scene.until_reach((WEB_V4, 81).into(), &[], TCP_PORT);
    assert_eq!(Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection").answer.pod, "a2");
    scene.agent.stop().expect("it ends well");
    scene.agent.remove("web.yaml").expect("it is there");
    scene.agent.launch().expect("it starts again");
    scene.until_gone((WEB_V4, TCP).into());
    let rows = || if scene.maps.sizes() == (0, 0) { Ok(()) } else { Err(format!("{:?}", scene.maps.sizes())) };
    eventually("frontends and backends are gone", Duration::from_secs(10), rows);
}

#[test]
fn it_stops_when_asked_and_the_kernel_goes_on() {
    let mut scene = Scene::web(Datapath::Xdp, 1, 1);
    scene.agent.stop().expect("it ends well");
    for to in Scene::both(TCP) {
        Connection::open(&scene.lab.client, to).expect("a connection without an agent");
    }
    udp::ask(&scene.lab.client, (WEB_V6, UDP).into(), 100).expect("an answer without an agent");
}

#[test]
fn b11_cleanup_returns_when_nothing_is_attached_to_any_of_two_uplinks() {
    for datapath in [Datapath::Tc, Datapath::Xdp] {
        let lab = Lab::build(&LabSpec::test(1, 0).xdp(datapath == Datapath::Xdp)).expect("a lab");
        let second = "eth1";
        lab.lan.net(async |net| net.veth("second", Some("br0"), second, &lab.node1).await).expect("a cable");
        lab.node1.net(async |net| net.up(second).await).expect("a second uplink");
        let mut spec = AgentSpec::new(datapath);
        spec.interfaces = [UPLINK, second].map(str::to_owned).to_vec();
        let mut scene = Scene::on(lab, spec);
        for round in 0..5 {
            if round > 0 {
                scene.agent.launch().expect("it starts again");
            }
            scene.agent.stop().expect("it ends well");
            scene.agent.cleanup().expect("it cleans up");
            // At once: nothing is waited for.
            let left = scene.lab.node1.enter(|| {
                let ends = [TcAttachType::Ingress, TcAttachType::Egress];
                let on =
                    |name: &&str| ends.map(|end| SchedClassifier::query_tcx(name, end).map_or(1, |(_, all)| all.len()));
                [UPLINK, second].iter().flat_map(on).sum::<usize>()
            });
            assert_eq!(left, 0, "programs that are still attached, round {round}, {datapath:?}");
            for name in [UPLINK, second] {
                let xdp = scene.lab.node1.net(async |net| net.xdp(name).await).expect("the link");
                assert_eq!(xdp, None, "XDP on {name}, round {round}");
            }
        }
    }
}

#[test]
fn s142_cleanup_leaves_no_pin_and_the_host_as_it_was() {
    let mut scene = Scene::web(Datapath::Xdp, 1, 1);
    scene.agent.stop().expect("it ends well");
    scene.agent.cleanup().expect("it cleans up");
    assert!(!scene.agent.bpf_dir().exists());
    // The kernel lets go of a link a moment after its last pin.
    eventually("nobody forwards any more", APPLIED, || {
        match Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).map(|c| c.answer) {
            Ok(answer) => Err(format!("{answer:?}")),
            Err(_) => Ok(()),
        }
    });
    for pod in ["a1", "b1"] {
        let direct = (scene.lab.pod(pod).v4, TCP_PORT).into();
        Connection::open(&scene.lab.client, direct).expect("pods are reached as before");
    }
    scene.agent.cleanup().expect("a second time finds nothing and says so");
    scene.agent.launch().expect("it starts on a clean host");
    Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("and serves again");
}

#[test]
fn a_second_agent_is_refused_and_harms_nothing() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let mut second = Agent::prepare(&scene.lab, AgentSpec::new(Datapath::Tc)).expect("the same directories");
    second.spawn().expect("a process");
    let (status, log) = second.wait_end().expect("it gives up");
    assert!(!status.success() && log.contains("served by another process"), "{log}");
    scene.endpoints(&[]);
    scene.endpoints(&["a1"]);
    Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("the first one still serves");
}

#[test]
fn pins_of_another_layout_are_refused_by_name() {
    let lab = Lab::build(&LabSpec::test(0, 0)).expect("a lab");
    let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc)).expect("directories");
    let dir = agent.bpf_dir().join(format!("v{}", sluice_ebpf::LAYOUT));
    fs::create_dir_all(&dir).expect("bpffs");
    let old = HashMap::<MapData, u32, u64>::create(1024, 0).expect("a map");
    old.pin(dir.join("FRONTENDS")).expect("a pin");
    agent.spawn().expect("a process");
    let (status, log) = agent.wait_end().expect("it gives up");
    assert!(!status.success());
    for wanted in ["FRONTENDS", "value size 8, want 24", "max entries 1024, want 65536", "sluice cleanup --bpf-dir"] {
        assert!(log.contains(wanted), "no {wanted:?} in:\n{log}");
    }
    agent.cleanup().expect("as it was told");
    agent.launch().expect("it starts");
}

#[test]
fn s145_a_foreign_xdp_program_stays_and_tc_serves() {
    let lab = Lab::build(&LabSpec::test(1, 1).xdp(true)).expect("a lab");
    let _foreign = Pass::attach(&lab.node1, &[UPLINK]).expect("a foreign program");
    let scene = Scene::on(lab, AgentSpec::new(Datapath::Xdp));
    let status = scene.agent.show_json(&["status"]).expect("status");
    let (programs, note) = (&status["uplinks"][0]["programs"], status["uplinks"][0]["note"].to_string());
    assert_eq!(programs, "TC", "{status}");
    assert!(note.contains("sluice_xdp") && note.contains(UPLINK), "the note names program and interface: {note}");
    scene.write("web.yaml", &[web().json()]);
    scene.endpoints(&["a1", "b1"]);
    for to in Scene::both(TCP) {
        let tally = sluice_tests::netns::load::burst(&scene.lab.client, to, 100, 2);
        assert_eq!(tally.failed(), 0, "{tally}");
    }
}

#[test]
fn an_interface_that_is_not_there_keeps_the_node_from_being_ready_until_it_comes() {
    let lab = Lab::build(&LabSpec::test(1, 0)).expect("a lab");
    let mut spec = AgentSpec::new(Datapath::Tc);
    spec.interfaces.push("eth9".to_owned());
    let mut agent = Agent::prepare(&lab, spec).expect("directories");
    agent.spawn().expect("a process");
    eventually("/readyz names the interface", APPLIED, || match agent.get("/readyz") {
        Ok((503, body)) if body.contains("eth9") && body.contains("no such interface") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let status = agent.show(&["status"]).expect("status");
    assert!(status.contains("NOT READY") && status.contains("eth9"), "{status}");
    lab.node1.net(async |net| net.veth("eth9", None, "peer9", &lab.node2).await).expect("an interface");
    agent.wait_ready().expect("it is ready once the interface is there");
}

#[test]
fn s144_an_interface_that_disappears_and_comes_back_serves_again() {
    let scene = Scene::web(Datapath::Tc, 1, 1);
    let Scene { lab, agent, .. } = &scene;
    lab.node1.net(async |net| net.delete(UPLINK).await).expect("it is there");
    eventually("/readyz names the interface", APPLIED, || match agent.get("/readyz") {
        Ok((503, body)) if body.contains(UPLINK) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    lab.connect_node1().expect("the interface comes back");
    eventually("it is ready again", APPLIED, || match agent.get("/readyz") {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for to in Scene::both(TCP) {
        let tally = sluice_tests::netns::load::burst(&lab.client, to, 100, 2);
        assert_eq!((tally.failed(), tally.by_pod.len()), (0, 2), "{tally}");
    }
}

#[test]
fn without_permission_it_says_what_it_needs() {
    let lab = Lab::build(&LabSpec::test(0, 0)).expect("a lab");
    let agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc)).expect("directories");
    // Where nobody may read the binary itself, as below a home directory, a copy.
    let binary = lab.dir().join("sluice");
    fs::copy(agent::binary().expect("a binary"), &binary).expect("a copy");
    let state = lab.dir().join("nobody");
    fs::create_dir(&state).expect("a directory");
    std::os::unix::fs::chown(&state, Some(65_534), Some(65_534)).expect("root may");
    let mut command = Command::new(binary);
    command.args(["agent", "--interface", UPLINK, "--pool", addr::POOLS[0], "--node", "node1", "--manifests"]);
    command.arg(agent.manifests()).arg("--state-dir").arg(&state).arg("--bpf-dir").arg(agent.bpf_dir());
    command.arg("--admin-socket").arg(state.join("admin.sock")).uid(65_534).gid(65_534);
    let output = lab.node1.enter(|| command.output()).expect("a process");
    let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
    assert!(!output.status.success());
    assert!(said.contains("not permitted") && said.contains("net_admin"), "found and wanted: {said}");
    assert!(said.lines().filter(|l| l.starts_with("sluice:")).count() == 1, "not one sentence: {said}");
}

#[test]
fn the_demo_removes_everything_on_interrupt() {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    let mut demo = Command::new(demo).stdout(std::process::Stdio::null()).spawn().expect("the demo");
    let prefix = format!("demo-{}-", demo.id());
    let left = |dir: &str| -> Vec<String> {
        let names = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
        names.filter(|name| name.contains(&prefix)).collect()
    };
    let pins = "/sys/fs/bpf/sluice";
    eventually("the demo's agent runs", Duration::from_secs(20), || {
        if left(pins).is_empty() { Err("no pins yet") } else { Ok(()) }
    });
    let pid = nix::unistd::Pid::from_raw(demo.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    let status = demo.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    for dir in [pins, RUNS, "/run/netns"] {
        assert_eq!(left(dir), Vec::<String>::new(), "left in {dir}");
    }
    let maps = Maps::open(&Path::new(pins).join(format!("{prefix}1")));
    assert!(maps.is_err());
}
