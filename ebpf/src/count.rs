//! Counters: per frontend and per reason. Each CPU has its own, and no hook interrupts another on one CPU.
use crate::{COUNTERS, REASONS, action::Action};
use sluice_ebpf::{CT_REPLY, Counters, Reason};

#[inline(always)]
fn counters(frontend: u32) -> Option<&'static mut Counters> {
    // SAFETY: the value is this CPU's own and lives as long as the map.
    COUNTERS.get_ptr_mut(frontend).map(|c| unsafe { &mut *c })
}

/// A packet was forwarded.
#[inline(always)]
pub(crate) fn forwarded(frontend: u32, dir: u8, bytes: u32) {
    let Some(c) = counters(frontend) else { return };
    if dir == CT_REPLY {
        c.reply_packets += 1;
        c.reply_bytes += bytes as u64;
    } else {
        c.request_packets += 1;
        c.request_bytes += bytes as u64;
    }
}

/// A flow began.
#[inline(always)]
pub(crate) fn began(frontend: u32) {
    if let Some(c) = counters(frontend) {
        c.flows += 1;
    }
}

/// Something happened for a reason.
#[inline(always)]
pub(crate) fn reason(reason: Reason) {
    if let Some(n) = REASONS.get_ptr_mut(reason as u32) {
        // SAFETY: the value is this CPU's own and lives as long as the map.
        unsafe { *n += 1 };
    }
}

/// A packet of a frontend is not forwarded; the reason is counted apart.
#[inline(always)]
pub(crate) fn refused(frontend: u32) {
    if let Some(c) = counters(frontend) {
        c.dropped_packets += 1;
    }
}

/// A packet that belongs to no frontend is dropped.
#[inline(always)]
pub(crate) fn drop(why: Reason) -> Action {
    reason(why);
    Action::Drop
}

/// A packet of a frontend is dropped.
#[inline(always)]
pub(crate) fn drop_of(frontend: u32, why: Reason) -> Action {
    refused(frontend);
    drop(why)
}
