//! A NAT that forgets: the connections that an agent has to the API server are dead, and nobody says so (issue 8, E2).
use std::time::Instant;

use anyhow::Context as _;
use serde_json::json;
use sluice_tests::cluster::{Cluster, TestNamespace, scene::SYSTEM};

/// The API server as pods know it, as `/proc/net/tcp` writes it: 10.96.0.1, port 443.
const API_SERVER: &str = "0100600A:01BB";

/// From one moment on nothing comes or goes on the connections that the agent of node1 has; others can be opened. It hears
/// soon of what has changed: before, it did when the server should have ended its watches, after 120 to 150 s.
pub(super) fn is_noticed(cluster: &Cluster, ns: &TestNamespace<'_>) {
    // A kube-proxy that was just replaced may have killed connections itself: those that are there now must be alive.
    until_heard(cluster, ns, "early");
    let ports = local_ports(cluster);
    assert!(!ports.is_empty(), "the agent has no connection");
    let nft = |rule: &str| {
        let output = cluster.node_exec(1, &["nft", rule]).expect("nft");
        assert!(output.status.success(), "{rule}: {}", String::from_utf8_lossy(&output.stderr));
    };
    nft("add table inet forgotten");
    for (hook, from, to) in [("output", "sport", "dport"), ("input", "dport", "sport")] {
        // As the socket sees them: on the way kube-proxy gives the connection another address, and another port.
        nft(&format!("add chain inet forgotten {hook} {{ type filter hook {hook} priority -400; }}"));
        nft(&format!("add rule inet forgotten {hook} tcp {to} 443 tcp {from} {{ {} }} drop", ports.join(", ")));
    }
    let began = Instant::now();
    until_heard(cluster, ns, "late");
    println!("a dead connection was noticed after {:.1} s", began.elapsed().as_secs_f64());
    nft("delete table inet forgotten");
}

/// Makes a Service and waits until the agent of node1 knows of it.
fn until_heard(cluster: &Cluster, ns: &TestNamespace<'_>, name: &str) {
    let service = json!({ "kind": "Service", "spec": { "ports": [{ "name": "http", "port": 80 }] } });
    ns.apply("", &format!("services/{name}"), &service);
    let object = format!("service/{}/{name}", ns.name());
    let pods = cluster.plane.api().list(&format!("/api/v1/namespaces/{SYSTEM}/pods")).expect("pods");
    let pod = pods.iter().find(|p| p["spec"]["nodeName"] == "node1").expect("an agent on node1");
    let pod = pod["metadata"]["name"].as_str().expect("a name");
    cluster.plane.until(&format!("the agent of node1 knows of {name}"), |_| {
        // However it ends: what is not ours may be told with any status.
        let output = cluster.plane.kubectl_output(&["exec", "-n", SYSTEM, pod, "--", "/sluice", "why", &object], "")?;
        let said = String::from_utf8_lossy(&output.stdout);
        anyhow::ensure!(said.contains("NotLoadBalancer"), "{said}");
        Ok(())
    });
}

/// The ports of node1's established connections to the API server.
fn local_ports(cluster: &Cluster) -> Vec<String> {
    let space = cluster.node_space(1).expect("a node");
    let read = || std::fs::read_to_string("/proc/thread-self/net/tcp").context("read the node's connections");
    let table = space.enter(read).expect("its connections");
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, "01", ..] = fields[..] else { return None };
        let port = local.split_once(':').filter(|_| remote == API_SERVER)?.1;
        u16::from_str_radix(port, 16).ok().map(|port| port.to_string())
    };
    table.lines().filter_map(port).collect()
}
