//! What is in memory for those who take nothing: bounded by Gateway, and the one that has taken nothing for longest loses it.
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use sluice::proxy::{Bound, Settings};
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::{
    frames::{frame, get, http2, next_frame},
    harness::{Bed, Client, Origin, any_listener, catch_all, limited, status, until},
};

/// Room for five stalled responses over HTTP/2, three stalled requests, or at most sixteen connections of HTTP/1.1.
const ROOM: &[(&str, &str)] = &[("max-stalled-bytes", "1048576")];

/// More than the buffers on the way take together.
static BODY: [u8; 24 << 20] = [0; 24 << 20];

/// A backend that answers with that.
async fn endless() -> Origin {
    Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        client.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BODY.len())).await;
        client.send(&BODY).await;
    })
    .await
}

async fn bed(settings: Settings, annotations: &[(&str, &str)], origin: &Origin) -> Bed {
    Bed::with(settings, limited(any_listener(), annotations), json!([catch_all()]), &[("a", &[origin.addr])]).await
}

#[tokio::test]
async fn streams_whose_client_takes_nothing_make_room_for_others() {
    let mut origin = endless().await;
    let bed = bed(Settings::default(), ROOM, &origin).await;
    let mut client = http2(&bed, &[]).await;
    // One after the other, so that it is known which has taken nothing for longest.
    for n in 0..5 {
        client.send(get(2 * n + 1)).await;
        origin.next().await;
        next_frame(&mut client, 1, 2 * n + 1).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(bed.stats.sum(|s| &s.stalled_evictions), 0, "there is room for five");
    client.send(get(11)).await;
    origin.next().await;
    until("one has to go", || bed.stats.sum(|s| &s.stalled_evictions) == 1).await;
    assert!([1, 3, 5, 7, 9].contains(&reset(&mut client).await));
    until("it is gone", || bed.stats.sum(|s| &s.active_requests) == 5).await;
    // The others go on as soon as their client wants it.
    client.send(frame(8, 0, 0, &1_000_000_u32.to_be_bytes())).await;
    client.send(frame(8, 0, 11, &1_000_u32.to_be_bytes())).await;
    assert!(!next_frame(&mut client, 0, 11).await.is_empty());
}

/// The stream of the next RST_STREAM.
async fn reset(client: &mut Client) -> u8 {
    use tokio::io::AsyncReadExt as _;
    loop {
        let mut head = [0; 9];
        client.stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.stream.read_exact(&mut payload).await.unwrap();
        if head[3] == 3 {
            return head[8];
        }
    }
}

#[tokio::test]
async fn a_window_that_is_shut_from_the_start_is_no_way_around() {
    let origin = endless().await;
    let settings = Settings { stream_idle: Duration::from_millis(200), ..Settings::default() };
    let bed = bed(settings, &[], &origin).await;
    let mut client = http2(&bed, &[frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]), get(1)]).await;
    assert_eq!(next_frame(&mut client, 3, 1).await, [0, 0, 0, 8], "CANCEL");
    until("the exchange is over", || bed.stats.sum(|s| &s.active_requests) == 0).await;
}

#[tokio::test]
async fn requests_that_their_endpoint_does_not_take_make_room_for_others() {
    let mut origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        std::future::pending::<()>().await;
    })
    .await;
    let bed = bed(Settings::default(), ROOM, &origin).await;
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    // More than the buffers of the kernel take.
    let body = Bytes::from_static(&BODY);
    let mut requests = tokio::task::JoinSet::new();
    for n in 0..4 {
        let request = http::Request::post("http://x/").body(Full::new(body.clone())).unwrap();
        let mut sender = sender.clone();
        requests.spawn(async move { (n, sender.send_request(request).await.is_err()) });
        origin.next().await;
    }
    let (ended, is_error) = requests.join_next().await.unwrap().unwrap();
    assert!(is_error && ended < 4);
    until("one is gone", || bed.stats.sum(|s| &s.active_requests) == 3).await;
    assert_eq!(bed.stats.sum(|s| &s.stalled_evictions), 1);
}

#[tokio::test]
async fn connections_whose_client_reads_nothing_make_room_for_others() {
    let origin = endless().await;
    let bed = bed(Settings::default(), ROOM, &origin).await;
    let mut clients = Vec::new();
    for _ in 0..18 {
        let mut client = bed.connect().await;
        SockRef::from(&client.stream).set_recv_buffer_size(4096).unwrap();
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        clients.push(client);
    }
    // Each holds 64 KiB at the least.
    until("some have to go", || bed.stats.sum(|s| &s.stalled_evictions) >= 2).await;
    until("they are gone", || bed.stats.sum(|s| &s.active_connections) <= 16).await;
    assert!(bed.stats.sum(|s| &s.active_connections) > 0);
    // Who reads is served, whoever waits. (One that waits for a moment must not be the one that has to go.)
    clients.drain(..17);
    until("there is room", || bed.stats.sum(|s| &s.active_connections) <= 1).await;
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("/").header("host", "x").body(Full::<Bytes>::default()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(read, BODY.len());
}

#[tokio::test]
async fn a_gateway_that_holds_all_it_may_takes_nothing_from_another() {
    let origin = endless().await;
    // Half for each of the two: one stalled connection of HTTP/1.1.
    let settings = Settings { max_held: 128 << 10, ..Settings::default() };
    let bed = bed(settings, &[], &origin).await;
    let other = std::net::SocketAddr::from(([127, 0, 0, 2], bed.addr.port()));
    bed.serve_other(other).await;
    let stalled = |at| async move {
        let mut client = Client::connect(at).await;
        SockRef::from(&client.stream).set_recv_buffer_size(4096).unwrap();
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        client
    };
    let _neighbour = stalled(other).await;
    let clients = [stalled(bed.addr).await, stalled(bed.addr).await, stalled(bed.addr).await];
    until("two have to go", || bed.stats.sum(|s| &s.stalled_evictions) == 2).await;
    until("they are gone", || bed.stats.sum(|s| &s.active_connections) == 2).await;
    let pressed: Vec<_> = bed.gateways.pressed().into_iter().map(|p| (p.bound, p.most, p.refused)).collect();
    assert_eq!(pressed, [(Bound::Memory, 64 << 10, 2)], "the one Gateway and not the other");
    drop(clients);
    until("the neighbour's is there", || bed.stats.sum(|s| &s.active_connections) == 1).await;
    assert_eq!(status(&bed.get("/%00", "x", "").await), 400);
}
