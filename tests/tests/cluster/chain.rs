//! The Service chain: a LoadBalancer Service that was made for a Gateway, with no mesh to stand behind it.
//!
//! The objects are those of `deploy/examples/chain`, applied as they are. No kubelet runs here: the test writes the
//! EndpointSlices of the echo Service, and the pods are those of the lab.
use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{Patch, TestNamespace, look::holds, scene::Scene},
    netns::{
        http::{self as client, Protocol},
        pod::HTTP_PORT,
    },
};

const DISCOVERY: &str = "discovery.k8s.io/v1";
const GATEWAY: &str = "gateway.networking.k8s.io/v1";
const ECHO: &str = "test-echo-service";
/// The Service that the chain begins at.
const FRONT: &str = "test-gateway-istio";

/// One namespace with the example in it.
struct Chain<'a> {
    scene: &'a Scene,
    ns: TestNamespace<'a>,
}

impl<'a> Chain<'a> {
    fn new(scene: &'a Scene) -> Self {
        Self { scene, ns: scene.plane.namespace("chain") }
    }

    /// Applies a file of the example.
    fn apply(&self, file: &str) {
        let path = xtask::root().join("deploy/examples/chain").join(file).display().to_string();
        self.scene.plane.kubectl(&["apply", "-n", self.ns.name(), "-f", &path], "").expect("the example is accepted");
    }

    /// Writes the slices of a Service, one for each family, as somebody else than Sluice.
    fn write_slices(&self, service: &str, pods: &[&str]) {
        for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
            let endpoint = |pod: &&sluice_tests::netns::pod::Pod| {
                json!({
                    "addresses": [pod.ip(is_v6).to_string()],
                    "nodeName": format!("node{}", pod.node),
                    "conditions": { "ready": true, "serving": true, "terminating": false },
                    "targetRef": { "kind": "Pod", "namespace": self.ns.name(), "name": pod.name, "uid": pod.name },
                })
            };
            let endpoints: Vec<Value> = self.scene.lab.select(pods).iter().map(endpoint).collect();
            let name = format!("endpointslices/{service}-by-hand-{}", family.to_lowercase());
            let slice = json!({
                "kind": "EndpointSlice", "addressType": family,
                "metadata": { "labels": { "kubernetes.io/service-name": service } },
                "ports": [{ "name": "http", "port": HTTP_PORT, "protocol": "TCP" }], "endpoints": endpoints,
            });
            self.ns.apply(DISCOVERY, &name, &slice);
        }
    }

    /// The slices of a Service that Sluice has written.
    fn ours(&self, service: &str) -> anyhow::Result<Vec<Value>> {
        let mut slices = self.scene.plane.api().list(&self.ns.path(DISCOVERY, "endpointslices"))?;
        slices.retain(|slice| {
            let labels = &slice["metadata"]["labels"];
            labels["kubernetes.io/service-name"] == service
                && labels["endpointslice.kubernetes.io/managed-by"] == "sluice.dev"
        });
        Ok(slices)
    }

    /// Waits until the slices that Sluice has written for a Service hold these pods, in both families.
    fn wait_for_slices(&self, service: &str, pods: &[&str]) -> Vec<Value> {
        let pods = self.scene.lab.select(pods);
        let wanted: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| [pod.ip(false), pod.ip(true)]).collect();
        self.scene.plane.until(&format!("slices of {service} with {wanted:?}"), |_| {
            let slices = self.ours(service)?;
            let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
            let found: BTreeSet<IpAddr> = endpoints.filter_map(|e| e["addresses"][0].as_str()?.parse().ok()).collect();
            anyhow::ensure!(found == wanted, "{found:?}: {slices:#?}");
            Ok(slices)
        })
    }

    /// Waits until the first Service's condition `sluice.dev/Resolved` has this status and reason; its message.
    fn wait_for_resolved(&self, status: &str, reason: &str) -> String {
        self.wait_for_condition("sluice.dev/Resolved", status, reason)
    }

    fn wait_for_condition(&self, type_: &str, status: &str, reason: &str) -> String {
        self.scene.plane.until(&format!("{type_} is {status}, {reason}"), |api| {
            let service = api.get(&self.ns.path("", &format!("services/{FRONT}")))?;
            let conditions = service["status"]["conditions"].as_array().context("no condition")?;
            let found = conditions.iter().find(|c| c["type"] == type_).context("no such condition")?;
            anyhow::ensure!(found["status"] == status && found["reason"] == reason, "{found:#}");
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// Waits until the first Service shows an address of each family.
    fn addresses(&self) -> Vec<IpAddr> {
        self.scene.plane.until("two addresses in status", |_| {
            let addrs = self.scene.addresses(self.ns.name(), FRONT)?;
            anyhow::ensure!(addrs.len() == 2, "{addrs:?}");
            Ok(addrs)
        })
    }

    /// Waits until a client outside gets this status at port 80 of an address; the pods that have answered.
    fn wait_for_status(&self, addr: IpAddr, status: u16) -> client::Reply {
        self.scene.plane.until(&format!("{status} from {addr}"), |_| {
            let request = client::get("echo.example", "/");
            let reply = client::send(&self.scene.lab.client, (addr, 80).into(), Protocol::Http1, request)?;
            anyhow::ensure!(reply.status == status, "{}", reply.status);
            Ok(reply)
        })
    }

    /// Changes the first Service.
    fn patch(&self, change: &Value) {
        let path = self.ns.path("", &format!("services/{FRONT}"));
        self.scene.plane.api().patch(&path, Patch::Merge, change).expect("it can be changed");
    }

    fn service(&self) -> Value {
        self.scene.plane.api().get(&self.ns.path("", &format!("services/{FRONT}"))).expect("the Service")
    }

    fn delete(&self, group: &str, rest: &str) {
        self.scene.plane.api().delete(&self.ns.path(group, rest)).expect("it can be deleted");
    }
}

fn gateway_api(plane: &sluice_tests::cluster::ControlPlane) {
    plane.install_gateway_api().expect("the CRDs of Gateway API");
}

#[test]
fn s151_a_service_made_for_a_gateway_answers_200_without_a_mesh_and_has_real_endpoints() {
    let scene = Scene::with(2, 1, gateway_api);
    let chain = Chain::new(&scene);
    let plane = &scene.plane;

    // The Service alone: an address, and why nothing is behind it.
    chain.apply("3-load-balancer.yaml");
    let addrs = chain.addresses();
    chain.wait_for_resolved("False", "GatewayNotFound");

    // Today's 503: everything is there but endpoints.
    chain.apply("1-echo.yaml");
    chain.apply("2-gateway.yaml");
    chain.wait_for_resolved("False", "NoEndpoints");
    for addr in &addrs {
        chain.wait_for_status(*addr, 503);
    }
    let said = scene.agents[0].show(&["why", &format!("service/{}/{FRONT}", chain.ns.name())]).expect("it says why");
    assert!(said.contains("NoEndpoints") && said.contains(ECHO), "{said}");

    // The 200.
    chain.write_slices(ECHO, &["a1"]);
    for addr in &addrs {
        assert_eq!(chain.wait_for_status(*addr, 200).seen().pod, "a1");
    }
    let slices = chain.wait_for_slices(FRONT, &["a1"]);
    assert_eq!(slices.len(), 2, "one for each family: {slices:#?}");
    let service = chain.service();
    for slice in &slices {
        assert_eq!(slice["ports"], json!([{ "name": "http", "port": HTTP_PORT, "protocol": "TCP" }]), "{slice:#}");
        assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], service["metadata"]["uid"], "{slice:#}");
        let endpoint = &slice["endpoints"][0];
        assert_eq!(
            (&endpoint["nodeName"], &endpoint["targetRef"]["name"]),
            (&json!("node1"), &json!("a1")),
            "{slice:#}"
        );
    }
    let message = chain.wait_for_resolved("True", "Resolved");
    assert!(message.contains("test-httproute") && message.contains(ECHO), "{message}");
    plane.until("the Gateway is programmed", |api| {
        let gateway = api.get(&chain.ns.path(GATEWAY, "gateways/test-gateway"))?;
        anyhow::ensure!(holds(&gateway["status"], "Programmed"), "{:#}", gateway["status"]);
        Ok(())
    });
    plane.until("it is told", |_| {
        let said = plane.kubectl(&["describe", "service", FRONT, "-n", chain.ns.name()], "")?;
        let all = ["EnsuredLoadBalancer", "BackendsNotResolved", "BackendsResolved"];
        anyhow::ensure!(all.iter().all(|event| said.contains(event)), "{said}");
        Ok(())
    });

    // Endpoints that come are added, those that go are removed.
    chain.write_slices(ECHO, &["a1", "b1"]);
    chain.wait_for_slices(FRONT, &["a1", "b1"]);
    chain.write_slices(ECHO, &["b1"]);
    let slices = chain.wait_for_slices(FRONT, &["b1"]);
    plane.until("the other pod answers", |_| {
        let reply =
            client::send(&scene.lab.client, (addrs[0], 80).into(), Protocol::Http1, client::get("echo.example", "/"))?;
        anyhow::ensure!(reply.status == 200 && reply.seen().pod == "b1", "{}", reply.status);
        Ok(())
    });

    // One that somebody deletes or changes is as it was.
    let name = |slice: &Value| format!("endpointslices/{}", slice["metadata"]["name"].as_str().expect("a name"));
    chain.delete(DISCOVERY, &name(&slices[0]));
    let changed = json!({ "endpoints": [] });
    let path = chain.ns.path(DISCOVERY, &name(&slices[1]));
    plane.api().patch(&path, Patch::Merge, &changed).expect("it can be changed");
    chain.wait_for_slices(FRONT, &["b1"]);

    // The Gateway's address serves the same.
    let gateway = plane.api().get(&chain.ns.path(GATEWAY, "gateways/test-gateway")).expect("the Gateway");
    let own = gateway["status"]["addresses"][0]["value"].as_str().and_then(|a| a.parse().ok()).expect("an address");
    assert_eq!(chain.wait_for_status(own, 200).seen().pod, "b1");

    // Without a route there is nothing behind the Service.
    chain.delete(GATEWAY, "httproutes/test-httproute");
    chain.wait_for_slices(FRONT, &[]);
    chain.wait_for_resolved("False", "NoRoute");
    chain.wait_for_status(addrs[0], 404);
    chain.apply("2-gateway.yaml");
    chain.wait_for_slices(FRONT, &["b1"]);

    // The slices go with the Service.
    chain.delete("", &format!("services/{FRONT}"));
    chain.wait_for_slices(FRONT, &[]);
    plane.until("the Service is gone", |api| {
        anyhow::ensure!(api.get(&chain.ns.path("", &format!("services/{FRONT}"))).is_err(), "it is still there");
        Ok(())
    });
}

#[test]
fn slices_and_routes_of_others_are_left_alone_and_ours_follow_their_service() {
    let scene = Scene::with(1, 2, gateway_api);
    let chain = Chain::new(&scene);
    for file in ["1-echo.yaml", "2-gateway.yaml", "3-load-balancer.yaml"] {
        chain.apply(file);
    }
    chain.write_slices(ECHO, &["a1"]);
    chain.wait_for_slices(FRONT, &["a1"]);
    let addrs = chain.addresses();

    // Somebody else answers for the Service: ours go, theirs stay as they are, and the Gateway's data plane is still ours.
    chain.write_slices(FRONT, &["a2"]);
    chain.wait_for_slices(FRONT, &[]);
    let theirs = format!("endpointslices/{FRONT}-by-hand-ipv4");
    let slice = |rest: &str| scene.plane.api().get(&chain.ns.path(DISCOVERY, rest)).expect("their slice");
    let before = slice(&theirs);
    assert_eq!(chain.wait_for_status(addrs[0], 200).seen().pod, "a1");
    chain.write_slices(ECHO, &["a1", "a2"]);
    scene.plane.until("both answer", |_| {
        let ask = || client::send(&scene.lab.client, (addrs[0], 80).into(), Protocol::Http1, client::get("e", "/"));
        let pods: BTreeSet<String> = (0..20).map(|_| Ok(ask()?.seen().pod)).collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(pods.len() == 2, "{pods:?}");
        Ok(())
    });
    assert_eq!(slice(&theirs)["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);

    // They go: ours are back.
    for family in ["ipv4", "ipv6"] {
        chain.delete(DISCOVERY, &format!("endpointslices/{FRONT}-by-hand-{family}"));
    }
    chain.wait_for_slices(FRONT, &["a1", "a2"]);

    // A Service that ceases to name the Gateway is one as any other.
    chain.patch(&json!({ "metadata": { "labels": { "gateway.networking.k8s.io/gateway-name": "another" } } }));
    chain.wait_for_slices(FRONT, &[]);
    chain.wait_for_resolved("False", "GatewayNotFound");

    // Without the label, its own name says whose it is.
    chain.patch(&json!({ "metadata": { "labels": { "gateway.networking.k8s.io/gateway-name": null } } }));
    chain.wait_for_slices(FRONT, &["a1", "a2"]);
    chain.wait_for_resolved("True", "Resolved");
    chain.wait_for_status(addrs[0], 200);

    follow_a_route(&chain);
}

/// A Route of OpenShift as its Service asks for it, from a cluster without Routes to one that has them.
fn follow_a_route(chain: &Chain<'_>) {
    const ROUTE: &str = "route.openshift.io/v1";
    let plane = &chain.scene.plane;
    let ask = |host: &Value| chain.patch(&json!({ "metadata": { "annotations": { "sluice.dev/route-host": host } } }));
    let path = chain.ns.path(ROUTE, &format!("routes/sluice-{FRONT}"));
    let wait_for_host = |host: &str| {
        plane.until(&format!("a Route for {host}"), |api| {
            let route = api.get(&path)?;
            anyhow::ensure!(route["spec"]["host"] == host, "{route:#}");
            Ok(route)
        })
    };
    ask(&json!("echo.apps.example"));
    chain.wait_for_condition("sluice.dev/Routed", "False", "NoRouteApi");
    plane.apply(&route_definition().to_string()).expect("the CRD");
    let route = wait_for_host("echo.apps.example");
    assert_eq!(route["spec"]["to"], json!({ "kind": "Service", "name": FRONT }), "{route:#}");
    assert_eq!(
        (&route["spec"]["port"]["targetPort"], &route["spec"]["tls"]),
        (&json!("http"), &Value::Null),
        "{route:#}"
    );
    assert_eq!(route["metadata"]["labels"]["sluice.dev/service"], FRONT, "{route:#}");
    assert_eq!(route["metadata"]["ownerReferences"][0]["uid"], chain.service()["metadata"]["uid"], "{route:#}");
    chain.wait_for_condition("sluice.dev/Routed", "True", "Routed");

    // One of somebody else stays as it is, whatever becomes of ours.
    let theirs =
        json!({ "kind": "Route", "spec": { "host": "b.example", "to": { "kind": "Service", "name": FRONT } } });
    let theirs = chain.ns.apply(ROUTE, "routes/theirs", &theirs);
    ask(&json!("other.apps.example"));
    wait_for_host("other.apps.example");
    let change = json!({ "spec": { "to": { "name": "elsewhere" } } });
    plane.api().patch(&path, Patch::Merge, &change).expect("it can be changed");
    plane.until("the Route leads to its Service again", |api| {
        let route = api.get(&path)?;
        anyhow::ensure!(route["spec"]["to"]["name"] == FRONT, "{route:#}");
        Ok(())
    });
    let wait_for_none = || {
        plane.until("the Route is gone", |api| {
            let routes = api.list(&chain.ns.path(ROUTE, "routes"))?;
            anyhow::ensure!(routes.len() == 1 && routes[0]["metadata"]["name"] == "theirs", "{routes:#?}");
            Ok(routes[0]["metadata"]["resourceVersion"].clone())
        })
    };
    ask(&Value::Null);
    assert_eq!(wait_for_none(), theirs["metadata"]["resourceVersion"]);
    ask(&json!("echo.apps.example"));
    wait_for_host("echo.apps.example");
    chain.delete("", &format!("services/{FRONT}"));
    assert_eq!(wait_for_none(), theirs["metadata"]["resourceVersion"]);
}

/// As much of OpenShift as a Route needs to be kept.
fn route_definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": "routes.route.openshift.io" },
        "spec": {
            "group": "route.openshift.io", "scope": "Namespaced",
            "names": { "kind": "Route", "listKind": "RouteList", "plural": "routes", "singular": "route" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            }],
        },
    })
}
