//! Who crowds the listeners of the admin API keeps no probe from its answer.
use std::{io::Write as _, net::TcpStream};

use sluice_tests::netns::{
    AgentSpec, Datapath, Scene,
    http::{self, Protocol},
};

/// More than four times what a listener takes.
const CROWD: usize = 300;

#[test]
fn probes_and_scrapers_are_answered_beside_a_crowd_that_says_nothing() {
    let mut spec = AgentSpec::new(Datapath::Tc);
    let flags = ["--metrics-addr", "198.51.100.1:9500", "--health-addr", "127.0.0.1:9501"];
    spec.extra = flags.map(str::to_owned).to_vec();
    let scene = Scene::with(spec, 0, 0);
    let node = |port| {
        let ip = if port == 9500 { [198, 51, 100, 1] } else { [127, 0, 0, 1] };
        std::net::SocketAddr::from((ip, port))
    };
    let ask = |port, path| http::send(&scene.lab.node1, node(port), Protocol::Http1, http::get("node1", path));
    let connect = |space: &sluice_tests::netns::Namespace, port| {
        space.enter(|| TcpStream::connect(node(port))).expect("the kernel connects")
    };
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|_| connect(&scene.lab.client, 9500)).collect();
    // The port of the metrics, asked by another and by the crowd's own host; and the port that is for probes.
    assert_eq!(ask(9500, "/livez").expect("an answer").status, 200);
    let reply = http::send(&scene.lab.client, node(9500), Protocol::Http1, http::get("node1", "/metrics"));
    assert_eq!(reply.expect("an answer").status, 200);
    assert_eq!(ask(9501, "/livez").expect("an answer").status, 200);
    crowd.extend((0..CROWD).map(|_| connect(&scene.lab.node1, 9501)));
    assert_eq!(ask(9501, "/readyz").expect("an answer").status, 200);
    assert_eq!(ask(9501, "/metrics").expect("an answer").status, 404, "health alone");
    // Nor do those that have asked and do not read.
    for stream in &mut crowd {
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    assert_eq!(ask(9501, "/livez").expect("an answer").status, 200);
    assert_eq!(ask(9500, "/metrics").expect("an answer").status, 200);
}
