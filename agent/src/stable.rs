//! A hash that is the same on every node, in every version: for what nodes must agree on without speaking to each other.

/// What FNV-1a begins with.
pub const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a of these bytes behind those that `state` is of. It leaves the upper bits of short texts alike.
#[must_use]
pub fn fnv1a(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// FNV-1a, finished as in `SplitMix64`. Not for what attackers may choose to collide.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    mix(fnv1a(BASIS, bytes))
}

/// Another hash of what this is a hash of.
#[must_use]
pub fn mix(hash: u64) -> u64 {
    let a = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    c ^ (c >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_it_was_and_spreads() {
        assert_eq!(hash(b""), mix(0xcbf2_9ce4_8422_2325));
        let upper: std::collections::BTreeSet<u64> = (0..200_u32).map(|n| hash(&n.to_be_bytes()) >> 52).collect();
        assert!(upper.len() > 180, "{}", upper.len());
    }
}
