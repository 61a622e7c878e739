//! Conntrack: find and refresh. A flow has two entries, one for each direction, that name each other: the
//! key of the peer is the tuple that packets of this direction leave with, reversed.
//!
//! # Design
//!
//! - State bits are kept on both entries, so that each direction can judge alone whether the flow is over. The peer is
//!   written only when a bit is new: a busy flow writes nothing but its own `seen`, and that four times a second.
//! - RST and FIN end a flow only when its other side would take them: by what that one acknowledged last, which each
//!   direction's entry remembers, and with a checksum that is right. Whoever does not see the flow's packets does not know
//!   the number. Nothing else of a flow's packets is checked: the ends do that.
//! - Time alone ends an entry only if the peer is idle as well: a one-way stream is alive.
//! - A backend that left a frontend keeps the flows that it has answered. One that never answered is not waited for: the next
//!   SYN finds it in `LEFT`, or, where no frontend has it any more, its id gone, two ticks later, and the flow begins anew.
//!   While the frontend has the backend a SYN that is sent again goes where the first went, whatever the table says.
//! - A flow begins in `OPENING` ([`opening`](crate::opening)), and comes here once it is proved that its client is real.
//!   Where its entries are is one of its state bits, so that the other direction's entry is found with one look-up.
use crate::{BACKENDS, CONNTRACK, LEFT, OPENING, context::Packet, count};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use core::arch::asm;
use sluice_ebpf::{
    flow::{self, tcp},
    packet::Headers,
    *,
};

/// Offset of the sequence number in a TCP header.
const SEQ_AT: usize = 4;
/// Offset of the acknowledgement number.
const ACK_AT: usize = 8;

/// Monotonic nanoseconds, at the resolution of the timer interrupt.
#[inline(always)]
pub(crate) fn clock() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The entry of a packet's flow in the direction that the key names, if the flow still lives.
#[inline(always)]
pub(crate) fn find(h: &Headers, now: u64) -> Option<&'static mut CtEntry> {
    let entry = CONNTRACK.get_ptr_mut(&h.key)?;
    // SAFETY: the kernel keeps the value's memory until the program ends; another CPU may write it, and a torn value
    // misleads one packet at worst.
    let entry = unsafe { &mut *entry };
    // A SYN on a flow that is over is another flow.
    if h.tcp_flags & tcp::SYN != 0 && flow::closed(entry.flags) {
        return None;
    }
    if flow::expired(h.key.proto, entry.flags, entry.seen, now) && !peer_lives(entry, h.key.proto, h.key.dir, now) {
        return None;
    }
    Some(entry)
}

/// Has the backend of a flow, given by the client's entry, left its frontend without ever having answered?
///
/// An id that another backend has by now does not count for the one that had it. A global function, so that the verifier
/// walks through it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_orphan(entry: *const CtEntry) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(entry) = (unsafe { entry.as_ref() }) else { return 0 };
    if entry.flags & CT_REPLIED != 0 {
        return 0;
    }
    let id = entry.backend;
    // SAFETY: as in `find`.
    if BACKENDS.get_ptr(&id).is_none_or(|b| unsafe { !flow::leads_to(entry, &*b) }) {
        return 1;
    }
    let seat = Seat { frontend: entry.frontend, backend: id };
    LEFT.get_ptr(&seat).is_some() as u32
}

/// The entry with this key, whether or not its flow is proved; it may have expired.
#[inline(always)]
pub(crate) fn row(key: &CtKey) -> Option<*const CtEntry> {
    match CONNTRACK.get_ptr(key) {
        None => OPENING.get_ptr(key),
        found => found,
    }
}

/// The other direction's key.
#[inline(always)]
pub(crate) fn peer_key(entry: &CtEntry, proto: u8, dir: u8) -> CtKey {
    CtKey { tuple: flow::reversed(&entry.to), proto, dir: dir ^ 1, pad: [0; 2] }
}

/// Has the other direction been busy?
#[inline(never)]
fn peer_lives(entry: &CtEntry, proto: u8, dir: u8, now: u64) -> bool {
    match CONNTRACK.get_ptr(&peer_key(entry, proto, dir)) {
        // SAFETY: as in `find`.
        Some(peer) => unsafe { !flow::expired(proto, (*peer).flags, (*peer).seen, now) },
        None => false,
    }
}

/// The other direction's entry, in the map that has the flow.
#[inline(always)]
fn peer(entry: &CtEntry, proto: u8, dir: u8) -> Option<*mut CtEntry> {
    let key = peer_key(entry, proto, dir);
    if entry.flags & CT_OPENING != 0 { OPENING.get_ptr_mut(&key) } else { CONNTRACK.get_ptr_mut(&key) }
}

/// Notes that a packet of the flow was seen.
#[inline(always)]
pub(crate) fn touch<P: Packet>(p: P, entry: &mut CtEntry, h: &Headers, now: u64) {
    if flow::idle(entry.seen, now) > CT_REFRESH_NS {
        entry.seen = now;
    }
    // A segment in the middle of a flow.
    if h.tcp_flags == tcp::ACK {
        if let Some(ack) = p.bounds().read::<[u16; 2]>(h.l4() + ACK_AT) {
            entry.ack = u32::from_be(bytemuck::cast(ack));
        }
    }
    let bits = flow::state_bits(h.tcp_flags, h.key.dir) | flow::dialogue_bits(h.key.proto, h.key.dir, entry.flags);
    let new = bits & !entry.flags;
    if new == 0 {
        return;
    }
    if new & ENDS != 0 && !p.sums_up(h) {
        count::reason(Reason::EndIgnored);
        return;
    }
    let (seq, ack) = numbers(p, h);
    mark(entry, h, seq, ack, new);
}

/// The bits of which an end of the flow is made.
const ENDS: u32 = CT_RST | CT_FIN_CLIENT | CT_FIN_BACKEND;

/// Sets state bits on both entries; those that end the flow only if its other side would take the segment.
///
/// A global function, so that the verifier walks through it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn mark(entry: *mut CtEntry, h: *const Headers, seq: u32, ack: u32, bits: u32) -> u32 {
    // SAFETY: the caller's own values, which the verifier wants checked all the same.
    let (Some(entry), Some(h)) = (unsafe { (entry.as_mut(), h.as_ref()) }) else { return 0 };
    // SAFETY: as in `find`.
    let peer = peer(entry, h.key.proto, h.key.dir).map(|p| unsafe { &mut *p });
    let mut bits = bits;
    if bits & ENDS != 0 && !ends(entry, h.tcp_flags, seq, ack, peer.as_ref().map_or(0, |p| p.ack)) {
        count::reason(Reason::EndIgnored);
        bits &= !ENDS;
    } else if ack != 0 {
        // A FIN, an answer to SYN.
        entry.ack = ack;
    }
    set_flags(entry, bits);
    if let Some(peer) = peer {
        set_flags(peer, bits);
    }
    bits
}

/// Has a segment with RST or FIN a number that the other side expects? `known`: what that one has acknowledged; 0 while it
/// has not, and then only the refusal of a connection ends a flow: it acknowledges what opened it (RFC 9293, section 3.5.2).
#[inline(always)]
fn ends(entry: &CtEntry, tcp_flags: u8, seq: u32, ack: u32, known: u32) -> bool {
    if known == 0 {
        return tcp_flags & tcp::RST != 0 && ack != 0 && ack == entry.ack;
    }
    flow::may_end(tcp_flags, seq, known)
}

/// Sets bits at once: the two directions of a flow may run on two CPUs.
#[inline(always)]
pub(crate) fn set_flags(entry: &mut CtEntry, bits: u32) {
    let p = &raw mut entry.flags;
    // SAFETY: an aligned `u32` in a map value; the instruction is atomic and touches nothing else.
    unsafe { asm!("lock *(u32 *)({p} + 0) |= {bits}", p = in(reg) p, bits = in(wreg) bits, options(nostack)) };
}

/// Sequence and acknowledgement number of a segment, the latter 0 without ACK; both 0 of what is no segment.
#[inline(always)]
pub(crate) fn numbers<P: Packet>(p: P, h: &Headers) -> (u32, u32) {
    if h.key.proto != TCP {
        return (0, 0);
    }
    let Some(numbers) = p.bounds().read::<[u16; 4]>(h.l4() + SEQ_AT) else { return (0, 0) };
    let [seq, ack]: [u32; 2] = bytemuck::cast(numbers);
    (u32::from_be(seq), if h.tcp_flags & tcp::ACK != 0 { u32::from_be(ack) } else { 0 })
}
