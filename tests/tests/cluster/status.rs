//! What is written to Services and when, and what follows when their type or spec changes: sections H and I.
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{
        Calls, Fault, Patch, TestNamespace, Verb,
        look::{ALLOCATED, FINALIZER, condition, ingress, is_marked},
        scene::{Scene, load_balancer, pool_of},
    },
    netns::{
        Connection, Failure, load,
        pod::{TCP_PORT, UDP_PORT},
        udp,
    },
};

/// A Service of another type, with the same port.
fn of_type(type_: &str) -> Value {
    json!({ "kind": "Service", "spec": { "type": type_, "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] } })
}

/// A Service that asks for an address that no pool has: its condition is written whatever the nodes have done.
fn barrier(scene: &Scene, ns: &TestNamespace<'_>, name: &str) {
    let mut service = load_balancer(&json!({}));
    service["metadata"]["annotations"] = json!({ "sluice.dev/addresses": "192.0.2.1" });
    ns.apply("", &format!("services/{name}"), &service);
    scene.until_reason(ns, name, "AddressOutsidePools");
}

#[test]
fn s81_s83_s84_s86_s87_s88_an_address_is_shown_when_it_is_programmed_and_goes_in_order() {
    let scene = Scene::start(2, 1);
    let ns = scene.plane.namespace("status");
    let (leader, other) = scene.leader();
    // Nobody announces these: every node must have them before they are shown.
    pool_of(
        &scene.plane,
        "routed",
        &json!({ "addresses": ["203.0.113.32/28"], "announce": "none", "autoAssign": false }),
    );

    // S81, S83: one node does not see the Service yet. The finalizer is there, the address is not shown.
    scene.proxies[other].fault(Calls::all().to("services"), Fault::Stale).expect("a fault");
    let mut web = load_balancer(&json!({}));
    web["metadata"] = json!({
        "annotations": { "sluice.dev/address-pool": "routed", "example.com/note": "kept" },
        "finalizers": ["example.com/keep"],
    });
    ns.apply("", "services/web", &web);
    scene.serve(&ns, "web", &["a1", "b1"]);
    let vip = scene.plane.until("it is given an address", |_| {
        let service = scene.service(&ns, "web");
        let given = service["metadata"]["annotations"][ALLOCATED].as_str().unwrap_or_default().to_owned();
        Ok(given.parse::<std::net::IpAddr>()?)
    });
    scene.plane.until("the leader has programmed it", |_| {
        anyhow::ensure!(scene.reach(leader, (vip, 80)).is_some_and(|pods| pods.len() == 2));
        Ok(())
    });
    barrier(&scene, &ns, "barrier-1");
    let service = scene.service(&ns, "web");
    assert!(ingress(&service).is_empty() && condition(&service).is_none(), "S81: {:#}", service["status"]);
    assert_eq!(service["metadata"]["finalizers"], json!(["example.com/keep", FINALIZER]), "S83, S86");
    assert_eq!(scene.until_told(&ns, "web", "EnsuringLoadBalancer", &vip.to_string()), "Normal");

    // S88: a status that is refused is tried again.
    let statuses = Calls::of(&[Verb::Patch]).to("services/status");
    let before = scene.proxies[leader].count(&statuses);
    scene.proxies[leader].fault_times(3, statuses.clone(), Fault::Status(500)).expect("a fault");
    scene.proxies[other].clear();
    assert_eq!(scene.until_addresses(&ns, "web"), [vip]);
    assert!(scene.proxies[leader].count(&statuses) >= before + 4, "S88: three failures and one that is taken");
    let service = scene.service(&ns, "web");
    let shown = &service["status"]["loadBalancer"]["ingress"];
    assert_eq!(*shown, json!([{ "ip": vip.to_string(), "ipMode": "VIP" }]), "S81");
    assert_eq!(condition(&service).expect("a condition")["status"], "True", "{service:#}");
    assert_eq!(service["metadata"]["annotations"]["example.com/note"], "kept", "S86");
    assert_eq!(scene.until_told(&ns, "web", "EnsuredLoadBalancer", &vip.to_string()), "Normal", "S87");
    scene.until_answers((vip, 80), &["a1", "b1"]);

    // S84, S86: it goes while its endpoints stay; a node that has not seen it keeps the finalizer where it is.
    scene.proxies[other].fault(Calls::all().to("services"), Fault::Stale).expect("a fault");
    scene.plane.api().delete(&ns.path("", "services/web")).expect("it can be deleted");
    scene.plane.until("the leader has unprogrammed it", |_| {
        anyhow::ensure!(scene.reach(leader, (vip, 80)).is_none());
        Ok(())
    });
    barrier(&scene, &ns, "barrier-2");
    assert!(is_marked(&scene.service(&ns, "web")), "S84: the other node still serves it");
    // Nor is its address another's until then.
    let mut next = load_balancer(&json!({}));
    next["metadata"]["annotations"] = json!({ "sluice.dev/addresses": vip.to_string() });
    ns.apply("", "services/next", &next);
    let said = scene.until_reason(&ns, "next", "AddressTaken");
    assert!(said.contains("web"), "{said}");
    scene.proxies[other].clear();
    scene.plane.until("our finalizer goes, the other stays", |_| {
        let service = scene.service(&ns, "web");
        anyhow::ensure!(service["metadata"]["finalizers"] == json!(["example.com/keep"]), "{:#}", service["metadata"]);
        anyhow::ensure!(!is_marked(&service), "{:#}", service["metadata"]);
        Ok(())
    });
    scene.until_told(&ns, "web", "DeletedLoadBalancer", &vip.to_string());
    // It is free as soon as it is unprogrammed, whoever else keeps the object.
    assert_eq!(scene.until_addresses(&ns, "next"), [vip]);
    let none = json!({ "metadata": { "finalizers": null } });
    scene.plane.api().patch(&ns.path("", "services/web"), Patch::Merge, &none).expect("it goes");
}

/// The Events about a Service.
fn events(scene: &Scene, ns: &TestNamespace<'_>, name: &str) -> Vec<Value> {
    let mut events = scene.plane.api().list(&ns.path("events.k8s.io/v1", "events")).expect("Events");
    events.retain(|event| event["regarding"]["name"] == name && event["regarding"]["kind"] == "Service");
    events
}

/// S87: what stays wrong is told once, however often the Service changes, and what flaps not without end.
fn events_are_few(scene: &Scene, ns: &TestNamespace<'_>) {
    const CHANGES: u8 = 30;
    /// Source: upstream's spam filter.
    const BURST: usize = 25;
    barrier(scene, ns, "wrong");
    scene.until_told(ns, "wrong", "SyncLoadBalancerFailed", "AddressOutsidePools");
    let path = ns.path("", "services/wrong");
    let annotate = |name: &str, value: String| {
        let change = json!({ "metadata": { "annotations": { name: value } } });
        scene.plane.api().patch(&path, Patch::Merge, &change).expect("it may change");
    };
    let before = events(scene, ns, "wrong");
    for n in 0..CHANGES {
        annotate("example.com/note", n.to_string());
    }
    scene.settle(ns);
    assert_eq!(events(scene, ns, "wrong"), before, "S87: nothing new is wrong");
    // Each time something else, and each time its condition says so.
    for n in 1..=CHANGES {
        annotate("sluice.dev/addresses", format!("192.0.2.{}", n + 1));
        scene.plane.until("its condition names the address", |_| {
            let service = scene.service(ns, "wrong");
            let said = condition(&service).and_then(|c| c["message"].as_str()).unwrap_or_default().to_owned();
            anyhow::ensure!(said.contains(&format!("192.0.2.{}", n + 1)), "{said}");
            Ok(())
        });
    }
    scene.settle(ns);
    let told = events(scene, ns, "wrong").len();
    assert!(told > before.len() && told <= BURST, "S87: {told} Events about one Service");
}

#[test]
fn s85_s86_s87_s98_marks_that_people_take_off_or_misspell_do_no_harm() {
    let mut scene = Scene::start(1, 1);
    let mut agent = scene.agents.remove(0);
    let ns = scene.plane.namespace("marks");
    let mut web = load_balancer(&json!({ "loadBalancerClass": "sluice.dev/lb" }));
    web["metadata"]["annotations"] = json!({ "sluice.dev/adresses": "203.0.113.9" });
    ns.apply("", "services/web", &web);
    scene.serve(&ns, "web", &["a1"]);
    let vip = scene.until_addresses(&ns, "web")[0];
    assert_eq!(scene.until_told(&ns, "web", "UnknownAnnotation", "sluice.dev/adresses"), "Warning", "S98");
    // Taken off, they come back, and the address stays.
    let off = json!({ "metadata": { "finalizers": null, "annotations": { ALLOCATED: null } } });
    let path = ns.path("", "services/web");
    scene.plane.api().patch(&path, Patch::Merge, &off).expect("people may");
    scene.plane.until("the marks come back", |_| {
        let service = scene.service(&ns, "web");
        anyhow::ensure!(service["metadata"]["finalizers"] == json!([FINALIZER]), "{:#}", service["metadata"]);
        anyhow::ensure!(service["metadata"]["annotations"][ALLOCATED] == vip.to_string(), "{:#}", service["metadata"]);
        Ok(())
    });
    scene.until_answers((vip, 80), &["a1"]);
    // A finalizer stays with a Service that is refused the address it asks for only as long as the address is programmed.
    web["metadata"]["annotations"] = json!({ "sluice.dev/addresses": "192.0.2.1" });
    ns.apply("", "services/web", &web);
    scene.until_reason(&ns, "web", "AddressOutsidePools");
    scene.plane.until("its marks go", |_| {
        let service = scene.service(&ns, "web");
        anyhow::ensure!(!is_marked(&service) && ingress(&service).is_empty(), "{service:#}");
        Ok(())
    });
    web["metadata"]["annotations"] = json!({});
    ns.apply("", "services/web", &web);
    let vip = scene.until_addresses(&ns, "web")[0];

    // S85: with no agent there it waits; what the docs say to do about it works, and so does an agent that comes back.
    agent.kill9().expect("it runs");
    ns.apply("", "services/left", &of_type("ClusterIP"));
    let finalizer = json!({ "metadata": { "finalizers": [FINALIZER] } });
    scene.plane.api().patch(&ns.path("", "services/left"), Patch::Merge, &finalizer).expect("as ours was");
    scene.plane.api().delete(&path).expect("it can be deleted");
    scene.plane.api().delete(&ns.path("", "services/left")).expect("it can be deleted");
    let none = r#"{"metadata":{"finalizers":null}}"#;
    let patch = ["patch", "service", "left", "-n", ns.name(), "--type=merge", "-p", none];
    scene.plane.kubectl(&patch, "").expect("what the docs say");
    assert!(scene.plane.api().get(&ns.path("", "services/left")).is_err(), "it is gone");
    assert!(scene.service(&ns, "web")["metadata"]["deletionTimestamp"].is_string());
    // Somebody took the annotation off meanwhile: the class still says whose the finalizer is.
    let off = json!({ "metadata": { "annotations": { ALLOCATED: null } } });
    scene.plane.api().patch(&path, Patch::Merge, &off).expect("people may");
    agent.launch().expect("it is back");
    scene.plane.until("it goes", |api| {
        anyhow::ensure!(api.get(&path).is_err(), "it is still there");
        Ok(())
    });
    scene.agents.push(agent);
    let _ = vip;
    events_are_few(&scene, &ns);
}

#[test]
fn s82_s89_s90_s91_s92_a_service_that_changes_its_type_is_released_and_taken_again() {
    let scene = Scene::start(1, 1);
    let ns = scene.plane.namespace("types");
    let take = || {
        ns.apply("", "services/web", &load_balancer(&json!({})));
        let vip = scene.until_addresses(&ns, "web")[0];
        scene.until_answers((vip, 80), &["a1"]);
        vip
    };
    scene.serve(&ns, "web", &["a1"]);
    let mut vip = take();
    // S82: what another controller shows beside ours is not served by us.
    let others = "198.51.100.77";
    let mut both = json!({ "status": { "loadBalancer": { "ingress": [
        { "ip": others, "ipMode": "Proxy" }, { "ip": vip.to_string(), "ipMode": "VIP" },
    ] } } });
    let status = ns.path("", "services/web/status");
    scene.plane.api().patch(&status, Patch::Merge, &both).expect("another controller may");
    scene.settle(&ns);
    assert_eq!(ingress(&scene.service(&ns, "web")), [others, &vip.to_string()]);
    assert_eq!(scene.reach(0, (others.parse::<std::net::IpAddr>().expect("an address"), 80)), None);
    both["status"]["loadBalancer"]["ingress"].as_array_mut().expect("a list").remove(0);
    scene.plane.api().patch(&status, Patch::Merge, &both).expect("it may take it back");

    // S89, S90, S92.
    let mut external = of_type("ExternalName");
    external["spec"]["externalName"] = json!("web.example");
    for away in [of_type("ClusterIP"), of_type("NodePort"), external] {
        let type_ = away["spec"]["type"].clone();
        ns.apply("", "services/web", &away);
        scene.until_released(&ns, "web");
        scene.until_unprogrammed((vip, 80));
        assert_eq!(scene.service(&ns, "web")["spec"]["type"], type_);
        scene.until_told(&ns, "web", "DeletedLoadBalancer", &vip.to_string());
        // The address is free for another.
        let mut other = load_balancer(&json!({}));
        other["metadata"]["annotations"] = json!({ "sluice.dev/addresses": vip.to_string() });
        ns.apply("", "services/other", &other);
        assert_eq!(scene.until_addresses(&ns, "other"), [vip], "{type_}");
        scene.delete(&ns, "other");
        vip = take();
    }
    // One that waits for an address and is another type then keeps no word of ours.
    let mut waits = load_balancer(&json!({}));
    waits["metadata"]["annotations"] = json!({ "sluice.dev/addresses": "192.0.2.1" });
    ns.apply("", "services/waits", &waits);
    scene.until_reason(&ns, "waits", "AddressOutsidePools");
    waits["spec"] = of_type("ClusterIP")["spec"].clone();
    ns.apply("", "services/waits", &waits);
    scene.until_released(&ns, "waits");

    // S91: to and fro, quicker than anybody looks.
    for n in 0..10 {
        let service = if n % 2 == 0 { of_type("ClusterIP") } else { load_balancer(&json!({})) };
        ns.apply("", "services/web", &service);
    }
    vip = take();
    for n in 0..9 {
        let service = if n % 2 == 0 { of_type("NodePort") } else { load_balancer(&json!({})) };
        ns.apply("", "services/web", &service);
    }
    scene.until_released(&ns, "web");
    scene.until_unprogrammed((vip, 80));
}

#[test]
fn s93_s94_s95_s96_s97_changes_of_ports_policies_and_ranges_reach_the_kernel() {
    let scene = Scene::start(1, 1);
    let ns = scene.plane.namespace("spec");
    // S93: without node ports, then with them.
    ns.apply("", "services/web", &load_balancer(&json!({ "allocateLoadBalancerNodePorts": false })));
    scene.serve(&ns, "web", &["a1", "b1"]);
    let vip = scene.until_addresses(&ns, "web")[0];
    scene.until_answers((vip, 80), &["a1", "b1"]);
    assert_eq!(scene.service(&ns, "web")["spec"]["ports"][0].get("nodePort"), None);
    let load = load::Load::start(&scene.lab.client, (vip, 80).into(), 2);
    ns.apply("", "services/web", &load_balancer(&json!({ "allocateLoadBalancerNodePorts": true })));
    assert!(scene.service(&ns, "web")["spec"]["ports"][0]["nodePort"].is_number());
    scene.settle(&ns);
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "S93: {tally}");

    // S94: the port's protocol changes, and nothing of the old one is left.
    let udp_port = json!([{ "name": "http", "port": 80, "protocol": "UDP" }]);
    ns.apply("", "services/web", &load_balancer(&json!({ "ports": udp_port })));
    let slice = json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "port": UDP_PORT, "protocol": "UDP" }],
        "endpoints": [{ "addresses": [scene.lab.pod("a1").ip(false).to_string()], "nodeName": "node1" }],
    });
    ns.apply("discovery.k8s.io/v1", "endpointslices/web-udp", &slice);
    scene.plane.until("UDP is answered", |_| {
        udp::ask(&scene.lab.client, (vip, 80).into(), 64).map_err(|failure| anyhow::anyhow!("{failure:?}"))
    });
    scene.until_unprogrammed((vip, 80));
    assert_eq!(scene.until_addresses(&ns, "web"), [vip], "S94: the address stays");
    ns.apply("", "services/web", &load_balancer(&json!({})));
    scene.until_answers((vip, 80), &["a1", "b1"]);

    // S95: externalIPs are nobody's to take here.
    let external = "203.0.113.200";
    ns.apply("", "services/web", &load_balancer(&json!({ "externalIPs": [external] })));
    scene.settle(&ns);
    assert_eq!(scene.reach(0, (external.parse::<std::net::IpAddr>().expect("an address"), 80)), None, "S95");
    scene.until_answers((vip, 80), &["a1", "b1"]);

    // What cannot be programmed closes the Service, and says so.
    let ports = json!([{ "name": "http", "port": 80, "protocol": "SCTP" }]);
    ns.apply("", "services/web", &load_balancer(&json!({ "ports": ports })));
    let said = scene.until_reason(&ns, "web", "UnsupportedProtocol");
    assert!(said.contains("SCTP"), "{said}");
    assert_eq!(scene.until_told(&ns, "web", "SyncLoadBalancerFailed", "UnsupportedProtocol"), "Warning");
    scene.until_unprogrammed((vip, 80));

    // S96: ranges open it to those who are in them; an edit cuts the connections of those who are not, and keeps the others.
    let limited = |ranges: &[&str]| load_balancer(&json!({ "loadBalancerSourceRanges": ranges }));
    ns.apply("", "services/web", &limited(&[" 198.51.100.0/24 ", "2001:db8::/32"]));
    scene.until_reason(&ns, "web", "Programmed");
    scene.until_answers((vip, 80), &["a1", "b1"]);
    assert_eq!(scene.until_addresses(&ns, "web"), [vip], "S96: the address stays");
    let client = &scene.lab.client;
    let mut held = Connection::open(client, (vip, 80).into()).expect("a connection from within the ranges");
    ns.apply("", "services/web", &limited(&["198.51.100.10/32", "10.0.0.0/8"]));
    scene.settle(&ns);
    held.exchange(100).expect("S96: a client that may still come keeps its connection");
    ns.apply("", "services/web", &limited(&["10.0.0.0/8"]));
    let mut held = held.within(std::time::Duration::from_secs(1)).expect("a socket");
    scene.plane.until("its connection is cut", |_| {
        anyhow::ensure!(held.exchange(100).is_err(), "S96: it still answers");
        Ok(())
    });
    let outcome = Connection::open(client, (vip, 80).into()).map(|c| c.answer);
    assert_eq!(outcome, Err(Failure::Timeout), "S96: whoever is in no range gets no answer");
    assert_eq!(scene.until_addresses(&ns, "web"), [vip], "S96: it is programmed all the same");
    // S97: they are for the VIP alone: what leads to the pods by another way is not ours to close.
    let pod = (scene.lab.pod("a1").ip(false), TCP_PORT).into();
    Connection::open(client, pod).expect("S97: a pod that is dialled itself answers");
    ns.apply("", "services/web", &limited(&["0.0.0.0/0"]));
    scene.until_answers((vip, 80), &["a1", "b1"]);
}
