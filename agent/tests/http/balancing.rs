//! Which endpoint gets a request: those that fail are passed over, whichever route or worker has seen it.
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use sluice::proxy::Settings;
use tokio::time::Instant;

use crate::harness::{Bed, Client, Origin, any_listener, refusing, status, until};

/// Answers 200, and what it is told while it is `bad`; counts.
async fn moody(bad: &'static str) -> (Origin, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (is_bad, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (mood, count) = (Arc::clone(&is_bad), Arc::clone(&asked));
    let origin = Origin::start(move |mut client: Client, _| {
        let (mood, count) = (Arc::clone(&mood), Arc::clone(&count));
        async move {
            while client.message().await.is_some() {
                count.fetch_add(1, Relaxed);
                match mood.load(Relaxed) {
                    true if bad.is_empty() => return,
                    true => client.send(format!("HTTP/1.1 {bad}\r\nContent-Length: 0\r\n\r\n")).await,
                    false => client.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await,
                }
            }
        }
    })
    .await;
    (origin, is_bad, asked)
}

/// A route for a path, to a Service.
fn to(path: &str, service: &str) -> Value {
    json!({"metadata": {"name": service}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [{
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": [{"name": service, "port": 80}]}]}})
}

async fn statuses(bed: &Bed, path: &str, requests: usize) -> Vec<u16> {
    let mut all = Vec::new();
    for _ in 0..requests {
        all.push(status(&bed.get(path, "x", "").await));
    }
    all
}

#[tokio::test]
async fn an_endpoint_that_fails_is_ejected_for_all_routes_and_workers_and_comes_back() {
    for (bad, want) in [("503 No", 503), ("502 No", 502), ("", 502)] {
        let (origin, is_bad, asked) = moody(bad).await;
        let good = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false).await;
        let both: &[SocketAddr] = &[origin.addr, good.addr];
        let routes = json!([to("/a", "turns-a"), to("/b", "turns-b")]);
        let backends = [("turns-a", both), ("turns-b", both)];
        let bed = Bed::on(2, Settings::default(), any_listener(), routes, &backends).await;
        let begun = Instant::now();
        let seen = statuses(&bed, "/a", 10).await;
        let failed = seen.iter().filter(|status| **status == want).count();
        let late = usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!((5..=5 + late).contains(&failed), "every second one until it is ejected: {seen:?}");
        assert!(bed.stats.sum(|s| &s.ejections) >= 1);
        let said = bed.ejections.now();
        let why = if want == 503 { "status 503" } else { "" };
        assert!(said.len() == 1 && said[&origin.addr].contains(why) && said[&origin.addr].contains("tr"), "{said:?}");
        // The other route, by whichever worker: but for trials none gets there.
        let seen = statuses(&bed, "/b", 60).await;
        let trials = 2 + usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!(seen.iter().filter(|status| **status == want).count() <= trials, "{seen:?}");
        is_bad.store(false, Relaxed);
        let before = asked.load(Relaxed);
        let back = async {
            while asked.load(Relaxed) < before + 10 {
                assert_eq!(statuses(&bed, "/b", 1).await, [200]);
            }
        };
        tokio::time::timeout(Duration::from_secs(30), back).await.expect("it never came back");
        until("it is well again", || bed.stats.sum(|s| &s.readmissions) >= 1 && bed.ejections.now().is_empty()).await;
    }
}

#[tokio::test]
async fn failures_that_are_not_in_a_row_or_not_listed_eject_nobody() {
    let (origin, is_bad, asked) = moody("500 No").await;
    let bed = Bed::new(any_listener(), json!([to("/", "turns")]), &[("turns", &[origin.addr, origin.addr])]).await;
    assert_eq!(statuses(&bed, "/", 20).await, [500; 20], "500 is what the application says");
    is_bad.store(false, Relaxed);
    assert_eq!((statuses(&bed, "/", 4).await, asked.load(Relaxed)), (vec![200; 4], 24));
    assert_eq!(bed.stats.sum(|s| &s.ejections), 0);
}

#[tokio::test]
async fn an_endpoint_whose_answers_break_off_is_ejected_and_stays_on_trial() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let half = Origin::start(move |mut client: Client, _| {
        let count = Arc::clone(&count);
        async move {
            client.until("\r\n\r\n").await;
            count.fetch_add(1, Relaxed);
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf").await;
        }
    })
    .await;
    let good = Origin::named("whole").await;
    let backends: &[SocketAddr] = &[half.addr, good.addr];
    let bed = Bed::new(any_listener(), json!([to("/", "turns")]), &[("turns", backends)]).await;
    let mut cut = 0;
    for _ in 0..40 {
        cut += usize::from(!bed.get("/", "x", "").await.ends_with("whole"));
    }
    assert_eq!((cut, asked.load(Relaxed), bed.stats.sum(|s| &s.ejections)), (5, 5, 1));
    // Its head alone makes it no better: one request is the trial, and it is out again.
    while asked.load(Relaxed) == 5 {
        bed.get("/", "x", "").await;
    }
    until("it is out again", || bed.stats.sum(|s| &s.ejections) == 2).await;
    assert_eq!(asked.load(Relaxed), 6);
}

#[tokio::test]
async fn the_only_endpoint_is_asked_whatever_it_answers_and_dead_ones_fail_at_once() {
    let (origin, _, asked) = moody("503 No").await;
    let bed = Bed::new(any_listener(), json!([to("/", "a")]), &[("a", &[origin.addr])]).await;
    assert_eq!((statuses(&bed, "/", 20).await, asked.load(Relaxed)), (vec![503; 20], 20));
    assert_eq!(bed.stats.sum(|s| &s.ejections), 0);
    let good = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false).await;
    let dead = [refusing(), refusing(), refusing(), refusing(), good.addr];
    let bed = Bed::new(any_listener(), json!([to("/", "a")]), &[("a", &dead)]).await;
    let seen = statuses(&bed, "/", 60).await;
    // Each dead one is met once; three of them in one request are what `max_tries` allows.
    assert!(seen.iter().filter(|status| **status != 200).count() <= 1, "{seen:?}");
    assert_eq!(seen[10..], [200; 50], "however many are dead, a request meets one of them at most");
}

#[tokio::test]
async fn a_client_cannot_eject_an_endpoint_by_its_own_deadlines() {
    let (origin, is_bad, _) = moody("200 OK").await;
    is_bad.store(false, Relaxed);
    let slow = Origin::start(|mut client: Client, _| async move {
        while client.message().await.is_some() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            client.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let mut route = to("/", "turns");
    for (limit, is_ejected) in [("10s", false), ("20ms", true)] {
        route["spec"]["rules"][0]["timeouts"] = json!({"request": limit});
        let both: &[SocketAddr] = &[origin.addr, slow.addr];
        let bed = Bed::new(any_listener(), json!([route]), &[("turns", both)]).await;
        for _ in 0..12 {
            let mut client = bed.connect().await;
            client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            // Gone before the slow one answers; or told that the route's time is up.
            let limit = if is_ejected { Duration::from_secs(5) } else { Duration::from_millis(20) };
            let _ = tokio::time::timeout(limit, client.message()).await;
        }
        assert_eq!(bed.stats.sum(|s| &s.ejections) > 0, is_ejected, "{limit}");
    }
}
