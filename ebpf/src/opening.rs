//! Flows whose client or backend has not yet proved that it hears the other: a map of their own, so that a flood of them
//! evicts nothing but its like.
//!
//! # Design
//!
//! - A spoofer sees no answer. So a TCP flow is proved, and promoted to conntrack, by a number that only an end knows that
//!   hears the other: the client acknowledges the SYN-ACK that went by here, or the backend goes on from what the client has
//!   acknowledged. That a backend answers a SYN proves nothing, nor does what it says to a segment that fits nowhere. A
//!   flow that is met in its middle, after a failover, is proved by the backend's next segment.
//! - Datagrams prove nothing. A UDP flow is promoted if it is answered and goes on for longer than [`CT_UDP_STREAM_NS`], as
//!   the host's own conntrack does: single questions, which are most of what is spoofed, never are.
//! - Both entries move at once, the reply first. A reply key is in one of the maps, or in both for one flow: who enters a
//!   flow looks at conntrack after it has written here, who promotes one looks here after it has written to conntrack, and
//!   whoever finds another flow there gives way.
//! - The packet of a flow that is in conntrack pays nothing for all this. This map is asked after conntrack was, towards a
//!   VIP or a source port of ours alone, and for what leaves the node and is not in conntrack.
//! - An LRU map evicts whatever was seen longest ago, whosever it is. So a frontend may open only [`OPENING_SHARE`] flows
//!   in one window ([`WINDOW_BITS`], about a second) that are not answered: beyond it its new flows are refused, and those of
//!   other frontends keep a second for their handshakes. Flows that are answered do not count, so that no rate of
//!   connections that are real comes near it; below it nobody is refused anything. Where n frontends are flooded beyond their
//!   share at once, a handshake has an n-th of that second.
use crate::{CONNTRACK, OPENING, SHARES, conntrack, context::Packet};
use aya_ebpf::bindings::BPF_NOEXIST;
use core::arch::asm;
use sluice_ebpf::{
    flow::{self, tcp},
    packet::Headers,
    *,
};

/// What became of a flow with one of its packets: nothing that the packet may follow.
const GONE: u32 = 0;
/// The flow stays where it is.
const FOLLOW: u32 = 1;
/// The flow is in conntrack.
const PROMOTED: u32 = 2;
/// `-EEXIST`.
const EEXIST: i32 = -17;

/// The entry of a packet's flow in the direction that the key names, if it is not yet proved or was so until now, and lives.
#[inline(always)]
pub(crate) fn find<P: Packet>(p: P, h: &Headers, now: u64) -> Option<&'static mut CtEntry> {
    let entry = OPENING.get_ptr_mut(&h.key)?;
    let (seq, ack) = conntrack::numbers(p, h);
    match advance(entry, h, seq, ack, now) {
        // SAFETY: as in `conntrack::find`.
        FOLLOW => Some(unsafe { &mut *entry }),
        // SAFETY: as above.
        PROMOTED => CONNTRACK.get_ptr_mut(&h.key).map(|e| unsafe { &mut *e }),
        _ => None,
    }
}

/// Judges whether the entry lives, and promotes its flow if the packet proves it.
///
/// A global function, so that the verifier walks through it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn advance(entry: *mut CtEntry, h: *const Headers, seq: u32, ack: u32, now: u64) -> u32 {
    // SAFETY: the caller's own values, which the verifier wants checked all the same.
    let (Some(entry), Some(h)) = (unsafe { (entry.as_mut(), h.as_ref()) }) else { return GONE };
    let (proto, dir) = (h.key.proto, h.key.dir);
    // A SYN on a flow that is over is another flow.
    if h.tcp_flags & tcp::SYN != 0 && flow::closed(entry.flags) {
        return GONE;
    }
    let other = conntrack::peer_key(entry, proto, dir);
    // SAFETY: as in `conntrack::find`.
    let peer = OPENING.get_ptr_mut(&other).map(|p| unsafe { &mut *p });
    // Another flow may have taken the port.
    let peer = peer.filter(|p| flow::is_reverse(&p.to, &h.key.tuple));
    let is_over = |e: &CtEntry| flow::expired(proto, e.flags, e.seen, now);
    let Some(peer) = peer else {
        // Replies would find no entry: the client's next packet makes both anew.
        return if dir == CT_REQUEST || is_over(entry) { GONE } else { FOLLOW };
    };
    if is_over(entry) && is_over(peer) {
        return GONE;
    }
    if dir == CT_REPLY && proto == TCP && h.tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN | tcp::ACK {
        peer.expect = seq.wrapping_add(1);
        return FOLLOW;
    }
    if dir == CT_REPLY && proto != TCP && entry.flags & CT_REPLIED == 0 {
        release(entry.frontend, now);
    }
    if !flow::proves(&h.key, h.tcp_flags, (seq, ack), (entry, peer), now) {
        return FOLLOW;
    }
    if dir == CT_REQUEST {
        promote(&h.key, entry, &other, peer, now)
    } else {
        promote(&other, peer, &h.key, entry, now)
    }
}

/// Moves both entries of a flow to conntrack.
#[inline(always)]
fn promote(there: &CtKey, request: &mut CtEntry, back: &CtKey, reply: &mut CtEntry, now: u64) -> u32 {
    let frontend = request.frontend;
    become_tracked(request);
    become_tracked(reply);
    match CONNTRACK.insert(back, &*reply, BPF_NOEXIST as u64) {
        Ok(()) => {}
        // Another CPU is doing the same.
        // SAFETY: as in `conntrack::find`.
        Err(EEXIST) if CONNTRACK.get_ptr(back).is_some_and(|e| unsafe { flow::is_reverse(&(*e).to, &there.tuple) }) => {
        }
        Err(EEXIST) => return forget(there, back),
        Err(_) => return stay(request, reply),
    }
    // SAFETY: as above.
    if OPENING.get_ptr(back).is_some_and(|e| unsafe { !flow::is_reverse(&(*e).to, &there.tuple) }) {
        let _ = CONNTRACK.remove(back);
        let _ = OPENING.remove(there);
        return GONE;
    }
    if CONNTRACK.insert(there, &*request, 0).is_err() {
        let _ = CONNTRACK.remove(back);
        return stay(request, reply);
    }
    let _ = forget(there, back);
    if there.proto == TCP {
        release(frontend, now);
    }
    PROMOTED
}

/// Removes both entries of a flow here.
#[inline(always)]
fn forget(there: &CtKey, back: &CtKey) -> u32 {
    let _ = OPENING.remove(there);
    let _ = OPENING.remove(back);
    GONE
}

/// Leaves a flow here for which conntrack has no room.
#[inline(always)]
fn stay(request: &mut CtEntry, reply: &mut CtEntry) -> u32 {
    conntrack::set_flags(request, CT_OPENING);
    conntrack::set_flags(reply, CT_OPENING);
    FOLLOW
}

/// The flags of a flow that is proved.
#[inline(always)]
fn become_tracked(entry: &mut CtEntry) {
    conntrack::set_flags(entry, CT_REPLIED);
    let p = &raw mut entry.flags;
    // SAFETY: as in `conntrack::set_flags`.
    unsafe { asm!("lock *(u32 *)({p} + 0) &= {bits}", p = in(reg) p, bits = in(wreg) !CT_OPENING, options(nostack)) };
}

/// May the frontend open another flow? It is counted if so.
#[inline(always)]
pub(crate) fn admits(frontend: u32, now: u64) -> bool {
    let Some(share) = SHARES.get_ptr_mut(frontend) else { return true };
    // SAFETY: array values are never freed. CPUs that count at once may miss one of each other's, of thousands.
    let share = unsafe { &mut *share };
    flow::take_share(share, now)
}

/// A flow that was counted is answered.
#[inline(always)]
fn release(frontend: u32, now: u64) {
    let Some(share) = SHARES.get_ptr_mut(frontend) else { return };
    // SAFETY: as in `admits`.
    let share = unsafe { &mut *share };
    flow::release_share(share, now);
}
