//! Pure logic of a flow, the same in the kernel and in tests: hashes, table lookup, TCP state, timeouts, limits.
//!
//! Nothing here touches a packet or a map. What decides where a flow goes must give the same answer on every node, so
//! that a packet that reaches another node after a failover still finds its backend: [`hash`] depends on nothing but
//! the tuple, and on no byte order.
use crate::abi::*;

/// TCP flag bits as on the wire.
pub mod tcp {
    /// The sender has no more data.
    pub const FIN: u8 = 1;
    /// Opens a connection.
    pub const SYN: u8 = 2;
    /// Aborts a connection.
    pub const RST: u8 = 4;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 16;
}

/// One round of murmur3.
#[inline(always)]
const fn mix(h: u32, word: u32) -> u32 {
    let k = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (h ^ k).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

/// Makes every bit of the result depend on every bit of the hash; without it `hash % slots` follows the port's low bits.
#[inline(always)]
const fn avalanche(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

#[inline(always)]
const fn mix_addr(h: u32, a: &Addr) -> u32 {
    let w = crate::csum::words(a);
    mix(mix(mix(mix(h, w[0].to_le()), w[1].to_le()), w[2].to_le()), w[3].to_le())
}

/// The hash that chooses a flow's backend; the same on every node.
#[must_use]
#[inline(always)]
pub const fn hash(t: &Tuple, proto: u8) -> u32 {
    let h = mix_addr(mix_addr(0x9e37_79b9 ^ proto as u32, &t.src), &t.dst);
    avalanche(mix(h, (t.src_port as u32) << 16 | t.dst_port as u32))
}

/// The hash that chooses the backend of a frontend with client affinity: the client's address alone.
#[must_use]
#[inline(always)]
pub const fn hash_client(client: &Addr) -> u32 {
    avalanche(mix_addr(0x9e37_79b9, client))
}

/// The chunk and the index in it where a hash finds its backend; `None` for an empty table.
#[must_use]
#[inline(always)]
pub const fn table_position(f: &Frontend, hash: u32) -> Option<(u32, u32)> {
    let slots = f.table_slots;
    if slots == 0 {
        return None;
    }
    let slot = hash % slots;
    Some((f.table_chunk.wrapping_add(slot / CHUNK_SLOTS), slot % CHUNK_SLOTS))
}

/// The tuple of the packets in the other direction.
#[must_use]
#[inline(always)]
pub const fn reversed(t: &Tuple) -> Tuple {
    Tuple { src: t.dst, dst: t.src, src_port: t.dst_port, dst_port: t.src_port }
}

/// Is the one tuple the other reversed?
#[must_use]
#[inline(always)]
pub fn is_reverse(a: &Tuple, b: &Tuple) -> bool {
    a.src == b.dst && a.dst == b.src && a.src_port == b.dst_port && a.dst_port == b.src_port
}

/// The `CT_*` bits that a packet with these TCP flags sets.
#[must_use]
#[inline(always)]
pub const fn state_bits(tcp_flags: u8, dir: u8) -> u32 {
    let fin = if dir == CT_REPLY { CT_FIN_BACKEND } else { CT_FIN_CLIENT };
    let mut bits = if dir == CT_REPLY { CT_REPLIED } else { 0 };
    if tcp_flags & tcp::FIN != 0 {
        bits |= fin;
    }
    if tcp_flags & tcp::RST != 0 {
        bits |= CT_RST;
    }
    bits
}

/// The `CT_*` bits that a datagram sets on a flow with these flags: a client that speaks after an answer has not merely asked.
#[must_use]
#[inline(always)]
pub const fn dialogue_bits(proto: u8, dir: u8, flags: u32) -> u32 {
    if proto != TCP && dir == CT_REQUEST && flags & CT_REPLIED != 0 { CT_DIALOGUE } else { 0 }
}

/// Is the connection over: reset, or ended by both sides?
#[must_use]
#[inline(always)]
pub const fn closed(flags: u32) -> bool {
    const BOTH: u32 = CT_FIN_CLIENT | CT_FIN_BACKEND;
    flags & CT_RST != 0 || flags & BOTH == BOTH
}

/// Is this the backend that the packets of the client go to?
#[must_use]
#[inline(always)]
pub fn leads_to(entry: &CtEntry, backend: &Backend) -> bool {
    entry.to.dst == backend.addr && entry.to.dst_port == backend.port
}

/// How far beyond what the other side has acknowledged an RST may be: the bytes that were on their way. Units: bytes.
pub const RST_AHEAD: u32 = 1 << 18;
/// The same of a FIN, whose segment ends a transfer and is sent once. One FIN alone ends nothing. Units: bytes.
pub const FIN_AHEAD: u32 = 1 << 26;
/// How far before it a segment with FIN may begin, of which a part is acknowledged already. Units: bytes.
pub const FIN_BEHIND: u32 = 1 << 16;

/// May a segment with RST or FIN and this sequence number end its direction, of which the other side has acknowledged all
/// before `known`?
///
/// An RST that is too far ahead to be believed is answered by a host that lives, and comes again with the number that is
/// expected (RFC 5961, section 3.2).
#[must_use]
#[inline(always)]
pub const fn may_end(tcp_flags: u8, seq: u32, known: u32) -> bool {
    let ahead = seq.wrapping_sub(known);
    if tcp_flags & tcp::RST != 0 { ahead <= RST_AHEAD } else { ahead.wrapping_add(FIN_BEHIND) <= FIN_AHEAD }
}

/// How far the backend may be ahead of what a client has acknowledged, or behind it, to be its peer. Units: bytes.
pub const ANSWER_NEAR: u32 = 1 << 24;

/// Does a packet prove that its sender hears the other side of a flow that is not proved? `numbers`: its sequence and
/// acknowledgement number; `entries`: of its direction, and of the other.
#[must_use]
#[inline(always)]
pub const fn proves(key: &CtKey, tcp_flags: u8, numbers: (u32, u32), entries: (&CtEntry, &CtEntry), now: u64) -> bool {
    let (entry, peer) = entries;
    let (seq, ack) = numbers;
    if key.proto != TCP {
        return entry.flags & CT_REPLIED != 0 && idle(entry.created, now) > CT_UDP_STREAM_NS;
    }
    if tcp_flags & (tcp::SYN | tcp::RST) != 0 {
        return false;
    }
    if key.dir == CT_REQUEST {
        return tcp_flags & tcp::ACK != 0 && entry.expect != 0 && ack == entry.expect;
    }
    peer.ack != 0 && seq.wrapping_sub(peer.ack).wrapping_add(ANSWER_NEAR) <= 2 * ANSWER_NEAR
}

/// How much a new flow wants the source port that a flow has which is not proved.
pub mod want {
    /// There are others: only if its time is over.
    pub const FREE: u32 = 0;
    /// None was free: if it is closed, or waits.
    pub const IDLE: u32 = 1;
    /// None was idle either: in any case.
    pub const ANY: u32 = 2;
}

/// May a flow that is not proved lose its source port to another, which wants it so much?
#[must_use]
#[inline(always)]
pub const fn may_lose_port(proto: u8, entry: &CtEntry, wanted: u32, now: u64) -> bool {
    let waits = wanted >= want::IDLE && (closed(entry.flags) || idle(entry.seen, now) > WAITING_NS);
    wanted >= want::ANY || waits || expired(proto, entry.flags, entry.seen, now)
}

/// Counts a flow that is opened; `false` if the frontend has had its share.
#[must_use]
#[inline(always)]
pub const fn take_share(share: &mut Share, now: u64) -> bool {
    let window = (now >> WINDOW_BITS) as u32;
    if share.window != window {
        *share = Share { window, flows: 0 };
    }
    if share.flows >= OPENING_SHARE {
        return false;
    }
    share.flows += 1;
    true
}

/// Takes back a flow that was answered, unless it was counted long ago.
#[inline(always)]
pub const fn release_share(share: &mut Share, now: u64) {
    if share.window == (now >> WINDOW_BITS) as u32 && share.flows > 0 {
        share.flows -= 1;
    }
}

/// How long an entry with these flags may be idle. Units: nanoseconds.
#[must_use]
#[inline(always)]
pub const fn timeout(proto: u8, flags: u32) -> u64 {
    let replied = flags & CT_REPLIED != 0;
    if proto != TCP {
        let is_question = flags & CT_OPENING != 0 && flags & CT_DIALOGUE == 0;
        return match (replied, is_question) {
            (false, _) => CT_UDP_ONEWAY_NS,
            (true, true) => CT_UDP_ANSWERED_NS,
            (true, false) => CT_UDP_REPLIED_NS,
        };
    }
    if flags & CT_OPENING != 0 {
        CT_TCP_OPENING_NS
    } else if closed(flags) {
        CT_TCP_CLOSED_NS
    } else if replied {
        CT_TCP_ESTABLISHED_NS
    } else {
        CT_TCP_OPENING_NS
    }
}

/// Time since an entry was seen; nothing if another CPU's clock was ahead. Units: nanoseconds.
#[must_use]
#[inline(always)]
pub const fn idle(seen: u64, now: u64) -> u64 {
    let idle = now.wrapping_sub(seen);
    if idle as i64 > 0 { idle } else { 0 }
}

/// Has an entry been idle for longer than its state allows?
#[must_use]
#[inline(always)]
pub const fn expired(proto: u8, flags: u32, seen: u64, now: u64) -> bool {
    idle(seen, now) > timeout(proto, flags)
}

/// May a packet of `total` bytes, come in by `ingress`, follow what is remembered?
#[must_use]
#[inline(always)]
pub fn is_fresh(hop: &Hop, now: u64, ingress: u32, total: u32) -> bool {
    // Once for both ends: it is not over, and it was not made in a future.
    let left = hop.until.wrapping_sub(now);
    let fits = hop.ingress == ingress && total <= u32::from(hop.mtu);
    left.wrapping_sub(1) < HOP_NS && fits && hop.check == checked(*hop).check
}

/// The hop with the sum that it should have.
#[must_use]
#[inline(always)]
pub fn checked(hop: Hop) -> Hop {
    let [a, b, c, d]: [u64; 4] = bytemuck::cast(Hop { check: 0, ..hop });
    let mixed = a ^ b.rotate_left(17) ^ c.rotate_left(31) ^ d.rotate_left(47);
    Hop { check: (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16, ..hop }
}

/// How many source ports are tried for a new flow before it is dropped as [`Reason::SnatExhausted`].
///
/// Where a part `p` of the range is held by flows that are proved, one in `p^-PORT_PROBES` new flows is dropped: of 95 % one in
/// 19,000, of 90 % none in a lifetime. The packet that is sent again tries other ports.
pub const PORT_PROBES: u32 = 192;
/// After so many the port of a flow that is closed, or waits, is taken, if one was met: in a flood more probes find no more.
pub const IDLE_PROBES: u32 = 16;
/// After so many the port of any flow that is not proved.
pub const ANY_PROBES: u32 = 64;
/// So many first ones are always the same: a flow that was evicted gets its port again.
pub const STEADY_PROBES: u32 = 4;

/// Ranges of so many ports and more are tried at places that have nothing to do with each other: next to a port that is taken
/// others are. Smaller ones port by port, all of them.
const WIDE: u32 = 1_024;

/// The source port to try at the given attempt, from the configured range; `None` when the range is empty.
#[must_use]
#[inline(always)]
pub const fn source_port(s: &Settings, hash: u32, attempt: u32) -> Option<u16> {
    let (first, last) = (s.snat_first as u32, s.snat_last as u32);
    if first == 0 || last < first {
        return None;
    }
    // The hash already chose the backend, where many flows meet: take other bits of it for the port.
    let start = avalanche(hash ^ 0x5bd1_e995);
    let place = if last - first >= WIDE && attempt > 0 {
        avalanche(start ^ attempt.wrapping_mul(0x9e37_79b9))
    } else {
        start.wrapping_add(attempt)
    };
    // Checked, because the compiler would keep a panic for the empty range that was refused above.
    match place.checked_rem(last - first + 1) {
        Some(n) => Some((first + n) as u16),
        None => None,
    }
}

/// A number that is another one about every half second. Units of `now`: nanoseconds.
#[must_use]
#[inline(always)]
pub const fn half_seconds(now: u64) -> u32 {
    (now >> 29) as u32
}

/// Is this no address that a client can have: unspecified, loopback, multicast, broadcast (RFC 1122, RFC 4291)?
#[must_use]
#[inline(always)]
pub const fn is_martian(a: &Addr, v6: bool) -> bool {
    let w = crate::csum::words(a);
    if v6 {
        let host = u32::from_be(w[3]);
        return a.octets[0] == 0xff || (w[0] | w[1] | w[2] == 0 && host <= 1);
    }
    matches!(a.octets[12], 0 | 127 | 224..=239 | 255)
}

/// Takes a token if there is one, filling the bucket with `rate` tokens a second up to `rate` of them.
#[must_use]
#[inline(always)]
pub const fn take_token(b: &mut Bucket, now: u64, rate: u32) -> bool {
    const SECOND: u64 = 1_000_000_000;
    let rate = rate as u64;
    if rate == 0 {
        return false;
    }
    let idle = now.saturating_sub(b.filled);
    if idle >= SECOND {
        *b = Bucket { filled: now, tokens: rate };
    } else {
        let new = idle * rate / SECOND;
        let tokens = b.tokens + new;
        b.tokens = if tokens > rate { rate } else { tokens };
        // Only by what was taken out of the time: a fraction of a token is not lost.
        b.filled += new * SECOND / rate;
    }
    if b.tokens == 0 {
        return false;
    }
    b.tokens -= 1;
    true
}

/// Sequence and acknowledgement number and flags of the RST that answers a segment; `None` for an RST, which is never
/// answered. `len`: bytes of payload. Source: RFC 9293, section 3.10.7.1.
#[must_use]
#[inline(always)]
pub const fn reset_for(flags: u8, seq: u32, ack: u32, len: u32) -> Option<(u32, u32, u8)> {
    if flags & tcp::RST != 0 {
        return None;
    }
    if flags & tcp::ACK != 0 {
        return Some((ack, 0, tcp::RST));
    }
    let syn = (flags & tcp::SYN != 0) as u32;
    let fin = (flags & tcp::FIN != 0) as u32;
    Some((0, seq.wrapping_add(len).wrapping_add(syn).wrapping_add(fin), tcp::RST | tcp::ACK))
}

#[cfg(test)]
mod tests;
