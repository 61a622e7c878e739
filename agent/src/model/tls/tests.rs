use serde_json::{Value, json};

use super::*;
use crate::model::{
    self, Memo, Model,
    fixture::{self, node},
    report::GatewayReport,
};

fn gateway(listeners: &Value) -> Value {
    json!({"kind": "Gateway", "metadata": {"name": "gw", "namespace": "default"},
        "spec": {"gatewayClassName": "sluice", "listeners": listeners}})
}

fn https(name: &str, port: u16, hostname: Option<&str>, refs: &Value) -> Value {
    json!({"name": name, "protocol": "HTTPS", "port": port, "hostname": hostname, "tls": {"certificateRefs": refs}})
}

fn secret(ns: &str, name: &str) -> Value {
    let made = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    json!({"kind": "Secret", "metadata": {"name": name, "namespace": ns}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()}})
}

fn compile(objects: &Value) -> Model {
    model::compile(&fixture::snapshot(objects), &node(&["198.18.0.0/24"]))
}

fn report(model: &Model) -> &GatewayReport {
    &model.gateways[&ObjectName::new("default", "gw")]
}

fn reason(model: &Model, listener: usize) -> (Option<&'static str>, bool) {
    let report = &report(model).listeners[listener];
    assert!(report.accepted.is_ok(), "{report:?}");
    assert_eq!(
        report.kinds,
        [crate::api::RouteKind::Http, crate::api::RouteKind::Grpc],
        "the kinds are told in any case"
    );
    (report.resolved.as_ref().err().map(|fault| fault.reason), report.is_served())
}

#[test]
fn http_and_https_are_on_ports_of_their_own_and_https_listeners_differ_by_host_name() {
    let model = compile(&json!([
        secret("default", "cert"),
        gateway(&json!([
            {"name": "web", "protocol": "HTTP", "port": 80},
            https("all", 443, None, &json!([{"name": "cert"}])),
            https("one", 443, Some("a.example"), &json!([{"name": "cert", "kind": "Secret", "group": ""}])),
        ]))
    ]));
    for listener in 0..3 {
        assert_eq!(reason(&model, listener), (None, true));
    }
    let secured = model.http.frontends.iter().map(|(at, listeners)| {
        (at.port(), listeners.iter().map(|listener| listener.tls.is_some()).collect::<Vec<_>>())
    });
    assert_eq!(secured.collect::<Vec<_>>(), [(80, vec![false]), (443, vec![true, true])]);
}

#[test]
fn http_and_https_on_one_port_conflict() {
    let model = compile(&json!([
        secret("default", "cert"),
        gateway(&json!([
            {"name": "web", "protocol": "HTTP", "port": 443},
            https("all", 443, None, &json!([{"name": "cert"}])),
        ]))
    ]));
    for listener in &report(&model).listeners {
        assert_eq!(listener.conflict.as_ref().unwrap().reason, "ProtocolConflict");
    }
}

/// Source: gateway-api, GatewayInvalidTLSConfiguration, GatewaySecretMissingReferenceGrant.
#[test]
fn a_reference_that_is_bad_is_told_and_the_listener_is_not_programmed() {
    let bad_secret = json!({"kind": "Secret", "metadata": {"name": "bad", "namespace": "default"},
        "type": "kubernetes.io/tls", "data": {"tls.crt": "SGVsbG8gd29ybGQK", "tls.key": "SGVsbG8gd29ybGQK"}});
    for (refs, want) in [
        (json!([{"name": "absent"}]), "InvalidCertificateRef"),
        (json!([{"name": "cert", "group": "wrong.group"}]), "InvalidCertificateRef"),
        (json!([{"name": "cert", "kind": "WrongKind"}]), "InvalidCertificateRef"),
        (json!([{"name": "bad"}]), "InvalidCertificateRef"),
        (json!([]), "InvalidCertificateRef"),
        (json!([{"name": "cert", "namespace": "other"}]), "RefNotPermitted"),
        (json!([{"name": "absent", "namespace": "other"}]), "RefNotPermitted"),
    ] {
        let objects = json!([
            secret("default", "cert"),
            secret("other", "cert"),
            bad_secret,
            gateway(&json!([https("web", 443, None, &refs)]))
        ]);
        let model = compile(&objects);
        assert_eq!(reason(&model, 0), (Some(want), false), "{refs}");
        assert!(model.http.frontends.is_empty());
    }
}

#[test]
fn a_listener_with_one_good_certificate_serves_and_names_the_others() {
    let model = compile(&json!([
        secret("default", "cert"),
        gateway(&json!([https("web", 443, None, &json!([{"name": "absent"}, {"name": "cert"}, {"name": "cert"}]))]))
    ]));
    assert_eq!(reason(&model, 0), (Some("InvalidCertificateRef"), true));
    let listeners = model.http.frontends.values().next().unwrap();
    assert_eq!(listeners[0].tls.as_ref().unwrap().certificates.len(), 1, "each once");
}

#[test]
fn missing_forbidden_and_unread_are_told_apart() {
    let mut snapshot =
        fixture::snapshot(&json!([gateway(&json!([https("web", 443, None, &json!([{"name": "cert"}]))]))]));
    let key = (NamedKind::Secret, ObjectName::new("default", "cert"));
    for (why, want) in [
        (None, "tls.certificateRefs: Secret default/cert does not exist"),
        (Some(Unread::Pending), "tls.certificateRefs: Secret default/cert is not read yet"),
        (Some(Unread::Forbidden("no".into())), "tls.certificateRefs: Secret default/cert may not be read: no"),
        (Some(Unread::Failing("cut".into())), "tls.certificateRefs: Secret default/cert cannot be read for now: cut"),
    ] {
        snapshot.unread = why.map(|why| (key.clone(), why)).into_iter().collect();
        let model = model::compile(&snapshot, &node(&["198.18.0.0/24"]));
        let fault = report(&model).listeners[0].resolved.clone().unwrap_err();
        assert_eq!((fault.reason, &*fault.message), ("InvalidCertificateRef", want));
    }
}

#[test]
fn what_is_not_understood_is_not_accepted() {
    for (tls, want) in [
        (json!({"mode": "Passthrough"}), "tls.mode \"Passthrough\", want \"Terminate\" with protocol HTTPS"),
        (
            json!({"certificateRefs": [{"name": "cert"}], "options": {"sluice.dev/min-version": "1.1"}}),
            "tls.options: sluice.dev/min-version is \"1.1\", want \"1.2\" or \"1.3\"",
        ),
    ] {
        let listener = json!({"name": "web", "protocol": "HTTPS", "port": 443, "tls": tls});
        let model = compile(&json!([secret("default", "cert"), gateway(&json!([listener]))]));
        let fault = report(&model).listeners[0].accepted.clone().unwrap_err();
        assert_eq!((fault.reason, &*fault.message), ("UnsupportedValue", want));
    }
}

#[test]
fn a_tls_listener_takes_tls_routes_passes_through_or_terminates() {
    let route = |name: &str, host: &str| {
        json!({"kind": "TLSRoute", "metadata": {"name": name, "namespace": "default"}, "spec": {"parentRefs": [{"name": "gw"}],
            "hostnames": [host], "rules": [{"backendRefs": [{"name": "s", "port": 80}]}]}})
    };
    let tls = |name: &str, host: &str, tls: Value| json!({"name": name, "protocol": "TLS", "port": 443, "hostname": host, "tls": tls});
    let service = json!({"kind": "Service", "metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}});
    let model = compile(&json!([
        service,
        secret("default", "cert"),
        route("p", "p.example"),
        route("t", "t.example"),
        gateway(&json!([
            tls("p", "p.example", json!({"mode": "Passthrough", "certificateRefs": [{"name": "ignored"}]})),
            tls("t", "t.example", json!({"mode": "Terminate", "certificateRefs": [{"name": "cert"}]})),
            tls("bad", "b.example", json!({"certificateRefs": [{"name": "absent"}]})),
            https("h", 443, Some("h.example"), &json!([{"name": "cert"}])),
        ]))
    ]));
    let found: Vec<_> = report(&model)
        .listeners
        .iter()
        .map(|listener| {
            let resolved = listener.resolved.as_ref().err().map(|fault| fault.reason);
            (listener.kinds[0].name(), listener.attached, listener.is_served(), resolved)
        })
        .collect();
    assert_eq!(
        found,
        [
            ("TLSRoute", 1, true, None),
            ("TLSRoute", 1, true, None),
            ("TLSRoute", 0, false, Some("InvalidCertificateRef")),
            ("HTTPRoute", 0, true, None),
        ]
    );
    let listeners = model.http.frontends.values().next().unwrap();
    let served: Vec<_> = listeners.iter().map(|l| (l.tls.is_some(), l.streams.as_ref().map(|s| s.len()))).collect();
    assert_eq!(served, [(false, Some(1)), (true, Some(1)), (true, None)]);
    assert_eq!(model.http.services.len(), 1, "the backends of streams are known to the proxy");
}

/// The routes of a listener that waits for its certificate are attached to it: they are not what is wrong.
#[test]
fn a_route_is_attached_to_a_listener_without_certificate() {
    let route = json!({"kind": "HTTPRoute", "metadata": {"name": "r", "namespace": "default"},
        "spec": {"parentRefs": [{"name": "gw"}], "rules": [{}]}});
    let model = compile(&json!([route, gateway(&json!([https("web", 443, None, &json!([{"name": "absent"}]))]))]));
    assert_eq!(report(&model).listeners[0].attached, 1);
    let parents = &model.routes[&(crate::api::RouteKind::Http, ObjectName::new("default", "r"))].parents;
    assert!(parents[0].accepted.is_ok(), "{parents:?}");
}

#[test]
fn what_is_read_by_name_is_what_gateways_of_ours_refer_to_and_may() {
    let mut foreign = gateway(&json!([https("web", 443, None, &json!([{"name": "foreign"}]))]));
    foreign["metadata"]["name"] = json!("foreign");
    foreign["spec"]["gatewayClassName"] = json!("nginx");
    let refs = json!([{"name": "one"}, {"name": "two"}, {"name": "one"}, {"name": "x", "kind": "ConfigMap"},
        {"name": "elsewhere", "namespace": "other"}]);
    let snapshot = fixture::snapshot(&json!([
        foreign,
        gateway(&json!([
            https("web", 443, None, &refs),
            {"name": "plain", "protocol": "HTTP", "port": 80, "tls": {"certificateRefs": [{"name": "unused"}]}},
        ]))
    ]));
    let names = references(&snapshot).into_iter().map(|(kind, name)| format!("{kind} {name}"));
    assert_eq!(names.collect::<Vec<_>>(), ["Secret default/one", "Secret default/two"]);
}

#[test]
fn a_certificate_is_parsed_once_and_its_change_costs_that_one() {
    let secrets: Vec<Value> = (0..5).map(|i| secret("default", &format!("cert{i}"))).collect();
    let refs: Vec<Value> = (0..5).map(|i| json!({"name": format!("cert{i}")})).collect();
    let mut objects = secrets;
    objects.push(gateway(&json!([https("web", 443, None, &json!(refs))])));
    let snapshot = Arc::new(fixture::snapshot(&json!(objects)));
    let (mut memo, node) = (Memo::default(), node(&["198.18.0.0/24"]));
    let before = memo.compile(&snapshot, &node);
    assert_eq!(memo.work().certificates, 5);
    let mut next = Snapshot::clone(&snapshot);
    fixture::add(&mut next, &gateway(&json!([https("other", 443, None, &json!(refs))]))).unwrap();
    memo.compile(&Arc::new(next.clone()), &node);
    assert_eq!(memo.work().certificates, 5, "the listener changed, no Secret did");
    fixture::add(&mut next, &secret("default", "cert3")).unwrap();
    let after = memo.compile(&Arc::new(next), &node);
    assert_eq!(memo.work().certificates, 6);
    let certificates = |model: &Model| model.http.frontends.values().next().unwrap()[0].tls.clone().unwrap();
    let same = certificates(&before)
        .certificates
        .iter()
        .zip(&certificates(&after).certificates)
        .map(|(a, b)| Arc::ptr_eq(a, b))
        .collect::<Vec<_>>();
    assert_eq!(same, [true, true, true, false, true]);
}

/// Source: gateway-api, GatewayInvalidFrontendClientCertificateValidation.
#[test]
fn a_bad_authority_concerns_its_listeners_alone() {
    let made = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    let map = |ns: &str, name: &str, data: Value| json!({"kind": "ConfigMap", "metadata": {"name": name, "namespace": ns}, "data": data});
    let validation = |kind: &str, ns: Option<&str>, name: &str| json!({"validation": {"caCertificateRefs": [{"kind": kind, "group": "", "namespace": ns, "name": name}]}});
    let per_port = |port: u16, tls: Value| json!({"port": port, "tls": tls});
    let good = json!({"ca.crt": made.cert.pem()});
    let mut gateway = gateway(&json!([
        https("good", 443, None, &json!([{"name": "cert"}])),
        https("absent", 1443, None, &json!([{"name": "cert"}])),
        https("kind", 2443, None, &json!([{"name": "cert"}])),
        https("foreign", 3443, None, &json!([{"name": "cert"}])),
        https("empty", 4443, None, &json!([{"name": "cert"}])),
        {"name": "http", "protocol": "HTTP", "port": 80},
    ]));
    gateway["spec"]["tls"]["frontend"] = json!({"default": validation("ConfigMap", None, "ca"), "perPort": [
        per_port(1443, validation("ConfigMap", None, "absent")),
        per_port(2443, validation("Service", None, "ca")),
        per_port(3443, validation("ConfigMap", Some("other"), "ca")),
        per_port(4443, validation("ConfigMap", None, "empty")),
        per_port(80, validation("ConfigMap", None, "absent")),
    ]});
    let objects = json!([
        secret("default", "cert"),
        map("default", "ca", good.clone()),
        map("other", "ca", good),
        map("default", "empty", json!({"ca.crt": "nothing"})),
        gateway
    ]);
    let model = compile(&objects);
    let found: Vec<_> = report(&model)
        .listeners
        .iter()
        .map(|listener| {
            let reason = |result: &Result<(), Fault>| result.as_ref().err().map_or("", |fault| fault.reason);
            (listener.name.as_str(), reason(&listener.accepted), reason(&listener.resolved), listener.is_served())
        })
        .collect();
    let no = "NoValidCACertificate";
    assert_eq!(
        found,
        [
            ("good", "", "", true),
            ("absent", no, "InvalidCACertificateRef", false),
            ("kind", no, "InvalidCACertificateKind", false),
            ("foreign", no, "RefNotPermitted", false),
            ("empty", no, "InvalidCACertificateRef", false),
            ("http", "", "", true),
        ]
    );
    let ports: Vec<_> = model.http.frontends.keys().map(std::net::SocketAddr::port).collect();
    assert_eq!(ports, [80, 443]);
    let names = references(&fixture::snapshot(&objects)).into_iter().map(|(kind, name)| format!("{kind} {name}"));
    assert_eq!(
        names.collect::<Vec<_>>(),
        ["Secret default/cert", "ConfigMap default/absent", "ConfigMap default/ca", "ConfigMap default/empty"]
    );
    assert!(!report(&model).is_insecure);
}

#[test]
fn cipher_suites_that_fit_no_certificate_are_refused() {
    let listener = |suites: &str| {
        let mut listener = https("web", 443, None, &json!([{"name": "cert"}]));
        listener["tls"]["options"] = json!({"sluice.dev/cipher-suites": suites});
        compile(&json!([secret("default", "cert"), gateway(&json!([listener]))]))
    };
    // The key of the certificate is ECDSA.
    let model = listener("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384");
    let found = &report(&model).listeners[0];
    let fault = found.accepted.as_ref().unwrap_err();
    assert_eq!((fault.reason, found.is_served()), ("UnsupportedValue", false));
    let want = "tls.options: sluice.dev/cipher-suites has no suite for the key of a certificate: that of Secret default/cert is \
        ECDSA, want one of TLS_AES_256_GCM_SHA384, ";
    assert!(fault.message.starts_with(want) && !fault.message.contains("_RSA_"), "{}", fault.message);
    assert!(model.http.frontends.values().all(|listeners| listeners.is_empty()), "{:?}", model.http.frontends);
    for (suites, version) in [
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Some("TLS 1.2")),
        ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_128_GCM_SHA256", None),
        ("TLS_AES_128_GCM_SHA256", Some("TLS 1.3")),
    ] {
        let model = listener(suites);
        assert!(report(&model).listeners[0].is_served(), "{suites}");
        let listeners = model.http.frontends.values().next().unwrap();
        let termination = listeners[0].tls.as_ref().unwrap();
        assert_eq!(termination.only_version(), version, "{suites}");
    }
}
