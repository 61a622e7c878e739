//! Kubernetes objects for tests, as JSON: what a person would write in YAML, without the text.
use serde_json::{Value, json};

use super::pod::Pod;

/// A Service of type LoadBalancer without ports.
#[derive(Clone, Debug)]
pub struct Service(Value);

impl Service {
    /// In the namespace `default`, IPv4.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "LoadBalancer", "ports": [], "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}
        }))
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, port: u16, target: u16) -> Self {
        let port = json!({"name": name, "protocol": protocol, "port": port, "targetPort": target});
        self.0["spec"]["ports"].as_array_mut().expect("a list").push(port);
        self
    }

    /// Asks for an address.
    #[must_use]
    pub fn address(self, vip: &str) -> Self {
        self.spec("loadBalancerIP", json!(vip))
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][name] = json!(value);
        self
    }

    /// IPv6 alone.
    #[must_use]
    pub fn v6(self) -> Self {
        self.spec("ipFamilies", json!(["IPv6"]))
    }

    /// Both families.
    #[must_use]
    pub fn dual(self) -> Self {
        self.spec("ipFamilies", json!(["IPv4", "IPv6"])).spec("ipFamilyPolicy", json!("RequireDualStack"))
    }

    /// Sets any field of the spec.
    #[must_use]
    pub fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    /// As it is written to a file.
    #[must_use]
    pub fn json(&self) -> Value {
        self.0.clone()
    }
}

/// An EndpointSlice without endpoints.
#[derive(Clone, Debug)]
pub struct Slice {
    object: Value,
    v6: bool,
}

impl Slice {
    /// Of a Service, IPv4, called as the Service and `suffix` are.
    #[must_use]
    pub fn new(service: &str, suffix: &str) -> Self {
        Self::of_family(service, suffix, false)
    }

    /// Of a Service, IPv6.
    #[must_use]
    pub fn v6(service: &str, suffix: &str) -> Self {
        Self::of_family(service, suffix, true)
    }

    fn of_family(service: &str, suffix: &str, v6: bool) -> Self {
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{service}-{suffix}"), "namespace": "default",
                         "labels": {"kubernetes.io/service-name": service}},
            "addressType": if v6 { "IPv6" } else { "IPv4" }, "endpoints": [], "ports": []
        });
        Self { object, v6 }
    }

    /// Adds a port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        let port = json!({"name": name, "protocol": protocol, "port": port});
        self.object["ports"].as_array_mut().expect("a list").push(port);
        self
    }

    /// Adds a pod that is ready.
    #[must_use]
    pub fn pod(self, pod: &Pod) -> Self {
        self.pod_with(pod, &json!({"ready": true, "serving": true, "terminating": false}))
    }

    /// Adds pods that are ready.
    #[must_use]
    pub fn pods<'a>(self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        pods.into_iter().fold(self, Self::pod)
    }

    /// Adds a pod under some conditions.
    #[must_use]
    pub fn pod_with(self, pod: &Pod, conditions: &Value) -> Self {
        let address = pod.ip(self.v6).to_string();
        self.endpoint(json!({
            "addresses": [address], "conditions": conditions, "nodeName": pod.node_name(),
            "targetRef": {"kind": "Pod", "name": pod.name, "namespace": "default"}
        }))
    }

    /// Adds any endpoint.
    #[must_use]
    pub fn endpoint(mut self, endpoint: Value) -> Self {
        self.object["endpoints"].as_array_mut().expect("a list").push(endpoint);
        self
    }

    /// As it is written to a file.
    #[must_use]
    pub fn json(&self) -> Value {
        self.object.clone()
    }
}

/// A Gateway with one HTTP listener on a port, at an address of its own or at one that is given.
#[must_use]
pub fn gateway(name: &str, port: u16, address: Option<&str>) -> Value {
    let addresses: Vec<Value> = address.iter().map(|a| json!({"type": "IPAddress", "value": a})).collect();
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"gatewayClassName": "sluice", "addresses": addresses,
                 "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]}
    })
}

/// An HTTPRoute on a Gateway; `rules` as the API has them.
#[must_use]
pub fn http_route(name: &str, gateway: &str, hostnames: &[&str], rules: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"parentRefs": [{"name": gateway}], "hostnames": hostnames, "rules": rules}
    })
}

/// A Service that only names backends for routes, on port 80.
#[must_use]
pub fn cluster_service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "ClusterIP", "clusterIP": "None",
                 "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": super::pod::HTTP_PORT}]}
    })
}
