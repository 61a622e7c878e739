//! What is read although it need not be, and what becomes of it.
use crate::harness::{Bed, Origin, header, status};

#[tokio::test]
async fn h3_h10_lengths_that_agree_and_white_space_arrive_in_one_form() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for (fields, body, framing) in [
        ("Content-Length: 2\r\nContent-Length: 2\r\n", "ab", "content-length: 2"),
        ("Content-Length: \t2 \r\n", "ab", "content-length: 2"),
        ("Transfer-Encoding: chunked\t\r\n", "2\r\nab\r\n0\r\n\r\n", "transfer-encoding: chunked"),
        ("Transfer-Encoding: \t Chunked\r\n", "2\r\nab\r\n0\r\n\r\n", "transfer-encoding: chunked"),
    ] {
        let response = bed.raw(format!("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n{body}")).await;
        assert_eq!(status(&response), 200, "{fields:?}: {response}");
        let seen = origin.next().await;
        let lines: Vec<&str> =
            seen.lines().filter(|l| l.starts_with("content-length") || l.starts_with("transfer-")).collect();
        assert!(lines == [framing] && seen.contains("ab"), "{fields:?}: {seen}");
    }
}

#[tokio::test]
async fn h15_h16_h18_chunks_arrive_without_their_extensions_and_trailers_are_no_fields() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    let head = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunks in ["2 \r\nab\r\n0\r\n\r\n", "2;evil=\"x\"\r\nab\r\n0\r\n\r\n", "2\r\nab\r\n0\r\nX-Late: evil\r\n\r\n"] {
        assert_eq!(status(&bed.raw(format!("{head}{chunks}")).await), 200, "{chunks:?}");
        let seen = origin.next().await;
        assert!(seen.ends_with("\r\n\r\n2\r\nab\r\n0\r\n\r\n") && !seen.contains("evil"), "{seen}");
        assert_eq!(header(&seen, "x-late"), None);
    }
    let long = format!("{head}2;{}\r\nab\r\n0\r\n\r\n", "x".repeat(16 << 10));
    assert_eq!(status(&bed.raw(long).await), 400);
}

#[tokio::test]
async fn h34_a_fragment_goes_no_further() {
    let mut origin = Origin::named("a").await;
    let bed = Bed::to(origin.addr).await;
    for target in ["/a?b#c", "/a?b#", "/a?b#?<\"c"] {
        assert_eq!(status(&bed.get(target, "x", "").await), 200, "{target}");
        assert!(origin.next().await.starts_with("GET /a?b HTTP/1.1\r\n"), "{target}");
    }
}

#[tokio::test]
async fn h106_hosts_are_compared_without_port_dot_and_case() {
    let origin = Origin::named("a").await;
    let route = serde_json::json!({"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
        "hostnames": ["shop.example", "*.wild.example"], "rules": [{"backendRefs": [{"name": "a", "port": 80}]}]}});
    let bed = Bed::new(crate::harness::any_listener(), serde_json::json!([route]), &[("a", &[origin.addr])]).await;
    for (host, want) in [
        ("shop.example", 200),
        ("SHOP.example:8080", 200),
        ("shop.example.", 200),
        ("a.wild.example", 200),
        ("a.b.WILD.example", 200),
        ("wild.example", 404),
        ("awild.example", 404),
        ("shop.example.evil", 404),
        ("xn--shp-hna.example", 404),
    ] {
        assert_eq!(status(&bed.get("/", host, "").await), want, "{host}");
    }
}
