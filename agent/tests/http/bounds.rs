//! At the bound of connections: what waits, what is refused, what goes on.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use sluice::{
    api::ObjectName,
    proxy::{Bound, Settings},
};
use tokio::sync::Semaphore;

use crate::harness::{Bed, Client, Origin, any_listener, catch_all, status, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// A backend that answers a request for each permit.
async fn held(permits: &Arc<Semaphore>) -> Origin {
    let permits = Arc::clone(permits);
    Origin::start(move |mut client: Client, seen| {
        let permits = Arc::clone(&permits);
        async move {
            loop {
                let _ = seen.send(client.until("\r\n\r\n").await);
                permits.acquire().await.unwrap().forget();
                client.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na").await;
            }
        }
    })
    .await
}

fn to(service: &str) -> Value {
    json!({"metadata": {"name": service}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"matches": [{"path": {"value": format!("/{service}")}}],
                   "backendRefs": [{"name": service, "port": 80}]}]}})
}

#[tokio::test]
async fn at_the_bound_a_client_waits_until_another_has_gone() {
    let origin = Origin::named("a").await;
    let settings = Settings { max_connections: 2, ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let (mut one, mut two) = (bed.connect().await, bed.connect().await);
    for client in [&mut one, &mut two] {
        client.send(GET).await;
        assert_eq!(status(&client.response().await), 200);
    }
    let mut third = bed.connect().await;
    third.send(GET).await;
    until("the bound is reported", || bed.stats.sum(|s| &s.accept_waiting) == 1).await;
    assert_eq!((bed.stats.sum(|s| &s.accepted), bed.stats.sum(|s| &s.active_connections)), (2, 2));
    drop(one);
    assert_eq!(status(&third.response().await), 200);
    // Those that were there are served as before.
    two.send(GET).await;
    assert_eq!(status(&two.response().await), 200);
    assert!(bed.stats.sum(|s| &s.accept_waits) > 0);
}

#[tokio::test]
async fn a_tunnel_keeps_its_place() {
    let origin = Origin::start(|mut client: Client, _| async move {
        client.until("\r\n\r\n").await;
        client.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        client.until("bye").await;
    })
    .await;
    let settings = Settings { max_connections: 1, ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut tunnel = bed.connect().await;
    tunnel.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    tunnel.until("\r\n\r\n").await;
    let mut other = bed.connect().await;
    other.send("GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("the bound is reported", || bed.stats.sum(|s| &s.accept_waiting) == 1).await;
    assert_eq!((bed.stats.sum(|s| &s.accepted), bed.stats.sum(|s| &s.active_connections)), (1, 1));
    tunnel.send("bye").await;
    tunnel.rest().await;
    drop(tunnel);
    assert_eq!(status(&other.rest().await), 400);
}

#[tokio::test]
async fn without_a_place_for_a_connection_the_endpoint_is_not_to_blame() {
    let permits = Arc::new(Semaphore::new(0));
    let mut origin = held(&permits).await;
    let settings = Settings { max_upstreams: 1, connect_timeout: Duration::from_millis(100), ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let mut first = bed.connect().await;
    first.send(GET).await;
    origin.next().await;
    assert_eq!(status(&bed.get("/", "x", "").await), 503);
    assert!(bed.stats.sum(|s| &s.exhausted) > 0 && bed.stats.sum(|s| &s.connect_errors) == 0);
    // It was not marked as down: with one endpoint that would be passed over, the other would get this request.
    let other = Origin::named("b").await;
    permits.add_permits(1);
    assert!(first.response().await.ends_with('a'));
    bed.serve(any_listener(), json!([catch_all()]), &[("a", &[origin.addr, other.addr])]).await;
    permits.add_permits(64);
    let mut bodies = Vec::new();
    for _ in 0..32 {
        bodies.push(bed.get("/", "x", "").await.pop());
    }
    assert!(bodies.contains(&Some('a')), "the endpoint was marked as down");
}

#[tokio::test]
async fn an_unused_connection_makes_room_for_one_that_is_needed() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let settings = Settings { max_upstreams: 1, ..Settings::default() };
    let backends: [(&str, &[SocketAddr]); 2] = [("a", &[a.addr]), ("b", &[b.addr])];
    let bed = Bed::with(settings, any_listener(), json!([to("a"), to("b")]), &backends).await;
    for path in ["/a", "/b", "/a", "/b"] {
        let response = bed.get(path, "x", "").await;
        assert!(status(&response) == 200 && response.ends_with(&path[1..]), "{path}: {response}");
        until("the connection is unused", || bed.stats.sum(|s| &s.idle_upstream) == 1).await;
        assert_eq!(bed.stats.sum(|s| &s.open_upstream), 1);
    }
}

#[tokio::test]
async fn one_endpoint_of_several_leaves_room_for_the_others() {
    let permits = Arc::new(Semaphore::new(0));
    let (mut a, b) = (held(&permits).await, Origin::named("b").await);
    let settings = Settings { max_upstreams: 4, ..Settings::default() };
    let backends: [(&str, &[SocketAddr]); 2] = [("a", &[a.addr]), ("b", &[b.addr])];
    let bed = Bed::with(settings, any_listener(), json!([to("a"), to("b")]), &backends).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = bed.connect().await;
        client.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
        a.next().await;
        waiting.push(client);
    }
    assert_eq!(status(&bed.get("/a", "x", "").await), 503, "half of four are two");
    assert!(bed.get("/b", "x", "").await.ends_with('b'));
    permits.add_permits(2);
    for mut client in waiting {
        assert!(client.response().await.ends_with('a'));
    }
}

#[tokio::test]
async fn one_gateway_of_several_leaves_room_for_the_others() {
    let origin = Origin::named("a").await;
    let settings = Settings { max_connections: 4, ..Settings::default() };
    let bed = Bed::with(settings, any_listener(), json!([catch_all()]), &[("a", &[origin.addr])]).await;
    let other = SocketAddr::from(([127, 0, 0, 2], bed.addr.port()));
    bed.serve_other(other).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = bed.connect().await;
        client.send(GET).await;
        assert_eq!(status(&client.response().await), 200);
        held.push(client);
    }
    assert_eq!(bed.connect().await.rest().await, "", "half of four are two");
    assert_eq!(bed.stats.sum(|s| &s.gateway_refusals), 1);
    let mut client = Client::connect(other).await;
    client.send(GET).await;
    assert_eq!(status(&client.response().await), 200);
    drop(held);
    until("they are gone", || bed.stats.sum(|s| &s.active_connections) == 1).await;
    assert_eq!(status(&bed.get("/", "x", "").await), 200);
}

#[tokio::test]
async fn one_gateway_of_several_leaves_connections_to_endpoints_for_the_others() {
    let permits = Arc::new(Semaphore::new(0));
    let (mut one, mut two, other) = (held(&permits).await, held(&permits).await, Origin::named("b").await);
    let settings = Settings { max_upstreams: 4, ..Settings::default() };
    let backends: [(&str, &[SocketAddr]); 2] = [("a", &[one.addr, two.addr]), ("b", &[other.addr])];
    let bed = Bed::with(settings, any_listener(), json!([to("a"), to("b")]), &backends).await;
    let neighbour = SocketAddr::from(([127, 0, 0, 2], bed.addr.port()));
    bed.serve_other(neighbour).await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = bed.connect().await;
        client.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
        tokio::select! { _ = one.next() => {}, _ = two.next() => {} }
        waiting.push(client);
    }
    // Each of the endpoints has one of the two that it may have.
    let response = bed.get("/a", "x", "").await;
    let pressed: Vec<_> = bed.gateways.pressed().into_iter().map(|p| (p.gateway, p.bound, p.most, p.is_own)).collect();
    assert_eq!(pressed, [(ObjectName::new("default", "gw"), Bound::Upstreams, 2, false)]);
    assert_eq!(status(&response), 503, "half of four are two: {response}");
    assert!(response.ends_with("the Gateway has as many connections to backends as it may have\n"), "{response}");
    for _ in 0..4 {
        let mut client = Client::connect(neighbour).await;
        client.send("GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(client.rest().await.ends_with('b'));
    }
    permits.add_permits(2);
    for mut client in waiting {
        assert!(client.response().await.ends_with('a'));
    }
    // What is unused is no Gateway's: its part is free again.
    assert!(bed.get("/b", "x", "").await.ends_with('b'));
}

#[tokio::test]
async fn a_loop_that_a_backend_closes_ends() {
    // What a proxy does that sends everything back to the front, and forwards what it does not know.
    let front = Arc::new(std::sync::OnceLock::<SocketAddr>::new());
    let back = Arc::clone(&front);
    let origin = Origin::start(move |mut client: Client, seen| {
        let back = Arc::clone(&back);
        async move {
            let head = client.until("\r\n\r\n").await;
            let _ = seen.send(head.clone());
            let mut again = Client::connect(*back.get().unwrap()).await;
            again.send(head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")).await;
            client.send(again.rest().await).await;
        }
    })
    .await;
    let mut route = catch_all();
    // A route cannot make the count forget.
    route["spec"]["rules"][0]["filters"] = json!([{"type": "RequestHeaderModifier",
        "requestHeaderModifier": {"remove": ["CDN-Loop"]}}]);
    let mut origin = origin;
    let bed = Bed::new(any_listener(), json!([route]), &[("a", &[origin.addr])]).await;
    front.set(bed.addr).unwrap();
    assert_eq!(status(&bed.get("/", "x", "CDN-Loop: other\r\n").await), 508);
    let mut passes = 0;
    while !origin.untouched() {
        passes += 1;
    }
    assert_eq!(passes, 8);
    until("nothing of it is left", || {
        bed.stats.sum(|s| &s.active_connections) == 0
            && bed.stats.sum(|s| &s.open_upstream) == bed.stats.sum(|s| &s.idle_upstream)
    })
    .await;
}
