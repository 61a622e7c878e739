//! Clients that are slow, idle, or there when the proxy stops.
use std::time::Duration;

use serde_json::json;
use sluice::proxy::Settings;

use crate::{
    frames::{self, frame},
    harness::{Bed, Client, Origin, SOON, any_listener, catch_all, header, status, until},
};

fn short() -> Settings {
    Settings {
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(600),
        body_timeout: Duration::from_millis(200),
        write_timeout: Duration::from_millis(300),
        drain: Duration::from_secs(2),
        ..Settings::default()
    }
}

async fn bed(origin: &Origin) -> Bed {
    Bed::with(short(), any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await
}

#[tokio::test]
async fn h44_a_slow_head_is_answered_408() {
    let origin = Origin::named("a").await;
    let bed = bed(&origin).await;
    for begun in ["GET / HTTP/1.1\r\nHost: x\r\nX-", "P", "PRI * HTTP/2.0\r\n"] {
        let mut client = bed.connect().await;
        client.send(begun).await;
        assert_eq!(status(&client.rest().await), 408, "{begun:?}");
    }
    // The second request of a connection has the same clock.
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    client.response().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send("GET /again").await;
    // Of an idle connection's clock nobody is told.
    assert_eq!(status(&client.rest().await), 408);
}

#[tokio::test]
async fn h45_h46_h47_silent_clients_are_closed() {
    let origin = Origin::named("a").await;
    let bed = bed(&origin).await;
    let mut silent = bed.connect().await;
    assert!(!silent.rest().await.contains("HTTP/1.1 200"));
    let mut http2 = bed.connect().await;
    http2.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    http2.rest().await;
    let mut open_headers = bed.connect().await;
    open_headers.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82").await;
    open_headers.rest().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(bed.stats.sum(|s| &s.active_connections), 0);
}

#[tokio::test]
async fn h48_a_body_without_progress_is_cut() {
    let mut origin = Origin::named("a").await;
    let bed = bed(&origin).await;
    let mut client = bed.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert_eq!(status(&client.rest().await), 408);
    assert!(origin.next().await.starts_with("CUT POST"));
}

#[tokio::test]
async fn h48_a_slow_body_that_makes_progress_is_not_cut() {
    let mut origin = Origin::named("a").await;
    let bed = bed(&origin).await;
    let mut client = bed.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n").await;
    for byte in ["s", "l", "o", "w"] {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send(byte).await;
    }
    assert_eq!(status(&client.response().await), 200);
    assert!(origin.next().await.ends_with("slow"));
}

#[tokio::test]
async fn h49_a_client_that_reads_nothing_is_cut() {
    let origin = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").await;
        let chunk = vec![b'x'; 64 << 10];
        while tokio::io::AsyncWriteExt::write_all(&mut client.stream, &chunk).await.is_ok() {}
    })
    .await;
    let bed = bed(&origin).await;
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let gone = async {
        while bed.stats.sum(|s| &s.active_connections) > 0 || bed.stats.sum(|s| &s.accepted) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("the connection stays");
}

#[tokio::test]
async fn h50_idle_is_not_slow() {
    let origin = Origin::named("a").await;
    let bed = bed(&origin).await;
    let mut client = bed.connect().await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&client.response().await), 200);
        // Longer than the head's clock, shorter than the idle one.
        tokio::time::sleep(Duration::from_millis(350)).await;
    }
    assert_eq!(client.rest().await, "", "an idle connection closes without a word");
}

#[tokio::test]
async fn h80_a_tunnel_is_not_an_idle_connection() {
    let origin = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        client.until("late").await;
        client.send("heard").await;
    })
    .await;
    let settings = Settings { tunnel_idle: Duration::from_millis(1500), ..short() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let ask = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = bed.connect().await;
    client.send(ask).await;
    assert_eq!(status(&client.until("\r\n\r\n").await), 101);
    tokio::time::sleep(Duration::from_millis(900)).await;
    client.send("late").await;
    client.until("heard").await;
    // But one that carries nothing at all ends.
    let mut silent = bed.connect().await;
    silent.send(ask).await;
    silent.until("\r\n\r\n").await;
    assert_eq!(silent.rest().await, "");
}

#[tokio::test]
async fn a_drain_lets_requests_finish_and_takes_no_new_ones() {
    let origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await;
    })
    .await;
    let mut origin = origin;
    // Whoever is idle is told nothing, so his own clock must not end first.
    let settings = Settings { header_timeout: Duration::from_secs(60), ..short() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut idle = bed.connect().await;
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    origin.next().await;
    bed.cancel.cancel();
    assert_eq!(idle.rest().await, "");
    let response = client.rest().await;
    assert!(response.ends_with("late"), "{response}");
    assert_eq!(header(&response, "connection"), Some("close"));
    tokio::time::timeout(SOON, bed.task).await.expect("the drain hangs").unwrap();
    assert!(tokio::net::TcpStream::connect(bed.addr).await.is_err());
}

/// A connection is one for its client when the handshake is done: what it has sent is answered, wherever the proxy has it by then.
#[tokio::test]
async fn a_drain_answers_whoever_is_connected() {
    let origin = Origin::named("a").await;
    let settings = Settings { drain: Duration::from_secs(60), ..Settings::default() };
    for round in 0..3 {
        let bed = Bed::on(2, settings.clone(), any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
        // Some have begun, and say the rest while the proxy ends.
        let mut partial = Vec::new();
        for begun in ["GET / HT", "PRI * HTTP/2.0\r\n"] {
            let mut client = bed.connect().await;
            client.send(begun).await;
            partial.push(client);
        }
        until("they are accepted", || bed.stats.sum(|s| &s.active_connections) == 2).await;
        // Nobody is awaited, so that most are in a backlog.
        let mut clients: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(bed.addr).unwrap()).collect();
        for client in &mut clients {
            std::io::Write::write_all(client, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        bed.cancel.cancel();
        for (n, client) in clients.into_iter().enumerate() {
            client.set_nonblocking(true).unwrap();
            let mut client = Client::of(tokio::net::TcpStream::from_std(client).unwrap());
            let answer = client.response().await;
            assert!(status(&answer) == 200 && answer.ends_with('a'), "round {round}, client {n}: {answer}");
        }
        let [one, two] = partial.as_mut_slice() else { unreachable!() };
        one.send("TP/1.1\r\nHost: x\r\n\r\n").await;
        let answer = one.rest().await;
        assert_eq!((status(&answer), header(&answer, "connection")), (200, Some("close")), "{answer}");
        two.send([&b"\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[]), &frames::get(1)].concat()).await;
        assert_eq!(frames::next_frame(two, 1, 1).await[0], 0x88);
        drop(partial);
        tokio::time::timeout(SOON, bed.task).await.expect("the drain hangs").unwrap();
    }
}

/// The next process cannot serve while this one has a stream: so this one serves.
#[tokio::test]
async fn a_drain_serves_others_while_one_stream_is_open() {
    let (go, other) = (std::sync::Arc::new(tokio::sync::Notify::new()), Origin::named("b").await);
    let ends = std::sync::Arc::clone(&go);
    let mut origin = Origin::start(move |mut client: Client, seen| {
        let ends = std::sync::Arc::clone(&ends);
        async move {
            let _ = seen.send(client.until("\r\n\r\n").await);
            ends.notified().await;
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await;
        }
    })
    .await;
    let settings = Settings { drain: Duration::from_secs(60), ..Settings::default() };
    let rule = |path, name| json!({"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": [{"name": name, "port": 80}]});
    let mut route = catch_all();
    route["spec"]["rules"] = json!([rule("/stream", "a"), rule("/", "b")]);
    let backends: [(&str, &[std::net::SocketAddr]); 2] = [("a", &[origin.addr]), ("b", &[other.addr])];
    let bed = Bed::with(settings, any_listener(), json!([route]), &backends).await;
    let mut stream = bed.connect().await;
    stream.send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n").await;
    origin.next().await;
    let mut rests = bed.connect().await;
    bed.cancel.cancel();
    // The drain is under way when an idle connection is closed.
    assert_eq!(rests.rest().await, "");
    for _ in 0..20 {
        let mut client = bed.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let answer = client.rest().await;
        assert_eq!((status(&answer), header(&answer, "connection")), (200, Some("close")), "{answer}");
    }
    go.notify_one();
    let answer = stream.rest().await;
    assert!(answer.ends_with("late"), "{answer}");
    tokio::time::timeout(SOON, bed.task).await.expect("the drain hangs").unwrap();
    assert!(tokio::net::TcpStream::connect(bed.addr).await.is_err());
}

#[tokio::test]
async fn a_drain_has_a_deadline() {
    let origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        let _ = client.rest().await;
    })
    .await;
    let mut origin = origin;
    let settings = Settings { drain: Duration::from_millis(100), ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    origin.next().await;
    bed.cancel.cancel();
    tokio::time::timeout(SOON, bed.task).await.expect("the drain hangs").unwrap();
    assert_eq!(client.rest().await, "");
}
