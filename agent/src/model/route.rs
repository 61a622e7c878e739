//! HTTPRoutes -> entries of the listeners they attach to, in the order in which they are tried.
//!
//! A parent is answered by the first of these that leaves no listener: `NoMatchingParent` (name and port),
//! `NotAllowedByListeners` (kind and namespace), `NoMatchingListenerHostname`. The route is attached to those that are
//! left, and its rules are added to those among them that are served. Rules are compiled by `model::rule`.
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
    gateway::Listeners,
    http::{Action, Hostname, HttpEntry, ServicePort, Share, ShareTarget},
    listener::{GROUP, Served},
    report::{Fault, ParentReport, RouteReport, RouteReports, Subject},
    rule::{self, About, CompiledRule, Faults, World},
    service::Targets,
};
use crate::{
    api::{HttpRoute, ObjectName, http_route::ParentRef},
    source::Snapshot,
};

/// Sentences about endpoints that no request may go to, by the Service port that rules name.
pub(super) type Skipped = BTreeMap<ServicePort, Vec<String>>;

/// What is behind the Service ports that rules name.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    /// The backends of each.
    pub backends: BTreeMap<ServicePort, Vec<Backend>>,
    /// What is not among them; ports without such endpoints are left out.
    pub(super) skipped: Skipped,
}

/// Attaches every route, adds its verdict and report, and returns what is behind the Service ports that rules name.
pub(super) fn attach(
    snapshot: &Snapshot,
    (slices, targets): (&SliceIndex, &Targets),
    node: &Node,
    listeners: &mut Listeners<'_>,
    model: &mut Model,
) -> Clusters {
    let mut reports = RouteReports::new();
    let world = World::of(snapshot);
    for (name, route) in by_age(snapshot) {
        let (verdict, report) = attach_one(&world, name, route, listeners);
        model.judge(ObjectRef::new("HTTPRoute", name.clone()), verdict);
        if !report.parents.is_empty() {
            reports.insert(name.clone(), report);
        }
    }
    model.routes = Arc::new(reports);
    let mut clusters = Clusters::default();
    let mut remarks: BTreeMap<ObjectName, BTreeSet<String>> = BTreeMap::new();
    for served in listeners.values_mut().flatten() {
        // Stable: what is equally specific stays in the order of age, name, rule.
        served.entries.sort_by(|a, b| {
            a.hostname.by_specificity(&b.hostname).then_with(|| a.matches.rank().cmp(&b.matches.rank()))
        });
        for entry in &served.entries {
            let Action::Forward(shares) = &entry.rule.action else { continue };
            for Share { to, .. } in shares {
                let ShareTarget::Service(port) = to else { continue };
                if !clusters.backends.contains_key(port) {
                    let (backends, skipped) = backends(snapshot, (slices, targets), node, port);
                    clusters.backends.insert(port.clone(), backends);
                    if !skipped.is_empty() {
                        clusters.skipped.insert(port.clone(), skipped);
                    }
                }
                if let Some(skipped) = clusters.skipped.get(port) {
                    let said = remarks.entry(entry.rule.route.clone()).or_default();
                    said.extend(skipped.iter().map(|sentence| format!("Service {port}: {sentence}")));
                }
            }
        }
    }
    for (route, sentences) in remarks {
        let object = ObjectRef::new("HTTPRoute", route);
        if let Some(mut verdict) = model.verdicts.get(&object).cloned() {
            verdict.messages.extend(sentences);
            model.judge(object, verdict);
        }
    }
    clusters
}

/// Oldest first; what has no age is older than everything.
fn by_age(snapshot: &Snapshot) -> Vec<(&ObjectName, &Arc<HttpRoute>)> {
    let mut routes: Vec<_> = snapshot.http_routes.iter().collect();
    routes.sort_by_key(|(name, route)| (route.metadata.creation_timestamp.as_deref(), *name));
    routes
}

/// The backends of a Service port that a rule names, and sentences about endpoints that are none: addresses of ours, from
/// where a request would come back.
pub(super) fn backends(
    snapshot: &Snapshot,
    (slices, targets): (&SliceIndex, &Targets),
    node: &Node,
    port: &ServicePort,
) -> (Vec<Backend>, Vec<String>) {
    let Some(service) = snapshot.services.get(&port.service) else { return (Vec::new(), Vec::new()) };
    let Some(found) = rule::service_port(service, port.port) else { return (Vec::new(), Vec::new()) };
    let mut selected = endpoints::select(slices, service, &found.name, Family::Any, node);
    selected.exclude(|backend| targets.has_vip(backend.addr, backend.port));
    (selected.cluster, selected.skipped)
}

/// What a parent answers.
enum Parent {
    /// One of its listeners at least is served; the route is attached to these.
    Attached(Vec<usize>),
    /// Not ours to answer for.
    Foreign,
    /// Nobody's, so that nobody answers.
    Missing(Fault),
    /// Nothing of it is served; to these listeners the route is attached nevertheless.
    No(Fault, Vec<usize>),
}

fn attach_one(
    world: &World<'_>,
    name: &ObjectName,
    route: &HttpRoute,
    listeners: &mut Listeners<'_>,
) -> (Verdict, RouteReport) {
    let mut faults = Faults::new();
    let hostnames = hostnames(route, &mut faults);
    let mut targets: BTreeSet<(ObjectName, usize)> = BTreeSet::new();
    let (mut parents, mut foreign, mut served) = (Vec::new(), 0, false);
    for parent in &route.spec.parent_refs {
        let gateway = ObjectName::new(parent.namespace.as_deref().unwrap_or(&name.ns), &parent.name);
        let (attached, accepted) = match ask(world.snapshot, parent, &gateway, listeners, name, &hostnames) {
            Parent::Attached(indices) => (indices, Ok(())),
            Parent::No(fault, indices) => (indices, Err(fault)),
            Parent::Missing(fault) => {
                faults.push((About::Parent, fault));
                continue;
            }
            Parent::Foreign => {
                foreign += 1;
                continue;
            }
        };
        served |= accepted.is_ok();
        faults.extend(accepted.clone().err().map(|fault| (About::Parent, fault)));
        targets.extend(attached.into_iter().map(|i| (gateway.clone(), i)));
        parents.push(ParentReport { parent: parent.clone(), accepted });
    }
    let subject = Subject::of(&route.metadata);
    if foreign == route.spec.parent_refs.len() {
        let messages = vec!["no parentRef names a Gateway of ours".to_owned()];
        let verdict = Verdict { outcome: Outcome::Ignored, reason: "NoMatchingParent", messages };
        return (verdict, RouteReport { subject, resolved: Ok(()), partial: None, parents });
    }
    let rules = rule::compile(world, name, route, &mut faults);
    for (gateway, index) in targets {
        if let Some(served) = listeners.get_mut(&gateway).and_then(|all| all.get_mut(index)) {
            served.attached += 1;
            add(served, &hostnames, &rules);
        }
    }
    let report = report(subject, parents, hostnames.len(), rules.len(), &faults);
    let outcome = match (served, faults.is_empty()) {
        (true, true) => Outcome::Accepted,
        (true, false) => Outcome::Partial,
        (false, _) => Outcome::Refused,
    };
    let reason = faults.first().map_or("Accepted", |(_, f)| f.reason);
    (Verdict { outcome, reason, messages: faults.into_iter().map(|(_, f)| f.message).collect() }, report)
}

/// Sorts what is not obeyed into conditions: references apart; a route of which nothing is obeyed is not accepted, one of
/// which a part is not is partially invalid.
fn report(
    subject: Subject,
    mut parents: Vec<ParentReport>,
    hostnames: usize,
    rules: usize,
    faults: &Faults,
) -> RouteReport {
    let (mut of_backends, mut own, mut bad_rules) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (about, fault) in faults {
        match about {
            About::Parent => {}
            About::Backend => of_backends.push(fault),
            About::Hostname => own.push(fault),
            About::Rule(index) => {
                own.push(fault);
                bad_rules.insert(*index);
            }
        }
    }
    let resolved = Fault::join(of_backends).map_or(Ok(()), Err);
    let mut partial = Fault::join(own);
    if (hostnames == 0 || bad_rules.len() == rules)
        && let Some(fault) = partial.take()
    {
        for parent in parents.iter_mut().filter(|parent| parent.accepted.is_ok()) {
            parent.accepted = Err(fault.clone());
        }
    }
    RouteReport { subject, resolved, partial, parents }
}

/// The route's host names; [`Hostname::Any`] when it has none, nothing when none of those it has is a host name.
fn hostnames(route: &HttpRoute, faults: &mut Faults) -> Vec<Hostname> {
    if route.spec.hostnames.is_empty() {
        return vec![Hostname::Any];
    }
    let mut out = Vec::new();
    for text in &route.spec.hostnames {
        match Hostname::try_new(text) {
            Some(name) if out.contains(&name) => {}
            Some(name) => out.push(name),
            None => {
                let why = format!("hostname {text:?} is neither a DNS name nor \"*.\" and one");
                faults.push((About::Hostname, Fault::new("UnsupportedValue", why)));
            }
        }
    }
    out
}

fn ask(
    snapshot: &Snapshot,
    parent: &ParentRef,
    name: &ObjectName,
    listeners: &Listeners<'_>,
    route: &ObjectName,
    hostnames: &[Hostname],
) -> Parent {
    if parent.kind.as_deref().unwrap_or("Gateway") != "Gateway" || parent.group.as_deref().unwrap_or(GROUP) != GROUP {
        return Parent::Foreign;
    }
    if !snapshot.gateways.contains_key(name) {
        return Parent::Missing(Fault::new("NoMatchingParent", format!("Gateway {name} does not exist")));
    }
    let Some(all) = listeners.get(name) else { return Parent::Foreign };
    let no = |reason, why: String| Parent::No(Fault::new(reason, why), Vec::new());
    let named = |s: &Served<'_>| {
        parent.section_name.as_deref().is_none_or(|n| n == s.spec.name) && parent.port.is_none_or(|p| p == s.spec.port)
    };
    let mut left: Vec<usize> = (0..all.len()).filter(|&i| named(&all[i])).collect();
    if left.is_empty() {
        let section = parent.section_name.iter().map(|n| format!(" named {n:?}"));
        let port = parent.port.iter().map(|p| format!(" on port {p}"));
        let which: String = section.chain(port).collect();
        return no("NoMatchingParent", format!("Gateway {name} has no listener{which}"));
    }
    let unserved = |indices: &[usize]| {
        let why: Vec<&str> = indices.iter().filter_map(|&i| Some(all[i].open().err()?.message.as_str())).collect();
        format!("Gateway {name} serves no such listener: {}", why.join("; "))
    };
    if left.iter().all(|&i| !all[i].kinds.contains(&"HTTPRoute")) {
        return no("NotAllowedByListeners", unserved(&left));
    }
    left.retain(|&i| all[i].kinds.contains(&"HTTPRoute") && all[i].guests.admit(snapshot, &name.ns, &route.ns));
    if left.is_empty() {
        let why = format!("Gateway {name} does not allow routes from namespace {:?}", route.ns);
        return no("NotAllowedByListeners", why);
    }
    left.retain(|&i| all[i].hostname.as_ref().is_some_and(|name| hostnames.iter().any(|h| h.intersects(name))));
    if left.is_empty() {
        return no("NoMatchingListenerHostname", format!("no hostname of the route fits a listener of Gateway {name}"));
    }
    if left.iter().all(|&i| all[i].open().is_err()) {
        return Parent::No(Fault::new("NotAllowedByListeners", unserved(&left)), left);
    }
    Parent::Attached(left)
}

/// Adds a route's rules to a listener that is served, under each host name that both have.
fn add(served: &mut Served<'_>, hostnames: &[Hostname], rules: &[CompiledRule]) {
    let Ok(open) = served.open().cloned() else { return };
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
