//! WebSocket over HTTP/1.1 and HTTP/2, in any combination.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    harness::{Bed, Client, Origin, SOON, any_listener, header, status, until},
    http2_origin::{Call, Frames, HEADERS, Http2Origin, frames},
};

/// The example of RFC 6455 part 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) fn accept(key: &str) -> String {
    let joined = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, joined.as_bytes()))
}

/// A client of HTTP/2 that has seen the proxy's SETTINGS.
async fn connect(bed: &Bed) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let enabled = async {
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(SOON, enabled).await.expect("SETTINGS_ENABLE_CONNECT_PROTOCOL never came");
    sender
}

fn ask(protocol: Option<&'static str>) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a.example/chat?x=1")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .body(())
        .unwrap();
    protocol.map(|name| request.extensions_mut().insert(h2::ext::Protocol::from_static(name)));
    request
}

/// A backend of HTTP/1.1 that answers a handshake with this status line and with what `accept` makes of the key, then echoes.
pub(crate) async fn echo(line: &'static str, accept: fn(&str) -> String) -> Origin {
    Origin::start(move |mut client: Client, seen| async move {
        let Some(head) = client.message().await else { return };
        let accept = accept(header(&head, "sec-websocket-key").unwrap_or_default());
        let _ = seen.send(head);
        let fields = format!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}");
        client.send(format!("HTTP/1.1 {line}\r\n{fields}\r\nSec-WebSocket-Protocol: chat\r\n\r\n")).await;
        let mut chunk = [0; 1024];
        while let Ok(n) = client.stream.read(&mut chunk).await
            && n > 0
        {
            client.stream.write_all(&chunk[..n]).await.unwrap();
        }
        let _ = client.stream.shutdown().await;
    })
    .await
}

/// A backend of HTTP/2 that takes a WebSocket and echoes.
async fn echo_http2() -> Http2Origin {
    Http2Origin::start(None, |mut call: Call| async move {
        let protocol = call.request.extensions().get::<h2::ext::Protocol>().map(|p| p.as_str().to_owned());
        assert_eq!((call.request.method(), protocol.as_deref()), (&Method::CONNECT, Some("websocket")));
        let head = Response::builder().header("sec-websocket-protocol", "chat").body(()).unwrap();
        let mut out = call.respond.send_response(head, false).unwrap();
        let body = call.request.body_mut();
        while let Some(Ok(data)) = body.data().await {
            body.flow_control().release_capacity(data.len()).unwrap();
            out.send_data(data, false).unwrap();
        }
        out.send_data(Bytes::new(), true).unwrap();
    })
    .await
}

/// Speaks over a WebSocket of HTTP/2, both ways, then ends it.
async fn speak(client: &mut SendRequest<Bytes>) -> HeaderMap {
    let (response, mut out) = client.send_request(ask(Some("websocket")), false).unwrap();
    let response = tokio::time::timeout(SOON, response).await.expect("no answer").unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let (head, mut body) = response.into_parts();
    for word in ["one", "two"] {
        out.send_data(Bytes::from(word), false).unwrap();
        let data = tokio::time::timeout(SOON, body.data()).await.expect("no echo").unwrap().unwrap();
        assert_eq!(data, word);
    }
    out.send_data(Bytes::new(), true).unwrap();
    let end = async { while body.data().await.is_some_and(|data| data.is_ok_and(|data| data.is_empty())) {} };
    tokio::time::timeout(SOON, end).await.expect("it does not end");
    assert!(body.is_end_stream(), "it ends well");
    head.headers
}

/// Opens a WebSocket over HTTP/1.1, and hears what it says.
pub(crate) async fn ask_and_echo(bed: &Bed) {
    let mut client = bed.connect().await;
    let head = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    client.send(format!("{head}Sec-WebSocket-Key: {KEY}\r\n\r\nhello")).await;
    let answer = client.until("hello").await;
    assert_eq!((status(&answer), header(&answer, "sec-websocket-accept")), (101, Some(ACCEPT)), "{answer}");
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "", "it ends well");
}

fn route() -> serde_json::Value {
    json!([{"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": "h2c", "port": 80}]}]}}])
}

#[tokio::test]
async fn h74_a_websocket_of_http2_reaches_a_backend_of_http1() {
    let mut origin = echo("101 Switching Protocols", accept).await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    let answered = speak(&mut client).await;
    assert_eq!(answered["sec-websocket-protocol"], "chat");
    for gone in ["sec-websocket-accept", "connection", "upgrade"] {
        assert!(!answered.contains_key(gone), "{gone}");
    }
    let head = origin.next().await;
    assert!(head.starts_with("GET /chat?x=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), Some("a.example"));
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "connection"), Some("upgrade"));
    assert_eq!(header(&head, "sec-websocket-version"), Some("13"));
    assert_eq!(STANDARD.decode(header(&head, "sec-websocket-key").unwrap()).unwrap().len(), 16);
    until("the tunnel is closed", || bed.stats.sum(|s| &s.tunnels) == 0).await;
    // The connection serves on.
    speak(&mut client).await;
}

#[tokio::test]
async fn h74_what_is_no_websocket_is_none() {
    for (line, made, want) in [
        ("101 Switching Protocols", (|_| "wrong".to_owned()) as fn(&str) -> String, 502),
        ("200 OK\r\nContent-Length: 0", accept, 502),
        ("403 No\r\nContent-Length: 0", accept, 403),
    ] {
        let origin = echo(line, made).await;
        let bed = Bed::to(origin.addr).await;
        let mut client = connect(&bed).await;
        let (response, _out) = client.send_request(ask(Some("websocket")), false).unwrap();
        assert_eq!(response.await.unwrap().status().as_u16(), want, "{line}");
    }
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    for protocol in [Some("connect-udp"), Some("WebSocket")] {
        let (response, _out) = client.send_request(ask(protocol), false).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED, "{protocol:?}");
    }
    assert!(origin.untouched());
}

#[tokio::test]
async fn h74_a_websocket_of_http1_reaches_a_backend_of_http2() {
    let mut origin = echo_http2().await;
    let bed = Bed::new(any_listener(), route(), &[("h2c", &[origin.addr])]).await;
    let mut client = bed.connect().await;
    let head = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    client.send(format!("{head}Sec-WebSocket-Key: {KEY}\r\n\r\nhello")).await;
    let answer = client.until("hello").await;
    assert_eq!((status(&answer), header(&answer, "sec-websocket-accept")), (101, Some(ACCEPT)), "{answer}");
    assert_eq!((header(&answer, "upgrade"), header(&answer, "connection")), (Some("websocket"), Some("upgrade")));
    let seen = origin.next().await;
    assert_eq!(seen.uri.to_string(), "http://a.example/chat");
    for gone in ["sec-websocket-key", "connection", "upgrade", "host"] {
        assert!(!seen.headers.contains_key(gone), "{gone}");
    }
    client.stream.shutdown().await.unwrap();
    assert_eq!(client.rest().await, "", "it ends well");
}

#[tokio::test]
async fn h74_a_websocket_of_http2_reaches_a_backend_of_http2() {
    let origin = echo_http2().await;
    let bed = Bed::new(any_listener(), route(), &[("h2c", &[origin.addr])]).await;
    let mut client = connect(&bed).await;
    speak(&mut client).await;
    speak(&mut client).await;
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn h74_a_backend_of_http2_that_takes_none_gets_none() {
    let (addr, _) = frames(|_, mut peer: Frames| async move {
        assert!(peer.next(HEADERS).await.is_none());
    })
    .await;
    let bed = Bed::new(any_listener(), route(), &[("h2c", &[addr])]).await;
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    assert_eq!(status(&bed.raw(head).await), 501);
}
