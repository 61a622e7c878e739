//! Tokens: what they hide, whom they bind, how long they last. The clock is handed in.
use super::*;
use crate::{
    api::ObjectName,
    model::{Port, http::session::Keys},
};

const NOW: u32 = 1_800_000_000;

fn session(seed: &str) -> Session {
    let place = SessionPlace::Cookie { name: "s".into(), path: "/shop".into(), is_permanent: false };
    Session { place, absolute: None, idle: None, seed: Some(seed.into()), keys: Keys::default() }
}

fn port(name: &str) -> ServicePort {
    ServicePort { service: ObjectName::new("default", name), port: Port::try_new(80).unwrap() }
}

fn said(endpoint: &str) -> Said {
    Said { service: port_hash(&port("a")), endpoint: endpoint.parse().unwrap(), began: NOW, seen: NOW }
}

/// What the client is told, with what it showed.
fn told(session: &Session, shown: Option<&str>, at: u32) -> Option<String> {
    let mut request = HeaderMap::new();
    request.extend(shown.map(|cookie| (header::COOKIE, cookie.parse().unwrap())));
    let bound = Bound::read_at(session, &request, at);
    let mut response = HeaderMap::new();
    bound.write(&mut response, (&port("a"), "192.0.2.1:80".parse().unwrap()), true);
    response.get(header::SET_COOKIE).map(|value| value.to_str().unwrap().to_owned())
}

fn pair(cookie: &str) -> &str {
    cookie.split(';').next().unwrap()
}

#[test]
fn keys_are_derived_once_for_all_requests() {
    let session = session("u1#0");
    let token = seal(&session, said("192.0.2.1:80")).unwrap();
    assert!(session.keys.get(|| panic!("they are there")).is_some());
    assert_eq!(open(&session, token.as_bytes()), Some(said("192.0.2.1:80")));
    assert_eq!(open(&session.clone(), token.as_bytes()), Some(said("192.0.2.1:80")), "a copy has the same");
}

#[test]
fn a_token_comes_back_as_it_was_and_says_nothing() {
    let session = session("u1#0");
    for endpoint in ["192.0.2.1:80", "[2001:db8::1]:8443", "192.0.2.1:81"] {
        let token = seal(&session, said(endpoint)).unwrap();
        assert_eq!(open(&session, token.as_bytes()), Some(said(endpoint)));
        let bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
        assert!(!bytes.windows(4).any(|four| four == [192, 0, 2, 1]) && !token.contains("192"), "{token}");
    }
    let tokens: std::collections::BTreeSet<_> =
        (1..100).map(|n| seal(&session, said(&format!("192.0.2.1:{n}"))).unwrap()[..16].to_owned()).collect();
    assert_eq!(tokens.len(), 99, "no nonce is there twice");
}

#[test]
fn no_token_can_be_made_or_changed_or_taken_to_another_rule() {
    let (session, other) = (session("u1#0"), session("u1#1"));
    let token = seal(&session, said("192.0.2.1:80")).unwrap();
    assert_eq!(open(&other, token.as_bytes()), None);
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert_ne!(open(&session, &changed), Some(said("192.0.2.1:80")), "{at}");
        assert_eq!(open(&session, &token.as_bytes()[..at]), None);
    }
    for nonsense in ["", "192.0.2.1:80", "====", &"A".repeat(83), &"A".repeat(100_000)] {
        assert_eq!(open(&session, nonsense.as_bytes()), None);
    }
    let own = Session { seed: None, ..session };
    let token = seal(&own, said("192.0.2.1:80")).unwrap();
    assert_eq!(open(&own, token.as_bytes()), Some(said("192.0.2.1:80")), "without a seed, within the process");
}

#[test]
fn a_client_is_told_once_and_again_when_it_was_idle() {
    let session = Session { idle: Some(Duration::from_secs(80)), ..session("u1#0") };
    let first = told(&session, None, NOW).unwrap();
    assert!(first.starts_with("s=") && first.ends_with("; Path=/shop; HttpOnly; SameSite=Strict; Secure"), "{first}");
    let shown = format!("a=b; {}; c=d", pair(&first));
    assert_eq!(told(&session, Some(&shown), NOW + 9), None);
    let second = told(&session, Some(&shown), NOW + 10).unwrap();
    let late = told(&session, Some(pair(&second)), NOW + 89);
    assert!(late.is_some(), "told again");
    let bound = |cookie: &str, at| {
        let headers: HeaderMap = [(header::COOKIE, cookie.parse().unwrap())].into_iter().collect();
        Bound::read_at(&session, &headers, at).said.map(|said| said.began)
    };
    assert_eq!(bound(pair(&second), NOW + 89), Some(NOW), "the session is the first");
    assert_eq!(bound(pair(&second), NOW + 90), None, "80 seconds without a request");
    assert_eq!(bound(pair(&first), NOW + 89), None);
    // Browsers show what they have for a longer path first, others' cookies of this name among it.
    assert_eq!(bound(&format!("s=nonsense; s=; {}", pair(&second)), NOW + 11), Some(NOW));
}

#[test]
fn a_session_ends_when_its_time_is_up_whatever_the_browser_does() {
    let hour = Some(Duration::from_secs(3600));
    let place = SessionPlace::Cookie { name: "s".into(), path: "/shop".into(), is_permanent: true };
    let session = Session { absolute: hour, idle: Some(Duration::from_secs(600)), place, ..session("u1#0") };
    let mut cookie = told(&session, None, NOW).unwrap();
    assert!(cookie.contains("; Max-Age=3600;"), "{cookie}");
    for minutes in (5..60).step_by(5) {
        cookie = told(&session, Some(pair(&cookie)), NOW + minutes * 60).unwrap();
        assert!(cookie.contains(&format!("; Max-Age={};", 3600 - minutes * 60)), "{cookie}");
    }
    let anew = told(&session, Some(pair(&cookie)), NOW + 3600).unwrap();
    assert!(anew.contains("; Max-Age=3600;"), "another one: {anew}");
    // Clocks of nodes differ, and jump.
    let ahead = told(&session, None, NOW + 1000).unwrap();
    assert_eq!(told(&session, Some(pair(&ahead)), NOW), None, "holds, and is fresh");
}
