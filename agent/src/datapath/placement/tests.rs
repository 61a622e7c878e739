//! Tables in a small array: whatever fits by its sum finds a place.
use proptest::prelude::*;
use sluice_ebpf::Addr;

use super::*;

fn content(n: u32, slots: u32) -> Content {
    let place = (Addr::v6([n.to_be_bytes(); 4].concat().try_into().unwrap()), 80);
    Content { slots, backends: vec![BackendRow { place, flags: 0 }], split: Split::Equal }
}

fn key(n: u32) -> FrontendKey {
    FrontendKey { vip: Addr::v6([n.to_be_bytes(); 4].concat().try_into().unwrap()), port: 1, proto: 6, family: 6 }
}

/// Takes a place for a table, if need be after others have moved.
fn take(placement: &mut Placement, at: &mut BTreeMap<u32, u32>, n: u32, slots: u32) -> bool {
    placement.release(0);
    while !placement.has_room(slots) {
        let moved = placement.make_room(slots, 0);
        if moved.is_empty() {
            break;
        }
        for moved in moved {
            let [user] = moved.users.iter().collect::<Vec<_>>()[..] else { panic!("{moved:?}") };
            let n = u32::from_be_bytes(user.vip.last4());
            at.insert(n, moved.to);
        }
        placement.release(0);
    }
    let taken = placement.take(&content(n, slots), key(n));
    taken.map(|(start, _)| at.insert(n, start)).is_some()
}

#[test]
fn equal_contents_have_one_table_until_the_last_leaves() {
    let mut placement = Placement::new(4_096, [].into_iter());
    let (start, is_new) = placement.take(&content(1, 1_004), key(1)).unwrap();
    assert!(is_new);
    assert_eq!(placement.take(&content(1, 1_004), key(2)), Some((start, false)));
    assert_eq!(placement.used(), 64);
    placement.leave(start, &key(1), 0);
    assert!(!placement.has_retired());
    placement.leave(start, &key(2), 0);
    assert_eq!((placement.has_retired(), placement.used()), (true, 64), "it may still be read");
    assert!(placement.release(0));
    assert_eq!((placement.used(), placement.find(&content(1, 1_004))), (0, None));
}

#[test]
fn tables_of_another_layout_are_where_they_are() {
    // Two of 63 chunks, one after the other, of which one is named twice.
    let at = |chunk| Frontend { table_chunk: chunk, table_slots: 1_004, ..Frontend::default() };
    let (a, b) = (at(0), at(63));
    let (of_a, of_b) = (Some(content(1, 1_004)), Some(content(2, 1_004)));
    let found = [(&key(1), &a, of_a.clone()), (&key(2), &a, of_a), (&key(3), &b, of_b)];
    let mut placement = Placement::new(256, found.into_iter());
    assert_eq!((placement.find(&content(1, 1_004)), placement.find(&content(2, 1_004))), (Some(0), Some(63)));
    assert_eq!(placement.used(), 126);
    assert_eq!(placement.take(&content(3, 1_004), key(4)), Some((128, true)));
    placement.leave(0, &key(1), 0);
    placement.leave(0, &key(2), 0);
    placement.release(0);
    assert_eq!(placement.used(), 127);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn what_fits_by_its_sum_finds_a_place_and_overlaps_nothing(
        steps in proptest::collection::vec((0_u32..40, 0_usize..4, any::<bool>()), 1..200),
    ) {
        const SIZES: [u32; 4] = [1, 1_004, 4_016, 16_064];
        let mut placement = Placement::new(2_048, [].into_iter());
        let (mut at, mut sizes) = (BTreeMap::<u32, u32>::new(), BTreeMap::<u32, u32>::new());
        for (n, size, comes) in steps {
            if let Some(slots) = sizes.remove(&n) {
                let start = at.remove(&n).unwrap();
                prop_assert_eq!(placement.find(&content(n, slots)), Some(start));
                placement.leave(start, &key(n), 0);
            }
            let used: u32 = sizes.values().map(|slots| length(*slots)).sum();
            let slots = SIZES[size];
            if comes {
                let fits = used + length(slots) <= 2_048;
                prop_assert_eq!(take(&mut placement, &mut at, n, slots), fits, "{} of {} used", used, 2_048);
                if fits {
                    sizes.insert(n, slots);
                }
            }
            let mut taken = BTreeSet::new();
            for (n, start) in &at {
                prop_assert!((*start..start + length(sizes[n])).all(|chunk| taken.insert(chunk)), "two in one place");
            }
        }
    }
}
