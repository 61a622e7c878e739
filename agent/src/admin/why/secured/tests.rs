use serde_json::json;

use super::*;
use crate::model::{self, fixture};

/// A Gateway with HTTP, HTTPS and a TLS listener without Secret; the certificate ends with 2029.
fn compiled() -> (Snapshot, Model) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let made = params.self_signed(&key).unwrap();
    let secret = |name: &str, pem: String| {
        json!({"kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": pem, "tls.key": key.serialize_pem()}})
    };
    let listener = |name: &str, port: u16, secret: &str| {
        json!({"name": name, "port": port, "protocol": "HTTPS", "hostname": "a.example",
            "tls": {"certificateRefs": [{"name": secret}]}})
    };
    let snapshot = fixture::snapshot(&json!([
        secret("cert", made.pem()),
        secret("broken", "nonsense".to_owned()),
        secret("spare", made.pem()),
        {"kind": "Gateway", "metadata": {"name": "gw", "namespace": "default",
            "annotations": {"proxy.sluice.dev/proxy-protocol-ports": "80"}}, "spec": {"gatewayClassName": "sluice",
            "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}, listener("secure", 443, "cert"),
                listener("missing", 444, "gone"), listener("bad", 445, "broken")]}},
    ]));
    let model = model::compile(&snapshot, &fixture::node(&["198.18.0.0/24"]));
    (snapshot, model)
}

/// Long before the certificate's end. Units: seconds since 1970.
const EARLY: i64 = 1_800_000_000;

#[test]
fn a_listener_is_told_with_what_clients_meet() {
    let (_, model) = compiled();
    let said = |name: &str, now| {
        let object = listener(&model, &format!("default/gw/{name}"), now).unwrap();
        (object.outcome, object.reason, object.messages.join("\n"))
    };
    let (outcome, _, web) = said("web", EARLY);
    assert_eq!(outcome, "accepted");
    assert!(web.contains("no route is attached; it takes those of kind HTTPRoute and GRPCRoute"), "{web}");
    let head = "behind a head of the PROXY protocol: connections without one are cut off";
    assert!(web.contains(&format!(":80: every host, in clear text, {head}")), "{web}");
    let gateway = ObjectRef::new("Gateway", ObjectName::new("default", "gw"));
    let of_gateway = crate::admin::explain::lines(&model, &std::collections::BTreeMap::new(), &gateway);
    let behind = |line: &&String| line.contains(&format!("to the proxy, for Gateway default/gw, {head}"));
    assert_eq!(of_gateway.iter().filter(behind).count(), 1, "{of_gateway:?}");
    let (outcome, _, secure) = said("secure", EARLY);
    assert_eq!(outcome, "accepted");
    assert!(!secure.contains("PROXY"), "{secure}");
    let line =
        ":443: host a.example, under TLS with the certificate of Secret default/cert, valid until 2030-01-01T00:00:00Z";
    assert!(secure.contains(line) && !secure.contains("renew"), "{secure}");
    assert!(said("secure", 1_893_456_001).2.contains("has expired: renew it"));
    let (outcome, reason, missing) = said("missing", EARLY);
    assert_eq!((outcome.as_str(), reason.as_str()), ("refused", "InvalidCertificateRef"));
    assert!(missing.contains("Secret default/gone does not exist"), "{missing}");
    assert!(missing.contains("no certificate that could be shown"), "{missing}");
    let wrong = |written: &str| listener(&model, written, EARLY).unwrap_err();
    assert_eq!(wrong("default/gw/secur"), "Gateway default/gw has no listener secur, did you mean secure?");
    assert!(wrong("default/other/web").starts_with("no Gateway or ListenerSet default/other of ours is known"));
    assert!(wrong("gw/web").starts_with("listener \"gw/web\": want listener/NAMESPACE/GATEWAY/NAME"));
}

#[test]
fn listeners_of_one_name_are_told_apart() {
    let listener =
        |name: &str, port: u16, host: &str| json!({"name": name, "port": port, "protocol": "HTTP", "hostname": host});
    let set = |name: &str, listeners: serde_json::Value| {
        json!({"kind": "ListenerSet", "metadata": {"name": name, "namespace": "default"},
            "spec": {"parentRef": {"name": "gw"}, "listeners": listeners}})
    };
    let snapshot = fixture::snapshot(&json!([
        {"kind": "Gateway", "metadata": {"name": "gw", "namespace": "default"}, "spec": {"gatewayClassName": "sluice",
            "allowedListeners": {"namespaces": {"from": "Same"}}, "listeners": [listener("http", 80, "a.example")]}},
        set("one", json!([listener("http", 80, "b.example"), listener("other", 80, "c.example")])),
        set("two", json!([listener("other", 80, "d.example"), listener("alone", 80, "e.example")])),
    ]));
    let model = model::compile(&snapshot, &fixture::node(&["198.18.0.0/24"]));
    let said = |written: &str| listener_of(&model, written);
    let own = said("default/gw/http").unwrap();
    assert_eq!(own.0, "default/gw/http");
    assert!(own.1.contains("host a.example") && !own.1.contains("b.example"), "{own:?}");
    assert!(own.1.contains("others of its Gateway have this name: listener/default/gw/default/one/http"), "{own:?}");
    for written in ["default/one/http", "default/gw/default/one/http"] {
        let of_set = said(written).unwrap();
        assert_eq!(of_set.0, "default/gw/default/one/http");
        assert!(
            of_set.1.contains("it is of ListenerSet default/one\n") && of_set.1.contains("host b.example"),
            "{of_set:?}"
        );
        assert!(!of_set.1.contains("a.example"), "{of_set:?}");
    }
    assert_eq!(said("default/gw/alone").unwrap().0, "default/gw/default/two/alone");
    let several = "several listeners of Gateway default/gw are named other: ask for one of \
        listener/default/gw/default/one/other, listener/default/gw/default/two/other";
    assert_eq!(said("default/gw/other").unwrap_err(), several);
    assert_eq!(
        said("default/two/alon").unwrap_err(),
        "ListenerSet default/two has no listener alon, did you mean alone?"
    );
    assert!(
        said("default/gw/default/two/http")
            .unwrap_err()
            .starts_with("Gateway default/gw has no listener default/two/http")
    );
}

fn listener_of(model: &Model, written: &str) -> Result<(String, String), String> {
    listener(model, written, EARLY).map(|object| (object.name, object.messages.join("\n")))
}

#[test]
fn a_secret_is_told_with_the_listeners_that_stand_on_it_and_without_its_key() {
    let (snapshot, model) = compiled();
    let said = |name: &str| {
        secret(&snapshot, &model, &ObjectName::new("default", name), EARLY).map(|o| (o.outcome, o.messages.join("\n")))
    };
    let (outcome, cert) = said("cert").unwrap();
    assert_eq!(outcome, "accepted");
    assert!(
        cert.contains("valid until 2030-01-01T00:00:00Z") && cert.contains("listener default/gw/secure shows it at"),
        "{cert}"
    );
    assert!(!cert.contains("PRIVATE"), "{cert}");
    let (outcome, broken) = said("broken").unwrap();
    assert_eq!(outcome, "refused");
    assert!(broken.contains("it cannot be used: ") && !broken.contains("PRIVATE"), "{broken}");
    let (outcome, gone) = said("gone").unwrap();
    assert_eq!(outcome, "refused");
    assert!(gone.contains("it does not exist"), "{gone}");
    assert!(said("spare").unwrap().1.contains("nothing refers to it"));
    assert_eq!(said("nobody"), None);
}
