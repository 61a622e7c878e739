//! gRPC through the proxy: errors of its own in gRPC's form, deadlines, trailers.
use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};
use sluice::proxy::Settings;

use crate::{
    harness::{Bed, Origin, SOON, any_listener, header, limited, refusing, status},
    http2::{Body, connect},
    http2_origin::{Call, Http2Origin},
};

fn call(headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::post("http://a.example/shop.Cart/Add").version(Version::HTTP_2);
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(headers) {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from_static(b"\0\0\0\0\0")).boxed()).unwrap()
}

fn route(service: &str, rule: Value) -> Value {
    let mut whole = json!({"backendRefs": [{"name": service, "port": 80}]});
    whole.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
    json!([{"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}], "hostnames": ["a.example"],
        "rules": [whole]}}])
}

async fn ask(bed: &Bed, headers: &[(&str, &str)]) -> Response<Incoming> {
    let mut client = connect(bed).await;
    let answer = client.send_request(call(headers));
    tokio::time::timeout(SOON, answer).await.expect("no answer").unwrap()
}

/// The status and the message of a response that has no body and ends with its head.
async fn trailers_only(response: Response<Incoming>) -> (String, String) {
    assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(http_body::Body::is_end_stream(response.body()), "it ends with its head");
    let text = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    (text("grpc-status"), text("grpc-message"))
}

async fn with(backends: &[SocketAddr], rule: Value) -> Bed {
    Bed::new(any_listener(), route("h2c", rule), &[("h2c", backends)]).await
}

#[tokio::test]
async fn h98_errors_of_the_proxy_are_statuses_of_grpc() {
    let bed = with(&[], json!({})).await;
    let mut client = connect(&bed).await;
    let mut unknown = call(&[]);
    *unknown.uri_mut() = "http://b.example/shop.Cart/Add".parse().unwrap();
    let (code, message) = trailers_only(client.send_request(unknown).await.unwrap()).await;
    assert_eq!((code.as_str(), message.as_str()), ("12", "no route matches the request"));
    assert_eq!(trailers_only(ask(&bed, &[]).await).await.0, "14", "no endpoint");

    let bed = with(&[refusing()], json!({})).await;
    assert_eq!(trailers_only(ask(&bed, &[]).await).await.0, "14", "none that can be connected");
    assert_eq!(trailers_only(ask(&bed, &[("expect", "tea")]).await).await.0, "13", "a malformed request");
    // To another client the same is plain HTTP.
    let web = bed.raw(
        "POST / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nContent-Type: application/grpc-web\r\n\
        Content-Length: 0\r\n\r\n",
    );
    let web = web.await;
    assert_eq!((status(&web), header(&web, "grpc-status")), (503, None));

    let bed = with(&[refusing()], json!({"backendRefs": [{"name": "none", "port": 80}]})).await;
    assert_eq!(trailers_only(ask(&bed, &[]).await).await.0, "14", "a backend that does not exist");
}

#[tokio::test]
async fn h98_overload_and_timeouts_have_statuses_of_their_own() {
    let origin = Http2Origin::start(Some(1), |call: Call| async move {
        std::future::pending::<()>().await;
        drop(call);
    })
    .await;
    let settings = Settings { max_upstreams: 1, connect_timeout: Duration::from_millis(50), ..Settings::default() };
    let timeout = json!({"timeouts": {"request": "300ms"}});
    let bed = Bed::with(settings, any_listener(), route("h2c", timeout), &[("h2c", &[origin.addr])]).await;
    // The first has the only stream of the only connection until its time is up.
    let both = futures_util::future::join(ask(&bed, &[]), ask(&bed, &[])).await;
    let both = [trailers_only(both.0).await.0, trailers_only(both.1).await.0];
    assert!(both == ["4", "8"] || both == ["8", "4"], "{both:?}");

    let gateway = limited(any_listener(), &[("max-requests", "1")]);
    let timeout = json!({"timeouts": {"request": "300ms"}});
    let bed = Bed::with(Settings::default(), gateway, route("h2c", timeout), &[("h2c", &[origin.addr])]).await;
    let both = futures_util::future::join(ask(&bed, &[]), ask(&bed, &[])).await;
    let both = [trailers_only(both.0).await.0, trailers_only(both.1).await.0];
    assert!(both == ["4", "8"] || both == ["8", "4"], "{both:?}");
}

#[tokio::test]
async fn h97_the_clients_deadline_holds_and_what_is_left_goes_on() {
    let mut origin = Http2Origin::start(None, |call: Call| async move {
        std::future::pending::<()>().await;
        drop(call);
    })
    .await;
    let bed = with(&[origin.addr], json!({"timeouts": {"request": "1h"}})).await;
    assert_eq!(trailers_only(ask(&bed, &[("grpc-timeout", "90m")]).await).await.0, "4");
    let left = origin.next().await.headers["grpc-timeout"].to_str().unwrap().to_owned();
    let left: u64 = left.strip_suffix('n').expect("nanoseconds").parse().unwrap();
    assert!(left > 0 && left <= 90_000_000, "{left}");

    // The route's is shorter.
    let bed = with(&[origin.addr], json!({"timeouts": {"request": "80ms"}})).await;
    assert_eq!(trailers_only(ask(&bed, &[("grpc-timeout", "1H")]).await).await.0, "4");
    assert!(origin.next().await.headers["grpc-timeout"].to_str().unwrap().ends_with('n'));
    // What is no duration stays the server's to judge.
    let bed = with(&[origin.addr], json!({"timeouts": {"request": "80ms"}})).await;
    assert_eq!(trailers_only(ask(&bed, &[("grpc-timeout", "soon")]).await).await.0, "4");
}

#[tokio::test]
async fn h99_trailers_come_and_a_deadline_in_the_middle_ends_with_one() {
    let origin = Http2Origin::start(None, |mut call: Call| async move {
        let early = call.request.headers().contains_key("x-early");
        let stays = call.request.headers().contains_key("grpc-timeout") && !early;
        call.read().await;
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut body = call.respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from_static(b"\0\0\0\0\x01x"), false).unwrap();
        if stays {
            return std::future::pending().await;
        }
        if early {
            // Its clock rings a little before the proxy's.
            tokio::time::sleep(Duration::from_millis(1_990)).await;
            return body.send_reset(h2::Reason::CANCEL);
        }
        if call.request.headers().contains_key("x-die") {
            // Not before the message has been on its way.
            tokio::time::sleep(Duration::from_millis(100)).await;
            return body.send_reset(h2::Reason::CANCEL);
        }
        let name = HeaderName::from_static("grpc-status");
        body.send_trailers(HeaderMap::from_iter([(name, "0".parse().unwrap())])).unwrap();
    })
    .await;
    let bed = with(&[origin.addr], json!({})).await;
    let whole = ask(&bed, &[]).await.into_body().collect().await.unwrap();
    assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(whole.to_bytes(), "\0\0\0\0\x01x");
    let cut = ask(&bed, &[("grpc-timeout", "200m")]).await.into_body().collect().await.unwrap();
    assert_eq!(cut.trailers().unwrap()["grpc-status"], "4");
    // That an endpoint ends a call whose time is up is no break, also where its clock rings first.
    let early = ask(&bed, &[("grpc-timeout", "2S"), ("x-early", "1")]).await.into_body().collect().await.unwrap();
    assert_eq!(early.trailers().unwrap()["grpc-status"], "4");
    // What a call is tried again by; a reset stream would be INTERNAL to the client.
    let broken = ask(&bed, &[("x-die", "1")]).await.into_body().collect().await.unwrap();
    assert_eq!(broken.trailers().unwrap()["grpc-status"], "14");
    assert_eq!(broken.to_bytes(), "\0\0\0\0\x01x");
}

#[tokio::test]
async fn h99_a_backend_of_http1_gets_no_grpc() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::new(any_listener(), route("a", json!({})), &[("a", &[origin.addr])]).await;
    let (code, message) = trailers_only(ask(&bed, &[]).await).await;
    assert_eq!(code, "12");
    assert!(message.contains("appProtocol kubernetes.io/h2c"), "{message}");
    assert!(origin.untouched());
}
