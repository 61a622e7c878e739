use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    api::RouteKind,
    model::{self, Memo, Port, fixture, tls},
};

const CA: &str = include_str!("ca.pem");

fn policy(name: &str, targets: &Value, validation: &Value) -> Value {
    json!({"kind": "BackendTLSPolicy", "metadata": {"name": name}, "spec": {"targetRefs": targets, "validation": validation}})
}

fn target(section: Option<&str>) -> Value {
    json!({"group": "", "kind": "Service", "name": "web", "sectionName": section})
}

fn of_map(name: &str, hostname: &str) -> Value {
    json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}], "hostname": hostname})
}

fn snapshot(policies: &[Value]) -> Snapshot {
    let ports = json!([{"name": "a", "port": 443}, {"name": "b", "port": 8443}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let mut all = vec![
        json!({"kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": ports}}),
        json!({"kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": CA}}),
        json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
            "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}}),
        json!({"kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 443}, {"name": "web", "port": 8443}]}]}}),
    ];
    all.extend(policies.iter().cloned());
    fixture::snapshot(&json!(all))
}

fn ports(policies: &[Value]) -> BTreeMap<u16, Result<String, String>> {
    let model = model::compile(&snapshot(policies), &fixture::node(&["192.0.2.0/24"]));
    let said = |tls: &PortTls| tls.tls.as_ref().map(|tls| tls.server_name.clone()).map_err(Clone::clone);
    model.http.tls.iter().map(|(port, tls)| (port.port.get(), said(tls))).collect()
}

#[test]
fn a_policy_of_a_port_comes_before_one_of_the_service() {
    let whole = policy("whole", &json!([target(None)]), &of_map("ca", "whole.example.com"));
    let of_port = policy("port", &json!([target(Some("b"))]), &of_map("ca", "port.example.com"));
    let want = [(443, Ok("whole.example.com".to_owned())), (8443, Ok("port.example.com".to_owned()))];
    assert_eq!(ports(&[whole, of_port.clone()]), want.into());
    // Other ports of the Service are in clear text.
    assert_eq!(ports(&[of_port]), [(8443, Ok("port.example.com".to_owned()))].into());
    // One that is for another port, or another Service, is for nothing here.
    let elsewhere =
        policy("x", &json!([target(Some("c")), {"group": "", "kind": "Service", "name": "y"}]), &of_map("ca", "x.y"));
    assert_eq!(ports(&[elsewhere]), BTreeMap::new());
}

#[test]
fn a_policy_that_cannot_be_obeyed_keeps_its_port_shut() {
    let long = "x".repeat(64 << 10);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut validation = of_map("ca", "web.example.com");
        change(&mut validation);
        validation
    };
    for (validation, why) in [
        (of_map("none", "web.example.com"), "ConfigMap default/none does not exist"),
        (of_map("ca", ""), "validation.hostname \"\" is no DNS name"),
        (of_map("ca", "*.example.com"), "is no DNS name"),
        (of_map("ca", "192.0.2.1"), "is no DNS name"),
        (of_map("ca", &long), "is no DNS name"),
        (json!({"hostname": "web.example.com"}), "neither caCertificateRefs nor wellKnownCACertificates"),
        (with(&|v| v["wellKnownCACertificates"] = json!("System")), "want one"),
        (json!({"hostname": "a.b", "wellKnownCACertificates": "x/y"}), "want \"System\""),
        (json!({"hostname": "a.b", "wellKnownCACertificates": "System"}), "has no certificates of authorities"),
        (with(&|v| v["subjectAltNames"] = json!([{"type": "URI", "uri": "nonsense"}])), "want a scheme"),
        (with(&|v| v["subjectAltNames"] = json!([{"type": "Hostname", "hostname": "a b"}])), "neither a DNS name"),
        (with(&|v| v["subjectAltNames"] = json!([{"type": "IP"}])), "want \"Hostname\" or \"URI\""),
    ] {
        let found = ports(&[policy("p", &json!([target(Some("a"))]), &validation)]);
        let said = found[&443].as_ref().expect_err("shut");
        assert!(said.starts_with("BackendTLSPolicy default/p: ") && said.contains(why), "{said}");
    }
}

#[test]
fn what_is_no_certificate_is_told_without_what_it_holds() {
    for (text, why) in [
        ("x".repeat(64 << 10), "has no certificate in PEM"),
        (String::new(), "has no certificate in PEM"),
        (
            "-----BEGIN CERTIFICATE-----\nsecret\n-----END CERTIFICATE-----\n".to_owned(),
            "a certificate that is malformed",
        ),
        ("-----BEGIN CERTIFICATE-----\nc2Vjcg==\n".to_owned(), "a section does not end"),
        (CA.repeat(300), "more than 256 certificates"),
    ] {
        let mut snapshot = snapshot(&[policy("p", &json!([target(None)]), &of_map("bad", "a.b"))]);
        let map = json!({"kind": "ConfigMap", "metadata": {"name": "bad"}, "data": {"ca.crt": text}});
        fixture::add(&mut snapshot, &map).unwrap();
        let model = model::compile(&snapshot, &fixture::node(&["192.0.2.0/24"]));
        let verdict = &model.verdicts[&ObjectRef::new("BackendTLSPolicy", ObjectName::new("default", "p"))];
        assert_eq!((verdict.outcome, verdict.reason), (Outcome::Refused, "NoValidCACertificate"), "{verdict:?}");
        assert!(verdict.messages[0].contains(why) && !verdict.messages[0].contains("secret"), "{verdict:?}");
    }
}

/// The route that leads there works no longer, and says why; its references are as they should be.
#[test]
fn a_route_says_that_a_policy_keeps_its_backend_shut() {
    let model = model::compile(
        &snapshot(&[policy("p", &json!([target(None)]), &of_map("none", "a.b"))]),
        &fixture::node(&["192.0.2.0/24"]),
    );
    let route = ObjectName::new("default", "r");
    let verdict = &model.verdicts[&ObjectRef::new("HTTPRoute", route.clone())];
    assert_eq!(verdict.outcome, Outcome::Partial);
    assert!(verdict.messages.iter().any(|m| m.contains("BackendTLSPolicy default/p")), "{verdict:?}");
    assert_eq!(model.routes[&(RouteKind::Http, route)].resolved, Ok(()));
}

#[test]
fn a_policy_that_nobody_asks_for_has_no_effect_and_no_warning() {
    let other = policy("p", &json!([{"group": "", "kind": "Service", "name": "nobody"}]), &of_map("none", "a.b"));
    let model = model::compile(&snapshot(&[other]), &fixture::node(&["192.0.2.0/24"]));
    let verdict = &model.verdicts[&ObjectRef::new("BackendTLSPolicy", ObjectName::new("default", "p"))];
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::Ignored, "TargetNotFound"));
    assert_eq!(verdict.messages, ["Service default/nobody does not exist"]);
    let kind = policy("p", &json!([{"group": "", "kind": "Pod", "name": "web"}]), &of_map("ca", "a.b"));
    let model = model::compile(&snapshot(&[kind]), &fixture::node(&["192.0.2.0/24"]));
    assert!(model.http.tls.is_empty());
}

#[test]
fn system_means_whom_the_system_trusts() {
    let validation = json!({"hostname": "a.b", "wellKnownCACertificates": "System"});
    let system = Arc::new(Authorities::new(tls::authorities::parse(CA.as_bytes()).unwrap()));
    let node = Node { system_authorities: Arc::clone(&system), ..fixture::node(&["192.0.2.0/24"]) };
    let model = model::compile(&snapshot(&[policy("p", &json!([target(Some("a"))]), &validation)]), &node);
    let port = ServicePort { service: ObjectName::new("default", "web"), port: Port::try_new(443).unwrap() };
    assert_eq!(model.http.tls[&port].tls.as_ref().unwrap().authorities, system);
}

/// `https` is spoken where somebody says whose certificate it is, and is no clear text elsewhere.
#[test]
fn app_protocol_https_needs_a_policy() {
    let service = json!({"kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"name": "a", "port": 443, "appProtocol": "HTTPS"}, {"name": "b", "port": 8443}]}});
    for (policies, fault) in [
        (vec![policy("p", &json!([target(None)]), &of_map("ca", "a.b"))], None),
        (vec![], Some("want a BackendTLSPolicy for the port")),
    ] {
        let mut snapshot = snapshot(&policies);
        fixture::add(&mut snapshot, &service).unwrap();
        let model = model::compile(&snapshot, &fixture::node(&["192.0.2.0/24"]));
        let report = &model.routes[&(RouteKind::Http, ObjectName::new("default", "r"))];
        match fault {
            None => assert_eq!(report.resolved, Ok(())),
            Some(why) => assert!(report.resolved.as_ref().unwrap_err().message.contains(why), "{report:?}"),
        }
    }
}

#[test]
fn a_policy_that_changes_leaves_every_listener_and_rule_as_it_was() {
    let (mut memo, node) = (Memo::default(), fixture::node(&["192.0.2.0/24"]));
    let mut snapshot = snapshot(&[policy("p", &json!([target(None)]), &of_map("ca", "a.b"))]);
    let first = memo.compile(&Arc::new(snapshot.clone()), &node);
    fixture::add(&mut snapshot, &policy("p", &json!([target(None)]), &of_map("ca", "c.d"))).unwrap();
    let second = memo.compile(&Arc::new(snapshot), &node);
    assert_eq!(first.http.frontends, second.http.frontends);
    let names = |model: &Model| {
        model.http.tls.values().map(|p| p.tls.as_ref().unwrap().server_name.clone()).collect::<Vec<_>>()
    };
    assert_eq!((names(&first), names(&second)), (vec!["a.b".to_owned(); 2], vec!["c.d".to_owned(); 2]));
}

#[test]
fn a_gateway_shows_its_certificate_where_it_has_one_and_says_so_where_not() {
    let tls = |reference: Value| {
        json!({"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice",
            "tls": {"backend": {"clientCertificateRef": reference}},
            "listeners": [{"name": "l", "port": 80, "protocol": "HTTP"}]}})
    };
    for (reference, reason) in [
        (json!({"name": "none"}), "InvalidClientCertificateRef"),
        (json!({"name": "opaque"}), "InvalidClientCertificateRef"),
        (json!({"name": "x", "kind": "Pod"}), "InvalidClientCertificateRef"),
        (json!({"name": "x", "group": "y", "kind": "Secret"}), "InvalidClientCertificateRef"),
        (json!({"name": "x", "namespace": "other"}), "RefNotPermitted"),
    ] {
        let mut snapshot = snapshot(&[policy("p", &json!([target(None)]), &of_map("ca", "a.b"))]);
        fixture::add(&mut snapshot, &json!({"kind": "Secret", "metadata": {"name": "opaque"}, "type": "Opaque"}))
            .unwrap();
        fixture::add(&mut snapshot, &tls(reference.clone())).unwrap();
        let model = model::compile(&snapshot, &fixture::node(&["192.0.2.0/24"]));
        let name = ObjectName::new("default", "gw");
        let report = &model.gateways[&name];
        assert_eq!(report.resolved.clone().unwrap().unwrap_err().reason, reason, "{reference}");
        assert_eq!(report.accepted, Ok(()), "{reference}");
        let identity = &model.http.identities[&name];
        assert_eq!((identity.certificate.is_err(), identity.ports.len()), (true, 2), "{reference}");
    }
}
