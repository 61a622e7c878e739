//! GRPCRoutes with a client of HTTP/2 and backends of HTTP/2: calls by service, method and metadata, beside a HTTPRoute.
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{
    harness::{Bed, Origin, SOON, any_listener, status},
    http2::{Body, connect, text},
    http2_origin::Http2Origin,
};

fn grpc(rules: Value) -> Value {
    json!({"kind": "GRPCRoute", "metadata": {"name": "grpc"}, "spec": {"parentRefs": [{"name": "gw"}],
        "hostnames": ["a.example"], "rules": rules}})
}

fn rule(method: Value, service: &str) -> Value {
    json!({"matches": [{"method": method}], "backendRefs": [{"name": service, "port": 80}]})
}

async fn ask(bed: &Bed, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    let mut request = Request::post(format!("http://a.example{path}")).version(Version::HTTP_2);
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(headers) {
        request = request.header(*name, *value);
    }
    let request: Request<Body> = request.body(Full::default().boxed()).unwrap();
    let mut client = connect(bed).await;
    tokio::time::timeout(SOON, client.send_request(request)).await.expect("no answer").unwrap()
}

/// The backends' ports say nothing of their protocol: what a GRPCRoute refers to speaks HTTP/2.
#[tokio::test]
async fn calls_go_by_service_method_and_metadata_over_http2() {
    let (cart, ping, test) =
        (Http2Origin::named("cart").await, Http2Origin::named("ping").await, Http2Origin::named("test").await);
    let mut web = Origin::named("web").await;
    let sandbox = json!({"matches": [{"method": {"service": "shop.Cart"}, "headers": [{"name": "sandbox", "value": "pr-7"}]}],
        "backendRefs": [{"name": "test", "port": 80}]});
    let routes = json!([
        grpc(json!([
            rule(json!({"service": "shop.Cart"}), "cart"),
            rule(json!({"type": "RegularExpression", "method": "P[a-z]+"}), "ping"),
            sandbox,
        ])),
        {"metadata": {"name": "web"}, "spec": {"parentRefs": [{"name": "gw"}], "hostnames": ["a.example"],
            "rules": [{"backendRefs": [{"name": "web", "port": 80}], "matches": [{"path": {"value": "/shop.Cart"}}]}]}},
    ]);
    let backends = [("cart", [cart.addr]), ("ping", [ping.addr]), ("test", [test.addr]), ("web", [web.addr])];
    let backends: Vec<(&str, &[_])> = backends.iter().map(|(name, addrs)| (*name, &addrs[..])).collect();
    let bed = Bed::new(any_listener(), routes, &backends).await;
    assert_eq!(text(ask(&bed, "/shop.Cart/Add", &[]).await).await, "cart");
    assert_eq!(text(ask(&bed, "/shop.Cart/Add", &[("sandbox", "pr-7")]).await).await, "test");
    assert_eq!(text(ask(&bed, "/other.Thing/Ping", &[]).await).await, "ping");
    assert!(web.untouched(), "calls are the GRPCRoute's");
    let none = ask(&bed, "/other.Thing/Add", &[]).await;
    assert_eq!((none.status().as_u16(), none.headers()["grpc-status"].to_str().unwrap()), (200, "12"));
    // What is no call is the HTTPRoute's, on the same host name and path.
    let plain = bed.get("/shop.Cart/Add", "a.example", "").await;
    assert!(plain.ends_with("web"), "{plain}");
    assert_eq!(status(&bed.get("/other.Thing/Ping", "a.example", "").await), 404);
}

#[tokio::test]
async fn metadata_is_set_added_and_removed_on_the_way() {
    let mut origin = Http2Origin::named("a").await;
    let mut modified = rule(json!({"service": "s.A", "method": "M"}), "a");
    modified["filters"] = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {
        "set": [{"name": "x-set", "value": "new"}], "add": [{"name": "x-add", "value": "two"}], "remove": ["x-gone"]}}]);
    let bed = Bed::new(any_listener(), json!([grpc(json!([modified]))]), &[("a", &[origin.addr])]).await;
    let sent = [("x-set", "old"), ("x-add", "one"), ("x-gone", "1"), ("x-kept", "k")];
    assert_eq!(text(ask(&bed, "/s.A/M", &sent).await).await, "a");
    let seen = origin.seen.recv().await.unwrap();
    let all =
        |name: &str| seen.headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!((all("x-set"), all("x-add")), (vec!["new".to_owned()], vec!["one".to_owned(), "two".to_owned()]));
    assert_eq!((all("x-gone"), all("x-kept")), (vec![], vec!["k".to_owned()]));
    assert_eq!((seen.uri.path(), seen.method.as_str(), all("te")), ("/s.A/M", "POST", vec!["trailers".to_owned()]));
}

/// A share of weight 0 gets nothing, though it cannot be resolved; a bad share alone is UNAVAILABLE, a rule without backends too.
#[tokio::test]
async fn weights_and_bad_references_are_those_of_http() {
    let origin = Http2Origin::named("a").await;
    let mut weighted = rule(json!({"service": "s.A"}), "a");
    weighted["backendRefs"] =
        json!([{"name": "a", "port": 80, "weight": 5}, {"name": "none", "port": 80, "weight": 0}]);
    let bad = rule(json!({"service": "s.B"}), "none");
    let empty = json!({"matches": [{"method": {"service": "s.C"}}]});
    let bed = Bed::new(any_listener(), json!([grpc(json!([weighted, bad, empty]))]), &[("a", &[origin.addr])]).await;
    for _ in 0..10 {
        assert_eq!(text(ask(&bed, "/s.A/M", &[]).await).await, "a");
    }
    for path in ["/s.B/M", "/s.C/M"] {
        assert_eq!(ask(&bed, path, &[]).await.headers()["grpc-status"], "14", "{path}");
    }
}
