//! HTTP/2 with prior knowledge on the client's side.
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http2::SendRequest,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::harness::{Bed, Client, Origin, header};

pub(crate) type Body = BoxBody<Bytes, std::convert::Infallible>;

pub(crate) async fn connect(bed: &Bed) -> SendRequest<Body> {
    let stream = TcpStream::connect(bed.addr).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn get(uri: &str) -> Request<Body> {
    Request::get(uri).version(Version::HTTP_2).body(Empty::new().boxed()).unwrap()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn requests_cross_from_http2_to_http1() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    let response = client.send_request(get("http://shop.example/x?y=1")).await.unwrap();
    assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_2));
    assert_eq!(text(response).await, "a");
    let seen = origin.next().await;
    assert!(seen.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "host"), Some("shop.example"));

    let body = Full::new(Bytes::from_static(b"hello")).boxed();
    let post = Request::post("http://shop.example/").version(Version::HTTP_2).body(body).unwrap();
    assert_eq!(client.send_request(post).await.unwrap().status(), StatusCode::OK);
    let seen = origin.next().await;
    assert!(seen.contains("hello"), "{seen}");
    assert_eq!(header(&seen, "connection"), None);
}

#[tokio::test]
async fn an_empty_post_has_a_length() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    let post = Request::post("http://x/").version(Version::HTTP_2).body(Empty::new().boxed()).unwrap();
    assert_eq!(client.send_request(post).await.unwrap().status(), StatusCode::OK);
    assert_eq!(header(&origin.next().await, "content-length"), Some("0"));
}

#[tokio::test]
async fn streams_of_one_connection_run_side_by_side() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let client = connect(&bed).await;
    let one =
        |mut client: SendRequest<Body>| async move { text(client.send_request(get("http://x/")).await.unwrap()).await };
    let all = futures_util::future::join_all((0..100).map(|_| one(client.clone()))).await;
    assert!(all.iter().all(|body| body == "a"));
}

#[tokio::test]
async fn h58_a_host_that_differs_from_the_authority_is_refused() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    let mut request = get("http://a.example/");
    request.headers_mut().insert("host", "b.example".parse().unwrap());
    assert_eq!(client.send_request(request).await.unwrap().status(), StatusCode::BAD_REQUEST);
    assert!(origin.untouched());
    let mut request = get("http://a.example/");
    request.headers_mut().insert("host", "A.example".parse().unwrap());
    assert_eq!(client.send_request(request).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn h60_another_scheme_is_refused() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    for uri in ["https://a.example/", "ftp://a.example/"] {
        assert_eq!(client.send_request(get(uri)).await.unwrap().status(), StatusCode::BAD_REQUEST, "{uri}");
    }
}

#[tokio::test]
async fn h61_cookie_crumbs_are_joined() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    let mut request = get("http://a.example/");
    for crumb in ["a=1", "b=2"] {
        request.headers_mut().append("cookie", crumb.parse().unwrap());
    }
    client.send_request(request).await.unwrap();
    assert_eq!(header(&origin.next().await, "cookie"), Some("a=1; b=2"));
}

#[tokio::test]
async fn h35_many_fields_are_refused_and_many_cookies_are_not() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    let with = |name: &dyn Fn(usize) -> String, count: usize| {
        let mut request = get("http://a.example/");
        for i in 0..count {
            let name: http::HeaderName = name(i).parse().unwrap();
            request.headers_mut().append(name, "a=1".parse().unwrap());
        }
        request
    };
    let fields = |i: usize| format!("x-{i}");
    assert_eq!(client.send_request(with(&fields, 100)).await.unwrap().status(), StatusCode::OK);
    origin.next().await;
    let many = client.send_request(with(&fields, 101)).await.unwrap();
    assert_eq!(many.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(origin.untouched());
    let cookies = with(&|_| "cookie".to_owned(), 300);
    assert_eq!(client.send_request(cookies).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn h72_a_drain_says_goaway_and_finishes_streams() {
    let origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(client.until("\r\n\r\n").await);
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await;
    })
    .await;
    let mut origin = origin;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    let pending = client.send_request(get("http://x/"));
    let drain = async {
        origin.next().await;
        bed.cancel.cancel();
    };
    let (response, ()) = futures_util::join!(pending, drain);
    assert_eq!(text(response.unwrap()).await, "late");
    tokio::time::timeout(crate::harness::SOON, bed.task).await.expect("the drain hangs").unwrap();
}

#[tokio::test]
async fn h88_a_response_that_breaks_off_resets_the_stream() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true).await;
    let bed = Bed::to(origin.addr).await;
    let mut client = connect(&bed).await;
    let response = client.send_request(get("http://x/")).await.unwrap();
    assert!(response.into_body().collect().await.is_err());
}
