//! HTTPRoutes and GRPCRoutes -> entries of the listeners they attach to, in the order in which they are tried.
//!
//! Where a route is attached is decided by `model::attach`, as of every kind; its rules, compiled by `model::rule` and `model::grpc_rule`, are added to
//! those of its listeners that are served. Routes of the other kinds are attached from here too, by `model::stream_route`.
//!
//! Order: the most specific host name as the route has it, then calls of gRPC, then the match's rank, then the oldest route, then the
//! lesser namespace/name, then the first rule. Source: `HTTPRouteRule.matches` and `HTTPRoute.spec.hostnames`.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Backend, Model, Node, ObjectRef,
    attach::{self, by_age},
    endpoints::{self, Family, SliceIndex},
    gateway::Listeners,
    grpc_rule,
    http::{Hostname, HttpEntry, ServicePort},
    listener::Served,
    report::{RouteReports, Subject},
    rule::{self, CompiledRule, Faults, World},
    service::Targets,
    stream_route::{self, StreamTarget},
};
use crate::{
    api::{GrpcRoute, HttpRoute, ObjectName, Route, RouteKind},
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
    for (name, route) in by_age(&snapshot.http_routes) {
        attach_one(&world, name, route.as_ref(), listeners, (model, &mut reports));
    }
    for (name, route) in by_age(&snapshot.grpc_routes) {
        attach_one(&world, name, route.as_ref(), listeners, (model, &mut reports));
    }
    stream_route::attach_all(&world, listeners, model, &mut reports);
    model.routes = Arc::new(reports);
    let mut clusters = Clusters::default();
    let mut remarks: BTreeMap<ObjectRef, BTreeSet<String>> = BTreeMap::new();
    for served in listeners.values_mut().flatten() {
        // Stable: what is equally specific stays in the order of age, name, rule.
        served.entries.sort_by(|a, b| {
            a.hostname.by_specificity(&b.hostname).then_with(|| a.matches.rank().cmp(&b.matches.rank()))
        });
        for to in
            served.streams.iter().filter(|entry| entry.kind == RouteKind::Tls).flat_map(|entry| entry.shares.iter())
        {
            let StreamTarget::Service(port) = &to.to else { continue };
            if !clusters.backends.contains_key(port) {
                let (backends, skipped) = backends(snapshot, (slices, targets), node, port);
                clusters.backends.insert(port.clone(), backends);
                if !skipped.is_empty() {
                    clusters.skipped.insert(port.clone(), skipped);
                }
            }
        }
        for entry in &served.entries {
            for port in entry.rule.services() {
                if !clusters.backends.contains_key(port) {
                    let (backends, skipped) = backends(snapshot, (slices, targets), node, port);
                    clusters.backends.insert(port.clone(), backends);
                    if !skipped.is_empty() {
                        clusters.skipped.insert(port.clone(), skipped);
                    }
                }
                if let Some(skipped) = clusters.skipped.get(port) {
                    let said =
                        remarks.entry(ObjectRef::new(entry.rule.kind.name(), entry.rule.route.clone())).or_default();
                    said.extend(skipped.iter().map(|sentence| format!("Service {port}: {sentence}")));
                }
            }
        }
    }
    for (object, sentences) in remarks {
        if let Some(mut verdict) = model.verdicts.get(&object).cloned() {
            verdict.messages.extend(sentences);
            model.judge(object, verdict);
        }
    }
    clusters
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

/// A kind of route whose rules are matched against requests.
trait RequestRoute: Route {
    fn compile(&self, world: &World<'_>, name: &ObjectName, faults: &mut Faults) -> Vec<CompiledRule>;
}

impl RequestRoute for HttpRoute {
    fn compile(&self, world: &World<'_>, name: &ObjectName, faults: &mut Faults) -> Vec<CompiledRule> {
        rule::compile(world, name, self, faults)
    }
}

impl RequestRoute for GrpcRoute {
    fn compile(&self, world: &World<'_>, name: &ObjectName, faults: &mut Faults) -> Vec<CompiledRule> {
        grpc_rule::compile(world, name, self, faults)
    }
}

fn attach_one<T: RequestRoute>(
    world: &World<'_>,
    name: &ObjectName,
    route: &T,
    listeners: &mut Listeners<'_>,
    (model, reports): (&mut Model, &mut RouteReports),
) {
    let attachment = attach::attach(world.snapshot, name, route, listeners);
    let mut faults = Faults::new();
    let mut rules = Vec::new();
    if !attachment.is_foreign {
        rules = route.compile(world, name, &mut faults);
        for (gateway, index) in &attachment.listeners {
            if let Some(served) = listeners.get_mut(gateway).and_then(|all| all.get_mut(*index)) {
                add(served, &attachment.hostnames, &rules);
            }
        }
    }
    let (verdict, report) = attachment.conclude(Subject::of(route.metadata()), rules.len(), faults);
    model.judge(ObjectRef::new(T::KIND, name.clone()), verdict);
    if !report.parents.is_empty() {
        reports.insert((T::ROUTE, name.clone()), report);
    }
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
