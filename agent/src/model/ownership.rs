//! Which object has a VIP and port: the older one, then the one of the lesser kind, then of the lesser name; Services and
//! Gateways alike.
//!
//! In: the snapshot. Out: the order in which objects are compiled, so that whoever finds a frontend taken finds it taken by an
//! object that comes before it. Invariant: no object loses a frontend to a younger one, whichever kinds and namespaces they are of.
use std::sync::Arc;

use super::{Frontend, ObjectRef, gateway, pool::Pools, report::Fault};
use crate::{
    api::{Gateway, ObjectName, Service},
    source::Snapshot,
};

/// An object that has frontends.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    /// A Gateway that is ours.
    Gateway(&'a ObjectName, &'a Arc<Gateway>),
    /// A Service.
    Service(&'a Arc<Service>),
}

impl Object<'_> {
    fn created(&self) -> Option<&str> {
        let metadata = match self {
            Self::Gateway(_, gateway) => &gateway.metadata,
            Self::Service(service) => &service.metadata,
        };
        metadata.creation_timestamp.as_deref()
    }
}

/// All objects, the oldest first, then Gateways before Services, then by name. `services` must be in that order.
pub(super) fn by_age<'a>(snapshot: &'a Snapshot, services: &[&'a Arc<Service>]) -> Vec<Object<'a>> {
    let gateways = gateway::ours(snapshot).map(|(name, gateway)| Object::Gateway(name, gateway));
    let mut objects = gateways.chain(services.iter().map(|service| Object::Service(service))).collect::<Vec<_>>();
    // Stable: what is equally old stays in the order of kinds and names.
    objects.sort_by(|a, b| a.created().cmp(&b.created()));
    objects
}

/// Why an object cannot have a frontend: `holder`, another object, has it, or the host needs its port.
pub(super) fn refusal(frontend: &Frontend, holder: Option<ObjectRef>, pools: &Pools) -> Option<Fault> {
    let port = frontend.port;
    if let Some(why) = pools.reserves(frontend.vip, port) {
        return Some(Fault::new("PortReserved", format!("{frontend}: port {port} is {why}; want another port")));
    }
    let holder = holder?;
    Some(Fault::new("PortConflict", format!("{frontend} belongs to {holder}; want another port")))
}

#[cfg(test)]
mod tests;
