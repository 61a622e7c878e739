//! Which changes of a Service change nothing of what is made of it: what this program itself writes, mostly.
//!
//! With many Services, each write of a status would otherwise cost a compile of everything.
use std::net::IpAddr;

use crate::api::{
    ObjectMeta, Service,
    service::{LoadBalancerIngress, LoadBalancerStatus, ServiceStatus},
};

/// Whether the new one claims what the old one claimed and is compiled alike. `has` says which addresses it has and
/// should have: that its status shows them, too, confirms them and takes nothing from anybody.
pub(in crate::model) fn is_quiet(old: &Service, new: &Service, has: impl Fn(IpAddr) -> bool) -> bool {
    let Service { metadata, spec, status } = new;
    *spec == old.spec && is_same_metadata(&old.metadata, metadata) && is_same_status(&old.status, status, has)
}

fn is_same_metadata(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let ObjectMeta {
        name,
        namespace,
        uid,
        resource_version: _,
        creation_timestamp,
        deletion_timestamp,
        generation: _,
        labels,
        annotations,
        finalizers: _,
        owner_references,
    } = new;
    (name, namespace, uid) == (&old.name, &old.namespace, &old.uid)
        && (creation_timestamp, deletion_timestamp) == (&old.creation_timestamp, &old.deletion_timestamp)
        && (labels, annotations) == (&old.labels, &old.annotations)
        && *owner_references == old.owner_references
}

fn is_same_status(old: &ServiceStatus, new: &ServiceStatus, has: impl Fn(IpAddr) -> bool) -> bool {
    fn shown(status: &ServiceStatus) -> Vec<(&str, &str)> {
        let ServiceStatus { load_balancer: LoadBalancerStatus { ingress }, conditions: _ } = status;
        fn text(entry: &LoadBalancerIngress) -> (&str, &str) {
            let LoadBalancerIngress { ip, hostname, ip_mode: _, ports: _ } = entry;
            (ip, hostname)
        }
        ingress.iter().map(text).collect()
    }
    let is_had = |(ip, host): &(&str, &str)| host.is_empty() && ip.parse().is_ok_and(&has);
    let (old, new) = (shown(old), shown(new));
    old == new || (new.iter().all(is_had) && old.iter().all(|entry| new.contains(entry)))
}
