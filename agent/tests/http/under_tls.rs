//! What holds in clear text holds under TLS: clocks, ends, upgrades.
use std::{sync::Arc, time::Duration};

use serde_json::json;
use sluice::proxy::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    harness::{Bed, Client, Origin, catch_all, status, until},
    tls::{handshake, listener, made, said, secret, simple, trusting},
};

#[tokio::test]
async fn h44_a_head_that_takes_too_long_is_told_under_tls() {
    let made = made(&["a.example"]);
    let settings = Settings { header_timeout: Duration::from_millis(300), ..Settings::default() };
    let (bed, _backend) = simple(settings, &made).await;
    let mut client = handshake(&bed, &Arc::new(trusting(&[&made])), "a.example").await.unwrap();
    let response = said(&mut client, "GET / HTTP/1.1\r\nHost: a.ex").await;
    assert_eq!(status(&response), 408, "{response:?}");
}

#[tokio::test]
async fn h49_a_client_that_reads_nothing_is_cut_under_tls() {
    let made = made(&["a.example"]);
    let body = vec![b'x'; 8 << 20];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let backend = Origin::answering([head.as_bytes(), &body].concat(), false).await;
    let bed = Bed::secured(
        1,
        Settings { write_timeout: Duration::from_millis(500), ..Settings::default() },
        json!([secret("cert", &made)]),
        json!([listener("web", None, &["cert"])]),
        json!([catch_all()]),
        &[("a", &[backend.addr])],
    )
    .await;
    let mut client = handshake(&bed, &Arc::new(trusting(&[&made])), "a.example").await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    until("the request is served", || bed.stats.sum(|s| &s.active_requests) == 1).await;
    until("the client is cut", || bed.stats.sum(|s| &s.active_connections) == 0).await;
}

#[tokio::test]
async fn a_client_that_resets_ends_its_exchange_under_tls() {
    let made = made(&["a.example"]);
    let backend = Origin::start(|mut client: Client, seen| async move {
        client.until("\r\n\r\n").await;
        let _ = seen.send("began".to_owned());
        client.rest().await;
        let _ = seen.send("ended".to_owned());
    });
    let mut backend = backend.await;
    let bed = Bed::secured(
        1,
        Settings::default(),
        json!([secret("cert", &made)]),
        json!([listener("web", None, &["cert"])]),
        json!([catch_all()]),
        &[("a", &[backend.addr])],
    )
    .await;
    let mut client = handshake(&bed, &Arc::new(trusting(&[&made])), "a.example").await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    assert_eq!(backend.next().await, "began");
    let (tcp, _) = client.into_inner();
    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    drop(tcp);
    assert_eq!(backend.next().await, "ended");
    until("closed", || bed.stats.sum(|s| &s.active_connections) == 0).await;
    assert_eq!(bed.stats.sum(|s| &s.clients_gone), 1);
}

#[tokio::test]
async fn h41_a_client_that_has_said_all_gets_its_answer_under_tls() {
    let made = made(&["a.example"]);
    let (bed, _backend) = simple(Settings::default(), &made).await;
    let mut client = handshake(&bed, &Arc::new(trusting(&[&made])), "a.example").await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let response = said(&mut client, "").await;
    assert!(response.ends_with("\r\na"), "{response:?}");
}

#[tokio::test]
async fn a_websocket_runs_under_tls() {
    let made = made(&["a.example"]);
    let backend = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
        let back = client.until("ping").await;
        client.send(back.to_uppercase()).await;
    });
    let backend = backend.await;
    let bed = Bed::secured(
        1,
        Settings::default(),
        json!([secret("cert", &made)]),
        json!([listener("web", None, &["cert"])]),
        json!([catch_all()]),
        &[("a", &[backend.addr])],
    )
    .await;
    let mut client = handshake(&bed, &Arc::new(trusting(&[&made])), "a.example").await.unwrap();
    let head = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        assert!(client.read_buf(&mut got).await.unwrap() > 0);
    }
    let rest = said(&mut client, "ping").await;
    assert_eq!(rest, "PING");
}
