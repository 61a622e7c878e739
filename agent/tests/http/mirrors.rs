//! Copies of requests: what a mirror gets, and that nothing of it reaches the client (H101).
use serde_json::{Value, json};
use std::time::Duration;

use crate::harness::{Bed, Client, Origin, any_listener, header, status, until};

fn mirror(name: &str) -> Value {
    json!({"type": "RequestMirror", "requestMirror": {"backendRef": {"name": name, "port": 80}}})
}

/// A proxy with one rule that has these filters, to `a`.
async fn bed(filters: Value, backends: &[(&str, &Origin)]) -> Bed {
    let rules = json!([{"filters": filters, "backendRefs": [{"name": "a", "port": 80}]}]);
    let route = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}}]);
    let addrs: Vec<_> = backends.iter().map(|(name, origin)| (*name, [origin.addr])).collect();
    let backends: Vec<_> = addrs.iter().map(|(name, addr)| (*name, &addr[..])).collect();
    Bed::new(any_listener(), route, &backends).await
}

/// A backend that takes connections and says nothing.
async fn silent() -> Origin {
    Origin::start(|client: Client, _| async move {
        std::future::pending::<()>().await;
        drop(client);
    })
    .await
}

fn active(bed: &Bed) -> u64 {
    bed.stats.sum(|stats| &stats.active_mirrors)
}

fn dropped(bed: &Bed) -> u64 {
    bed.stats.sum(|stats| &stats.dropped_mirrors)
}

#[tokio::test]
async fn every_mirror_gets_the_whole_request_and_the_client_one_answer() {
    let (mut a, mut b) = (Origin::named("a").await, Origin::named("b").await);
    let mut c = Origin::answering("HTTP/1.1 500 No\r\nSet-Cookie: c=1\r\nContent-Length: 1\r\n\r\nc", true).await;
    let bed = bed(json!([mirror("b"), mirror("c")]), &[("a", &a), ("b", &b), ("c", &c)]).await;
    for (head, body) in [
        ("POST /x?q=1 HTTP/1.1\r\nHost: h:1\r\nX-A: 1\r\nContent-Length: 3\r\n", "abc"),
        ("PUT /x?q=1 HTTP/1.1\r\nHost: h:1\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        ("GET /x?q=1 HTTP/1.1\r\nHost: h:1\r\nX-A: 1\r\n", ""),
    ] {
        let response = bed.raw(format!("{head}Connection: close\r\n\r\n{body}")).await;
        assert!(status(&response) == 200 && response.ends_with('a') && !response.contains("Cookie"), "{response}");
        let (seen, text) = (a.next().await, body.contains("abc"));
        assert!(!text || seen.contains("abc"));
        for copy in [b.next().await, c.next().await] {
            let fields = |message: &str| {
                let head = message.split("\r\n\r\n").next().unwrap();
                let mut lines: Vec<_> = head.lines().map(str::to_lowercase).collect();
                lines.sort();
                lines
            };
            assert_eq!(fields(&copy), fields(&seen), "the copy is what the backend gets");
            assert_eq!(copy.split("\r\n\r\n").nth(1), seen.split("\r\n\r\n").nth(1));
            assert_eq!(header(&copy, "host"), Some("h:1"));
            assert_eq!(header(&copy, "cdn-loop"), Some("sluice"));
        }
    }
    until("the copies are through", || active(&bed) == 0).await;
    assert_eq!((bed.stats.sum(|stats| &stats.mirrors), dropped(&bed)), (6, 0));
}

#[tokio::test]
async fn a_mirror_gets_what_the_request_was_where_its_filter_stands() {
    let (mut a, mut b, mut c) = (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
    let set =
        json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "X-A", "value": "new"}]}});
    let path = json!({"type": "URLRewrite", "urlRewrite": {"hostname": "inner.example",
        "path": {"type": "ReplaceFullPath", "replaceFullPath": "/new"}}});
    let bed = bed(json!([mirror("b"), set, mirror("c"), path]), &[("a", &a), ("b", &b), ("c", &c)]).await;
    assert_eq!(status(&bed.get("/old", "h", "X-A: old\r\n").await), 200);
    for (origin, value, path, host) in
        [(&mut a, "new", "/new", "inner.example"), (&mut b, "old", "/old", "h"), (&mut c, "new", "/old", "h")]
    {
        let seen = origin.next().await;
        assert_eq!((header(&seen, "x-a"), header(&seen, "host")), (Some(value), Some(host)), "{seen}");
        assert!(seen.starts_with(&format!("GET {path} ")), "{seen}");
    }
}

#[tokio::test]
async fn a_mirror_gets_its_part_of_the_requests() {
    let a = Origin::named("a").await;
    let (mut none, mut half, mut all) = (Origin::named("b").await, Origin::named("c").await, Origin::named("d").await);
    let part = |name: &str, what: Value| {
        let mut filter = mirror(name);
        filter["requestMirror"].as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        filter
    };
    let filters = json!([
        part("none", json!({"percent": 0})),
        part("half", json!({"fraction": {"numerator": 3, "denominator": 6}})),
        part("all", json!({"percent": 100})),
    ]);
    let bed = bed(filters, &[("a", &a), ("none", &none), ("half", &half), ("all", &all)]).await;
    let mut client = bed.connect().await;
    for _ in 0..400 {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&client.response().await), 200);
    }
    until("the copies are through", || active(&bed) == 0).await;
    let count = |origin: &mut Origin| std::iter::from_fn(|| origin.seen.try_recv().ok()).count();
    assert_eq!((count(&mut none), count(&mut all)), (0, 400));
    // 8 standard deviations.
    let half = count(&mut half);
    assert!((120..=280).contains(&half), "{half}");
}

#[tokio::test]
async fn h101_a_mirror_that_says_nothing_takes_nothing_from_anybody() {
    let (mut a, b) = (Origin::named("a").await, silent().await);
    let bed = bed(json!([mirror("b")]), &[("a", &a), ("b", &b)]).await;
    let mut client = bed.connect().await;
    // More than may be on their way: those beyond it are not made.
    for _ in 0..300 {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(status(&client.response().await), 200);
        a.next().await;
    }
    assert_eq!((active(&bed), dropped(&bed)), (256, 44));
}

#[tokio::test]
async fn h101_a_mirror_that_does_not_keep_up_with_a_body_is_cut_and_the_request_is_not() {
    const LENGTH: usize = 8 << 20;
    let (mut a, b) = (Origin::named("a").await, silent().await);
    let bed = bed(json!([mirror("b")]), &[("a", &a), ("b", &b)]).await;
    let mut client = bed.connect().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    client.send(vec![b'x'; LENGTH]).await;
    assert_eq!(status(&client.response().await), 200);
    assert!(a.next().await.ends_with(&"x".repeat(LENGTH)));
    until("the copy is given up", || active(&bed) == 0 && dropped(&bed) == 1).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_never_ends_well_at_a_mirror() {
    let (mut a, mut b) = (Origin::named("a").await, Origin::named("b").await);
    let bed = bed(json!([mirror("b")]), &[("a", &a), ("b", &b)]).await;
    for head in ["Content-Length: 9\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut client = bed.connect().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\n{head}")).await;
        until("the copy is on its way", || active(&bed) == 1).await;
        drop(client);
        for origin in [&mut a, &mut b] {
            let seen = origin.next().await;
            assert!(seen.starts_with("CUT POST / "), "{seen}");
        }
    }
}

#[tokio::test]
async fn a_mirror_that_cannot_be_reached_and_an_upgrade_leave_the_request_alone() {
    let mut a = Origin::named("a").await;
    let rules = json!([{"filters": [mirror("b"), mirror("c")], "backendRefs": [{"name": "a", "port": 80}]}]);
    let route = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": rules}}]);
    let refusing = crate::harness::refusing();
    // `c` has no endpoint.
    let bed = Bed::new(any_listener(), route, &[("a", &[a.addr]), ("b", &[refusing]), ("c", &[])]).await;
    assert_eq!(status(&bed.get("/", "x", "").await), 200);
    a.next().await;
    until("both failed", || dropped(&bed) == 2 && active(&bed) == 0).await;

    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut client = bed.connect().await;
    client.send(upgrade).await;
    assert_eq!(status(&client.response().await), 200);
    assert_eq!(bed.stats.sum(|stats| &stats.mirrors), 2);
    tokio::time::timeout(Duration::from_secs(5), a.seen.recv()).await.unwrap();
}
