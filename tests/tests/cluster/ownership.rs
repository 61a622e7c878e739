//! Which Services are ours, and which endpoints are theirs: sections A and C of the checklist that need an API server.
use serde_json::{Value, json};
use sluice_tests::cluster::{
    Patch, TestNamespace,
    look::{ALLOCATED, FINALIZER, condition, ingress, is_marked},
    scene::{POOL, Scene, load_balancer, pool_of},
};

/// Fails where a Service was written to since it was created.
fn assert_untouched(scene: &Scene, ns: &TestNamespace<'_>, created: &Value) {
    let name = created["metadata"]["name"].as_str().expect("a name");
    let found = scene.service(ns, name);
    assert_eq!(found["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"], "{found:#}");
}

#[test]
fn s1_s2_s3_s4_s5_s6_s7_s8_s9_what_is_ours_is_served_and_nothing_else_is_written_to() {
    const OTHERS: &str = "198.51.100.77";
    let foreign = json!({ "status": { "loadBalancer": { "ingress": [
        { "ip": OTHERS, "ipMode": "Proxy", "ports": [{ "port": 80, "protocol": "TCP" }] }, { "hostname": "lb.example" },
    ] } } });
    let mut scene = Scene::with(1, 1, |plane| {
        let web = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "theirs", "namespace": "default" },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
        });
        plane.apply(&web.to_string()).expect("a Service");
        let status = "/api/v1/namespaces/default/services/theirs/status";
        plane.api().patch(status, Patch::Merge, &foreign).expect("its status");
    });
    let theirs = scene.plane.api().get("/api/v1/namespaces/default/services/theirs").expect("it is there");
    let ns = scene.plane.namespace("ours");
    let create = |name: &str, service: Value| {
        ns.apply("", &format!("services/{name}"), &service);
        scene.serve(&ns, name, &["a1"]);
        scene.service(&ns, name)
    };
    let of = |spec: Value| json!({ "kind": "Service", "spec": spec });
    let ports = json!([{ "name": "http", "port": 80 }]);
    let ignored = [
        create("s1-cluster-ip", of(json!({ "ports": ports }))),
        create("s1-node-port", of(json!({ "type": "NodePort", "ports": ports }))),
        create("s2-headless", of(json!({ "clusterIP": "None", "ports": ports }))),
        create("s3-external", of(json!({ "type": "ExternalName", "externalName": "a.example", "ports": ports }))),
        create("s4-foreign", load_balancer(&json!({ "loadBalancerClass": "other.example/lb" }))),
        create("s7-headless", {
            let mut service = load_balancer(&json!({}));
            service["metadata"]["labels"] = json!({ "service.kubernetes.io/headless": "" });
            service
        }),
    ];
    // What the API server refuses needs no answer of ours.
    let refused = json!({
        "metadata": { "name": "s2" }, "spec": { "type": "LoadBalancer", "clusterIP": "None", "ports": ports },
    });
    let refused = scene.plane.api().create(&ns.path("", "services"), &refused).expect_err("headless").to_string();
    assert!(refused.contains("may not be set to 'None' for LoadBalancer"), "{refused}");

    let vips: Vec<_> = ["nil", "ours"]
        .map(|class| {
            let name = format!("s4-{class}");
            let spec = if class == "nil" { json!({}) } else { json!({ "loadBalancerClass": "sluice.dev/lb" }) };
            create(&name, load_balancer(&spec));
            scene.until_addresses(&ns, &name)[0]
        })
        .into();
    let mut proxied = load_balancer(&json!({}));
    proxied["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "other" });
    create("s6-other-proxy", proxied);
    let at_other_proxy = scene.until_addresses(&ns, "s6-other-proxy")[0];
    scene.until_answers((at_other_proxy, 80), &["a1"]);

    // S9: the same name elsewhere is another Service.
    let other = scene.plane.namespace("other");
    other.apply("", "services/s4-nil", &load_balancer(&json!({})));
    let there = scene.until_addresses(&other, "s4-nil")[0];
    assert!(!vips.contains(&there), "{there}");
    scene.until_answers((vips[0], 80), &["a1"]);
    scene.delete(&other, "s4-nil");
    scene.until_unprogrammed((there, 80));
    scene.until_answers((vips[0], 80), &["a1"]);

    // S8: what others add to the status of ours stays, in its place, with all its fields.
    let status = ns.path("", "services/s4-ours/status");
    let mut both = foreign.clone();
    let ours = scene.service(&ns, "s4-ours")["status"]["loadBalancer"]["ingress"][0].clone();
    both["status"]["loadBalancer"]["ingress"].as_array_mut().expect("a list").push(ours);
    scene.plane.api().patch(&status, Patch::Merge, &both).expect("another controller may");
    let vip = vips[1].to_string();
    ns.apply(
        "",
        "services/s4-ours",
        &load_balancer(&json!({
            "loadBalancerClass": "sluice.dev/lb", "ipFamilyPolicy": "RequireDualStack",
        })),
    );
    let shown = scene.plane.until("both families, and what others wrote", |_| {
        let service = scene.service(&ns, "s4-ours");
        anyhow::ensure!(ingress(&service).len() == 4, "{:#}", service["status"]);
        Ok(service["status"]["loadBalancer"]["ingress"].clone())
    });
    assert_eq!(shown[0], foreign["status"]["loadBalancer"]["ingress"][0], "{shown:#}");
    assert_eq!((&shown[1]["hostname"], &shown[2]["ip"]), (&json!("lb.example"), &json!(vip)), "{shown:#}");

    // S5: away and back with another class is a release, and then nothing.
    ns.apply("", "services/s4-ours", &of(json!({ "type": "ClusterIP", "ports": ports })));
    scene.until_released(&ns, "s4-ours");
    scene.until_unprogrammed((vips[1], 80));
    ns.apply("", "services/s4-ours", &load_balancer(&json!({ "loadBalancerClass": "other.example/lb" })));
    let flipped = scene.service(&ns, "s4-ours");
    let immutable = json!({ "spec": { "loadBalancerClass": "sluice.dev/lb" } });
    let path = ns.path("", "services/s4-ours");
    let immutable = scene.plane.api().patch(&path, Patch::Merge, &immutable).expect_err("S5").to_string();
    assert!(immutable.contains("loadBalancerClass") && immutable.contains("may not change"), "{immutable}");

    scene.settle(&ns);
    for created in ignored.iter().chain([&flipped]) {
        assert_untouched(&scene, &ns, created);
    }
    let after = scene.plane.api().get("/api/v1/namespaces/default/services/theirs").expect("it is there");
    assert_eq!(after, theirs, "S8: another controller's Service was written to");
    // And the agent says so.
    let why = scene.agents[0].show(&["why", "service/default/theirs"]).expect("why");
    assert!(why.contains("ForeignStatus") && why.contains(OTHERS), "{why}");

    // S4: told to leave Services without a class to others, it lets go of those that it has, and of no other.
    create("s4-kept", load_balancer(&json!({ "loadBalancerClass": "sluice.dev/lb" })));
    let kept = scene.until_addresses(&ns, "s4-kept")[0];
    let agent = &mut scene.agents[0];
    agent.stop().expect("it ends");
    agent.spec_mut().extra = ["--classless-services", "leave"].map(str::to_owned).into();
    agent.launch().expect("it starts");
    scene.until_released(&ns, "s4-nil");
    scene.until_unprogrammed((vips[0], 80));
    scene.until_answers((kept, 80), &["a1"]);
    assert_eq!(ingress(&scene.service(&ns, "s4-kept")), [kept.to_string()]);
    let why = scene.agents[0].show(&["why", &format!("service/{}/s4-nil", ns.name())]).expect("why");
    assert!(why.contains("NoClass") && why.contains("sluice.dev/lb"), "{why}");
}

#[test]
fn s11_s12_without_pools_or_permission_it_says_what_is_missing_and_begins_when_it_comes() {
    let mut scene = Scene::with(1, 1, |plane| {
        plane.kubectl(&["delete", "crd", "addresspools.sluice.dev"], "").expect("it is there");
    });
    let mut agent = scene.agents.remove(0);
    let ns = scene.plane.namespace("missing");
    ns.apply("", "services/web", &load_balancer(&json!({})));
    let said = scene.until_reason(&ns, "web", "NoPool");
    assert!(said.contains("no pool"), "{said}");
    assert_eq!(scene.until_told(&ns, "web", "SyncLoadBalancerFailed", "NoPool"), "Warning");
    let service = scene.service(&ns, "web");
    assert!(ingress(&service).is_empty() && !is_marked(&service), "{service:#}");
    let crds = xtask::root().join("deploy/crds").display().to_string();
    scene.plane.kubectl(&["apply", "-k", &crds], "").expect("the definitions");
    scene.plane.until("pools are served", |api| api.list("/apis/sluice.dev/v1alpha1/addresspools").map(drop));
    let said = scene.until_reason(&ns, "web", "NoPool");
    assert!(!said.is_empty());
    pool_of(&scene.plane, POOL, &json!({ "addresses": ["203.0.113.0/28"] }));
    scene.serve(&ns, "web", &["a1"]);
    let vip = scene.until_addresses(&ns, "web")[0];
    scene.until_answers((vip, 80), &["a1"]);

    // S12: what it may not read any more keeps it from being ready at its next start, by verb and resource.
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/sluice";
    let whole = scene.plane.api().get(role).expect("the role");
    let mut less = whole["rules"].clone();
    less.as_array_mut().expect("rules").retain(|rule| rule["resources"] != json!(["endpointslices"]));
    scene.plane.api().patch(role, Patch::Merge, &json!({ "rules": less })).expect("less");
    agent.kill9().expect("it runs");
    agent.spawn().expect("it starts");
    scene.plane.until("it names what it lacks", |_| {
        let (status, said) = agent.get("/readyz")?;
        let names = ["list", "watch"].iter().any(|verb| said.contains(verb)) && said.contains("endpointslices");
        anyhow::ensure!(status == 503 && names && said.contains("discovery.k8s.io"), "{status}: {said}");
        Ok(())
    });
    let tally = sluice_tests::netns::load::burst(&scene.lab.client, (vip, 80).into(), 50, 2);
    assert_eq!(tally.failed(), 0, "what was programmed stays: {tally}");
    scene.plane.api().patch(role, Patch::Merge, &json!({ "rules": whole["rules"] })).expect("all again");
    scene.plane.until("it is ready", |_| {
        let (status, said) = agent.get("/readyz")?;
        anyhow::ensure!(status == 200, "{said}");
        Ok(())
    });
    scene.serve(&ns, "web", &["a1"]);
    scene.until_answers((vip, 80), &["a1"]);
}

/// A slice as somebody writes it by hand, for a Service or for none.
fn write_slice(ns: &TestNamespace<'_>, name: &str, service: Option<&str>, family: &str, endpoints: Vec<Value>) {
    let mut labels = json!({ "endpointslice.kubernetes.io/managed-by": "by-hand" });
    if let Some(service) = service {
        labels["kubernetes.io/service-name"] = json!(service);
    }
    let slice = json!({
        "kind": "EndpointSlice", "addressType": family, "endpoints": endpoints, "metadata": { "labels": labels },
        "ports": [{ "name": "http", "port": sluice_tests::netns::pod::TCP_PORT, "protocol": "TCP" }],
    });
    ns.apply("discovery.k8s.io/v1", &format!("endpointslices/{name}"), &slice);
}

/// S25, S27, S28, S29, S33, S34, S36: which endpoints of a slice count, and as what.
fn odd_endpoints(scene: &Scene, ns: &TestNamespace<'_>) {
    let other = {
        ns.apply("", "services/other", &load_balancer(&json!({})));
        scene.until_addresses(ns, "other")[0]
    };
    ns.apply("", "services/odd", &load_balancer(&json!({ "publishNotReadyAddresses": true })));
    let vip = scene.until_addresses(ns, "odd")[0];
    let ip = |pod: &str| scene.lab.pod(pod).ip(false).to_string();
    let of = |name: &str, endpoints: Vec<Value>| write_slice(ns, name, Some("odd"), "IPv4", endpoints);
    let with = |pod: &str, conditions: Value| json!({ "addresses": [ip(pod)], "conditions": conditions });
    let terminating = json!({ "ready": false, "serving": true, "terminating": true });
    // S33: nothing said is ready; what is not ready does not serve, unless it says so; S34: the slice's word counts.
    of(
        "a",
        vec![
            with("a1", json!({})),
            with("a2", json!({ "ready": false, "terminating": true })),
            with("b1", json!({ "ready": true, "serving": false, "terminating": true })),
            with("b2", json!({ "ready": false })),
        ],
    );
    scene.until_reaches((vip, 80), &["a1", "b1"]);
    scene.until_answers((vip, 80), &["a1", "b1"]);
    // S33 again: with none ready the one that says that it serves is left, and not the one that says nothing.
    of("a", vec![with("a2", json!({ "ready": false, "terminating": true })), with("b1", terminating.clone())]);
    scene.until_reaches((vip, 80), &["b1"]);
    // S25: a move from slice to slice, seen half way: one backend, by the copy that does not terminate, in either order.
    for (old, new) in [("a", "b"), ("b", "a")] {
        of(old, vec![with("a1", json!({ "ready": true })), with("a2", terminating.clone())]);
        of(new, vec![with("a2", json!({ "ready": true }))]);
        scene.until_reaches((vip, 80), &["a1", "a2"]);
        let rows = scene.agents[0].show_json(&["backends"]).expect("JSON");
        let rows = rows.as_array().expect("rows").iter();
        let of_it = rows.filter(|row| row.to_string().contains(&format!("\"{vip}:80/TCP\""))).count();
        assert_eq!(of_it, 2, "S25: {vip} has the rows of a1 and a2");
    }
    scene.until_answers((vip, 80), &["a1", "a2"]);
    scene.plane.api().delete(&ns.path("discovery.k8s.io/v1", "endpointslices/b")).expect("it is there");
    // S29: the first address alone. S36: neither its own VIP nor another's, and the verdict names them.
    of(
        "a",
        vec![
            json!({ "addresses": [ip("a1"), ip("b2")] }),
            json!({ "addresses": [vip.to_string()] }),
            json!({ "addresses": [other.to_string()] }),
        ],
    );
    // S27: a slice of nobody; S28: names, and the family that the Service has not.
    write_slice(ns, "of-nobody", None, "IPv4", vec![json!({ "addresses": [ip("b1")] })]);
    write_slice(ns, "names", Some("odd"), "FQDN", vec![json!({ "addresses": ["web.example"] })]);
    let six = scene.lab.pod("b1").ip(true).to_string();
    write_slice(ns, "six", Some("odd"), "IPv6", vec![json!({ "addresses": [six] })]);
    scene.settle(ns);
    scene.until_reaches((vip, 80), &["a1"]);
    scene.until_answers((vip, 80), &["a1"]);
    let why = scene.agents[0].show(&["why", &format!("service/{}/odd", ns.name())]).expect("why");
    for named in [vip.to_string(), other.to_string(), "FQDN".to_owned()] {
        assert!(why.contains(&named), "{named} is not in: {why}");
    }
}

/// S35: what is known of an endpoint's node decides whether it is local, and nothing else.
fn endpoints_that_move(scene: &Scene, ns: &TestNamespace<'_>) {
    let local = json!({ "externalTrafficPolicy": "Local" });
    ns.apply("", "services/moves", &load_balancer(&local));
    let at = |node: Value| {
        let mut endpoint = json!({ "addresses": [scene.lab.pod("a1").ip(false).to_string()] });
        endpoint["nodeName"] = node;
        write_slice(ns, "moves", Some("moves"), "IPv4", vec![endpoint]);
    };
    at(json!("node1"));
    let vip = scene.until_addresses(ns, "moves")[0];
    scene.until_answers((vip, 80), &["a1"]);
    at(json!("node2"));
    scene.until_reaches((vip, 80), &[]);
    at(json!("node1"));
    scene.until_reaches((vip, 80), &["a1"]);
    at(Value::Null);
    scene.until_reaches((vip, 80), &[]);
    ns.apply("", "services/moves", &load_balancer(&json!({ "externalTrafficPolicy": "Cluster" })));
    scene.until_answers((vip, 80), &["a1"]);
}

/// S41: changes come quicker than anybody needs them; what stays serves all the time, and the last one counts.
fn many_changes(scene: &Scene, ns: &TestNamespace<'_>) {
    const CHANGES: usize = 200;
    ns.apply("", "services/churn", &load_balancer(&json!({})));
    scene.serve(ns, "churn", &["a1"]);
    let vip = scene.until_addresses(ns, "churn")[0];
    scene.until_answers((vip, 80), &["a1"]);
    let load = sluice_tests::netns::Load::start(&scene.lab.client, (vip, 80).into(), 2);
    let path = ns.path("discovery.k8s.io/v1", "endpointslices/churn-ipv4");
    let of = |pods: &[&str]| {
        let endpoint = |pod: &&sluice_tests::netns::pod::Pod| json!({ "addresses": [pod.ip(false).to_string()] });
        json!({ "endpoints": scene.lab.select(pods).iter().map(endpoint).collect::<Vec<_>>() })
    };
    for n in 0..CHANGES {
        let pods = [&["a1", "a2"][..], &["a1", "b1", "b2"], &["a1"]][n % 3];
        scene.plane.api().patch(&path, Patch::Merge, &of(pods)).expect("it may change");
    }
    scene.plane.api().patch(&path, Patch::Merge, &of(&["a1", "b2"])).expect("it may change");
    scene.until_reaches((vip, 80), &["a1", "b2"]);
    let tally = load.stop();
    assert!(tally.failed() == 0 && tally.succeeded() > 0, "S41: {tally}");
    scene.until_answers((vip, 80), &["a1", "b2"]);
}

#[test]
fn s24_to_s37_and_s41_endpoints_come_from_every_slice_in_any_order() {
    let scene = Scene::start(1, 2);
    let ns = scene.plane.namespace("slices");
    // S37: the slices first, then the Service; S31: without a selector.
    scene.serve(&ns, "web", &["a1"]);
    scene.settle(&ns);
    ns.apply("", "services/web", &load_balancer(&json!({})));
    let vip = scene.until_addresses(&ns, "web")[0];
    scene.until_answers((vip, 80), &["a1"]);
    let slice = |name: &str, pods: &[&str]| {
        let endpoint = |pod: &&sluice_tests::netns::pod::Pod| json!({ "addresses": [pod.ip(false).to_string()] });
        write_slice(&ns, name, Some("web"), "IPv4", scene.lab.select(pods).iter().map(endpoint).collect());
    };
    // S24: a second slice adds, S26: one endpoint in two slices stays when one of them goes.
    slice("more", &["a1", "b1", "b2"]);
    scene.until_answers((vip, 80), &["a1", "b1", "b2"]);
    slice("other", &["b1"]);
    slice("more", &["b2"]);
    scene.until_answers((vip, 80), &["a1", "b1", "b2"]);
    scene.plane.api().delete(&ns.path("discovery.k8s.io/v1", "endpointslices/more")).expect("it is there");
    scene.until_answers((vip, 80), &["a1", "b1"]);
    // S37: the Service goes before its slices, and comes back under the same name.
    scene.delete(&ns, "web");
    scene.until_unprogrammed((vip, 80));
    ns.apply("", "services/web", &load_balancer(&json!({})));
    let vip = scene.until_addresses(&ns, "web")[0];
    scene.until_answers((vip, 80), &["a1", "b1"]);
    odd_endpoints(&scene, &ns);
    endpoints_that_move(&scene, &ns);
    many_changes(&scene, &ns);

    // S32: Endpoints written by hand are mirrored to slices, subsets that share an address too.
    if !scene.plane.has_controllers() {
        eprintln!("no controllers in $KUBEBUILDER_ASSETS: nobody mirrors Endpoints");
        return;
    }
    let ports = json!([{ "name": "http", "port": 80 }, { "name": "alt", "port": 81 }]);
    ns.apply("", "services/mirrored", &load_balancer(&json!({ "ports": ports })));
    let pod = scene.lab.pod("a2").ip(false).to_string();
    let subset = |name: &str| {
        json!({
            "addresses": [{ "ip": pod }],
            "ports": [{ "name": name, "port": sluice_tests::netns::pod::TCP_PORT, "protocol": "TCP" }],
        })
    };
    ns.apply("", "endpoints/mirrored", &json!({ "kind": "Endpoints", "subsets": [subset("http"), subset("alt")] }));
    let vip = scene.until_addresses(&ns, "mirrored")[0];
    for port in [80, 81] {
        scene.until_answers((vip, port), &["a2"]);
    }
    let service = scene.service(&ns, "mirrored");
    assert_eq!(service["metadata"]["finalizers"], json!([FINALIZER]), "{service:#}");
    assert_eq!(service["metadata"]["annotations"][ALLOCATED], vip.to_string(), "{service:#}");
    assert_eq!(condition(&service).expect("a condition")["status"], "True", "{service:#}");
}
