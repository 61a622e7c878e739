//! TLSRoutes, TCPRoutes and UDPRoutes -> the routes of each listener, oldest first, with what their references name.
//!
//! Which route of a listener serves is for who compiles the listener: the oldest for TCP and UDP, the one with the most
//! specific name for TLS. Endpoints are not looked up here.
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{
    Model, ObjectRef, Proto,
    attach::{attach, by_age},
    backend_ref::{self, Referrer},
    gateway::Listeners,
    http::{Hostname, ServicePort},
    report::{Fault, RouteReports, Subject},
    rule::{About, Faults, World},
};
use crate::{
    api::{
        ObjectName, Route, RouteKind, TcpRoute, TlsRoute, UdpRoute,
        stream_route::{StreamRouteRule, StreamRouteSpec},
    },
    shared::SharedMap,
};

/// A route that is attached to a listener.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEntry {
    /// Its kind.
    pub kind: RouteKind,
    /// The route.
    pub route: ObjectName,
    /// Those of its host names that fit the listener; [`Hostname::Any`] of TCP and UDP.
    pub hostnames: Vec<Hostname>,
    /// Where connections go; none where the rule names nobody.
    pub shares: Arc<Vec<StreamShare>>,
}

/// A part of a route's connections, or of its datagrams' flows.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamShare {
    /// The weight; may be 0.
    pub weight: u32,
    /// Who gets it.
    pub to: StreamTarget,
}

/// Who gets a share.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamTarget {
    /// The endpoints of a Service port.
    Service(ServicePort),
    /// Nobody, because the reference is bad. The text says why.
    Invalid(String),
}

/// A kind of route whose connections nobody looks into.
trait StreamRoute: Route {
    /// The protocol of its backends.
    const PROTO: Proto;

    fn spec(&self) -> &StreamRouteSpec;
}

impl StreamRoute for TlsRoute {
    const PROTO: Proto = Proto::Tcp;

    fn spec(&self) -> &StreamRouteSpec {
        &self.spec
    }
}

impl StreamRoute for TcpRoute {
    const PROTO: Proto = Proto::Tcp;

    fn spec(&self) -> &StreamRouteSpec {
        &self.spec
    }
}

impl StreamRoute for UdpRoute {
    const PROTO: Proto = Proto::Udp;

    fn spec(&self) -> &StreamRouteSpec {
        &self.spec
    }
}

/// Attaches the routes of these kinds, and adds their verdicts and reports.
pub(super) fn attach_all(
    world: &World<'_>,
    listeners: &mut Listeners<'_>,
    model: &mut Model,
    reports: &mut RouteReports,
) {
    attach_kind(world, &world.snapshot.tls_routes, listeners, model, reports);
    attach_kind(world, &world.snapshot.tcp_routes, listeners, model, reports);
    attach_kind(world, &world.snapshot.udp_routes, listeners, model, reports);
}

fn attach_kind<T: StreamRoute>(
    world: &World<'_>,
    routes: &SharedMap<ObjectName, Arc<T>>,
    listeners: &mut Listeners<'_>,
    model: &mut Model,
    reports: &mut RouteReports,
) {
    for (name, route) in by_age(routes) {
        let attachment = attach(world.snapshot, name, route.as_ref(), listeners);
        let mut faults = Faults::new();
        if !attachment.is_foreign {
            let from = Referrer { kind: T::ROUTE, route: name };
            let shares = Arc::new(shares(world, from, T::PROTO, &route.spec().rules, &mut faults));
            for (gateway, index) in &attachment.listeners {
                let Some(served) = listeners.get_mut(gateway).and_then(|all| all.get_mut(*index)) else { continue };
                let Ok(open) = served.open().cloned() else { continue };
                let fits = attachment.hostnames.iter().filter(|h| h.intersects(&open.hostname));
                let hostnames = fits.cloned().collect();
                let (kind, route, shares) = (T::ROUTE, name.clone(), Arc::clone(&shares));
                served.streams.push(StreamEntry { kind, route, hostnames, shares });
            }
        }
        let rules = route.spec().rules.len().max(1);
        let (verdict, report) = attachment.conclude(Subject::of(route.metadata()), rules, faults);
        model.judge(ObjectRef::new(T::KIND, name.clone()), verdict);
        if !report.parents.is_empty() {
            reports.insert((T::ROUTE, name.clone()), report);
        }
    }
}

/// The shares of a route's one rule. What a second rule says is not obeyed.
fn shares(
    world: &World<'_>,
    from: Referrer<'_>,
    proto: Proto,
    rules: &[StreamRouteRule],
    faults: &mut Faults,
) -> Vec<StreamShare> {
    let rule = rules.first();
    if rule.is_none_or(|rule| rule.backend_refs.is_empty()) {
        faults.push((About::Rule(0), Fault::new("UnsupportedValue", "rule 0 has no backendRefs, want one at least")));
    }
    if rules.len() > 1 {
        let why = format!("the route has {} rules, want one: those after the first are not obeyed", rules.len());
        faults.push((About::Rule(1), Fault::new("UnsupportedValue", why)));
    }
    let share = |spec: &crate::api::route::BackendRef| {
        let to = match backend_ref::resolve(world, from, spec.into(), proto) {
            Ok((port, _)) => StreamTarget::Service(port),
            Err(fault) => {
                let to = StreamTarget::Invalid(fault.message.clone());
                faults.push((About::Backend, fault.at("rule 0")));
                to
            }
        };
        StreamShare { weight: backend_ref::weight(spec.weight), to }
    };
    rule.into_iter().flat_map(|rule| &rule.backend_refs).map(share).collect()
}
