//! Internet checksums: full sums, and differences that are applied to a field without reading the payload (RFC 1624).
//!
//! A sum is a `u64` of words in memory order, not yet folded; [`fold`] brings it to 16 bits. Because one's complement
//! addition does not care about byte order, nothing here swaps bytes: a folded sum is stored as it is.
//!
//! A packet that a local sender handed to a virtual device may carry a *partial* checksum: the field holds the folded
//! sum of the pseudo header, not complemented, and the device is expected to finish it. See [`is_partial`].
use crate::abi::{Addr, Tuple};

/// Folds a sum to 16 bits. Free of branches, so no loop for the verifier.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Folds a sum to the 32 bits that the kernel's helpers take.
#[must_use]
#[inline(always)]
pub const fn fold32(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum as u32
}

/// An address as four words in memory order.
#[must_use]
#[inline(always)]
pub const fn words(a: &Addr) -> [u32; 4] {
    let b = &a.octets;
    [
        u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
        u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
        u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
    ]
}

/// The sum that replacing `old` by `new` adds.
#[must_use]
#[inline(always)]
pub const fn diff(old: u32, new: u32) -> u64 {
    !old as u64 + new as u64
}

/// What the two addresses of a packet add when `old` becomes `new`; of IPv4-mapped addresses only the last word differs.
#[must_use]
#[inline(always)]
pub const fn diff_addrs(old: &Tuple, new: &Tuple, v6: bool) -> u64 {
    let (os, od, ns, nd) = (words(&old.src), words(&old.dst), words(&new.src), words(&new.dst));
    let last = diff(os[3], ns[3]) + diff(od[3], nd[3]);
    if !v6 {
        return last;
    }
    let src = diff(os[0], ns[0]) + diff(os[1], ns[1]) + diff(os[2], ns[2]);
    let dst = diff(od[0], nd[0]) + diff(od[1], nd[1]) + diff(od[2], nd[2]);
    last + src + dst
}

/// What the two ports add.
#[must_use]
#[inline(always)]
pub const fn diff_ports(old: &Tuple, new: &Tuple) -> u64 {
    let src = (!old.src_port).to_be() as u64 + new.src_port.to_be() as u64;
    src + (!old.dst_port).to_be() as u64 + new.dst_port.to_be() as u64
}

/// Applies a difference to a finished checksum field.
#[must_use]
#[inline(always)]
pub const fn apply(check: u16, diff: u64) -> u16 {
    !fold(!check as u64 + diff)
}

/// The sum of the pseudo header. `len` is that of the layer 4 packet.
#[must_use]
#[inline(always)]
pub const fn pseudo(t: &Tuple, proto: u8, len: u32, v6: bool) -> u64 {
    let (s, d) = (words(&t.src), words(&t.dst));
    let rest = s[3] as u64 + d[3] as u64 + (proto as u32).to_be() as u64 + len.to_be() as u64;
    if !v6 {
        return rest;
    }
    rest + s[0] as u64 + s[1] as u64 + s[2] as u64 + d[0] as u64 + d[1] as u64 + d[2] as u64
}

/// Is `check` a partial checksum? One finished checksum in 65536 looks like one, which is harmless where the answer
/// leads to a full recomputation.
#[must_use]
#[inline(always)]
pub const fn is_partial(check: u16, pseudo: u64) -> bool {
    check == fold(pseudo)
}

/// A finished checksum as UDP stores it: 0 would mean "none".
#[must_use]
#[inline(always)]
pub const fn udp(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The textbook sum, byte pairs in network order.
    fn textbook(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn pseudo_bytes(t: &Tuple, proto: u8, len: u32, v6: bool) -> Vec<u8> {
        let from = if v6 { 0 } else { 12 };
        let mut b = [&t.src.octets[from..], &t.dst.octets[from..]].concat();
        b.extend_from_slice(&len.to_be_bytes());
        b.extend_from_slice(&[0, 0, 0, proto]);
        b
    }

    prop_compose! {
        fn tuple(v6: bool)(src: [u8; 16], dst: [u8; 16], src_port: u16, dst_port: u16) -> Tuple {
            let addr = |o: [u8; 16]| if v6 { Addr::v6(o) } else { Addr::v4([o[0], o[1], o[2], o[3]]) };
            Tuple { src: addr(src), dst: addr(dst), src_port, dst_port }
        }
    }

    /// 0x0000 and 0xffff are the same number in one's complement.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    fn check_rewrite(old: &Tuple, new: &Tuple, payload: &[u8], v6: bool) {
        let bytes = |t: &Tuple| {
            let mut b = pseudo_bytes(t, 17, payload.len() as u32 + 4, v6);
            b.extend_from_slice(&t.src_port.to_be_bytes());
            b.extend_from_slice(&t.dst_port.to_be_bytes());
            b.extend_from_slice(payload);
            b
        };
        let before = textbook(&bytes(old)).to_be();
        let after = textbook(&bytes(new)).to_be();
        let got = apply(before, diff_addrs(old, new, v6) + diff_ports(old, new));
        assert!(same(got, after), "got {got:04x}, want {after:04x}");
    }

    proptest! {
        #[test]
        fn incremental_equals_full_v4(old in tuple(false), new in tuple(false), payload: Vec<u8>) {
            check_rewrite(&old, &new, &payload, false);
        }

        #[test]
        fn incremental_equals_full_v6(old in tuple(true), new in tuple(true), payload: Vec<u8>) {
            check_rewrite(&old, &new, &payload, true);
        }

        #[test]
        fn pseudo_header_equals_the_bytes(t in tuple(true), proto: u8, len in 0u32..70_000) {
            for (v6, t) in [(true, t), (false, Tuple { src: Addr::v4(t.src.last4()), dst: Addr::v4(t.dst.last4()), ..t })] {
                let want = !textbook(&pseudo_bytes(&t, proto, len, v6)).to_be();
                prop_assert!(same(fold(pseudo(&t, proto, len, v6)), want));
            }
        }

        #[test]
        fn fold32_keeps_the_value(sum: u64) {
            prop_assert!(same(fold(sum), fold(u64::from(fold32(sum)))));
        }
    }

    #[test]
    fn udp_never_stores_zero() {
        assert_eq!((udp(0), udp(1)), (0xffff, 1));
    }
}
