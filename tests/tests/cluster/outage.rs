//! The API server is away for long, under traffic, while pods die and come and agents are restarted (issue 4, done when 5).
//!
//! In CI the outage is as short as shows everything; `SLUICE_TEST_OUTAGE=600` makes it ten minutes.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{
        Part, TestNamespace,
        look::{ALLOCATED, ingress},
        scene::{SYSTEM, Scene, load_balancer, pool_of},
    },
    netns::{
        Connection, Lab, Maps,
        lab::UPLINK,
        lives::Lives,
        ping::ping,
        pod::{HTTP_PORT, TCP_PORT, UDP_PORT},
        traffic::{Kind, Sum, Traffic},
    },
};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";
/// How long the API server is away at least, unless the variable says otherwise: longer than the nodes' Leases are valid.
const OUTAGE: Duration = Duration::from_secs(5);
/// Answers of each pod, over each kind of traffic, that show that it is used.
const SOME: usize = 5;
/// Within which time both nodes have renewed their Leases when the API server goes.
const RENEWED: Duration = Duration::from_millis(1_100);
/// The pods that slices name when the API server goes.
const KNOWN: [&str; 4] = ["a1", "a2", "b1", "b2"];
/// The pods that live when it is back; `a3` and `b3` have come meanwhile.
const AFTER: [&str; 4] = ["a2", "a3", "b2", "b3"];

fn outage() -> Duration {
    std::env::var("SLUICE_TEST_OUTAGE")
        .map_or(OUTAGE, |text| Duration::from_secs(text.parse().expect("SLUICE_TEST_OUTAGE is a number of seconds")))
}

/// The node that answers when the client asks anew who has a VIP.
fn asked(scene: &Scene, vip: IpAddr) -> anyhow::Result<usize> {
    let client = &scene.lab.client;
    client.net(async |net| net.forget(vip).await)?;
    ping(client, vip, 8)?;
    let known = client.net(async |net| net.neighbour(vip).await)?;
    for (node, space) in [&scene.lab.node1, &scene.lab.node2].into_iter().enumerate() {
        if known.mac == Some(space.net(async |net| net.mac(UPLINK).await)?) {
            return Ok(node);
        }
    }
    anyhow::bail!("{:x?} is no node", known.mac)
}

/// Who announces each VIP: of two that answer now the one is quicker, now the other.
fn announcers(scene: &Scene, vips: &[IpAddr]) -> anyhow::Result<BTreeMap<IpAddr, usize>> {
    let alone = |vip: &IpAddr| {
        let node = asked(scene, *vip)?;
        for _ in 0..4 {
            anyhow::ensure!(asked(scene, *vip)? == node, "{vip} is at both nodes");
        }
        Ok((*vip, node))
    };
    vips.iter().map(alone).collect()
}

/// Makes these pods the endpoints of both Services: TCP and UDP for the one, HTTP for the other.
fn publish(ns: &TestNamespace<'_>, lab: &Lab, pods: &[&str]) {
    let port = |name: &str, protocol: &str, port: u16| json!({ "name": name, "protocol": protocol, "port": port });
    let web = json!([port("http", "TCP", TCP_PORT), port("dns", "UDP", UDP_PORT)]);
    let echo = json!([port("http", "TCP", HTTP_PORT)]);
    for (service, ports) in [("web", web), ("echo", echo)] {
        for (family, v6) in [("IPv4", false), ("IPv6", true)] {
            let name = format!("{service}-{}", family.to_lowercase());
            let endpoint = |pod: &&sluice_tests::netns::Pod| json!({ "addresses": [pod.ip(v6)], "nodeName": pod.node_name(), "conditions": { "ready": true } });
            let slice = json!({
                "kind": "EndpointSlice", "addressType": family, "ports": ports,
                "metadata": { "labels": { "kubernetes.io/service-name": service } },
                "endpoints": lab.select(pods).iter().map(endpoint).collect::<Vec<_>>(),
            });
            ns.apply("discovery.k8s.io/v1", &format!("endpointslices/{name}"), &slice);
        }
    }
}

/// Makes a Gateway and returns its address.
fn gateway(scene: &Scene, ns: &TestNamespace<'_>, name: &str) -> IpAddr {
    let listeners = json!([{ "name": "web", "port": 80, "protocol": "HTTP" }]);
    let spec = json!({ "gatewayClassName": "sluice", "listeners": listeners });
    ns.apply(GATEWAY, &format!("gateways/{name}"), &json!({ "kind": "Gateway", "spec": spec }));
    scene.plane.until("the Gateway shows an address", |_| shown(scene, ns, name))
}

fn shown(scene: &Scene, ns: &TestNamespace<'_>, gateway: &str) -> anyhow::Result<IpAddr> {
    let gateway = scene.plane.api().get(&ns.path(GATEWAY, &format!("gateways/{gateway}")))?;
    Ok(gateway["status"]["addresses"][0]["value"].as_str().context("no address")?.parse()?)
}

/// Waits until each of these pods has given so many more answers, over each kind of traffic.
fn until_used(scene: &Scene, traffic: &Traffic, pods: &[&str]) {
    let before = traffic.sums();
    let count = |sums: &BTreeMap<Kind, Sum>, kind, pod: &str| {
        sums.get(&kind).and_then(|sum| sum.answered.get(pod)).copied().unwrap_or(0)
    };
    scene.plane.until(&format!("{pods:?} are used"), |_| {
        let now = traffic.sums();
        for kind in [Kind::Tcp, Kind::Udp, Kind::Http] {
            for pod in pods {
                let more = count(&now, kind, pod) - count(&before, kind, pod);
                anyhow::ensure!(more >= SOME, "{pod} has given {more} more answers over {kind:?}");
            }
        }
        Ok(())
    });
}

/// Waits until requests have met the end of a pod: it is still in the tables, and failures are told by their endpoint.
fn until_missed(scene: &Scene, traffic: &Traffic, pod: &str) {
    let count = || {
        let sums = traffic.sums();
        [Kind::Tcp, Kind::Udp].map(|kind| sums.get(&kind).and_then(|s| s.excused.get(pod)).copied().unwrap_or(0))
    };
    let before = count();
    scene.plane.until(&format!("requests meet the end of {pod}"), |_| {
        let now = count();
        anyhow::ensure!((0..2).all(|kind| now[kind] > before[kind]), "{before:?}, now {now:?}");
        Ok(())
    });
}

/// Nothing has failed that was sent to an endpoint that lives.
fn check(sums: &BTreeMap<Kind, Sum>, when: &str) {
    let all = sums.iter().map(|(kind, sum)| format!("\n  {kind:?}: {sum}")).collect::<String>();
    assert!(sums.values().all(|sum| sum.faults.is_empty()), "{when}:{all}");
}

/// Waits until a while passes in which nothing fails at all, and every one of these pods is used.
fn until_clean(scene: &Scene, traffic: &Traffic, pods: &[&str]) {
    let failed = || traffic.sums().values().map(|s| s.excused.values().sum::<usize>() + s.faults.len()).sum::<usize>();
    scene.plane.until("nothing fails any more", |_| {
        let before = failed();
        until_used(scene, traffic, pods);
        let now = failed();
        anyhow::ensure!(now == before, "{} have failed", now - before);
        Ok(())
    });
}

/// Waits for a moment at which both nodes have renewed their Leases lately: one that was held up by a busy machine may lose
/// its VIPs before the outage, which is no part of it.
fn until_renewed(scene: &Scene) {
    let mut seen: BTreeMap<usize, (Value, Instant)> = BTreeMap::new();
    scene.plane.until("both nodes renew their Leases", |api| {
        for node in 0..2 {
            let name = format!("leases/sluice-node-node{}", node + 1);
            let path = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/{name}");
            let renewed = api.get(&path)?["spec"]["renewTime"].clone();
            let known = seen.entry(node).or_insert_with(|| (renewed.clone(), Instant::now() - RENEWED));
            if known.0 != renewed {
                *known = (renewed, Instant::now());
            }
        }
        anyhow::ensure!(seen.values().all(|(_, at)| at.elapsed() < RENEWED), "{seen:?}");
        Ok(())
    });
}

/// Opens connections to a VIP until each of these pods has one.
fn hold(scene: &Scene, to: SocketAddr, pods: &[&str]) -> Vec<Connection> {
    let mut held: BTreeMap<String, Connection> = BTreeMap::new();
    scene.plane.until("each pod has a connection", |_| {
        let connection = Connection::open(&scene.lab.client, to)?;
        held.insert(connection.answer.pod.clone(), connection);
        anyhow::ensure!(pods.iter().all(|pod| held.contains_key(*pod)), "{:?}", held.keys());
        Ok(())
    });
    held.into_iter().filter(|(pod, _)| pods.contains(&pod.as_str())).map(|(_, connection)| connection).collect()
}

fn identity(service: &Value) -> [Value; 3] {
    let metadata = &service["metadata"];
    [metadata["uid"].clone(), metadata["annotations"][ALLOCATED].clone(), json!(ingress(service))]
}

#[test]
fn s39_an_outage_of_the_api_server_fails_no_request_to_an_endpoint_that_lives() {
    let mut scene = Scene::with(2, 3, |plane| plane.install_gateway_api().expect("the CRDs of Gateway API"));
    // Addresses of the lan: the client asks by ARP and NDP who has them.
    pool_of(&scene.plane, "lan", &json!({ "addresses": ["198.51.100.192/28", "2001:db8:51::f:0/124"], "priority": 1 }));
    let ns = scene.plane.namespace("outage");
    let ports = json!([
        { "name": "http", "port": 80, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" },
    ]);
    let spec = json!({ "ipFamilyPolicy": "RequireDualStack", "ports": ports });
    ns.apply("", "services/web", &load_balancer(&spec));
    let echo = json!({ "ipFamilyPolicy": "PreferDualStack", "ports": [{ "name": "http", "port": 8080 }] });
    ns.apply("", "services/echo", &json!({ "kind": "Service", "spec": echo }));
    publish(&ns, &scene.lab, &KNOWN);
    let class = json!({
        "apiVersion": GATEWAY, "kind": "GatewayClass", "metadata": { "name": "sluice" },
        "spec": { "controllerName": "sluice.dev/gateway" },
    });
    scene.plane.apply(&class.to_string()).expect("a class");
    let vips = scene.until_addresses(&ns, "web");
    assert_eq!(vips.len(), 2, "{vips:?}");
    let home = scene.plane.until("web is announced", |_| announcers(&scene, &vips));
    // The agent that is killed announces an address of web. What its proxy serves ends with it, so the Gateway is at the
    // other one.
    let victim = home[&vips[0]];
    let (front, front_vip) = (0..16)
        .map(|n| {
            let name = format!("front-{n}");
            let vip = gateway(&scene, &ns, &name);
            let node = scene.plane.until("the Gateway is announced", |_| announcers(&scene, &[vip]))[&vip];
            (name, vip, node)
        })
        .find_map(|(name, vip, node)| (node != victim).then_some((name, vip)))
        .expect("a Gateway at the other node");
    let rules = json!([{ "backendRefs": [{ "name": "echo", "port": 8080 }] }]);
    let route = json!({ "parentRefs": [{ "name": front }], "rules": rules });
    ns.apply(GATEWAY, "httproutes/echo", &json!({ "kind": "HTTPRoute", "spec": route }));
    let all: Vec<IpAddr> = vips.iter().copied().chain([front_vip]).collect();
    let home = scene.plane.until("all is announced", |_| announcers(&scene, &all));
    for vip in &vips {
        scene.until_answers((*vip, 80), &KNOWN);
    }
    let before = scene.service(&ns, "web");

    let lives = Arc::new(Lives::of(&scene.lab));
    ["a3", "b3"].iter().for_each(|pod| lives.kill(&mut scene.lab, pod));
    let route = (Kind::Http, SocketAddr::from((front_vip, 80)));
    let targets: Vec<(Kind, SocketAddr)> = vips
        .iter()
        // A datagram to a pod that does not live keeps its client waiting for long.
        .flat_map(|vip| {
            [(Kind::Tcp, 80), (Kind::Udp, 53), (Kind::Udp, 53)].map(|(kind, port)| (kind, (*vip, port).into()))
        })
        .chain([route])
        .collect();
    let maps = || scene.agents.iter().map(|agent| Maps::open(agent.bpf_dir()).expect("its maps")).collect();
    scene.plane.until("the route answers", |_| {
        let probe = Traffic::start(&scene.lab, &lives, maps(), &[route], 1);
        std::thread::sleep(Duration::from_millis(100));
        let sums = probe.stop();
        anyhow::ensure!(sums.values().all(|sum| sum.faults.is_empty()), "{sums:?}");
        Ok(())
    });
    let traffic = Traffic::start(&scene.lab, &lives, maps(), &targets, 2);
    until_used(&scene, &traffic, &KNOWN);
    check(&traffic.sums(), "before the outage");
    let mut held: Vec<Connection> =
        vips.iter().flat_map(|vip| hold(&scene, (*vip, 80).into(), &["a2", "b2"])).collect();

    until_renewed(&scene);
    let began = Instant::now();
    scene.plane.kill(Part::ApiServer);
    let mut rounds = 0;
    while rounds == 0 || began.elapsed() < outage() {
        for pod in ["a1", "b1"] {
            lives.kill(&mut scene.lab, pod);
            until_missed(&scene, &traffic, pod);
        }
        until_used(&scene, &traffic, &["a2", "b2"]);
        if rounds == 0 {
            // Pods that no slice knows of, and an agent that knows nothing at all.
            ["a3", "b3"].iter().for_each(|pod| lives.revive(&mut scene.lab, pod));
            scene.agents[victim].kill9().expect("it runs");
            scene.agents[victim].spawn().expect("it starts");
            scene.plane.until("the agent says that it has read nothing", |_| {
                let (status, said) = scene.agents[victim].get("/readyz")?;
                anyhow::ensure!(status == 503 && said.contains("services"), "{status}: {said}");
                Ok(())
            });
        }
        for pod in ["b1", "a1"] {
            lives.revive(&mut scene.lab, pod);
        }
        until_used(&scene, &traffic, &KNOWN);
        let now = scene.plane.until("every VIP is announced", |_| announcers(&scene, &all));
        assert_eq!(now, home, "S101: nobody takes a VIP from a node that may live");
        for connection in &mut held {
            let answer = connection.answer.clone();
            connection.exchange(100).unwrap_or_else(|why| panic!("an open connection to {}: {why}", answer.pod));
        }
        check(&traffic.sums(), "while the API server is away");
        rounds += 1;
    }
    // These do not come back.
    for pod in ["a1", "b1"] {
        lives.kill(&mut scene.lab, pod);
        until_missed(&scene, &traffic, pod);
    }
    let away = began.elapsed();

    scene.plane.start_part(Part::ApiServer).expect("it starts again");
    let ready = Instant::now();
    publish(&ns, &scene.lab, &AFTER);
    let published = ready.elapsed();
    let wanted = |vip: IpAddr, port| -> BTreeSet<SocketAddr> {
        scene.lab.select(&AFTER).iter().map(|pod| (pod.ip(vip.is_ipv6()), port).into()).collect()
    };
    scene.plane.until("the maps have what is true now", |_| {
        for maps in scene.agents.iter().map(|agent| Maps::open(agent.bpf_dir())) {
            let maps = maps?;
            for vip in &vips {
                let (tcp, udp) = (maps.reach((*vip, 80).into())?, maps.reach_udp((*vip, 53).into())?);
                anyhow::ensure!(tcp == Some(wanted(*vip, TCP_PORT)), "{vip}: {tcp:?}");
                anyhow::ensure!(udp == Some(wanted(*vip, UDP_PORT)), "{vip}: {udp:?}");
            }
        }
        Ok(())
    });
    let programmed = ready.elapsed();
    scene.plane.until("both agents are ready", |_| {
        for agent in &scene.agents {
            let (status, said) = agent.get("/readyz")?;
            anyhow::ensure!(status == 200, "{status}: {said}");
        }
        Ok(())
    });
    let agents_ready = ready.elapsed();
    until_clean(&scene, &traffic, &AFTER);
    let clean = ready.elapsed();
    for connection in &mut held {
        connection.exchange(100).expect("a connection outlives it all");
    }
    scene.settle(&ns);
    scene.plane.until("every VIP is where it was", |_| {
        let now = announcers(&scene, &all)?;
        anyhow::ensure!(now == home, "{now:?}, want {home:?}");
        Ok(())
    });
    assert_eq!(identity(&scene.service(&ns, "web")), identity(&before));
    assert_eq!(shown(&scene, &ns, &front).expect("the Gateway is there"), front_vip);
    let sums = traffic.stop();
    check(&sums, "in all");
    eprintln!(
        "the API server was away for {away:.1?}, {rounds} rounds. From its readiness on: slices written after \
         {published:.2?}, both agents' maps right after {programmed:.2?}, both ready after {agents_ready:.2?}, a while \
         without any failure over after {clean:.2?}",
    );
    sums.iter().for_each(|(kind, sum)| eprintln!("  {kind:?}: {sum}"));
}
