//! Routes at TCP and UDP listeners -> layer 4 frontends whose flows are split over the endpoints of several Services.
//!
//! In: the oldest of the routes that are attached to a listener (`model::stream_route`), and the endpoints of the Service ports that it
//! names; the others stay accepted and get nothing. Out: for each frontend of the listener an [`EndpointTarget`], as Services have
//! them: the programs choose, and the proxy is not in the way.
//!
//! What goes nowhere is refused in its share: a reference that is not permitted, names nothing or no Service, a Service without
//! endpoints. Source: `TCPRouteRule.backendRefs`, `UDPRouteRule.backendRefs`.
//!
//! # Design
//! - [`Streams`] remembers what was selected for each Service port, so that a compile of everything selects for the Services that
//!   changed, and which frontends each Service has a share of: when its slices alone change, those are made anew and no others.
//! - A reference of weight 0 is as if it were not there: its endpoints have left the frontend, so datagrams move at once, and
//!   connections go on while they are answered.
//! - Session affinity, traffic policy and source ranges are fields of a Service that has its own frontends, and say nothing here.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Backend, Created, EndpointShare, EndpointTarget, Frontend, Model, Node, ObjectRef, Port, Proto, WhenEmpty,
    endpoints::{self, Family, SliceIndex},
    http::ServicePort,
    service::Vips,
    stream_route::{StreamEntry, StreamShare, StreamTarget},
};
use crate::{
    api::{ObjectName, Service, service},
    source::Snapshot,
};

/// What decides which endpoints a share has.
pub(super) struct Endpoints<'a> {
    /// The objects.
    pub snapshot: &'a Snapshot,
    /// The slices, by Service.
    pub slices: &'a SliceIndex,
    /// Which addresses are ours.
    pub vips: Arc<Vips>,
    /// This node.
    pub node: &'a Node,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// What was selected, by Service port, protocol and family.
    made: HashMap<Selector, Made>,
    /// The frontends that have a share of each Service.
    of_service: BTreeMap<ObjectName, BTreeSet<Frontend>>,
    /// What each frontend leads to.
    targets: HashMap<Frontend, Arc<EndpointTarget>>,
    /// The same, as it was before this compile.
    last: HashMap<Frontend, Arc<EndpointTarget>>,
    /// What is said of routes that are attached and get nothing.
    passed_over: BTreeMap<ObjectRef, BTreeSet<String>>,
    /// How often endpoints were selected.
    selections: u64,
}

/// Endpoints of a Service port, of one protocol and family.
type Selector = (ServicePort, Proto, Family);

/// What was selected, from what.
#[derive(Debug)]
struct Made {
    service: Arc<Service>,
    port_name: String,
    backends: Vec<Backend>,
    draining: Vec<Backend>,
    skipped: Vec<String>,
    /// A frontend has it.
    is_used: bool,
}

impl Made {
    fn copy_to(&self, share: &mut EndpointShare) {
        share.port_name.clone_from(&self.port_name);
        share.backends.clone_from(&self.backends);
        share.draining.clone_from(&self.draining);
    }
}

impl Streams {
    /// Forgets what does not hold any more: all of it, or what Services have whose slices are others.
    pub(super) fn begin(&mut self, touched: &BTreeSet<ObjectName>, is_stale: bool) {
        self.made.retain(|(port, ..), made| {
            made.is_used = false;
            !is_stale && !touched.contains(&port.service)
        });
        self.of_service.clear();
        self.passed_over.clear();
        self.last = std::mem::take(&mut self.targets);
    }

    /// Forgets what no frontend has, and says at the routes which endpoints no flow may go to.
    pub(super) fn finish(&mut self, model: &mut Model) {
        self.made.retain(|_, made| made.is_used);
        self.last.clear();
        let mut remarks = std::mem::take(&mut self.passed_over);
        for (at, target) in &self.targets {
            if let Some(route) = &target.route {
                remarks.entry(route.clone()).or_default().extend(self.skipped(target, *at));
            }
        }
        for (route, sentences) in remarks.into_iter().filter(|(_, sentences)| !sentences.is_empty()) {
            if let Some(mut verdict) = model.verdicts.get(&route).cloned() {
                verdict.messages.extend(sentences);
                model.judge(route, verdict);
            }
        }
    }

    /// Says of all routes of a listener but the first that they get nothing. Source: `TCPRoute`, `UDPRoute`: the oldest serves.
    pub(super) fn pass_over(&mut self, listener: &str, routes: &[StreamEntry]) {
        let Some((first, others)) = routes.split_first() else { return };
        for other in others {
            let route = ObjectRef::new(other.kind.name(), other.route.clone());
            let why = format!("{listener}: {} {}, which is older, gets all flows", first.kind, first.route);
            self.passed_over.entry(route).or_default().insert(why);
        }
    }

    /// How often endpoints were selected so far.
    pub(super) fn selections(&self) -> u64 {
        self.selections
    }

    /// What a frontend of a Gateway's listener leads to; without a route, nowhere.
    pub(super) fn target(
        &mut self,
        world: &Endpoints<'_>,
        (gateway, created): (ObjectRef, Created),
        at: Frontend,
        route: Option<&StreamEntry>,
    ) -> Arc<EndpointTarget> {
        let (mut shares, mut refused) = (Vec::<EndpointShare>::new(), 0_u32);
        for StreamShare { weight, to } in
            route.into_iter().flat_map(|route| route.shares.iter()).filter(|s| s.weight > 0)
        {
            match to {
                StreamTarget::Invalid(_) => refused = refused.saturating_add(*weight),
                StreamTarget::Service(port) => {
                    let is_same =
                        |share: &&mut EndpointShare| (&share.service, share.port) == (&port.service, port.port);
                    match shares.iter_mut().find(is_same) {
                        Some(known) => known.weight = known.weight.saturating_add(*weight),
                        None => shares.push(self.share(world, at, *weight, port)),
                    }
                }
            }
        }
        let target = EndpointTarget {
            owner: gateway,
            route: route.map(|route| ObjectRef::new(route.kind.name(), route.route.clone())),
            shares,
            refused,
            when_empty: WhenEmpty::Reject,
            affinity: false,
            sources: None,
            created,
        };
        let target = match self.last.remove(&at) {
            Some(last) if *last == target => last,
            _ => Arc::new(target),
        };
        self.targets.insert(at, Arc::clone(&target));
        target
    }

    fn share(&mut self, world: &Endpoints<'_>, at: Frontend, weight: u32, port: &ServicePort) -> EndpointShare {
        self.of_service.entry(port.service.clone()).or_default().insert(at);
        let mut share = EndpointShare {
            weight,
            service: port.service.clone(),
            port: port.port,
            port_name: String::new(),
            backends: Vec::new(),
            draining: Vec::new(),
        };
        if let Some(made) = self.made(world, port, at) {
            made.is_used = true;
            made.copy_to(&mut share);
        }
        share
    }

    /// The endpoints of a Service port, as remembered where nothing that they are made of has changed.
    fn made(&mut self, world: &Endpoints<'_>, port: &ServicePort, at: Frontend) -> Option<&mut Made> {
        let service = world.snapshot.services.get(&port.service)?;
        let key = (port.clone(), at.proto, Family::of(at.vip));
        if self.made.get(&key).is_none_or(|made| !Arc::ptr_eq(&made.service, service)) {
            let made = select(world, service, port, at)?;
            self.selections += 1;
            self.made.insert(key.clone(), made);
        }
        self.made.get_mut(&key)
    }

    /// What is said of endpoints that no flow of a frontend may go to.
    fn skipped(&self, target: &EndpointTarget, at: Frontend) -> Vec<String> {
        let mut all = Vec::new();
        for EndpointShare { service, port, .. } in &target.shares {
            let port = ServicePort { service: service.clone(), port: *port };
            let text = format!("Service {port}");
            let made = self.made.get(&(port, at.proto, Family::of(at.vip)));
            all.extend(made.into_iter().flat_map(|made| &made.skipped).map(|sentence| format!("{text}: {sentence}")));
        }
        all
    }

    /// Selects for these Services anew, whose slices are others; whether what is said of endpoints that no flow may go to is as before.
    pub(super) fn refresh(&mut self, world: &Endpoints<'_>, touched: &BTreeSet<ObjectName>) -> bool {
        let mut is_same = true;
        for (key, made) in self.made.iter_mut().filter(|((port, ..), _)| touched.contains(&port.service)) {
            let (port, proto, family) = key;
            let Some(service) = world.snapshot.services.get(&port.service) else { continue };
            let Some(new) = select_of(world, service, port, (*proto, *family)) else { continue };
            self.selections += 1;
            is_same &= new.skipped == made.skipped;
            *made = Made { is_used: made.is_used, ..new };
        }
        is_same
    }

    /// The frontends that have a share of one of these Services, as they were refreshed: those that are not as they were, and how
    /// many were looked at.
    pub(super) fn follow(&mut self, touched: &BTreeSet<ObjectName>) -> (Vec<(Frontend, Arc<EndpointTarget>)>, u64) {
        let frontends = touched.iter().filter_map(|service| self.of_service.get(service)).flatten();
        let frontends: BTreeSet<Frontend> = frontends.copied().collect();
        let (mut changed, mut count) = (Vec::new(), 0);
        for at in frontends {
            let Some(old) = self.targets.get(&at) else { continue };
            count += 1;
            let mut new = EndpointTarget::clone(old);
            for share in new.shares.iter_mut().filter(|share| touched.contains(&share.service)) {
                let port = ServicePort { service: share.service.clone(), port: share.port };
                if let Some(made) = self.made.get(&(port, at.proto, Family::of(at.vip))) {
                    made.copy_to(share);
                }
            }
            if new != **old {
                let new = Arc::new(new);
                self.targets.insert(at, Arc::clone(&new));
                changed.push((at, new));
            }
        }
        (changed, count)
    }
}

fn select(world: &Endpoints<'_>, service: &Arc<Service>, port: &ServicePort, at: Frontend) -> Option<Made> {
    select_of(world, service, port, (at.proto, Family::of(at.vip)))
}

/// The port of a Service with this number and protocol.
fn service_port(service: &Service, port: Port, proto: Proto) -> Option<&service::ServicePort> {
    let name = proto.to_string();
    service.spec.ports.iter().find(|p| p.port == i64::from(port.get()) && p.protocol() == name)
}

/// The endpoints of a Service port; `None` where the Service has no such port.
fn select_of(
    world: &Endpoints<'_>,
    service: &Arc<Service>,
    port: &ServicePort,
    (proto, family): (Proto, Family),
) -> Option<Made> {
    let written = service_port(service, port.port, proto)?;
    let mut selected = endpoints::select_port(world.slices, service, written, family, world.node);
    selected.exclude(|backend: &Backend| world.vips.has(&Frontend { vip: backend.addr, port: backend.port, proto }));
    Some(Made {
        service: Arc::clone(service),
        port_name: written.name.clone(),
        backends: selected.cluster,
        draining: selected.draining,
        skipped: selected.skipped,
        is_used: true,
    })
}
