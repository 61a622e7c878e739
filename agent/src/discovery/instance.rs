//! Endpoints -> instances: one per pod, with its addresses of both families and its ports by name. Pure.
use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use super::view::{Instance, InstancePort, Reference};
use crate::api::{EndpointSlice, ObjectName, Service, endpoint_slice::Endpoint};

/// The instances of one Service, in the order of their ids. `lastChange` is left empty.
///
/// An endpoint that is in several slices, one per family, is one instance: ready and serving where all of them say so,
/// terminating where one does. A condition that is not given means what the API says: ready, serving if ready, not terminating.
#[must_use]
pub fn instances(service: &Service, slices: &[Arc<EndpointSlice>]) -> Vec<Instance> {
    let mut found: BTreeMap<String, Instance> = BTreeMap::new();
    for slice in slices {
        for endpoint in &slice.endpoints {
            let Some(id) = id(endpoint) else { continue };
            let ready = endpoint.conditions.ready.unwrap_or(true);
            let serving = endpoint.conditions.serving.unwrap_or(ready);
            let terminating = endpoint.conditions.terminating.unwrap_or(false);
            let instance = found.entry(id.to_owned()).or_insert_with(|| Instance {
                id: id.to_owned(),
                addresses: Vec::new(),
                ports: BTreeMap::new(),
                ready,
                serving,
                terminating,
                node: None,
                zone: None,
                hostname: None,
                dns_name: None,
                target_ref: None,
                last_change: String::new(),
            });
            instance.ready &= ready;
            instance.serving &= serving;
            instance.terminating |= terminating;
            for address in &endpoint.addresses {
                if !instance.addresses.contains(address) {
                    instance.addresses.push(address.clone());
                }
            }
            for port in &slice.ports {
                // None means every port; there is no number to tell.
                let Some(number) = port.port.and_then(|n| u16::try_from(n).ok()) else { continue };
                instance.ports.entry(port.name.clone().unwrap_or_default()).or_insert_with(|| InstancePort {
                    port: number,
                    protocol: port.protocol().to_owned(),
                    app_protocol: port.app_protocol.clone(),
                });
            }
            describe(instance, endpoint, service);
        }
    }
    found.into_values().collect()
}

/// What outlives a change of the endpoint: the pod's uid; without one its name, its host name, its address.
fn id(endpoint: &Endpoint) -> Option<&str> {
    let target = endpoint.target_ref.as_deref();
    let named = target.and_then(|t| [&t.uid, &t.name].into_iter().find(|text| !text.is_empty()));
    let host = endpoint.hostname.as_ref().filter(|name| !name.is_empty());
    named.or(host).or(endpoint.addresses.first()).map(String::as_str)
}

/// Where it runs and what it is called.
fn describe(instance: &mut Instance, endpoint: &Endpoint, service: &Service) {
    let take = |into: &mut Option<String>, from: &Option<String>| {
        if into.is_none() {
            into.clone_from(from);
        }
    };
    take(&mut instance.node, &endpoint.node_name);
    take(&mut instance.zone, &endpoint.zone);
    take(&mut instance.hostname, &endpoint.hostname);
    // Only a headless Service has a record for each of its endpoints.
    if service.spec.cluster_ip == "None" && instance.dns_name.is_none() {
        let ObjectName { ns, name } = service.metadata.object_name();
        instance.dns_name = instance.hostname.as_ref().map(|host| format!("{host}.{name}.{ns}.svc"));
    }
    if instance.target_ref.is_none() {
        instance.target_ref = endpoint.target_ref.as_deref().map(|target| Reference {
            kind: target.kind.clone(),
            // Always the namespace of the slice; manifests may leave it out.
            namespace: if target.namespace.is_empty() {
                service.metadata.namespace.clone()
            } else {
                target.namespace.clone()
            },
            name: target.name.clone(),
            uid: target.uid.clone(),
        });
    }
}

/// An instance in two numbers: who it is, and in which state. Kept for each instance there is, therefore small.
#[must_use]
pub(super) fn fingerprint(instance: &Instance) -> (u64, u64) {
    let Instance {
        id,
        addresses,
        ports,
        ready,
        serving,
        terminating,
        node,
        zone,
        hostname,
        dns_name,
        target_ref,
        last_change: _,
    } = instance;
    let mut who = DefaultHasher::new();
    id.hash(&mut who);
    let mut state = DefaultHasher::new();
    (addresses, ports, ready, serving, terminating, node, zone, hostname, dns_name, target_ref).hash(&mut state);
    (who.finish(), state.finish())
}
