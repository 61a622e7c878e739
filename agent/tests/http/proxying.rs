//! What crosses the proxy and what does not.
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::json;

use crate::harness::{Bed, Client, Origin, any_listener, catch_all, header, status};

#[tokio::test]
async fn h76_h77_hop_by_hop_headers_stay_on_their_hop() {
    let mut origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nX-Kept: 1\r\n\r\na",
        false,
    )
    .await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client
        .send("GET / HTTP/1.1\r\nHost: x\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\nProxy-Authorization: x\r\nTrailer: x\r\nX-Kept: 1\r\n\r\n")
        .await;
    let response = client.response().await;
    let request = origin.next().await;
    for name in ["x-hop", "keep-alive", "te", "proxy-authorization", "trailer", "connection"] {
        assert_eq!(header(&request, name), None, "{request}");
    }
    for name in ["x-secret", "keep-alive", "proxy-connection", "upgrade", "connection"] {
        assert_eq!(header(&response, name), None, "{response}");
    }
    assert!(header(&request, "x-kept").is_some() && header(&response, "x-kept").is_some());
}

#[tokio::test]
async fn h77_close_ends_one_side_only() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for _ in 0..3 {
        assert_eq!(status(&bed.get("/", "x", "").await), 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(origin.connections.load(Relaxed), 1, "the client's close reached the backend");

    let closing = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\na", true).await;
    let bed = Bed::to(closing.addr).await;
    let mut client = bed.connect().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&client.response().await), 200);
    }
    assert_eq!(closing.connections.load(Relaxed), 3);
}

#[tokio::test]
async fn h78_connection_cannot_take_what_is_end_to_end() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    bed.raw("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: me\r\nConnection: close, Host, Authorization, X-Forwarded-For\r\n\r\n").await;
    let request = origin.next().await;
    assert_eq!(header(&request, "host"), Some("x"));
    assert_eq!(header(&request, "authorization"), Some("me"));
    assert_eq!(header(&request, "x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn h75_h79_upgrades_that_were_not_asked_for() {
    let mut origin = Origin::answering(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        false,
    )
    .await;
    let bed = Bed::to(origin.addr).await;
    assert_eq!(status(&bed.get("/", "x", "").await), 502);
    origin.next().await;
    let h2c = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    assert_eq!(status(&bed.raw(h2c).await), 502);
    let request = origin.next().await;
    assert_eq!(header(&request, "upgrade"), None);
    assert_eq!(header(&request, "http2-settings"), None);
}

#[tokio::test]
async fn h80_websockets_are_tunnelled_both_ways() {
    let origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        client.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: k\r\n\r\nhello").await;
        client.until("ping").await;
        client.send("pong").await;
        // The client's end arrives here as an end, and this side may still speak.
        let _ = client.rest().await;
        client.send("bye").await;
    })
    .await;
    let mut origin = origin;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client.send("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\n\r\n").await;
    let head = client.until("hello").await;
    assert_eq!(status(&head), 101);
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "sec-websocket-accept"), Some("k"));
    let request = origin.next().await;
    assert_eq!(header(&request, "upgrade"), Some("websocket"));
    assert_eq!(header(&request, "sec-websocket-key"), Some("k"));
    client.send("ping").await;
    client.until("pong").await;
    assert_eq!(bed.stats.sum(|s| &s.tunnels), 1);
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    assert_eq!(client.rest().await, "bye");
}

#[tokio::test]
async fn h82_chunked_beats_content_length_in_responses() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n",
        true,
    )
    .await;
    let bed = Bed::to(origin.addr).await;
    let response = bed.get("/", "x", "").await;
    assert_eq!(status(&response), 200);
    assert!(header(&response, "content-length").is_none() && response.contains("whole"), "{response}");
}

#[tokio::test]
async fn h83_h90_responses_that_are_none() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-A: 1\r\n 2\r\n\r\na",
        "HTTP/1.1 200 OK\r\nBad Name: 1\r\nContent-Length: 1\r\n\r\na",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "\x15\x03\x01\x00\x02\x02garbage\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "",
    ] {
        let origin = Origin::answering(bytes, true).await;
        let bed = Bed::to(origin.addr).await;
        let response = bed.get("/", "x", "").await;
        assert_eq!(status(&response), 502, "{bytes:?}: {response}");
    }
}

#[tokio::test]
async fn h84_responses_without_body_keep_their_framing() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", false).await;
    let bed = Bed::to(origin.addr).await;
    let response = bed.raw("HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(header(&response, "content-length"), Some("12345"));
    assert!(response.ends_with("\r\n\r\n"));
    for code in ["204 No Content", "304 Not Modified"] {
        let origin = Origin::answering(format!("HTTP/1.1 {code}\r\n\r\n"), false).await;
        let bed = Bed::to(origin.addr).await;
        let response = bed.get("/", "x", "").await;
        assert!(response.starts_with(&format!("HTTP/1.1 {code}")) && response.ends_with("\r\n\r\n"), "{response}");
        assert_eq!(header(&response, "transfer-encoding"), None);
    }
}

#[tokio::test]
async fn h85_h86_h87_versions_and_delimiters() {
    let mut origin = Origin::answering("HTTP/1.0 200 OK\r\n\r\nuntil the end", true).await;
    let bed = Bed::to(origin.addr).await;
    let response = bed.get("/", "x", "").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert_eq!(header(&response, "transfer-encoding"), Some("chunked"));
    assert!(response.contains("until the end") && response.ends_with("0\r\n\r\n"), "{response}");
    assert!(origin.next().await.starts_with("GET / HTTP/1.1\r\n"));

    let response = bed.raw("GET / HTTP/1.0\r\nHost: x\r\n\r\n").await;
    assert_eq!(header(&response, "transfer-encoding"), None);
    assert!(response.ends_with("\r\n\r\nuntil the end"), "{response}");
    assert!(origin.next().await.starts_with("GET / HTTP/1.1\r\n"), "an old client's version leaks");

    // What ends with the connection promises no other request, though the client asks for it.
    let response = bed.raw("GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n").await;
    assert_eq!((header(&response, "connection"), header(&response, "keep-alive")), (Some("close"), None), "{response}");
    assert!(response.ends_with("\r\n\r\nuntil the end"), "{response}");
}

#[tokio::test]
async fn h88_a_response_that_breaks_off_never_ends_cleanly() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let origin = Origin::answering(bytes, true).await;
        let bed = Bed::to(origin.addr).await;
        let response = bed.get("/", "x", "").await;
        assert!(response.contains("half") && !response.ends_with("0\r\n\r\n"), "{response:?}");
    }
}

#[tokio::test]
async fn h89_an_early_response_reaches_the_client() {
    let origin = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await;
        let _ = client.rest().await;
    })
    .await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nsome").await;
    assert_eq!(status(&client.response().await), 413);
}

#[tokio::test]
async fn h91_h92_a_client_that_does_not_read_holds_the_backend_back() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    const TOTAL: usize = 64 << 20;
    let origin = Origin::start(move |mut client: Client, _| {
        let count = Arc::clone(&count);
        async move {
            client.until("\r\n\r\n").await;
            client.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n")).await;
            let chunk = vec![b'x'; 64 << 10];
            for _ in 0..TOTAL / chunk.len() {
                if tokio::io::AsyncWriteExt::write_all(&mut client.stream, &chunk).await.is_err() {
                    return;
                }
                count.fetch_add(chunk.len(), Relaxed);
            }
        }
    })
    .await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let held = written.load(Relaxed);
    assert!(held < TOTAL / 2, "{held} bytes were taken from the backend for a client that reads nothing");
    assert!(client.rest().await.len() > TOTAL);
}

#[tokio::test]
async fn h93_bytes_flow_at_once() {
    let origin = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n").await;
        // Says no more until the test is over.
        let _ = client.rest().await;
    })
    .await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.until("data: 1").await;
}

/// Answers the first request of each connection, then closes when the second one arrives.
async fn fickle() -> Origin {
    Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
        let _ = seen.send(client.until("\r\n\r\n").await);
    })
    .await
}

#[tokio::test]
async fn h94_a_stale_connection_is_tried_again_only_when_that_is_safe() {
    let origin = fickle().await;
    let bed = Bed::to(origin.addr).await;
    for _ in 0..4 {
        assert_eq!(status(&bed.get("/", "x", "").await), 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(bed.stats.sum(|s| &s.retries) > 0, "no stale connection was met");

    let mut origin = fickle().await;
    let bed = Bed::to(origin.addr).await;
    assert_eq!(status(&bed.get("/", "x", "").await), 200);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let response = bed.raw("POST /pay HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(status(&response), 502, "{response}");
    origin.next().await;
    assert!(origin.next().await.starts_with("POST /pay"));
    assert!(origin.untouched(), "the payment was sent twice");
}

#[tokio::test]
async fn h94_nothing_is_repeated_on_a_fresh_connection() {
    let mut origin = Origin::answering("", true).await;
    let bed = Bed::to(origin.addr).await;
    assert_eq!(status(&bed.get("/", "x", "").await), 502);
    origin.next().await;
    assert!(origin.untouched());
    assert_eq!(origin.connections.load(Relaxed), 1);
}

#[tokio::test]
async fn h95_connections_to_an_endpoint_that_left_are_closed() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let bed = Bed::to(a.addr).await;
    assert!(bed.get("/", "x", "").await.ends_with('a'));
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(bed.stats.sum(|s| &s.idle_upstream), 1);
    bed.serve(any_listener(), json!([catch_all()]), &[("a", &[b.addr])]).await;
    assert_eq!(bed.stats.sum(|s| &s.idle_upstream), 0);
    assert!(bed.get("/", "x", "").await.ends_with('b'));
}

#[tokio::test]
async fn h95_a_request_that_outlives_its_endpoint_leaves_no_connection_behind() {
    let release = Arc::new(tokio::sync::Notify::new());
    let wait = Arc::clone(&release);
    let mut old = Origin::start(move |mut client: Client, seen| {
        let wait = Arc::clone(&wait);
        async move {
            let head = client.until("\r\n\r\n").await;
            let long = head.starts_with("GET /long");
            let _ = seen.send(head);
            wait.notified().await;
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n").await;
            if !long {
                client.send("a").await;
            }
            let _ = seen.send(format!("closed {}", client.rest().await));
        }
    })
    .await;
    let new = Origin::named("b").await;
    let bed = Bed::to(old.addr).await;
    let (mut long, mut short) = (bed.connect().await, bed.connect().await);
    long.send("GET /long HTTP/1.1\r\nHost: x\r\n\r\n").await;
    short.send("GET /short HTTP/1.1\r\nHost: x\r\n\r\n").await;
    old.next().await;
    old.next().await;
    bed.serve(any_listener(), json!([catch_all()]), &[("a", &[new.addr])]).await;
    release.notify_waiters();
    assert!(short.response().await.ends_with('a'));
    assert_eq!(old.next().await, "closed ", "the connection is kept for an endpoint that left");
    assert!(long.until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn h33_another_spelling_of_a_header_does_not_pass() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    bed.get("/", "x", "X_Forwarded_For: 1.2.3.4\r\nx_real-ip: 1.2.3.4\r\nContent_Length: 5\r\nmy_header: 1\r\n").await;
    let request = origin.next().await;
    assert!(!request.contains("1.2.3.4") && header(&request, "content_length").is_none(), "{request}");
    assert_eq!(header(&request, "my_header"), Some("1"));
}

#[tokio::test]
async fn h109_the_client_cannot_say_who_it_is() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let lies = "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /x\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n";
    bed.get("/", "Shop.example:8443", lies).await;
    let request = origin.next().await;
    assert!(!request.contains("1.2.3.4") && !request.contains("5.6.7.8"), "{request}");
    assert_eq!(header(&request, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(&request, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&request, "x-forwarded-host"), Some("Shop.example:8443"));
    assert_eq!(header(&request, "x-forwarded-port"), Some(bed.addr.port().to_string().as_str()));
    assert_eq!(header(&request, "x-forwarded-prefix"), None);
}

#[tokio::test]
async fn h110_traces_go_through_or_begin_here() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    bed.get("/", "x", &format!("traceparent: {given}\r\ntracestate: a=b\r\nbaggage: k=v\r\n")).await;
    let request = origin.next().await;
    assert_eq!(header(&request, "traceparent"), Some(given));
    assert_eq!(header(&request, "tracestate"), Some("a=b"));
    assert_eq!(header(&request, "baggage"), Some("k=v"));
    bed.get("/", "x", "traceparent: nonsense\r\ntracestate: a=b\r\n").await;
    let request = origin.next().await;
    let new = header(&request, "traceparent").unwrap();
    assert!(new.len() == 55 && new != given, "{new}");
    assert_eq!(header(&request, "tracestate"), None);
    assert_eq!(header(&request, "x-request-id").map(str::len), Some(32));
}
