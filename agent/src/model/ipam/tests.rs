mod member;
mod pools;

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    api::ObjectName,
    model::{Outcome, fixture::node, pool::check_pools},
    source::Snapshot,
};

fn claim(name: &str) -> Claim {
    Claim {
        object: ObjectRef::new("Service", ObjectName::new("default", name)),
        families: vec![Family::V4],
        ..Claim::default()
    }
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];

/// With the flags of the node alone.
fn assign(claims: &[Claim], node: &Node) -> (Allocations, Vec<(ObjectRef, Verdict)>) {
    super::assign(claims, &Pools::new(&Snapshot::default(), node), node)
}

fn ips(all: &[&str]) -> Vec<IpAddr> {
    all.iter().map(|a| a.parse().unwrap()).collect()
}

fn asks(name: &str, addrs: &[&str]) -> Claim {
    Claim { requested: ips(addrs), ..claim(name) }
}

fn shows(name: &str, addrs: &[&str]) -> Claim {
    Claim { in_status: ips(addrs), ..claim(name) }
}

/// `NAME` -> its addresses, or the reason why it has none.
fn outcome(claims: &[Claim], node: &Node) -> BTreeMap<String, String> {
    outcome_in(claims, &Pools::new(&Snapshot::default(), node), node)
}

fn outcome_in(claims: &[Claim], pools: &Pools, node: &Node) -> BTreeMap<String, String> {
    let (given, refused) = super::assign(claims, pools, node);
    let join = |addrs: &Vec<IpAddr>| addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let given = given.iter().map(|(o, addrs)| (o.object.name.clone(), join(addrs)));
    let refused = refused.into_iter().map(|(o, v)| (o.object.name, format!("{}: {}", v.reason, v.messages.join("; "))));
    let all = given.chain(refused).collect::<BTreeMap<_, _>>();
    assert_eq!(all.len(), claims.len(), "each has an outcome");
    all
}

fn one(claims: &[Claim], node: &Node, name: &str) -> String {
    outcome(claims, node).remove(name).unwrap()
}

#[test]
fn s73_the_lowest_free_address_is_given_but_not_the_ends_of_an_ipv4_range() {
    let first = |pool: &str, v6: bool| {
        one(&[Claim { families: vec![BOTH[usize::from(v6)]], ..claim("a") }], &node(&[pool]), "a")
    };
    assert_eq!(first("192.0.2.0/24", false), "192.0.2.1");
    assert_eq!(first("192.0.2.77/24", false), "192.0.2.1", "host bits do not matter");
    assert_eq!(first("192.0.2.4/31", false), "192.0.2.4");
    assert_eq!(first("192.0.2.4/32", false), "192.0.2.4");
    assert_eq!(first("2001:db8::7/128", true), "2001:db8::7");
    assert_eq!(first("2001:db8::/64", true), "2001:db8::1", "the routers have the first");
    assert_eq!(one(&[asks("a", &["192.0.2.0"])], &node(&["192.0.2.0/24"]), "a"), "192.0.2.0", "unless asked for");
}

#[test]
fn older_claims_come_first_then_the_lesser_name() {
    let at = |name: &str, created: Option<&str>| Claim { created: created.map(Into::into), ..claim(name) };
    let claims = [at("a", Some("2026-01-02T00:00:00Z")), at("b", Some("2026-01-01T00:00:00Z")), at("c", None)];
    let all = outcome(&claims, &node(&["192.0.2.0/30"]));
    assert_eq!((all["c"].as_str(), all["b"].as_str()), ("192.0.2.1", "192.0.2.2"));
    assert!(all["a"].starts_with("PoolExhausted"), "{all:?}");
}

#[test]
fn s70_an_exhausted_pool_says_how_full_it_is_and_the_oldest_waiter_is_next() {
    let mut node = node(&["192.0.2.0/30", "198.51.100.9/32"]);
    let claims = ["a", "b", "c", "d", "e"].map(claim);
    let all = outcome(&claims, &node);
    let text = "PoolExhausted: no IPv4 address is free: 2 of 2 addresses of pool 192.0.2.0/30 are in use, 1 of 1 addresses of pool 198.51.100.9/32 are in use; want a larger pool or another one";
    assert_eq!((all["d"].as_str(), all["e"].as_str()), (text, text));
    node.allocations = Arc::new(assign(&claims, &node).0);
    let freed = outcome(&claims[1..], &node);
    assert_eq!(
        (freed["b"].as_str(), freed["c"].as_str(), freed["d"].as_str()),
        ("192.0.2.2", "198.51.100.9", "192.0.2.1")
    );
    assert!(freed["e"].starts_with("PoolExhausted"));
    let v6 = Claim { families: vec![Family::V6], ..claim("six") };
    assert_eq!(
        one(&[v6], &node, "six"),
        "NoPool: no pool has IPv6 addresses, want one: an AddressPool, or --pool CIDR"
    );
}

#[test]
fn s66_s67_what_objects_have_is_theirs_before_anything_is_given_or_asked_for() {
    let mut node = node(&["192.0.2.0/24"]);
    Arc::make_mut(&mut node.allocations).insert(claim("z").object, ips(&["192.0.2.1"]));
    let claims = [claim("a"), asks("b", &["192.0.2.1"]), shows("y", &["192.0.2.2"]), claim("z")];
    let all = outcome(&claims, &node);
    assert_eq!((all["a"].as_str(), all["y"].as_str(), all["z"].as_str()), ("192.0.2.3", "192.0.2.2", "192.0.2.1"));
    assert_eq!(
        all["b"],
        "AddressTaken: 192.0.2.1 is asked for, but Service default/z has it; want another address, or annotation sluice.dev/sharing-key with one value on both, in one namespace"
    );
}

#[test]
fn s68_an_address_that_left_the_pools_stays_with_its_object() {
    let mut node = node(&["198.51.100.0/24"]);
    Arc::make_mut(&mut node.allocations).insert(claim("a").object, ips(&["192.0.2.1"]));
    let of_our_class = Claim { is_of_our_class: true, ..shows("b", &["192.0.2.2"]) };
    let claims = [claim("a"), of_our_class, claim("c")];
    let all = outcome(&claims, &node);
    assert_eq!(all.values().collect::<Vec<_>>(), ["192.0.2.1", "192.0.2.2", "198.51.100.1"]);
    assert_eq!(one(&[asks("a", &["192.0.2.1"])], &node, "a"), "192.0.2.1", "asked for and had");
}

#[test]
fn s71_a_request_that_cannot_be_met_gets_no_other_address() {
    let node = node(&["192.0.2.0/24", "2001:db8::/64"]);
    let reason = |claim: Claim| one(&[claim], &node, "a");
    assert_eq!(
        reason(asks("a", &["198.51.100.1"])),
        "AddressOutsidePools: 198.51.100.1 is asked for, want one of a pool: 192.0.2.0/24, 2001:db8::/64"
    );
    assert_eq!(
        reason(asks("a", &["2001:db8::1"])),
        "AddressFamilyMismatch: 2001:db8::1 is asked for, want an IPv4 address as the object's families say"
    );
    assert!(reason(asks("a", &["192.0.2.1", "192.0.2.2"])).starts_with("TooManyAddresses"));
    let claims = [asks("a", &["192.0.2.1"]), asks("b", &["192.0.2.1"])];
    assert!(one(&claims, &node, "b").contains("Service default/a has it"));
    assert!(one(&[claims[0].clone(), shows("b", &["192.0.2.1"])], &node, "a").contains("Service default/b has it"));
}

#[test]
fn an_object_that_asks_for_another_address_moves_and_frees_its_own() {
    let mut node = node(&["192.0.2.0/24"]);
    Arc::make_mut(&mut node.allocations).insert(claim("a").object, ips(&["192.0.2.1"]));
    let moved = Claim { in_status: ips(&["192.0.2.1"]), ..asks("a", &["192.0.2.9"]) };
    let all = outcome(&[moved, claim("b")], &node);
    assert_eq!(all.values().collect::<Vec<_>>(), ["192.0.2.9", "192.0.2.1"]);
}

#[test]
fn addresses_in_status_that_nobody_can_serve_are_not_adopted() {
    for bad in ["127.0.0.1", "224.0.0.1", "0.0.0.0"] {
        let shows = Claim { is_of_our_class: true, ..shows("a", &[bad]) };
        assert_eq!(one(&[shows], &node(&["192.0.2.0/24"]), "a"), "192.0.2.1", "{bad}");
    }
}

#[test]
fn s74_overlapping_and_reserved_pools_are_named_and_harm_nothing() {
    let pools = ["192.0.2.0/25", "192.0.2.0/24", "127.0.0.0/30", "0.0.0.0/0", "2001:db8::/64"];
    let node = node(&pools);
    assert_eq!(
        check_pools(&node.pools),
        [
            "pool 192.0.2.0/24 overlaps pool 192.0.2.0/25, which comes first and gives the addresses of both",
            "pool 127.0.0.0/30 is not used: it overlaps the reserved range 127.0.0.0/8; want unicast addresses that are routed",
            "pool 0.0.0.0/0 is not used: it overlaps the reserved range 0.0.0.0/8; want unicast addresses that are routed",
        ]
    );
    let claims = (0..254).map(|n| claim(&format!("{n:03}"))).collect::<Vec<_>>();
    let (given, refused) = assign(&claims, &node);
    assert_eq!(given.values().flatten().collect::<BTreeSet<_>>().len(), 254, "{refused:?}");
    assert!(one(&[asks("a", &["127.0.0.1"])], &node, "a").starts_with("AddressOutsidePools"));
}

#[test]
fn s75_s76_objects_of_one_namespace_share_an_address_by_key_in_any_order() {
    let shared = |name: &str, key: &str| Claim { sharing_key: Some(key.into()), ..asks(name, &["192.0.2.5"]) };
    let mut foreign = shared("d", "k");
    foreign.object.object.ns = "other".into();
    let claims = [shared("a", "k"), shared("b", "k"), shared("c", "other"), foreign, asks("e", &["192.0.2.5"])];
    let mut node = node(&["192.0.2.0/24"]);
    let all = outcome(&claims, &node);
    assert_eq!((all["a"].as_str(), all["b"].as_str()), ("192.0.2.5", "192.0.2.5"));
    for loser in ["c", "d", "e"] {
        assert!(
            all[loser].starts_with("AddressTaken: 192.0.2.5 is asked for, but Service default/a has it"),
            "{all:?}"
        );
    }
    node.allocations = Arc::new(assign(&claims, &node).0);
    let restarted = claims.iter().rev().cloned().collect::<Vec<_>>();
    assert_eq!(outcome(&restarted, &node), all, "after a restart, in another order");
    assert_eq!(one(&[claim("x"), claims[1].clone()], &node, "b"), "192.0.2.5", "one sharer leaves");
}

#[test]
fn s77_dual_stack_keeps_what_is_there_and_is_whole_or_nothing_where_required() {
    let dual = |name: &str, all_families| Claim { families: BOTH.to_vec(), all_families, ..claim(name) };
    let both = node(&["192.0.2.0/24", "2001:db8::/64"]);
    assert_eq!(one(&[dual("a", true)], &both, "a"), "192.0.2.1 2001:db8::1");
    let single = node(&["192.0.2.0/24"]);
    assert_eq!(one(&[dual("a", false)], &single, "a"), "192.0.2.1");
    let all = outcome(&[dual("a", true), claim("b")], &single);
    assert_eq!(all["a"], "NoPool: no pool has IPv6 addresses, want one: an AddressPool, or --pool CIDR");
    assert_eq!(all["b"], "192.0.2.1", "nothing is held back for it");
    let mut upgraded = both.clone();
    Arc::make_mut(&mut upgraded.allocations).insert(claim("a").object, ips(&["192.0.2.44"]));
    assert_eq!(one(&[dual("a", true)], &upgraded, "a"), "192.0.2.44 2001:db8::1");
    Arc::make_mut(&mut upgraded.allocations).insert(claim("a").object, ips(&["192.0.2.44", "2001:db8::9"]));
    assert_eq!(one(&[claim("a")], &upgraded, "a"), "192.0.2.44", "S78: the second one is released");
    let undecided = Claim { families: vec![], ..claim("a") };
    assert_eq!(one(std::slice::from_ref(&undecided), &node(&["2001:db8::/64", "192.0.2.0/24"]), "a"), "2001:db8::1");
    assert_eq!(one(&[Claim { requested: ips(&["192.0.2.9"]), ..undecided }], &both, "a"), "192.0.2.9");
}

#[test]
fn a_huge_pool_costs_nothing() {
    let node = node(&["2001:db8::/32", "10.0.0.0/8"]);
    let claims = (0..2_000).map(|n| Claim { families: BOTH.to_vec(), ..claim(&format!("{n:04}")) }).collect::<Vec<_>>();
    let (given, refused) = assign(&claims, &node);
    assert_eq!((given.len(), refused.len()), (2_000, 0));
    assert_eq!(given[&claims[1_999].object], ips(&["10.0.7.208", "2001:db8::7d0"]));
}
