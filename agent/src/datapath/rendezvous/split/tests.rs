//! Exact shares, what is refused, and how few flows move.
use proptest::prelude::*;
use sluice_ebpf::Addr;

use super::*;
use crate::datapath::rendezvous::slots;

/// The nth backend of the Service with this number.
fn place(service: u8, n: u16) -> Place {
    let [high, low] = n.to_be_bytes();
    (Addr::v4([10, service, high, low]), 8080)
}

/// A share of so many backends.
fn share(service: u8, weight: u32, backends: u16) -> Share {
    let seed = Share::seed("default", &format!("svc-{service}"), 80);
    Share { seed, weight, members: (0..backends).map(|n| place(service, n)).collect() }
}

/// What each slot leads to, in the table of these shares.
fn natural(shares: &[Share]) -> Vec<Option<Place>> {
    let mut backends: Vec<Place> =
        shares.iter().filter(|share| share.weight > 0).flat_map(|share| share.members.clone()).collect();
    backends.sort_unstable();
    backends.dedup();
    let split = Split::of(shares.iter().cloned());
    let slots = slots(split.sized_for(backends.len()));
    split.table(&backends, slots).into_iter().map(|index| index.map(|index| backends[index as usize])).collect()
}

/// How many slots lead to a Service's backends, of all; `None`: to nowhere.
fn part(table: &[Option<Place>], service: Option<u8>) -> (usize, usize) {
    let of = |place: &Option<Place>| place.map(|(addr, _)| addr.last4()[1]) == service;
    (table.iter().filter(|place| of(place)).count(), table.len())
}

/// Which part of all hashes leads elsewhere.
fn moved(a: &[Option<Place>], b: &[Option<Place>]) -> f64 {
    let all = a.len().max(b.len());
    (0..all).filter(|slot| a[slot % a.len()] != b[slot % b.len()]).count() as f64 / all as f64
}

#[test]
fn shares_are_exact_to_the_slot_whatever_number_of_backends_divides_them() {
    for (blue, green) in [(1, 1), (3, 1), (1, 3), (2, 17), (40, 3), (200, 200)] {
        let table = natural(&[share(1, 70, blue), share(2, 30, green), share(3, 0, 5)]);
        let (first, all) = part(&table, Some(1));
        assert!(all >= 1_004 && (first * 10).abs_diff(all * 7) <= 10, "{blue} and {green}: {first} of {all}");
        assert_eq!(part(&table, Some(2)).0, all - first, "the rest");
        assert_eq!(part(&table, Some(3)).0, 0, "weight 0 gets nothing");
    }
}

#[test]
fn a_share_is_divided_equally_over_its_backends() {
    let table = natural(&[share(1, 2, 4), share(2, 1, 1)]);
    let of = |n| table.iter().filter(|found| **found == Some(place(1, n))).count();
    let (all, counts) = (table.len(), (0..4).map(of).collect::<Vec<_>>());
    assert!(counts.iter().all(|count| count.abs_diff(all / 6) <= 1), "{counts:?} of {all}");
}

#[test]
fn what_has_no_backend_takes_its_share_with_it() {
    let table = natural(&[share(1, 3, 2), share(2, 1, 0)]);
    assert_eq!(part(&table, None), (251, 1_004));
    assert_eq!(part(&table, Some(1)), (753, 1_004));
    let several = natural(&[share(1, 2, 2), share(2, 1, 0), share(3, 1, 0)]);
    assert_eq!(part(&several, None), (502, 1_004), "several are one");
    assert_eq!(natural(&[share(1, 0, 2), share(2, 5, 0)]), [], "nothing is left: no table at all");
    assert_eq!(natural(&[share(1, 0, 2)]), []);
}

#[test]
fn one_share_alone_is_the_table_of_equal_ones_whatever_its_weight() {
    for shares in [vec![share(1, 7, 3)], vec![share(1, 7, 3), share(2, 0, 4)]] {
        assert_eq!(Split::of(shares), Split::Equal);
    }
    let twice = [share(1, 1, 3), share(1, 4, 3)];
    assert_eq!(Split::of(twice.clone()), Split::Equal, "one Service twice is one share");
    assert_eq!(natural(&twice), natural(&[share(1, 1, 3)]));
}

#[test]
fn weights_that_say_the_same_make_the_same_table_in_any_order() {
    let table = natural(&[share(1, 70, 3), share(2, 30, 2), share(4, 0, 1)]);
    assert_eq!(table, natural(&[share(2, 300_000, 2), share(1, 700_000, 3)]));
    // The API's largest weights, each.
    let most = natural(&(1..=16).map(|n| share(n, 1_000_000, 1)).collect::<Vec<_>>());
    assert_eq!(most, natural(&(1..=16).map(|n| share(n, 1, 1)).collect::<Vec<_>>()));
}

#[test]
fn an_endpoint_that_comes_or_goes_moves_flows_of_its_own_share_alone() {
    let before = natural(&[share(1, 70, 4), share(2, 30, 4)]);
    let after = natural(&[share(1, 70, 3), share(2, 30, 4)]);
    assert_eq!(before.len(), after.len());
    let differ = before.iter().zip(&after).filter(|(a, b)| a != b);
    assert!(differ.clone().all(|(a, b)| [a, b].iter().all(|p| p.is_some_and(|(addr, _)| addr.last4()[1] == 1))));
    let moved = differ.count() as f64 / before.len() as f64;
    assert!((0.174..0.25).contains(&moved), "a quarter of 70 %: {moved}");
    // The last one goes: nobody else's flows move.
    let empty = natural(&[share(1, 70, 0), share(2, 30, 4)]);
    let all = before.len().max(empty.len());
    let kept = (0..all).all(|slot| {
        let (old, new) = (before[slot % before.len()], empty[slot % empty.len()]);
        if old.is_some_and(|(addr, _)| addr.last4()[1] == 1) { new.is_none() } else { old == new }
    });
    assert!(kept);
}

#[test]
fn a_weight_that_changes_moves_little_more_than_it_must() {
    let at = |green: u32| natural(&[share(1, 100 - green, 3), share(2, green, 3)]);
    for (from, to) in [(10, 20), (20, 50), (50, 60), (90, 99)] {
        let (a, b) = (at(from), at(to));
        let must = f64::from(to - from) / 100.0;
        let found = moved(&a, &b);
        assert!((must - 0.002..must * 1.4 + 0.02).contains(&found), "{from} to {to}: {found}");
        assert!((moved(&b, &a) - found).abs() < 1e-9, "and back");
    }
    // A canary begins and ends.
    let (none, one) = (natural(&[share(1, 100, 3), share(2, 0, 1)]), at(1));
    assert!(moved(&none, &one) < 0.03, "{}", moved(&none, &one));
}

#[test]
fn a_share_that_is_small_gets_a_table_that_is_large() {
    let sized = |shares: &[Share]| Split::of(shares.iter().cloned()).sized_for(1);
    assert_eq!(sized(&[share(1, 99, 1), share(2, 1, 1)]), 100);
    assert_eq!(sized(&[share(1, 1, 10), share(2, 1, 10)]), 20);
    assert_eq!(sized(&[share(1, 1, 1), share(2, 1, 0)]), 2);
    assert_eq!(sized(&[share(1, 1_000_000, 1), share(2, 1, 1)]), 655, "bounded");
    assert_eq!(part(&natural(&[share(1, 99, 1), share(2, 1, 1)]), Some(2)), (161, 16_064));
}

#[test]
fn shares_lose_what_cannot_be_had() {
    let mut split = Split::of([share(1, 1, 2), share(2, 1, 1)]);
    split.retain(|place| *place != self::place(2, 0));
    assert_eq!(split, Split::of([share(1, 1, 2), share(2, 1, 0)]));
    split.retain(|_| false);
    assert_eq!(split, Split::Equal, "all of it is refused: there is no table");
}

#[test]
fn the_logarithm_is_right_and_never_falls() {
    let exact = |x: u64| 64.0 - (x as f64 + 1.0).log2();
    let mut last = u64::MAX;
    let near =
        [0, 1, 2, 3, 255, 256, 257, u64::from(u32::MAX), u64::MAX / 3, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 2];
    let many = (0..5_000_u64).map(|n| n * (u64::MAX / 5_000));
    let mut all: Vec<u64> = near.into_iter().chain(many).chain([u64::MAX - 1, u64::MAX]).collect();
    all.sort_unstable();
    for x in all {
        let found = negative_log2(x);
        assert!(found <= last, "{x}");
        assert!((found as f64 / 2_f64.powi(58) - exact(x)).abs() < 3e-6, "{x}: {found}");
        last = found;
    }
}

#[test]
fn a_known_table_never_changes() {
    // A change here moves the flows of every cluster at its next upgrade, and of a cluster with two versions for as long.
    let table = natural(&[share(1, 70, 2), share(2, 30, 1)]);
    let head: Vec<(u8, u8)> =
        table[..12].iter().map(|p| p.map_or((0, 0), |(a, _)| (a.last4()[1], a.last4()[3]))).collect();
    assert_eq!(head, KNOWN_HEAD);
}
const KNOWN_HEAD: [(u8, u8); 12] =
    [(1, 0), (1, 0), (2, 0), (2, 0), (1, 0), (2, 0), (1, 1), (1, 1), (2, 0), (1, 0), (2, 0), (1, 1)];

proptest! {
    #[test]
    fn every_slot_is_decided_and_every_share_has_its_part(
        drawn in prop::collection::vec((0_u32..1_000, 0_u16..12), 1..8),
    ) {
        let shares: Vec<Share> = (1_u8..).zip(&drawn).map(|(n, (weight, backends))| share(n, *weight, *backends)).collect();
        let table = natural(&shares);
        let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
        for (n, share) in (1_u8..).zip(&shares).filter(|(_, share)| !share.members.is_empty() && !table.is_empty()) {
            let (found, all) = part(&table, Some(n));
            let want = share.weight as f64 * all as f64 / sum as f64;
            prop_assert!((found as f64 - want).abs() < 1.0, "{found}, want {want} of {all}");
        }
        prop_assert_eq!(&table, &natural(&shares));
    }
}
