//! What an agent does without a part of its permissions, and without a part of what it should be told (issue 8, D2 and E2).
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{
        Calls, ControlPlane, Fault, Patch, Verb,
        scene::{Scene, load_balancer, pool_of},
    },
    netns::pod::TCP_PORT,
};

const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const GATEWAY: &str = "gateway.networking.k8s.io";
const OPENSHIFT: &str = "route.openshift.io";

/// Takes the rules of these groups out of the agents' ClusterRoles, as who does not need them may do.
fn forbid(plane: &ControlPlane, groups: &[&str]) {
    for name in ["sluice", "sluice-leader"] {
        let path = format!("{ROLES}/{name}");
        let mut role = plane.api().get(&path).expect("the ClusterRole");
        let rules = role["rules"].as_array_mut().expect("rules");
        rules.retain(|rule| !groups.iter().any(|group| rule["apiGroups"] == json!([group])));
        plane.api().replace(&path, &role).expect("it can be changed");
    }
}

#[test]
fn what_is_not_needed_for_forwarding_blocks_no_node_and_says_that_it_is_off() {
    // It starts only if the agent becomes ready.
    let scene = Scene::with(1, 1, |plane| {
        plane.install_gateway_api().expect("the CRDs of Gateway API");
        forbid(plane, &[GATEWAY, OPENSHIFT]);
    });
    let ns = scene.plane.namespace("web");
    let mut service = load_balancer(&json!({}));
    service["metadata"] = json!({ "annotations": { "sluice.dev/route-host": "a.apps.example" } });
    ns.apply("", "services/web", &service);
    scene.endpoints(ns.name(), "web", TCP_PORT, &["a1"]);
    for vip in scene.until_addresses(&ns, "web") {
        scene.until_answers((vip, 80), &["a1"]);
    }
    let said = scene.agents[0].show(&["status"]).expect("a status");
    for feature in
        ["a Route for each Service that asks for one is off: routes.route.openshift.io", "layer 7 is off: gateways"]
    {
        assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").contains(feature), "want {feature:?}:\n{said}");
    }
    let routed = |reason: &str| {
        scene.plane.until(&format!("sluice.dev/Routed is {reason}"), |api| {
            let service = api.get(&ns.path("", "services/web"))?;
            let conditions = service["status"]["conditions"].as_array().context("no condition")?;
            let found = conditions.iter().find(|c| c["type"] == "sluice.dev/Routed").context("no such condition")?;
            anyhow::ensure!(found["reason"] == reason, "{found:#}");
            Ok(())
        });
    };
    routed("Forbidden");

    // Given back, it is as if it had been there: this cluster has Gateway API and no Routes.
    let file = xtask::root().join("deploy/base/rbac.yaml").display().to_string();
    scene.plane.kubectl(&["apply", "-f", &file], "").expect("the rules");
    routed("NoRouteApi");
    scene.plane.until("nothing is off", |_| {
        let said = scene.agents[0].show(&["status"])?;
        anyhow::ensure!(!said.contains("is off"), "{said}");
        Ok(())
    });
    // One that is needed blocks, and the node goes on with what it has.
    forbid(&scene.plane, &["discovery.k8s.io"]);
    scene.proxies[0].close_watches(Calls::of(&[Verb::Watch]).to("endpointslices"));
    scene.plane.until("the agent is not ready", |_| {
        let (status, said) = scene.agents[0].get("/readyz")?;
        anyhow::ensure!(status == 503 && said.contains("endpointslices.discovery.k8s.io"), "{status}: {said}");
        Ok(())
    });
    for vip in scene.addresses(ns.name(), "web").expect("addresses") {
        scene.until_answers((vip, 80), &["a1"]);
    }
}

#[test]
fn a_leader_whose_watches_are_stale_does_not_write_and_goes_on_when_they_are_back() {
    let scene = Scene::start(1, 1);
    let proxy = &scene.proxies[0];
    let pools = Calls::of(&[Verb::Patch]).to("addresspools/status");
    let accepted = |name: &str| {
        scene.plane.until(&format!("pool {name} has a status"), |api| {
            let pool = api.get(&format!("/apis/sluice.dev/v1alpha1/addresspools/{name}"))?;
            anyhow::ensure!(pool["status"]["conditions"].is_array(), "{pool:#}");
            Ok(())
        });
    };
    accepted("test");
    let services = || Calls::of(&[Verb::Watch, Verb::List]).to("services");
    proxy.fault(services(), Fault::Status(503)).expect("a fault");
    proxy.close_watches(services());
    let tells = |words: &str| {
        scene.plane.until(&format!("status says {words:?}"), |_| {
            let said = scene.agents[0].show(&["status"])?;
            anyhow::ensure!(said.contains(words), "{said}");
            Ok(())
        });
    };
    tells("services are as they were");
    let before = proxy.count(&pools);
    pool_of(&scene.plane, "second", &json!({ "addresses": ["198.51.100.0/28"] }));
    // The watch of pools goes on; a leader that could write would have done so many times over.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(proxy.count(&pools), before, "it writes by what may be old");
    proxy.clear();
    accepted("second");
}

#[test]
fn a_namespace_that_is_being_deleted_is_left_alone() {
    let scene = Scene::start(1, 1);
    let ns = scene.plane.namespace("going");
    // Held up by somebody, so that it stays terminating.
    let held = json!({ "kind": "ConfigMap", "metadata": { "finalizers": ["test.example/hold"] } });
    ns.apply("", "configmaps/held", &held);
    ns.apply("", "services/web", &load_balancer(&json!({})));
    scene.until_addresses(&ns, "web");
    let path = format!("/api/v1/namespaces/{}", ns.name());
    scene.plane.api().delete(&path).expect("it can be deleted");
    scene.plane.until("its Service is let go", |api| {
        let gone = api.get(&ns.path("", "services/web")).is_err();
        anyhow::ensure!(gone, "it is still there");
        let namespace: Value = api.get(&path)?;
        anyhow::ensure!(namespace["status"]["phase"] == "Terminating", "{namespace:#}");
        Ok(())
    });
    let log = scene.agents[0].log();
    assert!(!log.contains("not written") && !log.contains("being terminated"), "{log}");
    let hold = json!({ "metadata": { "finalizers": null } });
    scene.plane.api().patch(&ns.path("", "configmaps/held"), Patch::Merge, &hold).expect("it is let go");
}
