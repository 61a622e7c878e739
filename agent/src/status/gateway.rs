//! What `status` of GatewayClasses, Gateways and routes of every kind should say.
//!
//! In: the object as it is, and the model's report on it. Out: its status with our part as it should be, or `None` when it
//! is so already; all else in it is as it was. Pure. What comes out is written with the revision of the object that went
//! in: `status.parents` and `status.addresses` are atomic lists, and whoever wrote meanwhile must not be overwritten.
//!
//! # Design
//! - We answer for a Gateway that is ours and for nothing else: not for one that does not exist, nor at one of another
//!   class. An entry of ours whose parentRef is gone, or is not ours any more, is removed.
//! - Every condition carries the generation that the model looked at, which may be older than the object's.
//! - An address is added to `status.addresses` once it is programmed and stays there while the Gateway has it.
mod features;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    conditions::{Wanted, merge},
    version::Bundle,
};
use crate::{
    api::{
        Gateway, GatewayClass, ObjectName, RouteKind,
        gateway::{GatewayAddress, GatewayStatus, ListenerStatus, RouteGroupKind},
        gateway_class::GatewayClassStatus,
        route::{ParentRef, Route, RouteParentStatus, RouteStatus},
    },
    model::{
        Model, ObjectRef,
        gateway::{CONTROLLER, class_accepted},
        listener::GROUP,
        report::{Fault, GatewayReport, ListenerReport, ParentReport, RouteReport},
    },
    source::Snapshot,
};

/// The condition of a Gateway whose clients need no valid certificate although one is asked for; absent elsewhere.
const INSECURE: &str = "InsecureFrontendValidationMode";
/// The condition of a Gateway whose annotations are not all understood: it is served by what it had before; absent elsewhere.
const PARAMETERS: &str = "sluice.dev/InvalidParameters";
/// Entries of `status.parents` at most; what does not fit beside those of others is not written. Source: the CRD.
const MAX_PARENTS: usize = 32;

/// The status of a GatewayClass; `None` when it is so already, or the class is not ours.
#[must_use]
pub fn class_status(class: &GatewayClass, bundle: &Bundle, now: &str) -> Option<GatewayClassStatus> {
    if class.spec.controller_name != CONTROLLER {
        return None;
    }
    let accepted = Wanted::of("Accepted", "Accepted", &class_accepted(class));
    let generation = class.metadata.generation;
    // While the version is not known, what was said of it stays.
    let (mut ours, mut wanted) = (vec!["Accepted"], vec![accepted]);
    if let Some(version) = bundle.condition() {
        ours.push(version.type_);
        wanted.push(version);
    }
    let conditions = merge(&class.status.conditions, &ours, &wanted, generation, now);
    let supported_features = features::supported();
    Some(GatewayClassStatus { conditions, supported_features }).filter(|status| *status != class.status)
}

/// The status of a Gateway; `None` when it is so already, or the Gateway is not ours. `nodes` says why the nodes
/// that serve it have not programmed it and read it back, if they have not.
#[must_use]
pub fn gateway_status(
    snapshot: &Snapshot,
    model: &Model,
    name: &ObjectName,
    nodes: Result<(), Fault>,
    now: &str,
) -> Option<GatewayStatus> {
    let gateway = snapshot.gateways.get(name)?;
    let report = model.gateways.get(name)?;
    if gateway.metadata.deletion_timestamp.is_some() || gateway.metadata.uid != report.subject.uid {
        return None;
    }
    let generation = report.subject.generation;
    let accepted = accepted(report);
    let programmed = match &report.addressed {
        _ if !accepted.status => Wanted::fails("Programmed", "Invalid", "the Gateway is not accepted"),
        Err(Fault { reason, message }) => Wanted::fails("Programmed", reason, message.clone()),
        Ok(()) => match nodes {
            Err(Fault { reason, message }) => Wanted::fails("Programmed", reason, message),
            Ok(()) => Wanted::holds("Programmed", "Programmed", ""),
        },
    };
    let mut seen = BTreeSet::new();
    let distinct = report.own().filter(|listener| seen.insert(listener.name.as_str()));
    let listeners =
        distinct.map(|listener| listener_status(&gateway.status.listeners, listener, &programmed, generation, now));
    let listeners = listeners.collect();
    let addresses = addresses(gateway, model, name, programmed.status);
    let mut wanted = vec![accepted, programmed];
    if let Err(Fault { reason, message }) = &report.parameters {
        wanted.push(Wanted::holds(PARAMETERS, reason, message.clone()));
    }
    if report.is_insecure {
        let why = "clients may come without a valid certificate: mode AllowInsecureFallback";
        wanted.push(Wanted::holds(INSECURE, "ConfigurationChanged", why));
    }
    let unresolved = report.own().find(|listener| listener.resolved.is_err());
    wanted.extend(report.resolved.as_ref().map(|resolved| match (resolved, unresolved) {
        (Ok(()), Some(listener)) => {
            let why = format!("listener {:?} refers to what cannot be used; its own conditions say why", listener.name);
            Wanted::fails("ResolvedRefs", "ListenersNotResolved", why)
        }
        (resolved, _) => Wanted::of("ResolvedRefs", "ResolvedRefs", resolved),
    }));
    let ours = ["Accepted", "Programmed", "ResolvedRefs", INSECURE, PARAMETERS];
    let conditions = merge(&gateway.status.conditions, &ours, &wanted, generation, now);
    let attached = report.sets.iter().filter(|set| set.accepted.is_ok()).count();
    // A cluster without the kind may not know the field.
    let knows_sets = gateway.spec.allowed_listeners.is_some() || !report.sets.is_empty();
    let attached_listener_sets = knows_sets.then(|| i64::try_from(attached).unwrap_or(i64::MAX));
    Some(GatewayStatus { addresses, conditions, listeners, attached_listener_sets })
        .filter(|status| *status != gateway.status)
}

/// Why a Gateway is not programmed whose nodes have not said so.
pub(super) fn pending() -> Fault {
    Fault::new("Pending", "it waits for the nodes to program it")
}

/// Why a Gateway is not programmed one of whose addresses another host has.
pub(super) fn contested(conflicts: &[String]) -> Fault {
    Fault::new("AddressNotUsable", conflicts.join("; "))
}

fn accepted(report: &GatewayReport) -> Wanted {
    if let Err(Fault { reason, message }) = &report.accepted {
        return Wanted::fails("Accepted", reason, message.clone());
    }
    let faults = report.own().filter(|l| !l.is_served()).filter_map(|l| {
        let fault = l.accepted.as_ref().err().or(l.resolved.as_ref().err())?;
        Some(fault.clone().at(&format!("listener {:?}", l.name)))
    });
    let message = Fault::join(&faults.collect::<Vec<_>>()).map(|fault| fault.message);
    match message {
        None if report.own().next().is_none() => {
            Wanted::fails("Accepted", "ListenersNotValid", "the Gateway has no listener")
        }
        // Served all the same: the condition of its own says so, and this one for those who look at no other.
        None => {
            let parameters = report.parameters.as_ref().err().map(|fault| fault.message.clone());
            Wanted::holds("Accepted", "Accepted", parameters.unwrap_or_default())
        }
        Some(why) if report.own().any(ListenerReport::is_served) => Wanted::holds("Accepted", "ListenersNotValid", why),
        Some(why) => Wanted::fails("Accepted", "ListenersNotValid", why),
    }
}

/// The status of a listener, of a Gateway or of a ListenerSet. `present` are those that are there.
pub(super) fn listener_status(
    present: &[ListenerStatus],
    report: &ListenerReport,
    whole: &Wanted,
    generation: i64,
    now: &str,
) -> ListenerStatus {
    let conflicted = match &report.conflict {
        Some(Fault { reason, message }) => Wanted::holds("Conflicted", reason, message.clone()),
        None => Wanted::fails("Conflicted", "NoConflicts", ""),
    };
    let programmed = if let Some(Fault { reason, message }) = &report.conflict {
        // As the conformance suite has it, of ListenerSets.
        Wanted::fails("Programmed", reason, message.clone())
    } else if !report.is_served() {
        Wanted::fails("Programmed", "Invalid", "the listener is not served")
    } else if whole.status {
        Wanted::holds("Programmed", "Programmed", "")
    } else {
        Wanted::fails("Programmed", "Pending", whole.message.clone())
    };
    let wanted = [
        Wanted::of("Accepted", "Accepted", &report.accepted),
        conflicted,
        Wanted::of("ResolvedRefs", "ResolvedRefs", &report.resolved),
        programmed,
    ];
    let ours = wanted.each_ref().map(|w| w.type_);
    let present = present.iter().find(|l| l.name == report.name);
    let present = present.map(|l| l.conditions.as_slice()).unwrap_or_default();
    let kind = |kind: &RouteKind| RouteGroupKind { group: Some(GROUP.to_owned()), kind: kind.name().to_owned() };
    ListenerStatus {
        name: report.name.clone(),
        supported_kinds: report.kinds.iter().map(kind).collect(),
        attached_routes: i64::try_from(report.attached).unwrap_or(i64::MAX),
        conditions: merge(present, &ours, &wanted, generation, now),
    }
}

/// The addresses that it has: all of them when they are programmed, else those that were shown before.
fn addresses(gateway: &Gateway, model: &Model, name: &ObjectName, is_programmed: bool) -> Vec<GatewayAddress> {
    let has = model.allocations.get(&ObjectRef::new("Gateway", name.clone())).map(Vec::as_slice).unwrap_or_default();
    let shown = &gateway.status.addresses;
    let is_shown = |addr: &&std::net::IpAddr| {
        is_programmed || shown.iter().any(|a| a.value.as_ref().is_some_and(|value| value.parse() == Ok(**addr)))
    };
    let address =
        |addr: &std::net::IpAddr| GatewayAddress { kind: Some("IPAddress".to_owned()), value: Some(addr.to_string()) };
    has.iter().filter(is_shown).map(address).collect()
}

/// The status of a route; `None` when it is so already. One that names no Gateway of ours keeps no entry of ours.
#[must_use]
pub fn route_status<T: Route>(route: &T, model: &Model, name: &ObjectName, now: &str) -> Option<RouteStatus> {
    let report = model.routes.get(&(T::ROUTE, name.clone()));
    let (metadata, status) = (route.metadata(), route.status());
    if metadata.deletion_timestamp.is_some() || report.is_some_and(|r| r.subject.uid != metadata.uid) {
        return None;
    }
    let mut left: Vec<(Key<'_>, &ParentReport)> = Vec::new();
    for parent in report.iter().flat_map(|report| &report.parents) {
        let key = key(&parent.parent, name);
        if left.iter().all(|(known, _)| *known != key) {
            left.push((key, parent));
        }
    }
    let mut parents = Vec::with_capacity(status.parents.len() + left.len());
    for value in &status.parents {
        if value.get("controllerName").and_then(Value::as_str) != Some(CONTROLLER) {
            parents.push(value.clone());
            continue;
        }
        let Ok(present) = serde_json::from_value::<RouteParentStatus>(value.clone()) else { continue };
        let found = left.iter().position(|(known, _)| *known == key(&present.parent_ref, name));
        if let (Some(at), Some(report)) = (found, report) {
            parents.extend(parent_status(report, left.remove(at).1, &present, now));
        }
    }
    let room = MAX_PARENTS.saturating_sub(parents.len());
    let missing = left
        .into_iter()
        .take(room)
        .filter_map(|(_, parent)| parent_status(report?, parent, &RouteParentStatus::default(), now));
    parents.extend(missing);
    Some(RouteStatus { parents }).filter(|new| new != status)
}

/// What a parentRef means: group, kind, namespace, name, section, port.
type Key<'a> = (&'a str, &'a str, &'a str, &'a str, Option<&'a str>, Option<i64>);

fn key<'a>(parent: &'a ParentRef, route: &'a ObjectName) -> Key<'a> {
    let ParentRef { group, kind, namespace, name, section_name, port } = parent;
    (
        group.as_deref().unwrap_or(GROUP),
        kind.as_deref().unwrap_or("Gateway"),
        namespace.as_deref().unwrap_or(&route.ns),
        name,
        section_name.as_deref(),
        *port,
    )
}

/// Our entry for one parent, as the API server stores it.
fn parent_status(report: &RouteReport, parent: &ParentReport, present: &RouteParentStatus, now: &str) -> Option<Value> {
    let mut wanted = vec![
        Wanted::of("Accepted", "Accepted", &parent.accepted),
        Wanted::of("ResolvedRefs", "ResolvedRefs", &report.resolved),
    ];
    if let Some(Fault { reason: _, message }) = &report.partial
        && parent.accepted.is_ok()
    {
        let message = format!("Dropped Rule, in whole or in part: {message}");
        wanted.push(Wanted::holds("PartiallyInvalid", "UnsupportedValue", message));
    }
    let ours = ["Accepted", "ResolvedRefs", "PartiallyInvalid"];
    let ParentRef { group, kind, .. } = parent.parent.clone();
    let status = RouteParentStatus {
        parent_ref: ParentRef {
            group: group.or_else(|| Some(GROUP.to_owned())),
            kind: kind.or_else(|| Some("Gateway".to_owned())),
            ..parent.parent.clone()
        },
        controller_name: CONTROLLER.to_owned(),
        conditions: merge(&present.conditions, &ours, &wanted, report.subject.generation, now),
    };
    // Text and numbers alone: this cannot fail.
    serde_json::to_value(status).ok()
}
