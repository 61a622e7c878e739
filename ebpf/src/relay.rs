//! Segments of flows that this node does not know, for a VIP that it announces: on to the node that announced it before.
//!
//! An announcer that comes, or comes back, takes over all packets of its VIPs at once, those of flows among them that were
//! opened through another node. That node has the flow's entry, and perhaps its backend; here the flow would be opened
//! anew, with another source, and the backend would reset it. So what does not begin a flow goes to the next in the order
//! of announcers: the one that announced the VIP while this node was away.
//!
//! # Design
//!
//! - The packet is sent on as it is, to the other node's Ethernet address. Replies do not come by here.
//! - Every node has the same order, and a packet only goes down in it: no loop. The next one relays nothing itself,
//!   because it does not announce the VIP; what it does not know either it judges as ever.
//! - TCP alone: a datagram does not say whether it is the first.
use crate::{FRONTENDS, VIPS, action::Action, context::Packet, count, lb, route, sources};
use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, bpf_redir_neigh},
    helpers::bpf_redirect_neigh,
};
use sluice_ebpf::{Addr, FRONTEND_PROXY, FrontendKey, Reason, TCP, csum::words, flow::tcp, packet::Headers};

/// The address family of Linux.
const AF_INET: u32 = 2;
/// The same, of IPv6.
const AF_INET6: u32 = 10;
/// Packed form of "none of our business".
const NONE: u64 = 0xff;

/// What to do with a segment of a flow that has no entry; `None` to open the flow.
#[inline(always)]
pub(crate) fn relay<P: Packet>(p: P, h: &Headers) -> Option<Action> {
    if h.key.proto != TCP || h.tcp_flags & tcp::SYN != 0 {
        return None;
    }
    match relay_packed(p, h) {
        NONE => None,
        packed => Some(Action::unpack(packed)),
    }
}

/// Not inlined, for the stack.
#[inline(never)]
fn relay_packed<P: Packet>(p: P, h: &Headers) -> u64 {
    // SAFETY: copied at once; the kernel keeps the memory until the program ends.
    let to = match VIPS.get_ptr(&h.key.tuple.dst) {
        Some(vip) => unsafe { (*vip).relay },
        None => return NONE,
    };
    if to == Addr::NONE {
        return NONE;
    }
    let t = &h.key.tuple;
    let key = FrontendKey { vip: t.dst, port: t.dst_port, proto: TCP, family: if h.v6 { 6 } else { 4 } };
    // SAFETY: as above.
    let Some(f) = FRONTENDS.get_ptr(&key).map(|f| unsafe { &*f }) else { return NONE };
    // Of the proxy's connections the host's stack has those that were opened here. Who may not open a flow has none.
    if f.flags & FRONTEND_PROXY != 0 || !sources::admits(f, &t.src) || lb::is_forged(&t.src) != 0 {
        return NONE;
    }
    if P::XDP {
        // TC need not know the neighbour.
        return Action::Pass.pack();
    }
    let way = route::find(p, h, (&t.src, t.src_port), (&to, t.dst_port), route::SKIP_NEIGH);
    // Where the other node is not on the clients' network it has not announced the VIP there either.
    if !way.is_routed() || !route::is_uplink(way.ifindex) {
        return NONE;
    }
    // SAFETY: plain integers.
    let mut next: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    if h.v6 {
        next.nh_family = AF_INET6;
        next.__bindgen_anon_1.ipv6_nh = words(&to);
    } else {
        next.nh_family = AF_INET;
        next.__bindgen_anon_1.ipv4_nh = words(&to)[3];
    }
    // SAFETY: the parameters live on this stack, their size is their own.
    let told = unsafe { bpf_redirect_neigh(way.ifindex, &mut next, size_of::<bpf_redir_neigh>() as i32, 0) };
    if told as i32 == TC_ACT_REDIRECT as i32 {
        count::reason(Reason::Relayed);
        return Action::Handed.pack();
    }
    count::drop(Reason::NoRoute).pack()
}
