//! ICMP and ICMPv6 for an owned VIP: echo requests are answered in place.
//!
//! Errors about tracked flows have gone on to their ends before ([`icmp`](crate::icmp)). Other errors and neighbour discovery
//! pass to the host's stack if a frontend of the VIP is the proxy's, whose sockets the stack owns. Of any other VIP the
//! stack knows nothing and would route the message back out of the uplink, so there
//! they are dropped, as is the rest everywhere.
use crate::{VIPS, action::Action, context::Packet, count, lb};
use sluice_ebpf::{
    Addr, Reason, VIP_ECHO, VIP_HOST, VIP_PROXY, csum,
    neighbour::SOLICITATION,
    packet::{ETH_LEN, Eth, Headers, unmapped},
};

/// Time to live of what we send ourselves.
pub(crate) const TTL: u8 = 64;

/// What an ICMP message is to us.
enum Kind {
    Echo,
    Stack,
    Other,
}

#[inline(always)]
const fn kind(v6: bool, message: u8) -> Kind {
    match (v6, message) {
        (false, 8) | (true, 128) => Kind::Echo,
        // Unreachable, time exceeded, parameter problem; in IPv6 packet too big as well.
        (false, 3 | 11 | 12) | (true, 1..=4) => Kind::Stack,
        // Neighbour discovery; TC has answered a solicitation for a VIP before.
        (true, 133..=137) => Kind::Stack,
        _ => Kind::Other,
    }
}

/// Answers an echo request for an owned VIP.
#[inline(always)]
pub(crate) fn answer<P: Packet>(p: P, h: &Headers) -> Action {
    let t = &h.key.tuple;
    // SAFETY: copied at once; the kernel keeps the memory until the program ends.
    let Some(vip) = VIPS.get_ptr(&t.dst).map(|v| unsafe { *v }) else { return Action::Pass };
    let Some([message, _]) = p.bounds().read::<[u8; 2]>(h.l4()) else { return Action::Pass };
    // A solicitation of one neighbour by another is for TC to answer.
    if vip.flags & VIP_HOST != 0 || (P::XDP && h.v6 && message == SOLICITATION) {
        return Action::Pass;
    }
    let kind = match kind(h.v6, message) {
        Kind::Echo if vip.flags & VIP_ECHO == 0 => Kind::Stack,
        kind => kind,
    };
    match kind {
        Kind::Stack if vip.flags & VIP_PROXY != 0 => Action::Pass,
        Kind::Stack | Kind::Other => count::drop(Reason::Protocol),
        Kind::Echo if t.src == t.dst || sluice_ebpf::flow::is_martian(&t.src, h.v6) => count::drop(Reason::Malformed),
        Kind::Echo if lb::is_forged(&t.src) != 0 => count::drop(Reason::SourceForged),
        Kind::Echo => match turn(p, h) {
            Some(()) => {
                count::reason(Reason::EchoReplied);
                Action::Bounce
            }
            None => count::drop(Reason::Rewrite),
        },
    }
}

/// Turns the request into its reply. Exchanging the addresses changes no sum; the type and the time to live do.
#[inline(always)]
fn turn<P: Packet>(p: P, h: &Headers) -> Option<()> {
    let b = p.bounds();
    let eth = b.read::<Eth>(0)?;
    b.write(0, Eth { dst: eth.src, src: eth.dst, proto: eth.proto })?;
    let t = &h.key.tuple;
    if h.v6 {
        let [next, _] = b.read::<[u8; 2]>(ETH_LEN + 6)?;
        b.write(ETH_LEN + 6, [next, TTL])?;
        b.write::<[u16; 8]>(ETH_LEN + 8, words(&t.dst))?;
        b.write::<[u16; 8]>(ETH_LEN + 24, words(&t.src))?;
    } else {
        let [life, check] = b.read::<[u16; 2]>(ETH_LEN + 8)?;
        let new = u16::from_ne_bytes([TTL, h.key.proto]);
        b.write(ETH_LEN + 8, [new, csum::apply(check, csum::diff(life as u32, new as u32))])?;
        b.write(ETH_LEN + 12, unmapped(&t.dst))?;
        b.write(ETH_LEN + 16, unmapped(&t.src))?;
    }
    let [old, check] = b.read::<[u16; 2]>(h.l4())?;
    let [_, code] = old.to_ne_bytes();
    let new = u16::from_ne_bytes([if h.v6 { 129 } else { 0 }, code]);
    b.write(h.l4(), [new, csum::apply(check, csum::diff(old as u32, new as u32))])
}

#[inline(always)]
fn words(a: &Addr) -> [u16; 8] {
    bytemuck::cast(*a)
}
