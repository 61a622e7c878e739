//! Which nodes may announce a VIP, which one does, and which one would without it.
//!
//! In: the nodes that live, the Nodes and Services of the snapshot, the addresses that objects have. Out: one node for each
//! VIP, and the next in order; every node of the cluster finds the same ones.
//!
//! # Design
//! - A node is left out that cannot serve the VIP: a Gateway's, or that of a Service before a Gateway, where the proxy
//!   takes no connections, one of another Service with `externalTrafficPolicy: Local` where none of its endpoints runs.
//! - A node is left out that is to be spared: not ready, without network, or labelled [`EXCLUDE`].
//! - Where this leaves nobody, a rule is dropped again: an address that answers badly is better than one that is silent.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{Allocations, announce::announcer, chain::Links, endpoints::SliceIndex, is_same_node};
use crate::{
    api::{Node, ObjectName, endpoint_slice::Endpoint, service::TrafficPolicy},
    source::Snapshot,
};

/// Keeps load balancers off a Node. Source: well-known labels.
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// A node that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its proxy takes connections.
    pub has_proxy: bool,
}

/// Who announces a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The node that does.
    pub by: &'a str,
    /// The node that would if that one were not there; where there is another that may.
    pub next: Option<&'a str>,
}

/// The announcer of every address that is given.
#[must_use]
pub fn announcers<'a>(
    candidates: &'a [Candidate],
    allocations: &Allocations,
    snapshot: &Snapshot,
    slices: &SliceIndex,
    links: &Links,
) -> BTreeMap<IpAddr, Choice<'a>> {
    let spared = |c: &&Candidate| !snapshot.nodes.get(&c.name).is_some_and(is_spared);
    let all: Vec<&str> = candidates.iter().map(|c| c.name.as_str()).collect();
    let fit = or(candidates.iter().filter(spared).map(|c| c.name.as_str()).collect(), &all);
    let proxies: BTreeSet<&str> = candidates.iter().filter(|c| c.has_proxy).map(|c| c.name.as_str()).collect();

    let is_proxied = |object: &super::ObjectRef| {
        object.kind == "Gateway" || links.get(&object.object).is_some_and(super::chain::Link::is_served)
    };
    let mut sharers: BTreeMap<IpAddr, Vec<&super::ObjectRef>> = BTreeMap::new();
    for (object, addrs) in allocations {
        for addr in addrs {
            sharers.entry(*addr).or_default().push(object);
        }
    }
    let choose = |(addr, objects): (IpAddr, Vec<&super::ObjectRef>)| {
        let mut able = fit.clone();
        for object in objects {
            let narrowed: Vec<&str> = if is_proxied(object) {
                able.iter().copied().filter(|name| proxies.contains(name)).collect()
            } else if let Some(nodes) = local_nodes(&object.object, snapshot, slices) {
                able.iter().copied().filter(|name| nodes.iter().any(|node| is_same_node(name, node))).collect()
            } else {
                continue;
            };
            able = or(narrowed, &able);
        }
        let by = announcer(addr, &able)?;
        able.retain(|name| *name != by);
        Some((addr, Choice { by, next: announcer(addr, &able) }))
    };
    sharers.into_iter().filter_map(choose).collect()
}

/// The first where it is not empty.
fn or<'a>(narrowed: Vec<&'a str>, wide: &[&'a str]) -> Vec<&'a str> {
    if narrowed.is_empty() { wide.to_vec() } else { narrowed }
}

fn is_spared(node: &Arc<Node>) -> bool {
    let is = |type_: &str, status: &str| node.status.conditions.iter().any(|c| c.type_ == type_ && c.status == status);
    node.metadata.labels.contains_key(EXCLUDE)
        || is("NetworkUnavailable", "True")
        || is("Ready", "False")
        || is("Ready", "Unknown")
}

/// The nodes where a Service with `externalTrafficPolicy: Local` has endpoints; `None` for every other Service.
fn local_nodes(service: &ObjectName, snapshot: &Snapshot, slices: &SliceIndex) -> Option<BTreeSet<String>> {
    let is_local =
        snapshot.services.get(service).is_some_and(|s| s.spec.external_traffic_policy.is(TrafficPolicy::Local));
    let endpoints = || slices.of(service).iter().flat_map(|slice| &slice.endpoints);
    // Ready ones, and those that end but still serve: the fall-back when none is ready.
    let serves = |e: &&Endpoint| e.conditions.ready.unwrap_or(true) || e.conditions.serving == Some(true);
    is_local.then(|| endpoints().filter(serves).filter_map(|e| e.node_name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::ObjectRef;

    /// Who would announce the same VIP if the announcer were not there.
    fn heir(candidates: &[Candidate]) -> Option<String> {
        let vip: IpAddr = "203.0.113.1".parse().unwrap();
        let given = Allocations::from([(ObjectRef::new("Service", ObjectName::new("default", "web")), vec![vip])]);
        let snapshot = Snapshot::default();
        let choice =
            announcers(candidates, &given, &snapshot, &SliceIndex::new(&snapshot), &Links::new()).remove(&vip)?;
        choice.next.map(str::to_owned)
    }

    fn candidates(names: &[&str]) -> Vec<Candidate> {
        names.iter().map(|n| Candidate { name: (*n).to_owned(), has_proxy: true }).collect()
    }

    fn chosen(candidates: &[Candidate], kind: &str, snapshot: &Snapshot) -> Option<String> {
        let vip: IpAddr = "203.0.113.1".parse().unwrap();
        let object = ObjectRef::new(kind, ObjectName::new("default", "web"));
        let given = Allocations::from([(object, vec![vip])]);
        let choice = announcers(candidates, &given, snapshot, &SliceIndex::new(snapshot), &Links::new()).remove(&vip);
        choice.map(|choice| choice.by.to_owned())
    }

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn node(name: &str, metadata: Value, conditions: Value) -> (String, Arc<Node>) {
        let mut object = json!({"metadata": metadata, "status": {"conditions": conditions}});
        object["metadata"]["name"] = name.into();
        (name.to_owned(), read(object))
    }

    #[test]
    fn s99_exactly_one_of_those_that_live_and_the_same_for_everybody() {
        let snapshot = Snapshot::default();
        let all = candidates(&["a", "b", "c"]);
        let first = chosen(&all, "Service", &snapshot).unwrap();
        let turned: Vec<Candidate> = all.iter().rev().cloned().collect();
        assert_eq!(chosen(&turned, "Service", &snapshot), Some(first.clone()));
        let left: Vec<Candidate> = all.iter().filter(|c| c.name != first).cloned().collect();
        let next = chosen(&left, "Service", &snapshot).unwrap();
        assert_ne!(next, first, "the next one takes over");
        assert_eq!(heir(&all), Some(next), "and is known before");
        assert_eq!(heir(&candidates(&["a"])), None);
        assert_eq!(chosen(&[], "Service", &snapshot), None);
    }

    #[test]
    fn s100_a_node_that_is_to_be_spared_does_not_announce_unless_there_is_no_other() {
        let all = candidates(&["a", "b"]);
        let spared = [
            (json!({"labels": {EXCLUDE: ""}}), json!([])),
            (json!({}), json!([{"type": "Ready", "status": "Unknown"}])),
            (json!({}), json!([{"type": "NetworkUnavailable", "status": "True"}])),
        ];
        for (metadata, conditions) in spared {
            for name in ["a", "b"] {
                let mut snapshot = Snapshot::default();
                snapshot.nodes.extend([node(name, metadata.clone(), conditions.clone())]);
                assert_ne!(chosen(&all, "Service", &snapshot).as_deref(), Some(name));
                assert_eq!(chosen(&candidates(&[name]), "Service", &snapshot).as_deref(), Some(name));
            }
        }
    }

    #[test]
    fn s52_under_policy_local_a_node_with_an_endpoint_announces() {
        let all = candidates(&["a", "b", "c"]);
        let mut snapshot = Snapshot::default();
        let service = json!({"metadata": {"name": "web"}, "spec": {"externalTrafficPolicy": "Local"}});
        snapshot.services.insert(ObjectName::new("default", "web"), read(service));
        for (holder, conditions) in [("a", json!({})), ("c", json!({"ready": false, "serving": true}))] {
            let slice = json!({
                "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
                "endpoints": [
                    {"addresses": ["10.0.0.1"], "nodeName": holder, "conditions": conditions},
                    {"addresses": ["10.0.0.2"], "nodeName": "b", "conditions": {"ready": false}},
                ],
            });
            snapshot.slices.insert(ObjectName::new("default", "web-1"), read(slice));
            assert_eq!(chosen(&all, "Service", &snapshot).as_deref(), Some(holder));
        }
        snapshot.slices.clear();
        assert!(chosen(&all, "Service", &snapshot).is_some(), "without an endpoint somebody still answers");
    }

    #[test]
    fn s151_a_gateway_is_announced_where_the_proxy_takes_connections() {
        let mut all = candidates(&["a", "b"]);
        all[0].has_proxy = false;
        assert_eq!(chosen(&all, "Gateway", &Snapshot::default()).as_deref(), Some("b"));
        all[1].has_proxy = false;
        assert!(chosen(&all, "Gateway", &Snapshot::default()).is_some());
    }
}
