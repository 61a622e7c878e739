//! What a request may look like.
use serde_json::json;

use crate::harness::{Bed, Client, Origin, any_listener, catch_all, header, limited, status};

/// Sends each request to a fresh connection; the status must be `want` and the backend must see nothing.
async fn refused(want: u16, requests: &[&str]) {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for request in requests {
        let response = bed.raw(request).await;
        assert_eq!(status(&response), want, "{request:?}: {response}");
        assert!(origin.untouched(), "{request:?} reached the backend");
    }
}

#[tokio::test]
async fn h1_content_length_beside_chunked_is_refused() {
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let with = |before: &str, fields: &str| format!("{before}POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n{smuggled}");
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let turned = "transfer-encoding: chunked\r\ncontent-length: 43\r\n";
    refused(400, &[&with("", both), &with("", turned), &with("\r\n", both)]).await;
    // Behind whatever else the connection had.
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for before in [
        "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\nX: 1\r\n\r\n",
        "GET /1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET /1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let response = bed.raw(with(before, both)).await;
        let found: Vec<u16> = response.split("HTTP/1.1 ").skip(1).map(|r| r[..3].parse().unwrap()).collect();
        assert_eq!(found, [200, 400], "{before:?}: {response}");
        assert!(origin.next().await.contains(" /1 "));
        assert!(origin.untouched(), "{before:?}");
    }
}

#[tokio::test]
async fn h1_content_length_beside_chunked_does_not_count_where_that_is_allowed() {
    let mut origin = Origin::named("a").await;
    let listeners = limited(any_listener(), &[("length-beside-chunked", "ignore")]);
    let bed = Bed::new(listeners, json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let response = bed
        .raw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!((response.matches("HTTP/1.1 ").count(), status(&response)), (1, 200), "{response}");
    assert_eq!(header(&origin.next().await, "content-length"), None);
    assert!(origin.untouched(), "smuggled");
}

#[tokio::test]
async fn h2_to_h6_bad_lengths_and_codings() {
    refused(
        400,
        &[
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 2\r\n\r\nab",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\nab",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x2\r\n\r\nab",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn h7_h8_h11_h12_bad_fields() {
    refused(
        400,
        &[
            "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
            "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\r\n 2\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nX-A: 1\rX-B: 2\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn h9_codings_before_chunked() {
    refused(
        400,
        &[
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn h13_bare_line_feeds_do_not_survive() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let response = bed.raw("GET / HTTP/1.1\nHost: x\nConnection: close\n\n").await;
    if status(&response) == 200 {
        let request = origin.next().await;
        assert_eq!(request.matches('\n').count(), request.matches("\r\n").count(), "{request:?}");
    }
}

#[tokio::test]
async fn h14_broken_chunks_never_end_cleanly_upstream() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for chunks in [
        "2\nab\r\n0\r\n\r\n",
        "2;x\nab\r\n0\r\n\r\n",
        "0x2\r\nab\r\n0\r\n\r\n",
        "2\r\nabX\r\n0\r\n\r\n",
        "fffffffffffffffff\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
        let response = bed.raw(&request).await;
        assert_eq!(status(&response), 400, "{chunks:?}: {response}");
        while let Ok(seen) = origin.seen.try_recv() {
            assert!(seen.starts_with("CUT "), "{chunks:?} became {seen:?}");
        }
    }
}

#[tokio::test]
async fn h17_forbidden_trailers_do_not_pass() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let request = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTrailer: Authorization\r\nTransfer-Encoding: chunked\r\n\r\n\
        2\r\nab\r\n0\r\nAuthorization: root\r\nHost: evil\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(status(&bed.raw(request).await), 200);
    let seen = origin.next().await;
    assert!(!seen.contains("root") && !seen.contains("evil"), "{seen}");
}

#[tokio::test]
async fn h19_h20_h21_h22_one_good_host() {
    refused(
        400,
        &[
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b@c/d\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a:port\r\n\r\n",
            "GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn h23_the_absolute_target_is_the_host() {
    let (mut a, mut b) = (Origin::named("a").await, Origin::named("b").await);
    let to = |host: &str, name: &str| {
        json!({"metadata": {"name": name}, "spec": {"parentRefs": [{"name": "gw"}],
        "hostnames": [host], "rules": [{"backendRefs": [{"name": name, "port": 80}]}]}})
    };
    let routes = json!([to("a.example", "a"), to("b.example", "b")]);
    let bed = Bed::new(any_listener(), routes, &[("a", &[a.addr]), ("b", &[b.addr])]).await;
    let response = bed.raw("GET http://a.example/x?y HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n").await;
    assert!(response.ends_with('a'), "{response}");
    let seen = a.next().await;
    assert!(seen.starts_with("GET /x?y HTTP/1.1\r\n"), "{seen}");
    assert_eq!(header(&seen, "host"), Some("a.example"));
    assert_eq!(seen.to_lowercase().matches("\r\nhost:").count(), 1);
    assert!(b.untouched());
}

#[tokio::test]
async fn h24_h25_targets_that_are_none() {
    refused(
        400,
        &[
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn h26_h27_connect_and_trace() {
    refused(405, &["CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"]).await;
}

#[tokio::test]
async fn h28_other_methods_pass_as_they_are() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for method in ["get", "PURGE", "PROPFIND", "DELETE"] {
        assert_eq!(status(&bed.raw(format!("{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await), 200);
        assert!(origin.next().await.starts_with(&format!("{method} / HTTP/1.1\r\n")));
    }
}

#[tokio::test]
async fn h29_h30_h32_h42_not_http() {
    refused(
        400,
        &[
            "GET /  HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/9.9\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n",
            "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n",
        ],
    )
    .await;
}

#[tokio::test]
async fn h31_h38_leading_lines_and_pipelines() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let response =
        bed.raw("\r\nGET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(response.matches("HTTP/1.1 200 OK").count(), 2, "{response}");
}

#[tokio::test]
async fn h35_h36_h37_heads_have_limits() {
    let many: String = (0..101).map(|i| format!("X-{i}: 1\r\n")).collect();
    let long = "a".repeat(100 << 10);
    refused(
        431,
        &[
            &format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"),
            &format!("GET / HTTP/1.1\r\nHost: x\r\nX-A: {long}\r\n\r\n"),
        ],
    )
    .await;
    let response = {
        let origin = Origin::named("a").await;
        let bed = Bed::to(origin.addr).await;
        bed.raw(format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n")).await
    };
    assert!(matches!(status(&response), 414 | 431), "{response}");
}

#[tokio::test]
async fn lists_of_the_connection_have_limits() {
    let tokens = "a,".repeat(20_000);
    for field in ["Connection", "TE", "Upgrade", "Trailer"] {
        refused(431, &[&format!("GET / HTTP/1.1\r\nHost: x\r\n{field}: {tokens}\r\n\r\n")]).await;
        let members = "a,".repeat(32);
        refused(431, &[&format!("GET / HTTP/1.1\r\nHost: x\r\n{field}: {members}\r\n\r\n")]).await;
    }
    refused(400, &[&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a.".repeat(20_000))]).await;
}

#[tokio::test]
async fn queries_have_limits() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let most = vec!["a"; 4096].join("&");
    for (query, want) in [
        (most.clone(), 200),
        (format!("{most}&"), 400),
        ("\u{e9}".repeat(10_000), 200),
        // 65,534 bytes at most, what is before it included.
        ("\u{e9}".repeat(11_000), 414),
    ] {
        let response = bed.get(&format!("/?{query}"), "x", "").await;
        assert_eq!(status(&response), want, "{response}");
        if want == 200 {
            let head = format!("GET /?{} HTTP/1.1\r\n", query.replace('\u{e9}', "%C3%A9"));
            assert!(origin.next().await.starts_with(&head));
        }
    }
}

#[tokio::test]
async fn a_long_path_is_routed() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for path in ["/".repeat(60_000), "/a".repeat(30_000), format!("/{}", "%2f".repeat(20_000))] {
        assert_eq!(status(&bed.get(&path, "x", "").await), 200);
        assert!(origin.next().await.starts_with(&format!("GET {} HTTP/1.1\r\n", path.replace("%2f", "%2F"))));
    }
}

#[tokio::test]
async fn h40_a_body_that_breaks_off_never_ends_cleanly_upstream() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for framing in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut client = bed.connect().await;
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\n{framing}")).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        drop(client);
        let seen = origin.next().await;
        assert!(seen.starts_with("CUT POST"), "{seen:?}");
    }
}

#[tokio::test]
async fn h41_a_client_may_close_its_side_and_still_gets_the_response() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.stream).await.unwrap();
    assert!(client.rest().await.ends_with('a'));
}

#[tokio::test]
async fn h43_expectations() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").await;
    client.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("ok").await;
    assert_eq!(status(&client.response().await), 200);
    let seen = origin.next().await;
    assert_eq!(header(&seen, "expect"), None);
    assert!(seen.ends_with("\r\n\r\nok"));
    let response = bed.get("/", "x", "Expect: a-miracle\r\n").await;
    assert_eq!(status(&response), 417);
    assert!(origin.untouched());
}

#[tokio::test]
async fn h107_paths_are_normal_before_they_are_routed() {
    let (mut a, mut b) = (Origin::named("a").await, Origin::named("b").await);
    let mut all = catch_all();
    let admin = json!({"matches": [{"path": {"value": "/admin"}}], "backendRefs": [{"name": "b", "port": 80}]});
    all["spec"]["rules"].as_array_mut().unwrap().push(admin);
    let bed = Bed::new(any_listener(), json!([all]), &[("a", &[a.addr]), ("b", &[b.addr])]).await;
    for path in ["/x/../admin/y", "/%61dmin/y", "/./admin/y", "/x/%2e%2e/admin/y"] {
        assert!(bed.get(path, "x", "").await.ends_with('b'), "{path}");
        assert!(b.next().await.starts_with("GET /admin/y HTTP/1.1\r\n"), "{path}");
    }
    for path in ["/%zz", "/a%00", "/a\\..\\admin", "/..%2fadmin", "/..;/admin"] {
        let response = bed.get(path, "x", "").await;
        assert_eq!(status(&response), 400, "{path}: {response}");
    }
    assert!(a.untouched() && b.untouched());
    assert!(bed.get("/%252e%252e/admin", "x", "").await.ends_with('a'));
    assert!(a.next().await.starts_with("GET /%252e%252e/admin HTTP/1.1\r\n"), "H108");
}

#[tokio::test]
async fn refusals_close_the_connection() {
    let origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let mut client = Client::connect(bed.addr).await;
    client.send("GET /%00 HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let response = client.rest().await;
    assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
    assert_eq!(header(&response, "connection"), Some("close"));
}
