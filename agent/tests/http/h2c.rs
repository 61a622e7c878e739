//! HTTP/2 in clear text to backends, from clients of either protocol.
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use sluice::proxy::Settings;
use tokio::sync::Semaphore;

use crate::{
    harness::{Bed, Origin, SOON, any_listener, header, status, until},
    http2::{connect, get, text},
    http2_origin::{Call, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, Http2Origin, OK, RST_STREAM, frames},
};

/// A route to Service `h2c`, whose port has `appProtocol: kubernetes.io/h2c`.
fn route() -> serde_json::Value {
    json!([{"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": "h2c", "port": 80}]}]}}])
}

async fn bed(backends: &[std::net::SocketAddr]) -> Bed {
    bed_with(Settings::default(), backends).await
}

async fn bed_with(settings: Settings, backends: &[std::net::SocketAddr]) -> Bed {
    Bed::with(settings, any_listener(), route(), &[("h2c", backends)]).await
}

#[tokio::test]
async fn a_request_of_http1_crosses_to_http2() {
    let mut origin = Http2Origin::start(None, |mut call: Call| async move {
        let (body, trailers) = call.read().await;
        let trailers = trailers.unwrap_or_default();
        call.text(&format!("{} {:?}", String::from_utf8(body).unwrap(), trailers.get("x-sum")));
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let head = "POST /a%62?x=1 HTTP/1.1\r\nHost: Shop.example:81\r\nCookie: a=1\r\nCookie: b=2\r\nTE: trailers\r\n\
        Connection: close, te\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\n";
    let response = bed
        .raw(format!("{head}Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"))
        .await;
    assert_eq!(status(&response), 200, "{response}");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("abc Some(\"7\")"), "{response}");
    let seen = origin.next().await;
    assert_eq!((seen.version, seen.method.as_str()), (Version::HTTP_2, "POST"));
    assert_eq!(seen.uri.to_string(), "http://Shop.example:81/ab?x=1");
    assert_eq!(seen.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers["x-forwarded-host"], "Shop.example:81");
    for gone in ["host", "connection", "keep-alive", "upgrade", "transfer-encoding"] {
        assert!(!seen.headers.contains_key(gone), "{gone}: {seen:?}");
    }
}

#[tokio::test]
async fn h99_trailers_and_lengths_cross_from_http2_to_http2() {
    let origin = Http2Origin::start(None, |mut call: Call| async move {
        let (body, trailers) = call.read().await;
        assert_eq!((body.len(), trailers.unwrap()["x-asked"].as_bytes()), (3, &b"yes"[..]));
        let mut out = call.respond.send_response(Response::new(()), false).unwrap();
        out.send_data(Bytes::from_static(b"some"), false).unwrap();
        out.send_trailers(HeaderMap::from_iter([("x-after".parse().unwrap(), "7".parse().unwrap())])).unwrap();
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let mut client = connect(&bed).await;
    let trailers = HeaderMap::from_iter([("x-asked".parse().unwrap(), "yes".parse().unwrap())]);
    let body = Full::new(Bytes::from_static(b"abc")).with_trailers(async move { Some(Ok(trailers)) }).boxed();
    let request = Request::post("http://a.example/").version(Version::HTTP_2).body(body).unwrap();
    let response = client.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(response.trailers().unwrap()["x-after"], "7");
    assert_eq!(response.to_bytes(), "some");
}

/// RFC 9113 parts 8.1.1 and 8.2.1: such a response is malformed, and none goes to a client.
#[tokio::test]
async fn white_space_around_a_value_of_an_endpoint_is_no_response() {
    let field = |name: &str, value: &str| {
        let length = |text: &str| vec![u8::try_from(text.len()).unwrap()];
        [vec![0], length(name), name.into(), length(value), value.into()].concat()
    };
    let (addr, _) = frames(move |_, mut peer: Frames| async move {
        while let Some((_, stream, _)) = peer.next(HEADERS).await {
            match stream {
                1 => peer.send(HEADERS, END_HEADERS | END_STREAM, stream, &[OK, &field("x-a", "1 ")].concat()).await,
                3 => {
                    peer.send(HEADERS, END_HEADERS, stream, OK).await;
                    peer.send(DATA, 0, stream, b"some").await;
                    peer.send(HEADERS, END_HEADERS | END_STREAM, stream, &field("x-a", "\t1")).await;
                }
                _ => peer.send(HEADERS, END_HEADERS | END_STREAM, stream, &[OK, &field("x-a", "1")].concat()).await,
            }
        }
    })
    .await;
    let bed = bed(&[addr]).await;
    let refused = bed.get("/", "a", "").await;
    assert_eq!((status(&refused), header(&refused, "x-a")), (502, None), "{refused}");
    let cut = bed.get("/", "a", "TE: trailers\r\n").await;
    assert!(status(&cut) == 200 && !cut.ends_with("0\r\n\r\n") && !cut.contains("x-a"), "{cut}");
    let good = bed.get("/", "a", "").await;
    assert_eq!((status(&good), header(&good, "x-a")), (200, Some("1")), "the connection stays: {good}");
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    const REQUESTS: usize = 40;
    let here = Arc::new(tokio::sync::Barrier::new(REQUESTS));
    let origin = Http2Origin::start(Some(100), move |call: Call| {
        let here = Arc::clone(&here);
        async move {
            here.wait().await;
            call.text("a");
        }
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let clients = (0..REQUESTS).map(|_| bed.get("/", "a.example", ""));
    let answers = tokio::time::timeout(SOON, futures_util::future::join_all(clients)).await.expect("one waits");
    assert!(answers.iter().all(|answer| status(answer) == 200));
    assert_eq!((origin.connections(), origin.most.load(Relaxed)), (1, REQUESTS));
    until("it is unused", || bed.stats.sum(|s| &s.idle_upstream) == 1).await;
    assert_eq!(bed.stats.sum(|s| &s.upstream_connects), 1);
}

#[tokio::test]
async fn a_stream_limit_of_one_is_kept_and_nobody_waits_for_another() {
    let here = Arc::new(tokio::sync::Barrier::new(4));
    let origin = Http2Origin::start(Some(1), move |call: Call| {
        let here = Arc::clone(&here);
        async move {
            here.wait().await;
            call.text("a");
        }
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let clients = (0..4).map(|_| bed.get("/", "a.example", ""));
    let answers = tokio::time::timeout(SOON, futures_util::future::join_all(clients)).await.expect("one waits");
    assert!(answers.iter().all(|answer| status(answer) == 200), "{answers:?}");
    assert_eq!((origin.connections(), origin.most.load(Relaxed)), (4, 1));
}

#[tokio::test]
async fn the_second_connection_is_open_before_the_first_is_full() {
    let origin = Http2Origin::start(Some(4), move |call: Call| async move {
        std::future::pending::<()>().await;
        drop(call);
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let mut client = connect(&bed).await;
    let ask = |client: &mut hyper::client::conn::http2::SendRequest<_>| {
        tokio::spawn(client.send_request(get("http://a.example/")))
    };
    let mut held = vec![ask(&mut client), ask(&mut client)];
    until("two are there", || origin.most.load(Relaxed) == 2).await;
    assert_eq!(origin.connections(), 1);
    held.push(ask(&mut client));
    until("another connection is open", || origin.connections() == 2).await;
    until("three are there", || origin.most.load(Relaxed) == 3).await;
    assert!(held.iter().all(|answer| !answer.is_finished()));
}

#[tokio::test]
async fn what_is_behind_a_goaway_or_refused_is_sent_again() {
    for refusal in [GOAWAY, RST_STREAM] {
        let (addr, connections) = frames(move |number, mut peer: Frames| async move {
            let (_, stream, _) = peer.next(HEADERS).await.unwrap();
            let (_, _, body) = peer.next(DATA).await.unwrap();
            assert_eq!(body, b"abc", "all of the body, each time");
            match (number, refusal) {
                // The last stream is 0, the reason NO_ERROR.
                (0, GOAWAY) => peer.send(GOAWAY, 0, 0, &[0; 8]).await,
                (0, _) => peer.send(RST_STREAM, 0, stream, &[0, 0, 0, 7]).await,
                _ => peer.send(HEADERS, END_HEADERS | END_STREAM, stream, OK).await,
            }
            peer.next(99).await;
        })
        .await;
        let bed = bed(&[addr]).await;
        let response = bed.raw("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!(status(&response), 200, "{refusal} {response}");
        assert_eq!((connections.load(Relaxed), bed.stats.sum(|s| &s.retries)), (2, 1));
    }
}

#[tokio::test]
async fn what_an_endpoint_may_have_processed_is_not_sent_again() {
    let (addr, connections) = frames(move |_, mut peer: Frames| async move {
        let (_, stream, _) = peer.next(HEADERS).await.unwrap();
        peer.send(RST_STREAM, 0, stream, &[0, 0, 0, 2]).await;
        peer.next(99).await;
    })
    .await;
    let bed = bed(&[addr]).await;
    assert_eq!(status(&bed.get("/", "a", "").await), 502);
    assert_eq!((connections.load(Relaxed), bed.stats.sum(|s| &s.retries)), (1, 0));
}

#[tokio::test]
async fn h88_a_reset_in_the_middle_is_never_a_clean_end() {
    // CANCEL, and NO_ERROR, which hyper takes for the end.
    for reason in [8, 0] {
        let go = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&go);
        let (addr, _) = frames(move |_, mut peer: Frames| {
            let held = Arc::clone(&held);
            async move {
                while let Some((_, stream, _)) = peer.next(HEADERS).await {
                    peer.send(HEADERS, END_HEADERS, stream, OK).await;
                    peer.send(DATA, 0, stream, b"half").await;
                    held.acquire().await.unwrap().forget();
                    peer.send(RST_STREAM, 0, stream, &[0, 0, 0, reason]).await;
                }
            }
        })
        .await;
        let bed = bed(&[addr]).await;
        let mut client = bed.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.until("half").await;
        go.add_permits(1);
        let rest = client.rest().await;
        assert!(!rest.contains("0\r\n"), "{reason}: it ends well: {rest:?}");
        go.add_permits(1);
        let mut client = connect(&bed).await;
        let response = client.send_request(get("http://a.example/")).await.unwrap();
        assert!(response.into_body().collect().await.is_err(), "{reason}");
    }
}

#[tokio::test]
async fn a_client_that_resets_or_leaves_cancels_its_stream_and_no_other() {
    let cancelled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&cancelled);
    let origin = Http2Origin::start(None, move |mut call: Call| {
        let count = Arc::clone(&count);
        async move {
            if call.request.uri().path() == "/quick" {
                return call.text("quick");
            }
            let mut body = call.respond.send_response(Response::new(()), false).unwrap();
            body.send_data(Bytes::from_static(b"some"), false).unwrap();
            let reason = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
            assert_eq!(reason.unwrap(), h2::Reason::CANCEL);
            count.fetch_add(1, Relaxed);
        }
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let mut client = connect(&bed).await;
    let response = client.send_request(get("http://a.example/slow")).await.unwrap();
    drop(response);
    until("the stream is cancelled", || cancelled.load(Relaxed) == 1).await;
    let mut other = bed.connect().await;
    other.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    other.until("some").await;
    other.stream.set_zero_linger().unwrap();
    drop(other);
    until("the other too", || cancelled.load(Relaxed) == 2).await;
    assert_eq!(text(client.send_request(get("http://a.example/quick")).await.unwrap()).await, "quick");
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_endpoint_that_leaves_finishes_its_streams_and_gets_no_more() {
    let go = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&go);
    let mut old = Http2Origin::start(None, move |call: Call| {
        let held = Arc::clone(&held);
        async move {
            let _ = held.acquire().await.unwrap();
            call.text("old");
        }
    })
    .await;
    let new = Http2Origin::named("new").await;
    let bed = bed(&[old.addr]).await;
    let steps = async {
        old.next().await;
        bed.serve(any_listener(), route(), &[("h2c", &[new.addr])]).await;
        assert!(bed.get("/", "a", "").await.contains("new"));
        go.add_permits(1);
    };
    let (slow, ()) = futures_util::join!(bed.get("/", "a", ""), steps);
    assert!(slow.contains("old"), "{slow}");
    until("its connection is closed", || bed.stats.sum(|s| &s.open_upstream) == 1).await;
}

#[tokio::test]
async fn a_goaway_lets_streams_end_and_the_next_request_goes_elsewhere() {
    let go = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&go);
    let mut origin = Http2Origin::start(None, move |call: Call| {
        let held = Arc::clone(&held);
        async move {
            if call.request.uri().path() == "/slow" {
                let _ = held.acquire().await.unwrap();
            }
            call.text("a");
        }
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let connections = Arc::clone(&origin.connections);
    let steps = async {
        origin.next().await;
        origin.leave.notify_waiters();
        // GOAWAY is on its way: whichever connection takes a request, it is answered.
        let answered = async {
            while connections.load(Relaxed) < 2 {
                assert_eq!(status(&bed.get("/", "a", "").await), 200);
            }
        };
        tokio::time::timeout(SOON, answered).await.expect("the connection is used on");
        go.add_permits(1);
    };
    let (slow, ()) = futures_util::join!(bed.get("/slow", "a", ""), steps);
    assert_eq!(status(&slow), 200, "{slow}");
}

#[tokio::test]
async fn an_endpoint_that_dies_or_speaks_something_else_is_told() {
    let http1 = Origin::named("a").await;
    let bed = bed(&[http1.addr]).await;
    assert_eq!(status(&bed.get("/", "a", "").await), 503, "it speaks HTTP/1.1");

    let (addr, connections) = frames(|number, mut peer: Frames| async move {
        while let Some((_, stream, _)) = peer.next(HEADERS).await {
            if number == 0 {
                return;
            }
            peer.send(HEADERS, END_HEADERS | END_STREAM, stream, OK).await;
        }
    })
    .await;
    let bed = self::bed(&[addr]).await;
    assert_eq!(status(&bed.get("/", "a", "").await), 502);
    assert_eq!(status(&bed.get("/", "a", "").await), 200);
    assert_eq!(connections.load(Relaxed), 2);
}

#[tokio::test]
async fn a_connection_without_requests_is_closed_after_a_while() {
    let origin = Http2Origin::named("a").await;
    let settings = Settings { upstream_http2_idle: Duration::from_millis(1), ..Settings::default() };
    let bed = bed_with(settings, &[origin.addr]).await;
    assert_eq!(status(&bed.get("/", "a", "").await), 200);
    until("it is closed", || bed.stats.sum(|s| &s.open_upstream) == 0).await;
    assert_eq!(bed.stats.sum(|s| &s.idle_upstream), 0);
}

#[tokio::test]
async fn h73_a_client_that_reads_nothing_holds_up_nobody_else() {
    let origin = Http2Origin::start(None, |mut call: Call| async move {
        let size = if call.request.uri().path() == "/big" { 8 << 20 } else { 1 };
        let mut body = call.respond.send_response(Response::new(()), false).unwrap();
        let _ = body.send_data(Bytes::from(vec![b'x'; size]), true);
        // Dropped, it would reset what is not sent yet.
        let _ = std::future::poll_fn(|cx| body.poll_reset(cx)).await;
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let mut stalled = Vec::new();
    for _ in 0..60 {
        let mut client = bed.connect().await;
        client.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
        stalled.push(client);
    }
    until("all stand", || bed.stats.sum(|s| &s.active_requests) == 60).await;
    let mut client = connect(&bed).await;
    let small = client.send_request(get("http://a.example/small"));
    let small = tokio::time::timeout(SOON, small).await.expect("held up").unwrap();
    assert_eq!((small.status(), text(small).await.as_str()), (StatusCode::OK, "x"));
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn a_head_and_a_method_without_body_cross() {
    let mut origin = Http2Origin::start(None, |mut call: Call| async move {
        let response = Response::builder().header("content-length", "5").body(()).unwrap();
        call.respond.send_response(response, true).unwrap();
    })
    .await;
    let bed = bed(&[origin.addr]).await;
    let response = bed.raw("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!((status(&response), header(&response, "content-length")), (200, Some("5")));
    assert_eq!(origin.next().await.method, Method::HEAD);
}

/// An endpoint that is started anew closes without a word what it had.
#[tokio::test]
async fn what_a_connection_of_before_has_lost_is_sent_again_where_that_is_safe() {
    let (addr, connections) = frames(|number, mut peer: Frames| async move {
        while let Some((_, stream, _)) = peer.next(HEADERS).await {
            // The first request is answered, the second one is lost with its connection.
            if number == 0 && stream > 1 {
                return;
            }
            peer.send(HEADERS, END_HEADERS | END_STREAM, stream, OK).await;
        }
    })
    .await;
    let bed = Bed::new(any_listener(), route(), &[("h2c", &[addr])]).await;
    assert_eq!(status(&bed.get("/", "h", "").await), 200);
    assert_eq!(status(&bed.get("/", "h", "").await), 200);
    assert_eq!(connections.load(Relaxed), 2);
    // A connection that loses its first request has never worked; and what is not idempotent is sent once.
    for (kept, method) in [(0, "GET"), (1, "POST")] {
        let (addr, connections) = frames(move |_, mut peer: Frames| async move {
            for _ in 0..kept {
                let Some((_, stream, _)) = peer.next(HEADERS).await else { return };
                peer.send(HEADERS, END_HEADERS | END_STREAM, stream, OK).await;
            }
            peer.next(HEADERS).await;
        })
        .await;
        let bed = Bed::new(any_listener(), route(), &[("h2c", &[addr])]).await;
        for _ in 0..kept {
            assert_eq!(status(&bed.get("/", "h", "").await), 200);
        }
        let answer = bed.raw(format!("{method} / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).await;
        assert_eq!((status(&answer), connections.load(Relaxed)), (502, 1), "{method}");
    }
}
