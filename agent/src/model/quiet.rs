//! Which changes of objects change nothing of what is made of them: what this program itself writes, mostly.
//!
//! With many objects, each write of a status would otherwise cost a compile of everything. What counts of a kind is declared
//! with the kind ([`Kind::is_quiet`]); of Services and Gateways, the addresses in `status` are input as well.
use std::{net::IpAddr, sync::Arc};

use crate::{
    api::{Gateway, Kind, Service, gateway::GatewayAddress, service::LoadBalancerIngress},
    shared::{Difference, SharedMap},
};

/// Whether all that differs in a kind is quiet.
pub(super) fn all<T: Kind>(old: &SharedMap<T::Key, Arc<T>>, new: &SharedMap<T::Key, Arc<T>>) -> bool {
    all_by(old, new, |_, old, new| old.is_quiet(new))
}

/// As [`all`], of a kind for which more counts.
pub(super) fn all_by<T: Kind>(
    old: &SharedMap<T::Key, Arc<T>>,
    new: &SharedMap<T::Key, Arc<T>>,
    mut is_quiet: impl FnMut(&T::Key, &T, &T) -> bool,
) -> bool {
    let mut changed = old.differences(new, |(_, a), (_, b)| Arc::ptr_eq(a, b));
    changed.all(|Difference { key, old, new }| match (old, new) {
        (Some(old), Some(new)) => is_quiet(key, old, new),
        _ => false,
    })
}

/// Whether a Service claims what it claimed and is compiled alike. `has` says which addresses it has and should have: that
/// its status shows them, too, confirms them and takes nothing from anybody.
pub(super) fn service(old: &Service, new: &Service, has: impl Fn(IpAddr) -> bool) -> bool {
    fn shown(service: &Service) -> Vec<(&str, &str)> {
        fn text(entry: &LoadBalancerIngress) -> (&str, &str) {
            let LoadBalancerIngress { ip, hostname, ip_mode: _, ports: _ } = entry;
            (ip, hostname)
        }
        service.status.load_balancer.ingress.iter().map(text).collect()
    }
    old.is_quiet(new) && confirms(&shown(old), &shown(new), has)
}

/// The same of a Gateway.
pub(super) fn gateway(old: &Gateway, new: &Gateway, has: impl Fn(IpAddr) -> bool) -> bool {
    fn shown(gateway: &Gateway) -> Vec<(&str, &str)> {
        fn text(address: &GatewayAddress) -> (&str, &str) {
            let GatewayAddress { kind: _, value } = address;
            (value.as_deref().unwrap_or_default(), "")
        }
        gateway.status.addresses.iter().map(text).collect()
    }
    old.is_quiet(new) && confirms(&shown(old), &shown(new), has)
}

/// Whether what status shows now, addresses and host names, is what it showed before, or more of what the object has.
fn confirms(old: &[(&str, &str)], new: &[(&str, &str)], has: impl Fn(IpAddr) -> bool) -> bool {
    let is_had = |(ip, host): &(&str, &str)| host.is_empty() && ip.parse().is_ok_and(&has);
    old == new || (new.iter().all(is_had) && old.iter().all(|entry| new.contains(entry)))
}
