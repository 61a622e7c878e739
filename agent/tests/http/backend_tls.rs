//! TLS to backends: BackendTLSPolicies, and the certificates that Gateways show.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use sluice::proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Bed, Client, Origin, SOON, any_listener, catch_all, refusing, status},
    http2::{Body, connect, text},
    tls::{Made, handshake, listener, made, secret, trusting},
    tls_origin::{TlsOrigin, expired, made_with_uri},
};

pub(crate) fn authority(name: &str, made: &Made) -> Value {
    json!({"kind": "ConfigMap", "metadata": {"name": name}, "data": {"ca.crt": made.certificate}})
}

/// A policy for Service `a`.
pub(crate) fn policy(hostname: &str) -> Value {
    policy_for("a", hostname, &[])
}

pub(crate) fn policy_for(service: &str, hostname: &str, names: &[Value]) -> Value {
    json!({"kind": "BackendTLSPolicy", "metadata": {"name": service}, "spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": service}],
        "validation": {"hostname": hostname, "subjectAltNames": names,
            "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}})
}

async fn bed_of(settings: Settings, objects: Value, backends: &[(&str, &[SocketAddr])]) -> Bed {
    Bed::secured(1, settings, objects, any_listener(), json!([catch_all()]), backends).await
}

async fn bed(objects: Value, backend: SocketAddr) -> Bed {
    bed_of(Settings::default(), objects, &[("a", &[backend])]).await
}

/// Serves these objects in the place of others.
async fn exchange(bed: &mut Bed, objects: Value, backend: SocketAddr) {
    bed.exchange(objects, any_listener(), json!([catch_all()]), &[("a", &[backend])]).await;
}

pub(crate) fn failures(bed: &Bed) -> u64 {
    bed.stats.sum(|stats| &stats.upstream_tls_failures)
}

#[tokio::test]
async fn requests_go_under_tls_with_the_name_of_the_policy() {
    let server = made(&["web.example"]);
    let mut backend = TlsOrigin::start(&server).await;
    let bed = bed(json!([authority("ca", &server), policy("web.example")]), backend.addr).await;
    for _ in 0..3 {
        let response = bed.get("/", "other.example", "").await;
        assert!(status(&response) == 200 && response.ends_with("tls"), "{response}");
        let seen = backend.next().await;
        assert_eq!((seen.sni.as_deref(), seen.alpn.as_deref()), (Some("web.example"), Some("h2")));
        assert_eq!(seen.head, "GET https://other.example/");
    }
    assert_eq!((backend.handshakes(), failures(&bed)), (1, 0), "the connection is kept");
}

#[tokio::test]
async fn an_endpoint_that_is_not_trusted_gets_no_request() {
    let (server, other, old) = (made(&["web.example"]), made(&["web.example"]), expired("web.example"));
    let plain = Origin::named("plain").await;
    let closing = Origin::start(|client: Client, _| async move { drop(client) }).await;
    for (what, shown, trusted, name) in [
        ("another authority", &server, &other, "web.example"),
        ("another name", &server, &server, "api.example"),
        ("expired", &old, &old, "web.example"),
    ] {
        let mut backend = TlsOrigin::start(shown).await;
        let bed = bed(json!([authority("ca", trusted), policy(name)]), backend.addr).await;
        for tries in 1..3 {
            assert_eq!(status(&bed.get("/", "h", "").await), 502, "{what}");
            assert!(failures(&bed) >= tries, "{what}");
        }
        let why = bed.ejections.now().remove(&backend.addr).unwrap_or_default();
        assert!(why.starts_with("TLS with it could not be made as its policy wants it"), "{what}: {why}");
        assert!(backend.untouched(), "{what}");
    }
    for (what, backend) in [("no TLS", plain.addr), ("closes", closing.addr)] {
        let bed = bed(json!([authority("ca", &server), policy("web.example")]), backend).await;
        assert_eq!((status(&bed.get("/", "h", "").await), failures(&bed)), (502, 1), "{what}");
    }
    // Nobody there is another thing than nobody whom to trust.
    let nobody = refusing();
    let bed = bed(json!([authority("ca", &server), policy("web.example")]), nobody).await;
    assert_eq!((status(&bed.get("/", "h", "").await), failures(&bed)), (503, 0));
    let why = bed.ejections.now().remove(&nobody).unwrap_or_default();
    assert!(why.starts_with("it could not be connected"), "{why}");
}

#[tokio::test]
async fn one_that_is_not_trusted_is_passed_over_where_another_is_left() {
    let (server, other) = (made(&["web.example"]), made(&["web.example"]));
    let (good, mut bad) = (TlsOrigin::start(&server).await, TlsOrigin::start(&other).await);
    let objects = json!([authority("ca", &server), policy("web.example")]);
    let bed = bed_of(Settings::default(), objects, &[("a", &[good.addr, bad.addr])]).await;
    for _ in 0..10 {
        assert_eq!(status(&bed.get("/", "h", "").await), 200);
    }
    assert!(bad.untouched());
}

#[tokio::test]
async fn subject_alt_names_decide_where_there_are_some() {
    let server = made_with_uri("web.example", "spiffe://x.example/web");
    let mut backend = TlsOrigin::start(&server).await;
    let (host, uri) =
        (|name: &str| json!({"type": "Hostname", "hostname": name}), |name: &str| json!({"type": "URI", "uri": name}));
    for (names, want) in [
        (vec![host("web.example")], 200),
        (vec![host("*.example")], 200),
        (vec![uri("spiffe://x.example/web")], 200),
        (vec![uri("spiffe://x.example/api"), host("web.example")], 200),
        (vec![host("sni.example")], 502),
        (vec![host("*.web.example")], 502),
        (vec![uri("spiffe://x.example/we")], 502),
        (vec![uri("spiffe://x.example/api"), host("api.example")], 502),
    ] {
        // The name that is asked for need not be the certificate's.
        let objects = json!([authority("ca", &server), policy_for("a", "sni.example", &names)]);
        let bed = bed(objects, backend.addr).await;
        assert_eq!(status(&bed.get("/", "h", "").await), want, "{names:?}");
        if want == 200 {
            assert_eq!(backend.next().await.sni.as_deref(), Some("sni.example"));
        }
    }
    assert!(backend.untouched());
}

#[tokio::test]
async fn a_policy_that_cannot_be_obeyed_has_nothing_sent_at_all() {
    let server = made(&["web.example"]);
    let (backend, plain) = (TlsOrigin::start(&server).await, Origin::named("plain").await);
    let good = json!([authority("ca", &server), policy("web.example")]);
    for backend in [backend.addr, plain.addr] {
        let mut bed = bed(json!([policy("web.example")]), backend).await;
        assert_eq!(status(&bed.get("/", "h", "").await), 500, "there is no such ConfigMap");
        exchange(&mut bed, json!([authority("ca", &server), policy("not a name")]), backend).await;
        assert_eq!(status(&bed.get("/", "h", "").await), 500, "no name");
        let garbage =
            json!({"kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": "x".repeat(64 << 10)}});
        exchange(&mut bed, json!([garbage, policy("web.example")]), backend).await;
        assert_eq!(status(&bed.get("/", "h", "").await), 500, "no certificate");
        assert_eq!(bed.stats.sum(|stats| &stats.open_upstream), 0);
    }
    assert_eq!((backend.handshakes(), plain.connections.load(Relaxed)), (0, 0));
    // It is followed as it goes: the authority comes, vanishes, and comes again.
    let mut bed = bed(good.clone(), backend.addr).await;
    for (objects, want) in [(json!([policy("web.example")]), 500), (good.clone(), 200), (json!([]), 502), (good, 200)] {
        exchange(&mut bed, objects.clone(), backend.addr).await;
        assert_eq!(status(&bed.get("/", "h", "").await), want, "{objects}");
    }
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_with_the_time_for_connecting() {
    let server = made(&["web.example"]);
    let silent = Origin::start(|client: Client, _| async move {
        std::future::pending::<()>().await;
        drop(client);
    })
    .await;
    let settings = Settings { connect_timeout: Duration::from_millis(200), ..Settings::default() };
    let objects = json!([authority("ca", &server), policy("web.example")]);
    let bed = bed_of(settings, objects, &[("a", &[silent.addr])]).await;
    assert_eq!((status(&bed.get("/", "h", "").await), failures(&bed)), (502, 1));
    crate::harness::until("its socket is closed", || bed.stats.sum(|stats| &stats.open_upstream) == 0).await;
}

#[tokio::test]
async fn a_policy_that_changes_uses_no_connection_of_before_and_one_that_does_not_keeps_its_own() {
    let server = made(&["web.example", "api.example"]);
    let mut backend = TlsOrigin::start(&server).await;
    let objects = |hostname: &str| json!([authority("ca", &server), policy(hostname)]);
    let mut bed = bed(objects("web.example"), backend.addr).await;
    let ask = async |bed: &Bed, backend: &mut TlsOrigin| {
        assert_eq!(status(&bed.get("/", "h", "").await), 200);
        backend.next().await.sni
    };
    assert_eq!(ask(&bed, &mut backend).await.as_deref(), Some("web.example"));
    // Another route and the same policy.
    let mut all = catch_all();
    all["spec"]["rules"][0]["timeouts"] = json!({"request": "9s"});
    bed.exchange(objects("web.example"), any_listener(), json!([all]), &[("a", &[backend.addr])]).await;
    assert_eq!(ask(&bed, &mut backend).await.as_deref(), Some("web.example"));
    assert_eq!(backend.handshakes(), 1, "the connection is kept");
    exchange(&mut bed, objects("api.example"), backend.addr).await;
    assert_eq!(ask(&bed, &mut backend).await.as_deref(), Some("api.example"));
    assert_eq!(backend.handshakes(), 2, "it is no connection of the other name's");
}

#[tokio::test]
async fn no_request_fails_while_a_policy_flips() {
    let server = made(&["web.example", "api.example"]);
    let backend = TlsOrigin::start(&server).await;
    let objects = |hostname: &str| json!([authority("ca", &server), policy(hostname)]);
    let mut bed = bed(objects("web.example"), backend.addr).await;
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, asked, addr) = (Arc::clone(&over), Arc::clone(&asked), bed.addr);
            tokio::spawn(async move {
                let mut client = Client::connect(addr).await;
                while !over.load(Relaxed) {
                    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
                    let response = client.response().await;
                    assert!(response.ends_with("tls"), "{response}");
                    asked.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    for flip in 0..40 {
        let before = asked.load(Relaxed);
        exchange(&mut bed, objects(if flip % 2 == 0 { "api.example" } else { "web.example" }), backend.addr).await;
        crate::harness::until("requests go on", || asked.load(Relaxed) >= before + 8).await;
    }
    over.store(true, Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(backend.handshakes() >= 40, "{}", backend.handshakes());
}

#[tokio::test]
async fn http2_is_spoken_where_alpn_says_so_and_nowhere_else() {
    let server = made(&["web.example"]);
    let (mut backend, silent) = (TlsOrigin::start(&server).await, TlsOrigin::with(&server, &[], None).await);
    let route = json!([{"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": "h2c-a", "port": 80}]}]}}]);
    let objects = json!([authority("ca", &server), policy_for("h2c-a", "web.example", &[])]);
    let settings = Settings::default();
    let bed = Bed::secured(1, settings, objects, any_listener(), route, &[("h2c-a", &[backend.addr])]).await;
    for _ in 0..2 {
        assert_eq!(status(&bed.get("/x", "h.example", "").await), 200);
        let seen = backend.next().await;
        assert_eq!((seen.alpn.as_deref(), seen.head.as_str()), (Some("h2"), "GET https://h.example/x"));
    }
    assert_eq!(backend.handshakes(), 1);
    let route = json!([{"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": "h2c-a", "port": 80}]}]}}]);
    bed.serve(any_listener(), route, &[("h2c-a", &[silent.addr])]).await;
    assert_eq!(status(&bed.get("/", "h", "").await), 502, "who says nothing speaks HTTP/1.1");
}

#[tokio::test]
async fn grpc_calls_go_under_tls() {
    let (server, other) = (made(&["web.example"]), made(&["web.example"]));
    let mut backend = TlsOrigin::start(&server).await;
    let route = || {
        json!([{"kind": "GRPCRoute", "metadata": {"name": "grpc"}, "spec": {"parentRefs": [{"name": "gw"}],
            "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}}])
    };
    let objects = json!([authority("ca", &server), policy("web.example")]);
    let mut bed =
        Bed::secured(1, Settings::default(), objects, any_listener(), route(), &[("a", &[backend.addr])]).await;
    let call = async |bed: &Bed| {
        let request = Request::post("http://a.example/shop.Cart/Add").version(Version::HTTP_2);
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let request: Request<Body> = request.body(Full::default().boxed()).unwrap();
        tokio::time::timeout(SOON, connect(bed).await.send_request(request)).await.expect("no answer").unwrap()
    };
    assert_eq!(text(call(&bed).await).await, "tls");
    let seen = backend.next().await;
    assert_eq!((seen.alpn.as_deref(), seen.head.as_str()), (Some("h2"), "POST https://a.example/shop.Cart/Add"));
    for objects in [json!([authority("ca", &other), policy("web.example")]), json!([policy("web.example")])] {
        bed.exchange(objects, any_listener(), route(), &[("a", &[backend.addr])]).await;
        let answer = call(&bed).await;
        assert_eq!((answer.status().as_u16(), answer.headers()["grpc-status"].to_str().unwrap()), (200, "14"));
    }
    assert!(backend.untouched());
}

#[tokio::test]
async fn a_mirror_gets_its_copies_under_tls() {
    let server = made(&["b.example"]);
    let (a, mut b) = (Origin::named("a").await, TlsOrigin::start(&server).await);
    let filter = json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "b", "port": 80}}});
    let route = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"filters": [filter], "backendRefs": [{"name": "a", "port": 80}]}]}}]);
    let objects = json!([authority("ca", &server), policy_for("b", "b.example", &[])]);
    let backends: [(&str, &[_]); 2] = [("a", &[a.addr]), ("b", &[b.addr])];
    let bed = Bed::secured(1, Settings::default(), objects, any_listener(), route, &backends).await;
    assert!(bed.get("/x", "h", "").await.ends_with('a'));
    let seen = b.next().await;
    assert!(seen.sni.as_deref() == Some("b.example") && seen.head == "GET https://h/x", "{seen:?}");
}

fn der(made: &Made) -> Vec<u8> {
    CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn a_gateway_shows_its_certificate_and_the_next_one_when_it_is_exchanged() {
    let (server, first, second) = (made(&["web.example"]), made(&["first"]), made(&["second"]));
    let mut backend = TlsOrigin::with(&server, &[b"http/1.1"], Some(&first)).await;
    let gateway = || {
        json!({"tls": {"backend": {"clientCertificateRef": {"name": "client"}}},
            "listeners": [{"name": "web", "protocol": "HTTP"}]})
    };
    let objects = |made: Option<&Made>| {
        let mut all = vec![authority("ca", &server), policy("web.example")];
        all.extend(made.map(|made| secret("client", made)));
        json!(all)
    };
    let backends: [(&str, &[_]); 1] = [("a", &[backend.addr])];
    let mut bed =
        Bed::secured(1, Settings::default(), objects(Some(&first)), gateway(), json!([catch_all()]), &backends).await;
    for _ in 0..2 {
        assert_eq!(status(&bed.get("/", "h", "").await), 200);
        assert_eq!(backend.next().await.certificate, Some(der(&first)));
    }
    assert_eq!(backend.handshakes(), 1);
    // The backend takes no other: what is shown now is the second one, over a new connection.
    bed.exchange(objects(Some(&second)), gateway(), json!([catch_all()]), &backends).await;
    assert_eq!(status(&bed.get("/", "h", "").await), 502);
    bed.exchange(objects(Some(&first)), gateway(), json!([catch_all()]), &backends).await;
    assert_eq!(status(&bed.get("/", "h", "").await), 200);
    backend.next().await;
    // Without it nobody is spoken to as somebody else.
    bed.exchange(objects(None), gateway(), json!([catch_all()]), &backends).await;
    assert_eq!(status(&bed.get("/", "h", "").await), 500);
    bed.exchange(objects(None), any_listener(), json!([catch_all()]), &backends).await;
    assert_eq!(status(&bed.get("/", "h", "").await), 502, "the backend wants one");
    assert!(backend.untouched());
}

#[tokio::test]
async fn a_stream_whose_tls_ends_here_goes_on_under_tls_and_one_that_passes_does_not() {
    let (front, server) = (made(&["a.example"]), made(&["web.example"]));
    let backend = TlsOrigin::with(&server, &[], None).await;
    let mut ended = listener("ended", None, &["cert"]);
    ended["protocol"] = json!("TLS");
    let route = |name: &str| {
        json!([{"kind": "TLSRoute", "metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
            "hostnames": [name], "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}}])
    };
    let objects = json!([secret("cert", &front), authority("ca", &server), policy("web.example")]);
    let backends: [(&str, &[_]); 1] = [("a", &[backend.addr])];
    let mut bed =
        Bed::secured(1, Settings::default(), objects, json!([ended.clone()]), route("a.example"), &backends).await;
    let mut client = handshake(&bed, &Arc::new(trusting(&[&front])), "a.example").await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut got = vec![0; 41];
    tokio::time::timeout(SOON, client.read_exact(&mut got)).await.expect("no answer").unwrap();
    assert!(got.ends_with(b"tls"), "{}", String::from_utf8_lossy(&got));
    assert_eq!(backend.handshakes(), 1);
    // A policy that cannot be obeyed: the end, and no answer.
    bed.exchange(json!([secret("cert", &front), policy("web.example")]), json!([ended]), route("a.example"), &backends)
        .await;
    assert!(handshake(&bed, &Arc::new(trusting(&[&front])), "a.example").await.is_err());
    // What passes through is the client's own TLS, whatever the policy says.
    let mut passed = listener("passed", None, &[]);
    (passed["protocol"], passed["tls"]) = (json!("TLS"), json!({"mode": "Passthrough"}));
    bed.serve(json!([passed]), route("web.example"), &backends).await;
    let client = handshake(&bed, &Arc::new(trusting(&[&server])), "web.example").await;
    assert!(client.is_ok(), "{client:?}");
}
