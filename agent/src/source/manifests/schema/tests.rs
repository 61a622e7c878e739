use super::*;

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
