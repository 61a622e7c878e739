//! Services on a real API server: addresses, status, Events, and traffic through what was programmed.
use serde_json::json;
use sluice_tests::{
    cluster::{
        look::holds,
        scene::{Scene, load_balancer},
    },
    netns::{
        http::{self as client, Protocol},
        load,
        pod::{HTTP_PORT, TCP_PORT},
    },
};

#[test]
fn a_service_gets_an_address_that_reaches_its_endpoints_and_is_told() {
    let scene = Scene::start(2, 1);
    let ns = scene.plane.namespace("web");
    ns.apply("", "services/web", &load_balancer(&json!({ "ipFamilyPolicy": "RequireDualStack" })));
    scene.endpoints(ns.name(), "web", TCP_PORT, &["a1", "b1"]);
    let addrs = scene.plane.until("an address in status", |_| scene.addresses(ns.name(), "web"));
    assert_eq!(addrs.len(), 2, "{addrs:?}");
    let service = scene.plane.api().get(&ns.path("", "services/web")).expect("it is there");
    assert_eq!(service["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP", "{service:#}");
    assert_eq!(service["metadata"]["finalizers"], json!(["service.kubernetes.io/load-balancer-cleanup"]));
    for addr in &addrs {
        let tally = load::burst(&scene.lab.client, (*addr, 80).into(), 100, 4);
        assert_eq!((tally.failed(), tally.by_pod.len()), (0, 2), "{addr}: {tally}");
    }
    let said = scene.plane.until("it is told", |_| {
        let said = scene.plane.kubectl(&["describe", "service", "web", "-n", ns.name()], "")?;
        anyhow::ensure!(said.contains("EnsuredLoadBalancer"), "{said}");
        Ok(said)
    });
    eprintln!("{said}");

    scene.plane.api().delete(&ns.path("", "services/web")).expect("it can be deleted");
    scene.plane.until("it goes", |api| {
        anyhow::ensure!(api.get(&ns.path("", "services/web")).is_err(), "it is still there");
        Ok(())
    });
}

#[test]
fn a_gateway_gets_an_address_its_routes_answer_and_its_conditions_say_so() {
    let scene = Scene::with(2, 1, |plane| plane.install_gateway_api().expect("the CRDs of Gateway API"));
    let ns = scene.plane.namespace("gateway");
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": { "name": "sluice" },
        "spec": { "controllerName": "sluice.dev/gateway" },
    });
    scene.plane.apply(&class.to_string()).expect("a class");
    const GATEWAY: &str = "gateway.networking.k8s.io/v1";
    ns.apply(
        "",
        "services/echo",
        &json!({ "kind": "Service", "spec": { "ports": [{ "name": "http", "port": 8080 }] } }),
    );
    scene.endpoints(ns.name(), "echo", HTTP_PORT, &["a1", "b1"]);
    let listeners = json!([{ "name": "web", "port": 80, "protocol": "HTTP" }]);
    let spec = json!({ "gatewayClassName": "sluice", "listeners": listeners });
    ns.apply(GATEWAY, "gateways/front", &json!({ "kind": "Gateway", "spec": spec }));
    let rules = json!([{ "backendRefs": [{ "name": "echo", "port": 8080 }] }]);
    let spec = json!({ "parentRefs": [{ "name": "front" }], "hostnames": ["echo.example"], "rules": rules });
    ns.apply(GATEWAY, "httproutes/echo", &json!({ "kind": "HTTPRoute", "spec": spec }));

    let gateway = scene.plane.until("it is programmed", |api| {
        let gateway = api.get(&ns.path(GATEWAY, "gateways/front"))?;
        anyhow::ensure!(holds(&gateway["status"], "Programmed"), "{:#}", gateway["status"]);
        Ok(gateway)
    });
    assert!(
        holds(&gateway["status"], "Accepted") && holds(&gateway["status"]["listeners"][0], "Programmed"),
        "{gateway:#}"
    );
    assert_eq!(gateway["status"]["listeners"][0]["attachedRoutes"], 1, "{gateway:#}");
    let addrs = gateway["status"]["addresses"].as_array().expect("addresses");
    assert!(!addrs.is_empty());
    for addr in addrs {
        let at = (addr["value"].as_str().expect("an address").parse::<std::net::IpAddr>().expect("an address"), 80);
        let reply = client::send(&scene.lab.client, at.into(), Protocol::Http1, client::get("echo.example", "/"))
            .expect("a reply");
        assert_eq!(reply.status, 200, "{at:?}");
    }
    scene.plane.until("the route is accepted", |api| {
        let route = api.get(&ns.path(GATEWAY, "httproutes/echo"))?;
        let parent = &route["status"]["parents"][0];
        anyhow::ensure!(holds(parent, "Accepted") && holds(parent, "ResolvedRefs"), "{:#}", route["status"]);
        Ok(())
    });
}
