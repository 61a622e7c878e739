//! `retry` of a rule: how often an endpoint is asked, after what, and when not.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sluice::proxy::Settings;
use tokio::time::Instant;

use crate::{
    harness::{Bed, Client, Origin, any_listener, header, refusing, status, until},
    http2_origin::{END_HEADERS, END_STREAM, Frames, HEADERS, OK, RST_STREAM, frames},
};

fn route(service: &str, rule: Value) -> Value {
    let mut whole = json!({"backendRefs": [{"name": service, "port": 80}]});
    whole.as_object_mut().unwrap().extend(rule.as_object().unwrap().clone());
    json!([{"metadata": {"name": "all"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [whole]}}])
}

async fn bed(backends: &[SocketAddr], rule: Value) -> Bed {
    Bed::new(any_listener(), route("a", rule), &[("a", backends)]).await
}

/// Answers with these one after the other, the last for ever; with them how often it was asked.
pub(crate) async fn sequence(answers: &'static [&'static str]) -> (Origin, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let origin = Origin::start(move |mut client: Client, seen| {
        let count = Arc::clone(&count);
        async move {
            loop {
                let message = client.message().await;
                let Some(message) = message else { return };
                let _ = seen.send(message);
                let answer = answers[count.fetch_add(1, Relaxed).min(answers.len() - 1)];
                client.send(format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nxy")).await;
            }
        }
    })
    .await;
    (origin, asked)
}

#[tokio::test]
async fn a_listed_status_is_followed_by_so_many_tries() {
    const TWICE: &[&str] = &["500 No", "500 No", "200 OK"];
    const ALWAYS: &[&str] = &["500 No"];
    for (answers, rule, want) in [
        (TWICE, json!({"attempts": 3, "codes": [500], "backoff": "1ms"}), (200, 3)),
        (TWICE, json!({"attempts": 1, "codes": [500], "backoff": "1ms"}), (500, 2)),
        (ALWAYS, json!({"attempts": 3, "codes": [500], "backoff": "1ms"}), (500, 4)),
        (ALWAYS, json!({"codes": [500]}), (500, 2)),
        (ALWAYS, json!({"attempts": 3, "codes": [503]}), (500, 1)),
        (ALWAYS, json!({"attempts": 0, "codes": [500]}), (500, 1)),
        (ALWAYS, json!({}), (500, 1)),
        (&["502 No", "503 No", "504 No", "200 OK"], json!({"attempts": 3, "codes": [500, 502, 503, 504]}), (200, 4)),
    ] {
        let (origin, asked) = sequence(answers).await;
        let bed = bed(&[origin.addr], json!({"retry": rule})).await;
        let response = bed.get("/", "a", "").await;
        assert_eq!((status(&response), asked.load(Relaxed)), want, "{rule} {response}");
        assert_eq!(bed.stats.sum(|s| &s.retries), want.1 as u64 - 1);
        assert!(response.ends_with("xy"), "the backend's own answer");
    }
}

#[tokio::test]
async fn h91_a_body_is_sent_again_up_to_a_bound() {
    for (size, chunked, want) in [(10_000, false, (200, 2)), (10_000, true, (200, 2)), (100_000, false, (503, 1))] {
        let (mut origin, asked) = sequence(&["503 No", "200 OK"]).await;
        let rule = json!({"retry": {"codes": [503], "backoff": "1ms"}});
        let bed = bed(&[origin.addr], rule).await;
        let body: String = (0..size).map(|i| char::from(b'a' + u8::try_from(i % 26).unwrap())).collect();
        let (field, sent) = if chunked {
            ("Transfer-Encoding: chunked".to_owned(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
        } else {
            (format!("Content-Length: {size}"), body.clone())
        };
        let response =
            bed.raw(format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\n\r\n{sent}")).await;
        assert_eq!((status(&response), asked.load(Relaxed)), want, "{size} {chunked}");
        let first = origin.next().await;
        let whole = first.replace("\r\n", "");
        assert!(whole.contains(&body[..size.min(1000)]) && whole.len() > size);
        if want.1 == 2 {
            let second = origin.next().await;
            let payload = |message: &str| {
                let (_, body) = message.split_once("\r\n\r\n").unwrap();
                body.chars().filter(char::is_ascii_lowercase).collect::<String>()
            };
            assert!(payload(&second).contains(&body[26..500]) && payload(&second).len() >= size);
        }
    }
}

#[tokio::test]
async fn an_endpoint_is_not_asked_twice_while_another_is_left() {
    let ((a, asked_a), (b, asked_b)) = (sequence(&["503 No"]).await, sequence(&["503 No"]).await);
    let bed = bed(&[a.addr, b.addr], json!({"retry": {"attempts": 3, "codes": [503], "backoff": "1ms"}})).await;
    for n in 1..=5 {
        assert_eq!(status(&bed.get("/", "a", "").await), 503);
        assert_eq!((asked_a.load(Relaxed), asked_b.load(Relaxed)), (2 * n, 2 * n), "two turns each");
    }
}

#[tokio::test]
async fn a_connection_that_is_refused_is_tried_elsewhere_and_attempts_bound_it() {
    let (origin, asked) = sequence(&["200 OK"]).await;
    let bed = bed(&[refusing(), origin.addr], json!({"retry": {"attempts": 100}})).await;
    for n in 1..=10 {
        assert_eq!(status(&bed.get("/", "a", "").await), 200);
        assert_eq!(asked.load(Relaxed), n);
    }
    for (attempts, want) in [(0, 1), (2, 3)] {
        let dead = [refusing()];
        let bed = self::bed(&dead, json!({"retry": {"attempts": attempts, "backoff": "1ms"}})).await;
        assert_eq!(status(&bed.get("/", "a", "").await), 503);
        assert_eq!(bed.stats.sum(|s| &s.connect_errors), want, "{attempts}");
    }
}

#[tokio::test]
async fn h97_the_requests_time_ends_all_tries_at_once() {
    let (origin, asked) = sequence(&["503 No"]).await;
    let rule =
        json!({"timeouts": {"request": "250ms"}, "retry": {"attempts": 1000, "codes": [503], "backoff": "100ms"}});
    let bed = bed(&[origin.addr], rule).await;
    let begun = Instant::now();
    assert_eq!(status(&bed.get("/", "a", "").await), 504);
    assert!(begun.elapsed() >= Duration::from_millis(250));
    let tries = asked.load(Relaxed);
    assert!((1..=3).contains(&tries), "{tries} tries with pauses of 100 ms at least");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(asked.load(Relaxed), tries, "none after it");
}

#[tokio::test]
async fn h97_a_try_that_takes_too_long_is_cancelled_and_followed_by_another() {
    for (method, codes, want) in [("GET", json!([]), 200), ("POST", json!([504]), 200), ("POST", json!([500]), 504)] {
        let (asked, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, gone) = (Arc::clone(&asked), Arc::clone(&cut));
        let origin = Origin::start(move |mut client: Client, _| {
            let (count, gone) = (Arc::clone(&count), Arc::clone(&gone));
            async move {
                let Some(_) = client.message().await else { return };
                if count.fetch_add(1, Relaxed) > 0 {
                    client.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                }
                assert!(client.message().await.is_none());
                gone.fetch_add(1, Relaxed);
            }
        })
        .await;
        let rule = json!({"timeouts": {"backendRequest": "100ms"}, "retry": {"codes": codes, "backoff": "1ms"}});
        let bed = bed(&[origin.addr], rule).await;
        let response =
            bed.raw(format!("{method} / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(status(&response), want, "{method}");
        assert_eq!(asked.load(Relaxed), if want == 200 { 2 } else { 1 });
        until("the try is cancelled", || cut.load(Relaxed) >= 1).await;
    }
}

#[tokio::test]
async fn h96_retry_after_is_waited_for_where_it_is_short() {
    const SHORT: &[&str] = &["503 No\r\nRetry-After: 1", "200 OK"];
    const LONG: &[&str] = &["503 No\r\nRetry-After: 3600", "200 OK"];
    for (answers, want) in [(SHORT, (200, 2)), (LONG, (503, 1))] {
        let (origin, asked) = sequence(answers).await;
        let bed = bed(&[origin.addr], json!({"retry": {"codes": [503], "backoff": "1ms"}})).await;
        let begun = Instant::now();
        let response = bed.get("/", "a", "").await;
        assert_eq!((status(&response), asked.load(Relaxed)), want);
        if want.1 == 2 {
            assert!(begun.elapsed() >= Duration::from_secs(1));
        } else {
            assert_eq!(header(&response, "retry-after"), Some("3600"), "it is the client's to wait");
        }
    }
}

#[tokio::test]
async fn a_bare_retry_repeats_what_was_refused_and_attempts_0_does_not() {
    for (rule, want) in [(json!({"retry": {}}), (200, 2)), (json!({"retry": {"attempts": 0}}), (503, 1))] {
        let (addr, connections) = frames(move |number, mut peer: Frames| async move {
            while let Some((_, stream, _)) = peer.next(HEADERS).await {
                match number {
                    0 => peer.send(RST_STREAM, 0, stream, &[0, 0, 0, 7]).await,
                    _ => peer.send(HEADERS, END_HEADERS | END_STREAM, stream, OK).await,
                }
            }
        })
        .await;
        let bed = Bed::new(any_listener(), route("h2c", rule.clone()), &[("h2c", &[addr])]).await;
        let response = bed.get("/", "a", "").await;
        assert_eq!((status(&response), connections.load(Relaxed)), want, "{rule} {response}");
    }
}

#[tokio::test]
async fn a_policy_bounds_the_retries_of_a_backend_over_routes_and_workers() {
    let (origin, asked) = sequence(&["500 No"]).await;
    let rule = |path: &str| {
        json!({"matches": [{"path": {"value": path}}], "retry": {"codes": [500], "backoff": "1ms"},
            "backendRefs": [{"name": "a", "port": 80}]})
    };
    let route = |name: &str, path: &str| json!({"metadata": {"name": name}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [rule(path)]}});
    let routes = json!([route("x", "/x"), route("y", "/y")]);
    let policy = json!([{"kind": "XBackendTrafficPolicy", "metadata": {"name": "p"}, "spec": {
        "targetRefs": [{"group": "", "kind": "Service", "name": "a"}],
        "retryConstraint": {"budget": {"percent": 20, "interval": "1h"}, "minRetryRate": {"count": 2, "interval": "1h"}}}}]);
    let backends: &[(&str, &[SocketAddr])] = &[("a", &[origin.addr])];
    let bed = Bed::secured(2, Settings::default(), policy, any_listener(), routes.clone(), backends).await;
    // Two in any case; then a fifth of the requests, which the third is at the fifteenth.
    for request in 1..=15 {
        let before = asked.load(Relaxed);
        let response = bed.get(if request % 2 == 0 { "/x" } else { "/y" }, "a", "").await;
        let tries = asked.load(Relaxed) - before;
        let want = if [1, 2, 15].contains(&request) { (500, 2) } else { (503, 1) };
        assert_eq!((status(&response), tries), want, "{request} {response}");
        assert_eq!(response.contains("the backend's budget of retries is used up"), want.0 == 503, "{response}");
    }
    // Endpoints that change begin no new budget.
    let other = sequence(&["500 No"]).await.0;
    bed.serve(any_listener(), routes, &[("a", &[origin.addr, other.addr])]).await;
    assert_eq!(status(&bed.get("/x", "a", "").await), 503);
}
