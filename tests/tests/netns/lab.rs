//! The harness itself: what it builds carries traffic without a load balancer, and nothing of it stays.
use std::{net::SocketAddr, path::Path, time::Duration};

use sluice_tests::netns::{
    Connection, Failure, Lab, LabSpec, addr, eventually,
    http::{self, Protocol},
    load,
    namespace::NAMES,
    ping::ping,
    pod::{HTTP_PORT, OTHER_TCP_PORT, TCP_PORT, UDP_PORT},
    run::{self, Run},
    udp,
};

#[test]
fn pods_on_both_nodes_answer_the_client_in_both_families() {
    let lab = Lab::build(&LabSpec::test(1, 1)).expect("a lab");
    for pod in &lab.pods {
        for v6 in [false, true] {
            let (ip, client) = (pod.ip(v6), if v6 { addr::CLIENT_V6.into() } else { addr::CLIENT_V4.into() });
            let mut tcp = Connection::open(&lab.client, (ip, TCP_PORT).into()).expect("TCP");
            assert_eq!((tcp.answer.pod.as_str(), tcp.answer.peer), (pod.name.as_str(), client));
            tcp.exchange(300_000).expect("300 kB both ways");
            tcp.close().expect("an orderly end");
            let other = Connection::open(&lab.client, (ip, OTHER_TCP_PORT).into()).expect("TCP on the other port");
            assert_eq!(other.answer.port, OTHER_TCP_PORT);
            let datagram = udp::ask(&lab.client, (ip, UDP_PORT).into(), 1200).expect("UDP");
            assert_eq!((datagram.pod.as_str(), datagram.peer), (pod.name.as_str(), client));
            ping(&lab.client, ip, 56).expect("ICMP echo");
            let to = SocketAddr::from((ip, HTTP_PORT));
            let request = http::with(http::get("shop.example", "/a?b=c"), "x-one", "1");
            let seen = http::send(&lab.client, to, Protocol::Http1, request).expect("HTTP").seen();
            assert_eq!((seen.pod.as_str(), seen.path.as_str()), (pod.name.as_str(), "/a?b=c"));
            assert_eq!(seen.headers["x-one"], ["1"]);
        }
    }
}

#[test]
fn a_killed_pod_refuses_and_a_revived_one_answers() {
    let mut lab = Lab::build(&LabSpec::test(1, 0)).expect("a lab");
    let to: SocketAddr = (lab.pod("a1").v4, TCP_PORT).into();
    let mut held = Connection::open(&lab.client, to).expect("a connection");
    lab.pod_mut("a1").kill();
    assert_eq!(Connection::open(&lab.client, to).expect_err("nobody listens"), Failure::Refused);
    assert!(held.exchange(10).is_err(), "a connection to a dead process must not go on");
    let tally = load::burst(&lab.client, to, 10, 2);
    assert_eq!((tally.succeeded(), tally.failures[&Failure::Refused]), (0, 10));
    lab.pod_mut("a1").revive().expect("the port is free");
    let tally = load::burst(&lab.client, to, 500, 4);
    assert_eq!((tally.by_pod["a1"], tally.failed()), (500, 0), "{tally}");
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let lab = Lab::build(&LabSpec::test(1, 1)).expect("a lab");
    let (id, dir, pins) = (lab.run().id().to_owned(), lab.dir(), lab.run().bpf_dir());
    std::fs::create_dir_all(&pins).expect("bpffs is mounted");
    let sleeper = lab.node1.enter(|| std::process::Command::new("sleep").arg("600").spawn());
    let mut sleeper = sleeper.expect("a process in a namespace");
    assert_eq!(run::namespaces_of(&id).len(), 6, "four of the lab, two of pods");
    drop(lab);
    assert_eq!(run::namespaces_of(&id), Vec::<String>::new());
    assert!(!dir.exists() && !pins.exists());
    let ended = eventually("the process in the namespace ends", Duration::from_secs(2), || {
        sleeper.try_wait().ok().flatten().ok_or("still runs")
    });
    assert!(!ended.success());
}

#[test]
fn what_a_dead_run_left_is_removed_by_the_next() {
    // As a run that was killed leaves it: a directory whose lock nobody holds, and a name.
    let id = "test-0-1";
    std::fs::create_dir_all(Path::new(run::RUNS).join(id)).expect("a directory");
    std::fs::create_dir_all(NAMES).expect("a directory");
    let name = Path::new(NAMES).join(format!("sluice-{id}-client"));
    std::fs::write(&name, "").expect("a file");
    let live = Run::start("test").expect("a run");
    let other = Run::start("test").expect("another run");
    assert!(!name.exists() && !Path::new(run::RUNS).join(id).exists());
    assert!(live.dir().exists() && other.dir().exists(), "live runs are left alone");
}
