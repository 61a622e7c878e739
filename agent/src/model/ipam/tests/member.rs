//! What is written on objects: by the leader, by other controllers, by people. And properties of all of it together.
use super::{pools::with_pools, *};
use crate::model::Role;

fn bears(name: &str, addrs: &[&str]) -> Claim {
    Claim { given: ips(addrs), has_finalizer: true, is_annotated: true, ..claim(name) }
}

#[test]
fn s66_s67_what_the_leader_wrote_is_had_after_any_restart() {
    let node = node(&["192.0.2.0/24"]);
    let confirmed = Claim { in_status: ips(&["192.0.2.7"]), ..bears("z", &["192.0.2.7"]) };
    let claims = [claim("a"), asks("b", &["192.0.2.7"]), bears("c", &["192.0.2.1"]), confirmed];
    let all = outcome(&claims, &node);
    assert_eq!((all["a"].as_str(), all["c"].as_str(), all["z"].as_str()), ("192.0.2.2", "192.0.2.1", "192.0.2.7"));
    assert!(all["b"].starts_with("AddressTaken"), "{all:?}");
}

#[test]
fn what_the_leader_wrote_last_beats_memory_and_status() {
    let mut node = node(&["192.0.2.0/24"]);
    Arc::make_mut(&mut node.allocations).insert(claim("a").object, ips(&["192.0.2.1"]));
    let moved = Claim { in_status: ips(&["192.0.2.1"]), ..bears("a", &["192.0.2.9"]) };
    assert_eq!(one(&[moved.clone(), claim("b")], &node, "a"), "192.0.2.9");
    assert_eq!(one(&[moved.clone(), claim("b")], &node, "b"), "192.0.2.1", "and what it had is free");
    let taken = [moved, Claim { in_status: ips(&["192.0.2.9"]), ..bears("b", &["192.0.2.9"]) }];
    assert_eq!(one(&taken, &node, "a"), "192.0.2.1", "what it has, where the other is another's");
}

#[test]
fn an_annotation_alone_takes_no_address_that_its_writer_could_not_ask_for() {
    let node = node(&["192.0.2.0/30"]);
    let old = |claim: Claim| Claim { created: Some("2020-01-01T00:00:00Z".into()), ..claim };
    let young = |claim: Claim| Claim { created: Some("2026-01-01T00:00:00Z".into()), ..claim };
    let victim = young(Claim { in_status: ips(&["192.0.2.2"]), ..bears("victim", &["192.0.2.2"]) });
    let all = outcome(&[old(bears("thief", &["192.0.2.2"])), victim], &node);
    assert_eq!((all["thief"].as_str(), all["victim"].as_str()), ("192.0.2.1", "192.0.2.2"));
    assert_eq!(one(&[bears("a", &["198.51.100.1"])], &node, "a"), "192.0.2.1", "outside the pools");
    let closed = with_pools(&[
        ("team", "{addresses: [198.51.100.1], namespaceSelector: {matchLabels: {team: a}}}"),
        ("any", "{addresses: [192.0.2.1]}"),
    ]);
    let pools = Pools::new(&closed, &node);
    let all = outcome_in(&[bears("a", &["198.51.100.1"])], &pools, &node);
    assert_eq!(all["a"], "192.0.2.1", "of a pool that is for others");
}

#[test]
fn s8_a_service_that_shows_anothers_address_is_the_others() {
    let node = node(&["192.0.2.0/24"]);
    let hostname = Claim { other_status: vec!["lb.example.com".into()], ..claim("h") };
    let all = outcome(&[shows("a", &["198.51.100.9"]), hostname.clone(), shows("ours", &["192.0.2.9"])], &node);
    assert_eq!(
        all["a"],
        "ForeignStatus: status shows 198.51.100.9, which no pool has: it is another controller's; want loadBalancerClass \"sluice.dev/lb\", or status empty"
    );
    assert!(all["h"].starts_with("ForeignStatus: status shows lb.example.com"), "{all:?}");
    assert_eq!(all["ours"], "192.0.2.9");
    let (_, refused) = assign(&[shows("a", &["198.51.100.9"])], &node);
    assert_eq!(refused[0].1.outcome, Outcome::Ignored);
    for (claim, expected) in [
        (Claim { is_of_our_class: true, ..shows("a", &["198.51.100.9"]) }, "198.51.100.9"),
        (Claim { is_annotated: true, ..shows("a", &["198.51.100.9"]) }, "192.0.2.1"),
        (Claim { is_of_our_class: true, ..hostname }, "192.0.2.1"),
        (Claim { in_status: ips(&["198.51.100.9"]), ..bears("a", &["198.51.100.9"]) }, "198.51.100.9"),
        // F11 of issue 8: without the finalizer the annotation is anybody's.
        (
            Claim { has_finalizer: false, in_status: ips(&["198.51.100.9"]), ..bears("a", &["198.51.100.9"]) },
            "192.0.2.1",
        ),
        (shows("a", &["198.51.100.9", "192.0.2.5"]), "192.0.2.5"),
    ] {
        assert_eq!(
            outcome(std::slice::from_ref(&claim), &node).into_values().next().as_deref(),
            Some(expected),
            "{claim:?}"
        );
    }
}

#[test]
fn s84_what_is_being_deleted_keeps_its_address_from_others_and_gets_none() {
    let node = node(&["192.0.2.1/32"]);
    let leaving = |claim: Claim| Claim { is_leaving: true, ..claim };
    let (given, refused) = assign(&[leaving(bears("a", &["192.0.2.1"])), claim("b")], &node);
    assert!(given.is_empty(), "{given:?}");
    assert_eq!(
        refused.iter().map(|(o, v)| (o.object.name.as_str(), v.reason)).collect::<Vec<_>>(),
        [("b", "PoolExhausted")]
    );
    let (given, _) = assign(&[leaving(claim("a")), claim("b")], &node);
    assert_eq!(given.keys().map(|o| o.object.name.as_str()).collect::<Vec<_>>(), ["b"], "it had none");
}

#[test]
fn a_member_has_what_is_written_on_the_object_and_waits_for_the_rest() {
    let node = Node { role: Role::Member, ..node(&["192.0.2.0/24", "2001:db8::/64"]) };
    let pools = Pools::new(&Snapshot::default(), &node);
    let dual = |claim: Claim| Claim { families: BOTH.to_vec(), ..claim };
    let claims = [
        bears("a", &["192.0.2.3"]),
        shows("b", &["192.0.2.4"]),
        claim("c"),
        dual(bears("d", &["192.0.2.5"])),
        bears("thief", &["192.0.2.3"]),
    ];
    let (wanted, refused) = super::super::assign(&claims, &pools, &node);
    assert!(refused.is_empty() && wanted.len() == 5, "{refused:?}");
    let (have, pending) = persisted(&claims, &pools, &wanted);
    let have = have.iter().map(|(o, a)| (o.object.name.as_str(), a.clone())).collect::<Vec<_>>();
    assert_eq!(have, [("a", ips(&["192.0.2.3"])), ("b", ips(&["192.0.2.4"])), ("d", ips(&["192.0.2.5"]))]);
    let pending = pending.iter().map(|(o, v)| (o.object.name.as_str(), v.reason)).collect::<Vec<_>>();
    assert_eq!(pending, [("c", "Pending"), ("thief", "Pending")]);
}

fn drawn_claims() -> impl Strategy<Value = Vec<Claim>> {
    let addr = || {
        let all =
            ["192.0.2.1", "192.0.2.2", "192.0.2.9", "198.51.100.1", "198.51.100.9", "2001:db8::1", "127.0.0.1", "::"];
        prop::sample::select(ips(&all))
    };
    let addrs = |most: usize| prop::collection::vec(addr(), 0..most);
    let one = (
        (any::<[bool; 6]>(), prop::option::of(0..3_u8)),
        (addrs(2), addrs(3), addrs(2)),
        prop::option::of(prop::sample::select(vec!["k", "l"])),
        prop::collection::btree_set(prop::sample::select(vec![80_i64, 81, 82]), 0..3),
        prop::option::weighted(0.2, prop::sample::select(vec!["a", "b", "none"])),
        prop::option::weighted(0.2, prop::sample::select(vec!["x", "y"])),
    );
    prop::collection::vec(one, 0..10).prop_map(|all| {
        let claim = |(n, ((flags, created), (in_status, requested, given), key, ports, pool, local)): (usize, _)| {
            let [v4, v6, all_families, other, is_of_our_class, is_leaving]: [bool; 6] = flags;
            let created: Option<u8> = created;
            let (key, pool, local): (Option<&str>, Option<&str>, Option<&str>) = (key, pool, local);
            let ports: BTreeSet<i64> = ports;
            let mut claim = Claim {
                created: created.map(|c| format!("2026-01-0{c}T00:00:00Z")),
                families: [(v4, Family::V4), (v6, Family::V6)]
                    .into_iter()
                    .filter_map(|(w, f)| w.then_some(f))
                    .collect(),
                is_annotated: key.is_some(),
                sharing_key: key.map(Into::into),
                sharing_namespaces: vec!["default".into(), "other".into()],
                ports: ports.into_iter().map(|p| (Port::try_new(p).unwrap(), Proto::Tcp)).collect(),
                pool: pool.map(Into::into),
                local: local.map(|app| BTreeMap::from([("app".into(), app.into())])),
                is_leaving: is_leaving && n % 3 == 0,
                ..Claim { all_families, in_status, requested, given, is_of_our_class, ..claim(&format!("s{n}")) }
            };
            if other {
                claim.object.object.ns = "other".into();
            }
            claim
        };
        all.into_iter().enumerate().map(claim).collect()
    })
}

fn drawn_pools() -> impl Strategy<Value = Snapshot> {
    let specs = [
        "{addresses: [192.0.2.0/29, '2001:db8::/126']}",
        "{addresses: [192.0.2.0/30], priority: 7, autoAssign: false}",
        "{addresses: [192.0.2.4-192.0.2.9], namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: other}}}",
        "{addresses: [198.51.100.1, nonsense], priority: -1}",
        "{nodeAddresses: {}}",
    ];
    prop::collection::vec(prop::sample::select(specs.to_vec()), 0..4).prop_map(|specs| {
        let names = ["a", "b", "c", "d"].into_iter().zip(specs).collect::<Vec<_>>();
        let mut snapshot = with_pools(&names);
        let text = "{metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 198.51.100.9}]}}";
        snapshot.nodes.insert("n1".into(), Arc::new(serde_saphyr::from_str(text).unwrap()));
        snapshot
    })
}

proptest! {
    #[test]
    fn assignments_are_total_disjoint_stable_and_do_not_depend_on_the_order(
        claims in drawn_claims(),
        before in drawn_pools(),
        after in drawn_pools(),
        gone in any::<prop::sample::Index>(),
    ) {
        let mut node = node(&["192.0.2.0/29", "192.0.2.8/30", "2001:db8::/126"]);
        let pools = Pools::new(&before, &node);
        let assign = super::super::assign;
        let (given, refused) = assign(&claims, &pools, &node);
        let staying = claims.iter().filter(|c| !c.is_leaving).count();
        prop_assert_eq!(given.len() + refused.len(), staying);
        let of = |o: &ObjectRef| claims.iter().find(|c| c.object == *o).unwrap();
        for (a, addrs) in &given {
            prop_assert!(!addrs.is_empty() && addrs.iter().all(|addr| unusable(*addr).is_none()));
            for (b, others) in given.iter().filter(|(b, _)| *b != a) {
                for addr in addrs.iter().filter(|addr| others.contains(addr)) {
                    prop_assert!(pools.is_of_node(*addr) || of(a).has_key_of(of(b)), "{} and {} have {}", a, b, addr);
                }
            }
        }
        for (object, verdict) in &refused {
            prop_assert!(verdict.outcome != Outcome::Accepted && !verdict.messages.is_empty(), "{} {:?}", object, verdict);
        }
        let mut turned = claims.clone();
        turned.reverse();
        prop_assert_eq!(&assign(&turned, &pools, &node).0, &given);

        // Memory, then an object that goes, then other pools: who has something keeps it.
        node.allocations = Arc::new(given.clone());
        prop_assert_eq!(&assign(&claims, &pools, &node).0, &given);
        let mut fewer = claims.clone();
        if !fewer.is_empty() {
            fewer.remove(gone.index(fewer.len()));
        }
        let keeps = |now: &Allocations, claim: &Claim| {
            let kept = now.get(&claim.object).cloned().unwrap_or_default();
            given[&claim.object].iter().all(|a| kept.contains(a))
        };
        let later = assign(&fewer, &pools, &node).0;
        // What is written and was another's may be had now, and beats memory: whoever has lost it was told so. What is written on
        // another does so too, though that one may be refused for something else.
        let is_written = |addr: &IpAddr, c: &Claim| {
            claims.iter().any(|o| o.object != c.object && (o.given.contains(addr) || o.in_status.contains(addr)))
        };
        let is_agreed = |c: &&Claim| {
            let has = given.get(&c.object);
            has.is_some_and(|has| c.given.iter().all(|a| has.contains(a)) && !has.iter().any(|a| is_written(a, c)))
        };
        for claim in fewer.iter().filter(is_agreed) {
            prop_assert!(keeps(&later, claim), "{:?} has {:?}", claim, later.get(&claim.object));
        }

        // What was decided is written on the objects and shown: memory may be lost, in any order, and pools may change.
        let written = |claim: &Claim| {
            let addrs = given.get(&claim.object).cloned().unwrap_or_default();
            Claim { given: addrs.clone(), in_status: addrs, has_finalizer: true, is_annotated: true, ..claim.clone() }
        };
        let written = claims.iter().filter(|c| given.contains_key(&c.object)).map(written).collect::<Vec<_>>();
        node.allocations = Arc::default();
        let restarted = assign(&written, &pools, &node).0;
        for claim in &written {
            prop_assert!(keeps(&restarted, claim), "{:?} has {:?}", claim, restarted.get(&claim.object));
        }
        let changed = Pools::new(&after, &node);
        let now = assign(&written, &changed, &node).0;
        for claim in written.iter().filter(|c| c.pool.is_none()) {
            prop_assert!(keeps(&now, claim), "{:?} has {:?}", claim, now.get(&claim.object));
        }
        let (have, _) = persisted(&written, &pools, &given);
        prop_assert_eq!(&have, &given);
    }
}
