//! Answers to requests whose body nobody reads, the proxy's own and early ones of backends: the connection goes on, or the
//! answer says that it does not.
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Bed, Client, Origin, any_listener, header, status};

const NEXT: &str = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

/// `/a` leads to a backend, `/away` elsewhere, the rest nowhere.
async fn bed() -> (Bed, Origin) {
    let rule = |path: &str| json!({"matches": [{"path": {"value": path}}]});
    let (mut served, mut away): (Value, Value) = (rule("/a"), rule("/away"));
    served["backendRefs"] = json!([{"name": "a", "port": 80}]);
    away["filters"] = json!([{"type": "RequestRedirect", "requestRedirect": {"hostname": "b.example"}}]);
    let route = json!({"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [served, away]}});
    let origin = Origin::named("a").await;
    (Bed::new(any_listener(), json!([route]), &[("a", &[origin.addr])]).await, origin)
}

async fn goes_on(mut client: Client, response: &str) {
    assert_eq!(header(response, "connection"), None, "{response}");
    client.send(NEXT).await;
    assert!(client.response().await.ends_with('a'));
}

#[tokio::test]
async fn h39_a_small_body_is_read_and_the_connection_goes_on() {
    let (bed, _origin) = bed().await;
    let long = "x".repeat(100_000);
    for (path, want) in [("/nosuch", 404), ("/away", 302)] {
        for framing in [
            format!("Content-Length: 100000\r\n\r\n{long}"),
            format!("Transfer-Encoding: chunked\r\n\r\n186a0\r\n{long}\r\n0\r\n\r\n"),
            "Content-Length: 0\r\n\r\n".to_owned(),
        ] {
            let mut client = bed.connect().await;
            client.send(format!("POST {path} HTTP/1.1\r\nHost: x\r\n{framing}")).await;
            let response = client.response().await;
            assert_eq!(status(&response), want);
            goes_on(client, &response).await;
        }
    }
}

#[tokio::test]
async fn h39_a_large_body_ends_the_connection_and_the_answer_arrives() {
    let (bed, _origin) = bed().await;
    for framing in ["Content-Length: 4000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n3d0900\r\n"] {
        let client = bed.connect().await;
        let (mut read, mut write) = client.stream.into_split();
        let sending = tokio::spawn(async move {
            write.write_all(format!("POST /nosuch HTTP/1.1\r\nHost: x\r\n{framing}").as_bytes()).await?;
            write.write_all(&vec![b'x'; 4_000_000]).await
        });
        // As a client that sends all it has to say before it listens.
        sending.await.unwrap().expect("the connection was reset while the body was sent");
        let mut response = Vec::new();
        tokio::time::timeout(crate::harness::SOON, read.read_to_end(&mut response)).await.unwrap().expect("a reset");
        let response = String::from_utf8(response).unwrap();
        assert_eq!((status(&response), header(&response, "connection")), (404, Some("close")), "{framing:?}");
    }
}

#[tokio::test]
async fn who_asks_whether_to_send_is_told_no_and_that_the_connection_closes() {
    let (bed, _origin) = bed().await;
    let request = "POST /nosuch HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let response = bed.raw(request).await;
    assert_eq!((status(&response), header(&response, "connection")), (404, Some("close")), "{response}");
    assert!(!response.contains("100 Continue"));
}

#[tokio::test]
async fn an_http_1_0_client_is_told_that_the_connection_closes_and_nothing_else() {
    let (bed, _origin) = bed().await;
    let head = "POST /nosuch HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 4000000\r\n\r\n";
    let response = bed.raw(head).await;
    assert_eq!((status(&response), header(&response, "connection")), (404, Some("close")), "{response}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (bed, _origin) = bed().await;
    let response = bed.raw("POST /nosuch HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await;
    assert_eq!((status(&response), header(&response, "connection")), (404, Some("close")), "{response}");
}

/// What comes of a POST of which half the body is sent, when the backend answers after the head.
async fn early(response: &'static str, version: &str) -> (Client, String) {
    let origin = Origin::start(move |mut client: Client, _| async move {
        client.until("half").await;
        client.send(response).await;
        let _ = client.rest().await;
    })
    .await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    client
        .send(format!("POST / HTTP/{version}\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 8\r\n\r\nhalf"))
        .await;
    let response = client.response().await;
    (client, response)
}

#[tokio::test]
async fn h89_a_backend_that_answers_early_ends_the_connection_and_the_answer_says_so() {
    for (head, version, want) in [
        ("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno", "1.1", 413),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", "1.0", 401),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 2\r\n\r\nno", "1.1", 302),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "1.1", 200),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "1.1", 200),
    ] {
        let (mut client, response) = early(head, version).await;
        assert_eq!((status(&response), header(&response, "connection")), (want, Some("close")), "{response}");
        // What the client had under way does not make it lose the answer, and the connection ends.
        client.send("more").await;
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn h89_a_backend_that_reads_on_leaves_the_connection_open() {
    let origin = Origin::start(|mut client: Client, _| async move {
        loop {
            client.until("half").await;
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nup").await;
            client.until("more").await;
            client.send("to").await;
        }
    })
    .await;
    let bed = Bed::to(origin.addr).await;
    let mut client = bed.connect().await;
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf").await;
        let head = client.until("up").await;
        assert_eq!((status(&head), header(&head, "connection")), (200, None), "{head}");
        client.send("more").await;
        client.until("to").await;
    }
}
