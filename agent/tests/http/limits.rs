//! What a Gateway's annotations ask of the proxy, and the bounds that hold without them.
use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use sluice::proxy::{Bound, Settings};
use tokio::net::TcpStream;

use crate::{
    frames::{frame, get, http2, next_frame},
    harness::{Bed, Client, Origin, any_listener, catch_all, header, limited, status},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

async fn bed(settings: Settings, annotations: &[(&str, &str)], backend: SocketAddr) -> Bed {
    Bed::with(settings, limited(any_listener(), annotations), json!([catch_all()]), &[("a", &[backend])]).await
}

#[tokio::test]
async fn h33_names_with_underscores_pass_are_dropped_or_refused() {
    for (policy, want, passes) in
        [(None, 200, true), (Some("allow"), 200, true), (Some("drop"), 200, false), (Some("reject"), 400, false)]
    {
        let mut origin = Origin::named("a").await;
        let annotations: Vec<(&str, &str)> = policy.map(|policy| ("underscores", policy)).into_iter().collect();
        let bed = bed(Settings::default(), &annotations, origin.addr).await;
        let response = bed.get("/", "x", "Content_Length: 3\r\nX_Odd: 1\r\nX-Fine: 1\r\n").await;
        assert_eq!(status(&response), want, "{policy:?}");
        if want == 200 {
            let seen = origin.next().await;
            assert_eq!(header(&seen, "content_length"), None, "never: {seen}");
            assert_eq!((header(&seen, "x_odd").is_some(), header(&seen, "x-fine")), (passes, Some("1")));
        }
        assert!(origin.untouched());
    }
}

#[tokio::test]
async fn h36_a_gateway_may_have_a_limit_of_its_own_for_heads() {
    let origin = Origin::named("a").await;
    for (annotations, fits, too_long) in [
        (&[][..], 65_536, 65_537),
        (&[("max-head-bytes", "8192")], 8192, 8193),
        (&[("max-head-bytes", "200000")], 200_000, 200_001),
    ] {
        let bed = bed(Settings::default(), annotations, origin.addr).await;
        for (length, want) in [(fits, 200), (too_long, 431)] {
            let start = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: ";
            let filler = "a".repeat(length - start.len() - 4);
            assert_eq!(status(&bed.raw(format!("{start}{filler}\r\n\r\n")).await), want, "{annotations:?} {length}");
        }
    }
}

#[tokio::test]
async fn h48_a_body_that_drips_is_cut_and_one_that_flows_is_not() {
    let mut origin = Origin::named("a").await;
    let settings = Settings { body_timeout: Duration::from_millis(1_500), ..Settings::default() };
    let bed = bed(settings, &[("min-body-rate", "100")], origin.addr).await;
    // Far below and far above what is asked for, so that a slow machine changes nothing.
    for (size, want) in [(1, 408), (400, 200)] {
        let mut client = bed.connect().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 60 * size)).await;
        let mut answer = None;
        for _ in 0..60 {
            if let Ok(message) = tokio::time::timeout(Duration::from_millis(50), client.message()).await {
                answer = message;
                break;
            }
            client.send("a".repeat(size)).await;
        }
        let answer = match answer {
            Some(answer) => answer,
            None => client.response().await,
        };
        assert_eq!(status(&answer), want, "{size} bytes at a time");
        assert_eq!(origin.next().await.starts_with("CUT "), want == 408, "{size} bytes at a time");
    }
}

#[tokio::test]
async fn h51_a_connection_has_so_many_requests_and_says_which_is_the_last() {
    let mut origin = Origin::named("a").await;
    let bed = bed(Settings::default(), &[("max-requests-per-connection", "3")], origin.addr).await;
    let response = bed.raw(GET.repeat(5)).await;
    assert_eq!(response.matches("HTTP/1.1 200 OK").count(), 3, "{response}");
    assert_eq!(response.matches("connection: close").count(), 1, "{response}");
    assert!(response.rfind("HTTP/1.1") < response.find("connection: close"), "{response}");
    for _ in 0..3 {
        origin.next().await;
    }
    assert!(origin.untouched());

    // GOAWAY with the last stream; what is under way is answered.
    let mut client = http2(&bed, &[get(1), get(3), get(5)]).await;
    let last = next_frame(&mut client, 7, 0).await;
    assert_eq!(last[4..8], [0; 4], "no error");
    for stream in [1, 3, 5] {
        let mut client = http2(&bed, &[get(1), get(3), get(5)]).await;
        assert_eq!(next_frame(&mut client, 1, stream).await[0], 0x88, "stream {stream}");
    }
}

#[tokio::test]
async fn h51_a_connection_gets_so_old() {
    let origin = Origin::named("a").await;
    let bed = bed(Settings::default(), &[("max-connection-age", "1s")], origin.addr).await;
    let mut client = bed.connect().await;
    client.send(GET).await;
    assert_eq!(header(&client.response().await, "connection"), None);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    client.send(GET.repeat(2)).await;
    let response = client.rest().await;
    assert_eq!((response.matches("HTTP/1.1 200").count(), header(&response, "connection")), (1, Some("close")));

    let mut client = http2(&bed, &[]).await;
    assert_eq!(next_frame(&mut client, 7, 0).await[4..8], [0; 4], "GOAWAY without a request");
}

#[tokio::test]
async fn h54_a_gateway_has_so_many_connections_and_requests() {
    let mut origin = Origin::start(|mut client: Client, seen| async move {
        let request = client.until("\r\n\r\n").await;
        let _ = seen.send(request.clone());
        if request.starts_with("GET /wait") {
            std::future::pending::<()>().await;
        }
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
    })
    .await;
    let settings = Settings { half_closed_timeout: Duration::from_millis(100), ..Settings::default() };
    let bed = bed(settings, &[("max-connections", "3"), ("max-requests", "2")], origin.addr).await;
    let wait = GET.replace("/ ", "/wait ");
    let mut clients = [bed.connect().await, bed.connect().await, bed.connect().await];
    for client in &mut clients[..2] {
        client.send(&wait).await;
        origin.next().await;
    }
    clients[2].send(GET).await;
    let response = clients[2].response().await;
    assert!(status(&response) == 503 && response.contains("as many requests"), "{response}");
    let mut fourth = bed.connect().await;
    assert_eq!(fourth.rest().await, "", "closed");
    let pressed = bed.gateways.pressed();
    let said: Vec<_> = pressed.iter().map(|p| (p.bound, p.open, p.most, p.refused, p.is_own, p.is_recent())).collect();
    assert_eq!(said, [(Bound::Connections, 3, 3, 1, true, true), (Bound::Requests, 2, 2, 1, true, true)]);
    let sentence = pressed[0].to_string();
    assert!(sentence.starts_with("3 of 3 client connections, 1 closed at once, the last "), "{sentence}");
    assert!(sentence.ends_with("the bound is its annotation proxy.sluice.dev/max-connections"), "{sentence}");
    // What goes makes room.
    let [first, ..] = clients;
    drop(first);
    crate::harness::until("a request is over", || bed.stats.sum(|s| &s.active_requests) == 1).await;
    let mut again = bed.connect().await;
    again.send(GET).await;
    assert_eq!(status(&again.response().await), 200);
}

#[tokio::test]
async fn h62_rapid_resets_end_the_connection_and_how_many_is_a_setting() {
    let origin = Origin::named("a").await;
    let resets =
        |n: u8| (0..n).flat_map(|i| [get(2 * i + 1), frame(3, 0, 2 * i + 1, &[0, 0, 0, 8])]).collect::<Vec<_>>();
    for (annotations, resets, ends) in
        [(&[][..], resets(100), true), (&[("max-pending-resets", "100")], resets(60), false)]
    {
        let bed = bed(Settings::default(), annotations, origin.addr).await;
        let mut client = http2(&bed, &resets).await;
        if ends {
            let goaway = next_frame(&mut client, 7, 0).await;
            assert_eq!(goaway[4..8], [0, 0, 0, 11], "ENHANCE_YOUR_CALM");
        } else {
            client.send(get(251)).await;
            assert_eq!(next_frame(&mut client, 1, 251).await[0], 0x88);
        }
    }
}

#[tokio::test]
async fn h71_a_stream_whose_client_takes_nothing_is_reset() {
    let mut origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").await;
        client.send(vec![b'a'; 1_000_000]).await;
        let _ = seen.send(client.rest().await);
    })
    .await;
    let settings = Settings { stream_idle: Duration::from_millis(200), ..Settings::default() };
    let bed = bed(settings, &[], origin.addr).await;
    // 65,535 bytes are taken, and no WINDOW_UPDATE ever comes; the connection is alive.
    let mut client = http2(&bed, &[get(1)]).await;
    origin.next().await;
    assert_eq!(next_frame(&mut client, 3, 1).await, [0, 0, 0, 8], "CANCEL");
    crate::harness::until("the exchange is over", || bed.stats.sum(|s| &s.active_requests) == 0).await;
    client.send(frame(6, 0, 0, b"12345678")).await;
    assert_eq!(next_frame(&mut client, 6, 0).await, b"12345678");
}

#[tokio::test]
async fn h71_a_stream_whose_backend_is_quiet_is_left_alone() {
    let origin = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.send("1\r\nb\r\n0\r\n\r\n").await;
    })
    .await;
    let settings = Settings { stream_idle: Duration::from_millis(200), ..Settings::default() };
    let bed = bed(settings, &[], origin.addr).await;
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://x/").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ab");
}

#[tokio::test]
async fn h73_what_a_connection_takes_in_is_bounded_whatever_its_streams() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = http2(&bed, &[]).await;
    let settings = next_frame(&mut client, 4, 0).await;
    let value =
        |id: u8| settings.chunks(6).find(|s| s[1] == id).map(|s| u32::from_be_bytes(s[2..6].try_into().unwrap()));
    assert_eq!((value(3), value(4), value(6)), (Some(200), Some(256 << 10), Some(64 << 10)));
    let update = next_frame(&mut client, 8, 0).await;
    assert_eq!(u32::from_be_bytes(update.try_into().unwrap()), (1 << 20) - 65_535);
}

/// What of the client's identity arrives: X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, Forwarded.
async fn identity(annotations: &[(&str, &str)], lines: &str) -> [Option<String>; 4] {
    let mut origin = Origin::named("a").await;
    let bed = bed(Settings::default(), annotations, origin.addr).await;
    assert_eq!(status(&bed.get("/", "x", lines).await), 200);
    let seen = origin.next().await;
    ["x-forwarded-for", "x-real-ip", "x-forwarded-proto", "forwarded"]
        .map(|name| header(&seen, name).map(str::to_owned))
}

#[tokio::test]
async fn h109_who_is_trusted_says_who_the_client_is_and_nobody_else() {
    let lines = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 198.51.100.2\r\nX-Real-IP: 192.0.2.66\r\nX-Forwarded-Proto: https\r\n\
        Forwarded: for=192.0.2.1\r\n";
    let some = |text: &str| Some(text.to_owned());
    let own = [some("127.0.0.1"), some("127.0.0.1"), some("http"), None];
    assert_eq!(identity(&[], lines).await, own);
    assert_eq!(identity(&[("trusted-proxies", "10.0.0.0/8")], lines).await, own);
    let chain = some("192.0.2.1, 198.51.100.2, 127.0.0.1");
    let forwarded = some("for=192.0.2.1, for=127.0.0.1");
    let near = [chain.clone(), some("198.51.100.2"), some("https"), forwarded.clone()];
    assert_eq!(identity(&[("trusted-proxies", "127.0.0.0/8")], lines).await, near);
    assert_eq!(identity(&[("trusted-hops", "1")], lines).await, near);
    let far = [chain, some("192.0.2.1"), some("https"), forwarded];
    assert_eq!(identity(&[("trusted-proxies", "127.0.0.0/8, 198.51.100.0/24")], lines).await, far);
    assert_eq!(identity(&[("trusted-hops", "2")], lines).await, far);
}

#[tokio::test]
async fn h53_a_head_of_the_proxy_protocol_names_the_client_or_there_is_no_service() {
    let mut origin = Origin::named("a").await;
    let settings = Settings { header_timeout: Duration::from_millis(300), ..Settings::default() };
    let bed = bed(settings, &[], origin.addr).await;
    let port = bed.addr.port().to_string();
    let with = limited(any_listener(), &[("proxy-protocol-ports", &port)]);
    bed.serve(with, json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let v1 = &b"PROXY TCP4 192.0.2.9 198.51.100.1 12345 80\r\n"[..];
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 9, 198, 51, 100, 1, 1, 2, 0, 80]].concat();
    let local = &b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"[..];
    let close = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    for (head, want) in
        [(v1, "192.0.2.9"), (&v2, "192.0.2.9"), (local, "127.0.0.1"), (b"PROXY UNKNOWN\r\n", "127.0.0.1")]
    {
        for split in [false, true] {
            let mut client = bed.connect().await;
            if split {
                client.send(&head[..7]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                client.send(&head[7..]).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                client.send(close).await;
            } else {
                client.send([head, close.as_bytes()].concat()).await;
            }
            assert_eq!(status(&client.rest().await), 200, "{head:?}");
            assert_eq!(header(&origin.next().await, "x-forwarded-for"), Some(want), "{head:?}");
        }
    }
    // Without one nobody is served, and one that does not come is not waited for.
    assert_eq!(bed.raw(close).await, "");
    let mut slow = bed.connect().await;
    slow.send(&v1[..10]).await;
    assert_eq!(slow.rest().await, "");
    assert!(origin.untouched());
}

#[tokio::test]
async fn an_annotation_with_a_typo_leaves_the_settings_as_they_were() {
    let origin = Origin::named("a").await;
    let bed = bed(Settings::default(), &[("underscores", "reject")], origin.addr).await;
    let odd = "X_Odd: 1\r\n";
    assert_eq!((status(&bed.get("/", "x", "").await), status(&bed.get("/", "x", odd).await)), (200, 400));
    let wrong = limited(any_listener(), &[("underscores", "rejct")]);
    bed.serve(wrong, json!([]), &[("a", &[origin.addr])]).await;
    let now = (status(&bed.get("/", "x", "").await), status(&bed.get("/", "x", odd).await));
    assert_eq!(now, (404, 400), "served, and as before");
}
