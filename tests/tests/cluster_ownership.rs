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

#[test]
fn s24_s26_s31_s32_s37_endpoints_come_from_every_slice_in_any_order() {
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
        let endpoints: Vec<_> = scene.lab.select(pods).iter().map(endpoint).collect();
        let mut slice = json!({
            "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{ "name": "http", "port": sluice_tests::netns::pod::TCP_PORT, "protocol": "TCP" }],
        });
        slice["metadata"]["labels"] =
            json!({ "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "by-hand" });
        ns.apply("discovery.k8s.io/v1", &format!("endpointslices/{name}"), &slice);
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
