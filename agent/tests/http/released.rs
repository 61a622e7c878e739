//! What clients of a Gateway that is deleted, or of a listener that goes, are told.
use std::{sync::Arc, time::Duration};

use serde_json::json;
use sluice::proxy::Settings;
use tokio::sync::Semaphore;

use crate::{
    frames::{get, http2, next_frame},
    harness::{Bed, Client, Origin, any_listener, catch_all, header, status, until},
};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// A backend that says `a` for each permit, without end where the path is `/drip`.
async fn backend(permits: &Arc<Semaphore>) -> Origin {
    let permits = Arc::clone(permits);
    Origin::start(move |mut client: Client, seen| {
        let permits = Arc::clone(&permits);
        async move {
            loop {
                let request = client.until("\r\n\r\n").await;
                let _ = seen.send(request.clone());
                if request.contains("Upgrade") || request.contains("upgrade") {
                    let switch =
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                    client.send(switch).await;
                    std::future::pending::<()>().await;
                }
                if request.starts_with("GET /drip") {
                    client.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n").await;
                    std::future::pending::<()>().await;
                }
                permits.acquire().await.unwrap().forget();
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
            }
        }
    })
    .await
}

async fn bed(origin: &Origin, settings: Settings) -> Bed {
    Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await
}

#[tokio::test]
async fn idle_clients_are_closed_and_the_answer_under_way_is_the_last() {
    let permits = Arc::new(Semaphore::new(1));
    let mut origin = backend(&permits).await;
    let bed = bed(&origin, Settings::default()).await;
    let (mut idle, mut silent, mut busy) = (bed.connect().await, bed.connect().await, bed.connect().await);
    idle.send(GET).await;
    assert_eq!(status(&idle.response().await), 200);
    origin.next().await;
    busy.send(GET).await;
    origin.next().await;
    until("all are there", || bed.stats.sum(|s| &s.active_connections) == 3).await;
    bed.withdraw().await;
    assert_eq!((idle.rest().await, silent.rest().await), (String::new(), String::new()), "they are told at once");
    permits.add_permits(1);
    let last = busy.rest().await;
    assert_eq!((status(&last), header(&last, "connection")), (200, Some("close")), "{last}");
    assert!(last.ends_with('a'));
    assert_eq!(bed.stats.sum(|s| &s.clients_gone), 0, "none of them has gone");
}

#[tokio::test]
async fn http2_clients_get_goaway_and_their_answers() {
    let permits = Arc::new(Semaphore::new(0));
    let mut origin = backend(&permits).await;
    let bed = bed(&origin, Settings::default()).await;
    let mut client = http2(&bed, &[get(1)]).await;
    origin.next().await;
    bed.withdraw().await;
    let goaway = next_frame(&mut client, 7, 0).await;
    assert_eq!(goaway[4..8], [0, 0, 0, 0], "NO_ERROR");
    permits.add_permits(1);
    assert!(next_frame(&mut client, 0, 1).await.ends_with(b"a"));
}

#[tokio::test]
async fn what_does_not_end_is_cut_after_the_drain() {
    let permits = Arc::new(Semaphore::new(0));
    let mut origin = backend(&permits).await;
    let settings = Settings { drain: Duration::from_millis(300), ..Settings::default() };
    let bed = bed(&origin, settings).await;
    let (mut drip, mut tunnel) = (bed.connect().await, bed.connect().await);
    drip.send(GET.replace("/ ", "/drip ")).await;
    origin.next().await;
    assert!(drip.until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    tunnel.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert!(tunnel.until("\r\n\r\n").await.starts_with("HTTP/1.1 101"));
    bed.withdraw().await;
    drip.rest().await;
    tunnel.rest().await;
    until("nothing is left", || bed.stats.sum(|s| &s.active_connections) == 0).await;
    assert_eq!(bed.stats.sum(|s| &s.tunnels), 0);
}

#[tokio::test]
async fn a_change_of_routes_ends_no_connection() {
    let permits = Arc::new(Semaphore::new(2));
    let origin = backend(&permits).await;
    let bed = bed(&origin, Settings::default()).await;
    let mut client = bed.connect().await;
    client.send(GET).await;
    assert_eq!(status(&client.response().await), 200);
    bed.serve(any_listener(), json!([]), &[("a", &[origin.addr])]).await;
    bed.serve(any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    client.send(GET).await;
    let response = client.response().await;
    assert_eq!((status(&response), header(&response, "connection")), (200, None), "{response}");
}
