//! RST and ICMP unreachable.
use crate::{action::Action, context::Packet, count};
use sluice_ebpf::{Reason, packet::Headers};

/// Answers a packet that has no backend.
#[inline(always)]
pub(crate) fn answer<P: Packet>(_p: P, _h: &Headers, reason: Reason, _now: u64) -> Action {
    count::drop(reason)
}
