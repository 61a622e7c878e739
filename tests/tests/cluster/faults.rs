//! Faults of the API server and of those who write to it: section O, and the lines of A, C and G that a fault decides.
//!
//! Everything happens under traffic, of which nothing may fail.
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::{
    cluster::{
        Calls, Fault, Part, Patch, TestNamespace, Verb,
        look::{ALLOCATED, FINALIZER, ingress, is_marked},
        scene::{POOL, Scene, load_balancer, pool_of},
    },
    netns::{
        Maps,
        http::{self as client, Protocol},
        load::Load,
    },
};

/// Connections that show that traffic goes on.
const SOME: usize = 300;

fn apply(ns: &TestNamespace<'_>, name: &str, spec: &Value) {
    ns.apply("", &format!("services/{name}"), &load_balancer(spec));
}

/// Waits until so many more connections were made.
fn go_on(scene: &Scene, load: &Load) {
    let begin = load.done();
    scene.plane.until("traffic goes on", |_| {
        anyhow::ensure!(load.done() >= begin + SOME, "{} connections", load.done() - begin);
        Ok(())
    });
}

/// Ends a load of which nothing may have failed.
fn end(load: Load, when: &str) {
    let tally = load.stop();
    assert_eq!(tally.failed(), 0, "{when}: {tally}");
}

#[test]
fn s39_s140_s143_the_api_server_and_an_agent_are_killed_under_traffic() {
    let mut scene = Scene::with(2, 1, |plane| plane.install_gateway_api().expect("the CRDs of Gateway API"));
    let mut second = scene.agents.remove(1);
    let ns = scene.plane.namespace("away");
    apply(&ns, "web", &json!({}));
    scene.serve(&ns, "web", &["a1", "b1"]);
    let vip = scene.until_addresses(&ns, "web")[0];
    scene.until_answers((vip, 80), &["a1", "b1"]);
    // A Gateway, whose kinds an API server that has just started may not know yet.
    const GATEWAY: &str = "gateway.networking.k8s.io/v1";
    let class = json!({
        "apiVersion": GATEWAY, "kind": "GatewayClass", "metadata": { "name": "sluice" },
        "spec": { "controllerName": "sluice.dev/gateway" },
    });
    scene.plane.apply(&class.to_string()).expect("a class");
    ns.apply(
        "",
        "services/echo",
        &json!({ "kind": "Service", "spec": { "ports": [{ "name": "http", "port": 8080 }] } }),
    );
    scene.endpoints(ns.name(), "echo", sluice_tests::netns::pod::HTTP_PORT, &["a1"]);
    let listeners = json!([{ "name": "web", "port": 80, "protocol": "HTTP" }]);
    let spec = json!({ "gatewayClassName": "sluice", "listeners": listeners });
    ns.apply(GATEWAY, "gateways/front", &json!({ "kind": "Gateway", "spec": spec }));
    let rules = json!([{ "backendRefs": [{ "name": "echo", "port": 8080 }] }]);
    let spec = json!({ "parentRefs": [{ "name": "front" }], "rules": rules });
    ns.apply(GATEWAY, "httproutes/echo", &json!({ "kind": "HTTPRoute", "spec": spec }));
    let front = scene.plane.until("the Gateway shows an address", |api| {
        let gateway = api.get(&ns.path(GATEWAY, "gateways/front"))?;
        Ok(gateway["status"]["addresses"][0]["value"].as_str().unwrap_or_default().parse::<std::net::IpAddr>()?)
    });
    let ask = || client::send(&scene.lab.client, (front, 80).into(), Protocol::Http1, client::get("echo.example", "/"));
    scene.plane.until("the route answers", |_| {
        let reply = ask()?;
        anyhow::ensure!(reply.status == 200, "{}", reply.status);
        Ok(())
    });
    let answers = |when: &str| {
        for _ in 0..20 {
            let reply = ask().unwrap_or_else(|error| panic!("{when}: {error:#}"));
            assert_eq!(reply.status, 200, "{when}");
        }
    };

    let load = Load::start(&scene.lab.client, (vip, 80).into(), 2);
    scene.plane.kill(Part::ApiServer);
    go_on(&scene, &load);
    answers("without an API server");
    // An agent that starts meanwhile knows nothing, takes nothing out of the kernel, and says that it is not ready.
    second.kill9().expect("it runs");
    second.spawn().expect("it starts");
    go_on(&scene, &load);
    scene.plane.until("it says that it has read nothing", |_| {
        let (status, said) = second.get("/readyz")?;
        anyhow::ensure!(status == 503 && said.contains("services"), "{status}: {said}");
        Ok(())
    });
    scene.plane.start_part(Part::ApiServer).expect("it starts again");
    scene.plane.until("the agent is ready", |_| {
        let (status, said) = second.get("/readyz")?;
        anyhow::ensure!(status == 200, "{status}: {said}");
        Ok(())
    });
    answers("with the API server back");
    go_on(&scene, &load);
    scene.settle(&ns);
    end(load, "S39: while the API server was away");
    answers("at last");
    // It follows again, and removes what went meanwhile.
    scene.serve(&ns, "web", &["b1"]);
    scene.until_answers((vip, 80), &["b1"]);
    assert_eq!(ingress(&scene.service(&ns, "web")), [vip.to_string()]);

    // S143: killed while it programs, at one moment and another: what it leaves is whole, and the next one goes on from it.
    let maps = Maps::open(second.bpf_dir()).expect("its maps");
    let path = ns.path("discovery.k8s.io/v1", "endpointslices/web-ipv4");
    for n in 0..5 {
        for pods in [&["a1"][..], &["b1"], &["a1", "b1"]] {
            let endpoint = |pod: &&sluice_tests::netns::Pod| json!({ "addresses": [pod.ip(false).to_string()] });
            let endpoints: Vec<Value> = scene.lab.select(pods).iter().map(endpoint).collect();
            let slice = json!({ "endpoints": endpoints });
            scene.plane.api().patch(&path, Patch::Merge, &slice).expect("it may change");
        }
        std::thread::sleep(Duration::from_millis(n));
        second.kill9().expect("it runs");
        let left = maps.reach((vip, 80).into()).expect("S143: a table names a backend that is not there");
        assert!(left.as_ref().is_some_and(|pods| !pods.is_empty()), "S143: {left:?}");
        second.launch().expect("it starts again");
    }
    scene.agents.push(second);
    scene.until_reaches((vip, 80), &["a1", "b1"]);
    scene.until_answers((vip, 80), &["a1", "b1"]);
}

#[test]
fn s38_s40_slow_failing_lagging_and_forgetful_servers_lose_no_connection_and_no_change() {
    let scene = Scene::start(2, 1);
    let ns = scene.plane.namespace("faults");
    apply(&ns, "web", &json!({}));
    scene.serve(&ns, "web", &["a1", "b1"]);
    let vip = scene.until_addresses(&ns, "web")[0];
    scene.until_answers((vip, 80), &["a1", "b1"]);
    let load = Load::start(&scene.lab.client, (vip, 80).into(), 2);
    let watches = || Calls::of(&[Verb::Watch]);
    let reads = || Calls::of(&[Verb::Watch, Verb::List, Verb::Get]);
    // What happens to which calls, and whether watches that are open end with it.
    let faults = [
        ("slow", Calls::all(), Some(Fault::Delay(Duration::from_millis(500)))),
        ("410", watches(), Some(Fault::Expired)),
        ("429", Calls::all(), Some(Fault::Status(429))),
        ("500", Calls::all(), Some(Fault::Status(500))),
        ("503", reads(), Some(Fault::Status(503))),
        ("cut", Calls::all(), Some(Fault::Cut)),
        ("stale", Calls::all().to("services"), Some(Fault::Stale)),
        ("stale slices", Calls::all().to("endpointslices"), Some(Fault::Stale)),
        ("closed", watches(), None),
    ];
    for (n, (name, calls, fault)) in faults.into_iter().enumerate() {
        let (old, new) = (format!("old-{n}"), format!("new-{n}"));
        apply(&ns, &old, &json!({}));
        let gone = scene.until_addresses(&ns, &old)[0];
        for proxy in &scene.proxies {
            let before = proxy.count(&Calls::all());
            if let Some(fault) = &fault {
                proxy.fault(calls.clone(), fault.clone()).expect("a fault");
            }
            proxy.close_watches(watches());
            scene.plane.until("the agent meets it", |_| {
                anyhow::ensure!(proxy.count(&Calls::all()) >= before + 5);
                Ok(())
            });
        }
        // Meanwhile one goes (whoever keeps it), one comes, and endpoints change.
        let path = ns.path("", &format!("services/{old}"));
        scene.plane.api().delete(&path).expect("it can be deleted");
        apply(&ns, &new, &json!({}));
        let pods: &[&str] = if n % 2 == 0 { &["a1"] } else { &["a1", "b1"] };
        scene.serve(&ns, "web", pods);
        go_on(&scene, &load);
        scene.proxies.iter().for_each(sluice_tests::cluster::Proxy::clear);
        let came = scene.until_addresses(&ns, &new)[0];
        scene.plane.until("what was deleted goes", |api| {
            anyhow::ensure!(api.get(&path).is_err(), "{name}: it is still there");
            Ok(())
        });
        if came != gone {
            scene.until_unprogrammed((gone, 80));
        }
        scene.until_answers((vip, 80), pods);
        scene.serve(&ns, &new, &["a1"]);
        scene.until_answers((came, 80), &["a1"]);
        scene.delete(&ns, &new);
        let service = scene.service(&ns, "web");
        assert_eq!(ingress(&service), [vip.to_string()], "{name}");
        assert_eq!(service["metadata"]["finalizers"], json!([FINALIZER]), "{name}");
    }
    end(load, "S38");
}

#[test]
fn s10_a_service_made_anew_under_its_name_within_one_sync_is_the_new_one() {
    let scene = Scene::start(2, 1);
    let ns = scene.plane.namespace("anew");
    apply(&ns, "web", &json!({}));
    scene.serve(&ns, "web", &["a1"]);
    let vip = scene.until_addresses(&ns, "web")[0];
    scene.until_answers((vip, 80), &["a1"]);
    let old = scene.service(&ns, "web")["metadata"]["uid"].clone();
    let path = ns.path("", "services/web");
    for (n, pod) in ["b1", "a1"].iter().enumerate() {
        for proxy in &scene.proxies {
            proxy.fault(Calls::all().to("services"), Fault::Stale).expect("a fault");
        }
        // Somebody is in a hurry and takes the finalizer off.
        scene.plane.api().delete(&path).expect("it can be deleted");
        let none = json!({ "metadata": { "finalizers": null } });
        scene.plane.api().patch(&path, Patch::Merge, &none).expect("people may");
        assert!(scene.plane.api().get(&path).is_err());
        let spec = if n == 0 { json!({ "sessionAffinity": "ClientIP" }) } else { json!({}) };
        apply(&ns, "web", &spec);
        let new = scene.service(&ns, "web");
        assert!(new["metadata"]["uid"] != old && !is_marked(&new), "{new:#}");
        scene.serve(&ns, "web", &[pod]);
        scene.proxies.iter().for_each(sluice_tests::cluster::Proxy::clear);
        let vip = scene.until_addresses(&ns, "web")[0];
        scene.until_answers((vip, 80), &[pod]);
        let service = scene.service(&ns, "web");
        assert_eq!(service["metadata"]["uid"], new["metadata"]["uid"]);
        assert_eq!(service["metadata"]["annotations"][ALLOCATED], vip.to_string(), "{service:#}");
        assert_eq!(service["metadata"]["finalizers"], json!([FINALIZER]), "{service:#}");
    }
    scene.delete(&ns, "web");
    scene.until_unprogrammed((vip, 80));
}

#[test]
fn s80_two_that_believe_to_lead_give_no_address_twice() {
    let scene = Scene::start(2, 1);
    let ns = scene.plane.namespace("leaders");
    apply(&ns, "before", &json!({}));
    let mut known = vec![scene.until_addresses(&ns, "before")[0]];
    let (leader, other) = scene.leader();
    // The leader's writes take long, and it cannot renew: the other takes over while they are under way.
    let leases = Calls::of(&[Verb::Update, Verb::Get]).to("leases");
    scene.proxies[leader]
        .fault(Calls::of(&[Verb::Patch]).to("services"), Fault::Delay(Duration::from_secs(9)))
        .expect("a fault");
    scene.proxies[leader].fault(leases, Fault::Status(500)).expect("a fault");
    let names = ["during-a", "during-b", "during-c"];
    names.iter().for_each(|name| apply(&ns, name, &json!({})));
    scene.plane.until("the other leads", |_| {
        anyhow::ensure!(scene.leader() == (other, leader), "not yet");
        Ok(())
    });
    known.extend(names.map(|name| scene.until_addresses(&ns, name)[0]));
    scene.proxies[leader].clear();
    scene.settle(&ns);
    let (mut distinct, count) = (known.clone(), known.len());
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), count, "{known:?}");
    for (name, vip) in ["before"].iter().chain(&names).zip(&known) {
        let service = scene.service(&ns, name);
        assert_eq!(ingress(&service), [vip.to_string()], "{name}");
        assert_eq!(service["metadata"]["annotations"][ALLOCATED], vip.to_string(), "{name}");
        assert_eq!(service["metadata"]["finalizers"], json!([FINALIZER]), "{name}");
        scene.serve(&ns, name, &["a1"]);
        scene.until_answers((*vip, 80), &["a1"]);
    }
}

#[test]
fn s11_s30_s71_a_crd_that_goes_and_nonsense_in_every_annotation_harm_nobody_else() {
    let scene = Scene::start(1, 1);
    let ns = scene.plane.namespace("nonsense");
    apply(&ns, "web", &json!({}));
    scene.serve(&ns, "web", &["a1"]);
    let vip = scene.until_addresses(&ns, "web")[0];
    scene.until_answers((vip, 80), &["a1"]);
    let load = Load::start(&scene.lab.client, (vip, 80).into(), 2);
    let long = "9".repeat(200_000);
    let values = ["", " , ,", "203.0.113.256", "::", "0.0.0.0", "127.0.0.1", "\u{1F600}\n\t{}", &long];
    let names = ["addresses", "address-pool", "allocated", "sharing-key", "sharing-namespaces", "no-such"];
    for (n, value) in values.iter().enumerate() {
        for name in names {
            let mut service = load_balancer(&json!({ "ipFamilyPolicy": "PreferDualStack" }));
            service["metadata"]["annotations"] = json!({ format!("sluice.dev/{name}"): value });
            let name = format!("odd-{name}-{n}");
            ns.apply("", &format!("services/{name}"), &service);
        }
    }
    // Endpoints that nothing may be sent to are left out, and the one that is there serves.
    let endpoints = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"];
    let slice = |n: usize, addr: &str| {
        let slice = json!({
            "metadata": { "name": format!("odd-{n}"), "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "endpoints": [{ "addresses": [addr] }],
            "ports": [{ "name": "http", "port": sluice_tests::netns::pod::TCP_PORT, "protocol": "TCP" }],
        });
        // Most of them are refused by the API server already.
        scene.plane.api().create(&ns.path("discovery.k8s.io/v1", "endpointslices"), &slice).is_ok()
    };
    let refused: Vec<bool> = endpoints.iter().enumerate().map(|(n, addr)| slice(n, addr)).collect();
    assert!(refused.contains(&false), "{refused:?}");
    for pool in ["0.0.0.0/0", "::/0", "240.0.0.0/4", "127.0.0.0/8", "203.0.113.9-203.0.113.1"] {
        let spec = json!({ "addresses": [pool], "priority": i32::MAX });
        let name = format!("odd-{}", pool.replace([':', '.', '/'], "-").trim_matches('-'));
        pool_of(&scene.plane, &name, &spec);
    }
    // Each has a verdict, and what is right works.
    for name in names {
        for n in 0..values.len() {
            let name = format!("odd-{name}-{n}");
            scene.plane.until(&format!("a verdict for {name}"), |_| {
                let service = scene.service(&ns, &name);
                anyhow::ensure!(sluice_tests::cluster::look::condition(&service).is_some(), "{:#}", service["status"]);
                Ok(())
            });
        }
    }
    end(load, "S30, S71");
    scene.until_answers((vip, 80), &["a1"]);
    assert_eq!(ingress(&scene.service(&ns, "web")), [vip.to_string()]);

    // The pools' kind is removed at run time: what Services have stays, who comes waits, until it is back.
    let load = Load::start(&scene.lab.client, (vip, 80).into(), 2);
    scene.plane.kubectl(&["delete", "crd", "addresspools.sluice.dev"], "").expect("it is there");
    apply(&ns, "late", &json!({}));
    scene.until_reason(&ns, "late", "NoPool");
    go_on(&scene, &load);
    assert_eq!(ingress(&scene.service(&ns, "web")), [vip.to_string()]);
    let crds = xtask::root().join("deploy/crds").display().to_string();
    scene.plane.kubectl(&["apply", "-k", &crds], "").expect("the definitions");
    scene.plane.until("pools are served", |api| api.list("/apis/sluice.dev/v1alpha1/addresspools").map(drop));
    pool_of(&scene.plane, POOL, &json!({ "addresses": ["203.0.113.0/24"] }));
    scene.until_addresses(&ns, "late");
    end(load, "S11");
    assert!(scene.agents[0].pid().is_some() && scene.agents[0].get("/livez").is_ok());
}
