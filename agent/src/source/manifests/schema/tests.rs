use std::collections::BTreeSet;

use super::*;
use crate::api;

fn shape(kind: &str, path: &[&str]) -> Shape {
    path.iter().fold(of_kind(kind).unwrap().clone(), |shape, field| shape.fields[*field].clone())
}

#[test]
fn each_kind_that_is_read_has_its_fields() {
    for kind in [
        "Service",
        "EndpointSlice",
        "Namespace",
        "Secret",
        "ConfigMap",
        "Node",
        "GatewayClass",
        "Gateway",
        "HTTPRoute",
        "GRPCRoute",
        "TLSRoute",
        "TCPRoute",
        "UDPRoute",
        "ListenerSet",
        "BackendTLSPolicy",
        "XBackendTrafficPolicy",
        "ReferenceGrant",
        "AddressPool",
    ] {
        let fields = &of_kind(kind).unwrap().fields;
        assert!(fields.contains_key("apiVersion") && fields.contains_key("kind"), "{kind}");
        assert!(fields["metadata"].fields["ownerReferences"].fields.contains_key("uid"), "{kind}");
        assert!(fields.len() >= 4, "{kind}");
    }
    assert_eq!(of_kind("Deployment"), None);
}

#[test]
fn enumerations_have_the_values_that_the_api_server_takes() {
    for (kind, path, expected) in [
        ("Service", &["spec", "externalTrafficPolicy"][..], &["Cluster", "Local"][..]),
        ("Service", &["spec", "internalTrafficPolicy"], &["Cluster", "Local"]),
        ("Service", &["spec", "sessionAffinity"], &["None", "ClientIP"]),
        ("Service", &["spec", "type"], &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
        ("Service", &["spec", "ipFamilyPolicy"], &["SingleStack", "PreferDualStack", "RequireDualStack"]),
        ("Service", &["spec", "ports", "protocol"], &["TCP", "UDP", "SCTP"]),
        ("EndpointSlice", &["addressType"], &["IPv4", "IPv6", "FQDN"]),
        ("Gateway", &["spec", "listeners", "allowedRoutes", "namespaces", "from"], &["All", "Selector", "Same"]),
        ("HTTPRoute", &["spec", "rules", "matches", "path", "type"], &["Exact", "PathPrefix", "RegularExpression"]),
        ("HTTPRoute", &["spec", "rules", "matches", "headers", "type"], &["Exact", "RegularExpression"]),
        ("AddressPool", &["spec", "announce"], &["auto", "none"]),
    ] {
        assert_eq!(shape(kind, path).values, expected, "{kind} {path:?}");
    }
    let filters = shape("HTTPRoute", &["spec", "rules", "filters", "type"]).values;
    assert!(filters.iter().any(|f| f == "URLRewrite") && filters.iter().any(|f| f == "CORS"), "{filters:?}");
}

#[test]
fn what_may_hold_anything_has_no_fields() {
    for (kind, path) in [
        ("Service", &["spec", "selector"][..]),
        ("Service", &["metadata", "labels"]),
        ("Service", &["metadata", "annotations"]),
        ("Service", &["status"]),
        ("Node", &["status"]),
        ("AddressPool", &["spec", "namespaceSelector", "matchLabels"]),
    ] {
        assert_eq!(shape(kind, path).fields.len(), 0, "{kind} {path:?}");
    }
}

#[test]
fn an_outline_is_read_as_it_is_written() {
    let text = "A\n b\n  c = x | y\n d\nE = z\n";
    let read = parse(&format!("# comment\n{text}"));
    assert_eq!(read["A"].fields["b"].fields["c"].values, ["x", "y"]);
    assert_eq!(Shape { fields: read, values: Vec::new() }.to_string(), text);
}

/// Whether a field is one that a kind has; below what may hold anything each is.
fn has(kind: &str, path: &str) -> bool {
    let mut at = of_kind(kind).unwrap();
    for name in path.split('/').skip(1) {
        if at.fields.is_empty() {
            return true;
        }
        let Some(inner) = at.fields.get(name) else { return false };
        at = inner;
    }
    true
}

/// The fields that are read of a kind, told which are published.
type Reads = fn(&dyn Fn(&str) -> bool) -> BTreeSet<String>;

/// Else the model would wait for what nobody can write, and pass over what is written.
#[test]
fn each_field_that_is_read_is_one_that_its_kind_has() {
    // API servers with the definitions of the releases before v1.7.0 of the Gateway API have these.
    let before = ["sessionName", "idleTimeout", "cookieConfig", "cookieConfig/lifetimeType"];
    let before = before.map(|name| format!("/spec/rules/sessionPersistence/{name}"));
    let all: [(&str, Reads); 16] = [
        ("Service", reads::fields::<api::Service>),
        ("EndpointSlice", reads::fields::<api::EndpointSlice>),
        ("Namespace", reads::fields::<api::Namespace>),
        ("Node", reads::fields::<api::Node>),
        ("ConfigMap", reads::fields::<api::ConfigMap>),
        ("GatewayClass", reads::fields::<api::GatewayClass>),
        ("Gateway", reads::fields::<api::Gateway>),
        ("HTTPRoute", reads::fields::<api::HttpRoute>),
        ("GRPCRoute", reads::fields::<api::GrpcRoute>),
        ("TLSRoute", reads::fields::<api::TlsRoute>),
        ("TCPRoute", reads::fields::<api::TcpRoute>),
        ("UDPRoute", reads::fields::<api::UdpRoute>),
        ("ListenerSet", reads::fields::<api::ListenerSet>),
        ("BackendTLSPolicy", reads::fields::<api::BackendTlsPolicy>),
        ("ReferenceGrant", reads::fields::<api::ReferenceGrant>),
        ("AddressPool", reads::fields::<api::AddressPool>),
    ];
    // Types that kinds share stand where some have less: what nobody can write there is read as absent.
    let shared = [
        ("HTTPRoute", "/requestMirror/backendRef/weight"),
        ("HTTPRoute", "/requestMirror/backendRef/filters"),
        ("GRPCRoute", "/requestMirror/backendRef/weight"),
        ("GRPCRoute", "/requestMirror/backendRef/filters"),
        ("GRPCRoute", "/filters/requestRedirect"),
        ("GRPCRoute", "/filters/urlRewrite"),
        ("GRPCRoute", "/filters/cors"),
        ("TCPRoute", "/spec/hostnames"),
        ("UDPRoute", "/spec/hostnames"),
        ("ListenerSet", "/spec/parentRef/port"),
        ("ListenerSet", "/spec/parentRef/sectionName"),
        ("BackendTLSPolicy", "/spec/validation/caCertificateRefs/namespace"),
    ];
    let wider = |kind: &str, path: &str| shared.iter().any(|(of, end)| *of == kind && path.ends_with(end));
    let mut unknown = Vec::new();
    for (kind, fields) in all {
        let fields: BTreeSet<String> = fields(&|path| has(kind, path) || before.iter().any(|known| known == path));
        assert!(fields.contains("/metadata/name"), "{kind}: {fields:?}");
        if ["HTTPRoute", "GRPCRoute"].contains(&kind) {
            assert!(fields.contains("/spec/rules/sessionPersistence/cookie/path"), "{kind}: {fields:?}");
        }
        let lacks = |path: &&String| !has(kind, path) && !before.contains(path) && !wider(kind, path);
        unknown.extend(fields.iter().filter(lacks).map(|path| format!("{kind}{path}")));
    }
    assert_eq!(unknown, Vec::<String>::new());
}
