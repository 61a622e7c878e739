//! Conntrack: find, refresh, create, replace. A flow has two entries, one for each direction, that name each other: the
//! key of the peer is the tuple that packets of this direction leave with, reversed.
//!
//! # Design
//!
//! - State bits are kept on both entries, so that each direction can judge alone whether the flow is over. The peer is
//!   written only when a bit is new: a busy flow writes nothing but its own `seen`, and that four times a second.
//! - Time alone ends an entry only if the peer is idle as well: a one-way stream is alive.
//! - A backend that left a frontend keeps the flows that it has answered. One that never answered is not waited for: the next
//!   SYN finds it in `LEFT`, or, where no frontend has it any more, its id gone, two ticks later, and the flow begins anew.
//!   While the frontend has the backend a SYN that is sent again goes where the first went, whatever the table says.
//! - A reply entry that is taken sends a new flow to another source port. That holds without SNAT too: one client port
//!   that reaches one backend through two VIPs would otherwise be one flow to the backend.
use crate::{BACKENDS, CONNTRACK, LEFT, SETTINGS, lb::Choice};
use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_ktime_get_coarse_ns};
use core::arch::asm;
use sluice_ebpf::{
    flow::{self, tcp},
    packet::Headers,
    *,
};

/// `-EEXIST`.
const EEXIST: i32 = -17;

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

/// The other direction's key.
#[inline(always)]
fn peer_key(entry: &CtEntry, proto: u8, dir: u8) -> CtKey {
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

/// Notes that a packet of the flow was seen.
#[inline(always)]
pub(crate) fn touch(entry: &mut CtEntry, h: &Headers, now: u64) {
    if flow::idle(entry.seen, now) > CT_REFRESH_NS {
        entry.seen = now;
    }
    let new = flow::state_bits(h.tcp_flags, h.key.dir) & !entry.flags;
    if new != 0 {
        set_flags(entry, new);
        mark_peer(entry, h.key.proto, h.key.dir, new);
    }
}

/// Sets state bits on the other direction's entry.
#[inline(never)]
fn mark_peer(entry: &CtEntry, proto: u8, dir: u8, bits: u32) {
    if let Some(peer) = CONNTRACK.get_ptr_mut(&peer_key(entry, proto, dir)) {
        // SAFETY: as in `find`.
        set_flags(unsafe { &mut *peer }, bits);
    }
}

/// Sets bits at once: the two directions of a flow may run on two CPUs.
#[inline(always)]
fn set_flags(entry: &mut CtEntry, bits: u32) {
    let p = &raw mut entry.flags;
    // SAFETY: an aligned `u32` in a map value; the instruction is atomic and touches nothing else.
    unsafe { asm!("lock *(u32 *)({p} + 0) |= {bits}", p = in(reg) p, bits = in(wreg) bits, options(nostack)) };
}

/// Enters a new flow in both directions: the reply first, since it may be refused.
#[inline(always)]
pub(crate) fn enter(h: &Headers, choice: &mut Choice) -> Result<(), Reason> {
    let port = reserve(choice, h.key.tuple.src_port);
    if port == NO_PORT {
        return Err(Reason::SnatExhausted);
    }
    if port == NO_ROOM {
        return Err(Reason::ConntrackFull);
    }
    choice.entry.to = flow::reversed(&choice.reply.tuple);
    CONNTRACK.insert(&h.key, &choice.entry, 0).map_err(|_| Reason::ConntrackFull)
}

/// Returned by [`reserve`] when every port it tried is taken.
const NO_PORT: u32 = 0x1_0000;
/// Returned by [`reserve`] when the map refused the entry.
const NO_ROOM: u32 = 0x1_0001;

/// Inserts the reply entry under the first source port that is free, and returns the port.
#[inline(never)]
fn reserve(choice: &mut Choice, own: u16) -> u32 {
    let settings = SETTINGS.get(0).copied().unwrap_or_default();
    for attempt in 0..flow::PORT_PROBES {
        // The second half tries the same ports again, and there takes those of closed flows.
        let again = attempt >= flow::PORT_PROBES / 2;
        let n = attempt % (flow::PORT_PROBES / 2);
        // The first ones are always the same: a flow that was evicted gets its port again. A flow that finds none of them
        // free looks elsewhere each time that it tries.
        let hash =
            if n < flow::PORT_PROBES / 4 { choice.hash } else { choice.hash ^ flow::half_seconds(choice.entry.seen) };
        let port = if attempt == 0 && choice.entry.flags & CT_SNAT == 0 {
            own
        } else {
            match flow::source_port(&settings, hash, n) {
                Some(port) => port,
                None => return NO_PORT,
            }
        };
        choice.reply.tuple.dst_port = port;
        match CONNTRACK.insert(&choice.reply, &choice.entry, BPF_NOEXIST as u64) {
            Ok(()) => return port as u32,
            Err(EEXIST) => {}
            Err(_) => return NO_ROOM,
        }
        if is_free(choice, again) {
            return match CONNTRACK.insert(&choice.reply, &choice.entry, 0) {
                Ok(()) => port as u32,
                Err(_) => NO_ROOM,
            };
        }
    }
    NO_PORT
}

/// May the entry under this reply key be replaced? It may if it is of the same flow, if the flow has expired, or, where
/// `closed` allows it, if it is over. The request entry of a flow that loses its reply entry goes as well.
#[inline(never)]
fn is_free(choice: &Choice, closed: bool) -> bool {
    let (reply, to, now) = (&choice.reply, &choice.entry.to, choice.entry.seen);
    let Some(old) = CONNTRACK.get_ptr(reply) else { return true };
    // SAFETY: as in `find`.
    let old = unsafe { &*old };
    if old.to == *to {
        return true;
    }
    // Its peer. The client may have begun another flow in the meantime, whose entry has nothing to do with this one.
    let request = peer_key(old, reply.proto, CT_REPLY);
    // SAFETY: as in `find`.
    let peer = CONNTRACK.get_ptr(&request).map(|p| unsafe { &*p }).filter(|p| p.to == flow::reversed(&reply.tuple));
    let idle = |e: &CtEntry| flow::expired(reply.proto, e.flags, e.seen, now);
    let over = idle(old) && peer.is_none_or(idle);
    if !(over || closed && flow::closed(old.flags)) {
        return false;
    }
    if peer.is_some() {
        let _ = CONNTRACK.remove(&request);
    }
    true
}
