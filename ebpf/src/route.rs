//! The kernel's routing table, asked for the way that a rewritten packet will take.
use crate::{UPLINKS, context::Packet};
use aya_ebpf::{bindings::bpf_fib_lookup as Params, helpers::bpf_fib_lookup};
use sluice_ebpf::{
    Addr, UPLINK_SIDE,
    csum::words,
    packet::{Headers, mapped},
};

/// Do not resolve the neighbour: the interface is all that is asked.
pub(crate) const SKIP_NEIGH: u32 = 4;

/// The way and the neighbour were found.
pub(crate) const FOUND: i64 = 0;
/// Not forwarded: local, or no route.
pub(crate) const NOT_FORWARDED: i64 = 4;
/// Forwarding is off on the interface the packet came from.
pub(crate) const FORWARDING_OFF: i64 = 5;
/// The neighbour's address is not known yet.
pub(crate) const NO_NEIGHBOUR: i64 = 7;
/// The packet is larger than the way allows.
pub(crate) const TOO_BIG: i64 = 8;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// There is a way, and no address to send from.
pub(crate) const NO_SOURCE: i64 = 10;
/// Give the address to send from as well; Linux 6.7.
const SOURCE: u32 = 16;
/// The kernel does not know a flag.
const UNKNOWN_FLAG: i64 = -22;

/// Is there a way out, whether or not the neighbour is known and the packet fits?
#[inline(always)]
pub(crate) const fn is_routed(result: i64) -> bool {
    matches!(result, FOUND | NO_NEIGHBOUR | TOO_BIG | NO_SOURCE)
}

/// Does the interface lead to clients and to the other nodes?
#[inline(always)]
pub(crate) fn is_uplink(ifindex: u32) -> bool {
    // SAFETY: read at once; the kernel keeps the memory until the program ends.
    UPLINKS.get_ptr(&ifindex).is_some_and(|u| unsafe { (*u).flags } & UPLINK_SIDE == 0)
}

/// Where a packet goes next.
pub(crate) struct Way {
    /// What the lookup returned.
    pub(crate) result: i64,
    /// The interface to leave by.
    pub(crate) ifindex: u32,
    /// Destination and source of the Ethernet header to leave with.
    pub(crate) macs: [u16; 6],
    /// The largest IP packet that it takes, where the length was given.
    pub(crate) mtu: u16,
}

/// The interface and the address from which the host itself would send to `dst`: a route's `src`, else an address of the
/// interface, else another one of the host, and never one that may not be used. The address goes to `source`, and is
/// [`Addr::NONE`] where there is none, or where the kernel cannot tell: before Linux 6.7. Last: whether no gateway is between.
#[inline(always)]
pub(crate) fn source<P: Packet>(
    p: P,
    h: &Headers,
    src: (&Addr, u16),
    dst: (&Addr, u16),
    source: &mut Addr,
) -> (i64, u32, bool) {
    // No length is given: where the packet is too big the kernel would not say.
    let mut q = parameters(p, h, src, dst);
    let mut flags = SKIP_NEIGH | SOURCE;
    // SAFETY: the parameters live on this stack, their size is their own.
    let mut result = unsafe { bpf_fib_lookup(p.ctx(), &mut q, size_of::<Params>() as i32, flags) };
    if result == UNKNOWN_FLAG {
        flags = SKIP_NEIGH;
        // SAFETY: as above.
        result = unsafe { bpf_fib_lookup(p.ctx(), &mut q, size_of::<Params>() as i32, flags) };
    }
    *source = Addr::NONE;
    if flags & SOURCE != 0 && matches!(result, FOUND | NO_NEIGHBOUR | TOO_BIG) {
        // SAFETY: a union of plain integers.
        unsafe {
            if h.v6 {
                *source = bytemuck::cast(q.__bindgen_anon_3.ipv6_src);
            } else if q.__bindgen_anon_3.ipv4_src != 0 {
                *source = mapped(bytemuck::cast(q.__bindgen_anon_3.ipv4_src));
            }
        }
    }
    // The kernel puts the gateway where the destination was.
    // SAFETY: a union of plain integers.
    let on_link = unsafe {
        if h.v6 { q.__bindgen_anon_4.ipv6_dst == words(dst.0) } else { q.__bindgen_anon_4.ipv4_dst == words(dst.0)[3] }
    };
    (result, q.ifindex, on_link)
}

/// The question for the way of a packet that will go from `src` to `dst`, each with its port.
#[inline(always)]
fn parameters<P: Packet>(p: P, h: &Headers, src: (&Addr, u16), dst: (&Addr, u16)) -> Params {
    // SAFETY: plain integers.
    let mut q: Params = unsafe { core::mem::zeroed() };
    q.l4_protocol = h.key.proto;
    q.sport = src.1.to_be();
    q.dport = dst.1.to_be();
    q.ifindex = p.ifindex();
    if h.v6 {
        q.family = AF_INET6;
        q.__bindgen_anon_3.ipv6_src = words(src.0);
        q.__bindgen_anon_4.ipv6_dst = words(dst.0);
    } else {
        q.family = AF_INET;
        q.__bindgen_anon_2.tos = h.tos;
        q.__bindgen_anon_3.ipv4_src = words(src.0)[3];
        q.__bindgen_anon_4.ipv4_dst = words(dst.0)[3];
    }
    q
}

/// The way for a packet that will go from `src` to `dst`, each with its port.
#[inline(always)]
pub(crate) fn find<P: Packet>(p: P, h: &Headers, src: (&Addr, u16), dst: (&Addr, u16), flags: u32) -> Way {
    let mut q = parameters(p, h, src, dst);
    // Without a length the kernel compares, in TC, the frame with what the device takes, which counts an Ethernet header that a
    // tunnel does not have. A super-packet is cut to what fits.
    if P::XDP || !p.is_gso() {
        q.__bindgen_anon_1.tot_len = h.total as u16;
    }
    // SAFETY: the parameters live on this stack, their size is their own.
    let result = unsafe { bpf_fib_lookup(p.ctx(), &mut q, size_of::<Params>() as i32, flags) };
    // The kernel puts the MTU where the length was, since Linux 5.12; before, the length stays, and is known to fit.
    // SAFETY: a union of plain integers.
    let mtu = unsafe { q.__bindgen_anon_1.mtu_result };
    let ([a, b, c], [d, e, f]): ([u16; 3], [u16; 3]) = (bytemuck::cast(q.dmac), bytemuck::cast(q.smac));
    Way { result, ifindex: q.ifindex, macs: [a, b, c, d, e, f], mtu }
}
