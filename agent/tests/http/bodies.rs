//! Where messages end: bodies arrive whole, and a connection with a doubtful end carries no second request.
use std::sync::atomic::Ordering::Relaxed;

use http::{Method, Request, Version};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::harness::{Bed, Origin, header, status};

const HANDSHAKE: &str =
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: k\r\n";

#[tokio::test]
async fn an_upgrade_with_a_body_is_refused_and_nothing_of_it_arrives() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len());
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
    for method in ["GET", "POST", "HEAD"] {
        for body in [&length, &chunked] {
            let response = bed.raw(format!("{method} /a HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}{body}")).await;
            assert_eq!(status(&response), 400, "{method}: {response}");
            assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{method}: {response}");
            assert_eq!(header(&response, "connection"), Some("close"));
        }
    }
    assert!(origin.untouched(), "it reached the backend");
}

#[tokio::test]
async fn an_upgrade_to_what_is_not_served_is_an_ordinary_request() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    // As the HTTP client of Java sends it.
    let request = "POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(status(&bed.raw(request).await), 200);
    let seen = origin.next().await;
    assert!(seen.ends_with("\r\n\r\nabc") && header(&seen, "upgrade").is_none(), "{seen}");
}

/// How many connections three requests in a row take, where the first is `first` and the backend answers `response`.
async fn connections(first: &str, response: &str) -> usize {
    let mut origin = Origin::answering(response, false).await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    for request in [first, "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n", "DELETE / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        client.send(request).await;
        assert!(matches!(status(&client.response().await), 200 | 204 | 304));
        origin.next().await;
        // What is given back is given back before its response ends; what is closed is closed soon after.
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    origin.connections.load(Relaxed)
}

#[tokio::test]
async fn a_connection_of_a_doubtful_end_is_not_used_again() {
    let (plain, ok) = ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
    assert_eq!(connections(plain, ok).await, 1, "one connection serves them all");
    let refused_upgrade = format!("GET / HTTP/1.1\r\nHost: x\r\n{HANDSHAKE}\r\n");
    for doubtful in [
        refused_upgrade.as_str(),
        "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
        "GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ] {
        assert_eq!(connections(doubtful, ok).await, 2, "{doubtful}");
    }
    for doubtful in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(connections(plain, doubtful).await, 3, "{doubtful}");
    }
}

#[tokio::test]
async fn a_body_arrives_whatever_the_method_is() {
    let mut origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false).await;
    let bed = Bed::to(origin.addr).await;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "POST"] {
        for framing in ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"] {
            let response = bed.raw(format!("{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}")).await;
            assert_eq!(status(&response), 200, "{method} {framing}");
            let seen = origin.next().await;
            assert!(
                seen.starts_with(method) && seen.ends_with(&framing[framing.find("\r\n\r\n").unwrap()..]),
                "{seen}"
            );
            let framed = header(&seen, "content-length").or(header(&seen, "transfer-encoding"));
            assert!(matches!(framed, Some("3" | "chunked")), "{method}: {seen}");
        }
    }
}

#[tokio::test]
async fn a_body_without_length_crosses_from_http2_whatever_the_method_is() {
    let mut origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false).await;
    let bed = Bed::to(origin.addr).await;
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for method in [Method::GET, Method::HEAD, Method::DELETE, Method::POST] {
        let frames = ["a", "bc"].map(|part| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(part))));
        let body: BoxBody<Bytes, _> = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
        let request = Request::builder().method(&method).uri("http://x/").version(Version::HTTP_2).body(body).unwrap();
        assert_eq!(client.send_request(request).await.unwrap().status(), 200, "{method}");
        let seen = origin.next().await;
        assert!(seen.starts_with(method.as_str()), "{seen}");
        assert_eq!(header(&seen, "transfer-encoding"), Some("chunked"), "{method}: {seen}");
        let data: String = seen.split("\r\n\r\n").nth(1).unwrap().lines().filter(|l| l.contains(['a', 'b'])).collect();
        assert_eq!(data, "abc", "{method}: {seen}");
    }
}
