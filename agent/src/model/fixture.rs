//! Objects for the tests of the model, written as in manifests.
use std::sync::Arc;

use super::Node;
use crate::{
    api::{EndpointSlice, ObjectName, Service},
    source::Snapshot,
};

/// Node `n1` in zone `z1`.
pub(super) fn node(pools: &[&str]) -> Node {
    Node {
        name: "n1".into(),
        zone: Some("z1".into()),
        pools: pools.iter().map(|p| p.parse().unwrap()).collect(),
        allocations: Arc::default(),
    }
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
