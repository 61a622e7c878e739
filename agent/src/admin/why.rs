//! `GET /api/v1/objects/KIND/NAME`: what became of one object, be it served, refused, ignored or unknown.
//!
//! In: kind and name as people write them, in any case, plural or short. Out: the verdict with what stands behind it; for
//! an object that the model does not judge, why it does not; for a name that nobody knows, the nearest that there is.
mod route;
mod secured;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{Stages, collect::object_view, explain, view};
use crate::{
    api::{EndpointSlice, ObjectName},
    model::{Model, ObjectRef},
    source::{Snapshot, snapshot::Fault},
    spelling::nearest,
};

/// A kind that may be asked for.
struct Known {
    /// As in the API.
    kind: &'static str,
    /// Plural and short names, in small letters.
    names: &'static [&'static str],
    is_namespaced: bool,
    reading: Reading,
}

/// What is done with the objects of a kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The model says what becomes of each.
    Judged,
    /// It is read for the sake of others.
    Beside(&'static str),
}

const fn known(kind: &'static str, names: &'static [&'static str], is_namespaced: bool, reading: Reading) -> Known {
    Known { kind, names, is_namespaced, reading }
}

const KINDS: [Known; 18] = [
    known("Service", &["services", "svc"], true, Reading::Judged),
    known("Gateway", &["gateways", "gtw"], true, Reading::Judged),
    known("GatewayClass", &["gatewayclasses", "gc"], false, Reading::Judged),
    known("HTTPRoute", &["httproutes"], true, Reading::Judged),
    known("AddressPool", &["addresspools", "pool", "pools"], false, Reading::Judged),
    known("EndpointSlice", &["endpointslices"], true, Reading::Beside("its endpoints are those of its Service")),
    known("Namespace", &["namespaces", "ns"], false, Reading::Beside("selectors look at its labels")),
    known("Node", &["nodes", "no"], false, Reading::Beside("its addresses and its state are looked at")),
    known(
        "ReferenceGrant",
        &["referencegrants", "refgrant"],
        true,
        Reading::Beside("what it permits is looked up where another namespace refers to something of its own"),
    ),
    known("Secret", &["secrets"], true, Reading::Beside("its certificate is that of the listeners that refer to it")),
    known("ConfigMap", &["configmaps", "cm"], true, Reading::Beside("its authorities are those of what refers to it")),
    known("GRPCRoute", &["grpcroutes"], true, Reading::Judged),
    known("TLSRoute", &["tlsroutes"], true, Reading::Judged),
    known("TCPRoute", &["tcproutes"], true, Reading::Judged),
    known("UDPRoute", &["udproutes"], true, Reading::Judged),
    known("ListenerSet", &["listenersets", "lset"], true, Reading::Judged),
    known("BackendTLSPolicy", &["backendtlspolicies", "btlspolicy"], true, Reading::Judged),
    known("XBackendTrafficPolicy", &["xbackendtrafficpolicies", "xbtrafficpolicy"], true, Reading::Judged),
];

/// What a listener of a Gateway is called when it is asked for.
const LISTENER: [&str; 2] = ["listener", "listeners"];

/// What became of an object.
///
/// # Errors
/// The kind, or the object, is not known: a sentence, with the nearest name that is.
pub(super) fn object(stages: &Stages, kind: &str, name: &str) -> Result<view::Object, String> {
    // No kind of the API, but what people ask for.
    if LISTENER.contains(&kind.to_lowercase().as_str()) {
        return secured::listener(&stages.models.borrow().clone(), name, jiff::Timestamp::now().as_second());
    }
    let snapshot = stages.snapshots.borrow().clone().unwrap_or_default();
    let model = stages.models.borrow().clone();
    let known = match route::is_any(kind) {
        true => find(route::kind_of(&snapshot, &model, name)?)?,
        false => find(kind)?,
    };
    let object = ObjectRef::new(known.kind, read_name(known, name)?);
    if known.kind == "Secret"
        && let Some(found) = secured::secret(&snapshot, &model, &object.object, jiff::Timestamp::now().as_second())
    {
        return Ok(found);
    }
    let name = object.to_string();
    let faults = snapshot.faults.iter().filter(|fault| fault.object.as_ref() == Some(&name));
    let faults = faults.map(sentence).collect::<Vec<_>>();
    let mut view = match model.verdicts.get(&object) {
        Some(verdict) => {
            let mut view = object_view(&object, Some(verdict));
            let (bound, conflicts, host) = {
                let applied = stages.applied.borrow();
                (applied.bound.clone(), applied.conflicts.clone(), applied.host.clone())
            };
            view.messages.extend(explain::lines(&model, &conflicts, &object));
            view.messages.extend(route::lines(&model, &object));
            let pressed = stages.gateways.pressed().into_iter();
            let own = pressed.filter(|one| object.kind == "Gateway" && one.gateway == object.object);
            view.messages.extend(own.map(|pressed| format!("a bound was reached: {pressed}")));
            for addr in model.allocations.get(&object).into_iter().flatten() {
                view.messages.extend(bound.get(addr).map(|at| format!("{addr}: {}", at.sentence())));
                view.messages.extend(conflicts.get(addr).map(|by| format!("{addr}: {}", by.sentence())));
            }
            let endpoints = explain::endpoints(&model, &object);
            view.messages.extend(left_out(stages, &endpoints));
            if !endpoints.is_empty() {
                view.messages.extend(host);
            }
            view.messages.extend(ejected(stages, &model, &object));
            if let Some(why) = stages.applied.borrow().unprogrammed.get(&name) {
                view.messages.push(format!("not programmed: {why}"));
            }
            if let Some(chain) = model.chains.get(&object.object).filter(|_| object.kind == "Service") {
                view.messages.extend(chain.lines());
            }
            view
        }
        None if !faults.is_empty() => {
            return Ok(view::Object {
                messages: faults,
                ..plain(&object, "refused", "InvalidManifest", String::new())
            });
        }
        None if names(&snapshot, known.kind).contains(&object.object) => {
            let mut view = unjudged(&snapshot, known, &object);
            let slice = snapshot.slices.get(&object.object).filter(|_| known.kind == "EndpointSlice");
            let addresses = slice.into_iter().flat_map(|slice| &slice.endpoints).flat_map(|e| &e.addresses);
            let addresses = addresses.filter_map(|addr| addr.parse().ok()).collect();
            view.messages.extend(left_out(stages, &addresses));
            view.messages.extend(ejected(stages, &model, &object));
            view
        }
        None => return Err(unknown(&snapshot, &model, known, &object)),
    };
    let closed = snapshot.services.get(&object.object).filter(|_| object.kind == "Service");
    let is_closed = closed.is_some_and(|service| service.spec.unread_sources.is_some());
    let instead = if is_closed { "closed until this is mended" } else { "its last good form is in force" };
    view.messages.extend(faults.into_iter().map(|fault| format!("{instead}: {fault}")));
    Ok(view)
}

/// Which of these endpoints this node leaves out, in sentences.
fn left_out(stages: &Stages, endpoints: &BTreeSet<IpAddr>) -> Vec<String> {
    let applied = stages.applied.borrow();
    let of_these = applied.left_out.iter().filter(|(endpoint, _)| endpoints.contains(endpoint));
    of_these.map(|(endpoint, why)| format!("endpoint {endpoint} is left out on this node: {why}")).collect()
}

/// Which endpoints of a Service, or of a route, the proxy passes over, in sentences.
fn ejected(stages: &Stages, model: &Model, object: &ObjectRef) -> Vec<String> {
    let all = stages.ejections.now();
    if all.is_empty() {
        return Vec::new();
    }
    let of_service =
        model.http.services.keys().filter(|port| object.kind == "Service" && port.service == object.object);
    let of_route = model.http.rules_of(object).flat_map(|rule| rule.services());
    let endpoints: BTreeSet<_> = of_service.chain(of_route).flat_map(|port| model.http.addresses(port)).collect();
    let of_these = all.iter().filter(|(endpoint, _)| endpoints.contains(endpoint));
    of_these.map(|(endpoint, why)| format!("endpoint {endpoint} is ejected: {why}")).collect()
}

fn plain(object: &ObjectRef, outcome: &str, reason: &str, message: String) -> view::Object {
    view::Object {
        kind: object.kind.clone(),
        name: object.object.to_string(),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        messages: vec![message],
    }
}

fn sentence(fault: &Fault) -> String {
    let Fault { origin, line, object: _, reason } = fault;
    line.map_or_else(|| format!("{origin}: {reason}"), |line| format!("{origin}:{line}: {reason}"))
}

/// The kind that somebody means.
fn find(written: &str) -> Result<&'static Known, String> {
    let lower = written.to_lowercase();
    // `httproutes.gateway.networking.k8s.io`, as kubectl prints it.
    let bare = lower.split('.').next().unwrap_or_default();
    let is = |known: &&Known| known.kind.eq_ignore_ascii_case(bare) || known.names.contains(&bare);
    KINDS.iter().find(is).ok_or_else(|| {
        let meant = nearest(bare, KINDS.iter().flat_map(|known| known.names.iter().copied().chain([known.kind])));
        let meant = meant.and_then(|name| KINDS.iter().find(|k| k.kind == name || k.names.contains(&name)));
        match meant {
            Some(known) => format!("kind {written:?} is not known, did you mean {}?", known.kind),
            None => format!(
                "kind {written:?} is not known, want one of {}, Listener",
                KINDS.map(|known| known.kind).join(", ")
            ),
        }
    })
}

fn read_name(known: &Known, written: &str) -> Result<ObjectName, String> {
    let kind = known.kind;
    match (written.split_once('/'), known.is_namespaced) {
        (Some((ns, name)), true) if !name.contains('/') => Ok(ObjectName::new(ns, name)),
        (None, true) => Ok(ObjectName::new("default", written)),
        (None, false) => Ok(ObjectName::new("", written)),
        (Some(_), true) => Err(format!("{kind} {written:?}: want {kind}/NAMESPACE/NAME")),
        (Some(_), false) => Err(format!("{kind} {written:?}: a {kind} is in no namespace, want {kind}/NAME")),
    }
}

/// The objects of a kind that were read.
fn names(snapshot: &Snapshot, kind: &str) -> Vec<ObjectName> {
    let bare = |name: &String| ObjectName::new("", name);
    match kind {
        "Service" => snapshot.services.keys().cloned().collect(),
        "Gateway" => snapshot.gateways.keys().cloned().collect(),
        "GatewayClass" => snapshot.gateway_classes.keys().map(bare).collect(),
        "HTTPRoute" => snapshot.http_routes.keys().cloned().collect(),
        "AddressPool" => snapshot.pools.keys().map(bare).collect(),
        "EndpointSlice" => snapshot.slices.keys().cloned().collect(),
        "GRPCRoute" => snapshot.grpc_routes.keys().cloned().collect(),
        "TLSRoute" => snapshot.tls_routes.keys().cloned().collect(),
        "TCPRoute" => snapshot.tcp_routes.keys().cloned().collect(),
        "UDPRoute" => snapshot.udp_routes.keys().cloned().collect(),
        "ListenerSet" => snapshot.listener_sets.keys().cloned().collect(),
        "BackendTLSPolicy" => snapshot.backend_tls_policies.keys().cloned().collect(),
        "XBackendTrafficPolicy" => snapshot.backend_traffic_policies.keys().cloned().collect(),
        "ReferenceGrant" => snapshot.grants.keys().cloned().collect(),
        "Namespace" => snapshot.namespaces.keys().map(bare).collect(),
        "Node" => snapshot.nodes.keys().map(bare).collect(),
        _ => Vec::new(),
    }
}

/// What was read and has no verdict.
fn unjudged(snapshot: &Snapshot, known: &Known, object: &ObjectRef) -> view::Object {
    let service = |slice: &Arc<EndpointSlice>| slice.service_name();
    let message = match (known.reading, snapshot.slices.get(&object.object).and_then(service)) {
        (Reading::Beside(_), Some(service)) if known.kind == "EndpointSlice" => {
            format!("its endpoints are those of Service {service}: `sluice why service/{service}` tells of them")
        }
        (Reading::Beside(_), None) if known.kind == "EndpointSlice" => {
            format!("it has no label {}: it belongs to no Service", crate::api::endpoint_slice::SERVICE_NAME_LABEL)
        }
        (Reading::Beside(what), _) => what.to_owned(),
        (Reading::Judged, _) => "it was read, and the next model will say what becomes of it".to_owned(),
    };
    plain(object, "ignored", "ReadForOthers", message)
}

fn unknown(snapshot: &Snapshot, model: &Model, known: &Known, object: &ObjectRef) -> String {
    let judged = model.verdicts.keys().filter(|o| o.kind == known.kind).map(|o| o.object.clone());
    let all = names(snapshot, known.kind).into_iter().chain(judged).collect::<Vec<_>>();
    let ObjectName { ns, name } = &object.object;
    // The namespace is rarely what is misspelt, and often what is forgotten.
    let near = nearest(name, all.iter().map(|known| known.name.as_str()));
    let meant = near.and_then(|near| all.iter().filter(|known| known.name == near).max_by_key(|known| known.ns == *ns));
    let meant = meant.map(|name| format!(", did you mean {name}?")).unwrap_or_default();
    format!("no {object} is known to this node{meant}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_found_by_each_of_its_names_and_a_misspelt_one_is_offered() {
        for (written, expected) in [
            ("svc", "Service"),
            ("SERVICE", "Service"),
            ("httproutes.gateway.networking.k8s.io", "HTTPRoute"),
            ("pool", "AddressPool"),
            ("grpcroute", "GRPCRoute"),
        ] {
            assert_eq!(find(written).map(|known| known.kind).ok(), Some(expected), "{written}");
        }
        let said = |written| find(written).err().unwrap();
        assert_eq!(said("servce"), "kind \"servce\" is not known, did you mean Service?");
        assert!(said("deployment").contains("want one of Service, Gateway"));
    }

    #[test]
    fn names_are_read_by_the_scope_of_their_kind() {
        let read = |kind, name| read_name(find(kind).unwrap(), name).map(|name| name.to_string());
        assert_eq!(read("service", "infra/web"), Ok("infra/web".into()));
        assert_eq!(read("service", "web"), Ok("default/web".into()));
        assert_eq!(read("gatewayclass", "sluice"), Ok("sluice".into()));
        assert!(read("gatewayclass", "a/b").unwrap_err().contains("is in no namespace, want GatewayClass/NAME"));
        assert!(read("service", "a/b/c").unwrap_err().contains("want Service/NAMESPACE/NAME"));
    }

    #[test]
    fn an_unknown_object_is_told_with_the_nearest_name() {
        let names = serde_json::json!([
            {"kind": "Service", "metadata": {"name": "web", "namespace": "default"}},
            {"kind": "Service", "metadata": {"name": "dns", "namespace": "infra"}},
        ]);
        let snapshot = crate::model::fixture::snapshot(&names);
        let model = crate::model::compile(&snapshot, &crate::model::fixture::node(&[]));
        let said = |name| {
            unknown(
                &snapshot,
                &model,
                find("service").unwrap(),
                &ObjectRef::new("Service", ObjectName::new("default", name)),
            )
        };
        assert_eq!(said("wbe"), "no Service default/wbe is known to this node, did you mean default/web?");
        assert_eq!(said("dns"), "no Service default/dns is known to this node, did you mean infra/dns?");
        assert_eq!(said("other"), "no Service default/other is known to this node");
    }
}
