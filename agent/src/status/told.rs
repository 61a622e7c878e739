//! What people are told, as Events, of objects that do not work or not as they may think: pure.
use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;

use super::{service, write::Note};
use crate::{
    api::{
        AddressPool, BackendTlsPolicy, BackendTrafficPolicy, Gateway, GatewayClass, GrpcRoute, HttpRoute, Kind,
        ListenerSet, Node, Service, TcpRoute, TlsRoute, UdpRoute,
    },
    model::{ObjectRef, Outcome, Verdict, service::unknown_annotations},
    shared::SharedMap,
    source::Snapshot,
};

/// The warning that a verdict is worth; `None` where there is nothing to warn of.
pub(super) fn warning(object: &ObjectRef, verdict: &Verdict, snapshot: &Snapshot) -> Option<Note> {
    let note = |reason, text| Some(Note { is_warning: true, reason, text });
    let is_service = object.kind == Service::KIND;
    match verdict.outcome {
        Outcome::Refused | Outcome::Partial if verdict.reason == "Pending" => None,
        Outcome::Refused | Outcome::Partial => {
            let reason = match (is_service, verdict.outcome) {
                // As upstream's service controller names it.
                (true, _) => "SyncLoadBalancerFailed",
                (false, Outcome::Partial) => "PartiallyAccepted",
                (false, _) => "NotAccepted",
            };
            note(reason, format!("{}: {}", verdict.reason, service::text(verdict)))
        }
        Outcome::Accepted if is_service => {
            let unknown = unknown_annotations(snapshot.services.get(&object.object)?);
            if unknown.is_empty() { None } else { note("UnknownAnnotation", unknown.join("; ")) }
        }
        Outcome::Accepted | Outcome::Ignored => None,
    }
}

/// A Node as an Event names it.
pub(super) fn node(name: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(Node::VERSION.to_owned()),
        kind: Some(Node::KIND.to_owned()),
        name: Some(name.to_owned()),
        // As the kubelet does: `kubectl describe node` looks for the name here.
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}

/// An object as an Event names it: with its identity, without which `kubectl describe` does not show the Event.
pub(super) fn reference(object: &ObjectRef, snapshot: Option<&Snapshot>) -> ObjectReference {
    let name = &object.object;
    if object.kind == Node::KIND {
        return node(&name.name);
    }
    let (uid, api_version) = match object.kind.as_str() {
        Gateway::KIND => identity(snapshot.map(|s| &s.gateways), name),
        HttpRoute::KIND => identity(snapshot.map(|s| &s.http_routes), name),
        GrpcRoute::KIND => identity(snapshot.map(|s| &s.grpc_routes), name),
        TlsRoute::KIND => identity(snapshot.map(|s| &s.tls_routes), name),
        TcpRoute::KIND => identity(snapshot.map(|s| &s.tcp_routes), name),
        UdpRoute::KIND => identity(snapshot.map(|s| &s.udp_routes), name),
        BackendTrafficPolicy::KIND => identity(snapshot.map(|s| &s.backend_traffic_policies), name),
        BackendTlsPolicy::KIND => identity(snapshot.map(|s| &s.backend_tls_policies), name),
        ListenerSet::KIND => identity(snapshot.map(|s| &s.listener_sets), name),
        GatewayClass::KIND => identity(snapshot.map(|s| &s.gateway_classes), &name.name),
        AddressPool::KIND => identity(snapshot.map(|s| &s.pools), &name.name),
        _ => identity(snapshot.map(|s| &s.services), name),
    };
    ObjectReference {
        api_version: Some(api_version),
        kind: Some(object.kind.clone()),
        namespace: Some(name.ns.clone()).filter(|ns| !ns.is_empty()),
        name: Some(name.name.clone()),
        uid,
        ..ObjectReference::default()
    }
}

/// The identity of an object, where it is known, and the version that its kind is read at.
fn identity<T: Kind>(objects: Option<&SharedMap<T::Key, Arc<T>>>, key: &T::Key) -> (Option<String>, String) {
    let uid = objects.and_then(|objects| objects.get(key)).map(|object| object.metadata().uid.clone());
    (uid, api_version::<T>())
}

fn api_version<T: Kind>() -> String {
    if T::GROUP.is_empty() { T::VERSION.to_owned() } else { format!("{}/{}", T::GROUP, T::VERSION) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::ObjectName,
        model::{compile, fixture},
    };

    #[test]
    fn every_kind_that_is_judged_is_warned_of_once_it_is_refused() {
        let snapshot = fixture::snapshot(&json!([
            {"kind": "Service", "metadata": {"name": "web", "namespace": "a", "uid": "1"},
             "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "SCTP"}]}},
            {"kind": "Gateway", "metadata": {"name": "edge", "namespace": "a", "uid": "2"},
             "spec": {"gatewayClassName": "sluice", "listeners": [{"name": "l", "port": 80, "protocol": "SCTP"}]}},
            {"kind": "HTTPRoute", "metadata": {"name": "shop", "namespace": "a", "uid": "3"},
             "spec": {"parentRefs": [{"name": "edge"}]}},
            {"kind": "AddressPool", "metadata": {"name": "bad", "uid": "4"}, "spec": {"addresses": ["nonsense"]}},
            {"kind": "Service", "metadata": {"name": "fine", "namespace": "a", "uid": "5"},
             "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}},
        ]));
        let model = compile(&snapshot, &fixture::node(&["192.0.2.0/24"]));
        let told = model.verdicts.iter().filter_map(|(object, verdict)| {
            let note = warning(object, verdict, &snapshot)?;
            let about = reference(object, Some(&snapshot));
            let place = (about.api_version.unwrap(), about.namespace, about.uid.unwrap());
            Some((object.to_string(), note.reason, place))
        });
        let ns = Some("a".to_owned());
        let at = |version: &str, ns: Option<String>, uid: &str| (version.to_owned(), ns, uid.to_owned());
        let expected = [
            ("AddressPool bad".to_owned(), "NotAccepted", at("sluice.dev/v1alpha1", None, "4")),
            ("Gateway a/edge".to_owned(), "NotAccepted", at("gateway.networking.k8s.io/v1", ns.clone(), "2")),
            ("HTTPRoute a/shop".to_owned(), "NotAccepted", at("gateway.networking.k8s.io/v1", ns.clone(), "3")),
            ("Service a/web".to_owned(), "SyncLoadBalancerFailed", at("v1", ns, "1")),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        let pending = Verdict { outcome: Outcome::Refused, reason: "Pending", messages: vec![] };
        assert_eq!(warning(&ObjectRef::new("Gateway", ObjectName::new("a", "edge")), &pending, &snapshot), None);
    }
}
