//! Backends under TLS that say themselves, by ALPN, whether they speak HTTP/2 or HTTP/1.1.
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use sluice::proxy::Settings;
use tokio::io::AsyncWriteExt;

use crate::{
    backend_tls::{authority, failures, policy, policy_for},
    harness::{Bed, SOON, any_listener, catch_all, header, status},
    http2::{Body, connect},
    tls::{Made, made},
    tls_origin::{Seen, TlsOrigin},
    websocket::ask_and_echo,
};

const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];
const OLD: &[&[u8]] = &[b"http/1.1"];
const NEW: &[&[u8]] = &[b"h2"];

/// One route to endpoints whose certificate is this one.
async fn bed(server: &Made, backends: &[&TlsOrigin]) -> Bed {
    let addrs: Vec<_> = backends.iter().map(|backend| backend.addr).collect();
    let objects = json!([authority("ca", server), policy("web.example")]);
    Bed::secured(1, Settings::default(), objects, any_listener(), json!([catch_all()]), &[("a", &addrs)]).await
}

async fn started(server: &Made, alpn: &[&[u8]]) -> TlsOrigin {
    TlsOrigin::with(server, alpn, None).await
}

/// Asks, is answered, and sees what came.
async fn asked(bed: &Bed, backend: &mut TlsOrigin) -> Seen {
    let response = bed.get("/x", "h.example", "").await;
    assert!(status(&response) == 200 && response.ends_with("tls"), "{response}");
    backend.next().await
}

#[tokio::test]
async fn an_endpoint_chooses_and_its_connections_are_used_for_what_it_chose() {
    let server = made(&["web.example"]);
    for (alpn, chosen, head) in [
        (BOTH, Some("h2"), "GET https://h.example/x"),
        (NEW, Some("h2"), "GET https://h.example/x"),
        (OLD, Some("http/1.1"), "GET /x HTTP/1.1"),
        (&[], None, "GET /x HTTP/1.1"),
    ] {
        let mut backend = started(&server, alpn).await;
        let bed = bed(&server, &[&backend]).await;
        for _ in 0..3 {
            let seen = asked(&bed, &mut backend).await;
            assert_eq!((seen.alpn.as_deref(), seen.head.lines().next()), (chosen, Some(head)));
        }
        assert_eq!((backend.handshakes(), failures(&bed)), (1, 0), "{chosen:?}: the connection is kept");
    }
}

#[tokio::test]
async fn many_who_are_first_make_one_handshake_where_http2_is_chosen() {
    let server = made(&["web.example"]);
    let backend = started(&server, BOTH).await;
    let bed = bed(&server, &[&backend]).await;
    let all = (0..40).map(|_| bed.get("/", "h", ""));
    assert!(futures_util::future::join_all(all).await.iter().all(|response| response.ends_with("tls")));
    assert_eq!(backend.handshakes(), 1);
}

#[tokio::test]
async fn an_endpoint_that_starts_anew_may_choose_another_version() {
    let server = made(&["web.example"]);
    let mut backend = started(&server, BOTH).await;
    let bed = bed(&server, &[&backend]).await;
    assert_eq!(asked(&bed, &mut backend).await.alpn.as_deref(), Some("h2"));
    for (alpn, chosen) in [(OLD, "http/1.1"), (BOTH, "h2"), (OLD, "http/1.1"), (NEW, "h2")] {
        backend.restart(alpn, false);
        // The proxy may learn of the end of its connection by the request: that one is sent anew.
        for _ in 0..3 {
            assert_eq!(asked(&bed, &mut backend).await.alpn.as_deref(), Some(chosen));
        }
    }
    assert_eq!((backend.handshakes(), failures(&bed)), (5, 0));
}

#[tokio::test]
async fn the_endpoints_of_one_service_need_not_agree() {
    let server = made(&["web.example"]);
    let (mut new, mut old) = (started(&server, BOTH).await, started(&server, OLD).await);
    let route = json!([{"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": "turns", "port": 80}]}]}}]);
    let objects = json!([authority("ca", &server), policy_for("turns", "web.example", &[])]);
    let backends: [(&str, &[_]); 1] = [("turns", &[new.addr, old.addr])];
    let bed = Bed::secured(1, Settings::default(), objects, any_listener(), route, &backends).await;
    for _ in 0..10 {
        assert!(bed.get("/", "h", "").await.ends_with("tls"));
    }
    for _ in 0..5 {
        assert_eq!(new.next().await.alpn.as_deref(), Some("h2"));
        assert_eq!(old.next().await.alpn.as_deref(), Some("http/1.1"));
    }
    assert_eq!((new.handshakes(), old.handshakes()), (1, 1));
}

#[tokio::test]
async fn a_body_arrives_whole_whatever_is_chosen() {
    let server = made(&["web.example"]);
    for alpn in [BOTH, OLD] {
        let mut backend = started(&server, alpn).await;
        let bed = bed(&server, &[&backend]).await;
        let body = "POST /x HTTP/1.1\r\nHost: h.example\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let answer = bed.raw(body).await;
        assert!(status(&answer) == 200 && answer.ends_with("tls"), "{answer}");
        assert!(backend.next().await.head.starts_with("POST "));
    }
}

#[tokio::test]
async fn a_websocket_goes_over_http2_only_where_the_endpoint_says_that_it_may() {
    let server = made(&["web.example"]);
    for (alpn, connects, chosen, handshakes) in
        [(OLD, false, "http/1.1", 1), (BOTH, true, "h2", 1), (NEW, true, "h2", 1), (BOTH, false, "http/1.1", 2)]
    {
        let mut backend = started(&server, alpn).await;
        backend.restart(alpn, connects);
        let bed = bed(&server, &[&backend]).await;
        ask_and_echo(&bed).await;
        let seen = backend.next().await;
        assert_eq!(seen.alpn.as_deref(), Some(chosen), "{connects}");
        assert!(seen.head.starts_with(if chosen == "h2" { "CONNECT " } else { "GET /chat HTTP/1.1" }), "{}", seen.head);
        assert_eq!((backend.handshakes(), failures(&bed)), (handshakes, 0), "{chosen} {connects}");
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_websocket_is_well_all_the_same() {
    let server = made(&["web.example"]);
    let mut backend = started(&server, NEW).await;
    let bed = bed(&server, &[&backend]).await;
    for _ in 0..2 {
        let head =
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
        let answer = bed.raw(head).await;
        assert!(status(&answer) == 501 && answer.contains("no WebSocket over HTTP/2"), "{answer}");
        assert_eq!(asked(&bed, &mut backend).await.alpn.as_deref(), Some("h2"));
    }
    assert_eq!(bed.stats.sum(|stats| &stats.ejections), 0);
}

#[tokio::test]
async fn grpc_needs_an_endpoint_that_chooses_http2() {
    let server = made(&["web.example"]);
    let call = async |bed: &Bed| {
        let request = Request::post("http://a.example/shop.Cart/Add").version(Version::HTTP_2);
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let request: Request<Body> = request.body(Full::<Bytes>::default().boxed()).unwrap();
        tokio::time::timeout(SOON, connect(bed).await.send_request(request)).await.expect("no answer").unwrap()
    };
    let mut backend = started(&server, OLD).await;
    let bed = bed(&server, &[&backend]).await;
    for _ in 0..3 {
        let answer = call(&bed).await;
        assert_eq!((answer.status().as_u16(), answer.headers()["grpc-status"].to_str().unwrap()), (200, "12"));
        let message = answer.headers()["grpc-message"].to_str().unwrap();
        assert!(message.contains("gRPC needs a backend of HTTP/2"), "{message}");
        assert!(backend.untouched());
        assert_eq!(asked(&bed, &mut backend).await.alpn.as_deref(), Some("http/1.1"), "it is well for all else");
    }
    assert_eq!((bed.stats.sum(|stats| &stats.ejections), failures(&bed)), (0, 0));
    let mut backend = started(&server, BOTH).await;
    let bed = self::bed(&server, &[&backend]).await;
    assert_eq!(call(&bed).await.status().as_u16(), 200);
    let seen = backend.next().await;
    assert_eq!((seen.alpn.as_deref(), seen.head.as_str()), (Some("h2"), "POST https://a.example/shop.Cart/Add"));
}

#[tokio::test]
async fn a_client_of_http1_that_keeps_its_connection_is_served_by_either() {
    let server = made(&["web.example"]);
    let backend = started(&server, BOTH).await;
    let bed = bed(&server, &[&backend]).await;
    let mut client = bed.connect().await;
    for alpn in [BOTH, OLD, NEW] {
        backend.restart(alpn, false);
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let answer = client.response().await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("tls"), "{answer}");
        assert_eq!(header(&answer, "connection"), None, "{answer}");
    }
    client.stream.shutdown().await.unwrap();
}
