//! What `status` of policies should say: what each Gateway of ours answers whose routes name what a policy is for.
//!
//! In: the policy as it is, and the model's report on it. Out: its status with our entries as they should be, or `None` when it is so
//! already. Pure. `status.ancestors` is an atomic list: what others have written in it is written back as it is, and the write
//! carries the revision that it was read at.
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

use super::conditions::{Wanted, merge};
use crate::{
    api::{
        Kind, ObjectName, Policy,
        policy::{PolicyAncestorStatus, PolicyStatus},
        route::ParentRef,
    },
    model::{Model, ObjectRef, gateway::CONTROLLER, listener::GROUP, mesh, policy::PolicyReport},
};

/// Entries of `status.ancestors` at most; what does not fit beside those of others is not written. Source: the CRD.
const MAX_ANCESTORS: usize = 16;

/// The status of a policy; `None` when it is so already. One that no Gateway of ours obeys keeps no entry of ours.
#[must_use]
pub fn policy_status<T: Policy>(policy: &T, model: &Model, name: &ObjectName, now: &str) -> Option<PolicyStatus> {
    let report = model.policies.get(&ObjectRef::new(<T as Kind>::KIND, name.clone()));
    let (metadata, status) = (policy.metadata(), policy.status());
    if metadata.deletion_timestamp.is_some() || report.is_some_and(|r| r.subject.uid != metadata.uid) {
        return None;
    }
    let mut left: BTreeSet<&ObjectName> = report.iter().flat_map(|report| &report.ancestors).collect();
    let mut ancestors = Vec::with_capacity(status.ancestors.len() + left.len());
    for value in &status.ancestors {
        if value.get("controllerName").and_then(Value::as_str) != Some(CONTROLLER) {
            ancestors.push(value.clone());
            continue;
        }
        let Ok(present) = serde_json::from_value::<PolicyAncestorStatus>(value.clone()) else { continue };
        let gateway = gateway(&present.ancestor_ref, name);
        if let Some(report) = report
            && let Some(gateway) = gateway.filter(|gateway| left.remove(gateway))
        {
            ancestors.extend(entry(report, &gateway, &present, now));
        }
    }
    let room = MAX_ANCESTORS.saturating_sub(ancestors.len());
    let missing = left.into_iter().take(room);
    ancestors.extend(missing.filter_map(|gateway| entry(report?, gateway, &PolicyAncestorStatus::default(), now)));
    Some(PolicyStatus { ancestors }).filter(|new| new != status)
}

/// The Gateway, or the Service among them, that an entry of ours speaks of; `None` where it speaks of something else.
fn gateway(ancestor: &ParentRef, policy: &ObjectName) -> Option<ObjectName> {
    let ParentRef { group, kind, namespace, name, section_name, port } = ancestor;
    let named = ObjectName::new(namespace.as_deref().unwrap_or(&policy.ns), name);
    let is_whole = section_name.is_none() && port.is_none();
    match (group.as_deref().unwrap_or(GROUP), kind.as_deref().unwrap_or("Gateway")) {
        (GROUP, "Gateway") if is_whole => Some(named),
        ("", "Service") if is_whole => Some(mesh::owner(&named)),
        _ => None,
    }
}

/// Our entry for one Gateway, as the API server stores it.
fn entry(report: &PolicyReport, gateway: &ObjectName, present: &PolicyAncestorStatus, now: &str) -> Option<Value> {
    let mut wanted = vec![Wanted::of("Accepted", "Accepted", &report.accepted)];
    wanted.extend(report.resolved.iter().map(|resolved| Wanted::of("ResolvedRefs", "ResolvedRefs", resolved)));
    let service = mesh::service_of(gateway);
    let (group, kind) = if service.is_some() { ("", "Service") } else { (GROUP, "Gateway") };
    let ancestor = service.unwrap_or_else(|| gateway.clone());
    let status = PolicyAncestorStatus {
        ancestor_ref: ParentRef {
            group: Some(group.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(ancestor.ns),
            name: ancestor.name,
            section_name: None,
            port: None,
        },
        controller_name: CONTROLLER.to_owned(),
        conditions: merge(&present.conditions, &["Accepted", "ResolvedRefs"], &wanted, report.subject.generation, now),
    };
    // Text and numbers alone: this cannot fail.
    serde_json::to_value(status).ok()
}
