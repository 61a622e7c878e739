//! WebSocket end to end: the case files of Autobahn's compliance suite, against a server of another maker behind the proxy.
//!
//! The suite (kosoku, from PyPI, runs those files without the Python 2 that Autobahn's own runner needs) is the client of each
//! case, and breaks the protocol in most of them: what the proxy changed, joined, held back or ended otherwise would change a
//! verdict. So the verdicts through the proxy must be those of a direct connection, one by one. The suite speaks HTTP/1.1 in clear
//! text; a bridge (`bridge.py`, with an HTTP/2 library of yet another maker) takes it to TLS and to HTTP/2.
use std::{collections::BTreeMap, net::IpAddr, process::Command};

use serde_json::{Value, json};
use sluice_tests::netns::{
    Datapath, Program, Scene, eventually,
    manifest::{Slice, http_route},
    scene::APPLIED,
    secure::Certificate,
};

const HOST: &str = "chat.example";
/// Where the server listens.
const PORT: u16 = 9001;
/// The cases that are run; fewer would mean that the suite was not.
const CASES: usize = 306;

/// What the suite makes of each case: messages, end, code of the end.
type Verdicts = BTreeMap<String, (String, String, Option<u16>)>;

fn python(script: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(xtask::clients::python().expect("Python"));
    command.arg(xtask::clients::script(script)).args(arguments);
    command
}

fn suite(scene: &Scene, server: &str) -> anyhow::Result<Verdicts> {
    let said = Program::run(&scene.lab.client, &mut python("suite.py", &[server]))?;
    let line = said.lines().last().unwrap_or_default();
    serde_json::from_str(line).map_err(|e| anyhow::anyhow!("{e}: {said}"))
}

#[test]
fn the_suite_finds_no_difference_to_a_direct_connection() {
    let scene = Scene::empty(Datapath::Tc, 1, 0);
    let pod = scene.lab.pod("a1");
    let _server = Program::serve(pod.space(), &mut python("echo.py", &[&PORT.to_string()])).expect("a server");
    let made = Certificate::new(HOST);
    let dir = tempfile::tempdir().expect("a directory");
    let authority = dir.path().join("ca.pem");
    std::fs::write(&authority, &made.pem).expect("a file");
    let gateway: Value = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"gatewayClassName": "sluice", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP"},
            {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "chat"}]}}]}});
    let service: Value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"ports": [{"name": "ws", "port": 80, "appProtocol": "kubernetes.io/ws"}]}});
    let slice = Slice::new("chat", "v4").port("ws", "TCP", PORT).pod(pod);
    let route = http_route("chat", "chat", &[], &json!([{"backendRefs": [{"name": "chat", "port": 80}]}]));
    scene.write("chat.yaml", &[made.secret("chat"), gateway, service, slice.json(), route]);
    let vip = eventually("the Gateway has an address", APPLIED, || {
        let addresses = scene.agent.addresses("Gateway default/chat")?;
        addresses.into_iter().find(IpAddr::is_ipv4).ok_or_else(|| anyhow::anyhow!("none"))
    });

    let direct = suite(&scene, &format!("{}:{PORT}", pod.v4)).expect("the suite runs");
    assert_eq!(direct.len(), CASES, "{direct:?}");
    let bad = |(_, (messages, ..)): &(&String, &(String, String, Option<u16>))| messages == "FAILED";
    let bad: Vec<_> = direct.iter().filter(bad).collect();
    assert!(bad.len() <= 1, "the server itself does not pass: {bad:?}");

    let [http, https] = [80, 443].map(|port| format!("{vip}:{port}"));
    let authority = authority.to_str().expect("a path");
    let bridges = [
        ("HTTP/1.1 under TLS", 9101, &https, vec!["h1", authority]),
        ("HTTP/2", 9102, &http, vec!["h2"]),
        ("HTTP/2 under TLS", 9103, &https, vec!["h2", authority]),
    ];
    let mut ways = vec![("HTTP/1.1", http.clone(), None)];
    for (what, port, server, how) in bridges {
        let arguments =
            [vec![port.to_string(), server.clone(), HOST.to_owned()], how.iter().map(ToString::to_string).collect()];
        let arguments = arguments.concat();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let bridge = Program::serve(&scene.lab.client, &mut python("bridge.py", &arguments)).expect("a bridge");
        ways.push((what, format!("127.0.0.1:{port}"), Some(bridge)));
    }
    for (what, server, bridge) in ways {
        let found = suite(&scene, &server).unwrap_or_else(|e| panic!("{what}: {e:#}"));
        let differ: Vec<_> = direct.iter().filter(|(case, verdict)| found.get(*case) != Some(verdict)).collect();
        let differ: Vec<_> = differ.into_iter().map(|(case, want)| (case, found.get(case), want)).collect();
        assert!(differ.is_empty() && found.len() == direct.len(), "{what}: case, found, want: {differ:?}");
        drop(bridge);
    }
}
