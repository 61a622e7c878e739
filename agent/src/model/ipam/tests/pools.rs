//! AddressPools: who gets from which, and what happens to addresses when they change.
use std::fmt::Write;

use super::*;
use crate::{
    api::{AddressPool, Namespace, Node as ApiNode, Service},
    model::HostAddresses,
};

/// A snapshot of pools `(NAME, spec)`.
pub(super) fn with_pools(pools: &[(&str, &str)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (name, spec) in pools {
        let text = format!("{{metadata: {{name: {name}, generation: 3}}, spec: {spec}}}");
        snapshot.pools.insert((*name).into(), Arc::new(serde_saphyr::from_str::<AddressPool>(&text).unwrap()));
    }
    snapshot
}

fn add_node(snapshot: &mut Snapshot, name: &str, spec: &str, addresses: &[(&str, &str)]) {
    let mut list = String::new();
    for (type_, address) in addresses {
        write!(list, "{{type: {type_}, address: '{address}'}},").unwrap();
    }
    let text = format!(
        "{{metadata: {{name: {name}, labels: {{name: {name}}}}}, spec: {spec}, status: {{addresses: [{list}]}}}}"
    );
    snapshot.nodes.insert(name.into(), Arc::new(serde_saphyr::from_str::<ApiNode>(&text).unwrap()));
}

fn add_namespace(snapshot: &mut Snapshot, name: &str, labels: &str) {
    let text = format!("{{metadata: {{name: {name}, labels: {labels}}}}}");
    snapshot.namespaces.insert(name.into(), Arc::new(serde_saphyr::from_str::<Namespace>(&text).unwrap()));
}

fn given(snapshot: &Snapshot, claims: &[Claim]) -> BTreeMap<String, String> {
    let node = node(&[]);
    outcome_in(claims, &Pools::new(snapshot, &node), &node)
}

fn one_of(snapshot: &Snapshot, claim: Claim) -> String {
    let name = claim.object.object.name.clone();
    given(snapshot, &[claim]).remove(&name).unwrap()
}

fn with_ports(name: &str, ports: &[u16]) -> Claim {
    let ports = ports.iter().map(|port| (Port::try_new(i64::from(*port)).unwrap(), Proto::Tcp)).collect();
    Claim { ports, ..claim(name) }
}

fn v6(name: &str) -> Claim {
    Claim { families: vec![Family::V6], ..claim(name) }
}

#[test]
fn pools_are_tried_by_priority_then_by_name_and_flags_last() {
    let mut snapshot = with_pools(&[
        ("b", "{addresses: [192.0.2.2]}"),
        ("a", "{addresses: [192.0.2.1]}"),
        ("z", "{addresses: [192.0.2.9-192.0.2.10], priority: 10}"),
        ("low", "{addresses: [192.0.2.3], priority: -2147483648}"),
    ]);
    let node = node(&["198.51.100.0/30"]);
    let claims = (0..7).map(|n| claim(&format!("s{n}"))).collect::<Vec<_>>();
    let all = outcome_in(&claims, &Pools::new(&snapshot, &node), &node);
    let order = ["192.0.2.9", "192.0.2.10", "192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1", "198.51.100.2"];
    assert_eq!(all.values().collect::<Vec<_>>(), order);
    snapshot.pools.clear();
    assert_eq!(outcome_in(&claims[..1], &Pools::new(&snapshot, &node), &node)["s0"], "198.51.100.1");
}

#[test]
fn s79_selectors_decide_who_gets_new_addresses_but_take_none_away() {
    let mut snapshot = with_pools(&[
        ("team", "{addresses: [192.0.2.1-192.0.2.9], namespaceSelector: {matchLabels: {team: a}}, priority: 1}"),
        (
            "prod",
            "{addresses: [198.51.100.1-198.51.100.9], serviceSelector: {matchExpressions: [{key: env, operator: In, values: [prod]}]}}",
        ),
    ]);
    add_namespace(&mut snapshot, "default", "{team: b}");
    let labelled = Claim { labels: BTreeMap::from([("env".into(), "prod".into())]), ..claim("s") };
    assert_eq!(one_of(&snapshot, labelled.clone()), "198.51.100.1");
    assert_eq!(
        one_of(&snapshot, claim("s")),
        "NoPool: no pool gives it an IPv4 address: pool team is for namespaces team=a and namespace default is not one, \
         pool prod is for objects env in (prod) and this is not one"
    );
    assert_eq!(
        one_of(&snapshot, Claim { requested: ips(&["192.0.2.5"]), ..labelled.clone() }),
        "PoolNotAllowed: 192.0.2.5 is asked for, but its pool team is for namespaces team=a and namespace default is not one"
    );
    add_namespace(&mut snapshot, "default", "{team: a}");
    assert_eq!(one_of(&snapshot, labelled), "192.0.2.1");
    add_namespace(&mut snapshot, "default", "{team: b}");
    let had = Claim { given: ips(&["192.0.2.1"]), in_status: ips(&["192.0.2.1"]), is_annotated: true, ..claim("s") };
    assert_eq!(one_of(&snapshot, had), "192.0.2.1", "labels changed, the address stays");
}

#[test]
fn a_namespace_is_selected_by_its_name_even_where_namespaces_are_not_read() {
    let snapshot = with_pools(&[(
        "a",
        "{addresses: [192.0.2.1], namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}}",
    )]);
    assert_eq!(one_of(&snapshot, claim("s")), "192.0.2.1");
    let mut stranger = claim("s");
    stranger.object.object.ns = "other".into();
    assert!(one_of(&snapshot, stranger).starts_with("NoPool"));
}

#[test]
fn a_pool_that_does_not_assign_serves_who_asks_for_it_or_for_an_address() {
    let snapshot = with_pools(&[
        ("vip", "{addresses: [192.0.2.1-192.0.2.9], autoAssign: false, priority: 5}"),
        ("any", "{addresses: [198.51.100.1-198.51.100.9]}"),
    ]);
    let from = |pool: &str| Claim { pool: Some(pool.into()), ..claim("s") };
    assert_eq!(one_of(&snapshot, claim("s")), "198.51.100.1");
    assert_eq!(one_of(&snapshot, from("vip")), "192.0.2.1");
    assert_eq!(one_of(&snapshot, asks("s", &["192.0.2.7"])), "192.0.2.7");
    assert_eq!(one_of(&snapshot, Claim { requested: ips(&["192.0.2.7"]), ..from("vip") }), "192.0.2.7");
    assert_eq!(
        one_of(&snapshot, Claim { requested: ips(&["192.0.2.7"]), ..from("any") }),
        "PoolMismatch: 192.0.2.7 is asked for, which is one of pool vip, and so is pool any; want them to agree"
    );
    assert_eq!(one_of(&snapshot, from("nix")), "NoPool: pool \"nix\" is asked for, want one that exists: vip, any");
    let only_vip = with_pools(&[("vip", "{addresses: [192.0.2.1], autoAssign: false}")]);
    assert_eq!(
        one_of(&only_vip, claim("s")),
        "NoPool: no pool gives it an IPv4 address: pool vip is for objects that ask for it alone"
    );
}

#[test]
fn an_object_that_asks_for_another_pool_moves_there() {
    let snapshot = with_pools(&[("a", "{addresses: [192.0.2.1-192.0.2.9]}"), ("b", "{addresses: [198.51.100.1]}")]);
    let had = |pool: &str| Claim {
        given: ips(&["192.0.2.4"]),
        in_status: ips(&["192.0.2.4"]),
        is_annotated: true,
        pool: Some(pool.into()),
        ..claim("s")
    };
    assert_eq!(one_of(&snapshot, had("b")), "198.51.100.1", "told to");
    assert_eq!(one_of(&snapshot, had("a")), "192.0.2.4");
    assert_eq!(one_of(&snapshot, had("gone")), "192.0.2.4", "S66: a pool that is gone or renamed tells nothing");
}

#[test]
fn s68_s69_a_pool_that_shrinks_or_goes_keeps_live_addresses() {
    let node = node(&[]);
    let live = |n: u8| {
        let addrs = ips(&[&format!("192.0.2.{n}")]);
        Claim {
            given: addrs.clone(),
            in_status: addrs,
            has_finalizer: true,
            is_annotated: true,
            ..claim(&format!("s{n}"))
        }
    };
    let claims = [live(1), live(200)];
    let all = |snapshot: &Snapshot| outcome_in(&claims, &Pools::new(snapshot, &node), &node);
    let before = all(&with_pools(&[("p", "{addresses: [192.0.2.0/24]}")]));
    for after in [
        with_pools(&[("p", "{addresses: [192.0.2.0/25]}")]),
        with_pools(&[("renamed", "{addresses: [192.0.2.0/24]}")]),
        with_pools(&[("other", "{addresses: [198.51.100.0/24]}")]),
        with_pools(&[("p", "{addresses: [nonsense]}")]),
        Snapshot::default(),
    ] {
        assert_eq!(all(&after), before);
    }
}

#[test]
fn s74_a_pool_over_what_the_cluster_uses_is_refused_and_says_why() {
    let mut snapshot = with_pools(&[("p", "{addresses: [10.1.0.0/16, 192.0.2.0/28, 10.96.0.0/24, 203.0.113.0/29]}")]);
    add_node(&mut snapshot, "n1", "{podCIDRs: [10.1.4.0/24]}", &[("InternalIP", "192.0.2.3"), ("Hostname", "n1")]);
    let text = "{metadata: {name: dns}, spec: {clusterIP: 10.96.0.10}}";
    let service = serde_saphyr::from_str::<Service>(text).unwrap();
    snapshot.services.insert(service.metadata.object_name(), Arc::new(service));
    let pools = Pools::new(&snapshot, &node(&[]));
    let (object, verdict) = pools.verdicts().next().unwrap();
    assert_eq!(
        (object.to_string().as_str(), verdict.outcome, verdict.reason),
        ("AddressPool p", Outcome::Partial, "OverlapsPods")
    );
    assert_eq!(
        verdict.messages,
        [
            "spec.addresses[0]: 10.1.0.0/16 is not used: it overlaps 10.1.4.0/24, the addresses of the pods of Node n1; want addresses that nothing else has",
            "spec.addresses[1]: 192.0.2.0/28 is not used: it overlaps 192.0.2.3, the address of Node n1; want addresses that nothing else has",
            "spec.addresses[2]: 10.96.0.0/24 is not used: it overlaps 10.96.0.10, the clusterIP of Service default/dns; want addresses that nothing else has",
        ]
    );
    assert_eq!(one_of(&snapshot, claim("s")), "203.0.113.1", "the rest of it works");
    assert!(one_of(&snapshot, asks("s", &["10.1.0.1"])).starts_with("AddressOutsidePools"));
}

#[test]
fn s74_of_overlapping_pools_the_first_gives_and_no_address_is_given_twice() {
    let snapshot = with_pools(&[
        ("a", "{addresses: [192.0.2.1-192.0.2.4]}"),
        ("b", "{addresses: [192.0.2.3-192.0.2.6], priority: 1}"),
    ]);
    let claims = (0..7).map(|n| claim(&format!("s{n}"))).collect::<Vec<_>>();
    let all = given(&snapshot, &claims);
    let order = ["192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.1", "192.0.2.2"];
    assert_eq!(all.values().take(6).collect::<Vec<_>>(), order);
    assert!(
        all["s6"].starts_with("PoolExhausted: no IPv4 address is free: 4 of 4 addresses of pool b are in use, 4 of 4")
    );
    let pools = Pools::new(&snapshot, &node(&[]));
    let verdicts = pools.verdicts().map(|(_, v)| (v.outcome, v.messages.join(""))).collect::<Vec<_>>();
    assert_eq!(
        verdicts,
        [
            (
                Outcome::Accepted,
                "192.0.2.3-192.0.2.6 overlaps 192.0.2.1-192.0.2.4 of pool a; this pool is tried first".into()
            ),
            (
                Outcome::Accepted,
                "192.0.2.1-192.0.2.4 overlaps 192.0.2.3-192.0.2.6 of pool b, which is tried first".into()
            ),
        ]
    );
}

#[test]
fn s75_sharing_wants_disjoint_ports_equal_pods_and_leave_from_both_namespaces() {
    let snapshot = with_pools(&[("p", "{addresses: [192.0.2.1-192.0.2.9]}")]);
    let keyed = |name: &str, ports: &[u16]| Claim { sharing_key: Some("k".into()), ..with_ports(name, ports) };
    let local = |name: &str, port: u16, app: &str| Claim {
        local: Some(BTreeMap::from([("app".into(), app.into())])),
        ..keyed(name, &[port])
    };
    let second = |second: Claim, first: Claim| given(&snapshot, &[first, second]).remove("b").unwrap();
    let shared = "192.0.2.1";
    assert_eq!(second(keyed("b", &[443]), keyed("a", &[80])), shared, "without asking for the address");
    assert_eq!(second(keyed("b", &[443, 80]), keyed("a", &[80])), "192.0.2.2", "a port in common");
    assert_eq!(second(with_ports("b", &[443]), keyed("a", &[80])), "192.0.2.2", "no key");
    assert_eq!(second(local("b", 443, "x"), local("a", 80, "x")), shared);
    assert_eq!(second(local("b", 443, "y"), local("a", 80, "x")), "192.0.2.2", "other pods");
    assert_eq!(second(local("b", 443, "x"), keyed("a", &[80])), "192.0.2.2", "one is Local alone");
    let elsewhere = |ns: &str| {
        let mut claim = Claim { sharing_namespaces: vec!["default".into()], ..keyed("b", &[443]) };
        claim.object.object.ns = ns.into();
        claim
    };
    let admits = Claim { sharing_namespaces: vec!["other".into()], ..keyed("a", &[80]) };
    assert_eq!(second(elsewhere("other"), admits.clone()), shared);
    assert_eq!(second(elsewhere("third"), admits), "192.0.2.2", "not named");
    assert_eq!(second(elsewhere("other"), keyed("a", &[80])), "192.0.2.2", "named by one of both");

    let asks = |claim: Claim| Claim { requested: ips(&["192.0.2.1"]), ..claim };
    assert_eq!(second(asks(keyed("b", &[80, 81])), asks(keyed("a", &[80]))), shared, "asked for: port 81 works");
    assert!(second(asks(local("b", 443, "y")), asks(local("a", 80, "x"))).starts_with("PolicyConflict: 192.0.2.1"));
    let udp = Claim { ports: BTreeSet::from([(Port::try_new(80).unwrap(), Proto::Udp)]), ..asks(keyed("b", &[])) };
    assert_eq!(second(udp, asks(keyed("a", &[80]))), shared, "another protocol");
}

#[test]
fn s75_who_shares_and_then_changes_its_ports_keeps_the_address_and_with_another_key_does_not() {
    let snapshot = with_pools(&[("p", "{addresses: [192.0.2.1-192.0.2.9]}")]);
    let live = |name: &str, port: u16, key: &str| Claim {
        given: ips(&["192.0.2.1"]),
        in_status: ips(&["192.0.2.1"]),
        is_annotated: true,
        sharing_key: Some(key.into()),
        ..with_ports(name, &[port])
    };
    let both = |b: Claim| given(&snapshot, &[live("a", 80, "k"), b]).into_values().collect::<Vec<_>>();
    assert_eq!(both(live("b", 443, "k")), ["192.0.2.1", "192.0.2.1"]);
    assert_eq!(both(live("b", 80, "k")), ["192.0.2.1", "192.0.2.1"], "the port is decided apart");
    let moved = both(live("b", 443, "other"));
    assert_eq!(moved[0], "192.0.2.1");
    assert!(moved[1].starts_with("192.0.2.2") || moved[1].starts_with("AddressTaken"), "{moved:?}");
}

#[test]
fn nodes_addresses_are_shared_by_all_whose_ports_differ() {
    let mut snapshot = with_pools(&[("edge", "{nodeAddresses: {}}")]);
    add_node(
        &mut snapshot,
        "n1",
        "{}",
        &[("ExternalIP", "203.0.113.1"), ("InternalIP", "192.0.2.1"), ("InternalIP", "2001:db8::1")],
    );
    let mut other = with_ports("c", &[53]);
    other.object.object.ns = "other".into();
    let claims = [
        with_ports("a", &[80, 443]),
        with_ports("b", &[8080]),
        other,
        with_ports("d", &[443]),
        with_ports("e", &[6443]),
    ];
    let all = given(&snapshot, &claims);
    assert_eq!((all["a"].as_str(), all["b"].as_str(), all["c"].as_str()), ("192.0.2.1", "192.0.2.1", "192.0.2.1"));
    assert_eq!(
        all["d"],
        "PoolExhausted: no IPv4 address is free: 192.0.2.1 of pool edge: Service default/a has port 443/TCP of it; want a larger pool or another one"
    );
    assert!(all["e"].contains("port 6443 is reserved for the nodes by pool edge"), "{all:?}");
    let dual = Claim { families: BOTH.to_vec(), ..with_ports("a", &[80]) };
    assert_eq!(one_of(&snapshot, dual), "192.0.2.1 2001:db8::1");
    let pools = Pools::new(&snapshot, &node(&[]));
    let addr = ips(&["192.0.2.1"])[0];
    assert!(pools.is_of_node(addr) && !pools.is_announced(addr), "the node answers for it already");

    add_node(&mut snapshot, "n2", "{}", &[("InternalIP", "192.0.2.2")]);
    assert_eq!(given(&snapshot, &claims)["d"], "192.0.2.2", "the next node");
    let external = "{nodeAddresses: {types: [ExternalIP, InternalIP], nodeSelector: {matchLabels: {name: n1}}, reservedPorts: []}}";
    let changed = with_pools(&[("edge", external)]);
    snapshot.pools = changed.pools;
    assert_eq!(given(&snapshot, &claims)["e"], "203.0.113.1", "nothing is reserved");
}

#[test]
fn an_address_that_no_node_has_any_more_is_given_up() {
    let mut snapshot = with_pools(&[("edge", "{nodeAddresses: {}}")]);
    add_node(&mut snapshot, "n1", "{}", &[("InternalIP", "192.0.2.1")]);
    let had = Claim {
        in_status: ips(&["192.0.2.9"]),
        given: ips(&["192.0.2.9"]),
        has_finalizer: true,
        is_annotated: true,
        ..with_ports("a", &[80])
    };
    assert_eq!(one_of(&snapshot, had.clone()), "192.0.2.1", "the node came back with another address");
    snapshot.pools.extend(with_pools(&[("p", "{addresses: [198.51.100.1]}")]).pools);
    assert_eq!(one_of(&snapshot, had), "192.0.2.9", "it may be what a larger pool gave");
}

#[test]
fn s73_a_pool_says_whether_odd_addresses_are_given_and_who_asks_gets_them() {
    let pool = |avoid: &str| with_pools(&[("p", &format!("{{addresses: [192.0.2.0/24, '2001:db8::/64']{avoid}}}"))]);
    assert_eq!(one_of(&pool(""), claim("s")), "192.0.2.1");
    assert_eq!(one_of(&pool(", avoidBuggyAddresses: false"), claim("s")), "192.0.2.0");
    assert_eq!(one_of(&pool(""), asks("s", &["192.0.2.255"])), "192.0.2.255");
    assert_eq!(one_of(&pool(", avoidBuggyAddresses: false"), v6("s")), "2001:db8::1");
}

#[test]
fn a_pool_that_is_being_deleted_gives_nothing_new() {
    let mut snapshot = with_pools(&[("p", "{addresses: [192.0.2.1-192.0.2.9]}")]);
    let pool = snapshot.pools.get_mut("p").map(Arc::make_mut).unwrap();
    pool.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
    assert_eq!(one_of(&snapshot, claim("s")), "NoPool: no pool gives it an IPv4 address: pool p is being deleted");
    assert_eq!(one_of(&snapshot, shows("s", &["192.0.2.3"])), "192.0.2.3");
}

#[test]
fn b8_what_the_host_has_is_not_given_and_the_reason_says_so() {
    let host = HostAddresses {
        on_uplinks: ips(&["10.9.1.1"]).into_iter().collect(),
        anywhere: ips(&["10.9.1.1", "10.9.1.2", "127.0.0.1"]).into_iter().collect(),
    };
    let node = Node { addresses: host.into(), ..node(&["10.9.1.0/29"]) };
    let names = ["a", "b", "c", "d", "e"];
    let claims = names.map(claim);
    let given = outcome(&claims, &node);
    let had = ["10.9.1.3", "10.9.1.4", "10.9.1.5", "10.9.1.6"];
    assert_eq!(["a", "b", "c", "d"].map(|name| given[name].as_str()), had);
    let (_, refused) = assign(&claims, &node);
    let text = &refused[0].1.messages[0];
    assert!(text.contains("4 of 6 addresses") && text.contains("and 10.9.1.1, 10.9.1.2 is this node's own"), "{text}");
    let (_, refused) = assign(&[asks("f", &["10.9.1.1"])], &node);
    let (reason, text) = (refused[0].1.reason, &refused[0].1.messages[0]);
    assert_eq!(reason, "AddressInUse");
    assert_eq!(text, "10.9.1.1 is asked for, but it is this node's own address; want another address");
    // What is bound elsewhere on the host may be bound for this very object, and what it had it keeps.
    assert_eq!(outcome(&[asks("f", &["10.9.1.2"])], &node)["f"], "10.9.1.2");
    assert_eq!(outcome(&[shows("f", &["10.9.1.2"])], &node)["f"], "10.9.1.2");
}
