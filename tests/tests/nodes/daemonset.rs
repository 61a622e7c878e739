//! What a cluster's admin does, on two real nodes: apply `deploy/`, expose a Deployment, roll both, lose a node.
//!
//! One cluster for all of it, because it is expensive: the steps are functions, called in order by one test, and each says
//! how long it took. The client is on the nodes' own network and finds the VIPs by ARP and NDP; no route is set by hand.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{Api, Cluster, look::ingress, nodes::UPLINK, scene},
    netns::{
        Load, Tally, addr,
        http::{self, Protocol},
        request::{self, Kept},
    },
};

/// Where VIPs come from: a part of the network that the nodes and the client are on.
const POOL: [&str; 2] = ["198.51.100.192/26", "2001:db8:51::f:0/112"];
/// The Services: enough for each node to announce some of their VIPs.
const SERVICES: [&str; 4] = ["web", "api", "shop", "mail"];
const NODES: [&str; 2] = ["node1", "node2"];
/// What makes `kubectl expose` ask for both families.
const DUAL: &str = r#"--overrides={"spec":{"ipFamilyPolicy":"PreferDualStack"}}"#;
/// Pods of the Deployment.
const PODS: usize = 4;
/// Threads that make requests to each VIP under load.
const CLIENTS: usize = 2;
/// How long nobody waits for an answer while it is measured when the next one comes.
const GLANCE: Duration = Duration::from_millis(200);

#[test]
fn s141_s147_the_daemonset_serves_through_rollouts_and_the_loss_of_a_node() {
    let mut clock = Clock::start();
    let cluster = Cluster::up(2).expect("a cluster");
    clock.lap("two nodes are Ready");
    install(&cluster);
    clock.lap("the DaemonSet is Ready on both");
    capabilities_are_those_declared(&cluster);
    let vips = expose(&cluster, &mut clock);
    both_nodes_serve(&cluster, &vips);
    clock.lap("both families of every Service are answered by pods on both nodes");
    pods_see_the_client_or_the_announcer(&cluster, &vips);
    clock.lap("S147: pods see the client's address, or that of the node which announces");
    upgraded_and_rolled_back(&cluster, &vips);
    clock.lap("S141: the DaemonSet is rolled out and back under load");
    under_load(&cluster, &vips, "rollout of the Deployment", || {
        roll(&cluster, "restart", "deployment/echo", "default");
    });
    clock.lap("the Deployment is rolled out under load");
    rolled_out_with_policy_local(&cluster, &vips);
    clock.lap("E4: the same with externalTrafficPolicy Local");
    let before = announcers(&cluster, &vips).expect("every VIP has its announcer");
    let mut kept = lose_a_node(&cluster, &before);
    clock.lap("a node is killed, and the other has taken over");
    until_only_living_pods_are_chosen(&cluster, &vips);
    clock.lap("Kubernetes has taken the pods of the dead node for dead");
    // These are opened through the other node, and their packets come to the one that returns.
    let moving = before.iter().filter(|(_, number)| **number == 2);
    kept.extend(moving.map(|(vip, _)| Kept::open(&cluster.plane.space, at(*vip)).expect("a flow")));
    under_load(&cluster, &vips, "return of the node", || {
        a_node_returns(&cluster, &before);
        until_used(&cluster, &kept);
    });
    clock.lap("the node is back and announces what it did before");
    end(kept);
    clock.lap("flows between what lived have lived on");
}

/// Says how long each step took.
struct Clock {
    began: Instant,
    lap: Instant,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), lap: Instant::now() }
    }

    fn lap(&mut self, what: &str) {
        let (lap, all) = (self.lap.elapsed().as_secs_f64(), self.began.elapsed().as_secs_f64());
        println!("{all:6.1} s  (+{lap:.1}) {what}");
        self.lap = Instant::now();
    }
}

/// The image into the nodes, `kubectl apply -k deploy/overlays/test`, and a pool.
fn install(cluster: &Cluster) {
    if let Err(error) = cluster.install(&POOL) {
        panic!("{error:#}\n{}", cluster.told());
    }
}

/// The kernel's word for it: the agents have the capabilities of the manifest and can gain no other.
fn capabilities_are_those_declared(cluster: &Cluster) {
    let set = cluster.plane.api().get("/apis/apps/v1/namespaces/sluice-system/daemonsets/sluice").expect("it");
    let declared = &set["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(declared["drop"], json!(["ALL"]));
    // Source: linux/capability.h.
    let bit = |name: &Value| match name.as_str() {
        Some("NET_ADMIN") => 12,
        Some("PERFMON") => 38,
        Some("BPF") => 39,
        other => panic!("{other:?} is declared; want NET_ADMIN, PERFMON, BPF and no other"),
    };
    let wanted = declared["add"].as_array().expect("a list").iter().fold(0_u64, |all, name| all | 1 << bit(name));
    for number in [1, 2] {
        let script = "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' < $p/cmdline)\" in '/sluice agent '*) cat $p/status;; esac; done";
        let output = cluster.node_exec(number, &["sh", "-c", script]).expect("a shell");
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("node{number} has no {name}: {status}"))
        };
        for name in ["CapEff", "CapPrm", "CapBnd"] {
            assert_eq!(u64::from_str_radix(field(name), 16).expect("bits"), wanted, "{name} on node{number}");
        }
        assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1", "2"), "node{number}");
        let mounts = "cat /proc/$(for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' < $p/cmdline)\" in '/sluice agent '*) echo ${p#/proc/};; esac; done)/mounts";
        let output = cluster.node_exec(number, &["sh", "-c", mounts]).expect("a shell");
        let mounts = String::from_utf8_lossy(&output.stdout).into_owned();
        let root = mounts.lines().find(|l| l.split(' ').nth(1) == Some("/")).expect("a root");
        assert!(root.split(' ').nth(3).is_some_and(|o| o.split(',').any(|o| o == "ro")), "{root}");
    }
}

/// `kubectl create deployment` and `kubectl expose`; returns the VIPs, which come in a few seconds.
fn expose(cluster: &Cluster, clock: &mut Clock) -> Vec<IpAddr> {
    let plane = &cluster.plane;
    let replicas = format!("--replicas={PODS}");
    let create = ["create", "deployment", "echo", "--image=sluice.test/echo:1", &replicas, "--port=8080"];
    plane.kubectl(&create, "").expect("a Deployment");
    // As anybody has it who wants no request lost: told when a pod can serve, and a pod that lingers when it must go.
    let probe = json!({ "httpGet": { "path": "/healthz", "port": 8080 }, "periodSeconds": 1, "timeoutSeconds": 5 });
    let env = json!([{ "name": "LINGER", "value": "5s" }]);
    let container = json!({ "name": "echo", "readinessProbe": probe, "env": env });
    let patch = json!({ "spec": { "template": { "spec": { "containers": [container] } } } }).to_string();
    plane.kubectl(&["patch", "deployment", "echo", "-p", &patch], "").expect("it is patched");
    plane.kubectl(&["rollout", "status", "deployment/echo", "--timeout=180s"], "").expect("pods");
    clock.lap("the pods of the Deployment are Ready");
    let began = Instant::now();
    for name in SERVICES {
        let expose = ["expose", "deployment", "echo", "--type=LoadBalancer", "--port=80", "--target-port=8080"];
        let name = format!("--name={name}");
        plane.kubectl(&[&expose[..], &[&name, DUAL]].concat(), "").expect("a Service");
    }
    let vips = plane.until("every Service has an address of each family", |api| {
        let mut vips = Vec::new();
        for name in SERVICES {
            vips.extend(shown(api, name).with_context(|| cluster.told())?);
        }
        Ok(vips)
    });
    println!(
        "          {:.1} s from the first `kubectl expose` to the last address: {vips:?}",
        began.elapsed().as_secs_f64()
    );
    assert!(vips.iter().any(IpAddr::is_ipv4) && vips.iter().any(IpAddr::is_ipv6), "{vips:?}");
    clock.lap("every Service has its addresses");
    vips
}

/// The two addresses that a Service shows.
fn shown(api: &Api, name: &str) -> anyhow::Result<Vec<IpAddr>> {
    let service = api.get(&format!("/api/v1/namespaces/default/services/{name}"))?;
    let shown = ingress(&service);
    anyhow::ensure!(shown.len() == 2, "{name}: {}", service["status"]);
    shown.iter().map(|ip| Ok(ip.parse()?)).collect()
}

/// Where each pod of the Deployment runs that is ready.
fn pods(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, String>> {
    let pods = cluster.plane.api().list("/api/v1/namespaces/default/pods?labelSelector=app=echo")?;
    let ready = |pod: &&Value| {
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
            && pod["metadata"]["deletionTimestamp"].is_null()
    };
    let of = |pod: &Value| {
        let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
        let node = pod["spec"]["nodeName"].as_str().context("a pod without a node")?;
        Ok((name.to_owned(), node.to_owned()))
    };
    pods.iter().filter(ready).map(of).collect()
}

fn at(vip: IpAddr) -> SocketAddr {
    SocketAddr::new(vip, 80)
}

/// Every VIP leads to every pod, and the pods are on both nodes.
fn both_nodes_serve(cluster: &Cluster, vips: &[IpAddr]) {
    for vip in vips {
        let mut answered = BTreeSet::new();
        cluster.plane.until(&format!("{vip} leads to pods on both nodes"), |_| {
            let pods = pods(cluster)?;
            answered.insert(request::ask(&cluster.plane.space, at(*vip), GLANCE * 10)?);
            let nodes: BTreeSet<&str> = answered.iter().filter_map(|pod| pods.get(pod)).map(String::as_str).collect();
            anyhow::ensure!(nodes == BTreeSet::from(NODES), "{answered:?} of {pods:?}");
            Ok(())
        });
    }
}

/// Does something while requests are made to every VIP; none of them may fail.
fn under_load(cluster: &Cluster, vips: &[IpAddr], what: &str, act: impl FnOnce()) {
    let loads: Vec<Load> = vips.iter().map(|vip| Load::requests(&cluster.plane.space, at(*vip), CLIENTS)).collect();
    act();
    let mut failed = Vec::new();
    let (mut requests, mut slow, mut slowest) = (0, 0, Duration::ZERO);
    for (vip, load) in vips.iter().zip(loads) {
        let tally: Tally = load.stop();
        slow += tally.slow;
        (requests, slowest) = (requests + tally.succeeded(), slowest.max(tally.slowest));
        if tally.failed() > 0 || tally.succeeded() == 0 {
            failed.push(format!("{vip}: {tally}"));
        }
    }
    println!("          {requests} requests, {slow} of them slow, the slowest took {slowest:.1?}");
    assert!(failed.is_empty(), "{what}:\n{}\n{}", failed.join("\n"), cluster.told());
}

/// The Deployment is rolled out while its Services have `externalTrafficPolicy: Local`: a VIP goes to another node when the last
/// pod on its own does, and no request is lost by that.
fn rolled_out_with_policy_local(cluster: &Cluster, vips: &[IpAddr]) {
    let policy = |policy: &str| {
        let patch = json!({ "spec": { "externalTrafficPolicy": policy } }).to_string();
        for name in SERVICES {
            cluster.plane.kubectl(&["patch", "service", name, "-p", &patch], "").expect("it is patched");
        }
    };
    policy("Local");
    for vip in vips {
        cluster.plane.until(&format!("{vip} answers with policy Local"), |_| {
            request::ask(&cluster.plane.space, at(*vip), GLANCE * 10).map(drop).map_err(Into::into)
        });
    }
    under_load(cluster, vips, "rollout of the Deployment with policy Local", || {
        roll(cluster, "restart", "deployment/echo", "default");
    });
    policy("Cluster");
    both_nodes_serve(cluster, vips);
}

/// `kubectl rollout restart`, or `undo`, and waits for its end.
fn roll(cluster: &Cluster, how: &str, what: &str, ns: &str) {
    cluster.plane.kubectl(&["rollout", how, what, "-n", ns], "").expect("it begins");
    if let Err(error) = cluster.until_rolled_out(what, ns) {
        panic!("{error:#}\n{}", cluster.told());
    }
}

/// S141: an upgrade and its rollback, as the DaemonSet does them: every agent is replaced twice. No request fails, and
/// flows over TCP and UDP that were there before are there after it, at the same pods. (That maps of another layout are
/// refused is in `netns/pins.rs`.)
fn upgraded_and_rolled_back(cluster: &Cluster, vips: &[IpAddr]) {
    let plane = &cluster.plane;
    let expose = ["expose", "deployment", "echo", "--name=dns", "--type=LoadBalancer", "--protocol=UDP", "--port=53"];
    plane.kubectl(&[&expose[..], &["--target-port=8080", DUAL]].concat(), "").expect("a Service");
    let resolvers = plane.until("the Service has an address of each family", |api| shown(api, "dns"));
    let space = &plane.space;
    let mut kept: Vec<Kept> = vips.iter().map(|vip| Kept::open(space, at(*vip)).expect("a flow")).collect();
    for vip in resolvers.iter().flat_map(|vip| [vip; 4]) {
        let flow = || Kept::open_udp(space, SocketAddr::new(*vip, 53)).map_err(Into::into);
        kept.push(plane.until(&format!("{vip} answers over UDP"), |_| flow()));
    }
    for how in ["restart", "undo"] {
        under_load(cluster, vips, &format!("rollout {how} of the DaemonSet"), || {
            roll(cluster, how, "daemonset/sluice", scene::SYSTEM);
            until_used(cluster, &kept);
        });
    }
    end(kept);
    plane.kubectl(&["delete", "service", "dns"], "").expect("it goes");
}

/// S147: who a pod takes the client for. On the node that announces the VIP it is the client itself; elsewhere it is that
/// node, whose address the flow takes so that replies come back through it.
fn pods_see_the_client_or_the_announcer(cluster: &Cluster, vips: &[IpAddr]) {
    let plane = &cluster.plane;
    let (pods, announcers) = (pods(cluster).expect("pods"), announcers(cluster, vips).expect("announcers"));
    for vip in [vips.iter().find(|vip| vip.is_ipv4()), vips.iter().find(|vip| vip.is_ipv6())] {
        let vip = *vip.expect("a VIP of each family");
        let family = usize::from(vip.is_ipv6());
        let (here, node) = (format!("node{}", announcers[&vip]), cluster.node_addresses(announcers[&vip])[family]);
        let client = [IpAddr::from(addr::CLIENT_V4), addr::CLIENT_V6.into()][family];
        let mut seen = BTreeMap::new();
        plane.until(&format!("pods on both nodes answer at {vip}"), |_| {
            let reply = http::send(&plane.space, at(vip), Protocol::Http1, http::get("echo.example", "/"))?;
            let said = String::from_utf8_lossy(&reply.body).into_owned();
            let field = |name: &str| said.split(' ').find_map(|w| w.strip_prefix(name)).map(str::to_owned);
            let (pod, peer) = (field("pod=").context("no pod")?, field("peer=").context("no peer")?);
            seen.insert(pods.get(&pod).context("no such pod")?.clone(), peer.parse::<SocketAddr>()?.ip());
            anyhow::ensure!(seen.len() == NODES.len(), "{seen:?}");
            Ok(())
        });
        for (on, peer) in seen {
            assert_eq!(peer, if on == here { client } else { node }, "pods on {on}, {vip} is announced by {here}");
        }
    }
}

/// Ends flows that must have lived.
fn end(kept: Vec<Kept>) {
    for flow in kept {
        let (to, pod) = (flow.to, flow.pod.clone());
        let used = flow.end().unwrap_or_else(|e| panic!("a flow to {to} and {pod}, both alive: {e}"));
        println!("          kept {to} to {pod}: {} requests, the slowest took {:.1?}", used.requests, used.slowest);
    }
}

/// The number of the node that each VIP is at, in the eyes of the client.
fn announcers(cluster: &Cluster, vips: &[IpAddr]) -> anyhow::Result<BTreeMap<IpAddr, u8>> {
    let mut nodes = BTreeMap::new();
    for number in [1, 2] {
        let mac = cluster.node_space(number)?.net(async |net| net.mac(UPLINK).await)?;
        nodes.insert(mac, number);
    }
    let of = |vip: &IpAddr| {
        let known = cluster.plane.space.net(async |net| net.neighbour(*vip).await)?;
        let mac = known.mac.with_context(|| format!("{vip} is nowhere"))?;
        Ok((*vip, *nodes.get(&mac).with_context(|| format!("{vip} is at {mac:x?}, which is no node"))?))
    };
    vips.iter().map(of).collect()
}

/// A power failure of node2. Its VIPs answer again from node1; returns flows that have nothing to do with node2.
fn lose_a_node(cluster: &Cluster, announcers: &BTreeMap<IpAddr, u8>) -> Vec<Kept> {
    let space = &cluster.plane.space;
    let at_node =
        |number| announcers.iter().filter(move |(_, n)| **n == number).map(|(vip, _)| *vip).collect::<Vec<_>>();
    let (stay, lost) = (at_node(1), at_node(2));
    assert!(!stay.is_empty() && !lost.is_empty(), "one node announces everything: {announcers:?}");
    let pods = pods(cluster).expect("pods");
    let keep = |vip: &IpAddr| {
        cluster.plane.until(&format!("a flow through {vip} to a pod on node1"), |_| {
            let flow = Kept::open(space, at(*vip))?;
            let node = pods.get(&flow.pod);
            anyhow::ensure!(node.is_some_and(|n| n == "node1"), "{} on {node:?}", flow.pod);
            Ok(flow)
        })
    };
    let kept: Vec<Kept> = stay.iter().map(keep).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for vip in &lost {
            scope.spawn(move || {
                // Until it has been killed it goes on answering.
                std::thread::sleep(GLANCE);
                cluster.plane.until(&format!("{vip} answers again"), |_| {
                    request::ask(space, at(*vip), GLANCE).map_err(Into::into)
                });
                println!(
                    "          {vip} answers again {:.1} s after node2 began to fail",
                    began.elapsed().as_secs_f64()
                );
            });
        }
        cluster.kill_node(2);
        println!("          node2 is gone after {:.1} s", began.elapsed().as_secs_f64());
    });
    kept
}

/// Until then new flows are sent to pods of the dead node too: for Kubernetes they are ready.
fn until_only_living_pods_are_chosen(cluster: &Cluster, vips: &[IpAddr]) {
    cluster.plane.until("no endpoint of node2 is ready", |api| {
        let slices = api.list("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices")?;
        let endpoints = slices.iter().filter_map(|s| s["endpoints"].as_array()).flatten();
        let left: Vec<&Value> =
            endpoints.filter(|e| e["nodeName"] == "node2" && e["conditions"]["ready"] == true).collect();
        anyhow::ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
    for vip in vips {
        cluster.plane.until(&format!("{vip} is answered twenty times in a row"), |_| {
            (0..20)
                .try_for_each(|_| request::ask(&cluster.plane.space, at(*vip), GLANCE * 10).map(drop))
                .map_err(Into::into)
        });
    }
}

/// Until each flow has gone on for some requests; one that has failed says so when it is ended.
fn until_used(cluster: &Cluster, kept: &[Kept]) {
    for flow in kept {
        let Some(before) = flow.answered() else { continue };
        cluster.plane.until(&format!("the flow to {} goes on", flow.to), |_| {
            let more = flow.answered().map(|now| now - before);
            anyhow::ensure!(more.is_none_or(|more| more >= 10), "{more:?} requests more");
            Ok(())
        });
    }
}

/// node2 again, with an empty disk: its agent, its pods, and the VIPs that were at it.
fn a_node_returns(cluster: &Cluster, before: &BTreeMap<IpAddr, u8>) {
    cluster.start_node(2).expect("it comes back");
    let status = ["rollout", "status", "daemonset/sluice", "-n", "sluice-system", "--timeout=180s"];
    cluster.plane.kubectl(&status, "").unwrap_or_else(|e| panic!("its agent is not Ready: {e:#}\n{}", cluster.told()));
    let vips: Vec<IpAddr> = before.keys().copied().collect();
    cluster.plane.until("each VIP is where it was", |_| {
        let now = announcers(cluster, &vips)?;
        anyhow::ensure!(now == *before, "{now:?}, want {before:?}");
        let pods = pods(cluster)?;
        let nodes: BTreeSet<&str> = pods.values().map(String::as_str).collect();
        anyhow::ensure!(pods.len() == PODS && nodes == BTreeSet::from(NODES), "{pods:?}");
        Ok(())
    });
}
