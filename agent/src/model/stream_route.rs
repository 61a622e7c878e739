//! TLSRoutes, TCPRoutes and UDPRoutes -> what their references name. `model::route` attaches them.
//!
//! Which route of a listener serves is for who compiles the listener: the oldest for TCP and UDP, the one with the most
//! specific name for TLS. Endpoints are not looked up here.
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::{
    Proto,
    backend_ref::{self, Referrer},
    http::{Hostname, ServicePort},
    report::Fault,
    rule::{About, Faults, World},
};
use crate::api::{
    ObjectName, Route, RouteKind, TcpRoute, TlsRoute, UdpRoute,
    stream_route::{StreamRouteRule, StreamRouteSpec},
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
pub(super) trait StreamRoute: Route {
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

/// Where the connections of a route go, and how many rules it has written.
pub(super) fn compile<T: StreamRoute>(
    world: &World<'_>,
    name: &ObjectName,
    route: &T,
    faults: &mut Faults,
) -> (Vec<StreamShare>, usize) {
    let rules = &route.spec().rules;
    let from = Referrer { kind: T::ROUTE, route: name };
    (shares(world, from, T::PROTO, rules, faults), rules.len().max(1))
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
