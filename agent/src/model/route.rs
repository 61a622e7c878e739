//! Routes of every kind -> what is attached to each listener, in the order in which it is tried, and what is behind it.
//!
//! Where a route is attached is decided by `model::attach`, as of every kind; its rules are compiled by `model::rule`, `model::grpc_rule`
//! and `model::stream_route`, and added to those of its listeners that are served.
//!
//! Order: the most specific host name as the route has it, then calls of gRPC, then the match's rank, then the oldest route, then the
//! lesser namespace/name, then the first rule. Source: `HTTPRouteRule.matches` and `HTTPRoute.spec.hostnames`.
//!
//! # Design
//! [`Routes`] remembers what was made of each route, and makes anew what [`Changed`] says, alone: the rules of a route whose object, or
//! what it refers to, is another one; the answers of its parents where listeners are others. Of the listeners only the host names of
//! such routes are put in order again ([`held`]). A compile of everything takes the same path, with more that has changed.
mod changed;
mod held;
mod known;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub(super) use self::{
    changed::{Change, Changed},
    held::Held,
};
use self::{
    held::{Affected, AllHeld},
    known::Known,
};
use super::{
    Backend, Model, Node, ObjectRef, Outcome, Verdict,
    backend_tls::Users,
    balance,
    endpoints::{self, Family, SliceIndex},
    gateway::Listeners,
    http::{HttpModel, ServicePort},
    report::{RouteKey, RouteReports},
    rule::{self, World},
    service::Targets,
    tls::Security,
};
use crate::{
    api::{ObjectName, RouteKind},
    source::Snapshot,
};

/// Sentences about endpoints that no request may go to, by the Service port that rules name.
pub(super) type Skipped = BTreeMap<ServicePort, Vec<String>>;

/// What endpoints are selected from: the objects, the slices by Service, the addresses that are ours, this node.
#[derive(Clone, Copy)]
pub(super) struct Endpoints<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) slices: &'a SliceIndex,
    pub(super) targets: &'a Targets,
    pub(super) node: &'a Node,
}

impl Endpoints<'_> {
    /// The backends of a Service port that a rule names, and sentences about endpoints that are none: addresses of ours, from
    /// where a request would come back.
    pub(super) fn backends(&self, port: &ServicePort) -> (Vec<Backend>, Vec<String>) {
        let Some(service) = self.snapshot.services.get(&port.service) else { return (Vec::new(), Vec::new()) };
        let Some(found) = rule::service_port(service, port.port) else { return (Vec::new(), Vec::new()) };
        let mut selected = endpoints::select(self.slices, service, &found.name, Family::Any, self.node);
        selected.exclude(|backend| self.targets.has_vip(backend.addr, backend.port));
        (selected.cluster, selected.skipped)
    }
}

/// What was made of the routes so far. See the module.
#[derive(Debug, Default)]
pub(super) struct Routes {
    known: BTreeMap<RouteKey, Known>,
    reports: RouteReports,
    held: AllHeld,
    /// The routes whose requests, or connections, go to a Service port.
    users: BTreeMap<ServicePort, BTreeSet<RouteKey>>,
    /// The routes whose rules were looked up in a Service.
    referrers: BTreeMap<ObjectName, BTreeSet<RouteKey>>,
    /// What is not among the backends of a Service port; ports without such endpoints are left out.
    skipped: Skipped,
    /// What is not understood of how a Service port is to be balanced; likewise.
    misread: Skipped,
    compiled: u64,
    attached: u64,
}

impl Routes {
    /// How many routes had their rules compiled so far.
    pub(super) fn compiled(&self) -> u64 {
        self.compiled
    }

    /// How often the parents of a route were asked so far.
    pub(super) fn attached(&self) -> u64 {
        self.attached
    }

    /// What is attached to the listeners of a Gateway, in their order.
    pub(super) fn held(&self, gateway: &ObjectName) -> &[Held] {
        self.held.of(gateway)
    }

    /// The ports of a Service that requests go to.
    pub(super) fn ports_of(&self, service: &ObjectName) -> impl Iterator<Item = &ServicePort> {
        let first = ServicePort { service: service.clone(), port: super::Port::MIN };
        let service = service.clone();
        self.users.range(first..).map(|(port, _)| port).take_while(move |port| port.service == service)
    }

    /// Which Gateways send requests, or streams whose TLS they have ended, to each port that is to be spoken to under TLS.
    pub(super) fn secured_users(&self, listeners: &Listeners, is_secured: impl Fn(&ServicePort) -> bool) -> Users {
        let ends_tls = |(gateway, index): &&(ObjectName, usize)| {
            let served = listeners.get(gateway).and_then(|all| all.get(*index));
            served.is_some_and(|served| matches!(served.security, Security::Terminate(_)))
        };
        let mut out = Users::new();
        for (port, routes) in self.users.iter().filter(|(port, _)| is_secured(port)) {
            let of_port = routes.iter().filter_map(|key| Some((key.0, self.known.get(key)?)));
            let at = of_port.flat_map(|(kind, known)| {
                known.listeners.iter().filter(move |at| kind != RouteKind::Tls || ends_tls(at))
            });
            let gateways: BTreeSet<ObjectName> = at.map(|(gateway, _)| gateway.clone()).collect();
            if !gateways.is_empty() {
                out.insert(port.clone(), gateways);
            }
        }
        out
    }

    /// Says of the routes that lead to a port that its policy cannot be obeyed.
    pub(super) fn warn(&self, port: &ServicePort, why: &str, model: &mut Model) {
        let sentence = format!("Service {port} is not served: {why}");
        for key in self.users.get(port).into_iter().flatten() {
            let route = object(key);
            let Some(mut verdict) = model.verdicts.get(&route).cloned() else { continue };
            if verdict.outcome == Outcome::Accepted {
                (verdict.outcome, verdict.reason) = (Outcome::Partial, "BackendNotServed");
            }
            if !verdict.messages.contains(&sentence) {
                verdict.messages.push(sentence.clone());
            }
            model.judge(route, verdict);
        }
    }

    /// What is said of endpoints of a Service port that no request may go to.
    pub(super) fn skipped(&self, port: &ServicePort) -> &[String] {
        self.skipped.get(port).map_or(&[], Vec::as_slice)
    }

    /// Makes everything anew that has changed; verdicts, reports and backends are those of all routes.
    pub(super) fn compile(
        &mut self,
        world: &World<'_>,
        listeners: &Listeners,
        changed: &Changed,
        endpoints: Endpoints<'_>,
        (last, model): (&HttpModel, &mut Model),
    ) {
        let mut affected = self.held.begin(listeners, &changed.gateways);
        self.make(world, listeners, changed, &mut affected);
        self.put_in_order(&affected);
        self.skipped.clear();
        self.misread.clear();
        let http = Arc::make_mut(&mut model.http);
        for port in self.users.keys().cloned().collect::<Vec<_>>() {
            self.select(&port, endpoints, Some(last), http);
        }
        for (key, known) in &self.known {
            model.judge(object(key), self.verdict(key, known));
        }
        model.routes = self.reports.clone();
    }

    /// Makes anew what has changed where no listener has, in the last model; the listeners that hold something else now, and the
    /// Service ports of which a user came or went.
    pub(super) fn follow(
        &mut self,
        world: &World<'_>,
        listeners: &Listeners,
        changed: &Changed,
        endpoints: Endpoints<'_>,
        model: &mut Model,
    ) -> (BTreeSet<(ObjectName, usize)>, BTreeSet<ServicePort>) {
        let mut affected = Affected::default();
        let ports = self.make(world, listeners, changed, &mut affected);
        for port in &ports {
            let is_used = self.users.contains_key(port);
            if is_used == model.http.services.contains_key(port) {
                continue;
            }
            let http = Arc::make_mut(&mut model.http);
            if is_used {
                self.select(port, endpoints, None, http);
            } else {
                http.services.remove(port);
                http.balances.remove(port);
                self.skipped.remove(port);
                self.misread.remove(port);
            }
        }
        for key in changed.routes.keys() {
            match self.known.get(key) {
                Some(known) => model.judge(object(key), self.verdict(key, known)),
                None => drop(model.verdicts.remove(&object(key))),
            }
        }
        model.routes = self.reports.clone();
        (self.put_in_order(&affected), ports)
    }

    /// Judges the routes that lead to a port anew, as if no policy had anything to say of it.
    pub(super) fn judge_users(&self, port: &ServicePort, model: &mut Model) {
        for key in self.users.get(port).into_iter().flatten() {
            if let Some(known) = self.known.get(key) {
                model.judge(object(key), self.verdict(key, known));
            }
        }
    }

    /// Finds out what is behind a Service port that is used, and how it is balanced. What is as in the `last` model is the very same.
    fn select(&mut self, port: &ServicePort, endpoints: Endpoints<'_>, last: Option<&HttpModel>, http: &mut HttpModel) {
        let (backends, skipped) = endpoints.backends(port);
        let known = last.and_then(|last| last.services.get(port)).filter(|known| ***known == backends).cloned();
        http.services.insert(port.clone(), known.unwrap_or_else(|| Arc::new(backends)));
        if !skipped.is_empty() {
            self.skipped.insert(port.clone(), skipped);
        }
        let misread = balance::note(endpoints.snapshot, http, port);
        if !misread.is_empty() {
            self.misread.insert(port.clone(), misread);
        }
    }

    /// Makes the routes that have changed; the Service ports of which a user came or went.
    fn make(
        &mut self,
        world: &World<'_>,
        listeners: &Listeners,
        changed: &Changed,
        affected: &mut Affected,
    ) -> BTreeSet<ServicePort> {
        let mut ports = BTreeSet::new();
        for (key, change) in &changed.routes {
            let old = self.known.remove(key);
            if let Some(old) = &old {
                self.held.count(old, &changed.gateways, |attached| attached.saturating_sub(1));
                affected.add(key, old);
                ports.extend(old.ports.iter().cloned());
                forget(&mut self.users, old.ports.iter(), key);
                forget(&mut self.referrers, old.references.services.iter(), key);
            }
            let kept = old.filter(|_| *change == Change::Parents).map(|old| (old.compiled, old.references));
            let Some((new, report)) = known::make(world, key, listeners, kept, &mut self.compiled) else {
                self.reports.remove(key);
                continue;
            };
            self.attached += 1;
            self.held.count(&new, &BTreeSet::new(), |attached| attached + 1);
            affected.add(key, &new);
            ports.extend(new.ports.iter().cloned());
            for port in &new.ports {
                self.users.entry(port.clone()).or_default().insert(key.clone());
            }
            for service in &new.references.services {
                self.referrers.entry(service.clone()).or_default().insert(key.clone());
            }
            if report.parents.is_empty() {
                self.reports.remove(key);
            } else if self.reports.get(key) != Some(&report) {
                self.reports.insert(key.clone(), report);
            }
            self.known.insert(key.clone(), new);
        }
        ports
    }

    /// Puts in order what is held under the host names that are affected; the listeners that hold something else now.
    fn put_in_order(&mut self, affected: &Affected) -> BTreeSet<(ObjectName, usize)> {
        self.held.put_in_order(affected, &self.known)
    }

    /// What became of a route, with what is to be said of endpoints that its requests do not go to.
    fn verdict(&self, key: &RouteKey, known: &Known) -> Verdict {
        let mut verdict = known.verdict.clone();
        if key.0 != RouteKind::Tls && !self.skipped.is_empty() {
            let of_port = |port| self.skipped(port).iter().map(move |sentence| format!("Service {port}: {sentence}"));
            let remarks: BTreeSet<String> = known.ports.iter().flat_map(of_port).collect();
            verdict.messages.extend(remarks);
        }
        if key.0 != RouteKind::Tls && !self.misread.is_empty() {
            let of_port = |port: &ServicePort| {
                let misread = self.misread.get(port).map_or(&[][..], Vec::as_slice);
                misread.iter().map(|sentence| format!("Service {}: {sentence}", port.service)).collect::<Vec<_>>()
            };
            let remarks: BTreeSet<String> = known.ports.iter().flat_map(of_port).collect();
            verdict.messages.extend(remarks);
        }
        verdict
    }
}

fn object(key: &RouteKey) -> ObjectRef {
    ObjectRef::new(key.0.name(), key.1.clone())
}

/// Removes a route from what is kept by something that it has to do with.
fn forget<'a, K: Ord + 'a>(
    index: &mut BTreeMap<K, BTreeSet<RouteKey>>,
    of: impl IntoIterator<Item = &'a K>,
    route: &RouteKey,
) {
    for key in of {
        if let Some(routes) = index.get_mut(key) {
            routes.remove(route);
            if routes.is_empty() {
                index.remove(key);
            }
        }
    }
}
