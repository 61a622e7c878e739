use serde_json::{Value, json};

use super::*;
use crate::{
    api::ObjectName,
    model::{self, fixture},
};

fn compiled() -> (Snapshot, Model) {
    let route = |kind: &str, name: &str, listener: &str, rules: Value| {
        json!({"kind": kind, "metadata": {"name": name}, "spec": {
            "parentRefs": [{"name": "gw", "sectionName": listener}], "rules": rules}})
    };
    let to = |weights: &[u32]| {
        let refs: Vec<Value> = weights.iter().map(|w| json!({"name": "web", "port": 80, "weight": w})).collect();
        json!([{"name": "all", "backendRefs": refs}])
    };
    let many: Vec<Value> = (0..25).map(|n| json!({"matches": [{"path": {"value": format!("/{n}")}}]})).collect();
    let snapshot = fixture::snapshot(&json!([
        {"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice", "listeners": [
            {"name": "http", "port": 80, "protocol": "HTTP", "hostname": "*.example"},
            {"name": "tls", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}},
            {"name": "tcp", "port": 53, "protocol": "TCP"},
        ]}},
        {"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80, "protocol": "TCP"}]}},
        route("HTTPRoute", "shop", "http", to(&[3, 1])),
        route("HTTPRoute", "many", "http", json!(many)),
        route("HTTPRoute", "lost", "gone", to(&[1])),
        route("GRPCRoute", "shop", "http", to(&[1])),
        route("TLSRoute", "pass", "tls", to(&[1])),
        route("TCPRoute", "dns", "tcp", to(&[1])),
    ]));
    let model = model::compile(&snapshot, &fixture::node(&["198.18.0.0/24"]));
    (snapshot, model)
}

fn said(model: &Model, kind: &str, name: &str) -> Vec<String> {
    lines(model, &ObjectRef::new(kind, ObjectName::new("default", name)))
}

#[test]
fn a_route_is_told_with_the_listeners_and_backends_that_it_has() {
    let (_, model) = compiled();
    let shop = said(&model, "HTTPRoute", "shop");
    assert_eq!(shop.len(), 1, "{shop:?}");
    let place = ":80, listener default/gw/http, host *.example, /*: ";
    let backends =
        "weight 3 of 4 to default/web:80 (0 endpoints ready), weight 1 of 4 to default/web:80 (0 endpoints ready)";
    assert!(shop[0].starts_with("rule 0 (all) at ") && shop[0].ends_with(&format!("{place}{backends}")), "{shop:?}");
    let many = said(&model, "HTTPRoute", "many");
    assert_eq!((many.len(), many[20].as_str()), (21, "and 5 more: `sluice routes` lists them"));
    let pass = said(&model, "TLSRoute", "pass");
    assert!(pass[0].ends_with("host *, TLS: pass TLS through, to default/web:80 (0 endpoints ready)"), "{pass:?}");
    assert_eq!(said(&model, "HTTPRoute", "lost"), ["no listener that is served has it: no client meets it"]);
    // The kernel serves it; what stands behind its frontend is said there.
    assert!(said(&model, "TCPRoute", "dns").is_empty());
    assert!(said(&model, "Gateway", "gw").is_empty());
}

#[test]
fn a_route_is_found_without_its_kind() {
    let (snapshot, model) = compiled();
    let kind = |name: &str| kind_of(&snapshot, &model, name);
    assert_eq!(kind("default/pass"), Ok("TLSRoute"));
    assert_eq!(kind("dns"), Ok("TCPRoute"));
    let several =
        "several routes are named default/shop: ask for one of httproute/default/shop, grpcroute/default/shop";
    assert_eq!(kind("shop"), Err(several.to_owned()));
    assert!(kind("nope").unwrap_err().starts_with("no route default/nope of any kind (HTTPRoute, GRPCRoute"));
    assert!(kind("a/b/c").unwrap_err().contains("want route/NAMESPACE/NAME"));
    assert!(is_any("Routes") && !is_any("httproute"));
}
