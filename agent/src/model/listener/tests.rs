//! Listeners of every protocol alone and beside each other.
use serde_json::json;

use super::*;

fn gateway(listeners: &[(&str, i64, &str, Option<&str>)]) -> Gateway {
    let listener = |(name, port, protocol, hostname): &(&str, i64, &str, Option<&str>)| json!({"name": name, "port": port, "protocol": protocol, "hostname": hostname});
    let listeners: Vec<_> = listeners.iter().map(listener).collect();
    serde_json::from_value(json!({"metadata": {"name": "gw"}, "spec": {"listeners": listeners}})).unwrap()
}

/// The reasons of conflict of two listeners.
fn conflicts(a: (&str, i64, Option<&str>), b: (&str, i64, Option<&str>)) -> Vec<Option<&'static str>> {
    let gateway = gateway(&[("a", a.1, a.0, a.2), ("b", b.1, b.0, b.2)]);
    Served::all(&gateway).iter().map(|served| served.conflict.as_ref().map(|fault| fault.reason)).collect()
}

/// Issue 9, part 1.7 of the API's rules: distinct by port and host name, or by port alone.
#[test]
fn listeners_of_every_protocol_are_distinct_as_the_api_says() {
    let (x, y) = (Some("x.example"), Some("y.example"));
    for (a, b, want) in [
        (("HTTP", 80, x), ("HTTP", 80, y), None),
        (("HTTP", 80, x), ("HTTP", 80, x), Some("HostnameConflict")),
        (("HTTP", 80, None), ("HTTP", 80, Some("")), Some("HostnameConflict")),
        (("HTTP", 80, x), ("HTTP", 81, x), None),
        (("HTTP", 80, x), ("HTTPS", 80, y), Some("ProtocolConflict")),
        (("HTTP", 80, x), ("TLS", 80, y), Some("ProtocolConflict")),
        (("HTTPS", 443, x), ("TLS", 443, y), None),
        (("HTTPS", 443, x), ("TLS", 443, x), Some("HostnameConflict")),
        (("TLS", 443, x), ("TLS", 443, None), None),
        (("TCP", 80, None), ("HTTP", 80, x), Some("ProtocolConflict")),
        (("TCP", 80, None), ("HTTPS", 80, x), Some("ProtocolConflict")),
        (("TCP", 80, None), ("TLS", 80, x), Some("ProtocolConflict")),
        // A port of TCP has one listener; a host name is not looked at.
        (("TCP", 80, x), ("TCP", 80, y), Some("ProtocolConflict")),
        (("TCP", 80, None), ("TCP", 81, None), None),
        (("UDP", 80, x), ("UDP", 80, y), Some("ProtocolConflict")),
        // UDP ports are others.
        (("UDP", 80, None), ("TCP", 80, None), None),
        (("UDP", 443, None), ("HTTPS", 443, None), None),
        // What is no protocol is not listened to.
        (("SCTP", 80, None), ("HTTP", 80, None), None),
    ] {
        assert_eq!(conflicts(a, b), [want, want], "{a:?} {b:?}");
        assert_eq!(conflicts(b, a), [want, want], "{b:?} {a:?}");
    }
}

#[test]
fn each_protocol_has_its_kinds_of_routes_and_refuses_the_others() {
    let asked = |kinds: &[&str]| -> Vec<RouteGroupKind> {
        kinds.iter().map(|kind| RouteGroupKind { group: None, kind: (*kind).to_owned() }).collect()
    };
    for (protocol, want) in [
        (Protocol::Http, RouteKind::Http),
        (Protocol::Https, RouteKind::Http),
        (Protocol::Tls, RouteKind::Tls),
        (Protocol::Tcp, RouteKind::Tcp),
        (Protocol::Udp, RouteKind::Udp),
    ] {
        let (all, fine) = route_kinds(&[], protocol.kinds());
        assert!(all.contains(&want) && fine.is_ok(), "{protocol:?}");
        assert_eq!(route_kinds(&asked(&[want.name()]), protocol.kinds()), (vec![want], Ok(())), "{protocol:?}");
        let (left, fault) = route_kinds(&asked(&["Bucket", want.name()]), protocol.kinds());
        assert_eq!((left, fault.unwrap_err().reason), (vec![want], "InvalidRouteKinds"), "{protocol:?}");
        let (left, fault) = route_kinds(&asked(&["Bucket"]), protocol.kinds());
        assert_eq!((left, fault.unwrap_err().reason), (vec![], "InvalidRouteKinds"), "{protocol:?}");
        let foreign = [RouteGroupKind { group: Some("other".into()), kind: want.name().to_owned() }];
        assert_eq!(route_kinds(&foreign, protocol.kinds()).0, [], "{protocol:?}: of another group");
    }
}

#[test]
fn a_protocol_that_is_not_served_is_refused_and_has_no_kinds() {
    let gateway = gateway(&[("a", 80, "SCTP", None), ("b", 0, "HTTP", None), ("c", 81, "HTTP", Some("no name"))]);
    let all = Served::all(&gateway);
    let reasons: Vec<_> = all.iter().map(|s| s.accepted.as_ref().unwrap_err().reason).collect();
    assert_eq!(reasons, ["UnsupportedProtocol", "PortUnavailable", "UnsupportedValue"]);
    assert_eq!(all[0].kinds, []);
}
