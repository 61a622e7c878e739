//! Who comes back to his endpoint, and how: session persistence (GEP-1619) and consistent hashing.
use std::{collections::BTreeSet, net::SocketAddr};

use serde_json::{Value, json};
use sluice::proxy::Settings;

use crate::harness::{Bed, Origin, any_listener, header, status};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

async fn origins(n: usize) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for name in &NAMES[..n] {
        all.push(Origin::named(name).await.addr);
    }
    all
}

fn route(backends: Value, session: Value) -> Value {
    json!([{"metadata": {"name": "r", "uid": "8c3f"}, "spec": {"parentRefs": [{"name": "gw"}], "rules": [{
        "matches": [{"path": {"type": "PathPrefix", "value": "/shop"}}],
        "backendRefs": backends, "sessionPersistence": session}]}}])
}

/// Who answered, and the cookie that it came with, as a client shows it.
async fn ask(bed: &Bed, shown: &str) -> (char, Option<String>) {
    let response = bed.get("/shop", "x", shown).await;
    assert_eq!(status(&response), 200, "{response}");
    let cookie = header(&response, "set-cookie").map(|cookie| {
        assert!(cookie.ends_with("; Path=/shop; HttpOnly; SameSite=Strict"), "{cookie}");
        format!("Cookie: x=y; {}\r\n", cookie.split(';').next().unwrap())
    });
    (response.chars().last().unwrap(), cookie)
}

#[tokio::test]
async fn a_cookie_leads_back_to_its_endpoint_at_every_worker() {
    let all = origins(3).await;
    let routes = route(json!([{"name": "turns", "port": 80}]), json!({"cookie": {"name": "s", "path": "/shop"}}));
    let bed = Bed::on(2, Settings::default(), any_listener(), routes.clone(), &[("turns", &all)]).await;
    let mut met = BTreeSet::new();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let (who, cookie) = ask(&bed, "").await;
        met.insert(who);
        sessions.push((who, cookie.expect("no session begins without a cookie")));
    }
    assert_eq!(met.len(), 3, "sessions are spread");
    for _ in 0..10 {
        for (who, cookie) in &sessions {
            assert_eq!(ask(&bed, cookie).await, (*who, None));
        }
    }
    // Another process of the same Gateway, such as another node.
    let other = Bed::on(1, Settings::default(), any_listener(), routes, &[("turns", &all)]).await;
    for (who, cookie) in &sessions {
        assert_eq!(ask(&other, cookie).await, (*who, None));
    }
}

#[tokio::test]
async fn a_session_whose_endpoint_is_gone_or_dead_moves_and_stays_there() {
    let all = origins(3).await;
    let routes = route(json!([{"name": "turns", "port": 80}]), json!({"cookie": {"name": "s", "path": "/shop"}}));
    let bed = Bed::new(any_listener(), routes.clone(), &[("turns", &all)]).await;
    let (who, cookie) = ask(&bed, "").await;
    let cookie = cookie.unwrap();
    let left: Vec<SocketAddr> =
        NAMES.iter().zip(&all).filter(|(name, _)| !name.starts_with(who)).map(|(_, addr)| *addr).collect();
    bed.serve(any_listener(), routes.clone(), &[("turns", &left)]).await;
    let (second, moved) = ask(&bed, &cookie).await;
    let moved = moved.expect("it is told where it is now");
    assert_ne!(second, who);
    for _ in 0..6 {
        assert_eq!(ask(&bed, &moved).await, (second, None));
    }
    // Back again, the first cookie holds.
    bed.serve(any_listener(), routes, &[("turns", &all)]).await;
    assert_eq!((ask(&bed, &cookie).await, ask(&bed, &moved).await), ((who, None), (second, None)));
}

#[tokio::test]
async fn what_nobody_has_sealed_is_no_session_and_no_way_to_anywhere() {
    let (all, mut secret) = (origins(2).await, Origin::named("secret").await);
    let routes = route(json!([{"name": "turns", "port": 80}]), json!({"cookie": {"name": "s", "path": "/shop"}}));
    let bed = Bed::new(any_listener(), routes, &[("turns", &all)]).await;
    for forged in [secret.addr.to_string(), "A".repeat(83), String::new(), "%00".into(), "a".repeat(8000)] {
        let (who, cookie) = ask(&bed, &format!("Cookie: s={forged}\r\n")).await;
        assert!(['a', 'b'].contains(&who) && cookie.is_some(), "{forged}");
    }
    assert!(secret.untouched());
    let (_, cookie) = ask(&bed, "").await;
    assert!(!cookie.unwrap().contains("127.0.0.1"));
}

#[tokio::test]
async fn weights_choose_for_new_sessions_and_old_ones_keep_their_share() {
    let all = origins(2).await;
    let split = |a: u32, b: u32| {
        let backends = json!([{"name": "a", "port": 80, "weight": a}, {"name": "b", "port": 80, "weight": b}]);
        route(backends, json!({"cookie": {"path": "/shop"}}))
    };
    let backends: [(&str, &[SocketAddr]); 2] = [("a", &all[..1]), ("b", &all[1..])];
    let bed = Bed::new(any_listener(), split(70, 30), &backends).await;
    let mut sessions = Vec::new();
    for _ in 0..10 {
        let (who, cookie) = ask(&bed, "").await;
        sessions.push((who, cookie.unwrap()));
    }
    assert_eq!(sessions.iter().filter(|(who, _)| *who == 'b').count(), 3, "exactly");
    // The canary is over for whoever is not in it.
    bed.serve(any_listener(), split(1, 0), &backends).await;
    for (who, cookie) in &sessions {
        assert_eq!(ask(&bed, cookie).await, (*who, None));
    }
    for _ in 0..10 {
        assert_eq!(ask(&bed, "").await.0, 'a');
    }
}

#[tokio::test]
async fn a_session_may_be_in_a_field_and_rules_share_none() {
    let all = origins(3).await;
    let session = json!({"type": "Header", "header": {"name": "X-Session"}});
    let mut routes = route(json!([{"name": "turns", "port": 80}]), session.clone());
    let mut other = routes[0]["spec"]["rules"][0].clone();
    other["matches"] = json!([{"path": {"type": "PathPrefix", "value": "/other"}}]);
    routes[0]["spec"]["rules"].as_array_mut().unwrap().push(other);
    let bed = Bed::new(any_listener(), routes, &[("turns", &all)]).await;
    let first = bed.get("/shop", "x", "").await;
    let token = header(&first, "x-session").expect("no session").to_owned();
    let shown = format!("X-Session: {token}\r\n");
    for _ in 0..6 {
        let again = bed.get("/shop", "x", &shown).await;
        assert_eq!((again.chars().last(), header(&again, "x-session")), (first.chars().last(), None));
    }
    for _ in 0..6 {
        let other = bed.get("/other", "x", &shown).await;
        assert!(header(&other, "x-session").is_some_and(|own| own != token), "a session of its own");
    }
}

/// As it is written down, through the check of the published schema.
#[tokio::test]
async fn sessions_are_asked_for_by_the_names_of_the_release() {
    let all = origins(3).await;
    let of = async |session: Value| {
        let dir = tempfile::tempdir().unwrap();
        let mut route = route(json!([{"name": "turns", "port": 80}]), session)[0].take();
        (route["apiVersion"], route["kind"]) = (json!("gateway.networking.k8s.io/v1"), json!("HTTPRoute"));
        let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "gw"},
            "spec": {"gatewayClassName": "sluice", "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}});
        std::fs::write(
            dir.path().join("all.json"),
            json!({"kind": "List", "apiVersion": "v1",
            "items": [gateway, route]})
            .to_string(),
        )
        .unwrap();
        let bed = Bed::of_manifests(dir.path(), &[("turns", &all)]).await;
        (bed.get("/shop", "x", "").await, bed)
    };
    let (answer, _bed) = of(json!({"type": "Header", "header": {"name": "X-Session"}})).await;
    assert!(header(&answer, "x-session").is_some() && header(&answer, "set-cookie").is_none(), "{answer}");
    let cookie = json!({"name": "shop", "lifetimeType": "Permanent", "path": "/x"});
    let (answer, _bed) = of(json!({"type": "Cookie", "absoluteTimeout": "12h", "cookie": cookie})).await;
    let said = header(&answer, "set-cookie").unwrap();
    assert!(said.starts_with("shop=") && said.contains("; Path=/x; Max-Age=43200; "), "{said}");
    let (answer, _bed) = of(json!({"type": "Cookie", "cookie": {}})).await;
    let said = header(&answer, "set-cookie").unwrap();
    assert!(said.starts_with("sluice-session-") && said.contains("; Path=/; HttpOnly;"), "{said}");
}

#[tokio::test]
async fn one_key_is_always_at_one_endpoint() {
    let all = origins(4).await;
    let routes = json!([{"metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "gw"}],
        "rules": [{"backendRefs": [{"name": "keyed", "port": 80}]}]}}]);
    let bed = Bed::on(2, Settings::default(), any_listener(), routes.clone(), &[("keyed", &all)]).await;
    let who =
        async |bed: &Bed, user: usize| bed.get("/", "x", &format!("X-User: {user}\r\n")).await.chars().last().unwrap();
    let mut before = Vec::new();
    for user in 0..100 {
        before.push(who(&bed, user).await);
    }
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 4, "{before:?}");
    for (user, endpoint) in before.iter().enumerate() {
        assert_eq!(who(&bed, user).await, *endpoint);
    }
    bed.serve(any_listener(), routes, &[("keyed", &all[..3])]).await;
    let mut stayed = 0;
    for (user, endpoint) in before.iter().enumerate() {
        let now = who(&bed, user).await;
        assert_ne!(now, 'd');
        stayed += usize::from(now == *endpoint);
    }
    let were_elsewhere = before.iter().filter(|endpoint| **endpoint != 'd').count();
    assert!(stayed * 10 > were_elsewhere * 7, "{stayed} of {were_elsewhere} whose endpoint is still there");
}
