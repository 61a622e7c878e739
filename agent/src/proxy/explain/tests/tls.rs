//! What is said of clients that speak TLS, and of those that should.
use serde_json::json;

use super::*;
use crate::model::{ObjectRef, fixture};

/// At one port: TLS that is passed through, TLS that is terminated, and HTTPS for two hosts at two listeners.
fn secured(has_streams: bool) -> HttpModel {
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(vec!["x.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let listener = |name: &str, protocol: &str, mode: &str| {
        let hostname = format!("{name}.example");
        let refs = if mode == "Terminate" { json!([{"name": "cert"}]) } else { json!([]) };
        json!({"name": name, "port": 443, "protocol": protocol, "hostname": hostname,
            "tls": {"mode": mode, "certificateRefs": refs}})
    };
    let mut listeners = vec![listener("shop", "HTTPS", "Terminate"), listener("other", "HTTPS", "Terminate")];
    if has_streams {
        listeners.extend([
            listener("pass", "TLS", "Passthrough"),
            listener("term", "TLS", "Terminate"),
            listener("idle", "TLS", "Passthrough"),
        ]);
    }
    let route = |name: &str, backends: serde_json::Value| {
        json!({"kind": "TLSRoute", "metadata": {"name": name}, "spec": {"parentRefs": [{"name": "gw", "sectionName": name}],
            "hostnames": [format!("{name}.example")], "rules": [{"backendRefs": backends}]}})
    };
    let service = |name: &str| json!({"kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": {"ports": [{"name": "a", "port": 80, "protocol": "TCP"}]}});
    let slice = json!({"kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "a", "port": 8080, "protocol": "TCP"}],
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]});
    let snapshot = fixture::snapshot(&json!([
        {"kind": "Secret", "metadata": {"name": "cert", "namespace": "default"}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": made.pem(), "tls.key": key.serialize_pem()}},
        {"kind": "Gateway", "metadata": {"name": "gw"}, "spec": {"gatewayClassName": "sluice", "listeners": listeners}},
        {"kind": "HTTPRoute", "metadata": {"name": "shop"}, "spec": {"parentRefs": [{"name": "gw"}],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}},
        route("pass", json!([{"name": "web", "port": 80}])),
        route("term", json!([{"name": "none", "port": 80}])),
        service("web"), service("none"), slice,
    ]));
    let node = Node { pools: vec!["192.0.2.0/24".parse().unwrap()], ..Node::alone("n1") };
    HttpModel::clone(&model::compile(&snapshot, &node).http)
}

#[test]
fn a_server_name_leads_to_a_route_of_streams_or_to_https() {
    let http = secured(true);
    let passed = ask(&http, "GET", "https://PASS.example./", &[]);
    assert_eq!(passed.listener.as_deref(), Some("default/gw/pass"));
    let row = passed.matched.as_ref().unwrap();
    assert_eq!(
        (row.kind.as_str(), row.route.as_str(), row.hostname.as_str()),
        ("TLSRoute", "default/pass", "pass.example")
    );
    assert_eq!(row.actions, ["pass TLS through"]);
    assert_eq!((passed.status, passed.ends, passed.answer.as_str()), (None, false, "default/web:80 at 10.0.0.1:8080"));
    let ended = ask(&http, "GET", "https://term.example/", &[]);
    assert_eq!(ended.matched.as_ref().map(|row| row.actions.clone()), Some(vec!["terminate TLS".to_owned()]));
    assert_eq!(
        (ended.ends, ended.answer.as_str()),
        (true, "the connection ends: default/none:80 has no ready endpoint")
    );
    let idle = ask(&http, "GET", "https://idle.example/", &[]);
    assert_eq!((idle.ends, idle.answer.as_str()), (true, "the connection ends: no route has the server name"));
    let shop = ask(&http, "GET", "https://shop.example/", &[]);
    assert_eq!((shop.ends, shop.answer.as_str()), (false, "default/web:80 at 10.0.0.1:8080"));
    assert_eq!(shop.listener.as_deref(), Some("default/gw/shop"));
    // The name of the handshake is the URL's, the host of the request what is sent.
    let misled = ask(&http, "GET", "https://shop.example/", &["Host: other.example"]);
    assert_eq!(misled.answer, "421: the connection was made for another host");
}

#[test]
fn who_is_refused_before_there_is_a_request_gets_no_status() {
    let said = |http: &HttpModel, url: &str| {
        let found = ask(http, "GET", url, &[]);
        assert!(found.ends && found.status.is_none(), "{found:?}");
        found.answer
    };
    let (streams, https) = (secured(true), secured(false));
    assert_eq!(said(&streams, "https://nope.test/"), "the connection ends: no listener has the server name nope.test");
    assert_eq!(
        said(&https, "https://nope.test/"),
        "the handshake ends with the alert unrecognized_name: no listener has the server name nope.test"
    );
    let at = *https.frontends.keys().next().unwrap();
    assert!(said(&https, &format!("https://{at}/")).ends_with("no listener takes clients that name no server"));
    assert_eq!(
        said(&https, "http://shop.example:443/"),
        "the connection ends: TLS is spoken here, and the URL is of http"
    );
    let clear = http(&json!([]), &json!([to("web", &json!({}))]));
    assert_eq!(said(&clear, "https://a.example:80/"), "no TLS handshake is made: clear text is spoken here");
}

#[test]
fn routes_of_streams_are_listed() {
    let http = secured(true);
    let rows = http.rows();
    let of_kind = |kind: &str| rows.iter().filter(|row| row.kind == kind).count();
    assert_eq!((of_kind("TLSRoute"), of_kind("HTTPRoute")), (2, 2), "{rows:?}");
    let route = ObjectRef::new("TLSRoute", ObjectName::new("default", "pass"));
    let own = http.rows_of(&route);
    assert_eq!((own.len(), own[0].listener.as_str(), own[0].backends[0].ready.len()), (1, "pass", 1));
}
