//! What rules see of a request, and what filters make of it.
use serde_json::{Value, json};

use crate::harness::{Bed, Origin, any_listener, header, status};

fn route(rules: Value) -> Value {
    json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}}])
}

fn to(name: &str) -> Value {
    json!([{"name": name, "port": 80}])
}

#[tokio::test]
async fn rules_see_the_fields_of_the_hop_and_backends_do_not() {
    let (mut a, mut b) = (Origin::named("a").await, Origin::named("b").await);
    for (name, value, fields) in [
        ("Upgrade", "websocket", "Connection: upgrade, close\r\nUpgrade: websocket\r\n"),
        ("Connection", "close, X-Hop", "Connection: close, X-Hop\r\nX-Hop: 1\r\n"),
        ("X-Hop", "1", "Connection: close, X-Hop\r\nX-Hop: 1\r\n"),
        ("TE", "gzip", "Connection: close\r\nTE: gzip\r\n"),
        ("Keep-Alive", "5", "Connection: close\r\nKeep-Alive: 5\r\n"),
        ("Expect", "100-continue", "Connection: close\r\nExpect: 100-continue\r\n"),
        ("Transfer-Encoding", "chunked", "Connection: close\r\nTransfer-Encoding: chunked\r\n"),
        ("Proxy-Authorization", "x", "Connection: close\r\nProxy-Authorization: x\r\n"),
    ] {
        let matched = json!([{"headers": [{"name": name, "value": value}]}]);
        let rules = json!([{"matches": matched, "backendRefs": to("b")}, {"backendRefs": to("a")}]);
        let bed = Bed::new(any_listener(), route(rules), &[("a", &[a.addr]), ("b", &[b.addr])]).await;
        let body = if name == "Transfer-Encoding" { "0\r\n\r\n" } else { "" };
        let response = bed.raw(format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}")).await;
        assert!(response.ends_with('b'), "{name}: {response}");
        let seen = b.next().await;
        // The framing is written anew.
        assert!(header(&seen, name).is_none() || name == "Transfer-Encoding", "{name}: {seen}");
    }
    assert!(a.untouched());
}

#[tokio::test]
async fn a_request_has_one_host_and_one_cookie_whatever_filters_add() {
    let mut a = Origin::named("a").await;
    let add = |name: &str, value: &str| json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"add": [{"name": name, "value": value}]}}]);
    let at = |path: &str, filters: Value, of_backend: Value| {
        json!({"matches": [{"path": {"value": path}}], "filters": filters,
            "backendRefs": [{"name": "a", "port": 80, "filters": of_backend}]})
    };
    let remove = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["Host"]}}]);
    let rules = json!([
        at("/rule", add("Host", "inner.example"), json!([])),
        at("/backend", json!([]), add("Host", "inner.example")),
        at("/cookie", add("Cookie", "b=2"), json!([])),
        at("/remove", remove.clone(), json!([])),
        at("/remove-at-backend", json!([]), remove),
    ]);
    let bed = Bed::new(any_listener(), route(rules), &[("a", &[a.addr])]).await;
    for (path, name, want) in
        [("/rule", "host", "inner.example"), ("/backend", "host", "inner.example"), ("/cookie", "cookie", "a=1; b=2")]
    {
        assert_eq!(status(&bed.get(path, "outer.example", "Cookie: a=1\r\n").await), 200);
        let seen = a.next().await;
        assert_eq!(header(&seen, name), Some(want));
        assert_eq!(seen.to_lowercase().matches(&format!("\r\n{name}:")).count(), 1, "{seen}");
    }
    for path in ["/remove", "/remove-at-backend"] {
        assert_eq!(status(&bed.get(path, "outer.example", "").await), 500, "{path}");
    }
    assert!(a.untouched());
}
