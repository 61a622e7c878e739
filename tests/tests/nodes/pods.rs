//! The harness itself: nodes are real, their pods are reached from outside, and a power failure is one. And Sluice on nodes
//! where kube-proxy is at work (S146), from its installation to its removal (S142).
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use aya::programs::{SchedClassifier, TcAttachType};
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{
        Cluster, Patch, TestNamespace,
        look::{ingress, is_marked},
        nodes::UPLINK,
    },
    netns::{
        Namespace,
        http::{self, Protocol},
        request,
        run::{self, RUNS},
    },
};

use super::{dead_connection, ip_mode::Layer7};

/// A Deployment of `echo`, spread over the nodes, and its Service.
fn echo(ns: &TestNamespace<'_>, replicas: u8) {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let probe = json!({ "httpGet": { "path": "/healthz", "port": "http" }, "periodSeconds": 1, "timeoutSeconds": 5 });
    let container = json!({
        "name": "echo", "image": "sluice.test/echo:1", "imagePullPolicy": "Never",
        "ports": [{ "containerPort": 8080, "name": "http" }],
        "env": [field("POD_NAME", "metadata.name"), field("NODE_NAME", "spec.nodeName")],
        "readinessProbe": probe,
    });
    let labels = json!({ "app": "echo" });
    // Where a node is gone its pods go at once, not after five minutes.
    let away = |key: &str| json!({ "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1 });
    let spread = json!({
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": labels },
    });
    let pod = json!({
        "terminationGracePeriodSeconds": 2,
        "tolerations": [away("node.kubernetes.io/unreachable"), away("node.kubernetes.io/not-ready")],
        "topologySpreadConstraints": [spread],
        "containers": [container],
    });
    let deployment = json!({
        "kind": "Deployment",
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    });
    ns.apply("apps/v1", "deployments/echo", &deployment);
    let port = json!({ "name": "http", "port": 80, "targetPort": "http" });
    let service = json!({ "ipFamilyPolicy": "RequireDualStack", "selector": labels, "ports": [port] });
    ns.apply("", "services/echo", &json!({ "kind": "Service", "spec": service }));
}

/// The ready endpoints of a Service, both families, with their nodes.
fn ready(cluster: &Cluster, ns: &TestNamespace<'_>) -> anyhow::Result<BTreeSet<(IpAddr, String)>> {
    let path = ns.path("discovery.k8s.io/v1", "endpointslices?labelSelector=kubernetes.io/service-name=echo");
    let slices = cluster.plane.api().list(&path)?;
    let endpoints = slices.iter().filter_map(|s| s["endpoints"].as_array()).flatten();
    let ready = endpoints.filter(|e| e["conditions"]["ready"] == true);
    let of = |e: &Value| {
        let address = e["addresses"][0].as_str().context("no address")?;
        Ok((address.parse()?, e["nodeName"].as_str().context("no node")?.to_owned()))
    };
    ready.map(of).collect()
}

/// Waits until so many endpoints are ready in both families, on these nodes.
fn until_ready(cluster: &Cluster, ns: &TestNamespace<'_>, pods: usize, nodes: &[&str]) -> BTreeSet<(IpAddr, String)> {
    cluster.plane.until(&format!("{pods} pods are ready on {nodes:?}"), |_| {
        let found = ready(cluster, ns)?;
        let on: BTreeSet<&str> = found.iter().map(|(_, node)| node.as_str()).collect();
        anyhow::ensure!(found.len() == 2 * pods && on == nodes.iter().copied().collect(), "{found:?}");
        Ok(found)
    })
}

/// What the pod behind an endpoint says to the client outside.
fn ask(cluster: &Cluster, ip: IpAddr) -> anyhow::Result<String> {
    said_at(&cluster.plane.space, (ip, 8080))
}

#[test]
fn s142_s146_pods_run_on_real_nodes_beside_kube_proxy_and_a_node_is_killed_and_returns() {
    let cluster = Cluster::up(2).expect("a cluster");
    let (id, dir) = (cluster.plane.run().id().to_owned(), cluster.plane.run().dir());
    let nodes = cluster.plane.kubectl(&["get", "nodes"], "").expect("kubectl");
    for node in ["node1", "node2"] {
        let line = nodes.lines().find(|l| l.starts_with(node)).expect("a line for each node");
        assert!(line.contains(" Ready ") && line.contains(" v1.36."), "{nodes}");
    }
    let name = cluster.node_exec(2, &["hostname"]).expect("hostname");
    assert_eq!(String::from_utf8_lossy(&name.stdout).trim(), "node2");

    let ns = cluster.plane.namespace("nodes");
    echo(&ns, 3);
    let endpoints = until_ready(&cluster, &ns, 3, &["node1", "node2"]);
    let client = cluster.plane.space.name();
    for (ip, node) in &endpoints {
        let said = cluster.plane.until(&format!("{ip} answers {client}"), |_| ask(&cluster, *ip));
        let peer = if ip.is_ipv6() { "peer=[2001:db8:51::10]:" } else { "peer=198.51.100.10:" };
        assert!(said.contains(&format!("node={node} ")) && said.contains(peer), "{said}");
    }
    pods_reach_each_other_and_the_api_server(&cluster, &ns, &endpoints);
    beside_kube_proxy(&cluster, &ns);

    cluster.kill_node(2);
    cluster.node_exec(2, &["true"]).expect_err("it is off");
    cluster.plane.until("node2 is not ready", |api| {
        let node = api.get("/api/v1/nodes/node2")?;
        let ready = node["status"]["conditions"].as_array().into_iter().flatten().find(|c| c["type"] == "Ready");
        anyhow::ensure!(ready.is_some_and(|c| c["status"] != "True"), "{ready:?}");
        Ok(())
    });
    until_ready(&cluster, &ns, 3, &["node1"]);

    cluster.start_node(2).expect("it comes back");
    cluster.plane.kubectl(&["rollout", "restart", "deployment/echo", "-n", ns.name()], "").expect("kubectl");
    let wait = ["rollout", "status", "deployment/echo", "--timeout=180s", "-n", ns.name()];
    cluster.plane.kubectl(&wait, "").expect("the new pods are ready");
    for (ip, _) in until_ready(&cluster, &ns, 3, &["node1", "node2"]) {
        cluster.plane.until(&format!("{ip} answers"), |_| ask(&cluster, ip));
    }

    drop(ns);
    let cgroups = std::fs::read_to_string(dir.join("cgroups")).expect("a list");
    drop(cluster);
    assert_eq!(run::namespaces_of(&id), Vec::<String>::new());
    let left: Vec<&str> = cgroups.lines().filter(|c| std::path::Path::new(c).exists()).collect();
    assert!(!std::path::Path::new(RUNS).join(&id).exists() && left.is_empty(), "{left:?}");
}

/// From pod to pod on the other node, and with the client that Kubernetes gives to every pod.
fn pods_reach_each_other_and_the_api_server(
    cluster: &Cluster,
    ns: &TestNamespace<'_>,
    endpoints: &BTreeSet<(IpAddr, String)>,
) {
    let pods = cluster.plane.api().list(&ns.path("", "pods")).expect("pods");
    let on_node1 = pods.iter().find(|p| p["spec"]["nodeName"] == "node1").expect("a pod on node1");
    let name = on_node1["metadata"]["name"].as_str().expect("a name");
    let exec = |url: &str| cluster.plane.kubectl(&["exec", name, "-n", ns.name(), "--", "/echo", "get", url], "");
    for (ip, _) in endpoints.iter().filter(|(_, node)| node == "node2") {
        let url = format!("http://{}/", SocketAddr::new(*ip, 8080));
        let said = cluster.plane.until(&format!("a pod reaches {ip}"), |_| exec(&url));
        assert!(said.contains("node=node2"), "{said}");
    }
    // Plain HTTP on the port of TLS: that the API server complains shows that it is there.
    let said = cluster.plane.until("a pod reaches the Service kubernetes", |_| exec("http://10.96.0.1:443/"));
    assert!(said.contains("HTTP request to an HTTPS server"), "{said}");
    let logs = cluster.plane.kubectl(&["logs", name, "-n", ns.name()], "").expect("logs");
    assert!(logs.contains(name), "{logs}");
}

/// S146: what kube-proxy serves is served before Sluice is there, with it, and after it; and the VIP is, by both. S142: when
/// it is removed nothing of it is left.
///
/// The network of the pods is that of the reference CNI plugins; Calico, Flannel and Cilium were not run.
fn beside_kube_proxy(cluster: &Cluster, ns: &TestNamespace<'_>) {
    let (plane, path) = (&cluster.plane, ns.path("", "services/echo"));
    let patch =
        |spec: Value| plane.api().patch(&path, Patch::Merge, &json!({ "spec": spec })).expect("the Service may change");
    let service = patch(json!({ "type": "NodePort" }));
    let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().and_then(|p| u16::try_from(p).ok());
    let node_port = node_port.expect("a port of the nodes");
    let cluster_ips = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    let cluster_ips: Vec<IpAddr> = cluster_ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    assert_eq!(cluster_ips.len(), 2, "{service:#}");
    let proxies = cluster.kube_proxies("nftables").expect("kube-proxy");
    let served = |when: &str| {
        until_from_inside(cluster, ns, when, &cluster_ips);
        for at in [1, 2].into_iter().flat_map(|number| cluster.node_addresses(number)) {
            let what = format!("{when}: the client reaches {at}, port {node_port}");
            until_both_nodes(cluster, &what, || said_at(&plane.space, (at, node_port)));
        }
    };
    served("before Sluice");
    assert_eq!(left_behind(cluster), Vec::<String>::new(), "before Sluice");
    cluster.install(&["198.51.100.192/26", "2001:db8:51::f:0/112"]).expect("Sluice");
    patch(json!({ "type": "LoadBalancer" }));
    let vips: Vec<IpAddr> = plane.until("addresses of both families", |api| {
        let service = api.get(&path)?;
        let shown = ingress(&service);
        anyhow::ensure!(shown.len() == 2, "{:#}", service["status"]);
        shown.iter().map(|ip| Ok(ip.parse()?)).collect()
    });
    for vip in &vips {
        let what = format!("the client reaches {vip}");
        until_both_nodes(cluster, &what, || said_at(&plane.space, (*vip, 80)));
    }
    until_from_inside(cluster, ns, "the VIP", &vips);
    served("with Sluice");
    let layer7 = Layer7::set_up(cluster, ns);
    layer7.check("nftables");
    drop(proxies);
    let _proxies = cluster.kube_proxies("iptables").expect("kube-proxy");
    until_from_inside(cluster, ns, "iptables: the VIP", &vips);
    served("beside iptables");
    layer7.check("iptables");
    dead_connection::is_noticed(cluster, ns);
    layer7.remove();
    // On each of two nodes programs and pins.
    assert_eq!(left_behind(cluster).len(), 4, "{:?}", left_behind(cluster));

    // Removed as the README says.
    patch(json!({ "type": "NodePort" }));
    plane.until("the Service is let go", |api| {
        let service = api.get(&path)?;
        anyhow::ensure!(!is_marked(&service) && ingress(&service).is_empty(), "{service:#}");
        Ok(())
    });
    cluster.uninstall().expect("Sluice goes");
    assert_eq!(left_behind(cluster), Vec::<String>::new(), "S142: after Sluice");
    served("after Sluice");
    for vip in vips {
        plane.space.net(async |net| net.forget(vip).await).expect("the client may forget");
        let outcome = request::ask(&plane.space, (vip, 80).into(), Duration::from_secs(2));
        assert!(outcome.is_err(), "S142: {vip} is answered: {outcome:?}");
    }
}

/// What Sluice has in the nodes' kernels: programs on the uplinks, and pins.
fn left_behind(cluster: &Cluster) -> Vec<String> {
    let mut left = Vec::new();
    for number in [1, 2] {
        let programs = |at| SchedClassifier::query_tcx(UPLINK, at).expect("the uplink").1.len();
        let space = cluster.node_space(number).expect("the node");
        let attached = space.enter(|| programs(TcAttachType::Ingress) + programs(TcAttachType::Egress));
        left.extend((attached > 0).then(|| format!("node{number}: {attached} programs")));
        // The directory itself is the pod's mount, empty when it goes.
        let pins = cluster.node_exec(number, &["ls", "/sys/fs/bpf/sluice"]).expect("a node");
        left.extend((!pins.stdout.is_empty()).then(|| format!("node{number}: pins")));
    }
    left
}

/// Until both nodes have answered at each address: at that of IPv4 who asks from a pod, at that of IPv6 who asks from a
/// node.
fn until_from_inside(cluster: &Cluster, ns: &TestNamespace<'_>, when: &str, addresses: &[IpAddr]) {
    let node1 = cluster.node_space(1).expect("a node");
    for ip in addresses {
        let what = format!("{when}: {ip} from inside");
        until_both_nodes(cluster, &what, || match ip {
            IpAddr::V4(_) => from_pod(cluster, ns, (*ip, 80)),
            IpAddr::V6(_) => said_at(&node1, (*ip, 80)),
        });
    }
}

/// Asks until pods of both nodes have answered.
fn until_both_nodes(cluster: &Cluster, what: &str, ask: impl Fn() -> anyhow::Result<String>) {
    let mut answered = BTreeSet::new();
    cluster.plane.until(what, |_| {
        let said = ask()?;
        answered.extend(["node1", "node2"].into_iter().filter(|node| said.contains(&format!("node={node} "))));
        anyhow::ensure!(answered.len() == 2, "{answered:?} so far; {said}");
        Ok(())
    });
}

/// What a pod on node1 is told at an address.
fn from_pod(cluster: &Cluster, ns: &TestNamespace<'_>, to: (IpAddr, u16)) -> anyhow::Result<String> {
    exec_on_node1(cluster, ns, &format!("http://{}/", SocketAddr::from(to)))
}

/// The answer, with its head, that a pod on node1 gets from a URL.
pub(super) fn exec_on_node1(cluster: &Cluster, ns: &TestNamespace<'_>, url: &str) -> anyhow::Result<String> {
    let pods = cluster.plane.api().list(&ns.path("", "pods"))?;
    let pod = pods.iter().find(|p| p["spec"]["nodeName"] == "node1").context("no pod on node1")?;
    let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
    cluster.plane.kubectl(&["exec", name, "-n", ns.name(), "--", "/echo", "get", url], "")
}

/// What somebody in `space` is told at an address.
fn said_at(space: &Namespace, to: (IpAddr, u16)) -> anyhow::Result<String> {
    let reply = http::send(space, to.into(), Protocol::Http1, http::get("echo.example", "/a"))?;
    Ok(String::from_utf8_lossy(&reply.body).into_owned())
}

#[test]
fn what_a_killed_owner_leaves_of_nodes_is_removed() {
    use std::{io::BufRead as _, path::Path, process, time::Instant};
    let mut owner = process::Command::new(env!("CARGO_BIN_EXE_cluster"));
    let owner = owner.args(["hold", "1"]).stdin(process::Stdio::piped()).stdout(process::Stdio::piped()).spawn();
    let mut owner = owner.expect("a process");
    let mut id = String::new();
    std::io::BufReader::new(owner.stdout.take().expect("its output")).read_line(&mut id).expect("it says its run");
    let dir = Path::new(RUNS).join(id.trim());
    let cgroups = std::fs::read_to_string(dir.join("cgroups")).expect("a list");
    assert!(cgroups.lines().all(|c| Path::new(c).exists()), "{cgroups}");
    owner.kill().expect("it runs");
    owner.wait().expect("it ends");
    let began = Instant::now();
    while dir.exists() || cgroups.lines().any(|c| Path::new(c).exists()) {
        assert!(began.elapsed() < Duration::from_secs(60), "{} is still there", dir.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(run::namespaces_of(id.trim()), Vec::<String>::new());
}
