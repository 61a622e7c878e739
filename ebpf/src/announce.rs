//! ARP and neighbour discovery for VIPs, in TC on an uplink: who asks for a VIP that this node announces is answered
//! with the uplink's own address, in place and out of the interface that the question came in by.
//!
//! The host's own addresses are never touched: nothing is decided here but about an address in the map of VIPs, and of
//! those that are the host's as well the host answers for itself.
//!
//! # Design
//!
//! - A question for a VIP that another node announces is dropped: for a VIP of the proxy the host has a local route and
//!   would answer, and for one that something has bound on this host (`kube-ipvs0`, `lo`) as well, whatever its
//!   `arp_ignore` is. For the same reason its own questions must not carry such a VIP as their sender ([`depart`]).
//! - A node that hears of no other cannot know whether the API server is away, and nobody takes over, or it is cut off
//!   itself. It goes on, until it hears another node say that the VIP is its own, and say so again after it was contradicted
//!   ([`hear`], RFC 5227): that one knows more. Whoever is no node that this one has known says nothing that counts.
//! - XDP passes all of this: it cannot tell a frame that was meant for another host, and the rate is low.
//! - A solicitation behind extension headers is left to the stack, which does not have the address (RFC 6980).
use crate::{
    CLAIMED, HEARD, PEERS, SETTINGS, UPLINKS, VIPS,
    action::Action,
    conntrack,
    context::{Buffer, Packet},
    count,
};
use aya_ebpf::helpers::{bpf_clone_redirect, bpf_skb_change_tail};
use sluice_ebpf::{
    Addr, Claim, Heard, Reason, Uplink, VIP_ANNOUNCE, VIP_HOST, VIP_PROBE, Vip, csum, flow,
    neighbour::{self, Arp, Contest, Question, Solicitation},
    packet::{ETH_LEN, Eth, ICMPV6, Ipv6, is_mapped, mapped, unmapped},
};

/// Options of a solicitation that are read at most; [`neighbour::SOLICITATION_MAX`] has room for no more.
const OPTIONS: u32 = 13;
/// Where a solicitation begins.
const ND: usize = ETH_LEN + 40;
/// Packed form of "none of our business".
const NONE: u64 = 0xff;
/// A host asks for a VIP that is announced here.
const ASKED: u64 = 0xfe;
/// The same, by a host that has no address yet.
const DETECTED: u64 = 0xfd;
/// A host that has no address yet asks whether it may have a VIP of which this node asks the same.
const RIVAL: u64 = 0xfb;
/// Another node says that a VIP is its own, and is to be contradicted.
const CLAIMS: u64 = 0xfc;

/// What to do with a frame that asks for a VIP; `None` for any other frame.
#[inline(always)]
pub(crate) fn arrive(p: Buffer) -> Option<Action> {
    let b = p.bounds();
    let eth = b.read::<Eth>(0)?;
    let packed = match u16::from_be(eth.proto) {
        neighbour::ETH_ARP => arp(p),
        neighbour::ETH_IPV6 => {
            let [next, _] = b.read::<[u8; 2]>(ETH_LEN + 6)?;
            let [kind, _] = b.read::<[u8; 2]>(ND)?;
            if next != ICMPV6 {
                return None;
            }
            match kind {
                neighbour::SOLICITATION => solicitation(p),
                neighbour::ADVERTISEMENT if overhear(p) == CLAIMS => advertise(p, CLAIMS),
                _ => return None,
            }
        }
        _ => return None,
    };
    if packed == NONE { None } else { Some(Action::unpack(packed)) }
}

/// Keeps a question of this host from naming a VIP that another node announces as the one who asks: neighbours would
/// take this host for it.
#[inline(always)]
pub(crate) fn depart(p: Buffer) -> Option<Action> {
    let b = p.bounds();
    if b.read::<Eth>(0)?.proto != neighbour::ETH_ARP.to_be() {
        return None;
    }
    let arp = b.read::<Arp>(ETH_LEN)?;
    if arp.question() != Question::Asked
        || !matches!(owned(&mapped(arp.sender)), Some(vip) if !is_announced(&mapped(arp.sender), &vip))
    {
        return None;
    }
    let own = uplink(p).map_or(Addr::NONE, |u| u.v4);
    if own == Addr::NONE {
        return Some(count::drop(Reason::NoSource));
    }
    b.write(ETH_LEN, Arp { sender: unmapped(&own), ..arp })?;
    Some(Action::Pass)
}

/// Sends the frame out of the interface that it is run for; the agent runs it to announce a VIP.
#[inline(always)]
pub(crate) fn send(p: Buffer) -> bool {
    // SAFETY: a helper; it sends a copy.
    unsafe { bpf_clone_redirect(p.0, p.ifindex(), 0) == 0 }
}

/// A VIP, unless the host has the address for itself.
#[inline(always)]
fn owned(addr: &Addr) -> Option<Vip> {
    // SAFETY: copied at once; the kernel keeps the memory until the program ends.
    let vip = VIPS.get_ptr(addr).map(|v| unsafe { *v })?;
    (vip.flags & VIP_HOST == 0).then_some(vip)
}

/// Does this node announce the VIP, and still may?
#[inline(always)]
fn is_announced(addr: &Addr, vip: &Vip) -> bool {
    // SAFETY: array values are never freed.
    let (until, blind) = SETTINGS.get_ptr(0).map_or((0, 0), |s| unsafe { ((*s).announce_until, (*s).blind_since) });
    if vip.flags & VIP_ANNOUNCE == 0 || (until != u64::MAX && conntrack::clock() >= until) {
        return false;
    }
    // Both clocks are near enough: who takes over waits for seconds.
    // SAFETY: as in `owned`.
    blind == 0 || CLAIMED.get_ptr(addr).map_or(0, |claim| unsafe { (*claim).yielded }) < blind
}

/// Takes note of a host that says that an address is its own; `true` if it is to be contradicted.
///
/// Not while this node hears of the others: then they have agreed on who announces the VIP, and a node that takes it over
/// may be a moment ahead.
#[inline(always)]
fn hear(p: Buffer, addr: &Addr, from: &neighbour::Mac) -> Option<bool> {
    let vip = owned(addr)?;
    if vip.flags & (VIP_ANNOUNCE | VIP_PROBE) == 0 || own_mac(p)? == *from {
        return None;
    }
    if vip.flags & VIP_PROBE != 0 {
        count::reason(Reason::AnnouncedElsewhere);
        let heard = Heard { at: conntrack::clock(), mac: bytemuck::cast(*from), pad: [0; 2] };
        // A map that is full forgets another.
        let _ = HEARD.insert(addr, &heard, 0);
        return None;
    }
    let peer = neighbour::peer(from);
    if PEERS.get_ptr(&peer).is_none() {
        count::reason(Reason::ClaimIgnored);
        return None;
    }
    count::reason(Reason::AnnouncedElsewhere);
    // SAFETY: copied at once; the kernel keeps the memory until the program ends.
    let mut claim = CLAIMED.get_ptr(addr).map_or(Claim { heard: 0, yielded: 0 }, |claim| unsafe { *claim });
    let contest = claim.hear(conntrack::clock());
    // SAFETY: array values are never freed.
    let is_blind = SETTINGS.get_ptr(0).is_some_and(|s| unsafe { (*s).blind_since } != 0);
    let defends = matches!(contest, Contest::Defend) && is_blind && is_announced(addr, &vip);
    // A map that is full forgets another.
    let _ = CLAIMED.insert(addr, &claim, 0);
    Some(defends)
}

/// Does a host that asks whether it may have a VIP ask it while this node does? Then one of both will have it, and it counts
/// as an answer (RFC 5227, section 2.1.1; RFC 4862, section 5.4.3). The other nodes have agreed with this one on who asks.
#[inline(always)]
fn is_rival(vip: &Vip, from: &neighbour::Mac) -> bool {
    vip.flags & VIP_PROBE != 0 && PEERS.get_ptr(&neighbour::peer(from)).is_none()
}

/// Somebody's advertisement: [`CLAIMS`] if it is to be contradicted. The stack gets any other. Not inlined, for the stack of
/// the program; what it returns must not be a constant, or the compiler leaves it undefined.
#[inline(never)]
fn overhear(p: Buffer) -> u64 {
    if try_overhear(p) == Some(true) { CLAIMS } else { NONE }
}

#[inline(always)]
fn try_overhear(p: Buffer) -> Option<bool> {
    let b = p.bounds();
    let (from, ip) = (b.read::<Eth>(0)?.src, b.read::<Ipv6>(ETH_LEN)?);
    // The two messages are the same up to the target.
    let said = b.read::<Solicitation>(ND)?;
    if ip.hops != neighbour::HOPS || said.kind[1] != 0 || !neighbour::is_unicast(&from) || is_mapped(&said.target) {
        return None;
    }
    // All of it, and options in units of eight bytes.
    let len = u16::from_be(ip.payload) as u32;
    if len < size_of::<Solicitation>() as u32
        || len > neighbour::SOLICITATION_MAX
        || len % 8 != 0
        || ND as u32 + len > p.frame_len()
        || !sums_up(p)
    {
        return None;
    }
    hear(p, &bytemuck::cast(said.target), &from)
}

/// The row of the interface.
#[inline(always)]
fn uplink(p: Buffer) -> Option<Uplink> {
    // SAFETY: as in `owned`.
    UPLINKS.get_ptr(&p.ifindex()).map(|u| unsafe { *u })
}

/// The interface's own address; `None` when it has none, or is no uplink.
#[inline(always)]
fn own_mac(p: Buffer) -> Option<neighbour::Mac> {
    // SAFETY: as in `owned`.
    let mac = UPLINKS.get_ptr(&p.ifindex()).map(|u| unsafe { (*u).mac })?;
    let mac = neighbour::mac(mac);
    neighbour::is_unicast(&mac).then_some(mac)
}

/// An ARP message. Not inlined, for the stack.
#[inline(never)]
fn arp(p: Buffer) -> u64 {
    try_arp(p).map_or(NONE, Action::pack)
}

#[inline(always)]
fn try_arp(p: Buffer) -> Option<Action> {
    let b = p.bounds();
    let arp = b.read::<Arp>(ETH_LEN)?;
    let from = b.read::<Eth>(0)?.src;
    if arp.is_claim() && from == arp.sender_mac && hear(p, &mapped(arp.sender), &from) == Some(true) {
        return Some(contradict(p, &arp));
    }
    let question = arp.question();
    if question == Question::None {
        return None;
    }
    let vip = owned(&mapped(arp.target))?;
    let mac = own_mac(p)?;
    if question == Question::Malformed {
        return Some(count::drop(Reason::Malformed));
    }
    if !is_announced(&mapped(arp.target), &vip) {
        if arp.sender == [0; 2] && from == arp.sender_mac && is_rival(&vip, &from) {
            hear(p, &mapped(arp.target), &from);
        }
        return Some(count::drop(Reason::NotAnnounced));
    }
    let eth = Eth { dst: arp.sender_mac, src: mac, proto: neighbour::ETH_ARP.to_be() };
    if b.write(0, eth).is_none() || b.write(ETH_LEN, arp.answer(mac)).is_none() {
        return Some(count::drop(Reason::Rewrite));
    }
    count::reason(Reason::ArpAnswered);
    Some(Action::Bounce)
}

/// Turns a claim into what contradicts it, for everybody.
#[inline(always)]
fn contradict(p: Buffer, arp: &Arp) -> Action {
    let Some(mac) = own_mac(p) else { return Action::Pass };
    let eth = Eth { dst: neighbour::BROADCAST, src: mac, proto: neighbour::ETH_ARP.to_be() };
    let b = p.bounds();
    if b.write(0, eth).is_none() || b.write(ETH_LEN, arp.contradiction(mac)).is_none() {
        return count::drop(Reason::Rewrite);
    }
    count::reason(Reason::Defended);
    Action::Bounce
}

/// A neighbour solicitation, in three steps: one after the other and not nested, for the stack.
#[inline(always)]
fn solicitation(p: Buffer) -> u64 {
    let packed = judge(p);
    if packed == RIVAL {
        overhear(p);
        return count::drop(Reason::NotAnnounced).pack();
    }
    if packed != ASKED && packed != DETECTED {
        return packed;
    }
    if !sums_up(p) {
        return count::drop(Reason::Malformed).pack();
    }
    advertise(p, packed)
}

/// Step 1: does it ask for a VIP that is announced here, as a host would?
#[inline(never)]
fn judge(p: Buffer) -> u64 {
    try_judge(p).unwrap_or(NONE)
}

#[inline(always)]
fn try_judge(p: Buffer) -> Option<u64> {
    let b = p.bounds();
    let asked = b.read::<Solicitation>(ND)?;
    if is_mapped(&asked.target) {
        return None;
    }
    let target: Addr = bytemuck::cast(asked.target);
    let vip = owned(&target)?;
    own_mac(p)?;
    let ip = b.read::<Ipv6>(ETH_LEN)?;
    let src: Addr = bytemuck::cast(ip.src);
    let detects = src == Addr::NONE;
    let sane = if detects {
        // Duplicate address detection.
        bytemuck::cast::<_, Addr>(ip.dst) == neighbour::solicited_group(&target)
    } else {
        src != target && !flow::is_martian(&src, true)
    };
    let fresh = ip.vtf[0].to_be() >> 12 == 6 && ip.hops == neighbour::HOPS && asked.kind[1] == 0;
    let from = b.read::<Eth>(0)?.src;
    if !sane || !fresh || !neighbour::is_unicast(&from) || !is_sound(p, u16::from_be(ip.payload) as u32, detects) {
        return Some(count::drop(Reason::Malformed).pack());
    }
    if !is_announced(&target, &vip) {
        if detects && is_rival(&vip, &from) {
            return Some(RIVAL);
        }
        return Some(count::drop(Reason::NotAnnounced).pack());
    }
    Some(if detects { DETECTED } else { ASKED })
}

/// Has a solicitation of `len` bytes a whole body and whole options (RFC 4861, section 7.1.1)?
#[inline(always)]
fn is_sound(p: Buffer, len: u32, detects: bool) -> bool {
    let b = p.bounds();
    if len < size_of::<Solicitation>() as u32 || len > neighbour::SOLICITATION_MAX || ND as u32 + len > p.frame_len() {
        return false;
    }
    let end = ND as u32 + len;
    let mut at = ND as u32 + size_of::<Solicitation>() as u32;
    for _ in 0..OPTIONS {
        if at >= end {
            break;
        }
        let Some([kind, units]) = b.read::<[u8; 2]>(at as usize & 0xff) else { return false };
        // Who has no address yet gives no address of its own.
        if units == 0 || (detects && kind == 1) {
            return false;
        }
        at += units as u32 * 8;
        if at > end {
            return false;
        }
    }
    at == end
}

/// Step 2: is the checksum right? The length is known to be: three units of eight bytes, and options.
#[inline(never)]
fn sums_up(p: Buffer) -> bool {
    try_sums_up(p).unwrap_or(false)
}

#[inline(always)]
fn try_sums_up(p: Buffer) -> Option<bool> {
    let b = p.bounds();
    let ip = b.read::<Ipv6>(ETH_LEN)?;
    let len = u16::from_be(ip.payload) as u32;
    let mut sum = neighbour::pseudo(&bytemuck::cast(ip.src), &bytemuck::cast(ip.dst), len);
    for unit in 0..neighbour::SOLICITATION_MAX / 8 {
        if unit * 8 >= len {
            break;
        }
        let [w, x, y, z] = b.read::<[u16; 4]>(ND + unit as usize * 8)?;
        sum += w as u64 + x as u64 + y as u64 + z as u64;
    }
    Some(csum::fold(sum) == 0xffff)
}

/// Step 3: turns the message into the advertisement that answers or contradicts it. `why`: [`ASKED`], or else everybody is
/// told.
#[inline(never)]
fn advertise(p: Buffer, why: u64) -> u64 {
    match try_advertise(p, why != ASKED) {
        Some(()) => {
            count::reason(if why == CLAIMS { Reason::Defended } else { Reason::NdAnswered });
            Action::Bounce.pack()
        }
        None => count::drop(Reason::Rewrite).pack(),
    }
}

#[inline(always)]
fn try_advertise(p: Buffer, detects: bool) -> Option<()> {
    let b = p.bounds();
    let mac = own_mac(p)?;
    let target: Addr = bytemuck::cast(b.read::<[u16; 8]>(ND + 8)?);
    // Who has no address yet is told with everybody else. Word by word, or the compiler puts a constant into `.rodata`,
    // a map that nobody pins.
    let (src, from) = (b.read::<[u16; 8]>(ETH_LEN + 8)?, b.read::<Eth>(0)?.src);
    let all = neighbour::ALL_NODES_MAC;
    let pick = |all: u16, one: u16| if detects { all } else { one };
    let to_mac = [pick(all[0], from[0]), pick(all[1], from[1]), pick(all[2], from[2])];
    let to = if detects { neighbour::ALL_NODES } else { bytemuck::cast(src) };
    // SAFETY: a helper; it linearises the buffer and drops its offloads.
    if unsafe { bpf_skb_change_tail(p.0, neighbour::ADVERTISEMENT_FRAME as u32, 0) } != 0 {
        return None;
    }
    let b = p.bounds();
    b.write(0, Eth { dst: to_mac, src: mac, proto: neighbour::ETH_IPV6.to_be() })?;
    let (ip, message) = neighbour::advertisement(&target, mac, &to, !detects);
    b.write(ETH_LEN, ip)?;
    b.write(ND, message)
}
