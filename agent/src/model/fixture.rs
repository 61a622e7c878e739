//! Objects for the tests of the model, written as in manifests.
use std::sync::Arc;

use serde_json::Value;

use super::Node;
use crate::{
    api::{EndpointSlice, ObjectName, Service},
    source::Snapshot,
};

/// A snapshot of objects of any kind, a sequence of JSON.
pub(crate) fn snapshot(objects: &Value) -> Snapshot {
    let mut out = Snapshot::default();
    for object in objects.as_array().unwrap() {
        add(&mut out, object).unwrap();
    }
    out
}

/// Adds an object of any kind, or replaces it.
pub(crate) fn add(to: &mut Snapshot, object: &Value) -> serde_json::Result<()> {
    let ns = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let name = ObjectName::new(ns, object["metadata"]["name"].as_str().unwrap());
    let read = object.clone();
    match object["kind"].as_str().unwrap() {
        "GatewayClass" => drop(to.gateway_classes.insert(name.name, Arc::new(serde_json::from_value(read)?))),
        "AddressPool" => drop(to.pools.insert(name.name, Arc::new(serde_json::from_value(read)?))),
        "Node" => drop(to.nodes.insert(name.name, Arc::new(serde_json::from_value(read)?))),
        "Namespace" => drop(to.namespaces.insert(name.name, Arc::new(serde_json::from_value(read)?))),
        "Gateway" => drop(to.gateways.insert(name, Arc::new(serde_json::from_value(read)?))),
        "HTTPRoute" => drop(to.http_routes.insert(name, Arc::new(serde_json::from_value(read)?))),
        "GRPCRoute" => drop(to.grpc_routes.insert(name, Arc::new(serde_json::from_value(read)?))),
        "TLSRoute" => drop(to.tls_routes.insert(name, Arc::new(serde_json::from_value(read)?))),
        "TCPRoute" => drop(to.tcp_routes.insert(name, Arc::new(serde_json::from_value(read)?))),
        "UDPRoute" => drop(to.udp_routes.insert(name, Arc::new(serde_json::from_value(read)?))),
        "ListenerSet" => drop(to.listener_sets.insert(name, Arc::new(serde_json::from_value(read)?))),
        "BackendTLSPolicy" => drop(to.backend_tls_policies.insert(name, Arc::new(serde_json::from_value(read)?))),
        "XBackendTrafficPolicy" => {
            drop(to.backend_traffic_policies.insert(name, Arc::new(serde_json::from_value(read)?)));
        }
        "ReferenceGrant" => drop(to.grants.insert(name, Arc::new(serde_json::from_value(read)?))),
        "Secret" => drop(to.secrets.insert(name, Arc::new(serde_json::from_value(read)?))),
        "ConfigMap" => drop(to.config_maps.insert(name, Arc::new(serde_json::from_value(read)?))),
        "Service" => drop(to.services.insert(name, Arc::new(serde_json::from_value(read)?))),
        "EndpointSlice" => drop(to.slices.insert(name, Arc::new(serde_json::from_value(read)?))),
        other => panic!("{other}"),
    }
    Ok(())
}

/// Patches an object as the API server does. Source: RFC 7386.
pub(crate) fn merge_patch(to: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else { return *to = patch.clone() };
    if !to.is_object() {
        *to = Value::Object(serde_json::Map::new());
    }
    for (name, value) in fields {
        if value.is_null() {
            to.as_object_mut().unwrap().remove(name);
        } else {
            merge_patch(&mut to[name], value);
        }
    }
}

/// Node `n1` in zone `z1`.
pub(crate) fn node(pools: &[&str]) -> Node {
    Node { zone: Some("z1".into()), pools: pools.iter().map(|p| p.parse().unwrap()).collect(), ..Node::alone("n1") }
}

/// Services `default/NAME`, from `(NAME, spec)`.
pub(super) fn services(all: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, spec) in all {
        add_service(&mut snapshot, &format!("{{metadata: {{name: {name}}}, spec: {spec}}}"));
    }
    snapshot
}

/// Adds a Service written in full.
pub(super) fn add_service(snapshot: &mut Snapshot, text: &str) {
    let service = serde_saphyr::from_str::<Service>(text).unwrap();
    snapshot.services.insert(service.metadata.object_name(), Arc::new(service));
}

/// Adds a slice of IPv4 addresses of Service `web`, port `http` 8080.
pub(super) fn add_slice(snapshot: &mut Snapshot, name: &str, endpoints: &[&str]) {
    let text = "{addressType: IPv4, ports: [{name: http, port: 8080}]}";
    add_slice_like(snapshot, name, text, endpoints);
}

/// Adds a slice of Service `web`.
pub(super) fn add_slice_like(snapshot: &mut Snapshot, name: &str, text: &str, endpoints: &[&str]) {
    let mut slice = serde_saphyr::from_str::<EndpointSlice>(text).unwrap();
    slice.endpoints = endpoints.iter().map(|e| serde_saphyr::from_str(e).unwrap()).collect();
    slice.metadata.name = name.into();
    slice.metadata.namespace = "default".into();
    slice.metadata.labels.insert("kubernetes.io/service-name".into(), "web".into());
    snapshot.slices.insert(ObjectName::new("default", name), Arc::new(slice));
}
