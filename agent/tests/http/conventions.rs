//! What Envoy, nginx and HAProxy have in common, beyond what the standards ask for.
use std::time::Duration;

use serde_json::json;
use sluice::proxy::Settings;

use crate::harness::{Bed, Client, Origin, any_listener, catch_all, header, status};

#[tokio::test]
async fn response_filters_apply_to_a_switch_of_protocols() {
    let origin = Origin::answering(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nServer: x\r\n\r\n",
        false,
    )
    .await;
    let mut route = catch_all();
    route["spec"]["rules"][0]["filters"] = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {
        "set": [{"name": "X-Set", "value": "1"}], "remove": ["server"]}}]);
    let bed = Bed::new(any_listener(), json!([route]), &[("a", &[origin.addr])]).await;
    let mut client = bed.connect().await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    let head = client.until("\r\n\r\n").await;
    assert_eq!((status(&head), header(&head, "x-set"), header(&head, "server")), (101, Some("1"), None), "{head}");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
}

/// Whatever a backend says before its answer, the answer comes, alone and whole, and the connections stay usable. Relaying it is what
/// hyper's server has no way for.
#[tokio::test]
async fn h81_what_comes_before_an_answer_is_dropped_and_the_answer_comes() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    let processing = "HTTP/1.1 102 Processing\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut origin = Origin::answering([processing, early, early, answer].concat(), false).await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let response = client.response().await;
        assert!(response.starts_with("HTTP/1.1 200 ") && response.ends_with("\r\n\r\nok"), "{response}");
        assert_eq!(header(&response, "link"), None, "{response}");
        origin.next().await;
    }
    assert_eq!(bed.stats.sum(|s| &s.upstream_connects), 1);
}

#[tokio::test]
async fn h84_a_304_keeps_its_length_and_its_connection() {
    let response = "HTTP/1.1 304 Not Modified\r\nContent-Length: 12345\r\nETag: x\r\n\r\n";
    let mut origin = Origin::answering(response, false).await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    for method in ["GET", "HEAD", "GET"] {
        client.send(format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        let head = client.until("\r\n\r\n").await;
        assert_eq!((status(&head), header(&head, "content-length")), (304, Some("12345")), "{method}: {head}");
        assert!(head.ends_with("\r\n\r\n"), "{head}");
        origin.next().await;
    }
}

/// A chunked request, to the end of its trailers.
async fn request(client: &mut Client) -> String {
    let mut all = String::new();
    while !all.split("\r\n0\r\n").nth(1).is_some_and(|trailers| trailers.ends_with("\r\n")) {
        all += &client.until("\r\n").await;
    }
    all
}

/// What the backend and the client get of each other's trailers, where the client's head has these lines.
async fn trailers(lines: &str) -> (String, String) {
    let mut origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(request(&mut client).await);
        client
            .send("HTTP/1.1 200 OK\r\nConnection: close\r\nTrailer: X-Out, Host\r\nTransfer-Encoding: chunked\r\n\r\n")
            .await;
        client.send("2\r\nok\r\n0\r\nX-Out: 2\r\nHost: evil\r\nX-Undeclared: 3\r\n\r\n").await;
    })
    .await;
    let bed = Bed::to(origin.addr).await;
    let head =
        format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-In, Host\r\n{lines}\r\n");
    let response = bed.raw(format!("{head}2\r\nhi\r\n0\r\nX-In: 1\r\nHost: evil\r\nX-Else: 4\r\n\r\n")).await;
    (origin.next().await, response)
}

#[tokio::test]
async fn trailers_cross_http1_where_they_are_taken_declared_or_not() {
    let (request, response) = trailers("Connection: close, TE\r\nTE: trailers\r\n").await;
    assert_eq!((header(&request, "te"), header(&request, "connection")), (Some("trailers"), Some("te")), "{request}");
    assert_eq!(header(&request, "trailer"), Some("x-in"));
    assert!(request.ends_with("\r\n0\r\nx-in: 1\r\nx-else: 4\r\n\r\n") && !request.contains("evil"), "{request}");
    assert_eq!(header(&response, "trailer"), Some("x-out"));
    assert!(response.ends_with("\r\n0\r\nx-out: 2\r\nx-undeclared: 3\r\n\r\n"), "{response}");

    let (request, response) = trailers("Connection: close\r\n").await;
    assert!(!request.contains("x-in") && header(&request, "te").is_none(), "{request}");
    assert!(!response.contains("x-out"), "{response}");
}

#[tokio::test]
async fn undeclared_trailers_leave_the_connections_as_they_are() {
    let trailing = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-T: 1\r\n\r\n";
    let mut origin = Origin::start(move |mut client: Client, seen| async move {
        loop {
            let _ = seen.send(request(&mut client).await);
            client.send(trailing).await;
        }
    })
    .await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    let post = "POST / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n";
    // Pipelined, with bodies and without, trailers that are all forbidden among them.
    let bodies = ["1\r\nb\r\n0\r\nX-In: 2\r\n\r\n", "0\r\nX-In: 2\r\n\r\n", "1\r\nb\r\n0\r\nHost: evil\r\n\r\n"];
    client.send(bodies.map(|body| format!("{post}{body}")).concat()).await;
    for body in bodies {
        let response = client.until("\r\nx-t: 1\r\n\r\n").await;
        assert!(status(&response) == 200 && response.ends_with("\r\n\r\n1\r\na\r\n0\r\nx-t: 1\r\n\r\n"), "{response}");
        let seen = origin.next().await;
        let want = body.replace("X-In", "x-in").replace("Host: evil\r\n", "");
        assert!(seen.ends_with(&format!("\r\n\r\n{want}")), "{seen}");
    }
    assert_eq!(origin.connections.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn responses_may_have_more_fields_than_requests() {
    for (count, want) in [(200, 200), (300, 502)] {
        let fields: String = (0..count).map(|i| format!("X-{i}: 1\r\n")).collect();
        let origin = Origin::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{fields}\r\n"), false).await;
        let bed = Bed::to(origin.addr).await;
        let response = bed.get("/", "x", "").await;
        assert_eq!(status(&response), want, "{count}");
        assert_eq!(response.matches("\r\nx-").count(), if want == 200 { 200 } else { 1 }, "{response}");
    }
}

#[tokio::test]
async fn utf_8_in_a_query_arrives_escaped() {
    let mut origin = Origin::named("a").await;
    let mut route = catch_all();
    route["spec"]["rules"][0]["matches"] = json!([{"queryParams": [{"name": "q", "value": "é"}]}]);
    let bed = Bed::new(any_listener(), json!([route]), &[("a", &[origin.addr])]).await;
    assert_eq!(status(&bed.get("/?q=é&r={|}", "x", "").await), 200);
    assert!(origin.next().await.starts_with("GET /?q=%C3%A9&r={|} HTTP/1.1\r\n"));
    // What else RFC 3986 does not allow arrives as it is.
    let odd = "GET /?q=%C3%A9&r=|{}[]\\^`'!;*~ HTTP/1.1\r\n";
    assert_eq!(status(&bed.get(odd.split(' ').nth(1).unwrap(), "x", "").await), 200);
    assert!(origin.next().await.starts_with(odd));
}

#[tokio::test]
async fn raw_angle_brackets_and_quotes_in_a_target_arrive_escaped() {
    let mut origin = Origin::named("a").await;
    let mut route = catch_all();
    route["spec"]["rules"][0]["matches"] =
        json!([{"path": {"value": "/%3C%3E%60"}, "queryParams": [{"name": "q", "value": "<a href=\"b\">"}]}]);
    let bed = Bed::new(any_listener(), json!([route]), &[("a", &[origin.addr])]).await;
    let mut client = bed.connect().await;
    let target = "/<>`?q=<a%20href=\"b\">";
    let escaped = "/%3C%3E%60?q=%3Ca%20href=%22b%22%3E";
    // At the beginning of a connection, between messages, behind bodies, and pipelined.
    for framing in
        ["\r\n", "Content-Length: 3\r\n\r\n<?\"", "Transfer-Encoding: chunked\r\n\r\n3;<\r\n<?\"\r\n0\r\n\r\n"]
    {
        let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\n{framing}");
        client.send([&request[..], &request].concat()).await;
        for _ in 0..2 {
            assert_eq!(status(&client.response().await), 200, "{framing:?}");
            let seen = origin.next().await;
            assert!(seen.starts_with(&format!("POST {escaped} HTTP/1.1\r\n")), "{seen}");
            assert_eq!(seen.matches("<?\"").count(), usize::from(framing.len() > 2), "{seen}");
        }
    }
    // Byte by byte.
    for byte in format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").bytes() {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&client.response().await), 200);
    // A target with an authority is not repaired (RFC 9112 part 3.2), nor one with many of them.
    for target in ["http://x/<".to_owned(), format!("/{}", "<".repeat(1025))] {
        assert_eq!(status(&bed.get(&target, "x", "").await), 400);
    }
}

#[tokio::test]
async fn http_1_0_without_host_reaches_routes_without_host_names() {
    let (mut a, b) = (Origin::named("a").await, Origin::named("b").await);
    let named = json!({"metadata": {"name": "named"}, "spec": {"parentRefs": [{"name": "gw"}],
        "hostnames": ["*.example.com"], "rules": [{"backendRefs": [{"name": "b", "port": 80}]}]}});
    let bed = Bed::new(any_listener(), json!([named, catch_all()]), &[("a", &[a.addr]), ("b", &[b.addr])]).await;
    let response = bed.raw("GET / HTTP/1.0\r\n\r\n").await;
    assert!(status(&response) == 200 && response.ends_with('a'), "{response}");
    let seen = a.next().await;
    assert_eq!(header(&seen, "host"), Some(bed.addr.to_string().as_str()), "{seen}");
    let bed = Bed::new(any_listener(), json!([named]), &[("b", &[b.addr])]).await;
    assert_eq!(status(&bed.raw("GET / HTTP/1.0\r\n\r\n").await), 404);
}

#[tokio::test]
async fn a_request_body_may_rest_while_the_response_flows() {
    let origin = Origin::start(|mut client: Client, _| async move {
        client.until("hi").await;
        client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        // Four times as long as a body may rest alone.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            client.send("4\r\ntick\r\n").await;
        }
        client.send("4\r\ndone\r\n").await;
        client.until("bye").await;
        client.send("4\r\nend!\r\n0\r\n\r\n").await;
        let _ = client.rest().await;
    })
    .await;
    let settings = Settings { body_timeout: Duration::from_millis(300), ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut client = bed.connect().await;
    client
        .send("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        .await;
    client.until("done").await;
    client.send("3\r\nbye\r\n0\r\n\r\n").await;
    let rest = client.rest().await;
    assert!(rest.contains("end!") && rest.ends_with("0\r\n\r\n"), "{rest}");
}

/// A frame of HTTP/2 on stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
}

#[tokio::test]
async fn h57_pseudo_headers_in_trailers_do_not_cross() {
    let mut origin = Origin::start(|mut client: Client, seen| async move {
        let _ = seen.send(request(&mut client).await);
    })
    .await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // POST, http, `/`, and `:authority` and `te` as literals.
    client.send(frame(1, 4, b"\x83\x86\x84\x41\x01x\x00\x02te\x08trailers\x00\x07trailer\x03x-t")).await;
    client.send(frame(0, 0, b"hi")).await;
    client.send(frame(1, 5, b"\x04\x05/evil\x00\x03x-t\x011")).await;
    let seen = origin.next().await;
    assert!(seen.contains("hi") && seen.contains("x-t: 1") && !seen.contains("evil"), "{seen}");
}
