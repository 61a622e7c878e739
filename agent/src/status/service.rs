//! What is to be written to a Service: the address that it was given, then, once that is programmed, its status.
//!
//! In: the Service, what the model wants for it, what the nodes report. Out: at most one write; the next one follows from
//! what the API server says after it. Pure.
//!
//! ```text
//! wanted --> metadata: finalizer, sluice.dev/allocated --> nodes program it and report --> status.loadBalancer
//! another address is wanted --> status without the old one --> as above
//! none is, or not ours any more --> status without our addresses --> nodes have unprogrammed it --> metadata without our marks
//! ```
//!
//! # Design
//! Only a Service that is ours, or that carries our marks, is written to. Entries of `status.loadBalancer.ingress` and
//! conditions that are not ours stay as they are.
//! No condition names a node: a node's death must not rewrite every Service that it announced or could not reach. Who
//! announces is in `sluice services`, and an Event on the Node tells when that changes ([`super::moves`]).
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{
    NOW,
    conditions::{Wanted, merge},
    openshift::{self, ROUTED},
    view::View,
    write::Write,
};
use crate::{
    api::{Service, service::LoadBalancerIngress},
    membership::number,
    model::{
        ObjectRef, Outcome, Verdict,
        chain::Link,
        ipam::{self, FINALIZER},
        service::CLASS,
    },
    source::Snapshot,
};

/// The type of our condition.
pub const PROGRAMMED: &str = "sluice.dev/Programmed";
/// The type of our condition on Services that stand before a Gateway: whether that leads somewhere.
pub const RESOLVED: &str = "sluice.dev/Resolved";
/// The type of our condition on Services with endpoints that some node cannot reach; it is not there while all can.
pub const REACHABLE: &str = "sluice.dev/Reachable";
/// The types that are ours.
const CONDITIONS: [&str; 4] = [PROGRAMMED, RESOLVED, ROUTED, REACHABLE];

/// The next write, if one is due.
#[must_use]
pub fn plan(service: &Service, snapshot: &Snapshot, view: &View<'_>) -> Option<Write> {
    let object = ObjectRef::new("Service", service.metadata.object_name());
    let verdict = view.model.verdicts.get(&object);
    let is_ours = verdict.is_some_and(|v| v.outcome != Outcome::Ignored);
    if !is_ours {
        return release(service, view);
    }
    let wanted = view.model.wanted.get(&object).map(Vec::as_slice).unwrap_or_default();
    if wanted.is_empty() {
        return refuse(service, verdict, view, &besides(service, snapshot, view));
    }
    // Once the annotation is another, nobody knows which entries of the status were ours.
    if let Some(write) = withdraw(service, wanted) {
        return Some(write);
    }
    if !is_marked(service, wanted) {
        return Some(mark(service, wanted));
    }
    let conflicts = view.conflicts(wanted);
    if !conflicts.is_empty() {
        return contest(service, wanted, &conflicts.join("; "), &besides(service, snapshot, view));
    }
    // The addresses are on the object; a node that has programmed this revision has programmed them.
    if !view.is_programmed(&object, &service.metadata, wanted) {
        return None;
    }
    publish(service, wanted, verdict, &besides(service, snapshot, view), &Shown::of(service, view))
}

/// How kube-proxy is to treat the addresses of a Service, and what is to be said about it.
///
/// # Design
/// `VIP` lets kube-proxy take an address to the Service's endpoints for who dials it from a pod or a node, and, because it
/// does so before a socket is looked up, for whoever comes from outside to a port that leads to our proxy. So `Proxy`
/// wherever one port leads there. Source: KEP-1860; [`Link::mixed`] for Services with both kinds of port.
struct Shown {
    /// `ipMode`.
    mode: &'static str,
    /// Appended to the condition, for people.
    note: String,
}

impl Shown {
    fn of(service: &Service, view: &View<'_>) -> Self {
        let link = view.model.chains.get(&service.metadata.object_name()).map(|chain| &chain.link);
        let is_proxied = |link: &&Link| service.spec.ports.iter().any(|port| link.leads_to_proxy(port));
        match link.filter(is_proxied) {
            None => Self { mode: "VIP", note: String::new() },
            Some(link) => {
                let note = link.mixed(service).map(|text| format!("; {text}")).unwrap_or_default();
                Self { mode: "Proxy", note }
            }
        }
    }
}

fn is_marked(service: &Service, wanted: &[IpAddr]) -> bool {
    let allocated = service.metadata.annotations.get(ipam::ALLOCATED);
    allocated.is_some_and(|text| *text == join(wanted)) && has_finalizer(service)
}

/// The addresses as [`ipam::ALLOCATED`] holds them.
pub(super) fn join(addrs: &[IpAddr]) -> String {
    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The addresses that were written to the object; by us, if the finalizer is there that comes with them. Without it they may
/// be somebody's attempt to have us remove what another controller shows.
fn allocated(service: &Service) -> Vec<IpAddr> {
    if has_finalizer(service) { ipam::written(&service.metadata) } else { Vec::new() }
}

fn mark(service: &Service, wanted: &[IpAddr]) -> Write {
    let mut finalizers = service.metadata.finalizers.clone();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let body = json!({"metadata": {"annotations": {ipam::ALLOCATED: join(wanted)}, "finalizers": finalizers}});
    Write::new::<Service>(&service.metadata, None, body)
        .telling("EnsuringLoadBalancer", format!("Given {}; being programmed", join(wanted)))
}

/// Takes addresses out of the status that the Service has no more, before it gets others.
fn withdraw(service: &Service, wanted: &[IpAddr]) -> Option<Write> {
    let leaving: Vec<IpAddr> = allocated(service).into_iter().filter(|addr| !wanted.contains(addr)).collect();
    let present = &service.status.load_balancer.ingress;
    let ingress = without(present, &leaving);
    if ingress == *present {
        return None;
    }
    let body = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    let text = format!("{} is withdrawn, {} comes in its place", join(&leaving), join(wanted));
    Some(Write::new::<Service>(&service.metadata, Some("status"), body).telling("UpdatedLoadBalancer", text))
}

/// The entries that do not show one of these addresses.
fn without(ingress: &[LoadBalancerIngress], addrs: &[IpAddr]) -> Vec<LoadBalancerIngress> {
    let is_one = |i: &&LoadBalancerIngress| i.ip.parse().is_ok_and(|ip: IpAddr| addrs.contains(&ip));
    ingress.iter().filter(|i| !is_one(i)).cloned().collect()
}

/// Removes what is ours from a Service that has no address any more, and says why.
fn refuse(service: &Service, verdict: Option<&Verdict>, view: &View<'_>, besides: &[Wanted]) -> Option<Write> {
    let ours = allocated(service);
    let (reason, message) = match verdict {
        Some(v) => (v.reason, text(v)),
        None => ("Pending", "it was not looked at yet".to_owned()),
    };
    let conditions = [&[Wanted::fails(PROGRAMMED, reason, message)], besides].concat();
    let status = status(service, &[], &ours, &conditions, "");
    if let Some(status) = status {
        let write = Write::new::<Service>(&service.metadata, Some("status"), status);
        return Some(telling_of(write, service, besides));
    }
    if bears_marks(service) { unmark(service, view) } else { None }
}

/// The reason where another host has the address.
pub(super) const CONFLICT: &str = "AddressConflict";

/// Says that another host has an address: it is not announced, and so it is not shown.
fn contest(service: &Service, wanted: &[IpAddr], text: &str, besides: &[Wanted]) -> Option<Write> {
    let known = service.status.conditions.iter().find(|c| c.type_ == PROGRAMMED);
    let is_new = known.is_none_or(|c| c.reason != CONFLICT || c.message != text);
    let condition = Wanted::fails(PROGRAMMED, CONFLICT, text.to_owned());
    let status = status(service, &[], wanted, &[&[condition], besides].concat(), "VIP")?;
    let write = Write::new::<Service>(&service.metadata, Some("status"), status);
    Some(if is_new { write.warning(CONFLICT, text.to_owned()) } else { write })
}

fn publish(
    service: &Service,
    wanted: &[IpAddr],
    verdict: Option<&Verdict>,
    besides: &[Wanted],
    Shown { mode, note }: &Shown,
) -> Option<Write> {
    // Of what is refused nothing is programmed: its address stays reserved for it, and is not shown.
    let is_refused = verdict.is_some_and(|v| v.outcome == Outcome::Refused);
    let shown = if is_refused { &[][..] } else { wanted };
    let condition = match verdict {
        Some(v) if is_refused => Wanted::fails(PROGRAMMED, v.reason, text(v)),
        Some(v) if v.outcome == Outcome::Partial => Wanted::holds(PROGRAMMED, v.reason, text(v)),
        _ => Wanted::holds(PROGRAMMED, "Programmed", format!("{}{note}", join(wanted))),
    };
    let is_new = !shown.iter().all(|a| service.status.load_balancer.ingress.iter().any(|i| i.ip == a.to_string()));
    let status = status(service, shown, wanted, &[&[condition], besides].concat(), mode)?;
    let mut write = Write::new::<Service>(&service.metadata, Some("status"), status);
    if is_new {
        write = write.telling("EnsuredLoadBalancer", format!("{} is programmed", join(wanted)));
    }
    Some(telling_of(write, service, besides))
}

/// The conditions of Services that stand before a Gateway, ask for a Route, or have endpoints that cannot be reached.
fn besides(service: &Service, snapshot: &Snapshot, view: &View<'_>) -> Vec<Wanted> {
    let routed = openshift::routed(service, snapshot, view);
    resolved(service, view).into_iter().chain(routed).chain(reachable(service, view)).collect()
}

/// Whether nodes leave endpoints out; `None` where none does.
fn reachable(service: &Service, view: &View<'_>) -> Option<Wanted> {
    let said = view.lacking(&ObjectRef::new("Service", service.metadata.object_name()))?;
    Some(Wanted::fails(REACHABLE, "EndpointsLeftOut", said))
}

/// Whether what the Service stands before leads somewhere; `None` where it stands before nothing.
fn resolved(service: &Service, view: &View<'_>) -> Option<Wanted> {
    let chain = view.model.chains.get(&service.metadata.object_name())?;
    Some(match chain.resolved()? {
        Ok(text) => Wanted::holds(RESOLVED, "Resolved", text),
        Err(fault) => Wanted::fails(RESOLVED, fault.reason, fault.message),
    })
}

/// Tells when a Service begins or ceases to lead somewhere, and when the reason changes.
fn telling_of(write: Write, service: &Service, besides: &[Wanted]) -> Write {
    let Some(resolved) = besides.iter().find(|w| w.type_ == RESOLVED) else { return write };
    let present = service.status.conditions.iter().find(|c| c.type_ == RESOLVED);
    if present.is_some_and(|c| c.reason == resolved.reason && (c.status == "True") == resolved.status) {
        return write;
    }
    if resolved.status {
        write.telling("BackendsResolved", resolved.message.clone())
    } else {
        write.warning("BackendsNotResolved", format!("{}: {}", resolved.reason, resolved.message))
    }
}

/// Takes our marks off a Service that is not ours any more, in the order in which it can be done safely.
fn release(service: &Service, view: &View<'_>) -> Option<Write> {
    let is_deleted = service.metadata.deletion_timestamp.is_some();
    if !is_deleted && let Some(body) = cleared(service) {
        let write = Write::new::<Service>(&service.metadata, Some("status"), body);
        let addrs = allocated(service);
        return Some(if addrs.is_empty() {
            write
        } else {
            write.telling("DeletingLoadBalancer", format!("{} is being unprogrammed", join(&addrs)))
        });
    }
    if bears_marks(service) { unmark(service, view) } else { None }
}

/// Whether the finalizer, or the annotation, must be taken off. The finalizer alone may be another implementation's.
fn bears_marks(service: &Service) -> bool {
    let is_of_our_class = service.spec.load_balancer_class.as_deref() == Some(CLASS);
    service.metadata.annotations.contains_key(ipam::ALLOCATED) || (is_of_our_class && has_finalizer(service))
}

/// Whether our marks stay on a Service without addresses until every node has let go of it.
pub(super) fn waits_for_release(service: &Service, view: &View<'_>) -> bool {
    let object = ObjectRef::new("Service", service.metadata.object_name());
    bears_marks(service) && !view.everyone_is_past(&object, number(&service.metadata))
}

fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().any(|f| f == FINALIZER)
}

/// The metadata without our marks, once every node has unprogrammed the Service. Why it has to may stand on another object,
/// a pool, that the nodes see at another moment: the newest revision, that of our own status, is later than either.
fn unmark(service: &Service, view: &View<'_>) -> Option<Write> {
    let object = ObjectRef::new("Service", service.metadata.object_name());
    if !view.everyone_is_past(&object, number(&service.metadata)) {
        return None;
    }
    let mut body = json!({"metadata": {"annotations": {ipam::ALLOCATED: Value::Null}}});
    if has_finalizer(service) {
        let finalizers: Vec<&String> = service.metadata.finalizers.iter().filter(|f| *f != FINALIZER).collect();
        body["metadata"]["finalizers"] = json!(finalizers);
    }
    let addrs = join(&allocated(service));
    Some(
        Write::new::<Service>(&service.metadata, None, body)
            .telling("DeletedLoadBalancer", format!("{addrs} is unprogrammed and free")),
    )
}

/// The status without our addresses and condition; `None` when there are none in it.
fn cleared(service: &Service) -> Option<Value> {
    let present = &service.status.load_balancer.ingress;
    let ingress = without(present, &allocated(service));
    let is_condition_of_ours = |type_: &str| CONDITIONS.contains(&type_);
    let has_condition = service.status.conditions.iter().any(|c| is_condition_of_ours(&c.type_));
    if ingress == *present && !has_condition {
        return None;
    }
    let conditions: Vec<_> = service.status.conditions.iter().filter(|c| !is_condition_of_ours(&c.type_)).collect();
    Some(json!({"status": {"loadBalancer": {"ingress": ingress}, "conditions": conditions}}))
}

/// The status with these addresses in this `ipMode`; foreign entries first. `None` when it is so already.
fn status(service: &Service, addrs: &[IpAddr], ours: &[IpAddr], wanted: &[Wanted], mode: &str) -> Option<Value> {
    let present = &service.status.load_balancer.ingress;
    let mut ingress = without(&without(present, ours), addrs);
    ingress.extend(addrs.iter().map(|addr| LoadBalancerIngress {
        ip: addr.to_string(),
        ip_mode: Some(mode.to_owned()),
        ..LoadBalancerIngress::default()
    }));
    let generation = service.metadata.generation;
    let conditions = merge(&service.status.conditions, &CONDITIONS, wanted, generation, NOW);
    if ingress == *present && conditions == service.status.conditions {
        return None;
    }
    Some(json!({"status": {"loadBalancer": {"ingress": ingress}, "conditions": conditions}}))
}

/// A verdict's messages as one text.
pub(super) fn text(verdict: &Verdict) -> String {
    verdict.messages.join("; ")
}
