//! Clients that go, each in its own way, and what is done for them then: the upstream request ends too.
use std::{sync::Arc, time::Duration};

use serde_json::json;
use sluice::proxy::{Counters, Settings};
use tokio::{net::TcpStream, sync::mpsc};

use crate::harness::{Bed, Client, Origin, SOON, any_listener, catch_all, status, until};

/// Within this time of a reset the endpoint must see its request end.
const SECOND: Duration = Duration::from_secs(1);
const GET: &str = "GET /x HTTP/1.1\r\nHost: x\r\n\r\n";
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// A backend that says this after a head, then no more; it reports the head, and `end` when its connection ends.
async fn quiet(says: &'static str) -> Origin {
    Origin::start(move |mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        client.send(says).await;
        until_end(client, seen).await;
    })
    .await
}

async fn until_end(mut client: Client, seen: mpsc::UnboundedSender<String>) {
    let mut chunk = [0; 4096];
    while matches!(tokio::io::AsyncReadExt::read(&mut client.stream, &mut chunk).await, Ok(n) if n > 0) {}
    let _ = seen.send("end".to_owned());
}

async fn bed(origin: &Origin, half_closed: Duration) -> Bed {
    let settings = Settings { half_closed_timeout: half_closed, ..Settings::default() };
    Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await
}

/// Closes with RST.
fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn ends(origin: &mut Origin, within: Duration) {
    let said = tokio::time::timeout(within, origin.seen.recv()).await.expect("the upstream request goes on");
    assert_eq!(said.as_deref(), Some("end"));
}

async fn until_free(stats: &Counters) {
    until("all connections and requests are over", || {
        stats.sum(|s| &s.active_connections) == 0
            && stats.sum(|s| &s.active_requests) == 0
            && stats.sum(|s| &s.open_upstream) == stats.sum(|s| &s.idle_upstream)
            && stats.sum(|s| &s.tunnels) == 0
    })
    .await;
}

#[tokio::test]
async fn a_reset_ends_the_request_that_the_backend_thinks_about() {
    for behind in ["", "GET /next HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut origin = quiet("").await;
        let bed = bed(&origin, SOON).await;
        let mut client = bed.connect().await;
        client.send(format!("{GET}{behind}")).await;
        origin.next().await;
        reset(client.stream);
        ends(&mut origin, SECOND).await;
        until_free(&bed.stats).await;
        assert_eq!(bed.stats.sum(|s| &s.clients_gone), 1);
    }
}

#[tokio::test]
async fn a_reset_ends_a_quiet_stream_of_events() {
    let mut origin = quiet("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n").await;
    let bed = bed(&origin, SOON).await;
    let mut client = bed.connect().await;
    client.send(GET).await;
    client.until("data: 1").await;
    origin.next().await;
    reset(client.stream);
    ends(&mut origin, SECOND).await;
    until_free(&bed.stats).await;
}

#[tokio::test]
async fn a_reset_ends_an_upload_that_the_backend_does_not_read() {
    let hold = Arc::new(tokio::sync::Notify::new());
    let wait = Arc::clone(&hold);
    let mut origin = Origin::start(move |mut client: Client, seen| {
        let wait = Arc::clone(&wait);
        async move {
            client.until("\r\n\r\n").await;
            let _ = seen.send("head".to_owned());
            wait.notified().await;
            until_end(client, seen).await;
        }
    })
    .await;
    let bed = bed(&origin, SOON).await;
    let mut client = bed.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n").await;
    origin.next().await;
    let chunk = vec![b'x'; 1 << 20];
    // Until neither side of the proxy takes more.
    while tokio::time::timeout(Duration::from_millis(200), tokio::io::AsyncWriteExt::write(&mut client.stream, &chunk))
        .await
        .is_ok()
    {}
    reset(client.stream);
    until_free(&bed.stats).await;
    hold.notify_one();
    ends(&mut origin, SECOND).await;
}

#[tokio::test]
async fn a_reset_ends_a_tunnel_that_is_stuck() {
    let mut origin = Origin::start(|mut client: Client, seen| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        let _ = seen.send("open".to_owned());
        // Reads nothing any more.
        std::future::pending::<()>().await;
    })
    .await;
    let bed = bed(&origin, SOON).await;
    let mut client = bed.connect().await;
    client.send(UPGRADE).await;
    client.until("\r\n\r\n").await;
    origin.next().await;
    let chunk = vec![b'x'; 1 << 20];
    while tokio::time::timeout(Duration::from_millis(200), tokio::io::AsyncWriteExt::write(&mut client.stream, &chunk))
        .await
        .is_ok()
    {}
    assert_eq!((bed.stats.sum(|s| &s.tunnels), bed.stats.sum(|s| &s.active_connections)), (1, 1));
    reset(client.stream);
    until_free(&bed.stats).await;
}

#[tokio::test]
async fn a_reset_ends_the_streams_of_http2() {
    let mut origin = quiet("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n").await;
    let bed = bed(&origin, SOON).await;
    let mut client = bed.connect().await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // GET http://x/ on stream 1, which ends there. Source: RFC 7541 appendix A.
    client.send(b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01x").await;
    client.until("data: 1").await;
    origin.next().await;
    reset(client.stream);
    ends(&mut origin, SECOND).await;
    until_free(&bed.stats).await;
}

#[tokio::test]
async fn silence_after_fin_is_bounded() {
    for says in ["", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: 1\r\n"] {
        let mut origin = quiet(says).await;
        let bed = bed(&origin, Duration::from_millis(300)).await;
        let mut client = bed.connect().await;
        client.send(GET).await;
        origin.next().await;
        tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
        ends(&mut origin, SOON).await;
        until_free(&bed.stats).await;
        assert_eq!(bed.stats.sum(|s| &s.clients_gone), 1, "{says:?}");
    }
}

#[tokio::test]
async fn silence_after_fin_is_bounded_in_tunnels_too() {
    let mut origin =
        quiet("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let bed = bed(&origin, Duration::from_millis(300)).await;
    let mut client = bed.connect().await;
    client.send(UPGRADE).await;
    client.until("\r\n\r\n").await;
    origin.next().await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    // FIN goes through, and the backend that does not answer it is not waited for.
    ends(&mut origin, SECOND).await;
    until_free(&bed.stats).await;
}

#[tokio::test]
async fn h41_what_flows_after_fin_is_not_cut() {
    let origin = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n").await;
        for _ in 0..8 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            client.send("x").await;
        }
    })
    .await;
    let bed = bed(&origin, Duration::from_millis(400)).await;
    let mut client = bed.connect().await;
    client.send(GET).await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    let response = client.rest().await;
    assert!(status(&response) == 200 && response.ends_with("xxxxxxxx"), "{response}");
}
