//! What a pool's status says, from objects as they are written.
use std::sync::Arc;

use super::*;
use crate::{
    api::{AddressPool, address_pool::AddressPoolStatus, condition::Condition},
    model::{
        self, Model,
        fixture::{add_service, node},
    },
};

fn add_pool(snapshot: &mut Snapshot, name: &str, spec: &str) {
    let text = format!("{{metadata: {{name: {name}, generation: 3}}, spec: {spec}}}");
    snapshot.pools.insert(name.into(), Arc::new(serde_saphyr::from_str::<AddressPool>(&text).unwrap()));
}

fn add_services(snapshot: &mut Snapshot, names: &[&str]) {
    for name in names {
        add_service(
            snapshot,
            &format!("{{metadata: {{name: {name}}}, spec: {{type: LoadBalancer, ports: [{{port: 80}}]}}}}"),
        );
    }
}

fn status(snapshot: &Snapshot, model: &Model, name: &str) -> AddressPoolStatus {
    pool_status(&snapshot.pools[name], model)
}

fn counts(status: &AddressPoolStatus) -> [&str; 3] {
    [&status.total, &status.used, &status.free].map(String::as_str)
}

/// `True Reason: message`
fn condition(status: &AddressPoolStatus, type_: &str) -> String {
    let Condition { status, reason, message, observed_generation, last_transition_time, .. } =
        status.conditions.iter().find(|c| c.type_ == type_).unwrap();
    assert_eq!((*observed_generation, last_transition_time), (Some(3), &None));
    format!("{status} {reason}: {message}")
}

#[test]
fn counts_say_what_is_given_unasked_and_what_is_held() {
    let mut snapshot = Snapshot::default();
    add_pool(&mut snapshot, "p", "{addresses: [192.0.2.0/29, '2001:db8::/64']}");
    add_services(&mut snapshot, &["a", "b"]);
    let asks = "{metadata: {name: c, annotations: {sluice.dev/addresses: 192.0.2.0}}, spec: {type: LoadBalancer, ports: [{port: 80}]}}";
    add_service(&mut snapshot, asks);
    let model = model::compile(&snapshot, &node(&[]));
    let status = status(&snapshot, &model, "p");
    assert_eq!(status.observed_generation, 3);
    assert_eq!(
        counts(&status),
        ["18446744073709551621", "3", "18446744073709551619"],
        "6 and 2^64 - 1; .0 is held too"
    );
    assert_eq!(condition(&status, "Ready"), "True Ready: addresses are given and announced");
    assert!(condition(&status, "Exhausted").starts_with("False AddressesFree: 18446744073709551619 of"));
    assert!(condition(&status, "Overlapping").starts_with("False Disjoint"));
    assert!(condition(&status, "OutOfPool").starts_with("False Contained"));
}

#[test]
fn s70_an_exhausted_pool_says_so_and_an_unusable_one_why() {
    let mut snapshot = Snapshot::default();
    add_pool(&mut snapshot, "p", "{addresses: [192.0.2.1-192.0.2.2], announce: none}");
    add_pool(&mut snapshot, "q", "{addresses: [127.0.0.1, 192.0.2.2/24, x], autoAssign: false, priority: -1}");
    add_pool(&mut snapshot, "r", "{nodeAddresses: {types: [ExternalIP]}, autoAssign: false}");
    add_services(&mut snapshot, &["a", "b", "c"]);
    let model = model::compile(&snapshot, &node(&[]));
    let of = |name| status(&snapshot, &model, name);
    assert_eq!(counts(&of("p")), ["2", "2", "0"]);
    assert_eq!(condition(&of("p"), "Ready"), "True Ready: addresses are given and not announced");
    assert_eq!(
        condition(&of("p"), "Exhausted"),
        "True NoAddressFree: 2 addresses are in use, all 2 that are given unasked among them"
    );
    assert_eq!(
        condition(&of("q"), "Ready"),
        "False Reserved: spec.addresses[0]: 127.0.0.1 is not used: it overlaps the reserved range 127.0.0.0/8; want unicast addresses that are routed; \
         spec.addresses[1]: 192.0.2.2/24 has bits set behind its prefix; want 192.0.2.0/24; \
         spec.addresses[2]: \"x\" is none; want a CIDR as 203.0.113.0/24, a range as 203.0.113.10-203.0.113.20 or an address"
    );
    assert_eq!(condition(&of("q"), "Exhausted"), "True Empty: the pool has no address to give");
    assert!(condition(&of("r"), "Ready").starts_with("False NoNodeAddress: no node that spec.nodeAddresses selects"));
    let verdict = &model.verdicts[&ObjectRef::new("AddressPool", ObjectName::new("", "q"))];
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::Refused, "Reserved"));
}

#[test]
fn s68_a_pool_that_shrinks_says_what_it_left_behind() {
    let mut snapshot = Snapshot::default();
    add_pool(&mut snapshot, "p", "{addresses: [192.0.2.0/24]}");
    add_services(&mut snapshot, &["a", "b"]);
    let mut node = node(&[]);
    let before = model::compile(&snapshot, &node);
    node.allocations = Arc::clone(&before.wanted);
    add_pool(&mut snapshot, "p", "{addresses: [192.0.2.2-192.0.2.9]}");
    let after = model::compile(&snapshot, &node);
    assert_eq!(after.frontends.keys().collect::<Vec<_>>(), before.frontends.keys().collect::<Vec<_>>());
    let status = status(&snapshot, &after, "p");
    assert_eq!(counts(&status), ["8", "1", "7"]);
    assert_eq!(
        condition(&status, "OutOfPool"),
        "True Kept: in no pool, and kept until they are given up: 192.0.2.1 of Service default/a"
    );
    let service = &after.verdicts[&ObjectRef::new("Service", ObjectName::new("default", "a"))];
    let kept = "192.0.2.1 is in no pool; it stays because the Service had it before";
    assert!(service.messages.iter().any(|m| m == kept), "{service:?}");
}

#[test]
fn s74_both_of_two_pools_say_that_they_overlap() {
    let mut snapshot = Snapshot::default();
    add_pool(&mut snapshot, "p", "{addresses: [192.0.2.0/24]}");
    add_pool(&mut snapshot, "q", "{addresses: [192.0.2.128/25]}");
    let model = model::compile(&snapshot, &node(&["192.0.2.7/32"]));
    let of = |name| condition(&status(&snapshot, &model, name), "Overlapping");
    assert_eq!(
        of("p"),
        "True SharedWithPool: 192.0.2.0/24 overlaps 192.0.2.128/25 of pool q; this pool is tried first; \
         192.0.2.0/24 overlaps 192.0.2.7/32 of pool 192.0.2.7/32; this pool is tried first"
    );
    assert_eq!(of("q"), "True SharedWithPool: 192.0.2.128/25 overlaps 192.0.2.0/24 of pool p, which is tried first");
}

#[test]
fn s11_without_a_pool_services_pend_and_say_so() {
    let mut snapshot = Snapshot::default();
    add_services(&mut snapshot, &["a"]);
    let model = model::compile(&snapshot, &node(&[]));
    let verdict = &model.verdicts[&ObjectRef::new("Service", ObjectName::new("default", "a"))];
    assert_eq!((verdict.outcome, verdict.reason), (Outcome::Refused, "NoPool"));
    assert!(model.wanted.is_empty() && model.frontends.is_empty());
}
