//! CONNECT: tunnels to a route's backend, over either version of HTTP on either side.
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    harness::{Bed, Client, Origin, SOON, any_listener, catch_all, header, status, until},
    http2_origin::{Call, Http2Origin},
};

const ASK: &str = "CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n";

/// A route that takes CONNECT, beside one for requests.
fn routes(service: &str) -> Value {
    json!([catch_all(), {"metadata": {"name": "tunnels"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [{
        "matches": [{"method": "CONNECT"}], "backendRefs": [{"name": service, "port": 80}]}]}}])
}

async fn bed(service: &str, backend: std::net::SocketAddr, other: &Origin) -> Bed {
    Bed::new(any_listener(), routes(service), &[(service, &[backend]), ("a", &[other.addr])]).await
}

/// A backend of HTTP/1.1 that answers with this head, echoes until the client has said all, and then says `bye`.
async fn echo(answer: &'static str) -> Origin {
    Origin::start(move |mut client: Client, seen| async move {
        let Some(head) = client.message().await else { return };
        let _ = seen.send(head);
        client.send(answer).await;
        let mut chunk = [0; 1024];
        while let Ok(n) = client.stream.read(&mut chunk).await
            && n > 0
        {
            client.stream.write_all(&chunk[..n]).await.unwrap();
        }
        let _ = client.stream.write_all(b"bye").await;
        let _ = client.stream.shutdown().await;
    })
    .await
}

/// The same over HTTP/2.
async fn echo_http2() -> Http2Origin {
    Http2Origin::start(None, |mut call: Call| async move {
        assert_eq!(call.request.method(), Method::CONNECT);
        let mut out = call.respond.send_response(Response::new(()), false).unwrap();
        let body = call.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            out.send_data(data, false).unwrap();
        }
        out.send_data(Bytes::from("bye"), true).unwrap();
    })
    .await
}

/// Speaks through a tunnel over HTTP/1.1, says the end, and hears what comes after it.
async fn speak(bed: &Bed) {
    let mut client = bed.connect().await;
    client.send(ASK).await;
    let answer = client.until("\r\n\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    for framing in ["content-length", "transfer-encoding", "connection"] {
        assert_eq!(header(&answer, framing), None, "{answer}");
    }
    client.send("hello\r\n\r\n").await;
    client.until("hello\r\n\r\n").await;
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "bye");
    until("the tunnel is closed", || bed.stats.sum(|stats| &stats.tunnels) == 0).await;
}

async fn http2(bed: &Bed) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn ask() -> Request<()> {
    Request::builder().method(Method::CONNECT).uri("db.example:5432").body(()).unwrap()
}

/// The same over HTTP/2.
async fn speak_http2(bed: &Bed) {
    let mut client = http2(bed).await.ready().await.unwrap();
    let (response, mut out) = client.send_request(ask(), false).unwrap();
    let response = tokio::time::timeout(SOON, response).await.expect("no answer").unwrap();
    assert_eq!((response.status(), response.headers().get("content-length")), (StatusCode::OK, None));
    let mut body = response.into_body();
    out.send_data(Bytes::from("hello"), false).unwrap();
    let data = tokio::time::timeout(SOON, body.data()).await.expect("no echo").unwrap().unwrap();
    assert_eq!(data, "hello");
    out.send_data(Bytes::new(), true).unwrap();
    let data = tokio::time::timeout(SOON, body.data()).await.expect("no word after the end").unwrap().unwrap();
    assert_eq!(data, "bye");
    until("the tunnel is closed", || bed.stats.sum(|stats| &stats.tunnels) == 0).await;
}

#[tokio::test]
async fn h26_a_tunnel_to_a_backend_of_http1() {
    let (mut origin, other) = (echo("HTTP/1.1 200 Fine\r\nContent-Length: 3\r\n\r\n").await, Origin::named("a").await);
    let bed = bed("t", origin.addr, &other).await;
    for over_http2 in [false, true] {
        if over_http2 {
            speak_http2(&bed).await;
        } else {
            speak(&bed).await;
        }
        let head = origin.next().await;
        assert!(head.starts_with("CONNECT db.example:5432 HTTP/1.1\r\n"), "{head}");
        assert_eq!(header(&head, "host"), Some("db.example:5432"));
        for gone in ["content-length", "transfer-encoding", "te", "upgrade"] {
            assert_eq!(header(&head, gone), None, "{head}");
        }
    }
    assert_eq!(other.connections.load(Relaxed), 0);
}

#[tokio::test]
async fn h26_a_tunnel_to_a_backend_of_http2() {
    let (mut origin, other) = (echo_http2().await, Origin::named("a").await);
    let bed = bed("h2c-t", origin.addr, &other).await;
    for over_http2 in [false, true] {
        if over_http2 {
            speak_http2(&bed).await;
        } else {
            speak(&bed).await;
        }
        let seen = origin.next().await;
        assert_eq!((seen.method, seen.uri.to_string()), (Method::CONNECT, "db.example:5432".to_owned()));
        assert_eq!((seen.uri.scheme(), seen.headers.get("host")), (None, None));
    }
    assert_eq!(origin.connections(), 1, "tunnels share the connection");
}

#[tokio::test]
async fn h26_what_follows_early_goes_into_the_tunnel() {
    let (origin, other) = (echo("HTTP/1.1 200 OK\r\n\r\n").await, Origin::named("a").await);
    let bed = bed("t", origin.addr, &other).await;
    let mut client = bed.connect().await;
    let early = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(format!("{ASK}{early}")).await;
    let all = client.until(early).await;
    assert_eq!(status(&all), 200, "{all}");
    assert_eq!(other.connections.load(Relaxed), 0, "it is no request");
}

#[tokio::test]
async fn h26_without_a_rule_for_it_nobody_gets_it_and_what_follows_is_no_request() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let answer = bed.raw(format!("{ASK}GET / HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert_eq!((status(&answer), answer.matches("HTTP/1.1").count()), (405, 1), "{answer}");
    assert!(answer.contains("no route for the host matches the method CONNECT"), "{answer}");
    assert_eq!(header(&answer, "connection"), Some("close"));
    let mut client = http2(&bed).await.ready().await.unwrap();
    let (response, _out) = client.send_request(ask(), false).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(origin.untouched());
}

#[tokio::test]
async fn h26_a_target_that_is_no_authority_with_a_port_is_refused() {
    let (mut origin, other) = (echo("HTTP/1.1 200 OK\r\n\r\n").await, Origin::named("a").await);
    let bed = bed("t", origin.addr, &other).await;
    for (head, want) in [
        ("CONNECT db.example HTTP/1.1\r\nHost: db.example\r\n", 400),
        ("CONNECT db.example: HTTP/1.1\r\nHost: db.example\r\n", 400),
        ("CONNECT db.example:0 HTTP/1.1\r\nHost: db.example:0\r\n", 400),
        ("CONNECT db.example:99999 HTTP/1.1\r\nHost: db.example\r\n", 400),
        ("CONNECT me@db.example:80 HTTP/1.1\r\nHost: db.example\r\n", 400),
        ("CONNECT / HTTP/1.1\r\nHost: db.example\r\n", 400),
        ("CONNECT http://db.example:80/ HTTP/1.1\r\nHost: db.example\r\n", 400),
        ("CONNECT db.example:80 HTTP/1.1\r\n", 400),
        ("CONNECT db.example:80 HTTP/1.0\r\nHost: db.example:80\r\n", 400),
        ("CONNECT db.example:80 HTTP/1.1\r\nHost: db.example:80\r\nContent-Length: 5\r\n", 400),
        ("CONNECT db.example:80 HTTP/1.1\r\nHost: db.example:80\r\nTransfer-Encoding: chunked\r\n", 400),
        ("connect db.example:80 HTTP/1.1\r\nHost: db.example:80\r\n", 400),
    ] {
        let answer = bed.raw(format!("{head}\r\n")).await;
        assert_eq!(status(&answer), want, "{head}{answer}");
    }
    assert!(origin.untouched() && other.connections.load(Relaxed) == 0);
}

#[tokio::test]
async fn h26_the_target_is_never_dialled() {
    let (mut origin, other) = (echo("HTTP/1.1 200 OK\r\n\r\n").await, Origin::named("a").await);
    let bed = bed("t", origin.addr, &other).await;
    let victim = Origin::named("victim").await;
    let mut client = bed.connect().await;
    client.send(format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", victim.addr)).await;
    assert_eq!(status(&client.until("\r\n\r\n").await), 200);
    assert!(origin.next().await.starts_with(&format!("CONNECT {} HTTP/1.1", victim.addr)));
    assert_eq!(victim.connections.load(Relaxed), 0);
}

#[tokio::test]
async fn h26_a_backend_that_makes_no_tunnel_is_heard_and_the_connection_ends() {
    for (answer, want) in [
        ("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", 403),
        ("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 302),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 502),
    ] {
        let (mut origin, other) = (echo(answer).await, Origin::named("a").await);
        let bed = bed("t", origin.addr, &other).await;
        let all = bed.raw(format!("{ASK}GET / HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!((status(&all), all.matches("HTTP/1.1").count()), (want, 1), "{all}");
        assert_eq!(header(&all, "connection"), Some("close"), "{all}");
        origin.next().await;
        assert!(origin.untouched() && other.connections.load(Relaxed) == 0);
    }
}

#[tokio::test]
async fn h26_a_host_that_the_route_gives_keeps_the_port() {
    let mut origin = echo("HTTP/1.1 200 OK\r\n\r\n").await;
    let filter = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "inner.example"}});
    let route = json!([{"metadata": {"name": "t"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [{
        "matches": [{"method": "CONNECT"}], "filters": [filter], "backendRefs": [{"name": "t", "port": 80}]}]}}]);
    let bed = Bed::new(any_listener(), route, &[("t", &[origin.addr])]).await;
    speak(&bed).await;
    let head = origin.next().await;
    assert!(head.starts_with("CONNECT inner.example:5432 HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), Some("inner.example:5432"));
}

#[tokio::test]
async fn h26_a_tunnel_ends_when_its_client_is_gone() {
    let (origin, other) = (echo("HTTP/1.1 200 OK\r\n\r\n").await, Origin::named("a").await);
    let bed = bed("t", origin.addr, &other).await;
    let mut client = bed.connect().await;
    client.send(ASK).await;
    client.until("\r\n\r\n").await;
    until("it is counted", || bed.stats.sum(|stats| &stats.tunnels) == 1).await;
    socket2::SockRef::from(&client.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    until("it has ended", || bed.stats.sum(|stats| &stats.tunnels) == 0).await;
    until("and the backend's side", || bed.stats.sum(|stats| &stats.open_upstream) == 0).await;
}
