//! The objects that are loaded: many small Services, as a big cluster has them.
//!
//! A Service's endpoints are a window of [`ENDPOINTS`] in a ring of [`STRIDE`] addresses. A generation moves it on by one:
//! an endpoint leaves and another comes, as in a rollout.
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use serde_json::{Value, json};

use crate::netns::{Lab, addr, lab::UPLINK};

/// Where the addresses come from: 131,072 of them, reserved for benchmarks (RFC 2544).
pub(super) const POOL: &str = "198.18.0.0/15";
/// Endpoints of each Service.
pub(super) const ENDPOINTS: u32 = 10;
/// The first VIP: past the network's own.
const FIRST_VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
/// The first endpoint.
const FIRST_ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// Addresses set aside for the endpoints of one Service.
const STRIDE: u32 = 16;
/// The port of every Service, and of its endpoints.
const PORTS: (u16, u16) = (80, 8080);

/// Gives the endpoints a way from node1: without one they would be left out of its tables.
pub(super) fn lead_to_endpoints(lab: &Lab) -> anyhow::Result<()> {
    let everywhere = Ipv4Addr::UNSPECIFIED.into();
    lab.node1.net(async |net| net.route(everywhere, 0, UPLINK, Some(addr::CLIENT_V4.into())).await)
}

/// What a Service is called.
pub(super) fn name(service: usize) -> String {
    format!("shop-{service:05}")
}

/// What a client of a Service dials.
pub(super) fn vip(service: usize) -> SocketAddr {
    (Ipv4Addr::from_bits(FIRST_VIP.to_bits() + service as u32), PORTS.0).into()
}

/// Where it leads in this generation.
pub(super) fn endpoints(service: usize, generation: u32) -> BTreeSet<SocketAddr> {
    window(generation).map(|n| (address(service, n), PORTS.1).into()).collect()
}

/// The Service, with the address that it had before: the bench measures no new address.
pub(super) fn service(service: usize) -> Value {
    let address = vip(service).ip();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name(service), "namespace": "default", "labels": {"app": name(service)},
            "annotations": {"sluice.dev/allocated": address},
            "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerIP": address, "allocateLoadBalancerNodePorts": false,
            "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": PORTS.0, "targetPort": PORTS.1}],
        }
    })
}

/// An EndpointSlice, as the controllers of Kubernetes write it, before it is written in one encoding or another.
pub(super) struct Slice {
    pub(super) name: String,
    pub(super) namespace: &'static str,
    pub(super) labels: [(&'static str, String); 2],
    pub(super) address_type: &'static str,
    /// Name, number and protocol.
    pub(super) port: (&'static str, u16, &'static str),
    pub(super) endpoints: Vec<Endpoint>,
}

/// One endpoint, which is ready.
pub(super) struct Endpoint {
    pub(super) address: Ipv4Addr,
    pub(super) node: &'static str,
    pub(super) zone: &'static str,
    pub(super) pod: String,
    pub(super) uid: String,
    pub(super) namespace: &'static str,
}

/// The EndpointSlice of a Service in this generation.
pub(super) fn slice(service: usize, generation: u32) -> Slice {
    let name = name(service);
    let endpoint = |n: u32| Endpoint {
        address: address(service, n),
        node: if n.is_multiple_of(2) { "node1" } else { "node2" },
        zone: "zone-a",
        pod: format!("{name}-5d8c7b9f6d-{n:05}"),
        uid: format!("6f2d1c3a-58be-4a7c-9a51-{service:08x}{n:04x}"),
        namespace: "default",
    };
    Slice {
        namespace: "default",
        labels: [
            ("kubernetes.io/service-name", name.clone()),
            ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io".to_owned()),
        ],
        address_type: "IPv4",
        port: ("http", PORTS.1, "TCP"),
        endpoints: window(generation).map(endpoint).collect(),
        name: format!("{name}-ipv4"),
    }
}

impl Slice {
    /// The object as JSON.
    pub(super) fn json(&self) -> Value {
        let Self { name, namespace, labels, address_type, port: (port_name, port, protocol), endpoints } = self;
        let labels: serde_json::Map<String, Value> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": address_type,
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "ports": [{ "name": port_name, "port": port, "protocol": protocol }],
            "endpoints": endpoints.iter().map(Endpoint::json).collect::<Vec<_>>(),
        })
    }
}

impl Endpoint {
    fn json(&self) -> Value {
        let Self { address, node, zone, pod, uid, namespace } = self;
        json!({
            "addresses": [address], "nodeName": node, "zone": zone,
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "namespace": namespace, "name": pod, "uid": uid },
        })
    }
}

fn window(generation: u32) -> impl Iterator<Item = u32> {
    (0..ENDPOINTS).map(move |n| (generation + n) % STRIDE)
}

fn address(service: usize, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_ENDPOINT.to_bits() + service as u32 * STRIDE + n)
}
