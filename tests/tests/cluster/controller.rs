//! A controller that leads in the agents' place (issue 8, F5): `deploy/overlays/controller`, with tokens as the kubelet asks for them.
use std::process::Command;

use http::Method;
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{
        Api, ControlPlane, Proxy,
        look::ALLOCATED,
        process::Process,
        scene::{SYSTEM, Scene, load_balancer},
    },
    netns::{agent, pod::TCP_PORT},
};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/sluice-system/leases";

/// A controller, and its way to the API server.
struct Controller {
    process: Process,
    proxy: Proxy,
}

impl Controller {
    fn start(scene: &Scene, node: &str) -> Self {
        let plane = &scene.plane;
        let (api, name) = plane.api_as_pod(SYSTEM, "sluice-controller", node).expect("a token");
        let proxy = plane.proxy_of(&plane.space, api).expect("a way to the API server");
        let mut command = Command::new(agent::binary().expect("the binary"));
        command.args(["controller", "--name", &name, "--kubeconfig"]).arg(proxy.kubeconfig());
        let log = scene.lab.dir().join(format!("{name}.log"));
        let process = Process::start(&plane.space, command, &log).expect("it starts");
        Self { process, proxy }
    }
}

fn refusal(api: &Api, method: Method, path: &str, body: &Value) -> (u16, String) {
    let content = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let (status, answer) = api.send(method, path, content, Some(body)).expect("an answer");
    (status.as_u16(), answer["message"].as_str().unwrap_or_default().to_owned())
}

fn install(plane: &ControlPlane) {
    let overlay = xtask::root().join("deploy/overlays/controller").display().to_string();
    plane.kubectl(&["apply", "-k", &overlay], "").expect("the overlay");
}

#[test]
fn f5_a_controller_leads_and_the_agents_token_can_write_no_object() {
    let scene = Scene::led(1, 1, install);
    let plane = &scene.plane;
    let ns = plane.namespace("led");
    let expose = |name: &str| {
        ns.apply("", &format!("services/{name}"), &load_balancer(&json!({})));
        scene.endpoints(ns.name(), name, TCP_PORT, &["a1"]);
    };
    expose("web");
    let mut first = Controller::start(&scene, "node1");
    let vips = scene.until_addresses(&ns, "web");
    assert_eq!(vips.len(), 1, "{vips:?}");
    scene.until_answers((vips[0], 80), &["a1"]);

    let controller = first.proxy.api().expect("its own");
    let (agent, _) = plane.api_as_pod(SYSTEM, "sluice", "node1").expect("a token");
    let service = ns.path("", "services/web");
    let annotation = json!({ "metadata": { "annotations": { ALLOCATED: "203.0.113.9" } } });
    for path in [service.clone(), format!("{service}/status")] {
        let (status, said) = refusal(&agent, Method::PATCH, &path, &annotation);
        assert!(status == 403 && said.contains("cannot patch resource"), "by RBAC, {path}: {status} {said}");
    }
    let slices = ns.path("discovery.k8s.io/v1", "endpointslices");
    let (status, said) = refusal(&agent, Method::POST, &slices, &json!({ "metadata": { "name": "x" } }));
    assert!(status == 403 && said.contains("cannot create resource"), "{status} {said}");
    let leader = format!("{LEASES}/sluice-leader");
    let held_by = |holder: &str| json!({ "spec": { "holderIdentity": holder } });
    let (status, said) = refusal(&agent, Method::PATCH, &leader, &held_by("node1"));
    assert!(status == 422 && said.contains("an agent may not lead where a controller does"), "{status} {said}");
    let (status, said) = refusal(&controller, Method::PATCH, &leader, &held_by("another"));
    assert!(status == 422 && said.contains("may not write a Lease that is held by another"), "{status} {said}");
    let (status, said) = refusal(&controller, Method::PATCH, &format!("{LEASES}/sluice-node-node1"), &held_by("node1"));
    assert!(status == 422 && said.contains("the controller may not write Lease sluice-node-node1"), "{status} {said}");
    let (status, said) =
        refusal(&controller, Method::PATCH, &service, &json!({ "spec": { "externalIPs": ["192.0.2.1"] } }));
    assert!(status == 422 && said.contains("may not change spec"), "{status} {said}");

    // Nobody leads: what there is goes on, and what is new waits for the next one.
    first.process.kill();
    expose("late");
    scene.until_answers((vips[0], 80), &["a1"]);
    let mut second = Controller::start(&scene, "node2");
    let late = scene.until_addresses(&ns, "late");
    scene.until_answers((late[0], 80), &["a1"]);
    second.process.lives().expect("it lives");
    let holder = plane.api().get(&leader).expect("the Lease")["spec"]["holderIdentity"].clone();
    assert!(holder.as_str().is_some_and(|name| name.starts_with("sluice-controller-")), "{holder}");
}
