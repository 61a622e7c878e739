//! Maglev lookup tables: which backend a hash leads to. Pure.
//!
//! Input: the distinct backends of a frontend, by address and port. Output: for each slot the index of a backend. The
//! same backends give the same table on every node and in every run, so that a flow survives a change of node; removing
//! one backend moves few of the slots that others hold.
//!
//! Source: Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4.
//!
//! # Design
//! Sizes come from a short ladder, not from the exact number of backends: slots are taken modulo the size, so a size
//! that followed every change of the set would move nearly all flows with each of them. A hundred slots for each backend
//! keep their shares within one percent of each other; that sizes the array, [`sluice_ebpf::MAX_CHUNKS`].
use sluice_ebpf::Addr;

/// A backend as the tables know it: address and port, host order.
pub type Place = (Addr, u16);

/// Sizes of tables, each a prime at least a hundred times the backends that it serves; the last serves all larger sets.
const LADDER: [(usize, u32); 5] = [(2, 251), (10, 1_009), (40, 4_093), (163, 16_381), (usize::MAX, 65_521)];

/// The slots of a table for so many backends; 0 for none.
#[must_use]
pub fn slots(backends: usize) -> u32 {
    if backends == 0 {
        return 0;
    }
    LADDER.iter().find(|(most, _)| backends <= *most).map_or(0, |(_, slots)| *slots)
}

/// The next smaller size, for when space is short; `None` below the smallest.
#[must_use]
pub fn smaller(slots: u32) -> Option<u32> {
    LADDER.iter().rev().map(|(_, s)| *s).find(|s| *s < slots)
}

/// For each of `slots` slots the index of a backend in `backends`, which must be sorted and distinct.
///
/// Empty when there is no backend. Cost: about `slots * ln(backends)` steps.
#[must_use]
pub fn table(backends: &[Place], slots: u32) -> Vec<u32> {
    const EMPTY: u32 = u32::MAX;
    if backends.is_empty() || slots == 0 {
        return Vec::new();
    }
    let size = u64::from(slots);
    // Where each backend looks next, and how far it jumps when it finds the slot taken.
    let mut cursors: Vec<(u64, u64)> = backends
        .iter()
        .map(|place| {
            let (a, b) = seeds(place);
            (a % size, if size > 1 { b % (size - 1) + 1 } else { 0 })
        })
        .collect();
    let mut table = vec![EMPTY; slots as usize];
    let mut left = table.len();
    loop {
        for (index, (next, skip)) in (0_u32..).zip(cursors.iter_mut()) {
            let mut at = *next;
            while table[at as usize] != EMPTY {
                at = (at + *skip) % size;
            }
            table[at as usize] = index;
            *next = (at + *skip) % size;
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}

/// Two independent hashes of a backend's address and port.
fn seeds((addr, port): &Place) -> (u64, u64) {
    let (high, low) = addr.octets.split_at(8);
    let word = |b: &[u8]| b.iter().fold(0_u64, |n, x| n << 8 | u64::from(*x));
    let base = mix(word(high) ^ mix(word(low) ^ mix(u64::from(*port) ^ 0x51_7c_c1_b7_27_22_0a_95)));
    (base, mix(base ^ 0x9e_37_79_b9_7f_4a_7c_15))
}

/// The finish of MurmurHash3: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(n: u8) -> Vec<Place> {
        (0..n).map(|i| (Addr::v4([10, 244, 1, i]), 8080)).collect()
    }

    fn share(table: &[u32], index: u32) -> usize {
        table.iter().filter(|i| **i == index).count()
    }

    #[test]
    fn sizes_are_primes_of_at_least_a_hundred_slots_per_backend() {
        for n in [1_usize, 2, 3, 10, 11, 40, 41, 163, 164, 655] {
            let size = slots(n);
            assert!(size as usize >= 99 * n, "{n} backends: {size}");
            assert!((2..size).take_while(|d| d * d <= size).all(|d| !size.is_multiple_of(d)), "{size} is not a prime");
        }
        assert_eq!(slots(0), 0);
        assert_eq!(slots(100_000), 65_521);
    }

    #[test]
    fn no_backend_has_no_table() {
        assert!(table(&[], 0).is_empty());
        assert!(table(&[], 251).is_empty());
    }

    #[test]
    fn one_backend_has_every_slot() {
        assert!(table(&places(1), 251).iter().all(|i| *i == 0));
    }

    #[test]
    fn the_table_of_three_known_backends_never_changes() {
        // A change here re-hashes the flows of every cluster at its next upgrade: then it is a new `LAYOUT`.
        let table = table(&places(3), 1_009);
        assert_eq!(table[..12], EXPECTED_HEAD);
    }
    const EXPECTED_HEAD: [u32; 12] = [1, 2, 2, 2, 0, 2, 2, 2, 0, 2, 2, 2];

    proptest! {
        #[test]
        fn shares_differ_by_one_slot_at_most(n in 1_u8..60) {
            let backends = places(n);
            let table = table(&backends, slots(backends.len()));
            let shares: Vec<_> = (0..u32::from(n)).map(|i| share(&table, i)).collect();
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{shares:?}");
        }

        #[test]
        fn removing_a_backend_moves_few_slots_of_the_others(n in 3_u8..11, gone in 0_u8..11) {
            let gone = gone % n;
            let (all, mut rest) = (places(n), places(n));
            rest.remove(usize::from(gone));
            let size = slots(10);
            let (before, after) = (table(&all, size), table(&rest, size));
            let moved = before.iter().zip(&after)
                .filter(|(b, a)| all[**b as usize] != rest[**a as usize] && **b != u32::from(gone)).count();
            prop_assert!(moved * 5 < size as usize, "{moved} of {size} moved besides those of the one that left");
        }
    }
}
