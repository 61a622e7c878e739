//! How new flows are split over a frontend's backends: equally, or by the weights of those that the backends come from.
//!
//! In: a [`Split`] over the backends. Out: for each slot the index of a backend; `None` where the flow is refused. Invariant: each
//! share has its part of the slots, rounded to the slot by the largest remainder, and what is refused is a share like others.
//!
//! # Design
//! - Two steps: a slot chooses a share, then a backend of that share, as if there were no others. So a backend that comes or goes
//!   moves flows of its own share alone, and a weight that changes moves those that it must. Weights of single backends, which
//!   change with the number of backends, would move flows between the shares at each change of either.
//! - A share is known by the hash of the Service and port that it stands for: not by its place in a list, nor by its backends. So
//!   one that loses its last endpoint moves no other's flows.
//! - Shares choose among [`PARTS`] parts of the table, whatever its size, and backends among as many as there would be slots if
//!   their share were all: so neither other shares nor weights change how a slot ranks them. A larger table has finer shares, no more.
//! - Shares rank by weighted rendezvous: the least `-log2(hash) / weight` takes the slot (Schindelhauer and Schomaker, "Weighted
//!   Distributed Hash Tables", 2005; RFC draft-ietf-bess-weighted-hrw). In whole numbers, for all nodes must come to the same.
//! - A slot without a backend is 0 in the map, as in [`sluice_ebpf::TableChunk`]: the programs answer its flows as those of a frontend
//!   that has no backend at all, RST or ICMP port unreachable. So a share without endpoints keeps its slots.
use super::{Bid, Keys, LADDER, Place, assign, equal, fold, mix, room, seed, slack, table};

/// How new flows are split over the backends of a frontend.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// Every backend gets as much as the next.
    #[default]
    Equal,
    /// By weight: two shares at least, one of them with a backend; sorted by seed, no weight 0.
    Weighted(Vec<Share>),
}

/// A part of the flows that goes to some of the backends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share {
    /// What the share is known by, whatever backends it has.
    pub seed: u64,
    /// Its part, of the sum of all.
    pub weight: u32,
    /// The backends that divide it, equally; none: its flows are refused.
    pub members: Vec<Place>,
}

/// By so many parts of a table, one hash each, shares are chosen. A divisor of all larger sizes.
const PARTS: u32 = LADDER[0].1;

impl Share {
    /// The seed of what has this name: a Service, and the port.
    #[must_use]
    pub fn seed(ns: &str, name: &str, port: u16) -> u64 {
        let text = |text: &str| text.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte) << 1 ^ 1));
        mix(text(ns) ^ mix(text(name) ^ mix(u64::from(port))))
    }
}

impl Split {
    /// Of shares in any order: those with one seed become one, and weights the least that say the same.
    #[must_use]
    pub fn of(shares: impl IntoIterator<Item = Share>) -> Self {
        let mut all: Vec<Share> = shares.into_iter().filter(|share| share.weight > 0).collect();
        all.sort_by_key(|share| share.seed);
        all.dedup_by(|next, kept| {
            let is_same = next.seed == kept.seed;
            if is_same {
                kept.weight = kept.weight.saturating_add(next.weight);
            }
            is_same
        });
        if all.len() < 2 || all.iter().all(|share| share.members.is_empty()) {
            return Self::Equal;
        }
        let divisor = all.iter().fold(0, |divisor, share| gcd(divisor, share.weight));
        all.iter_mut().for_each(|share| share.weight /= divisor);
        Self::Weighted(all)
    }

    /// The same without backends that cannot be had; a share that loses all is refused.
    pub fn retain(&mut self, is_there: impl Fn(&Place) -> bool) {
        if let Self::Weighted(shares) = self {
            shares.iter_mut().for_each(|share| share.members.retain(&is_there));
            *self = Self::of(std::mem::take(shares));
        }
    }

    /// How many backends a table must be sized for: so many as there would be if each had as little as that with the least.
    #[must_use]
    pub fn sized_for(&self, backends: usize) -> usize {
        let Self::Weighted(shares) = self else { return backends };
        if backends == 0 {
            return 0;
        }
        let all: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
        let of = |share: &Share| {
            let members = u64::try_from(share.members.len().max(1)).unwrap_or(u64::MAX);
            members.saturating_mul(all).div_ceil(u64::from(share.weight))
        };
        let [.., (largest, _)] = LADDER;
        shares.iter().map(of).max().map_or(0, |most| usize::try_from(most).unwrap_or(largest)).clamp(2, largest)
    }

    /// For each of `slots` slots the index of a backend in `backends`, which must be sorted and distinct and have all members.
    ///
    /// Empty when there is no backend. Cost: about `slots` times the backends of the largest share.
    #[must_use]
    pub fn table(&self, backends: &[Place], slots: u32) -> Vec<Option<u32>> {
        let shares = match self {
            Self::Equal => return table(backends, slots).into_iter().map(Some).collect(),
            Self::Weighted(shares) => shares,
        };
        if backends.is_empty() {
            return Vec::new();
        }
        let candidates: Vec<Candidate> = shares.iter().map(Candidate::of).collect();
        // Not the key by which backends are ranked: what a share gets must not choose among its backends.
        let by_share = |slot| mix(!mix(u64::from(slot % PARTS)));
        let in_parts = || (0..PARTS).flat_map(move |part| (part..slots).step_by(PARTS as usize));
        let divided = assign(in_parts(), by_share, &candidates, Candidate::rank, &rooms(shares, slots));
        let mut owner = vec![0_u32; slots as usize];
        for (index, held) in (0_u32..).zip(&divided) {
            held.iter().for_each(|bid| owner[bid.slot as usize] = index);
        }
        let mut table = vec![None; slots as usize];
        for (number, share) in (0_u32..).zip(shares) {
            let members: Vec<u32> = share.members.iter().filter_map(|place| index_of(backends, place)).collect();
            let own = in_parts().filter(|slot| owner[*slot as usize] == number);
            let count = divided[number as usize].len();
            let held: Vec<Vec<Bid>> = match members.len() {
                0 => continue,
                1 => vec![own.map(|slot| Bid::new(0, slot)).collect()],
                of_it => {
                    let seeds: Vec<u64> = members.iter().map(|index| seed(&backends[*index as usize])).collect();
                    let ranked = super::slots(of_it).min(slots);
                    let keys = Keys::new(of_it, ranked);
                    let room = room(&seeds, count, slack(seeds.len()));
                    assign(own, |slot| keys.of(slot % ranked), &seeds, equal, &room)
                }
            };
            for (index, held) in members.iter().zip(&held) {
                held.iter().for_each(|bid| table[bid.slot as usize] = Some(*index));
            }
        }
        table
    }
}

fn index_of(backends: &[Place], place: &Place) -> Option<u32> {
    backends.binary_search(place).ok().and_then(|index| u32::try_from(index).ok())
}

/// A share as slots rank it.
struct Candidate {
    seed: u64,
    /// 2^[`UNIT`] divided by the weight.
    inverse: u64,
}

/// Units of [`Candidate::inverse`].
const UNIT: u32 = 63;

impl Candidate {
    fn of(share: &Share) -> Self {
        Self { seed: mix(share.seed), inverse: (1 << UNIT) / u64::from(share.weight.max(1)) }
    }

    /// The greater, the sooner a slot with this key goes to the share.
    fn rank(&self, key: u64) -> u64 {
        let scaled = u128::from(negative_log2(fold(self.seed ^ key))) * u128::from(self.inverse);
        u64::MAX - u64::try_from(scaled >> UNIT).unwrap_or(u64::MAX)
    }
}

/// How many slots each share has: its part of all, the largest remainders rounded up, of equal ones the lesser seed's.
fn rooms(shares: &[Share], slots: u32) -> Vec<usize> {
    let all: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    let part = |share: &Share| u64::from(share.weight) * u64::from(slots);
    let mut rooms: Vec<usize> =
        shares.iter().map(|share| usize::try_from(part(share) / all).unwrap_or(usize::MAX)).collect();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(part(&shares[*index]) % all));
    let more = (slots as usize).saturating_sub(rooms.iter().sum());
    order.into_iter().take(more).for_each(|index| rooms[index] += 1);
    rooms
}

/// `-log2((x + 1) / 2^64)` in units of 2^-58, within a millionth, never less for a lesser `x`.
fn negative_log2(x: u64) -> u64 {
    let Some(x) = x.checked_add(1) else { return 0 };
    let whole = x.leading_zeros();
    // The mantissa: 1 and 63 binary places. Its logarithm by a table of 256 steps, in between by a straight line.
    let mantissa = x << whole & (u64::MAX >> 1);
    let (step, rest) = ((mantissa >> 55) as usize, mantissa & ((1 << 55) - 1));
    let (low, high) = (LOG2[step], LOG2[step + 1]);
    let between = u64::try_from((u128::from(high - low) * u128::from(rest)) >> 55).unwrap_or(0);
    let log = ((u128::from(whole) + 1) << 58) - u128::from(low + between);
    u64::try_from(log).unwrap_or(u64::MAX)
}

/// `log2(1 + n / 256)` in units of 2^-58, for n from 0 to 256.
static LOG2: [u64; 257] = logarithms();

/// By squaring: each square doubles the logarithm, whose next binary place is 1 where the square reaches 2.
const fn logarithms() -> [u64; 257] {
    let mut all = [0; 257];
    let mut n = 0;
    while n <= 256 {
        // 1 to 2, with 62 binary places.
        let mut x: u128 = (256 + n as u128) << 54;
        let mut bits: u64 = 0;
        if n == 256 {
            bits = 1 << 58;
        } else {
            let mut place = 57;
            loop {
                x = (x * x) >> 62;
                if x >> 63 != 0 {
                    x >>= 1;
                    bits |= 1 << place;
                }
                if place == 0 {
                    break;
                }
                place -= 1;
            }
        }
        all[n] = bits;
        n += 1;
    }
    all
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
