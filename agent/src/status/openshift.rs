//! A Route of OpenShift for each Service that asks for one: what is to be created, changed and deleted.
//!
//! In: the Services that are ours, their chains, the Routes that are there. Out: one write for each Route of ours that is
//! not as it should be, and what a Service's condition says of it. Pure. Routes without [`MANAGED_LABEL`] are not ours.
//!
//! # Design
//! - A Service asks with the annotation [`HOST`]: a host name, or `auto` for the one that the cluster gives. The leader would
//!   make the Route with permissions that the Service's owner may not have, so it is off but for the namespaces and host
//!   names that the admin has allowed ([`crate::config::route_hosts`]); what was made before is removed.
//! - The port is named, not numbered: endpoints behind one port of a Service may have several numbers. Where several
//!   would do, one that leads through the Gateway comes first, then one that speaks TLS, then one that speaks HTTP; the
//!   port where gateways answer probes never.
//! - TLS is passed through to a port that speaks it. To one that does not there is no TLS: the router would answer 503.
use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{conditions::Wanted, view::View, write::Write};
use crate::{
    api::{
        Kind, ObjectMeta, ObjectName, OpenShiftRoute, Service,
        openshift_route::{OpenShiftRoutePort, OpenShiftRouteSpec},
        service::{IntOrString, ServicePort},
    },
    config::route_hosts::AUTO,
    model::{Model, ObjectRef, Outcome, chain::STATUS_PORT, report::Fault},
    source::{Snapshot, snapshot::Off},
};

/// The annotation that asks for a Route.
pub use crate::model::service::ROUTE_HOST as HOST;

/// The label of Routes that are ours.
pub const MANAGED_LABEL: &str = "sluice.dev/managed";
/// The label that names the Service of a Route of ours.
pub const SERVICE_LABEL: &str = "sluice.dev/service";
/// The type of our condition on Services that ask for a Route.
pub const ROUTED: &str = "sluice.dev/Routed";

/// Every write that is due.
#[must_use]
pub fn plan(snapshot: &Snapshot, view: &View<'_>) -> Vec<Write> {
    let (mut writes, mut wanted) = (Vec::new(), BTreeSet::new());
    let is_off = snapshot.off.contains_key(&OpenShiftRoute::resource());
    for service in snapshot.services.values().filter(|_| !is_off) {
        let Some((host, port)) = asked(service, view) else { continue };
        let Ok(port) = port else { continue };
        let name = route_name(service);
        match snapshot.openshift_routes.get(&name) {
            Some(present) if is_ours(present) => writes.extend(changed(service, host, port, present)),
            Some(_) => continue,
            None => writes.push(create(service, host, port)),
        }
        wanted.insert(name);
    }
    let is_stale = |name: &ObjectName, route: &OpenShiftRoute| !is_off && is_ours(route) && !wanted.contains(name);
    let stale = snapshot.openshift_routes.iter().filter(|(name, route)| is_stale(name, route));
    writes.extend(stale.map(|(_, route)| Write::delete::<OpenShiftRoute>(&route.metadata)));
    writes
}

/// What the Service's condition says; `None` where it asks for no Route.
#[must_use]
pub fn routed(service: &Service, snapshot: &Snapshot, view: &View<'_>) -> Option<Wanted> {
    let (_, port) = asked(service, view)?;
    let resource = OpenShiftRoute::resource();
    let (reason, message) = match (port, snapshot.openshift_routes.get(&route_name(service))) {
        (Err(fault), _) => (fault.reason, fault.message),
        (Ok(_), _) if snapshot.off.contains_key(&resource) => match snapshot.off[&resource] {
            Off::Absent => ("NoRouteApi", "the cluster has no Routes (route.openshift.io)".to_owned()),
            Off::Forbidden => ("Forbidden", format!("the agents may not read {resource}: the feature is off")),
            Off::Unread => ("Unread", format!("the API server has not told the {resource} yet")),
        },
        (Ok(_), Some(route)) if !is_ours(route) => {
            ("NameTaken", format!("Route {} is another's; want it gone", route_name(service)))
        }
        (Ok(_), None) => ("Pending", "the Route is not written yet".to_owned()),
        (Ok(_), Some(route)) => {
            let OpenShiftRouteSpec { host, port, tls, to: _ } = &route.spec;
            let port = port.as_ref().map_or_else(|| "any port".to_owned(), |p| format!("port {}", p.target_port));
            let tls = tls.as_ref().map_or_else(|| "without TLS".to_owned(), |tls| format!("TLS {}", tls.termination));
            let text = format!("Route {}: host {host:?}, {port}, {tls}", route.metadata.name);
            return Some(Wanted::holds(ROUTED, "Routed", text));
        }
    };
    Some(Wanted::fails(ROUTED, reason, message))
}

/// What a Service of ours asks for: the host, or that of the cluster, and the port that its Route leads to, or why it gets
/// none. `None` where it asks for none.
fn asked<'a>(service: &'a Service, view: &View<'_>) -> Option<(Option<&'a str>, Result<&'a ServicePort, Fault>)> {
    let host = service.metadata.annotations.get(HOST).map(|host| host.trim()).filter(|host| !host.is_empty())?;
    let verdict = view.model.verdicts.get(&ObjectRef::new(Service::KIND, service.metadata.object_name()))?;
    if verdict.outcome == Outcome::Ignored {
        return None;
    }
    let port = match view.route_hosts.allow(&service.metadata.namespace, host) {
        Err(message) => Err(Fault::new("HostNotAllowed", message)),
        Ok(()) => choose(service, view.model).ok_or_else(|| Fault::new("NoPort", "no port of the Service is TCP")),
    };
    Some((Some(host).filter(|host| *host != AUTO), port))
}

fn choose<'a>(service: &'a Service, model: &Model) -> Option<&'a ServicePort> {
    let chain = model.chains.get(&service.metadata.object_name());
    let leads = |port: &ServicePort| {
        chain.is_some_and(|chain| chain.ports.iter().any(|known| i64::from(known.port.get()) == port.port))
    };
    let rank = |port: &&ServicePort| (!leads(port), !speaks_tls(port), !speaks_http(port));
    let tcp = service.spec.ports.iter().filter(|port| port.protocol() == "TCP" && port.port != STATUS_PORT);
    // The first of those that are equally good.
    tcp.min_by_key(rank)
}

/// Source: the names that Istio and Gateway API give to ports, `https-web` among them; the well-known numbers.
fn speaks_tls(port: &ServicePort) -> bool {
    let says = |text: &str| matches!(text.split('-').next(), Some("https" | "tls"));
    says(&port.name) || matches!(port.port, 443 | 8443) || port.app_protocol.as_deref() == Some("https")
}

fn speaks_http(port: &ServicePort) -> bool {
    let says = |text: &str| matches!(text.split('-').next(), Some("http" | "http2" | "web"));
    says(&port.name) || matches!(port.port, 80 | 8080) || port.app_protocol.as_deref() == Some("http")
}

/// Before the name of a Service, that of its Route.
const PREFIX: &str = "sluice-";

fn route_name(service: &Service) -> ObjectName {
    ObjectName::new(&service.metadata.namespace, format!("{PREFIX}{}", service.metadata.name))
}

/// The Service that a Route of this name would be for.
pub(super) fn service_of(route: &ObjectName) -> Option<ObjectName> {
    Some(ObjectName::new(&route.ns, route.name.strip_prefix(PREFIX)?))
}

fn is_ours(route: &OpenShiftRoute) -> bool {
    route.metadata.labels.get(MANAGED_LABEL).is_some_and(|managed| managed == "true")
}

fn create(service: &Service, host: Option<&str>, port: &ServicePort) -> Write {
    let name = route_name(service);
    let metadata = ObjectMeta { name: name.name, namespace: name.ns, ..ObjectMeta::default() };
    let body = json!({
        "apiVersion": format!("{}/{}", OpenShiftRoute::GROUP, OpenShiftRoute::VERSION),
        "kind": OpenShiftRoute::KIND,
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": { MANAGED_LABEL: "true", SERVICE_LABEL: service.metadata.name },
            "ownerReferences": super::slices::owners(service),
        },
        "spec": spec(service, host, port),
    });
    Write::create::<OpenShiftRoute>(&metadata, body)
}

/// What is wanted; as a merge patch it removes what is not, but for a host that the cluster has given.
fn spec(service: &Service, host: Option<&str>, port: &ServicePort) -> Value {
    let target = target_port(port).map_or(Value::Null, |target| json!({ "targetPort": target }));
    let tls = if speaks_tls(port) { json!({ "termination": "passthrough" }) } else { Value::Null };
    let mut spec =
        json!({ "to": { "kind": Service::KIND, "name": service.metadata.name }, "port": target, "tls": tls });
    if let Some(host) = host {
        spec["host"] = json!(host);
    }
    spec
}

/// A Service with one port need not name it; then any endpoint's will do.
fn target_port(port: &ServicePort) -> Option<IntOrString> {
    (!port.name.is_empty()).then(|| IntOrString::String(port.name.clone()))
}

/// The change of a Route that is there, if it is not as it should be. A host that the cluster has given is left to it.
fn changed(service: &Service, host: Option<&str>, port: &ServicePort, present: &OpenShiftRoute) -> Option<Write> {
    let OpenShiftRouteSpec { host: known, to, port: to_port, tls } = &present.spec;
    let is_passed = tls.as_ref().is_some_and(|tls| tls.termination == "passthrough");
    let is_tls_right = if speaks_tls(port) { is_passed } else { tls.is_none() };
    let is_right = host.is_none_or(|host| host == known)
        && (to.kind.as_str(), &to.name) == (Service::KIND, &service.metadata.name)
        && to_port.as_ref().map(|OpenShiftRoutePort { target_port }| target_port) == target_port(port).as_ref()
        && is_tls_right;
    let owner = &service.metadata.uid;
    if is_right && present.metadata.owner_references.iter().any(|known| known.uid == *owner) {
        return None;
    }
    let owners = super::slices::owners(service);
    let body = json!({ "metadata": { "ownerReferences": owners }, "spec": spec(service, host, port) });
    Some(Write::new::<OpenShiftRoute>(&present.metadata, None, body))
}

#[cfg(test)]
mod tests;
