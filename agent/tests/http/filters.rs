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

/// A URLRewrite with this path change.
fn rewrite(kind: &str, path: &str) -> Value {
    let field = format!("{}{}", kind[..1].to_ascii_lowercase(), &kind[1..]);
    json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": kind, field: path}}})
}

/// The target and the host that a backend saw.
fn target_and_host(seen: &str) -> (&str, &str) {
    (seen.split(' ').nth(1).unwrap(), header(seen, "host").unwrap())
}

#[tokio::test]
async fn a_backend_ref_rewrites_what_goes_to_it_and_to_no_other() {
    let (mut a, mut b) = (Origin::named("a").await, Origin::named("b").await);
    let host = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "inner.example"}});
    let weighted = |a: u32, b: u32| {
        json!([{"name": "a", "port": 80, "weight": a, "filters": [rewrite("ReplaceFullPath", "/new-a")]},
            {"name": "b", "port": 80, "weight": b, "filters": [host]}])
    };
    let rule = |prefix: &str, filters: Value, refs: Value| json!({"matches": [{"path": {"value": prefix}}], "filters": filters, "backendRefs": refs});
    let of_a = |filters: Value| json!([{"name": "a", "port": 80, "filters": filters}]);
    let rules = json!([
        rule("/to-a", json!([]), weighted(1, 0)),
        rule("/to-b", json!([]), weighted(0, 1)),
        rule("/prefix", json!([]), of_a(json!([rewrite("ReplacePrefixMatch", "/new")]))),
        rule(
            "/both",
            json!([rewrite("ReplacePrefixMatch", "/rule")]),
            of_a(json!([rewrite("ReplacePrefixMatch", "/backend")]))
        ),
        rule("/rule", json!([rewrite("ReplacePrefixMatch", "/new")]), of_a(json!([host]))),
    ]);
    let bed = Bed::new(any_listener(), route(rules), &[("a", &[a.addr]), ("b", &[b.addr])]).await;
    for (path, name, want) in [
        ("/to-a/x?q=1", "a", ("/new-a?q=1", "outer.example")),
        ("/to-b/x?q=1", "b", ("/to-b/x?q=1", "inner.example")),
        ("/prefix/x?q=1", "a", ("/new/x?q=1", "outer.example")),
        ("/prefix", "a", ("/new", "outer.example")),
        // The prefix is that of the path which was matched, and what is nearer to the backend counts.
        ("/both/x", "a", ("/backend/x", "outer.example")),
        ("/rule/x", "a", ("/new/x", "inner.example")),
    ] {
        assert_eq!(status(&bed.get(path, "outer.example", "").await), 200, "{path}");
        let origin = if name == "a" { &mut a } else { &mut b };
        assert_eq!(target_and_host(&origin.next().await), want, "{path}");
    }
}

#[tokio::test]
async fn filters_run_in_the_order_in_which_they_are_written() {
    let mut a = Origin::named("a").await;
    let set = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "Host", "value": "set.example"}]}});
    let host = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "rewritten.example"}});
    let at = |path: &str, filters: Value| json!({"matches": [{"path": {"value": path}}], "filters": filters, "backendRefs": to("a")});
    let rules = json!([at("/1", json!([set, host])), at("/2", json!([host, set]))]);
    let bed = Bed::new(any_listener(), route(rules), &[("a", &[a.addr])]).await;
    for (path, want) in [("/1", "rewritten.example"), ("/2", "set.example")] {
        assert_eq!(status(&bed.get(path, "outer.example", "").await), 200);
        assert_eq!(header(&a.next().await, "host"), Some(want), "{path}");
    }
}

#[tokio::test]
async fn h111_what_a_filter_sets_or_removes_no_client_can_say() {
    let mut a = Origin::named("a").await;
    let filters = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {
        "set": [{"name": "X-Tenant", "value": "shop"}], "remove": ["X-Auth-User"]}}]);
    let rules = json!([{"filters": filters, "backendRefs": to("a")}]);
    let bed = Bed::new(any_listener(), route(rules), &[("a", &[a.addr])]).await;
    for fields in [
        "",
        "X-Tenant: bank\r\nX-Auth-User: root\r\n",
        "x-tenant: bank\r\nX-TENANT: bank\r\nx-auth-user: root\r\nX-AUTH-USER: root\r\n",
        // Naming it in Connection does not take away what the filter sets.
        "Connection: x-tenant, x-auth-user\r\nX-Tenant: bank\r\nX-Auth-User: root\r\n",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let mut client = bed.connect().await;
        client.send(request).await;
        assert_eq!(status(&client.response().await), 200, "{fields}");
        let seen = a.next().await.to_lowercase();
        assert_eq!(header(&seen, "x-tenant"), Some("shop"), "{fields}");
        assert!(!seen.contains("bank") && !seen.contains("root"), "{fields}: {seen}");
    }
}
