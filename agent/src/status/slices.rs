//! The EndpointSlices of Services that stand before a Gateway: what is to be created, changed and deleted.
//!
//! In: the chains of the model, and the slices of ours that are there. Out: one write for each slice that is not as it
//! should be; none for the slices of others, whatever they are of. Pure.
//!
//! # Design
//! - One slice holds the endpoints of one family that have the same number behind one port of the Service, at most
//!   [`MAX_ENDPOINTS`]: an endpoint that comes or goes costs one write of one slice.
//! - An endpoint stays in the slice that it is in. Source: upstream's EndpointSlice controller, for the same reason.
//! - A name that another's slice has is left alone; the next one is taken.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde_json::{Map, Value, json};

use super::write::Write;
use crate::{
    api::{
        EndpointSlice, Kind, ObjectMeta, ObjectName, Service,
        endpoint_slice::{Endpoint, EndpointPort, MANAGED_BY_LABEL, MANAGER, SERVICE_NAME_LABEL},
    },
    model::{Model, Port, chain::Chain, endpoints::Family},
    source::Snapshot,
};

/// Endpoints in one slice at most. Source: upstream's default; the API admits 1000.
pub const MAX_ENDPOINTS: usize = 100;

/// Slices that hold the same kind of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    is_v6: bool,
    /// The port's name in the Service.
    port: String,
    number: Port,
    app_protocol: Option<String>,
}

/// The endpoints that one slice should hold, by address; without a slice they need a new one.
type Placed<'a> = (Option<&'a EndpointSlice>, BTreeMap<IpAddr, &'a Endpoint>);

/// Every write that is due.
#[must_use]
pub fn plan(snapshot: &Snapshot, model: &Model) -> Vec<Write> {
    let mut present: BTreeMap<ObjectName, Vec<&EndpointSlice>> = BTreeMap::new();
    let mut writes = Vec::new();
    for slice in model.own_slices.iter().filter_map(|name| snapshot.slices.get(name)).filter(|slice| slice.is_ours()) {
        match slice.service_name() {
            Some(service) => present.entry(service).or_default().push(slice),
            None => writes.push(Write::delete::<EndpointSlice>(&slice.metadata)),
        }
    }
    for (name, chain) in model.chains.iter().filter(|(_, chain)| chain.is_written()) {
        if let Some(service) = snapshot.services.get(name) {
            of_service(snapshot, service, chain, present.remove(name).unwrap_or_default(), &mut writes);
        }
    }
    // What is left has no cause any more.
    writes.extend(present.into_values().flatten().map(|slice| Write::delete::<EndpointSlice>(&slice.metadata)));
    writes
}

fn of_service(
    snapshot: &Snapshot,
    service: &Service,
    chain: &Chain,
    present: Vec<&EndpointSlice>,
    writes: &mut Vec<Write>,
) {
    let mut by_group: BTreeMap<Group, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in present {
        match group(slice) {
            Some(group) => by_group.entry(group).or_default().push(slice),
            None => writes.push(Write::delete::<EndpointSlice>(&slice.metadata)),
        }
    }
    let mut taken = BTreeSet::new();
    for (group, endpoints) in wanted(chain) {
        for (slice, endpoints) in place(endpoints, by_group.remove(&group).unwrap_or_default()) {
            match slice {
                Some(slice) if endpoints.is_empty() => writes.push(Write::delete::<EndpointSlice>(&slice.metadata)),
                Some(slice) => writes.extend(changed(service, slice, &endpoints)),
                None => {
                    let name = free_name(snapshot, service, &group, &mut taken);
                    writes.push(create(service, &group, name, &endpoints));
                }
            }
        }
    }
    writes.extend(by_group.into_values().flatten().map(|slice| Write::delete::<EndpointSlice>(&slice.metadata)));
}

/// What a slice of ours holds; `None` of one that somebody has changed into something else.
fn group(slice: &EndpointSlice) -> Option<Group> {
    let [EndpointPort { name, port, protocol: _, app_protocol }] = slice.ports.as_slice() else { return None };
    Some(Group {
        is_v6: slice.address_type == "IPv6",
        port: name.clone().unwrap_or_default(),
        number: Port::try_new((*port)?)?,
        app_protocol: app_protocol.clone(),
    })
}

/// The endpoints of a chain that the Service's families admit.
fn wanted(chain: &Chain) -> BTreeMap<Group, BTreeMap<IpAddr, &Endpoint>> {
    let mut groups: BTreeMap<Group, BTreeMap<IpAddr, &Endpoint>> = BTreeMap::new();
    let is_admitted = |addr: IpAddr| chain.families.is_empty() || chain.families.contains(&Family::of(addr));
    for port in &chain.ports {
        for ((addr, number), endpoint) in port.endpoints.iter().filter(|((addr, _), _)| is_admitted(*addr)) {
            let (port, app_protocol) = (port.name.clone(), port.app_protocol.clone());
            let group = Group { is_v6: addr.is_ipv6(), port, number: *number, app_protocol };
            groups.entry(group).or_default().insert(*addr, endpoint);
        }
    }
    groups
}

/// Leaves each endpoint in the slice that it is in, puts the others where there is room, and the rest into new slices.
fn place<'a>(mut endpoints: BTreeMap<IpAddr, &'a Endpoint>, present: Vec<&'a EndpointSlice>) -> Vec<Placed<'a>> {
    let mut placed: Vec<Placed<'a>> = Vec::with_capacity(present.len());
    for slice in present {
        let addrs = slice.endpoints.iter().filter_map(|e| e.addresses.first()?.parse().ok());
        let kept = addrs.filter_map(|addr: IpAddr| endpoints.remove_entry(&addr)).take(MAX_ENDPOINTS).collect();
        placed.push((Some(slice), kept));
    }
    for (_, held) in &mut placed {
        // An empty one is better deleted than filled: so slices become fewer again.
        while !held.is_empty() && held.len() < MAX_ENDPOINTS {
            let Some((addr, endpoint)) = endpoints.pop_first() else { break };
            held.insert(addr, endpoint);
        }
    }
    while !endpoints.is_empty() {
        let rest = endpoints.keys().nth(MAX_ENDPOINTS).copied().map(|at| endpoints.split_off(&at)).unwrap_or_default();
        placed.push((None, std::mem::replace(&mut endpoints, rest)));
    }
    placed
}

/// The first name that nobody has.
fn free_name(snapshot: &Snapshot, service: &Service, group: &Group, taken: &mut BTreeSet<String>) -> String {
    let Group { is_v6, port, number, app_protocol: _ } = group;
    let family = if *is_v6 { "ipv6" } else { "ipv4" };
    let port = if port.is_empty() { String::new() } else { format!("{port}-") };
    let mut index = 0;
    loop {
        let name = format!("{}-sluice-{port}{number}-{family}-{index}", service.metadata.name);
        let is_free = !snapshot.slices.contains_key(&ObjectName::new(&service.metadata.namespace, &name));
        if is_free && taken.insert(name.clone()) {
            return name;
        }
        index += 1;
    }
}

fn create(service: &Service, group: &Group, name: String, endpoints: &BTreeMap<IpAddr, &Endpoint>) -> Write {
    let Group { is_v6, port, number, app_protocol } = group;
    let mut written = json!({ "name": port, "port": number, "protocol": "TCP" });
    if let Some(app_protocol) = app_protocol {
        written["appProtocol"] = json!(app_protocol);
    }
    let body = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": EndpointSlice::KIND,
        "metadata": {
            "name": name,
            "namespace": service.metadata.namespace,
            "labels": { SERVICE_NAME_LABEL: service.metadata.name, MANAGED_BY_LABEL: MANAGER },
            "ownerReferences": owners(service),
        },
        "addressType": if *is_v6 { "IPv6" } else { "IPv4" },
        "ports": [written],
        "endpoints": endpoints.values().map(|e| on_the_wire(e)).collect::<Vec<_>>(),
    });
    let metadata = ObjectMeta { name, namespace: service.metadata.namespace.clone(), ..ObjectMeta::default() };
    Write::create::<EndpointSlice>(&metadata, body)
}

/// The change of a slice that is there, if it is not as it should be.
fn changed(service: &Service, slice: &EndpointSlice, endpoints: &BTreeMap<IpAddr, &Endpoint>) -> Option<Write> {
    let has_endpoints = slice.endpoints.len() == endpoints.len()
        && slice.endpoints.iter().all(|known| {
            let addr = known.addresses.first().and_then(|addr| addr.parse::<IpAddr>().ok());
            addr.and_then(|addr| endpoints.get(&addr)).is_some_and(|wanted| *wanted == known)
        });
    let is_owned = slice.metadata.owner_references.iter().any(|o| o.kind == "Service" && o.uid == service.metadata.uid);
    if has_endpoints && is_owned {
        return None;
    }
    let endpoints: Vec<Value> = endpoints.values().map(|e| on_the_wire(e)).collect();
    let body = json!({ "metadata": { "ownerReferences": owners(service) }, "endpoints": endpoints });
    Some(Write::new::<EndpointSlice>(&slice.metadata, None, body))
}

/// Without `blockOwnerDeletion`, which would need a permission on Services that nothing else needs.
pub(super) fn owners(service: &Service) -> Value {
    let ObjectMeta { name, uid, .. } = &service.metadata;
    json!([{ "apiVersion": "v1", "kind": Service::KIND, "name": name, "uid": uid, "controller": true }])
}

/// An endpoint with the fields that it has.
fn on_the_wire(endpoint: &Endpoint) -> Value {
    let Endpoint { addresses, conditions, node_name, zone, hostname, target_ref, hints: _ } = endpoint;
    let mut out = Map::from_iter([("addresses".to_owned(), json!(addresses))]);
    let mut add = |name: &str, value: Value| {
        if !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    let states =
        [("ready", conditions.ready), ("serving", conditions.serving), ("terminating", conditions.terminating)];
    let states: Map<String, Value> = states.into_iter().filter_map(|(n, v)| Some((n.to_owned(), json!(v?)))).collect();
    add("conditions", Value::Object(states));
    add("nodeName", json!(node_name));
    add("zone", json!(zone));
    add("hostname", json!(hostname));
    add("targetRef", json!(target_ref));
    Value::Object(out)
}

#[cfg(test)]
mod tests;
