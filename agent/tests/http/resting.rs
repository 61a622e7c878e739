//! Connections that have no request for a while, and what must not be lost meanwhile: hyper gets the stream anew with the next byte.
use std::time::Duration;

use serde_json::json;
use sluice::proxy::Settings;
use tokio::io::AsyncReadExt;

use crate::harness::{Bed, Origin, SOON, any_listener, catch_all, status};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
/// Several times as long as a connection is left to hyper, with the settings of [`bed`].
const LONG: Duration = Duration::from_millis(400);

async fn bed(origin: &Origin) -> Bed {
    // An eighth of it is what is waited for; it must not end before a slow machine has asked again.
    let settings = Settings { idle_timeout: Duration::from_millis(800), ..Settings::default() };
    Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await
}

#[tokio::test]
async fn a_connection_that_rested_serves_on() {
    let origin = Origin::named("a").await;
    let settings = Settings { idle_timeout: Duration::from_secs(60), ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut client = bed.connect().await;
    for _ in 0..3 {
        client.send(REQUEST).await;
        assert_eq!(status(&client.response().await), 200);
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    assert_eq!(bed.stats.sum(|s| &s.accepted), 1);
    // The last one closes it, rested or not.
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(client.rest().await.contains("connection: close"));
}

#[tokio::test]
async fn half_a_head_behind_a_request_is_kept_and_has_its_time() {
    let origin = Origin::named("a").await;
    let bed = bed(&origin).await;
    let mut client = bed.connect().await;
    client.send([REQUEST, "GET /second HT"].concat()).await;
    client.response().await;
    tokio::time::sleep(LONG).await;
    client.send("TP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(status(&client.response().await), 200);

    let settings = Settings { header_timeout: Duration::from_millis(200), ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut client = bed.connect().await;
    client.send([REQUEST, "GET /never HT"].concat()).await;
    client.response().await;
    assert_eq!(status(&client.rest().await), 408, "it has no more time than if it had come alone");
}

#[tokio::test]
async fn a_response_that_the_client_has_not_taken_is_not_cut_by_rest() {
    const LENGTH: usize = 16 << 20;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
    let origin = Origin::answering([head.as_bytes(), &vec![b'x'; LENGTH]].concat(), false).await;
    let bed = bed(&origin).await;
    let mut client = bed.connect().await;
    client.send(REQUEST).await;
    let (mut read, mut chunk) = (0, vec![0; 1 << 20]);
    while read < LENGTH {
        // Towards the end what is left is in the proxy's and the kernel's buffers alone.
        if read == 0 || read > LENGTH - (2 << 20) {
            tokio::time::sleep(LONG).await;
        }
        let n = tokio::time::timeout(SOON, client.stream.read(&mut chunk)).await.expect("nothing came").unwrap();
        assert!(n > 0, "cut after {read} of {LENGTH} bytes");
        read += n;
    }
}

#[tokio::test]
async fn a_connection_that_rests_is_closed_in_its_time_and_by_the_drain() {
    let origin = Origin::named("a").await;
    let bed = bed(&origin).await;
    let mut idle = bed.connect().await;
    idle.send(REQUEST).await;
    idle.response().await;
    let began = tokio::time::Instant::now();
    assert_eq!(idle.rest().await, "");
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());

    let settings = Settings { drain: Duration::from_secs(60), ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut rests = bed.connect().await;
    rests.send(REQUEST).await;
    rests.response().await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    bed.cancel.cancel();
    assert_eq!(rests.rest().await, "");
    tokio::time::timeout(SOON, bed.task).await.expect("the drain waits for nobody").unwrap();
}
