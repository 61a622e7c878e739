//! What a compile remembers for the next one, so that an event costs what it touches.
//!
//! In: a snapshot and the node. Out: the model that [`super::compile`] makes of them; a property test compares. What is
//! equal to what the last model held is the very same `Arc`, so that the stages after this one may compare pointers.
//!
//! # Design
//! - Objects are compared by pointer alone: a snapshot shares those that did not change with the one before, and whole
//!   runs of them, which are not looked into.
//! - When nothing but EndpointSlices, routes of layer 7 and certificates changed, and of other objects what counts for nothing
//!   ([`quiet`]), no address and no frontend comes or goes: the Services of those slices, those routes, and the listeners that have
//!   something to do with them are compiled anew within the last model. Any other change looks at everything, and takes over the
//!   targets of Services, the rules of routes, certificates and listeners that are as they were. [`Work`] counts both.
//! - Who speaks TLS to which port is asked again when a route to a port with a policy changed, or something that is read by name; a
//!   policy is compiled anew where it, or what it refers to, changed ([`backend_tls::Known`]).
mod secured;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use secured::outcomes;

use super::{
    Model, Node, ObjectRef, Port, Role, Target, backend_tls, backend_traffic,
    candidates::Announcers,
    certificate,
    chain::{self, Links},
    endpoints::{Family, SliceIndex},
    gateway::{self, Listeners, Proxied},
    grants::Grants,
    ipam,
    listener::{self, Served},
    listener_set, mesh,
    ownership::{self, Object},
    policy::Attached,
    pool::{Pools, node_addr},
    quiet,
    report::Fault,
    route::{self, Changed, Routes},
    rule::World,
    service, sources,
    stream::{self, Streams},
    tls::Security,
};
use crate::{
    api::{Kind, ObjectName, RouteKind, address_pool::NodeAddressType, service::TrafficPolicy},
    shared::{Difference, SharedMap},
    source::Snapshot,
};

/// See the module. A new one remembers nothing.
#[derive(Debug, Default)]
pub struct Memo {
    snapshot: Arc<Snapshot>,
    /// `None` before the first model.
    node: Option<Node>,
    slices: SliceIndex,
    own_slices: Arc<BTreeSet<ObjectName>>,
    links: Links,
    sources: sources::Lists,
    targets: service::Targets,
    certificates: certificate::Store,
    listeners: Listeners,
    /// What the Gateways say of the certificates that they show to backends.
    certified: BTreeMap<ObjectName, Result<(), Fault>>,
    /// Where the policies are attached.
    attached: Arc<Attached>,
    policies: backend_tls::Known,
    proxied: Proxied,
    routes: Routes,
    streams: Streams,
    announcers: Announcers,
    model: Arc<Model>,
    work: Work,
}

/// What was compiled so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// How often everything was looked at.
    pub whole: u64,
    /// Services that were compiled for their slices alone.
    pub services: u64,
    /// Routes whose rules were compiled.
    pub routes: u64,
    /// How often a route's parents were asked where it is attached.
    pub attached: u64,
    /// Gateways that came, went, or got other listeners.
    pub gateways: u64,
    /// Certificates that were parsed.
    pub certificates: u64,
    /// BackendTLSPolicies that were compiled.
    pub policies: u64,
    /// Frontends of Gateways at layer 4 that were looked at for the slices of their Services alone.
    pub streams: u64,
    /// How often endpoints were selected for those frontends, for whatever reason.
    pub selections: u64,
}

impl Memo {
    /// As [`super::compile`]; models are counted from 1.
    pub fn compile(&mut self, snapshot: &Arc<Snapshot>, node: &Node) -> Arc<Model> {
        let touched = self.index(snapshot);
        let changed = self.routes.changed(&self.snapshot, snapshot);
        let certificates = if self.can_follow(snapshot, node, &touched, &changed) {
            self.followed_certificates(snapshot)
        } else {
            None
        };
        // Comes last: it selects anew what goes into the model when all else is as before.
        let source = stream::Endpoints { snapshot, slices: &self.slices, vips: self.targets.vips(), node };
        let mut model = match certificates {
            Some(listeners) if self.streams.refresh(&source, &touched) => {
                self.follow(snapshot, node, (&touched, &changed), listeners)
            }
            _ => {
                self.work.whole += 1;
                self.compile_all(snapshot, node, &touched, changed)
            }
        };
        model.rev = self.model.rev + 1;
        model.own_slices = Arc::clone(&self.own_slices);
        model.seen = snapshot.seen;
        model.partial = !snapshot.faults.is_empty();
        model.work = self.work();
        self.model = Arc::new(model);
        // An equal node with another map of addresses is compared by that pointer the next time.
        self.node = Some(node.clone());
        self.snapshot = Arc::clone(snapshot);
        Arc::clone(&self.model)
    }

    /// Whether no address and no frontend comes or goes, and no listener but for its certificates and what is attached to it.
    fn can_follow(&self, snapshot: &Snapshot, node: &Node, touched: &BTreeSet<ObjectName>, changed: &Changed) -> bool {
        let last = &self.snapshot;
        self.has_same_node(node)
            && quiet::all(&last.gateway_classes, &snapshot.gateway_classes)
            && self.has_same_allowed_namespaces(snapshot)
            && self.has_same_claims(snapshot)
            // Those of layer 4 are frontends of their own.
            && changed.routes.keys().all(|(kind, _)| !matches!(kind, RouteKind::Tcp | RouteKind::Udp))
            && mesh::asks_the_same(last, snapshot, changed.routes.keys())
            && quiet::all(&last.listener_sets, &snapshot.listener_sets)
            && quiet::all(&last.grants, &snapshot.grants)
            && quiet::all(&last.backend_tls_policies, &snapshot.backend_tls_policies)
            && quiet::all(&last.backend_traffic_policies, &snapshot.backend_traffic_policies)
            && touched.iter().all(|service| self.has_same_link(service))
            && self.has_same_skipped(snapshot, node, touched)
            && self.has_same_pools(snapshot, node)
    }

    /// Whether the node is what it was. That it remembers what the last model gives changes nothing: what is given stays. Who else
    /// lives concerns those alone who choose announcers.
    fn has_same_node(&self, node: &Node) -> bool {
        self.node.as_ref().is_some_and(|last| {
            let remembers = Arc::ptr_eq(&node.allocations, &last.allocations)
                || node.allocations == self.model.wanted
                || node.allocations == last.allocations;
            let (allocations, candidates) = (Arc::clone(&last.allocations), last.candidates.clone());
            remembers && *last == Node { allocations, candidates, ..node.clone() }
        })
    }

    /// Whether all that is read by name is as it was.
    fn has_same_referents(&self, snapshot: &Snapshot) -> bool {
        let last = &self.snapshot;
        quiet::all(&last.secrets, &snapshot.secrets)
            && quiet::all(&last.config_maps, &snapshot.config_maps)
            && last.unread == snapshot.unread
    }

    /// What was compiled so far.
    #[must_use]
    pub fn work(&self) -> Work {
        Work {
            routes: self.routes.compiled(),
            attached: self.routes.attached(),
            certificates: self.certificates.parsed(),
            policies: self.policies.compiled(),
            selections: self.streams.selections(),
            ..self.work
        }
    }

    /// Whether no Service and no Gateway that changed claims anything else.
    fn has_same_claims(&self, snapshot: &Snapshot) -> bool {
        let has = |kind, name: &ObjectName, addr| {
            let object = ObjectRef::new(kind, name.clone());
            let (held, wanted) = (self.model.allocations.get(&object), self.model.wanted.get(&object));
            held.zip(wanted).is_some_and(|(a, b)| a.contains(&addr) && b.contains(&addr))
        };
        let last = &self.snapshot;
        quiet::all_by(&last.services, &snapshot.services, |name, old, new| {
            quiet::service(old, new, |addr| has("Service", name, addr))
        }) && quiet::all_by(&last.gateways, &snapshot.gateways, |name, old, new| {
            quiet::gateway(old, new, |addr| has("Gateway", name, addr))
        })
    }

    /// Whether the pools are as they were: nodes and namespaces change more often than what pools see of them.
    fn has_same_pools(&self, snapshot: &Snapshot, node: &Node) -> bool {
        let last = &self.snapshot;
        let is_untouched = quiet::all(&last.pools, &snapshot.pools)
            && quiet::all(&last.namespaces, &snapshot.namespaces)
            && quiet::all(&last.nodes, &snapshot.nodes);
        is_untouched || *self.model.pools == Pools::new(snapshot, node)
    }

    /// Whether a Service's slices leave open where its flows go, as they did before.
    fn has_same_link(&self, service: &ObjectName) -> bool {
        self.links.get(service).is_none_or(|link| link.has_own == chain::has_own(&self.slices, service))
    }

    /// Whether routes have the same to say about endpoints of these Services that no request may go to.
    fn has_same_skipped(&self, snapshot: &Snapshot, node: &Node, touched: &BTreeSet<ObjectName>) -> bool {
        let endpoints = route::Endpoints { snapshot, slices: &self.slices, targets: &self.targets, node };
        let mut ports = touched.iter().flat_map(|service| self.routes.ports_of(service));
        ports.all(|port| self.routes.skipped(port) == endpoints.backends(port).1)
    }

    /// The listeners with their certificates as they are now, if nothing else of them has changed; none where no certificate has.
    fn followed_certificates(&mut self, snapshot: &Snapshot) -> Option<Listeners> {
        if self.has_same_referents(snapshot) {
            return Some(Listeners::new());
        }
        let (grants, sets) = (Grants::of(snapshot), listener_set::sets(snapshot));
        let new = gateway::listeners((snapshot, &grants), &sets, &mut self.certificates, &self.listeners);
        // What they say stands in the Gateways' reports.
        if outcomes(&gateway::certified((snapshot, &grants), &mut self.certificates)) != self.certified {
            return None;
        }
        let is_same = |(old, new): (&Arc<Vec<Served>>, &Arc<Vec<Served>>)| {
            Arc::ptr_eq(old, new)
                || (old.len() == new.len() && old.iter().zip(new.iter()).all(|(a, b)| a.is_secured_as(b)))
        };
        let is_followed =
            self.listeners.keys().eq(new.keys()) && self.listeners.values().zip(new.values()).all(is_same);
        is_followed.then_some(new)
    }

    /// Whether no namespace changed that a listener may look at.
    fn has_same_allowed_namespaces(&self, snapshot: &Snapshot) -> bool {
        quiet::all(&self.snapshot.namespaces, &snapshot.namespaces) || !listener::uses_namespaces(snapshot)
    }

    /// Brings the index of slices up to date; the Services that had or have a slice that changed.
    fn index(&mut self, snapshot: &Snapshot) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        for Difference { key, old, new } in changed(&self.snapshot.slices, &snapshot.slices) {
            let is_ours = new.is_some_and(|slice| slice.is_ours());
            if is_ours && !self.own_slices.contains(key) {
                Arc::make_mut(&mut self.own_slices).insert(key.clone());
            } else if !is_ours && self.own_slices.contains(key) {
                Arc::make_mut(&mut self.own_slices).remove(key);
            }
            let is_quiet = old.zip(new).is_some_and(|(old, new)| old.is_quiet(new));
            for service in [old, new].into_iter().flatten().filter_map(|slice| slice.service_name()) {
                self.slices.remove(&service, key);
                if !is_quiet {
                    touched.insert(service);
                }
            }
            if let Some(slice) = new {
                self.slices.insert(key, slice);
            }
        }
        touched
    }

    /// The last model with these routes, the endpoints of these Services and the certificates as they are now.
    fn follow(
        &mut self,
        snapshot: &Snapshot,
        node: &Node,
        (touched, changed): (&BTreeSet<ObjectName>, &Changed),
        listeners: Listeners,
    ) -> Model {
        let mut model = Model::clone(&self.model);
        let mut at = if listeners.is_empty() { BTreeSet::new() } else { self.exchange_certificates(listeners) };
        let has_policies = !snapshot.backend_tls_policies.is_empty();
        let mut is_secured_anew = has_policies && !self.has_same_referents(snapshot);
        if is_secured_anew || !changed.routes.is_empty() {
            let endpoints = route::Endpoints { snapshot, slices: &self.slices, targets: &self.targets, node };
            let world = World::with(snapshot, Arc::clone(&self.attached));
            if !changed.routes.is_empty() {
                let (others, ports) = self.routes.follow(&world, &self.listeners, changed, endpoints, &mut model);
                at.extend(others);
                let is_concerned =
                    |port| self.attached.get(port).is_some() || backend_traffic::concerns(snapshot, port);
                is_secured_anew |= ports.iter().any(is_concerned);
            }
            if is_secured_anew {
                self.secure(&world, node, &mut model);
                if model.verdicts == self.model.verdicts {
                    model.verdicts = self.model.verdicts.clone();
                }
            }
        }
        self.follow_listeners(&at, &mut model);
        let source = chain::Source { snapshot, slices: &self.slices, targets: &self.targets, node };
        if self.links.values().any(|link| at.iter().any(|(gateway, _)| *gateway == link.gateway)) {
            let chains = source.chains(&self.links, &self.proxied.by_port);
            model.chains = keep(&self.model.chains, Arc::new(chains));
        }
        if !touched.is_empty() {
            self.follow_slices(snapshot, node, touched, &mut model);
        }
        let is_local =
            |name| snapshot.services.get(name).is_some_and(|s| s.spec.external_traffic_policy.is(TrafficPolicy::Local));
        let has_same_candidates = self.node.as_ref().is_some_and(|last| last.candidates == node.candidates);
        // Pools look at less of a node than those who choose between them.
        if !has_same_candidates || touched.iter().any(is_local) || !quiet::all(&self.snapshot.nodes, &snapshot.nodes) {
            self.choose_announcers(snapshot, node, &mut model);
        }
        model
    }

    /// Takes over listeners that have other certificates; which these are.
    fn exchange_certificates(&mut self, new: Listeners) -> BTreeSet<(ObjectName, usize)> {
        let mut at = BTreeSet::new();
        for (name, new) in &new {
            let old = self.listeners.get(name).map_or(&[][..], |old| old.as_slice());
            let others = old.iter().zip(new.iter()).enumerate().filter(|(_, (old, new))| old.security != new.security);
            at.extend(others.map(|(index, _)| (name.clone(), index)));
        }
        self.listeners = new;
        at
    }

    /// Says what these listeners have and hold now, to the proxy and in the reports on their Gateways.
    fn follow_listeners(&mut self, at: &BTreeSet<(ObjectName, usize)>, model: &mut Model) {
        let mut of_ports: BTreeMap<(ObjectName, Port), Vec<(usize, usize)>> = BTreeMap::new();
        for (gateway, index) in at {
            let held = self.routes.held(gateway).get(*index).map_or(0, |held| held.attached);
            let known = model.gateways.get(gateway).and_then(|report| report.listeners.get(*index));
            if known.is_some_and(|known| known.attached != held)
                && let Some(report) = Arc::make_mut(&mut model.gateways).get_mut(gateway)
            {
                Arc::make_mut(report).listeners[*index].attached = held;
            }
            if let Some((port, place)) = self.proxied.places.get(&(gateway.clone(), *index)) {
                of_ports.entry((gateway.clone(), *port)).or_default().push((*index, *place));
            }
        }
        for (at, listeners) in of_ports {
            let Some(old) = self.proxied.by_port.get_mut(&at) else { continue };
            let mut new = Vec::clone(old);
            for (index, place) in listeners {
                let (Some(listener), Some(held)) = (new.get_mut(place), self.routes.held(&at.0).get(index)) else {
                    continue;
                };
                listener.entries = held.entries.clone();
                listener.streams = listener.streams.as_ref().map(|_| Arc::clone(&held.streams));
                if let Some(Security::Terminate(termination)) =
                    self.listeners.get(&at.0).and_then(|all| all.get(index)).map(|served| &served.security)
                {
                    listener.tls = Some(Arc::clone(termination));
                }
            }
            if new == **old {
                continue;
            }
            let new = Arc::new(new);
            // None, where the Gateway has no address.
            if model.http.frontends.values().any(|listeners| Arc::ptr_eq(listeners, old)) {
                let frontends = &mut Arc::make_mut(&mut model.http).frontends;
                for listeners in frontends.values_mut().filter(|listeners| Arc::ptr_eq(listeners, old)) {
                    *listeners = Arc::clone(&new);
                }
            }
            *old = new;
        }
    }

    /// Puts the endpoints of these Services as they are now into a model.
    fn follow_slices(&mut self, snapshot: &Snapshot, node: &Node, touched: &BTreeSet<ObjectName>, model: &mut Model) {
        let mut compiler =
            service::Compiler::new(&self.slices, node, touched, (&self.links, &self.sources), &mut self.targets);
        for service in touched.iter().filter_map(|name| snapshot.services.get(name)) {
            compiler.add(service, model);
            self.work.services += 1;
        }
        let (streams, looked_at) = self.streams.follow(touched);
        self.work.streams += looked_at;
        for (frontend, target) in streams {
            model.frontends.insert(frontend, Target::Endpoints(target));
        }
        let endpoints = route::Endpoints { snapshot, slices: &self.slices, targets: &self.targets, node };
        for port in touched.iter().flat_map(|service| self.routes.ports_of(service)) {
            let (backends, _) = endpoints.backends(port);
            if model.http.services.get(port).is_none_or(|known| **known != backends) {
                Arc::make_mut(&mut model.http).services.insert(port.clone(), Arc::new(backends));
            }
        }
        let source = chain::Source { snapshot, slices: &self.slices, targets: &self.targets, node };
        for (name, chain) in source.follow(&model.chains, touched) {
            Arc::make_mut(&mut model.chains).insert(name, chain);
        }
    }

    /// Takes over what the proxy serves; what is equal to what it has served is the very same, in the model too.
    fn keep_listeners(&mut self, mut proxied: Proxied, model: &mut Model) {
        for (at, new) in &mut proxied.by_port {
            let Some(old) = self.proxied.by_port.get(at).filter(|old| **old == *new) else { continue };
            for listeners in Arc::make_mut(&mut model.http).frontends.values_mut() {
                if Arc::ptr_eq(listeners, new) {
                    *listeners = Arc::clone(old);
                }
            }
            *new = Arc::clone(old);
        }
        self.proxied = proxied;
    }

    /// Says which VIPs are announced by whom.
    fn choose_announcers(&mut self, snapshot: &Snapshot, node: &Node, model: &mut Model) {
        let mut vips = model.vips();
        vips.retain(|vip| node.announce && model.pools.is_announced(*vip));
        let (mut by, mut relays) = (BTreeMap::new(), BTreeMap::new());
        if node.announce && node.role == Role::Member {
            let chosen = &mut self.announcers;
            chosen.choose(&node.candidates, &model.allocations, snapshot, &self.slices, &self.links);
            vips.retain(|vip| chosen.get(*vip).is_some_and(|choice| *choice.by == *node.name));
            let relay = |vip: &IpAddr| Some((*vip, address_of(snapshot, chosen.get(*vip)?.next.as_ref()?, *vip)?));
            relays = vips.iter().filter_map(relay).collect();
            let announced = chosen.iter().filter(|(vip, _)| model.pools.is_announced(*vip));
            by = announced.map(|(vip, choice)| (vip, choice.by.to_string())).collect();
        }
        model.announcers = keep(&self.model.announcers, Arc::new(by));
        model.announced = keep(&self.model.announced, Arc::new(vips));
        model.relays = keep(&self.model.relays, Arc::new(relays));
    }

    fn compile_all(
        &mut self,
        snapshot: &Snapshot,
        node: &Node,
        touched: &BTreeSet<ObjectName>,
        mut changed: Changed,
    ) -> Model {
        self.attached = Arc::new(Attached::of(&snapshot.backend_tls_policies, &snapshot.services));
        let (world, sets) = (World::with(snapshot, Arc::clone(&self.attached)), listener_set::sets(snapshot));
        let pools = keep(&self.model.pools, Arc::new(Pools::new(snapshot, node)));
        let (mut claims, verdicts) = service::claims(snapshot, node, &pools);
        claims.extend(gateway::claims(snapshot, &sets, &pools));
        let (wanted, refusals) = ipam::assign(&claims, &pools, node);
        let mut verdicts = verdicts.into_iter().chain(refusals).chain(pools.verdicts()).collect::<SharedMap<_, _>>();
        let wanted = keep(&self.model.wanted, Arc::new(wanted));
        let allocations = match node.role {
            Role::Alone => keep(&self.model.allocations, Arc::clone(&wanted)),
            Role::Member => {
                let (persisted, pending) = ipam::persisted(&claims, &pools, &wanted);
                verdicts.extend(pending);
                keep(&self.model.allocations, Arc::new(persisted))
            }
        };
        let published = match node.role {
            Role::Alone => BTreeSet::new(),
            Role::Member => claims.iter().flat_map(|claim| &claim.in_status).copied().collect(),
        };
        let published = keep(&self.model.published, Arc::new(published));
        let mut model = Model { pools, wanted, allocations, published, verdicts, ..Model::default() };
        self.targets.note(&claims, &model);
        let is_same_node = self.node.as_ref().is_some_and(|last| last.name == node.name && last.zone == node.zone);
        if !is_same_node {
            self.targets.invalidate();
        }
        self.links = chain::links(snapshot, &sets, &self.slices, &model.verdicts);
        let services = service::by_age(snapshot);
        self.sources = sources::Lists::compile(&services, &model.allocations, &self.sources);
        self.streams.begin(touched, self.targets.is_stale());
        let listeners = gateway::listeners((snapshot, &world.grants), &sets, &mut self.certificates, &self.listeners);
        let others = differences(&self.listeners, &listeners, |(_, a), (_, b)| Arc::ptr_eq(a, b));
        let others: BTreeSet<ObjectName> = others.map(|difference| difference.key.clone()).collect();
        self.work.gateways += others.len() as u64;
        self.routes.add_parents(&mut changed, (&self.snapshot, snapshot), others);
        self.listeners = listeners;
        let endpoints = route::Endpoints { snapshot, slices: &self.slices, targets: &self.targets, node };
        self.routes.compile(&world, &self.listeners, &changed, endpoints, (&self.model.http, &mut model));
        let certified = self.secure(&world, node, &mut model);
        let endpoints = stream::Endpoints { snapshot, slices: &self.slices, vips: self.targets.vips(), node };
        let (listeners, routes) = (&self.listeners, &self.routes);
        let mut gateways = gateway::Compiler::new(endpoints, &mut self.streams, (listeners, sets), routes, &mut model);
        gateways.resolved = certified;
        gateways.last = Arc::clone(&self.model);
        let mut compiler =
            service::Compiler::new(&self.slices, node, touched, (&self.links, &self.sources), &mut self.targets);
        for object in ownership::by_age(snapshot, &services) {
            match object {
                Object::Gateway(name, gateway) => gateways.add(name, gateway, &mut model),
                Object::Service(service) => compiler.add(service, &mut model),
            }
        }
        self.targets.retain(&model);
        let proxied = gateways.finish(&mut model);
        self.keep_listeners(proxied, &mut model);
        let source = chain::Source { snapshot, slices: &self.slices, targets: &self.targets, node };
        model.chains = keep(&self.model.chains, Arc::new(source.chains(&self.links, &self.proxied.by_port)));
        self.choose_announcers(snapshot, node, &mut model);
        model.http = keep(&self.model.http, model.http);
        model.gateways = keep(&self.model.gateways, model.gateways);
        if model.verdicts == self.model.verdicts {
            model.verdicts = self.model.verdicts.clone();
        }
        model.policies = keep(&self.model.policies, model.policies);
        model
    }
}

/// Where other nodes reach a node, in the family of `vip`.
fn address_of(snapshot: &Snapshot, node: &str, vip: IpAddr) -> Option<IpAddr> {
    node_addr(snapshot.nodes.get(node)?, NodeAddressType::InternalIp, Family::of(vip))
}

/// The old one of two that are equal.
fn keep<T: PartialEq>(old: &Arc<T>, new: Arc<T>) -> Arc<T> {
    if **old == *new { Arc::clone(old) } else { new }
}

/// The objects that are not the very same in both.
fn changed<'a, K: Ord, V>(
    old: &'a SharedMap<K, Arc<V>>,
    new: &'a SharedMap<K, Arc<V>>,
) -> impl Iterator<Item = Difference<'a, K, Arc<V>>> {
    old.differences(new, |(_, a), (_, b)| Arc::ptr_eq(a, b))
}

/// Walks two maps side by side and yields, in order, what `is_same` does not find the same.
pub(crate) fn differences<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
    is_same: impl Fn((&K, &V), (&K, &V)) -> bool,
) -> impl Iterator<Item = Difference<'a, K, V>> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) if is_same(*a, *b) => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let key = before.or(after)?.0;
            return Some(Difference { key, old: before.map(|(_, v)| v), new: after.map(|(_, v)| v) });
        }
    })
}
