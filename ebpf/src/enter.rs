//! Enters a new flow: both entries, the reply's under a source port that no other flow to the backend has.
//!
//! # Design
//!
//! - A reply entry that is taken sends a new flow to another source port. That holds without SNAT too: one client port
//!   that reaches one backend through two VIPs would otherwise be one flow to the backend.
//! - A port that conntrack has is taken while its flow lives: it was proved. One that only an unanswered flow has is not held
//!   against a new one that finds no other: first that of a flow which waits for longer than [`WAITING_NS`], then any. So
//!   the ports of an endpoint cannot be held by whoever only sends SYNs.
//! - Of two CPUs that want the same port of another flow the one has it that marks the entry first.
use crate::{
    CONNTRACK, OPENING, SETTINGS,
    conntrack::{numbers, peer_key},
    context::Packet,
    opening,
};
use aya_ebpf::bindings::BPF_NOEXIST;
use core::arch::asm;
use sluice_ebpf::{
    flow::{self, tcp},
    packet::Headers,
    *,
};

/// `-EEXIST`.
const EEXIST: i32 = -17;
/// Returned by [`reserve`] when every port it tried is taken.
const NO_PORT: u32 = 0x1_0000;
/// Returned by [`reserve`] when the map refused the entry.
const NO_ROOM: u32 = 0x1_0001;

/// Enters a new flow in both directions: the reply first, since it may be refused.
#[inline(always)]
pub(crate) fn enter<P: Packet>(p: P, h: &Headers, choice: &mut Choice, hash: u32) -> Result<(), Reason> {
    if !opening::admits(choice.entry.frontend, choice.entry.seen) {
        return Err(Reason::OpeningShare);
    }
    let (seq, ack) = numbers(p, h);
    // What the backend will acknowledge, so that the client's RST is measured from the first.
    choice.entry.ack = seq.wrapping_add((h.tcp_flags & tcp::SYN != 0) as u32);
    choice.entry.flags |= CT_OPENING;
    let port = reserve(choice, h.key.tuple.src_port, hash);
    if port == NO_PORT {
        return Err(Reason::SnatExhausted);
    }
    if port == NO_ROOM {
        return Err(Reason::ConntrackFull);
    }
    choice.entry.to = flow::reversed(&choice.reply.tuple);
    choice.entry.ack = ack;
    OPENING.insert(&h.key, &choice.entry, 0).map_err(|_| Reason::ConntrackFull)?;
    // The flow that had the name before is over, and would be found first.
    if CONNTRACK.get_ptr(&h.key).is_some() {
        let _ = CONNTRACK.remove(&h.key);
    }
    Ok(())
}

/// Inserts the reply entry under the first source port that is free, and returns the port.
#[inline(never)]
fn reserve(choice: &mut Choice, own: u16, hash: u32) -> u32 {
    let settings = SETTINGS.get(0).copied().unwrap_or_default();
    for attempt in 0..flow::PORT_PROBES {
        // The second half tries the same ports again, and there takes those that others need less.
        let n = attempt % (flow::PORT_PROBES / 2);
        // The first ones are always the same: a flow that was evicted gets its port again. A flow that finds none of them
        // free looks elsewhere each time that it tries.
        let hash = if n < flow::PORT_PROBES / 4 { hash } else { hash ^ flow::half_seconds(choice.entry.seen) };
        let port = if attempt == 0 && choice.entry.flags & CT_SNAT == 0 {
            own
        } else {
            match flow::source_port(&settings, hash, n) {
                Some(port) => port,
                None => return NO_PORT,
            }
        };
        choice.reply.tuple.dst_port = port;
        if leave_tracked(choice, (attempt >= flow::PORT_PROBES / 2) as u32) == 0 {
            continue;
        }
        match OPENING.insert(&choice.reply, &choice.entry, BPF_NOEXIST as u64) {
            Ok(()) => {}
            Err(EEXIST) => {
                if take(choice, attempt) == 0 {
                    continue;
                }
                if OPENING.insert(&choice.reply, &choice.entry, 0).is_err() {
                    return NO_ROOM;
                }
            }
            Err(_) => return NO_ROOM,
        }
        // A flow may have been promoted in between.
        if CONNTRACK.get_ptr(&choice.reply).is_none() {
            return port as u32;
        }
        let _ = OPENING.remove(&choice.reply);
    }
    NO_PORT
}

/// Makes sure that conntrack does not have the reply key; 0 if a flow has it that lives. What is there goes if it is of the
/// same flow, if its flow has expired, or, where `closed` allows it, if that is over, and then its request entry as well.
///
/// A global function, so that the verifier walks through it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn leave_tracked(choice: *const Choice, closed: u32) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(choice) = (unsafe { choice.as_ref() }) else { return 0 };
    let (reply, now) = (&choice.reply, choice.entry.seen);
    let Some(old) = CONNTRACK.get_ptr(reply) else { return 1 };
    // SAFETY: as in `conntrack::find`.
    let old = unsafe { &*old };
    if old.to != choice.entry.to {
        // Its peer. The client may have begun another flow in the meantime, whose entry has nothing to do with this one.
        let request = peer_key(old, reply.proto, CT_REPLY);
        // SAFETY: as in `conntrack::find`.
        let peer = CONNTRACK.get_ptr(&request).map(|p| unsafe { &*p });
        let peer = peer.filter(|p| flow::is_reverse(&p.to, &reply.tuple));
        let idle = |e: &CtEntry| flow::expired(reply.proto, e.flags, e.seen, now);
        let over = idle(old) && peer.is_none_or(idle);
        if !(over || closed != 0 && flow::closed(old.flags)) {
            return 0;
        }
        if peer.is_some() {
            let _ = CONNTRACK.remove(&request);
        }
    }
    let _ = CONNTRACK.remove(reply);
    1
}

/// May the entry that an unanswered flow has under the reply key be replaced, in this attempt? Its request entry goes then.
///
/// A global function, so that the verifier walks through it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn take(choice: *const Choice, attempt: u32) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(choice) = (unsafe { choice.as_ref() }) else { return 0 };
    let (reply, now) = (&choice.reply, choice.entry.seen);
    let Some(old) = OPENING.get_ptr_mut(reply) else { return 0 };
    // SAFETY: as in `conntrack::find`.
    let old = unsafe { &mut *old };
    if old.to == choice.entry.to {
        return claim(old) as u32;
    }
    let request = peer_key(old, reply.proto, CT_REPLY);
    // SAFETY: as in `conntrack::find`.
    let peer = OPENING.get_ptr(&request).map(|p| unsafe { &*p });
    let peer = peer.filter(|p| flow::is_reverse(&p.to, &reply.tuple));
    let free = |e: &CtEntry| flow::may_lose_port(reply.proto, e, attempt, now);
    if !(free(old) && peer.is_none_or(free) && claim(old)) {
        return 0;
    }
    if peer.is_some() {
        let _ = OPENING.remove(&request);
    }
    1
}

/// Marks an entry as one that is about to be replaced; `false` if another CPU has done so.
#[inline(always)]
fn claim(entry: &mut CtEntry) -> bool {
    let p = &raw mut entry.flags;
    let mut bits = CT_TAKEN;
    // SAFETY: an aligned `u32` in a map value; the instruction is atomic and touches nothing else.
    unsafe {
        asm!("{bits} = atomic_fetch_or((u32 *)({p} + 0), {bits})", p = in(reg) p, bits = inout(wreg) bits, options(nostack))
    };
    bits & CT_TAKEN == 0
}
