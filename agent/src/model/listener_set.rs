//! ListenerSets -> the listeners of a Gateway, its own first, and why a set is not attached.
//!
//! In: a Gateway that is ours, and all sets. Out: [`merged`], the one list that routes attach to and that is served; the
//! sets of each Gateway with their faults ([`Sets`]).
//!
//! # Design
//! Precedence is the order of the list: the Gateway's own listeners, then the oldest set's, then by namespace and name. Among
//! the Gateway's own no party to a conflict wins; a set's listener that conflicts with one before it is the one that loses.
//! What a set is told of a listener that it conflicts with names the port alone: it may be another tenant's.
//! Source: `ListenerSetSpec.listeners`.
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::{
    gateway,
    listener::{AllowedNamespaces, GROUP, Ports, Served},
    report::Fault,
};
use crate::{
    api::{Gateway, ListenerSet, ObjectName, gateway::Listener},
    source::Snapshot,
};

/// The sets that name each Gateway, in the order of precedence.
pub type Sets<'a> = BTreeMap<ObjectName, Vec<Set<'a>>>;

/// A set that names a Gateway of ours.
#[derive(Debug)]
pub struct Set<'a> {
    /// Its name.
    pub name: &'a ObjectName,
    /// As written.
    pub spec: &'a ListenerSet,
    /// Whether the Gateway lets it in.
    pub allowed: Result<(), Fault>,
}

/// The Gateway that a set names; `None` where it names something else.
#[must_use]
pub fn parent(name: &ObjectName, set: &ListenerSet) -> Option<ObjectName> {
    let parent = &set.spec.parent_ref;
    let is_gateway =
        parent.kind.as_deref().unwrap_or("Gateway") == "Gateway" && parent.group.as_deref().unwrap_or(GROUP) == GROUP;
    is_gateway.then(|| ObjectName::new(parent.namespace.as_deref().unwrap_or(&name.ns), &parent.name))
}

/// The sets of the Gateways that are ours.
#[must_use]
pub fn sets(snapshot: &Snapshot) -> Sets<'_> {
    let mut sets = Sets::new();
    for (name, set) in snapshot.listener_sets.iter().filter(|(_, set)| set.metadata.deletion_timestamp.is_none()) {
        let Some(parent) = parent(name, set) else { continue };
        let Some(gateway) = snapshot.gateways.get(&parent).filter(|gateway| gateway::is_ours(snapshot, gateway)) else {
            continue;
        };
        let allowed = allowed(snapshot, gateway, name);
        sets.entry(parent).or_default().push(Set { name, spec: set, allowed });
    }
    for of_gateway in sets.values_mut() {
        of_gateway.sort_by_key(|set| (set.spec.metadata.creation_timestamp.as_deref(), set.name));
    }
    sets
}

fn allowed(snapshot: &Snapshot, gateway: &Gateway, set: &ObjectName) -> Result<(), Fault> {
    let name = gateway.metadata.object_name();
    let allowed = gateway.spec.allowed_listeners.as_ref().map_or(Ok(AllowedNamespaces::None), |allowed| {
        AllowedNamespaces::of(&allowed.namespaces, "allowedListeners", AllowedNamespaces::None)
    });
    match allowed {
        Ok(allowed) if allowed.admit(snapshot, &name.ns, &set.ns) => Ok(()),
        Ok(_) => {
            let why = format!("Gateway {name} allows no ListenerSets from namespace {:?} (allowedListeners)", set.ns);
            Err(Fault::new("NotAllowed", why))
        }
        Err(fault) => Err(Fault::new("NotAllowed", format!("Gateway {name}: {}", fault.message))),
    }
}

/// The listeners of a Gateway: its own, then those of the sets that it lets in.
#[must_use]
pub fn merged(gateway: &Gateway, sets: Option<&Vec<Set<'_>>>) -> Vec<Served> {
    let mut all = Served::all(gateway);
    let mut before = Ports::default();
    gateway.spec.listeners.iter().for_each(|spec| before.add(spec));
    for set in sets.into_iter().flatten().filter(|set| set.allowed.is_ok()) {
        for spec in &set.spec.spec.listeners {
            let served = Served::of_set(spec, set.name, &before);
            // One that lost takes nothing from those after it.
            if served.conflict.is_none() {
                before.add(spec);
            }
            all.push(served);
        }
    }
    all
}

/// The ports and protocols that a Gateway's listeners ask for, those of its sets among them.
pub fn specs<'a>(gateway: &'a Gateway, sets: Option<&'a Vec<Set<'a>>>) -> impl Iterator<Item = &'a Listener> {
    let of_sets = sets.into_iter().flatten().filter(|set| set.allowed.is_ok());
    gateway.spec.listeners.iter().chain(of_sets.flat_map(|set| &set.spec.spec.listeners))
}
