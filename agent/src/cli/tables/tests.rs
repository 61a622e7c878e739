use super::*;

#[test]
fn ages_and_sizes_read_as_kubectl_writes_them() {
    assert_eq!([0, 59, 61, 3_661, 90_000].map(duration), ["0s", "59s", "1m1s", "1h1m", "1d1h"]);
    assert_eq!([0, 1023, 1536, 5 << 20].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB"]);
}

fn service(outcome: &str, reason: &str) -> view::Service {
    serde_json::from_value(serde_json::json!({
        "kind": "Service", "name": "default/web", "outcome": outcome, "reason": reason, "messages": [],
        "addresses": ["203.0.113.7"], "announced": [], "announcers": {}, "ports": ["80/TCP"], "sources": [],
        "backends": 4, "backendFamilies": {"ipv4": 2, "ipv6": 2}, "flows": null, "bytes": null, "dropped": 0,
    }))
    .unwrap()
}

#[test]
fn a_service_shows_what_does_not_work_two_counts_of_backends_and_no_wrong_figure() {
    let shown = services(&[service("partial", "PortConflict"), service("accepted", "Accepted")], Columns::All);
    let lines = shown.lines().collect::<Vec<_>>();
    assert!(lines[1].ends_with("2 IPv4, 2 IPv6  -      -      0        partial (PortConflict)"), "{shown}");
    assert!(lines[2].ends_with("0        Accepted"), "{shown}");
}

#[test]
fn routes_and_explanations_name_what_is_ejected() {
    let row = serde_json::json!({
        "frontends": ["203.0.113.7:80"], "gateway": "default/gw", "listener": "web", "hostname": "*", "matches": "/*",
        "kind": "HTTPRoute", "route": "default/shop", "rule": 0, "ruleName": "all", "actions": [],
        "backends": [{"service": "default/shop:80", "weight": 1, "ready": ["192.0.2.1:80", "192.0.2.2:80"], "fault": null}],
    });
    let mut row: RouteRow = serde_json::from_value(row).unwrap();
    assert!(routes(std::slice::from_ref(&row)).contains("default/shop:80 (1, 2)"));
    let others = ("198.51.100.1:80".parse().unwrap(), "elsewhere".to_owned());
    row.note(&[("192.0.2.2:80".parse().unwrap(), "it could not be connected".to_owned()), others].into());
    assert!(routes(std::slice::from_ref(&row)).contains("default/shop:80 (1, 2, 1 ejected)"));
    let shown = explanation(&Explanation {
        frontends: row.frontends.clone(),
        listener: Some("default/gw/web".to_owned()),
        hostnames: vec!["*".to_owned()],
        conditions: vec!["connections begin with a sentence".to_owned()],
        passed_over: Vec::new(),
        more: 0,
        matched: Some(row),
        status: None,
        grpc_status: None,
        ends: false,
        endpoint: None,
        answer: String::new(),
    });
    assert!(
        shown.contains("host *\n  connections begin with a sentence\n  matched HTTPRoute default/shop#0 (all)")
            && shown.contains("  ejected 192.0.2.2:80: it could not be connected\n")
            && !shown.contains("198.51"),
        "{shown}"
    );
}

#[test]
fn a_table_wraps_by_column_where_it_does_not_fit() {
    let header = ["KIND", "NAME", "ADDRESSES", "PORTS", "BACKENDS", "FLOWS", "STATE"];
    let addresses = "203.0.113.7,2001:db8:113::7,198.51.100.20";
    let row = ["Service", "default/web", addresses, "80/TCP,53/UDP", "2 IPv4, 2 IPv6", "52", "partial (PortConflict)"];
    let rows = || [row.map(str::to_owned).to_vec()];
    let wrapped = table_of(&header, rows(), Some(80));
    assert!(wrapped.lines().count() > 2 && wrapped.lines().all(|line| line.chars().count() <= 80), "{wrapped}");
    for address in addresses.split(',') {
        assert!(wrapped.contains(address), "{address} is in one piece: {wrapped}");
    }
    let whole = table_of(&header, rows(), None);
    assert!(whole.lines().count() == 2 && whole.contains(addresses), "{whole}");
}

#[test]
fn every_reason_stands_under_a_heading_that_is_true_of_it() {
    let of = |fate| Reason::ALL.into_iter().filter(|r| fate_of(r.name()) == fate).map(Reason::name).collect::<Vec<_>>();
    assert_eq!(of(Fate::Answered), ["echo_replied", "arp_answered", "nd_answered"]);
    assert_eq!(of(Fate::Passed), ["announced_elsewhere", "relayed"]);
    assert!(of(Fate::Lost).contains(&"no_backend") && fate_of("of_another_version") == Fate::Lost);
}

#[test]
fn a_table_has_no_trailing_blanks_and_an_empty_one_is_a_sentence() {
    let text = table(&["A", "LONG NAME"], [vec!["x".to_owned(), String::new()]]);
    assert!(text.lines().all(|l| l == l.trim_end()), "{text:?}");
    assert_eq!(backends(&[]), "no frontend has a backend");
}
