//! HTTPRoutes -> entries of the listeners they attach to, in the order in which they are tried.
//!
//! A parent is answered by the first of these that leaves no listener: `NoMatchingParent` (name and port),
//! `NotAllowedByListeners` (kind and namespace), `NoMatchingListenerHostname`. Rules are compiled by `model::rule`.
//!
//! Order: the most specific host name as the route has it, then the match's rank, then the oldest route, then the
//! lesser namespace/name, then the first rule. Source: `HTTPRouteRule.matches` and `HTTPRoute.spec.hostnames`.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Backend, Model, Node, ObjectRef, Outcome, Verdict,
    endpoints::{self, Family, SliceIndex},
    gateway::{CLASS, GROUP, Listeners, Served},
    http::{Action, Hostname, HttpEntry, ServicePort, Share, ShareTarget},
    rule::{self, CompiledRule, Fault},
};
use crate::{
    api::{Gateway, HttpRoute, ObjectName, http_route::ParentRef},
    source::Snapshot,
};

/// Attaches every route, adds its verdict, and returns the backends of the Service ports that rules name.
pub fn attach(
    snapshot: &Snapshot,
    slices: &SliceIndex,
    node: &Node,
    listeners: &mut Listeners<'_>,
    model: &mut Model,
) -> BTreeMap<ServicePort, Vec<Backend>> {
    for (name, route) in by_age(snapshot) {
        let verdict = attach_one(snapshot, name, route, listeners);
        model.judge(ObjectRef::new("HTTPRoute", name.clone()), verdict);
    }
    let mut services = BTreeMap::new();
    for served in listeners.values_mut().flatten() {
        // Stable: what is equally specific stays in the order of age, name, rule.
        served.entries.sort_by(|a, b| {
            a.hostname.by_specificity(&b.hostname).then_with(|| a.matches.rank().cmp(&b.matches.rank()))
        });
        for entry in &served.entries {
            let Action::Forward(shares) = &entry.rule.action else { continue };
            for Share { to, .. } in shares {
                if let ShareTarget::Service(port) = to
                    && !services.contains_key(port)
                {
                    services.insert(port.clone(), backends(snapshot, slices, node, port));
                }
            }
        }
    }
    services
}

/// Oldest first; what has no age is older than everything.
fn by_age(snapshot: &Snapshot) -> Vec<(&ObjectName, &Arc<HttpRoute>)> {
    let mut routes: Vec<_> = snapshot.http_routes.iter().collect();
    routes.sort_by_key(|(name, route)| (route.metadata.creation_timestamp.as_deref(), *name));
    routes
}

/// The backends of a Service port that a rule names.
pub(super) fn backends(snapshot: &Snapshot, slices: &SliceIndex, node: &Node, port: &ServicePort) -> Vec<Backend> {
    let Some(service) = snapshot.services.get(&port.service) else { return Vec::new() };
    let Some(found) = rule::service_port(service, port.port) else { return Vec::new() };
    endpoints::select(slices, service, &found.name, Family::Any, node).cluster
}

/// What a parent answers.
enum Parent {
    /// The route is attached to these listeners.
    Attached(Vec<usize>),
    /// Not ours to answer for.
    Foreign,
    /// Nothing is attached: reason and message.
    No(&'static str, String),
}

fn attach_one(snapshot: &Snapshot, name: &ObjectName, route: &HttpRoute, listeners: &mut Listeners<'_>) -> Verdict {
    let mut faults: Vec<Fault> = Vec::new();
    let hostnames = hostnames(route, &mut faults);
    let mut targets: BTreeSet<(ObjectName, usize)> = BTreeSet::new();
    let mut foreign = 0;
    for parent in &route.spec.parent_refs {
        let gateway = ObjectName::new(parent.namespace.as_deref().unwrap_or(&name.ns), &parent.name);
        match ask(parent, &gateway, snapshot.gateways.get(&gateway).map(Arc::as_ref), listeners, name, &hostnames) {
            Parent::Attached(indices) => targets.extend(indices.into_iter().map(|i| (gateway.clone(), i))),
            Parent::Foreign => foreign += 1,
            Parent::No(reason, message) => faults.push(Fault { reason, message }),
        }
    }
    if foreign == route.spec.parent_refs.len() {
        let messages = vec!["no parentRef names a Gateway of ours".to_owned()];
        return Verdict { outcome: Outcome::Ignored, reason: "NoMatchingParent", messages };
    }
    let rules = rule::compile(snapshot, name, route, &mut faults);
    let attached = !targets.is_empty();
    for (gateway, index) in targets {
        if let Some(served) = listeners.get_mut(&gateway).and_then(|all| all.get_mut(index)) {
            add(served, &hostnames, &rules);
        }
    }
    let outcome = match (attached, faults.is_empty()) {
        (true, true) => Outcome::Accepted,
        (true, false) => Outcome::Partial,
        (false, _) => Outcome::Refused,
    };
    let reason = faults.first().map_or("Accepted", |f| f.reason);
    Verdict { outcome, reason, messages: faults.into_iter().map(|f| f.message).collect() }
}

/// The route's host names; [`Hostname::Any`] when it has none, nothing when none of those it has is a host name.
fn hostnames(route: &HttpRoute, faults: &mut Vec<Fault>) -> Vec<Hostname> {
    if route.spec.hostnames.is_empty() {
        return vec![Hostname::Any];
    }
    let mut out = Vec::new();
    for text in &route.spec.hostnames {
        match Hostname::try_new(text) {
            Some(name) if out.contains(&name) => {}
            Some(name) => out.push(name),
            None => faults.push(Fault {
                reason: "UnsupportedValue",
                message: format!("hostname {text:?} is neither a DNS name nor \"*.\" and one"),
            }),
        }
    }
    out
}

fn ask(
    parent: &ParentRef,
    name: &ObjectName,
    gateway: Option<&Gateway>,
    listeners: &Listeners<'_>,
    route: &ObjectName,
    hostnames: &[Hostname],
) -> Parent {
    if parent.kind.as_deref().unwrap_or("Gateway") != "Gateway" || parent.group.as_deref().unwrap_or(GROUP) != GROUP {
        return Parent::Foreign;
    }
    let Some(gateway) = gateway else {
        return Parent::No("NoMatchingParent", format!("Gateway {name} does not exist"));
    };
    let Some(all) = listeners.get(name).filter(|_| gateway.spec.gateway_class_name == CLASS) else {
        return Parent::Foreign;
    };
    let named = |s: &Served<'_>| {
        parent.section_name.as_deref().is_none_or(|n| n == s.spec.name) && parent.port.is_none_or(|p| p == s.spec.port)
    };
    let mut left: Vec<usize> = (0..all.len()).filter(|&i| named(&all[i])).collect();
    if left.is_empty() {
        let section = parent.section_name.iter().map(|n| format!(" named {n:?}"));
        let port = parent.port.iter().map(|p| format!(" on port {p}"));
        let which: String = section.chain(port).collect();
        return Parent::No("NoMatchingParent", format!("Gateway {name} has no listener{which}"));
    }
    if left.iter().all(|&i| all[i].state.is_err()) {
        let why: Vec<String> = left.iter().filter_map(|&i| Some(all[i].state.as_ref().err()?.1.clone())).collect();
        return Parent::No(
            "NotAllowedByListeners",
            format!("Gateway {name} serves no such listener: {}", why.join("; ")),
        );
    }
    left.retain(|&i| all[i].state.as_ref().is_ok_and(|open| open.all_namespaces || route.ns == name.ns));
    if left.is_empty() {
        let why = format!("Gateway {name} does not allow routes from namespace {:?}", route.ns);
        return Parent::No("NotAllowedByListeners", why);
    }
    left.retain(|&i| all[i].state.as_ref().is_ok_and(|open| hostnames.iter().any(|h| h.intersects(&open.hostname))));
    if left.is_empty() {
        let why = format!("no hostname of the route fits a listener of Gateway {name}");
        return Parent::No("NoMatchingListenerHostname", why);
    }
    Parent::Attached(left)
}

/// Adds a route's rules to a listener, under each host name that both have.
fn add(served: &mut Served<'_>, hostnames: &[Hostname], rules: &[CompiledRule]) {
    let Ok(open) = &served.state else { return };
    for CompiledRule { matches, rule } in rules {
        for hostname in hostnames.iter().filter(|h| h.intersects(&open.hostname)) {
            served.entries.extend(matches.iter().map(|matches| HttpEntry {
                hostname: hostname.clone(),
                matches: Arc::clone(matches),
                rule: Arc::clone(rule),
            }));
        }
    }
}
