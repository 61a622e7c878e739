//! The pins: held by one agent at a time, never somebody else's, and kept while it is not known whether they are needed.
use std::{fs, process::Command};

use sluice_ebpf::LAYOUT;
use sluice_tests::netns::{
    Agent, AgentSpec, Connection, Datapath, Lab, LabSpec, Scene, addr, agent,
    lab::UPLINK,
    scene::{TCP, UDP, WEB_V4},
    udp::Flow,
};

/// Runs `sluice` with these arguments in the node's namespace; what it said, which must be an error.
fn refused(lab: &Lab, arguments: &[&str]) -> String {
    let mut command = Command::new(agent::binary().expect("a binary"));
    command.args(arguments);
    let output = lab.node1.enter(|| command.output()).expect("a process");
    assert!(!output.status.success(), "{arguments:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_second_agent_and_a_cleanup_leave_a_running_agent_alone() {
    let scene = Scene::web(Datapath::Tc, 1, 0);
    let dir = scene.lab.dir();
    let (pins, socket) = (scene.agent.bpf_dir().display().to_string(), dir.join("other.sock").display().to_string());
    let (manifests, state) = (dir.join("none").display().to_string(), dir.join("other").display().to_string());
    fs::create_dir(&manifests).expect("a directory");
    let second = ["agent", "--interface", UPLINK, "--node", "node1", "--manifests", &manifests];
    let paths = ["--state-dir", &state, "--bpf-dir", &pins, "--admin-socket", &socket];
    for arguments in [[&second[..], &paths[..]].concat(), vec!["cleanup", "--bpf-dir", &pins]] {
        let said = refused(&scene.lab, &arguments);
        assert!(said.contains(&pins) && said.contains("in use by a running agent"), "{said}");
        Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("the first one's Service");
    }
}

#[test]
fn what_is_not_a_pin_or_a_socket_is_not_removed() {
    let lab = Lab::build(&LabSpec::test(0, 0)).expect("a lab");
    let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc)).expect("directories");
    let precious = lab.dir().join("precious");
    fs::create_dir(&precious).expect("a directory");
    let file = precious.join("file");
    fs::write(&file, "precious").expect("a file");
    let said = refused(&lab, &["cleanup", "--bpf-dir", &precious.display().to_string()]);
    assert!(said.contains("is not on a bpffs: nothing was removed"), "{said}");
    fs::write(agent.socket(), "precious").expect("a file");
    agent.spawn().expect("a process");
    let (status, said) = agent.wait_end().expect("it ends");
    assert!(!status.success() && said.contains("is a file that is no socket"), "{said}");
    for kept in [file, agent.socket()] {
        assert_eq!(fs::read_to_string(&kept).expect("it is still there"), "precious", "{}", kept.display());
    }
}

#[test]
fn s141_pins_of_another_layout_are_refused_until_they_are_cleaned_up() {
    let lab = Lab::build(&LabSpec::test(0, 0)).expect("a lab");
    let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc).pools(&[addr::POOLS[0]])).expect("directories");
    fs::create_dir_all(agent.bpf_dir().join("v0/links")).expect("a directory on the bpffs");
    agent.spawn().expect("a process");
    let (status, said) = agent.wait_end().expect("it ends");
    assert!(!status.success(), "{said}");
    for wanted in [format!("layout v0, want v{LAYOUT}"), "sluice cleanup --bpf-dir".to_owned()] {
        assert!(said.contains(&wanted), "{wanted:?} is not in: {said}");
    }
    agent.cleanup().expect("as it was told");
    agent.launch().expect("it starts");
}

#[test]
fn s141_over_pins_of_another_layout_the_old_programs_go_on_and_their_version_takes_them_up_again() {
    let mut scene = Scene::web(Datapath::Tc, 1, 1);
    let mut held: Vec<Connection> =
        Scene::both(TCP).map(|to| Connection::open(&scene.lab.client, to).expect("a connection")).into();
    let flows = Scene::both(UDP).map(|to| Flow::open(&scene.lab.client, to).expect("a socket"));
    let pods = flows.each_ref().map(|flow| flow.ask(10).expect("an answer").pod);
    let serves = |held: &mut Vec<Connection>, when: &str| {
        held.iter_mut().for_each(|c| c.exchange(500).unwrap_or_else(|e| panic!("an old connection {when}: {e}")));
        for (flow, pod) in flows.iter().zip(&pods) {
            assert_eq!(&flow.ask(10).expect("an answer").pod, pod, "a flow over UDP {when}");
        }
        for to in Scene::both(TCP) {
            Connection::open(&scene.lab.client, to).unwrap_or_else(|e| panic!("a new connection {when}: {e}"));
        }
    };
    // What this version sees when it comes after one with another layout.
    let pins = |layout: u32| scene.agent.bpf_dir().join(format!("v{layout}"));
    let (ours, others) = (pins(LAYOUT), pins(LAYOUT - 1));
    scene.agent.stop().expect("it ends well");
    fs::rename(&ours, &others).expect("a directory of the bpffs");
    scene.agent.spawn().expect("a process");
    let (status, said) = scene.agent.wait_end().expect("it ends");
    assert!(!status.success() && said.contains(&format!("layout v{}, want v{LAYOUT}", LAYOUT - 1)), "{said}");
    assert!(said.contains("sluice cleanup --bpf-dir"), "{said}");
    serves(&mut held, "after an upgrade that was refused");
    // And the way back.
    fs::rename(&others, &ours).expect("a directory of the bpffs");
    scene.agent.launch().expect("the version before starts again");
    serves(&mut held, "after the rollback");
}

#[test]
fn a_file_that_broke_before_a_restart_cuts_nothing() {
    let mut scene = Scene::web(Datapath::Tc, 1, 1);
    let mut held = Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a connection");
    scene.agent.write_text("web.yaml", "kind: [Service").expect("a file");
    scene.agent.kill9().expect("it runs");
    scene.agent.launch().expect("it starts again");
    for _ in 0..20 {
        Connection::open(&scene.lab.client, (WEB_V4, TCP).into()).expect("a Service that cannot be read, not gone");
    }
    held.exchange(100).expect("the connection from before");
    // Now it is known what there is, and the Service is not.
    scene.agent.remove("web.yaml").expect("it is there");
    scene.until_gone((WEB_V4, TCP).into());
}
