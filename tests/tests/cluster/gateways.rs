//! Gateways on a real API server: addresses from the pools of Services and beside them, status after the maps, a proxy
//! that is killed, and backends in other namespaces. Section P of the checklist, but for the chain (`chain.rs`).
use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{
        Calls, Fault, TestNamespace,
        look::{ALLOCATED, holds},
        scene::{Scene, load_balancer, pool_of},
    },
    netns::{
        Connection, Failure, Namespace, addr,
        http::{self as client, Protocol},
        load,
        pod::{HTTP_PORT, UDP_PORT},
        udp,
    },
};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";
/// The port of the Gateway's listener, at which a process of the host listens too.
const PORT: u16 = 80;

/// A process of the host that listens at every address of it.
struct HostListener {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl HostListener {
    fn start(space: &Namespace) -> Self {
        let socket = space.enter(|| TcpListener::bind(("::", PORT))).expect("nobody else is there");
        socket.set_nonblocking(true).expect("a socket may");
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&taken));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((mut stream, peer)) = socket.accept() {
                    count.fetch_add(1, Ordering::Relaxed);
                    // As a pod says it, so that the same client understands it.
                    let _ = writeln!(stream, "host {PORT} {}", peer.ip().to_canonical());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { stop, taken, thread: Some(thread) }
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for HostListener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// An object with annotations under `sluice.dev/`.
fn annotated(mut object: Value, annotations: &[(&str, &str)]) -> Value {
    for (name, value) in annotations {
        object["metadata"]["annotations"][format!("sluice.dev/{name}")] = json!(value);
    }
    object
}

fn gateway(annotations: &[(&str, &str)]) -> Value {
    let listeners = json!([{ "name": "web", "port": PORT, "protocol": "HTTP" }]);
    let spec = json!({ "gatewayClassName": "sluice", "listeners": listeners });
    annotated(json!({ "kind": "Gateway", "spec": spec }), annotations)
}

/// What `spec.infrastructure` wants is carried by a Service of the leader's that belongs to the Gateway.
#[test]
fn infrastructure_labels_are_on_a_service_of_the_gateways() {
    let scene = Scene::with(1, 0, |plane| plane.install_gateway_api().expect("the CRDs of Gateway API"));
    let ns = scene.plane.namespace("infrastructure");
    let name = format!("front.{}", "x".repeat(240));
    let front = |labels: Value| {
        let mut front = gateway(&[]);
        front["spec"]["infrastructure"] = json!({ "labels": labels, "annotations": { "cost/centre": "7" } });
        front
    };
    // Of two Gateways one has a name that no label can have, and one finds the name of its Service taken.
    let theirs = json!({ "kind": "Service", "spec": { "ports": [{ "name": "http", "port": 80 }] } });
    ns.apply("", "services/sluice-taken", &theirs);
    ns.apply(GATEWAY, &format!("gateways/{name}"), &front(json!({ "team": "shop" })));
    ns.apply(GATEWAY, "gateways/taken", &front(json!({ "team": "shop" })));
    let found = |api: &sluice_tests::cluster::Api| {
        let all = api.list(&ns.path("", "services"))?;
        let managed = all.into_iter().filter(|service| service["metadata"]["labels"]["sluice.dev/managed"] == "true");
        let [service]: [Value; 1] = managed.collect::<Vec<_>>().try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
        Ok::<Value, anyhow::Error>(service)
    };
    let service = scene.plane.until("the Service is made", &found);
    let (metadata, spec) = (&service["metadata"], &service["spec"]);
    assert_eq!(metadata["labels"]["team"], "shop");
    assert_eq!(metadata["annotations"]["cost/centre"], "7");
    assert!(metadata["labels"]["gateway.networking.k8s.io/gateway-name"].as_str().unwrap().starts_with("front.xx"));
    assert_eq!(metadata["ownerReferences"][0]["name"], name);
    assert_eq!((&spec["clusterIP"], &spec["selector"]), (&json!("None"), &Value::Null));
    ns.apply(GATEWAY, &format!("gateways/{name}"), &front(json!({ "tier": "front" })));
    scene.plane.until("the Service has what is wanted now", |api| {
        let labels = found(api)?["metadata"]["labels"].clone();
        anyhow::ensure!(labels["tier"] == "front" && labels.get("team").is_none(), "{labels}");
        Ok(())
    });
}

/// A route of the Gateway `front` for one host, to one backend.
fn route(ns: &TestNamespace<'_>, name: &str, host: &str, backend: &Value) {
    let rules = json!([{ "backendRefs": [backend] }]);
    let spec = json!({ "parentRefs": [{ "name": "front" }], "hostnames": [host], "rules": rules });
    ns.apply(GATEWAY, &format!("httproutes/{name}"), &json!({ "kind": "HTTPRoute", "spec": spec }));
}

/// A Service without an address, with these pods behind it.
fn backend(scene: &Scene, ns: &TestNamespace<'_>, name: &str, pods: &[&str]) {
    let spec = json!({ "ports": [{ "name": "http", "port": 8080 }] });
    ns.apply("", &format!("services/{name}"), &json!({ "kind": "Service", "spec": spec }));
    scene.endpoints(ns.name(), name, HTTP_PORT, pods);
}

/// Waits until the Gateway `front` is programmed, and returns its first address.
fn until_programmed(scene: &Scene, ns: &TestNamespace<'_>) -> IpAddr {
    scene.plane.until("the Gateway is programmed", |api| {
        let gateway = api.get(&ns.path(GATEWAY, "gateways/front"))?;
        anyhow::ensure!(holds(&gateway["status"], "Programmed"), "{:#}", gateway["status"]);
        Ok(gateway["status"]["addresses"][0]["value"].as_str().context("no address")?.parse()?)
    })
}

/// Waits until a request for a host gets this status.
fn until_status(scene: &Scene, vip: IpAddr, host: &str, status: u16) -> client::Reply {
    scene.plane.until(&format!("{status} for {host} at {vip}"), |_| {
        let reply = client::send(&scene.lab.client, (vip, PORT).into(), Protocol::Http1, client::get(host, "/"))?;
        anyhow::ensure!(reply.status == status, "{}", reply.status);
        Ok(reply)
    })
}

#[test]
fn s142_s152_s153_s154_s155_a_gateway_has_its_address_as_a_service_has_and_its_connections_are_its_own() {
    let mut scene = Scene::with(2, 1, |plane| plane.install_gateway_api().expect("the CRDs of Gateway API"));
    let class = json!({
        "apiVersion": GATEWAY, "kind": "GatewayClass", "metadata": { "name": "sluice" },
        "spec": { "controllerName": "sluice.dev/gateway" },
    });
    scene.plane.apply(&class.to_string()).expect("a class");
    // The API server itself refuses a list that is not one of a set; that it is sorted is for us to see to.
    scene.plane.until("the class says what it can do", |api| {
        let class = api.get(&format!("/apis/{GATEWAY}/gatewayclasses/sluice"))?;
        let features = class["status"]["supportedFeatures"].as_array().context("no features")?;
        let names: Vec<&str> = features.iter().filter_map(|feature| feature["name"].as_str()).collect();
        anyhow::ensure!(names.is_sorted() && names.contains(&"HTTPRouteMethodMatching"), "{names:?}");
        anyhow::ensure!(holds(&class["status"], "SupportedVersion"), "{:#}", class["status"]);
        Ok(())
    });
    let mut agents = std::mem::take(&mut scene.agents);
    let (ns, other) = (scene.plane.namespace("gateway"), scene.plane.namespace("other"));
    let host = HostListener::start(&scene.lab.node1);
    // Nobody announces these: every node must have them before they are shown.
    let spec = json!({ "addresses": ["203.0.113.32/28"], "announce": "none", "autoAssign": false });
    pool_of(&scene.plane, "routed", &spec);

    // S154: one node has not seen the Gateway. It has its address, from a pool of Services, and does not show it.
    let (leader, late) = scene.leader();
    scene.proxies[late].fault(Calls::all().to("gateways"), Fault::Stale).expect("a fault");
    backend(&scene, &ns, "echo", &["a1", "b1"]);
    route(&ns, "echo", "echo.example", &json!({ "name": "echo", "port": 8080 }));
    ns.apply(GATEWAY, "gateways/front", &gateway(&[("address-pool", "routed"), ("sharing-key", "one")]));
    let path = ns.path(GATEWAY, "gateways/front");
    let vip: IpAddr = scene.plane.until("the Gateway is given an address", |api| {
        let given = api.get(&path)?["metadata"]["annotations"][ALLOCATED].as_str().unwrap_or_default().to_owned();
        Ok(given.parse()?)
    });
    assert!(vip.to_string().starts_with("203.0.113.3"), "{vip} is not of the pool");
    let maps = |agent: usize| sluice_tests::netns::Maps::open(agents[agent].bpf_dir()).expect("maps");
    scene.plane.until("the leader has programmed it", |_| {
        anyhow::ensure!(maps(leader).reach((vip, PORT).into())?.is_some());
        Ok(())
    });
    // Whatever else there is to write, this is not written yet.
    let nowhere = annotated(load_balancer(&json!({})), &[("addresses", "192.0.2.1")]);
    ns.apply("", "services/nowhere", &nowhere);
    scene.until_reason(&ns, "nowhere", "AddressOutsidePools");
    let status = scene.plane.api().get(&path).expect("it is there")["status"].take();
    assert!(!holds(&status, "Programmed") && status["addresses"].as_array().is_none_or(Vec::is_empty), "{status:#}");
    scene.proxies[late].clear();
    assert_eq!(until_programmed(&scene, &ns), vip);
    until_status(&scene, vip, "echo.example", 200);

    // S153, S154: a Service with the same key has the address too, at its own ports; with a port of the Gateway's it
    // gets another one.
    let ports = json!([
        { "name": "http", "port": 5432, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" },
    ]);
    let shares = [("address-pool", "routed"), ("sharing-key", "one")];
    ns.apply("", "services/web", &annotated(load_balancer(&json!({ "ports": ports })), &shares));
    scene.serve(&ns, "web", &["a1"]);
    let slice = json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "dns", "port": UDP_PORT, "protocol": "UDP" }],
        "endpoints": [{ "addresses": [scene.lab.pod("a1").ip(false).to_string()], "nodeName": "node1" }],
    });
    ns.apply("discovery.k8s.io/v1", "endpointslices/web-udp", &slice);
    scene.until_shows(&ns, "web", &[&vip.to_string()]);
    scene.until_answers((vip, 5432), &["a1"]);
    scene.plane.until("UDP is answered", |_| {
        udp::ask(&scene.lab.client, (vip, 53).into(), 64).map_err(|failure| anyhow::anyhow!("{failure:?}"))
    });
    until_status(&scene, vip, "echo.example", 200);
    ns.apply("", "services/clash", &annotated(load_balancer(&json!({})), &shares));
    assert_ne!(scene.until_addresses(&ns, "clash"), [vip], "port {PORT} of {vip} is the Gateway's");

    // S155: a backend elsewhere that nobody has granted is not reached, and the route says so; others go on.
    backend(&scene, &other, "secret", &["a1"]);
    let secret = json!({ "name": "secret", "namespace": other.name(), "port": 8080 });
    route(&ns, "secret", "secret.example", &secret);
    let said = scene.plane.until("the route says that it may not", |api| {
        let route = api.get(&ns.path(GATEWAY, "httproutes/secret"))?;
        let conditions = route["status"]["parents"][0]["conditions"].as_array().cloned().unwrap_or_default();
        let resolved = conditions.iter().find(|c| c["type"] == "ResolvedRefs").context("it says nothing")?;
        anyhow::ensure!(resolved["status"] == "False" && resolved["reason"] == "RefNotPermitted", "{resolved:#}");
        Ok(resolved["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(said.contains(other.name()), "{said}");
    until_status(&scene, vip, "secret.example", 500);
    until_status(&scene, vip, "echo.example", 200);

    // S152: the backend hears of the true client; nothing that comes to the VIP is the host's, and what comes to the
    // host is not the VIP's.
    let forwarded = |reply: &client::Reply| reply.seen().headers["x-forwarded-for"].clone();
    let of_client = [addr::CLIENT_V4.to_string()];
    assert_eq!(forwarded(&until_status(&scene, vip, "echo.example", 200)), of_client);
    assert_eq!(host.taken(), 0, "the host has taken a connection to the VIP");
    agents[0].kill9().expect("it runs");
    for _ in 0..20 {
        let outcome = Connection::open(&scene.lab.client, (vip, PORT).into()).map(|c| c.answer);
        assert_eq!(outcome, Err(Failure::Refused), "a connection to the VIP while its proxy is away");
    }
    let tally = load::burst(&scene.lab.client, (vip, 5432).into(), 50, 2);
    assert_eq!((tally.failed(), host.taken()), (0, 0), "layer 4 goes on: {tally}");
    let answer = Connection::open(&scene.lab.client, SocketAddr::new(addr::node_v4(1).into(), PORT)).expect("the host");
    assert_eq!((answer.answer.pod.as_str(), host.taken()), ("host", 1), "the host's own address is the host's");
    agents[0].launch().expect("it starts again");
    assert_eq!(forwarded(&until_status(&scene, vip, "echo.example", 200)), of_client);
    assert_eq!(host.taken(), 1, "the host has taken a connection to the VIP");

    // S142: the route by which the host took the VIP for its own goes with everything else, and the host's stay.
    let local = || {
        let tables = scene.lab.node1.enter(|| std::fs::read_to_string("/proc/thread-self/net/fib_trie"));
        tables.expect("the routes of a namespace")
    };
    let (ours, own) = (format!("|-- {vip}\n"), format!("|-- {}\n", addr::node_v4(1)));
    assert!(local().contains(&ours) && local().contains(&own), "{}", local());
    agents[0].stop().expect("it ends well");
    agents[0].cleanup().expect("it cleans up");
    assert!(!local().contains(&ours) && local().contains(&own), "{}", local());
    Connection::open(&scene.lab.client, SocketAddr::new(addr::node_v4(1).into(), PORT)).expect("the host");
    scene.agents = agents;
}

#[test]
fn events_are_recorded_for_whatever_is_refused_and_for_a_node_without_its_interface() {
    let mut scene = Scene::with(1, 0, |plane| plane.install_gateway_api().expect("the CRDs of Gateway API"));
    let ns = scene.plane.namespace("events");
    let listeners = json!([{ "name": "odd", "port": 53, "protocol": "SCTP" }]);
    let front = json!({ "kind": "Gateway", "spec": { "gatewayClassName": "sluice", "listeners": listeners } });
    ns.apply(GATEWAY, "gateways/front", &front);
    route(&ns, "lost", "lost.example", &json!({ "name": "nobody", "port": 80 }));
    pool_of(&scene.plane, "loops", &json!({ "addresses": ["127.0.0.0/24"], "autoAssign": false }));
    assert_eq!(scene.until_told_of("Gateway", &ns, "front", "NotAccepted", "SCTP"), "Warning");
    assert_eq!(scene.until_told_of("HTTPRoute", &ns, "lost", "NotAccepted", "front"), "Warning");
    let until_event = |kind: &str, name: &str, words: &str| {
        scene.plane.until(&format!("an Event about {kind} {name}: {words}"), |api| {
            let all = api.list("/apis/events.k8s.io/v1/events")?;
            let is_it = |e: &&Value| e["regarding"]["kind"] == kind && e["regarding"]["name"] == name;
            let told = all.iter().filter(is_it).find(|e| e["note"].as_str().is_some_and(|note| note.contains(words)));
            told.map(|e| e["type"].clone())
                .with_context(|| format!("{:#?}", all.iter().filter(is_it).collect::<Vec<_>>()))
        })
    };
    assert_eq!(until_event("AddressPool", "loops", "the reserved range 127.0.0.0/8"), "Warning");
    // A node whose interface is misspelt.
    let mut agent = scene.agents.remove(0);
    agent.stop().expect("it ends");
    agent.spec_mut().interfaces.push("eht9".to_owned());
    agent.spawn().expect("it starts");
    assert_eq!(until_event("Node", "node1", "--interface eht9"), "Warning");
}
