//! The way of a packet through a hook: parse, find or open its flow, rewrite, send.
//!
//! # Design
//!
//! - XDP finishes flows between nodes and echo requests, and passes everything else untouched, so that a packet is
//!   never rewritten by one hook and judged by the next. TC does all the rest, and everything where XDP is missing.
//! - XDP remembers in the flow's entry which way the routing table gave, and asks again a tenth of a second later: asking
//!   costs as much as all the rest, and a change of routes takes longer to settle anyway. TC asks each time: there the
//!   kernel finds the neighbour itself.
//! - Replies to this node's own address are recognised by their port: only the configured range can be ours, so no
//!   other traffic pays for that lookup.
use crate::{
    OPENING, SETTINGS, VIPS,
    action::Action,
    conntrack,
    context::{Buffer, Packet},
    count, echo, icmp,
    lb::{self, Opened},
    nat, opening, relay, route,
};
use sluice_ebpf::{
    flow::tcp,
    packet::{Headers, Parsed},
    *,
};

/// A packet that arrives on an uplink.
#[inline(always)]
pub(crate) fn ingress<P: Packet>(p: P) -> Action {
    let mut h = Headers::default();
    let action = match p.parse(&mut h) {
        Parsed::Foreign => Action::Pass,
        Parsed::Bad(reason) => bad(&mut h, reason),
        Parsed::Icmp => match p.icmp_error(&h) {
            Some(action) => action,
            None => echo::answer(p, &h),
        },
        Parsed::Flow => flow(p, &mut h),
    };
    // What goes on to the stack goes as it came.
    if h.tag != 0 && matches!(action, Action::Pass) && p.tag(h.tag).is_none() {
        return count::drop(Reason::Rewrite);
    }
    action
}

/// A packet that leaves by an uplink: the reply of a backend on this node gets its frontend's name back.
#[inline(always)]
pub(crate) fn egress(p: Buffer) -> Action {
    let mut h = Headers::default();
    match p.parse(&mut h) {
        Parsed::Flow => {}
        Parsed::Icmp => return icmp::depart(p, &h).unwrap_or(Action::Pass),
        Parsed::Bad(Reason::Fragment) if is_reply(&mut h) => return count::drop(Reason::Fragment),
        _ => return Action::Pass,
    }
    h.key.dir = CT_REPLY;
    let now = conntrack::clock();
    match find(p, &h, now) {
        Some(entry) if entry.flags & CT_SNAT == 0 => {
            conntrack::touch(p, entry, &h, now);
            translate(p, &h, entry)
        }
        _ => Action::Pass,
    }
}

/// Something that is dropped if it was meant for us, and none of our business otherwise.
#[inline(always)]
fn bad(h: &mut Headers, reason: Reason) -> Action {
    if is_owned(&h.key.tuple.dst) || (reason as u32 == Reason::Fragment as u32 && is_reply(h)) {
        return count::drop(reason);
    }
    Action::Pass
}

/// Is it a VIP, and not the host's own address as well?
#[inline(always)]
fn is_owned(addr: &Addr) -> bool {
    // SAFETY: read at once; the kernel keeps the memory until the program ends.
    VIPS.get_ptr(addr).is_some_and(|v| unsafe { (*v).flags } & VIP_HOST == 0)
}

/// Does the first fragment of a packet belong to the replies of a tracked flow?
#[inline(always)]
pub(crate) fn is_reply(h: &mut Headers) -> bool {
    h.key.dir = CT_REPLY;
    h.key.tuple.dst_port != 0 && conntrack::row(&h.key).is_some()
}

#[inline(always)]
fn flow<P: Packet>(p: P, h: &mut Headers) -> Action {
    let now = conntrack::clock();
    match locate(p, h, now) {
        Ok(entry) => Action::unpack(send(p, h, entry, now)),
        Err(action) => action,
    }
}

/// The entry of a reply's flow, proved or not.
#[inline(always)]
pub(crate) fn find(p: impl Packet, h: &Headers, now: u64) -> Option<&'static mut CtEntry> {
    match conntrack::find(h, now) {
        None => opening::find(p, h, now),
        found => found,
    }
}

/// The entry of the packet's flow, found or made; the key's direction says which of the two it is.
#[inline(always)]
fn locate<P: Packet>(p: P, h: &mut Headers, now: u64) -> Result<&'static mut CtEntry, Action> {
    if is_source_port(h.key.tuple.dst_port) {
        h.key.dir = CT_REPLY;
        match find(p, h, now) {
            Some(entry) if entry.flags & CT_SNAT != 0 => return Ok(entry),
            _ => h.key.dir = CT_REQUEST,
        }
    }
    if let Some(entry) = conntrack::find(h, now) {
        return Ok(entry);
    }
    // Foreign traffic ends here.
    if VIPS.get_ptr(&h.key.tuple.dst).is_none() {
        return Err(Action::Pass);
    }
    if let Some(entry) = opening::find(p, h, now) {
        // A SYN that nobody is left to answer begins another flow.
        if h.tcp_flags & tcp::SYN == 0 || conntrack::is_orphan(entry) == 0 {
            return Ok(entry);
        }
    }
    if let Some(action) = relay::relay(p, h) {
        return Err(action);
    }
    match lb::open(p, h, now) {
        // Gone at once means evicted: the map is far too small for the traffic.
        // SAFETY: as in `conntrack::find`.
        Opened::Chosen => match OPENING.get_ptr_mut(&h.key).map(|entry| unsafe { &mut *entry }) {
            Some(entry) => Ok(entry),
            None => Err(count::drop(Reason::ConntrackFull)),
        },
        Opened::Refused(action) => Err(action),
        Opened::Reject(reason) => Err(p.reject(h, reason, now)),
    }
}

/// Is it a port that this node may have chosen for a flow?
#[inline(always)]
pub(crate) fn is_source_port(port: u16) -> bool {
    match SETTINGS.get_ptr(0) {
        // SAFETY: array values are never freed.
        Some(s) => unsafe { (*s).snat_first <= port && port <= (*s).snat_last },
        None => false,
    }
}

/// A packet of a flow that has its entry. Not inlined, for the stack.
#[inline(never)]
pub(crate) fn send<P: Packet>(p: P, h: &Headers, entry: &mut CtEntry, now: u64) -> u64 {
    try_send(p, h, entry, now).pack()
}

#[inline(always)]
fn try_send<P: Packet>(p: P, h: &Headers, entry: &mut CtEntry, now: u64) -> Action {
    if entry.flags & CT_SNAT != 0 {
        conntrack::touch(p, entry, h, now);
        return forward(p, h, entry, now);
    }
    if P::XDP {
        return Action::Pass;
    }
    conntrack::touch(p, entry, h, now);
    translate(p, h, entry)
}

/// Rewrites a packet that stays in the hands of the host's stack.
#[inline(always)]
fn translate<P: Packet>(p: P, h: &Headers, entry: &CtEntry) -> Action {
    count::forwarded(entry.frontend, h.key.dir, p.frame_len());
    match nat::rewrite(p, h, &entry.to, false) {
        Some(()) => Action::Pass,
        None => count::drop_of(entry.frontend, Reason::Rewrite),
    }
}

/// Rewrites a packet and sends it on.
#[inline(always)]
fn forward<P: Packet>(p: P, h: &Headers, entry: &mut CtEntry, now: u64) -> Action {
    if h.ttl <= 1 {
        return count::drop_of(entry.frontend, Reason::TtlExpired);
    }
    let (ifindex, macs) = if P::XDP {
        match hop(p, h, entry, now) {
            Some(hop) => (hop.ifindex, hop.macs),
            None => return Action::Pass,
        }
    } else {
        let to = &entry.to;
        let way = route::find(p, h, (&to.src, to.src_port), (&to.dst, to.dst_port), route::SKIP_NEIGH);
        match way.result {
            route::FOUND => (way.ifindex, way.macs),
            route::TOO_BIG => return count::drop_of(entry.frontend, Reason::TooBig),
            _ => return count::drop_of(entry.frontend, Reason::NoRoute),
        }
    };
    count::forwarded(entry.frontend, h.key.dir, p.frame_len());
    if nat::rewrite(p, h, &entry.to, true).is_none() {
        return count::drop_of(entry.frontend, Reason::Rewrite);
    }
    if !P::XDP {
        return Action::Redirect(ifindex);
    }
    let proto = if h.v6 { 0x86dd_u16 } else { 0x0800 };
    if p.bounds().write(0, macs).is_none() || p.bounds().write(12, proto.to_be()).is_none() {
        return count::drop_of(entry.frontend, Reason::Rewrite);
    }
    if ifindex == p.ifindex() { Action::Bounce } else { Action::Redirect(ifindex) }
}

/// The way by which XDP sends a packet of the flow; `None` leaves it to TC. The routing table is asked when the answer
/// that is remembered is old or does not fit.
#[inline(always)]
fn hop<P: Packet>(p: P, h: &Headers, entry: &mut CtEntry, now: u64) -> Option<Hop> {
    let remembered = &raw mut entry.hop;
    // SAFETY: of the entry, which lives. Another CPU may write it meanwhile: it is copied once, and then checked.
    let hop = unsafe { remembered.read_volatile() };
    if flow::is_fresh(&hop, now, p.ifindex(), h.total) {
        return is_uplink(p, hop.ifindex).then_some(hop);
    }
    let to = &entry.to;
    let way = route::find(p, h, (&to.src, to.src_port), (&to.dst, to.dst_port), 0);
    if way.result != route::FOUND || !is_uplink(p, way.ifindex) {
        return None;
    }
    let (ifindex, ingress, until) = (way.ifindex, p.ifindex(), now + HOP_NS);
    let hop = flow::checked(Hop { until, ifindex, ingress, macs: way.macs, mtu: way.mtu, check: 0 });
    // SAFETY: as above.
    unsafe { remembered.write_volatile(hop) };
    Some(hop)
}

/// May XDP send out of this interface? Only uplinks are known to take frames from it.
#[inline(always)]
fn is_uplink<P: Packet>(p: P, ifindex: u32) -> bool {
    ifindex == p.ifindex() || route::is_uplink(ifindex)
}
