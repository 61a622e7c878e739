//! A lab whose agents follow a real API server: what the tests of the api half start from.
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Api, ControlPlane, Identity, Proxy};
use crate::netns::{
    Lab,
    agent::{Agent, AgentSpec, Datapath},
    lab::LabSpec,
};

/// The namespace of the agents.
pub const SYSTEM: &str = "sluice-system";
/// The pool that a scene starts with.
pub const POOL: &str = "test";

/// A control plane, a lab, and agents on its nodes that follow the control plane, each through a [`Proxy`] of its own.
pub struct Scene {
    /// The agents, of node1 and, where it was asked for, of node2.
    pub agents: Vec<Agent>,
    /// Their ways to the API server, in the same order.
    pub proxies: Vec<Proxy>,
    /// The control plane.
    pub plane: ControlPlane,
    /// The nodes, their pods and a client.
    pub lab: Lab,
}

impl Scene {
    /// So many agents (1 or 2), so many pods on each of the two nodes (`a1`.. and `b1`..), and the pool [`POOL`] with
    /// 203.0.113.0/28 and 2001:db8:113::/124. Every agent is ready.
    ///
    /// # Panics
    /// If something does not start.
    #[must_use]
    pub fn start(agents: usize, pods: u8) -> Self {
        Self::with(agents, pods, |_| ())
    }

    /// The same, with something done before the agents start.
    ///
    /// # Panics
    /// If something does not start.
    #[must_use]
    pub fn with(agents: usize, pods: u8, prepare: impl FnOnce(&ControlPlane)) -> Self {
        let token = |plane: &ControlPlane, _: &str| plane.api_as(&Identity::service_account(SYSTEM, "sluice"));
        Self::build(agents, pods, prepare, token, &[])
    }

    /// The same, with agents that do not lead, and whose tokens are those of pods: for `deploy/overlays/controller`.
    ///
    /// # Panics
    /// If something does not start.
    #[must_use]
    pub fn led(agents: usize, pods: u8, prepare: impl FnOnce(&ControlPlane)) -> Self {
        let token = |plane: &ControlPlane, node: &str| plane.api_as_pod(SYSTEM, "sluice", node).map(|(api, _)| api);
        Self::build(agents, pods, prepare, token, &["--leader=controller"])
    }

    fn build(
        agents: usize,
        pods: u8,
        prepare: impl FnOnce(&ControlPlane),
        token: fn(&ControlPlane, &str) -> anyhow::Result<Api>,
        flags: &[&str],
    ) -> Self {
        let plane = ControlPlane::start().expect("a control plane");
        install(&plane).expect("what `kubectl apply -k deploy/` brings besides the DaemonSet");
        let pool = json!({ "addresses": ["203.0.113.0/28", "2001:db8:113::/124"] });
        pool_of(&plane, POOL, &pool);
        let lab = Lab::build(&LabSpec::test(pods, pods)).expect("a lab");
        for node in ["node1", "node2"] {
            let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
            plane.apply(&object.to_string()).expect("a node");
        }
        prepare(&plane);
        let mut scene = Self { agents: Vec::new(), proxies: Vec::new(), plane, lab };
        for n in 0..agents {
            let (space, node) = if n == 0 { (&scene.lab.node1, "node1") } else { (&scene.lab.node2, "node2") };
            let api = token(&scene.plane, node).expect("a token");
            let proxy = scene.plane.proxy_of(space, api).expect("a way to the API server");
            let mut spec = AgentSpec::new(Datapath::Tc).in_cluster(proxy.kubeconfig().to_owned());
            // Nobody may ask for a Route otherwise.
            spec.extra.push("--route-hosts=*/*.apps.example".to_owned());
            spec.extra.extend(flags.iter().map(ToString::to_string));
            let prepared =
                if n == 0 { Agent::prepare(&scene.lab, spec) } else { Agent::prepare_second(&scene.lab, spec) };
            let mut agent = prepared.expect("an agent");
            agent.launch().expect("the agent is ready");
            scene.agents.push(agent);
            scene.proxies.push(proxy);
        }
        scene
    }

    /// The addresses that a Service shows in its status.
    ///
    /// # Errors
    /// It cannot be read, or shows none.
    pub fn addresses(&self, ns: &str, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        let service = self.plane.api().get(&format!("/api/v1/namespaces/{ns}/services/{name}"))?;
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        let addrs = ingress.iter().filter_map(|i| i["ip"].as_str()?.parse().ok()).collect::<Vec<IpAddr>>();
        anyhow::ensure!(!addrs.is_empty(), "no address: {:#}", service["status"]);
        Ok(addrs)
    }

    /// Makes these pods the endpoints of a Service: its port `http` is this one of theirs.
    ///
    /// # Panics
    /// It is refused.
    pub fn endpoints(&self, ns: &str, service: &str, port: u16, pods: &[&str]) {
        for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
            let endpoint = |pod: &&crate::netns::pod::Pod| {
                json!({
                    "addresses": [pod.ip(is_v6).to_string()],
                    "nodeName": format!("node{}", pod.node),
                    "conditions": { "ready": true },
                })
            };
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {
                    "name": format!("{service}-{}", family.to_lowercase()), "namespace": ns,
                    "labels": { "kubernetes.io/service-name": service },
                },
                "ports": [{ "name": "http", "port": port, "protocol": "TCP" }],
                "endpoints": self.lab.select(pods).iter().map(endpoint).collect::<Vec<_>>(),
            });
            self.plane.apply(&slice.to_string()).expect("a slice");
        }
    }
}

/// A Service of type LoadBalancer with the port `http`, 80, and no selector.
#[must_use]
pub fn load_balancer(spec: &Value) -> Value {
    let mut service = json!({
        "kind": "Service",
        "spec": { "type": "LoadBalancer", "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] },
    });
    if let (Some(to), Some(from)) = (service["spec"].as_object_mut(), spec.as_object()) {
        to.extend(from.clone());
    }
    service
}

/// Creates or changes an AddressPool.
///
/// # Panics
/// It is refused.
pub fn pool_of(plane: &ControlPlane, name: &str, spec: &Value) {
    let pool = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "AddressPool", "metadata": { "name": name }, "spec": spec,
    });
    plane.apply(&pool.to_string()).expect("a pool");
}

/// The CRDs, the namespace, the ServiceAccount and its permissions, from `deploy/`. Without the policies of admission: the
/// agents of a scene have tokens of no pod.
///
/// # Errors
/// Something is refused, or not served in time.
pub fn install(plane: &ControlPlane) -> anyhow::Result<()> {
    let deploy = xtask::root().join("deploy");
    let of = |path: &str| deploy.join(path).display().to_string();
    plane.kubectl(&["apply", "-k", &of("crds")], "")?;
    for file in ["namespace", "service-account", "rbac", "rbac-tls"] {
        plane.kubectl(&["apply", "-f", &of(&format!("base/{file}.yaml"))], "")?;
    }
    plane.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd/addresspools.sluice.dev"], "")?;
    plane.until("the pools are served", |api| api.list("/apis/sluice.dev/v1alpha1/addresspools").map(drop));
    Ok(())
}
