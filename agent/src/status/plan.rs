//! Every object that may have to be written, with the function that plans its write.
use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::{
    NOW, gateway, infrastructure, listener_set, openshift, policy, service, slices, version::Bundle, view::View,
    write::Write,
};
use crate::{
    api::{
        AddressPool, BackendTlsPolicy, BackendTrafficPolicy, Gateway, GatewayClass, Kind, ListenerSet, ObjectMeta,
        ObjectName, Route, RouteKind, Service,
    },
    model::{ObjectRef, ipam, pool::pool_status, report::RouteKey},
    shared::SharedMap,
    source::Snapshot,
};

/// One object that may have to be written.
pub(super) struct Plan<'a> {
    /// The object.
    pub(super) object: ObjectRef,
    /// The revision that is at hand.
    pub(super) revision: Cow<'a, str>,
    /// The route that it is.
    pub(super) route: Option<RouteKey>,
    /// Plans; `None` when nothing is to be written.
    pub(super) write: Box<dyn FnOnce() -> Option<Write> + 'a>,
}

impl<'a> Plan<'a> {
    fn new<T: Kind>(object: &'a Arc<T>, write: impl FnOnce(&'a T) -> Option<Write> + 'a) -> Self {
        let metadata = object.metadata();
        Self {
            object: ObjectRef::new(T::KIND, metadata.object_name()),
            revision: Cow::Borrowed(&metadata.resource_version),
            route: None,
            write: Box::new(move || write(object)),
        }
    }

    /// A write that is planned already.
    fn of(write: Write) -> Self {
        let (object, revision) = (write.object.clone(), Cow::Owned(write.revision.clone()));
        Self { object, revision, route: None, write: Box::new(|| Some(write)) }
    }
}

/// Whether an object must be left alone: its namespace is being deleted, and all in it. What is made there is refused,
/// and what is marked holds the namespace up. A Service that is being deleted is let go all the same.
fn is_left_alone(snapshot: &Snapshot, object: &ObjectRef) -> bool {
    let is_cluster_scoped = [GatewayClass::KIND, AddressPool::KIND].contains(&object.kind.as_str());
    if is_cluster_scoped || snapshot.accepts(&object.object.ns) {
        return false;
    }
    let service = snapshot.services.get(&object.object).filter(|_| object.kind == Service::KIND);
    service.is_none_or(|service| service.metadata.deletion_timestamp.is_none())
}

/// All of them, of the routes, Services and Gateways those that are `due`, those first that others wait for; but for those that must be left alone.
pub(super) fn all<'a>(
    snapshot: &'a Snapshot,
    view: View<'a>,
    due: (&'a BTreeSet<RouteKey>, &'a BTreeSet<ObjectRef>),
) -> impl Iterator<Item = Plan<'a>> {
    every(snapshot, view, due).filter(|plan| !is_left_alone(snapshot, &plan.object))
}

fn every<'a>(
    snapshot: &'a Snapshot,
    view: View<'a>,
    (due, objects): (&'a BTreeSet<RouteKey>, &'a BTreeSet<ObjectRef>),
) -> impl Iterator<Item = Plan<'a>> {
    let of = |kind: &'static str| objects.iter().filter(move |object| object.kind == kind).map(|object| &object.object);
    let classes =
        snapshot.gateway_classes.values().map(move |c| Plan::new::<GatewayClass>(c, move |c| class(c, view.bundle)));
    let services = of(Service::KIND)
        .filter_map(|name| snapshot.services.get(name))
        .map(move |s| Plan::new::<Service>(s, move |s| service::plan(s, snapshot, &view)));
    let gateways = of(Gateway::KIND)
        .filter_map(|name| Some((name, snapshot.gateways.get(name)?)))
        .map(move |(name, g)| Plan::new::<Gateway>(g, move |g| gateway_of(g, name, snapshot, &view)));
    let routes = due.iter().filter_map(move |(kind, name)| match kind {
        RouteKind::Http => route(&snapshot.http_routes, name, view),
        RouteKind::Grpc => route(&snapshot.grpc_routes, name, view),
        RouteKind::Tls => route(&snapshot.tls_routes, name, view),
        RouteKind::Tcp => route(&snapshot.tcp_routes, name, view),
        RouteKind::Udp => route(&snapshot.udp_routes, name, view),
    });
    let sets = snapshot.listener_sets.iter().map(move |(name, set)| {
        Plan::new::<ListenerSet>(set, move |set| {
            let desired = listener_set::set_status(set, snapshot, view.model, name, NOW)?;
            status::<ListenerSet>(&set.metadata, desired)
        })
    });
    let traffic = snapshot.backend_traffic_policies.iter().map(move |(name, policy)| {
        Plan::new::<BackendTrafficPolicy>(policy, move |p| {
            status::<BackendTrafficPolicy>(&p.metadata, policy::policy_status(p, view.model, name, NOW)?)
        })
    });
    let policies = snapshot.backend_tls_policies.iter().map(move |(name, policy)| {
        Plan::new::<BackendTlsPolicy>(policy, move |p| {
            status::<BackendTlsPolicy>(&p.metadata, policy::policy_status(p, view.model, name, NOW)?)
        })
    });
    let pools = snapshot.pools.values().map(move |p| Plan::new::<AddressPool>(p, move |p| pool(p, &view)));
    let slices = slices::plan(snapshot, view.model).into_iter().map(Plan::of);
    let openshift = openshift::plan(snapshot, &view).into_iter().map(Plan::of);
    let infrastructure = infrastructure::plan(snapshot, view.model).into_iter().map(Plan::of);
    let own = slices.chain(openshift).chain(infrastructure);
    classes
        .chain(services)
        .chain(gateways)
        .chain(sets)
        .chain(routes)
        .chain(policies)
        .chain(traffic)
        .chain(pools)
        .chain(own)
}

fn status<T: Kind>(metadata: &ObjectMeta, status: impl serde::Serialize) -> Option<Write> {
    let status = serde_json::to_value(status).ok()?;
    Some(Write::new::<T>(metadata, Some("status"), json!({ "status": status })))
}

fn class(class: &GatewayClass, bundle: &Bundle) -> Option<Write> {
    status::<GatewayClass>(&class.metadata, gateway::class_status(class, bundle, NOW)?)
}

fn route<'a, T: Route>(
    all: &'a SharedMap<ObjectName, Arc<T>>,
    name: &'a ObjectName,
    view: View<'a>,
) -> Option<Plan<'a>> {
    let write = move |route: &T| status::<T>(route.metadata(), gateway::route_status(route, view.model, name, NOW)?);
    Some(Plan { route: Some((T::ROUTE, name.clone())), ..Plan::new::<T>(all.get(name)?, write) })
}

/// First the address on the object, then, when it is programmed, the status.
fn gateway_of(gateway: &Gateway, name: &ObjectName, snapshot: &Snapshot, view: &View<'_>) -> Option<Write> {
    let object = ObjectRef::new(Gateway::KIND, name.clone());
    let wanted = view.model.wanted.get(&object).map(Vec::as_slice).unwrap_or_default();
    let given = service::join(wanted);
    let present = gateway.metadata.annotations.get(ipam::ALLOCATED);
    let is_ours = view.model.gateways.contains_key(name) && gateway.metadata.deletion_timestamp.is_none();
    if is_ours && !wanted.is_empty() && present != Some(&given) {
        let body = json!({"metadata": {"annotations": {ipam::ALLOCATED: given}}});
        return Some(Write::new::<Gateway>(&gateway.metadata, None, body));
    }
    if !is_ours && present.is_some() {
        let body = json!({"metadata": {"annotations": {ipam::ALLOCATED: Value::Null}}});
        return Some(Write::new::<Gateway>(&gateway.metadata, None, body));
    }
    let is_given = |value: &String| value.parse().is_ok_and(|addr| wanted.contains(&addr));
    let shown = gateway.status.addresses.iter().any(|a| a.value.as_ref().is_some_and(is_given));
    let is_programmed = view.is_programmed(&object, &gateway.metadata, wanted);
    let conflicts = view.conflicts(wanted);
    if !conflicts.is_empty() {
        let fault = gateway::contested(&conflicts);
        let text = fault.message.clone();
        let known = gateway.status.conditions.iter().find(|c| c.type_ == "Programmed");
        let is_new = known.is_none_or(|c| c.reason != fault.reason || c.message != text);
        let desired = gateway::gateway_status(snapshot, view.model, name, Err(fault), NOW)?;
        let write = status::<Gateway>(&gateway.metadata, desired)?;
        return Some(if is_new { write.warning(service::CONFLICT, text) } else { write });
    }
    // What is shown stays while the nodes catch up with a change that our own write was.
    if !is_programmed && shown && !wanted.is_empty() {
        return None;
    }
    let nodes = if is_programmed { Ok(()) } else { Err(gateway::pending()) };
    let desired = gateway::gateway_status(snapshot, view.model, name, nodes, NOW)?;
    status::<Gateway>(&gateway.metadata, desired)
}

fn pool(pool: &AddressPool, view: &View<'_>) -> Option<Write> {
    let mut desired = pool_status(pool, view.model);
    for condition in &mut desired.conditions {
        let known = pool.status.conditions.iter().find(|c| c.type_ == condition.type_ && c.status == condition.status);
        let since = known.and_then(|c| c.last_transition_time.clone());
        condition.last_transition_time = Some(since.unwrap_or_else(|| NOW.to_owned()));
    }
    if desired == pool.status { None } else { status::<AddressPool>(&pool.metadata, desired) }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        config::route_hosts::RouteHosts,
        membership::{Members, Report, Revisions},
        model::{self, Node, Role, fixture},
    };

    /// E2 of issue 8: what is being deleted is not written to, but for the finalizer of what waits for it.
    #[test]
    fn a_namespace_that_is_being_deleted_is_left_alone() {
        let mut snapshot = fixture::snapshot(&json!([
            { "kind": "Namespace", "metadata": { "name": "default" } },
            { "kind": "Namespace", "metadata": { "name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z" } },
        ]));
        for ns in ["default", "going"] {
            let labels = json!({ "gateway.networking.k8s.io/gateway-name": "edge" });
            for (name, deleted) in [("web", json!(null)), ("leaving", json!("2026-01-01T00:00:00Z"))] {
                let service = json!({
                    "kind": "Service",
                    "metadata": { "name": name, "namespace": ns, "labels": labels, "deletionTimestamp": deleted },
                    "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
                });
                fixture::add(&mut snapshot, &service).unwrap();
            }
        }
        let model = model::compile(&snapshot, &fixture::node(&["192.0.2.0/24"]));
        let (members, hosts) = (Members::default(), RouteHosts::default());
        let view = View {
            model: &model,
            members: &members,
            revisions: &Revisions::default(),
            route_hosts: &hosts,
            bundle: &Bundle::Unknown,
        };
        let due = snapshot.services.keys().map(|name| ObjectRef::new(Service::KIND, name.clone())).collect();
        let planned: Vec<String> =
            all(&snapshot, view, (&BTreeSet::new(), &due)).map(|plan| plan.object.to_string()).collect();
        assert_eq!(planned, ["Service default/leaving", "Service default/web", "Service going/leaving"]);
    }
    /// The write that is due for the Gateway, where node `a` has found these addresses to be another host's.
    fn due(gateway: &Value, conflicts: &[IpAddr]) -> Option<Write> {
        let class = json!({"kind": "GatewayClass", "metadata": {"name": "c"}, "spec": {"controllerName": "sluice.dev/gateway"}});
        let snapshot = fixture::snapshot(&json!([class, gateway]));
        let node = Node { role: Role::Member, ..fixture::node(&["192.0.2.0/24"]) };
        let model = model::compile(&snapshot, &node);
        let conflicts = conflicts.iter().map(|addr| (*addr, "another host has it".to_owned())).collect();
        let alive = [("a".to_owned(), Report { conflicts, ..Report::default() })].into();
        let members = Members { alive, is_blind: false };
        let hosts = RouteHosts::default();
        let view = View {
            model: &model,
            members: &members,
            revisions: &Revisions::default(),
            route_hosts: &hosts,
            bundle: &Bundle::Unknown,
        };
        let (name, gateway) = snapshot.gateways.iter().next().unwrap();
        gateway_of(gateway, name, &snapshot, &view)
    }

    #[test]
    fn b8_a_gateways_address_that_another_host_has_is_told_by_an_event_once() {
        let mut gateway = json!({"kind": "Gateway", "metadata": {"name": "edge", "uid": "u", "resourceVersion": "1"},
            "spec": {"gatewayClassName": "c", "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}});
        let given = due(&gateway, &[]).unwrap().body["metadata"]["annotations"].clone();
        let address: IpAddr = given[ipam::ALLOCATED].as_str().unwrap().parse().unwrap();
        gateway["metadata"]["annotations"] = given;
        let write = due(&gateway, &[address]).unwrap();
        let said = format!("{address}: another host has it");
        let [note] = &write.events[..] else { panic!("{:?}", write.events) };
        assert_eq!((note.is_warning, note.reason, &note.text), (true, service::CONFLICT, &said));
        let conditions = write.body["status"]["conditions"].as_array().unwrap();
        let programmed = conditions.iter().find(|c| c["type"] == "Programmed").unwrap();
        assert_eq!((&programmed["reason"], &programmed["message"]), (&json!("AddressNotUsable"), &json!(said)));
        // What else may have to be written does not tell it again.
        gateway["status"] = write.body["status"].clone();
        gateway["status"]["listeners"] = json!([]);
        assert_eq!(due(&gateway, &[address]).unwrap().events, []);
    }
}
