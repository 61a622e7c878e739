//! The way of a packet through a side interface: one that is no uplink, and by which endpoints are reached (a second card,
//! an overlay, a tunnel) or by which replies go back to clients.
//!
//! Nobody is served there: what a client sends to a VIP by such an interface is passed, ARP and neighbour solicitations as
//! well. What is looked for are the packets of flows that were opened at an uplink: on ingress, replies to an address of
//! this node, by their port; on egress, replies of backends here.
//!
//! # Design
//!
//! The packets of tunnels that carry IP alone have no Ethernet header, and everything else here counts from one. So a packet
//! that is found to be ours gets one before it is looked at as any other. On ingress it goes on with it, be it to another
//! interface, be it to the host's stack, which takes it off. On egress the kernel takes it off when the packet is sent out of
//! the interface once more; it comes by here again then, and is nobody's reply any more, since its source is the VIP.
//! Behind IPv4 options and IPv6 extension headers, and in ICMP errors that leave, nothing is looked for there.
use crate::{
    OPENING,
    action::Action,
    conntrack,
    context::{Buffer, Packet},
    count, icmp, path,
};
use sluice_ebpf::{
    packet::{Headers, ICMP, ICMPV6, Parsed},
    *,
};

/// A packet that arrives.
#[inline(always)]
pub(crate) fn arrive(p: Buffer) -> Action {
    let mut h = Headers::default();
    match p.parse(&mut h) {
        Parsed::Flow if path::is_source_port(h.key.tuple.dst_port) => {}
        Parsed::Icmp => return icmp::arrive(p, &h).unwrap_or(Action::Pass),
        Parsed::Bad(Reason::Fragment) if path::is_source_port(h.key.tuple.dst_port) && path::is_reply(&mut h) => {
            return count::drop(Reason::Fragment);
        }
        _ => return Action::Pass,
    }
    h.key.dir = CT_REPLY;
    let now = conntrack::clock();
    match path::find(p, &h, now) {
        Some(entry) if entry.flags & CT_SNAT != 0 => Action::unpack(path::send(p, &h, entry, now)),
        _ => Action::Pass,
    }
}

/// A packet without an Ethernet header that arrives.
#[inline(always)]
pub(crate) fn arrive_bare(p: Buffer) -> Action {
    if is_for_us(p) == 0 {
        return Action::Pass;
    }
    match p.cover(p.ethertype()) {
        Some(()) => arrive(p),
        None => count::drop(Reason::Rewrite),
    }
}

/// A packet without an Ethernet header that leaves.
#[inline(always)]
pub(crate) fn leave_bare(p: Buffer) -> Action {
    if is_from_us(p) == 0 {
        return Action::Pass;
    }
    match p.cover(p.ethertype()).map(|()| path::egress(p)) {
        Some(Action::Pass) => Action::Bounce,
        Some(action) => action,
        None => count::drop(Reason::Rewrite),
    }
}

/// 1 if it may be the reply to a flow whose source was changed, or an error about one. Not inlined, for the stack.
#[inline(never)]
fn is_for_us(p: Buffer) -> u64 {
    let mut h = Headers::default();
    let Some(message) = bare::parse(p.bounds(), p.ethertype(), &mut h) else { return 0 };
    if h.key.proto == ICMP || h.key.proto == ICMPV6 {
        return icmp::is_error(h.v6, message) as u64;
    }
    if !path::is_source_port(h.key.tuple.dst_port) {
        return 0;
    }
    h.key.dir = CT_REPLY;
    living(&h).is_some_and(|flags| flags & CT_SNAT != 0) as u64
}

/// 1 if it is the reply of a backend on this node. Not inlined, for the stack.
#[inline(never)]
fn is_from_us(p: Buffer) -> u64 {
    let mut h = Headers::default();
    if bare::parse(p.bounds(), p.ethertype(), &mut h).is_none() {
        return 0;
    }
    h.key.dir = CT_REPLY;
    living(&h).is_some_and(|flags| flags & CT_SNAT == 0) as u64
}

/// The state of a reply's flow, proved or not, if it is found as a whole packet's would be. The packet advances nothing yet.
#[inline(always)]
fn living(h: &Headers) -> Option<u32> {
    let now = conntrack::clock();
    if let Some(entry) = conntrack::find(h, now) {
        return Some(entry.flags);
    }
    // SAFETY: the kernel keeps the value's memory until the program ends; a torn value misleads one packet at worst.
    let entry = OPENING.get_ptr(&h.key).map(|e| unsafe { &*e })?;
    let is_over = flow::closed(entry.flags) || flow::expired(h.key.proto, entry.flags, entry.seen, now);
    (!is_over).then_some(entry.flags)
}
