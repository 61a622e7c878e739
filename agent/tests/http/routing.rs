//! Which backend a request reaches, and what it gets when there is none.
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{Bed, Client, Origin, any_listener, catch_all, header, refusing, status};

fn route(name: &str, spec: serde_json::Value) -> serde_json::Value {
    let mut route = json!({"metadata": {"name": name}, "spec": spec});
    route["spec"]["parentRefs"] = json!([{"name": "gw"}]);
    route
}

#[tokio::test]
async fn requests_reach_the_backend_of_their_path_header_method_and_query() {
    let (a, b, c, d) =
        (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await, Origin::named("d").await);
    let to = |name: &str| json!([{"name": name, "port": 80}]);
    let routes = json!([route(
        "r",
        json!({"rules": [
            {"backendRefs": to("a")},
            {"matches": [{"path": {"value": "/cart"}}], "backendRefs": to("b")},
            {"matches": [{"headers": [{"name": "X-Sandbox", "value": "pr-7"}]}], "backendRefs": to("c")},
            {"matches": [{"method": "POST"}, {"queryParams": [{"name": "v", "value": "2"}]}], "backendRefs": to("d")},
        ]})
    )]);
    let backends = [("a", &[a.addr][..]), ("b", &[b.addr]), ("c", &[c.addr]), ("d", &[d.addr])];
    let bed = Bed::new(any_listener(), routes, &backends).await;
    for (path, headers, want) in [
        ("/", "", "a"),
        ("/cart/items", "", "b"),
        ("/cartoon", "", "a"),
        ("/", "x-sandbox: pr-7\r\n", "c"),
        ("/cart", "x-sandbox: pr-7\r\n", "b"),
        ("/?u=1&v=2", "", "d"),
    ] {
        let response = bed.get(path, "any.example", headers).await;
        assert_eq!(status(&response), 200);
        assert!(response.ends_with(want), "{path} {headers:?}: {response}");
    }
    let response = bed.raw("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi").await;
    assert!(response.ends_with('d'), "{response}");
}

#[tokio::test]
async fn weights_divide_the_requests() {
    let (a, b, c) = (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
    let shares = json!([{"name": "a", "port": 80, "weight": 90}, {"name": "b", "port": 80, "weight": 10},
        {"name": "c", "port": 80, "weight": 0}]);
    let routes = json!([route("r", json!({"rules": [{"backendRefs": shares}]}))]);
    let bed = Bed::new(any_listener(), routes, &[("a", &[a.addr]), ("b", &[b.addr]), ("c", &[c.addr])]).await;
    let mut client = bed.connect().await;
    let mut counts: BTreeMap<char, u32> = BTreeMap::new();
    for _ in 0..1000 {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        *counts.entry(client.response().await.chars().last().unwrap()).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([('a', 900), ('b', 100)]));
}

#[tokio::test]
async fn h100_what_cannot_be_served_has_the_status_of_the_specification() {
    let a = Origin::named("a").await;
    let at = |path: &str, refs: serde_json::Value| json!({"matches": [{"path": {"value": path}}], "backendRefs": refs});
    let routes = json!([route(
        "r",
        json!({"rules": [
            at("/ok", json!([{"name": "a", "port": 80}])),
            at("/none", json!([])),
            at("/missing", json!([{"name": "nope", "port": 80}])),
            at("/no-port", json!([{"name": "a"}])),
            at("/wrong-port", json!([{"name": "a", "port": 81}])),
            at("/kind", json!([{"name": "a", "port": 80, "kind": "Bucket", "group": "x.example"}])),
            at("/foreign", json!([{"name": "a", "port": 80, "namespace": "other"}])),
            at("/zero", json!([{"name": "a", "port": 80, "weight": 0}])),
            at("/empty", json!([{"name": "empty", "port": 80}])),
            at("/dead", json!([{"name": "dead", "port": 80}])),
            {"matches": [{"path": {"value": "/mirror"}}], "filters": [{"type": "RequestMirror"}],
                "backendRefs": [{"name": "a", "port": 80}]},
        ]})
    )]);
    let dead = refusing();
    let bed = Bed::new(any_listener(), routes, &[("a", &[a.addr]), ("empty", &[]), ("dead", &[dead])]).await;
    for (path, want) in [
        ("/ok", 200),
        ("/nothing", 404),
        ("/none", 500),
        ("/missing", 500),
        ("/no-port", 500),
        ("/wrong-port", 500),
        ("/kind", 500),
        ("/foreign", 500),
        ("/zero", 500),
        ("/empty", 503),
        ("/dead", 503),
        ("/mirror", 500),
    ] {
        let response = bed.get(path, "x", "").await;
        assert_eq!(status(&response), want, "{path}: {response}");
    }
}

#[tokio::test]
async fn hosts_choose_the_listener_and_fall_through_within_it() {
    let (a, b, c) = (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
    let listeners = json!([
        {"name": "any", "protocol": "HTTP"},
        {"name": "wild", "protocol": "HTTP", "hostname": "*.example.com"},
        {"name": "one", "protocol": "HTTP", "hostname": "one.example.com"},
    ]);
    let to = |name: &str, path: &str| json!([{"matches": [{"path": {"value": path}}], "backendRefs": [{"name": name, "port": 80}]}]);
    let routes = json!([
        route("exact", json!({"hostnames": ["deep.a.example.com"], "rules": to("a", "/only")})),
        route("wild", json!({"hostnames": ["*.example.com"], "rules": to("b", "/")})),
        {"metadata": {"name": "one"}, "spec": {"parentRefs": [{"name": "gw", "sectionName": "one"}],
            "hostnames": ["one.example.com"], "rules": to("c", "/one")}},
        {"metadata": {"name": "rest"}, "spec": {"parentRefs": [{"name": "gw", "sectionName": "any"}],
            "rules": to("c", "/")}},
    ]);
    let bed = Bed::new(listeners, routes, &[("a", &[a.addr]), ("b", &[b.addr]), ("c", &[c.addr])]).await;
    for (host, path, want) in [
        ("deep.a.example.com", "/only", 'a'),
        ("deep.a.example.com", "/else", 'b'),
        ("DEEP.A.example.COM.:8080", "/only", 'a'),
        ("example.com", "/", 'c'),
        ("other.example", "/", 'c'),
        // `wild` fits this listener too, and is asked second.
        ("one.example.com", "/one", 'c'),
        ("one.example.com", "/two", 'b'),
    ] {
        let response = bed.get(path, host, "").await;
        assert!(response.ends_with(want), "{host}{path}: {response}");
    }
}

#[tokio::test]
async fn listeners_are_isolated() {
    let a = Origin::named("a").await;
    let listeners = json!([
        {"name": "any", "protocol": "HTTP"},
        {"name": "one", "protocol": "HTTP", "hostname": "one.example.com"},
    ]);
    let routes = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw", "sectionName": "any"}],
        "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}}]);
    let bed = Bed::new(listeners, routes, &[("a", &[a.addr])]).await;
    assert_eq!(status(&bed.get("/", "two.example.com", "").await), 200);
    assert_eq!(status(&bed.get("/", "one.example.com", "").await), 404);
}

#[tokio::test]
async fn filters_change_requests_and_responses() {
    let mut a = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nServer: x\r\nX-Old: 1\r\n\r\n", false).await;
    let routes = json!([route(
        "r",
        json!({"rules": [
            {"matches": [{"path": {"value": "/api"}}],
             "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-Set", "value": "new"}],
                    "add": [{"name": "X-Add", "value": "two"}], "remove": ["X-Gone"]}},
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "X-Old", "value": "2"}],
                    "remove": ["server"]}},
                {"type": "URLRewrite", "urlRewrite": {"hostname": "inner.example",
                    "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v2/"}}}],
             "backendRefs": [{"name": "a", "port": 80}]},
            {"matches": [{"path": {"value": "/old"}}],
             "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301,
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}]},
        ]})
    )]);
    let bed = Bed::new(any_listener(), routes, &[("a", &[a.addr])]).await;
    let response = bed.get("/api/x?q=1", "outer.example", "X-Set: old\r\nX-Add: one\r\nX-Gone: 1\r\n").await;
    let request = a.next().await;
    assert!(request.starts_with("GET /v2/x?q=1 HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(&request, "host"), Some("inner.example"));
    assert_eq!(header(&request, "x-set"), Some("new"));
    assert_eq!(request.matches("x-add:").count(), 2, "{request}");
    assert_eq!(header(&request, "x-gone"), None);
    assert_eq!(header(&request, "x-forwarded-host"), Some("outer.example"));
    assert_eq!(header(&response, "x-old"), Some("2"));
    assert_eq!(header(&response, "server"), None);

    let response = bed.get("/old/y?q=1", "outer.example", "").await;
    assert_eq!(status(&response), 301);
    assert_eq!(header(&response, "location"), Some("https://outer.example/new/y?q=1"));
}

#[tokio::test]
async fn a_change_of_the_table_breaks_no_request_in_flight() {
    let old = Origin::start(|mut client: Client, seen| async move {
        let head = client.until("\r\n\r\n").await;
        let _ = seen.send(head);
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nold").await;
        client.until("go").await;
        client.send("done").await;
    })
    .await;
    let new = Origin::named("new").await;
    let bed = Bed::new(any_listener(), json!([catch_all()]), &[("a", &[old.addr])]).await;
    let mut client = bed.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n").await;
    client.until("old").await;
    bed.serve(any_listener(), json!([catch_all()]), &[("a", &[new.addr])]).await;
    client.send("go").await;
    client.until("done").await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(client.response().await.ends_with("new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn endpoints_come_and_go_without_a_failed_request() {
    let origins = [Origin::named("a").await, Origin::named("a").await, Origin::named("a").await];
    let addrs = origins.each_ref().map(|o| o.addr);
    let bed = Arc::new(Bed::new(any_listener(), json!([catch_all()]), &[("a", &addrs)]).await);
    let stop = CancellationToken::new();
    let changes = Arc::new(AtomicUsize::new(0));
    let churn = tokio::spawn({
        let (bed, stop, changes) = (Arc::clone(&bed), stop.clone(), Arc::clone(&changes));
        async move {
            while !stop.is_cancelled() {
                let gone = changes.load(Relaxed) % 3;
                let left: Vec<_> = (0..3).filter(|i| *i != gone).map(|i| addrs[i]).collect();
                bed.serve(any_listener(), json!([catch_all()]), &[("a", &left)]).await;
                changes.fetch_add(1, Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
    });
    let client = |kept: bool| {
        let (bed, changes) = (Arc::clone(&bed), Arc::clone(&changes));
        tokio::spawn(async move {
            let mut client = bed.connect().await;
            let mut sent = 0;
            // However fast the machine: enough requests, and enough changes under them.
            while sent < 250 || changes.load(Relaxed) < 60 {
                if !kept {
                    client = bed.connect().await;
                }
                sent += 1;
                let body = if sent % 2 == 0 {
                    "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
                } else {
                    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
                };
                client.send(body).await;
                let response = client.response().await;
                assert_eq!(status(&response), 200, "{response}");
            }
        })
    };
    let clients: Vec<_> = (0..8).map(|i| client(i % 2 == 0)).collect();
    for client in clients {
        client.await.unwrap();
    }
    stop.cancel();
    churn.await.unwrap();
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_over() {
    let a = Origin::named("a").await;
    let bed = Bed::new(any_listener(), json!([catch_all()]), &[("a", &[refusing(), a.addr])]).await;
    for _ in 0..50 {
        assert_eq!(status(&bed.get("/", "x", "").await), 200);
    }
    assert_eq!(bed.stats.sum(|s| &s.retries), 1, "it was tried again too soon, or never");
}

#[tokio::test]
async fn many_dead_endpoints_fail_no_request_once_they_are_known() {
    let a = Origin::named("a").await;
    let mut addrs = vec![a.addr];
    for _ in 0..8 {
        addrs.push(refusing());
    }
    let bed = Bed::new(any_listener(), json!([catch_all()]), &[("a", &addrs)]).await;
    // Until each of them was tried in vain; with three tries a request may meet only such at first.
    while bed.ejections.now().len() < 8 {
        bed.get("/", "x", "").await;
    }
    let errors = bed.stats.sum(|s| &s.connect_errors);
    for _ in 0..2 {
        // All are to be tried again now, and still dead.
        tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
        for _ in 0..40 {
            assert_eq!(status(&bed.get("/", "x", "").await), 200);
        }
    }
    assert!(bed.stats.sum(|s| &s.connect_errors) > errors, "none was tried again");
}

#[tokio::test]
async fn h97_timeouts_answer_504_and_zero_disables() {
    let slow = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
    })
    .await;
    let at = |path: &str, timeouts: serde_json::Value| {
        json!({"matches": [{"path": {"value": path}}],
        "timeouts": timeouts, "backendRefs": [{"name": "a", "port": 80}]})
    };
    let routes = json!([route(
        "r",
        json!({"rules": [
            at("/request", json!({"request": "100ms"})),
            at("/backend", json!({"backendRequest": "100ms"})),
            at("/off", json!({"request": "0s"})),
            at("/long", json!({"request": "5s", "backendRequest": "4s"})),
        ]})
    )]);
    let bed = Bed::new(any_listener(), routes, &[("a", &[slow.addr])]).await;
    for (path, want) in [("/request", 504), ("/backend", 504), ("/off", 200), ("/long", 200)] {
        assert_eq!(status(&bed.get(path, "x", "").await), want, "{path}");
    }
}

#[tokio::test]
async fn a_local_address_that_is_no_listener_is_closed() {
    let a = Origin::named("a").await;
    let bed = Bed::to(a.addr).await;
    let mut client = Client::connect(([127, 0, 0, 2], bed.addr.port()).into()).await;
    assert_eq!(client.rest().await, "");
    assert_eq!(bed.stats.sum(|s| &s.unclaimed), 1);
}
