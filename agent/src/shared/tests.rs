use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(u16, u8),
    Remove(u16),
    RemoveRange(u16, u16),
    Change(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0_u16..300;
    prop_oneof![
        6 => (key(), any::<u8>()).prop_map(|(k, v)| Step::Insert(k, v)),
        2 => key().prop_map(Step::Remove),
        1 => (key(), 0_u16..80).prop_map(|(k, n)| Step::RemoveRange(k, n)),
        1 => key().prop_map(Step::Change),
    ]
}

fn run(step: &Step, map: &mut SharedMap<u16, u8>, plain: &mut BTreeMap<u16, u8>) {
    match *step {
        Step::Insert(key, value) => assert_eq!(map.insert(key, value), plain.insert(key, value)),
        Step::Remove(key) => assert_eq!(map.remove(&key), plain.remove(&key)),
        Step::RemoveRange(key, n) => {
            map.retain(|k, _| !(key..key + n).contains(k));
            plain.retain(|k, _| !(key..key + n).contains(k));
        }
        Step::Change(key) => {
            assert_eq!(map.get_mut(&key).is_some(), plain.contains_key(&key));
            [map.get_mut(&key), plain.get_mut(&key)].into_iter().flatten().for_each(|v| *v = v.wrapping_add(1));
        }
    }
}

/// As a plain map has it, and in runs as they should be.
fn check(map: &SharedMap<u16, u8>, plain: &BTreeMap<u16, u8>) {
    assert!(map.iter().eq(plain), "{map:?} {plain:?}");
    assert_eq!((map.len(), map.is_empty()), (plain.len(), plain.is_empty()));
    assert!(map.chunks.iter().all(|chunk| (1..=CHUNK).contains(&chunk.len())));
    for key in 0..300 {
        assert_eq!(map.get(&key), plain.get(&key));
    }
}

fn differences(old: &SharedMap<u16, u8>, new: &SharedMap<u16, u8>) -> BTreeMap<u16, (Option<u8>, Option<u8>)> {
    let found: Vec<_> = old.differences(new, |(_, a), (_, b)| a == b).collect();
    assert!(found.is_sorted_by_key(|d| d.key));
    found.into_iter().map(|d| (*d.key, (d.old.copied(), d.new.copied()))).collect()
}

proptest! {
    #[test]
    fn it_is_as_a_plain_map_and_differs_from_its_past_as_one(
        first in proptest::collection::vec((0_u16..300, any::<u8>()), 0..200),
        steps in proptest::collection::vec(step(), 0..60),
    ) {
        let mut map: SharedMap<u16, u8> = first.iter().copied().collect();
        let mut plain: BTreeMap<u16, u8> = first.into_iter().collect();
        check(&map, &plain);
        let (old, old_plain) = (map.clone(), plain.clone());
        for step in &steps {
            run(step, &mut map, &mut plain);
        }
        check(&map, &plain);
        check(&old, &old_plain);
        let keys: std::collections::BTreeSet<u16> = plain.keys().chain(old_plain.keys()).copied().collect();
        let want = keys.into_iter().map(|k| (k, (old_plain.get(&k).copied(), plain.get(&k).copied())));
        let want: BTreeMap<_, _> = want.filter(|(_, (old, new))| old != new).collect();
        prop_assert_eq!(differences(&old, &map), want);
        prop_assert_eq!(map == old, plain == old_plain);
    }
}

#[test]
fn what_two_maps_share_is_not_looked_at() {
    let old: SharedMap<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
    let mut new = old.clone();
    new.insert(5_000, 1);
    let looks = std::cell::Cell::new(0);
    let is_same = |(_, a): (&u32, &u32), (_, b): (&u32, &u32)| {
        looks.set(looks.get() + 1);
        a == b
    };
    let found: Vec<_> = old.differences(&new, is_same).map(|d| (*d.key, d.old.copied(), d.new.copied())).collect();
    assert_eq!(found, [(5_000, Some(5_000), Some(1))]);
    assert!(looks.get() <= CHUNK, "{} entries were compared", looks.get());
}
