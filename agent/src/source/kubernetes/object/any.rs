//! Whatever JSON comes for an object: it is an object or a fault with a place, and harms nobody.
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::Received;
use crate::{
    api::{
        AddressPool, EndpointSlice, Gateway, GatewayClass, GrpcRoute, HttpRoute, Kind, Lease, Namespace, Node,
        ReferenceGrant, Service, TcpRoute, TlsRoute, UdpRoute,
    },
    config::route_hosts::RouteHosts,
    membership::{Members, Report, Revisions},
    model::{self, Role, fixture::node},
    source::Snapshot,
    status::{service, version::Bundle, view::View},
};

/// Names of fields, so that what is made up is looked at.
const FIELDS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "deletionTimestamp",
    "creationTimestamp",
    "resourceVersion",
    "generation",
    "type",
    "clusterIP",
    "ports",
    "port",
    "protocol",
    "targetPort",
    "selector",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "ipFamilies",
    "ipFamilyPolicy",
    "externalTrafficPolicy",
    "sessionAffinity",
    "sessionAffinityConfig",
    "clientIP",
    "timeoutSeconds",
    "healthCheckNodePort",
    "loadBalancer",
    "ingress",
    "ip",
    "hostname",
    "ipMode",
    "conditions",
    "addressType",
    "endpoints",
    "addresses",
    "ready",
    "serving",
    "terminating",
    "nodeName",
    "hints",
    "forZones",
    "nodeAddresses",
    "types",
    "reservedPorts",
    "namespaceSelector",
    "matchLabels",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "priority",
    "autoAssign",
    "announce",
    "listeners",
    "gatewayClassName",
    "controllerName",
    "hostnames",
    "rules",
    "matches",
    "path",
    "value",
    "filters",
    "backendRefs",
    "weight",
    "parentRefs",
    "podCIDRs",
    "leaseDurationSeconds",
    "sluice.dev/addresses",
    "sluice.dev/allocated",
    "sluice.dev/sharing-key",
    "kubernetes.io/service-name",
];
/// Words that mean something somewhere.
const WORDS: &[&str] = &[
    "",
    "LoadBalancer",
    "ClusterIP",
    "None",
    "Local",
    "TCP",
    "UDP",
    "IPv4",
    "IPv6",
    "FQDN",
    "RequireDualStack",
    "192.0.2.1",
    "2001:db8::1",
    "192.0.2.0/24",
    "203.0.113.9-203.0.113.1",
    "::ffff:192.0.2.1",
    "224.0.0.1",
    "127.0.0.1",
    "web",
    "default",
    "sluice.dev/lb",
    "sluice",
    "sluice.dev/gateway",
    "HTTP",
    "HTTPS",
    "*.example",
    "PathPrefix",
    "/",
    "\u{0}",
    "😀",
    "True",
    "In",
    "Exists",
    "InternalIP",
    "18446744073709551616",
    "-1",
    "2026-01-01T00:00:00Z",
];

fn any_json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        (0_i64..70_000).prop_map(Value::from),
    ];
    let word = prop_oneof![prop::sample::select(WORDS).prop_map(Value::from), ".{0,9}".prop_map(Value::from)];
    let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number, word];
    leaf.prop_recursive(5, 48, 6, |inner| {
        let field = prop::sample::select(FIELDS).prop_map(str::to_owned);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(field, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// An object that has a name, as all have that an API server sends, with nonsense in every other field.
fn any_object() -> impl Strategy<Value = Value> {
    (any_json(), any_json(), any_json(), any_json(), any_json()).prop_map(|(metadata, spec, status, more, type_)| {
        let mut object = more.as_object().cloned().unwrap_or_default();
        let mut metadata = metadata.as_object().cloned().unwrap_or_default();
        metadata.extend([("name".into(), json!("web")), ("namespace".into(), json!("shop"))]);
        let mut spec = spec;
        if let (Some(spec), true) = (spec.as_object_mut(), type_.is_null()) {
            spec.insert("type".into(), json!("LoadBalancer"));
        }
        object.extend(Map::from_iter([
            ("metadata".into(), Value::Object(metadata)),
            ("spec".into(), spec),
            ("status".into(), status),
        ]));
        Value::Object(object)
    })
}

/// Reads it as a kind; what was read, where it is an object.
fn read<T: Kind>(value: &Value) -> Option<std::sync::Arc<T>> {
    let received: Received<T> = serde_json::from_value(value.clone()).expect("no object keeps others from being read");
    match received.object {
        Ok(object) => Some(object),
        Err(reason) => {
            assert!(!reason.is_empty());
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_an_object_or_a_fault(value in any_json()) {
        read::<Service>(&value);
        read::<EndpointSlice>(&value);
        read::<GatewayClass>(&value);
        read::<Gateway>(&value);
        read::<HttpRoute>(&value);
        read::<GrpcRoute>(&value);
        read::<TlsRoute>(&value);
        read::<TcpRoute>(&value);
        read::<UdpRoute>(&value);
        read::<crate::api::ListenerSet>(&value);
        read::<crate::api::BackendTlsPolicy>(&value);
        read::<crate::api::BackendTrafficPolicy>(&value);
        read::<ReferenceGrant>(&value);
        read::<AddressPool>(&value);
        read::<Namespace>(&value);
        read::<Node>(&value);
        read::<Lease>(&value).as_deref().and_then(Report::of);
    }

    #[test]
    fn nonsense_in_every_field_has_a_verdict_and_harms_no_other(objects in prop::collection::vec(any_object(), 1..6)) {
        let mut snapshot = Snapshot::default();
        for (index, mut value) in objects.into_iter().enumerate() {
            value["metadata"]["name"] = json!(format!("web-{index}"));
            macro_rules! take {
                ($($kind:ty: $field:ident),*) => {$(
                    if let Some(object) = read::<$kind>(&value) {
                        snapshot.$field.insert(<$kind>::key(object.metadata()), object);
                    }
                )*};
            }
            take!(Service: services, EndpointSlice: slices, GatewayClass: gateway_classes, Gateway: gateways,
                HttpRoute: http_routes, GrpcRoute: grpc_routes, TlsRoute: tls_routes, TcpRoute: tcp_routes, UdpRoute: udp_routes, crate::api::ListenerSet: listener_sets, crate::api::BackendTlsPolicy: backend_tls_policies, crate::api::BackendTrafficPolicy: backend_traffic_policies, ReferenceGrant: grants, AddressPool: pools, Namespace: namespaces, Node: nodes);
        }
        let good = json!({
            "metadata": {"name": "good", "namespace": "shop", "annotations": {"sluice.dev/allocated": "198.18.0.1"}},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "sluice.dev/lb", "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.18.0.1"}]}},
        });
        let good = read::<Service>(&good).expect("an object");
        snapshot.services.insert(good.metadata.object_name(), good);
        let this = model::Node { role: Role::Member, ..node(&["198.18.0.0/15", "2001:db8::/64"]) };
        let model = model::compile(&snapshot, &this);
        prop_assert!(model.frontends.keys().any(|f| f.to_string() == "198.18.0.1:80/TCP"), "{:?}", model.frontends);
        let members = Members { alive: [("node".to_owned(), Report::default())].into(), is_blind: false };
        for object in snapshot.services.values() {
            let name = model::ObjectRef::new("Service", object.metadata.object_name());
            prop_assert!(model.verdicts.contains_key(&name), "no verdict for {name}");
            let (revisions, hosts) = (Revisions::default(), RouteHosts::default());
            let view = View { model: &model, members: &members, revisions: &revisions, route_hosts: &hosts, bundle: &Bundle::Unknown };
            let write = service::plan(object, &snapshot, &view);
            prop_assert!(write.is_none_or(|write| write.object == name), "{name}");
        }
    }
}
