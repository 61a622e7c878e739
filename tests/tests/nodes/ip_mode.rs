//! Layer 7 beside kube-proxy (issue 8, E1): what a Gateway's routes say holds for clients outside, in pods and on nodes.
//!
//! kube-proxy acts before a socket is looked up. Where `status` shows an address with `ipMode: VIP` it takes packets to the
//! Service's EndpointSlices, past the proxy: hosts, paths, weights and filters would count for nobody.
use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_tests::{
    cluster::{Cluster, TestNamespace, look::ingress},
    netns::{
        Namespace,
        http::{self, Protocol},
    },
};

const GATEWAY: &str = "gateway.networking.k8s.io/v1";
/// A path that the route sends to pods, one that it does not know, one whose backend has no endpoint.
const PATHS: [(&str, u16); 3] = [("/in", 200), ("/out", 404), ("/none", 503)];
/// The port of `mixed` that the Gateway has no listener for.
const PLAIN: u16 = 8081;

/// A Gateway `front`, and two Services that were made for it: `edge`, whose endpoints Sluice writes, and `mixed`, which
/// selects pods itself and has a second port, [`PLAIN`], that is none of the Gateway's.
pub(super) struct Layer7<'a> {
    cluster: &'a Cluster,
    ns: &'a TestNamespace<'a>,
    /// The addresses of all three.
    vips: Vec<IpAddr>,
    mixed: Vec<IpAddr>,
}

impl<'a> Layer7<'a> {
    /// Needs the Deployment and the Service `echo`, and Sluice.
    pub(super) fn set_up(cluster: &'a Cluster, ns: &'a TestNamespace<'a>) -> Self {
        let plane = &cluster.plane;
        plane.install_gateway_api().expect("the CRDs of Gateway API");
        let class = xtask::root().join("deploy/gateway").display().to_string();
        plane.kubectl(&["apply", "-k", &class], "").expect("the class");
        let listeners = json!([{ "name": "web", "port": 80, "protocol": "HTTP" }]);
        let spec = json!({ "gatewayClassName": "sluice", "listeners": listeners });
        ns.apply(GATEWAY, "gateways/front", &json!({ "kind": "Gateway", "spec": spec }));
        let rule = |path: &str, backend: &str| {
            json!({
                "matches": [{ "path": { "type": "PathPrefix", "value": path } }],
                "backendRefs": [{ "name": backend, "port": 80 }],
            })
        };
        let spec =
            json!({ "parentRefs": [{ "name": "front" }], "rules": [rule("/in", "echo"), rule("/none", "none")] });
        ns.apply(GATEWAY, "httproutes/front", &json!({ "kind": "HTTPRoute", "spec": spec }));
        let port = |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": "http" });
        ns.apply("", "services/none", &json!({ "kind": "Service", "spec": { "ports": [port("http", 80)] } }));
        let labels = json!({ "labels": { "gateway.networking.k8s.io/gateway-name": "front" } });
        let front = |ports: Value, selector: Value| {
            json!({
                "kind": "Service", "metadata": labels,
                "spec": {
                    "type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack", "ports": ports, "selector": selector,
                },
            })
        };
        ns.apply("", "services/edge", &front(json!([port("http", 80)]), json!({})));
        let both = json!([port("http", 80), port("plain", PLAIN)]);
        ns.apply("", "services/mixed", &front(both, json!({ "app": "echo" })));
        let shown = |name: &str, mode: &str| {
            plane.until(&format!("{name} shows two addresses with ipMode {mode}"), |api| {
                let service = api.get(&ns.path("", &format!("services/{name}")))?;
                let entries = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
                anyhow::ensure!(entries.len() == 2, "{:#}", service["status"]);
                anyhow::ensure!(entries.iter().all(|entry| entry["ipMode"] == mode), "{entries:?}");
                ingress(&service).iter().map(|ip| Ok(ip.parse()?)).collect::<anyhow::Result<Vec<IpAddr>>>()
            })
        };
        shown("echo", "VIP");
        let (edge, mixed) = (shown("edge", "Proxy"), shown("mixed", "Proxy"));
        let gateway: Vec<IpAddr> = plane.until("the Gateway shows an address", |api| {
            let gateway = api.get(&ns.path(GATEWAY, "gateways/front"))?;
            let addresses = gateway["status"]["addresses"].as_array().filter(|a| !a.is_empty()).context("none")?;
            addresses.iter().map(|a| Ok(a["value"].as_str().context("no value")?.parse()?)).collect()
        });
        let vips = [edge, mixed.clone(), gateway].concat();
        Self { cluster, ns, vips, mixed }
    }

    /// Whoever asks, wherever: the routes decide. The port that is none of the Gateway's is a port as any other.
    pub(super) fn check(&self, when: &str) {
        let plane = &self.cluster.plane;
        let nodes = [1, 2].map(|number| self.cluster.node_space(number).expect("a node"));
        let places = [("outside", &plane.space), ("node1", &nodes[0]), ("node2", &nodes[1])];
        for vip in &self.vips {
            for (path, wanted) in PATHS {
                for (place, space) in places {
                    self.until(&format!("{when}: {vip}{path} from {place}"), wanted, || asked(space, *vip, 80, path));
                }
                self.until(&format!("{when}: {vip}{path} from a pod"), wanted, || self.asked_by_pod(*vip, 80, path));
            }
        }
        for vip in &self.mixed {
            let what = format!("{when}: {vip}, port {PLAIN}, from outside");
            self.until(&what, 200, || asked(&plane.space, *vip, PLAIN, "/out"));
        }
        let mixed = plane.api().get(&self.ns.path("", "services/mixed")).expect("the Service");
        for ip in mixed["spec"]["clusterIPs"].as_array().into_iter().flatten() {
            let ip: IpAddr = ip.as_str().expect("text").parse().expect("an address");
            let what = format!("{when}: {ip}, port {PLAIN}, inside");
            self.until(&what, 200, || self.asked_by_pod(ip, PLAIN, "/out"));
            self.until(&what, 200, || asked(&nodes[0], ip, PLAIN, "/out"));
        }
    }

    /// Removes what [`Layer7::set_up`] has made, and waits until Sluice has let go of it.
    pub(super) fn remove(self) {
        let plane = &self.cluster.plane;
        for (group, rest) in [("", "services/edge"), ("", "services/mixed"), (GATEWAY, "gateways/front")] {
            plane.api().delete(&self.ns.path(group, rest)).expect("it can be deleted");
        }
        plane.until("the Services are let go", |api| {
            for name in ["edge", "mixed"] {
                let path = self.ns.path("", &format!("services/{name}"));
                anyhow::ensure!(api.get(&path).is_err(), "{name} is still there");
            }
            Ok(())
        });
    }

    fn until(&self, what: &str, wanted: u16, ask: impl Fn() -> anyhow::Result<u16>) {
        self.cluster.plane.until(&format!("{what}: {wanted}"), |_| {
            let status = ask()?;
            anyhow::ensure!(status == wanted, "{status}");
            Ok(())
        });
    }

    /// The status that a pod on node1 gets.
    fn asked_by_pod(&self, ip: IpAddr, port: u16, path: &str) -> anyhow::Result<u16> {
        let said =
            super::pods::exec_on_node1(self.cluster, self.ns, &format!("http://{}{path}", SocketAddr::new(ip, port)))?;
        let status = said.split(' ').nth(1).with_context(|| format!("no status line: {said}"))?;
        Ok(status.parse()?)
    }
}

/// The status that somebody in `space` gets.
fn asked(space: &Namespace, ip: IpAddr, port: u16, path: &str) -> anyhow::Result<u16> {
    let reply = http::send(space, (ip, port).into(), Protocol::Http1, http::get("echo.example", path))?;
    Ok(reply.status.as_u16())
}
