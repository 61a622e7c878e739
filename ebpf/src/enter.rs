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
    flow::{self, tcp, want},
    packet::Headers,
    *,
};

/// `-EEXIST`.
const EEXIST: i32 = -17;
/// Returned by [`reserve`] when every port it tried is taken.
const NO_PORT: u32 = 0x1_0000;
/// Returned by [`reserve`] when the map refused the entry.
const NO_ROOM: u32 = 0x1_0001;
/// The port has a flow that keeps it.
const HELD: u32 = 0;
/// It is the new flow's.
const RESERVED: u32 = 1;
/// It has a flow that is closed, or waits.
const IDLE: u32 = 2;
/// It has a flow that is not proved.
const UNPROVED: u32 = 3;
/// The map has no room.
const FULL: u32 = 4;

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

/// Inserts the reply entry under the first source port that is free, and returns the port. Where none is, that of a flow goes
/// which is closed or waits, or at last which is not proved.
#[inline(never)]
fn reserve(choice: &mut Choice, own: u16, hash: u32) -> u32 {
    let settings = SETTINGS.get(0).copied().unwrap_or_default();
    // A flow that finds none of the first ones free looks elsewhere each time that it tries.
    let varied = hash ^ flow::half_seconds(choice.entry.seen);
    let (mut idle, mut any) = (NO_PORT, NO_PORT);
    let mut attempt = 0;
    while attempt < flow::PORT_PROBES {
        let is_enough =
            (idle != NO_PORT && attempt >= flow::IDLE_PROBES) || (any != NO_PORT && attempt >= flow::ANY_PROBES);
        if is_enough {
            break;
        }
        let port = if attempt == 0 && choice.entry.flags & CT_SNAT == 0 {
            own
        } else {
            match flow::source_port(&settings, if attempt < flow::STEADY_PROBES { hash } else { varied }, attempt) {
                Some(port) => port,
                None => return NO_PORT,
            }
        };
        choice.reply.tuple.dst_port = port;
        match probe(choice, want::FREE) {
            RESERVED => return port as u32,
            FULL => return NO_ROOM,
            IDLE if idle == NO_PORT => idle = port as u32,
            UNPROVED if any == NO_PORT => any = port as u32,
            _ => {}
        }
        attempt += 1;
    }
    if idle != NO_PORT {
        choice.reply.tuple.dst_port = idle as u16;
        match probe(choice, want::IDLE) {
            RESERVED => return idle,
            FULL => return NO_ROOM,
            _ => {}
        }
    }
    if any != NO_PORT {
        choice.reply.tuple.dst_port = any as u16;
        match probe(choice, want::ANY) {
            RESERVED => return any,
            FULL => return NO_ROOM,
            _ => {}
        }
    }
    NO_PORT
}

/// Inserts the reply entry if its key is free, or may be taken from a flow because it is wanted so much.
///
/// A global function, so that the verifier walks through it once and not for each port.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn probe(choice: *mut Choice, wanted: u32) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(choice) = (unsafe { choice.as_mut() }) else { return HELD };
    let tracked = leave_tracked(choice, wanted);
    if tracked != RESERVED {
        return tracked;
    }
    match OPENING.insert(&choice.reply, &choice.entry, BPF_NOEXIST as u64) {
        Ok(()) => {}
        Err(EEXIST) => {
            let taken = take(choice, wanted);
            if taken != RESERVED {
                return taken;
            }
            if OPENING.insert(&choice.reply, &choice.entry, 0).is_err() {
                return FULL;
            }
        }
        Err(_) => return FULL,
    }
    // A flow may have been promoted in between.
    if CONNTRACK.get_ptr(&choice.reply).is_none() {
        return RESERVED;
    }
    let _ = OPENING.remove(&choice.reply);
    HELD
}

/// Makes sure that conntrack does not have the reply key, or says who has it. What is there goes if it is of the same flow, if
/// its flow has expired, or, where it is wanted, if that is closed, and then its request entry as well.
///
/// A global function, so that the verifier walks through it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn leave_tracked(choice: *const Choice, wanted: u32) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(choice) = (unsafe { choice.as_ref() }) else { return HELD };
    let (reply, now) = (&choice.reply, choice.entry.seen);
    let Some(old) = CONNTRACK.get_ptr(reply) else { return RESERVED };
    // SAFETY: as in `conntrack::find`.
    let old = unsafe { &*old };
    if old.to != choice.entry.to {
        // Its peer. The client may have begun another flow in the meantime, whose entry has nothing to do with this one.
        let request = peer_key(old, reply.proto, CT_REPLY);
        // SAFETY: as in `conntrack::find`.
        let peer = CONNTRACK.get_ptr(&request).map(|p| unsafe { &*p });
        let peer = peer.filter(|p| flow::is_reverse(&p.to, &reply.tuple));
        let idle = |e: &CtEntry| flow::expired(reply.proto, e.flags, e.seen, now);
        if !(idle(old) && peer.is_none_or(idle)) {
            if !flow::closed(old.flags) {
                return HELD;
            }
            if wanted == want::FREE {
                return IDLE;
            }
        }
        if peer.is_some() {
            let _ = CONNTRACK.remove(&request);
        }
    }
    let _ = CONNTRACK.remove(reply);
    RESERVED
}

/// May the entry that an unanswered flow has under the reply key be replaced, which is wanted so much? Its request entry goes then.
///
/// A global function, so that the verifier walks through it once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn take(choice: *const Choice, wanted: u32) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(choice) = (unsafe { choice.as_ref() }) else { return HELD };
    let (reply, now) = (&choice.reply, choice.entry.seen);
    let Some(old) = OPENING.get_ptr_mut(reply) else { return HELD };
    // SAFETY: as in `conntrack::find`.
    let old = unsafe { &mut *old };
    if old.to == choice.entry.to {
        return if claim(old) { RESERVED } else { HELD };
    }
    let request = peer_key(old, reply.proto, CT_REPLY);
    // SAFETY: as in `conntrack::find`.
    let peer = OPENING.get_ptr(&request).map(|p| unsafe { &*p });
    let peer = peer.filter(|p| flow::is_reverse(&p.to, &reply.tuple));
    let free = |e: &CtEntry, wanted| flow::may_lose_port(reply.proto, e, wanted, now);
    if !(free(old, wanted) && peer.is_none_or(|p| free(p, wanted))) {
        let is_idle = free(old, want::IDLE) && peer.is_none_or(|p| free(p, want::IDLE));
        return if is_idle { IDLE } else { UNPROVED };
    }
    if !claim(old) {
        return HELD;
    }
    if peer.is_some() {
        let _ = OPENING.remove(&request);
    }
    RESERVED
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
