//! What the token of an agent's pod may change (issue 8, F5): the policies of `deploy/base/admission.yaml`, on the real API
//! server, with tokens as the kubelet asks for them.
use http::Method;
use serde_json::{Value, json};
use sluice_tests::cluster::{
    Api, ControlPlane,
    look::{ALLOCATED, FINALIZER},
    scene::{self, SYSTEM, load_balancer},
};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/sluice-system/leases";

/// Whether a merge patch is taken; what is said where it is refused.
fn patched(api: &Api, path: &str, patch: &Value) -> Result<(), String> {
    sent(api, Method::PATCH, path, patch)
}

fn sent(api: &Api, method: Method, path: &str, body: &Value) -> Result<(), String> {
    let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let (status, answer) = api.send(method, path, content, Some(body)).expect("an answer");
    if status.is_success() { Ok(()) } else { Err(answer["message"].as_str().unwrap_or_default().to_owned()) }
}

/// Refused by a policy, in these words; not by RBAC.
fn assert_refused(result: Result<(), String>, words: &str) {
    let said = result.expect_err(words);
    assert!(said.contains("sluice: ") && said.contains(words), "want {words:?}: {said}");
}

#[test]
fn an_agents_token_changes_what_agents_change_and_nothing_else() {
    let plane = ControlPlane::start().expect("a control plane");
    scene::install(&plane).expect("what `kubectl apply -k deploy/` brings besides the DaemonSet");
    let policies = xtask::root().join("deploy/base/admission.yaml").display().to_string();
    plane.kubectl(&["apply", "-f", &policies], "").expect("the policies");
    for node in ["node1", "node2"] {
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
        plane.apply(&object.to_string()).expect("a node");
    }
    let (agent, _) = plane.api_as_pod(SYSTEM, "sluice", "node1").expect("a token");
    let ns = plane.namespace("admission");
    let service = load_balancer(&json!({ "selector": { "app": "web" } }));
    ns.apply("", "services/web", &service);
    let path = ns.path("", "services/web");
    let spec = json!({ "spec": { "selector": { "app": "mine" } } });
    plane.until("the policies hold", |_| {
        // Until then it is done, and then done no more.
        let refused = patched(&agent, &path, &spec).is_err();
        plane.api().patch(
            &path,
            sluice_tests::cluster::Patch::Merge,
            &json!({ "spec": { "selector": { "app": "web" } } }),
        )?;
        anyhow::ensure!(refused, "the selector was changed");
        Ok(())
    });

    assert_refused(patched(&agent, &path, &spec), "may not change spec");
    assert_refused(patched(&agent, &path, &json!({ "spec": { "externalIPs": ["192.0.2.1"] } })), "may not change spec");
    let metadata = |fields: Value| json!({ "metadata": fields });
    assert_refused(patched(&agent, &path, &metadata(json!({ "labels": { "a": "b" } }))), "may not change labels");
    let owner = json!([{ "apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "u" }]);
    assert_refused(patched(&agent, &path, &metadata(json!({ "ownerReferences": owner }))), "ownerReferences");
    for name in ["sluice.dev/route-host", "service.beta.kubernetes.io/load-balancer-source-ranges"] {
        let annotation = metadata(json!({ "annotations": { name: "192.0.2.0/24" } }));
        assert_refused(patched(&agent, &path, &annotation), "may change no annotation but sluice.dev/allocated");
    }
    assert_refused(
        patched(&agent, &path, &metadata(json!({ "finalizers": ["a.example/b"] }))),
        "may change no finalizer",
    );
    let marks = metadata(json!({ "annotations": { ALLOCATED: "192.0.2.1" }, "finalizers": [FINALIZER] }));
    assert_eq!(patched(&agent, &path, &marks), Ok(()));
    let shown = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } } });
    let status = format!("{path}/status");
    assert_eq!(patched(&agent, &status, &shown), Ok(()));
    assert_refused(
        patched(&agent, &status, &metadata(json!({ "annotations": { "a": "b" } }))),
        "may change no annotation",
    );
    let unmarked = metadata(json!({ "annotations": { ALLOCATED: null }, "finalizers": [] }));
    assert_eq!(patched(&agent, &path, &unmarked), Ok(()));
    assert_eq!(patched(plane.api(), &path, &spec), Ok(()), "others are not judged");

    infrastructure(&agent, &ns);
    slices(&plane, &agent, &ns);
    leases(&plane, &agent);
}

/// Services that carry what a Gateway wants: they have no address and lead nowhere, so that making one takes nothing.
fn infrastructure(agent: &Api, ns: &sluice_tests::cluster::TestNamespace<'_>) {
    let all = ns.path("", "services");
    let service = |name: &str, managed: &str, spec: &Value| json!({ "metadata": { "name": name, "labels": { "sluice.dev/managed": managed } }, "spec": spec });
    let headless = json!({ "type": "ClusterIP", "clusterIP": "None" });
    let with = |field: &str, value: Value| {
        let mut spec = headless.clone();
        spec[field] = value;
        spec
    };
    assert_eq!(sent(agent, Method::POST, &all, &service("sluice-edge", "true", &headless)), Ok(()));
    let unmanaged = service("odd", "false", &headless);
    assert_refused(sent(agent, Method::POST, &all, &unmanaged), "may make Services with label sluice.dev/managed");
    let port = json!([{ "name": "http", "port": 80 }]);
    for spec in [
        with("selector", json!({ "app": "web" })),
        with("externalIPs", json!(["192.0.2.1"])),
        json!({ "type": "LoadBalancer", "ports": port }),
        json!({ "type": "ClusterIP", "ports": port }),
        json!({ "type": "ExternalName", "externalName": "evil.example" }),
    ] {
        assert_refused(sent(agent, Method::POST, &all, &service("odd", "true", &spec)), "headless Services without");
    }
    let ours = ns.path("", "services/sluice-edge");
    let metadata = |fields: Value| json!({ "metadata": fields });
    let changed = metadata(json!({ "labels": { "team": "shop" }, "annotations": { "cost/centre": "7" } }));
    assert_eq!(patched(agent, &ours, &changed), Ok(()), "labels and annotations of its own Service");
    assert_refused(patched(agent, &ours, &json!({ "spec": { "selector": { "a": "b" } } })), "may not change spec");
    let owner = json!([{ "apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "u" }]);
    assert_refused(patched(agent, &ours, &metadata(json!({ "ownerReferences": owner }))), "ownerReferences");
    // By name: a Service that has an address does not become one of these.
    let web = ns.path("", "services/web");
    let taken = metadata(json!({ "labels": { "sluice.dev/managed": "true" } }));
    assert_refused(patched(agent, &web, &taken), "may not change labels");
}

fn slices(plane: &ControlPlane, agent: &Api, ns: &sluice_tests::cluster::TestNamespace<'_>) {
    let all = ns.path("discovery.k8s.io/v1", "endpointslices");
    let slice = |name: &str, by: &str| {
        json!({
            "metadata": { "name": name, "labels": { "endpointslice.kubernetes.io/managed-by": by } },
            "addressType": "IPv4", "endpoints": [], "ports": [],
        })
    };
    assert_eq!(sent(agent, Method::POST, &all, &slice("ours", "sluice.dev")), Ok(()));
    assert_refused(
        sent(agent, Method::POST, &all, &slice("odd", "other.example")),
        "may write endpointslices with label",
    );
    plane.api().create(&all, &slice("theirs", "endpointslice-controller.k8s.io")).expect("somebody else's slice");
    let (ours, theirs) = (format!("{all}/ours"), format!("{all}/theirs"));
    let endpoint = json!({ "endpoints": [{ "addresses": ["192.0.2.9"] }] });
    assert_eq!(patched(agent, &ours, &endpoint), Ok(()));
    assert_refused(patched(agent, &theirs, &endpoint), "may write endpointslices with label");
    let taken = json!({ "metadata": { "labels": { "endpointslice.kubernetes.io/managed-by": "sluice.dev" } } });
    assert_refused(patched(agent, &theirs, &taken), "may not touch endpointslices without label");
    assert_refused(sent(agent, Method::DELETE, &theirs, &json!({})), "may not touch endpointslices without label");
    assert_eq!(sent(agent, Method::DELETE, &ours, &json!({})), Ok(()));
}

fn leases(plane: &ControlPlane, agent: &Api) {
    let lease =
        |name: &str, holder: &str| json!({ "metadata": { "name": name }, "spec": { "holderIdentity": holder } });
    let create = |api: &Api, name: &str, holder: &str| sent(api, Method::POST, LEASES, &lease(name, holder));
    assert_eq!(create(agent, "sluice-node-node1", "node1"), Ok(()));
    assert_refused(
        create(agent, "sluice-node-node2", "node2"),
        "an agent on node1 may not write Lease sluice-node-node2",
    );
    assert_refused(create(agent, "other", "node1"), "may not write Lease other");
    assert_eq!(create(agent, "sluice-leader", "node1"), Ok(()));
    let leader = format!("{LEASES}/sluice-leader");
    let held_by = |holder: &str| json!({ "spec": { "holderIdentity": holder } });
    assert_refused(patched(agent, &leader, &held_by("node2")), "may not write a Lease that is held by node2");
    assert_eq!(patched(agent, &leader, &held_by("")), Ok(()), "it is given back");
    let (second, _) = plane.api_as_pod(SYSTEM, "sluice", "node2").expect("a token");
    assert_eq!(patched(&second, &leader, &held_by("node2")), Ok(()), "and taken by another");
    assert_refused(patched(&second, &format!("{LEASES}/sluice-node-node1"), &held_by("node1")), "an agent on node2");
    let unbound = sluice_tests::cluster::Identity::service_account(SYSTEM, "sluice");
    let unbound = plane.api_as(&unbound).expect("a token");
    assert_refused(create(&unbound, "sluice-node-node3", "node3"), "the token names no node");
}
