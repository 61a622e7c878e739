//! The objects that are loaded: many small Services, as a big cluster has them.
//!
//! A Service's endpoints are a window of [`ENDPOINTS`] in a ring of [`STRIDE`] addresses. A generation moves it on by one:
//! an endpoint leaves and another comes, as in a rollout.
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
};

use serde_json::{Value, json};

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

/// Its EndpointSlice in this generation, as the controllers of Kubernetes write it.
pub(super) fn slice(service: usize, generation: u32) -> Value {
    let endpoint = |n: u32| {
        let pod = format!("{}-5d8c7b9f6d-{n:05}", name(service));
        let uid = format!("6f2d1c3a-58be-4a7c-9a51-{service:08x}{n:04x}");
        json!({
            "addresses": [address(service, n)], "nodeName": format!("node{}", 1 + n % 2), "zone": "zone-a",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": "default", "name": pod, "uid": uid},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{}-ipv4", name(service)), "namespace": "default",
            "labels": {
                "kubernetes.io/service-name": name(service),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "ports": [{"name": "http", "port": PORTS.1, "protocol": "TCP"}],
        "endpoints": window(generation).map(endpoint).collect::<Vec<_>>(),
    })
}

fn window(generation: u32) -> impl Iterator<Item = u32> {
    (0..ENDPOINTS).map(move |n| (generation + n) % STRIDE)
}

fn address(service: usize, n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_ENDPOINT.to_bits() + service as u32 * STRIDE + n)
}
