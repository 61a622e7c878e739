//! Lookup tables: which backend a hash leads to. Pure.
//!
//! Input: the distinct backends of a frontend, by address and port, and how flows are split over them ([`split`]). Output: for
//! each slot the index of a backend, or none: a flow that comes to such a slot is refused. The same input gives the same table on
//! every node and in every run, so that a flow survives a change of node; one backend more or less moves about one of n slots,
//! at all numbers of backends and also where the size of the table changes.
//!
//! Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998 (highest random weight);
//! Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018.
//!
//! # Design
//! - Each slot ranks the backends by the hash of both and goes to the first that has room: a backend takes its share, those
//!   slots first that rank it highest. What comes of that does not depend on the order in which slots are looked at. Maglev's
//!   rounds would: there one backend more moves others' slots the more the fewer slots each has, a tenth of all at a hundred slots.
//! - Up to ten backends have equal shares, to the slot. Beyond, a backend may have more, up to 15 % at forty
//!   ([`slack`]): of many, exactly equal shares cost several times the moves. The least popular then have a quarter less.
//! - Sizes come from a short ladder, each a divisor of the next: as slots are taken modulo the size, a slot of a larger
//!   table is a part of one slot of the smaller one. When a table grows, its slots keep the rank of the slot they are a part of,
//!   and get one of their own one by one, on the way to the next size ([`Keys`]). So a new size moves nothing by itself.
//! - A hundred slots for each backend of a full size; that sizes the array, [`sluice_ebpf::MAX_CHUNKS`]. The size follows from the
//!   model alone, never from what space there is: a table of another size on one node would lead its flows elsewhere.
use sluice_ebpf::Addr;

pub mod split;
#[cfg(test)]
mod tests;

pub use split::{Share, Split};

/// A backend as the tables know it: address and port, host order.
pub type Place = (Addr, u16);

/// The slots of a table of one backend: there is nothing to choose.
const SINGLE: u32 = 1;
/// Sizes of tables with the most backends that each is for, one a divisor of the next; the last serves all larger sets.
const LADDER: [(usize, u32); 4] = [(10, 1_004), (40, 4_016), (163, 16_064), (655, 64_256)];
/// How much more than its share a backend may have in a large set. Units: thousandths.
const SLACK: usize = 150;

/// The slots of a table for so many backends; 0 for none.
#[must_use]
pub fn slots(backends: usize) -> u32 {
    let [.., (_, largest)] = LADDER;
    match backends {
        0 => 0,
        1 => SINGLE,
        _ => LADDER.iter().find(|(most, _)| backends <= *most).map_or(largest, |(_, slots)| *slots),
    }
}

/// For each of `slots` slots the index of a backend in `backends`, which must be sorted and distinct.
///
/// Empty when there is no backend. Cost: about `slots * backends` steps.
#[must_use]
pub fn table(backends: &[Place], slots: u32) -> Vec<u32> {
    if backends.len() <= 1 || slots == 0 {
        return vec![0; if backends.is_empty() { 0 } else { slots as usize }];
    }
    let seeds: Vec<u64> = backends.iter().map(seed).collect();
    let keys = Keys::new(backends.len(), slots);
    let room = room(&seeds, slots as usize, slack(seeds.len()));
    let held = assign(keys.slots(slots), |slot| keys.of(slot), &seeds, equal, &room);
    let mut table = vec![0; slots as usize];
    for (index, held) in (0_u32..).zip(&held) {
        held.iter().for_each(|bid| table[bid.slot as usize] = index);
    }
    table
}

/// The rank of a candidate whose share is as large as the others', by its seed.
fn equal(seed: &u64, key: u64) -> u64 {
    fold(*seed ^ key)
}

/// Gives each slot to the candidate that its key ranks highest and that has room; slots with one key, one after the other, are
/// ranked once. There must be room for all.
fn assign<C>(
    slots: impl Iterator<Item = u32>,
    key: impl Fn(u32) -> u64,
    candidates: &[C],
    rank: impl Fn(&C, u64) -> u64,
    room: &[usize],
) -> Vec<Vec<Bid>> {
    let mut held: Vec<Vec<Bid>> = room.iter().map(|room| Vec::with_capacity(room * 5 / 4)).collect();
    let mut last = None;
    for slot in slots {
        let key = key(slot);
        let (weight, index) = match last {
            Some((ranked, found)) if ranked == key => found,
            _ => best(candidates, &rank, key, ANY),
        };
        last = Some((key, (weight, index)));
        held[index as usize].push(Bid::new(weight, slot));
    }
    let mut refused: Vec<(u32, Bid)> = Vec::new();
    loop {
        for ((index, held), room) in (0_u32..).zip(&mut held).zip(room) {
            if held.len() > *room {
                // Those that rank it highest stay.
                held.select_nth_unstable_by(*room, |a, b| b.cmp(a));
                refused.extend(held.drain(*room..).map(|bid| (index, bid)));
            }
        }
        if refused.is_empty() {
            return held;
        }
        for (index, bid) in refused.drain(..) {
            let (weight, next) = best(candidates, &rank, key(bid.slot), (bid.weight, index));
            held[next as usize].push(Bid::new(weight, bid.slot));
        }
    }
}

/// What a slot offers to a backend; the greater one is taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bid {
    weight: u64,
    /// Of slots that rank alike, another one is the best for each backend.
    tie: u64,
    slot: u32,
}

impl Bid {
    fn new(weight: u64, slot: u32) -> Self {
        Self { weight, tie: mix(weight ^ u64::from(slot)), slot }
    }
}

/// Before the first choice: a bid that no bid reaches.
const ANY: (u64, u32) = (u64::MAX, u32::MAX);

/// The candidate that a key ranks highest below `last`, with its rank. There always is one, for there is room for all slots; were
/// there none, it would be the first.
fn best<C>(candidates: &[C], rank: impl Fn(&C, u64) -> u64, key: u64, last: (u64, u32)) -> (u64, u32) {
    let mut found = (0, 0);
    for (index, candidate) in (0_u32..).zip(candidates) {
        let bid = (rank(candidate, key), index);
        if bid > found && bid < last {
            found = bid;
        }
    }
    found
}

/// How many of `slots` slots each candidate of an equal share has room for: its share, to the slot, and the slack.
///
/// Who has the one slot more that a share is rounded by is told by a hash, so that it changes for few when a share changes.
fn room(seeds: &[u64], slots: usize, slack: usize) -> Vec<usize> {
    let all = slots + slots * slack / 1_000;
    let (share, more) = (all / seeds.len(), all % seeds.len());
    let mut order: Vec<usize> = (0..seeds.len()).collect();
    order.sort_unstable_by_key(|index| (mix(!seeds[*index]), *index));
    let mut room = vec![share; seeds.len()];
    order.into_iter().take(more).for_each(|index| room[index] += 1);
    room
}

/// How much more than its share a backend may have: nothing up to ten, and from forty on [`SLACK`]. Units: thousandths.
fn slack(backends: usize) -> usize {
    let [(few, _), (many, _), ..] = LADDER;
    SLACK * backends.clamp(few, many).saturating_sub(few) / (many - few)
}

/// By what the slots of a table rank backends.
struct Keys {
    /// The size before this one: so many parts the table is made of.
    coarse: u32,
    fine: u32,
    /// How many of the parts have slots that rank by themselves. Units: 2^-32 of all.
    split: u64,
}

impl Keys {
    /// Logarithmically between the most backends of the size before and those of this one, so that each step is as large
    /// as the move that it comes with. Whole numbers: all nodes must come to the same.
    fn new(backends: usize, slots: u32) -> Self {
        let whole = Self { coarse: slots, fine: slots, split: 0 };
        let Some(at) = LADDER.iter().position(|(_, size)| *size == slots).filter(|at| *at > 0) else { return whole };
        let ((least, coarse), (most, fine)) = (LADDER[at - 1], LADDER[at]);
        let steps = |to: usize| (least + 1..=to).map(|n| (1_u64 << 32) / n as u64).sum::<u64>();
        let split = u128::from(steps(backends.clamp(least, most))) << 32;
        let split = u64::try_from(split / u128::from(steps(most))).unwrap_or(u64::MAX);
        Self { coarse, fine, split }
    }

    fn is_split(&self, part: u32) -> bool {
        self.coarse != self.fine && mix(u64::from(self.coarse) << 32 | u64::from(part)) >> 32 < self.split
    }

    /// All slots, those of one part one after the other.
    fn slots(&self, slots: u32) -> impl Iterator<Item = u32> + use<> {
        let coarse = self.coarse;
        (0..coarse).flat_map(move |part| (part..slots).step_by(coarse as usize))
    }

    /// By what a slot ranks: by its own, or by that of its part.
    fn of(&self, slot: u32) -> u64 {
        let part = slot % self.coarse;
        let (size, at) = if self.is_split(part) { (self.fine, slot) } else { (self.coarse, part) };
        mix(!(u64::from(size) << 32 | u64::from(at)))
    }
}

/// A hash of a backend's address and port.
fn seed((addr, port): &Place) -> u64 {
    let (high, low) = addr.octets.split_at(8);
    let word = |b: &[u8]| b.iter().fold(0_u64, |n, x| n << 8 | u64::from(*x));
    mix(word(high) ^ mix(word(low) ^ mix(u64::from(*port) ^ 0x51_7c_c1_b7_27_22_0a_95)))
}

/// The finish of MurmurHash3: every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

/// One multiplication to twice the width, folded, as in wyhash: enough for what was mixed before.
#[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
fn fold(x: u64) -> u64 {
    let product = u128::from(x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product as u64 ^ (product >> 64) as u64
}
