//! A Service for each Gateway that carries `spec.infrastructure`: what is to be created and changed.
//!
//! In: the Gateways that are ours, the Services that are there. Out: one write for each Service of ours that is not as it
//! should be. Pure. What has the name of one and is not ours is left alone.
//!
//! # Design
//! - Gateways have no pods and no Service of their own here, but tools find what belongs to a Gateway by the label
//!   [`GATEWAY_LABEL`], and labels and annotations of `spec.infrastructure` are made for them. The object is a headless Service
//!   without selector and ports: it has no address, nothing programs it, no name resolves to it, and Services are read already.
//! - It belongs to the Gateway and goes with it. It is made for Gateways that ask for labels or annotations, and kept.
//! - Whoever adds labels or annotations to it keeps them: those that are ours are listed in [`APPLIED`], so that what the
//!   Gateway does not want any more is taken away, and nothing else.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{openshift::MANAGED_LABEL, write::Write};
use crate::{
    api::{Gateway, Kind, ObjectMeta, ObjectName, Service},
    model::Model,
    source::Snapshot,
};

/// The label that names the Gateway. Source: `GatewayNameLabelKey` of the Gateway API, GEP-1762.
pub const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// The annotation that lists which labels and annotations are ours.
pub const APPLIED: &str = "sluice.dev/infrastructure";

/// How long the name of a Service may be, and the value of a label.
const NAME_LIMIT: usize = 63;
/// What names of ours begin with.
const PREFIX: &str = "sluice-";

/// Every write that is due.
#[must_use]
pub fn plan(snapshot: &Snapshot, model: &Model) -> Vec<Write> {
    let ours = snapshot
        .gateways
        .iter()
        .filter(|(name, gateway)| model.gateways.contains_key(name) && gateway.metadata.deletion_timestamp.is_none());
    ours.filter_map(|(_, gateway)| of_gateway(snapshot, gateway)).collect()
}

fn of_gateway(snapshot: &Snapshot, gateway: &Gateway) -> Option<Write> {
    let name = service_name(gateway);
    let present = snapshot.services.get(&name);
    let asks = !gateway.spec.infrastructure.labels.is_empty() || !gateway.spec.infrastructure.annotations.is_empty();
    match present {
        None if asks => Some(create(gateway, name)),
        Some(present) if is_ours(present, gateway) => changed(gateway, present),
        _ => None,
    }
}

/// Whether a Service was made for this Gateway, and not for one of the same name before it.
fn is_ours(service: &Service, gateway: &Gateway) -> bool {
    let metadata = &service.metadata;
    metadata.labels.get(MANAGED_LABEL).is_some_and(|managed| managed == "true")
        && metadata.owner_references.iter().any(|owner| owner.uid == gateway.metadata.uid)
}

fn labels(gateway: &Gateway) -> BTreeMap<String, String> {
    let mut labels = gateway.spec.infrastructure.labels.clone();
    let name = bounded(&gateway.metadata.name, &gateway.metadata.name, NAME_LIMIT);
    labels.insert(GATEWAY_LABEL.to_owned(), name);
    labels.insert(MANAGED_LABEL.to_owned(), "true".to_owned());
    labels
}

/// Those that are asked for, and the list of what is ours.
fn annotations(gateway: &Gateway) -> BTreeMap<String, String> {
    let infrastructure = &gateway.spec.infrastructure;
    let mut annotations = infrastructure.annotations.clone();
    annotations.remove(APPLIED);
    let keys = |map: &BTreeMap<String, String>| map.keys().cloned().collect::<Vec<_>>();
    let list = json!({ "labels": keys(&infrastructure.labels), "annotations": keys(&annotations) });
    annotations.insert(APPLIED.to_owned(), list.to_string());
    annotations
}

fn create(gateway: &Gateway, name: ObjectName) -> Write {
    let metadata = ObjectMeta { name: name.name, namespace: name.ns, ..ObjectMeta::default() };
    let ObjectMeta { name: owner, uid, .. } = &gateway.metadata;
    let api = format!("{}/{}", Gateway::GROUP, Gateway::VERSION);
    let body = json!({
        "apiVersion": Service::VERSION,
        "kind": Service::KIND,
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": labels(gateway),
            "annotations": annotations(gateway),
            "ownerReferences": [{ "apiVersion": api, "kind": Gateway::KIND, "name": owner, "uid": uid, "controller": true }],
        },
        "spec": { "type": "ClusterIP", "clusterIP": "None" },
    });
    Write::create::<Service>(&metadata, body)
}

/// The change of a Service that is there, if it is not as it should be.
fn changed(gateway: &Gateway, present: &Service) -> Option<Write> {
    let applied = present.metadata.annotations.get(APPLIED).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let before = |field: &str| {
        let keys = applied.as_ref().and_then(|all| all[field].as_array());
        keys.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let labels = patch(&present.metadata.labels, &labels(gateway), before("labels"));
    let annotations = patch(&present.metadata.annotations, &annotations(gateway), before("annotations"));
    if labels.is_empty() && annotations.is_empty() {
        return None;
    }
    let body = json!({ "metadata": { "labels": labels, "annotations": annotations } });
    Some(Write::new::<Service>(&present.metadata, None, body))
}

/// What makes of a map one that has what is wanted, and nothing of what was ours before and is not wanted.
fn patch(
    present: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
    before: BTreeSet<String>,
) -> Map<String, Value> {
    let set = wanted.iter().filter(|(key, value)| present.get(*key) != Some(value));
    let gone = before.into_iter().filter(|key| present.contains_key(key) && !wanted.contains_key(key));
    let set = set.map(|(key, value)| (key.clone(), json!(value)));
    set.chain(gone.map(|key| (key, Value::Null))).collect()
}

/// The name of a Gateway's Service: a label of DNS, whatever the name of the Gateway is.
fn service_name(gateway: &Gateway) -> ObjectName {
    let ObjectMeta { name, namespace, .. } = &gateway.metadata;
    let label = name.replace('.', "-");
    ObjectName::new(namespace, format!("{PREFIX}{}", bounded(&label, name, NAME_LIMIT - PREFIX.len())))
}

/// A text of bounded length for a name: what is not the name itself ends with a hash of it.
fn bounded(text: &str, name: &str, limit: usize) -> String {
    if text == name && text.len() <= limit {
        return text.to_owned();
    }
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let room = limit - "-".len() - 8;
    let start: String = text.chars().take(room).collect();
    format!("{}-{hash:08x}", start.trim_end_matches(['-', '.']))
}

#[cfg(test)]
mod tests;
