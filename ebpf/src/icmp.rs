//! ICMP errors about packets of tracked flows: on to the end that sent the packet, in the name that it knows the flow by.
//! TC only; XDP leaves errors to it, they are few.
//!
//! An error quotes the packet that it is about, as it was on the wire. It travels as the flow's packets of the other
//! direction do: turned round, what is quoted is the key of the entry that translates it. So the quoted header gets the
//! reverse of what packets of that entry leave with, and the error itself goes where they go.
//!
//! # Design
//!
//! - An error says nothing about whether the flow lives, and no entry is touched. Whether it is believed is for the end to
//!   decide, which knows the quoted sequence numbers.
//! - Towards the client it comes from the VIP, and towards a backend on another node from this node: whoever sent it may be
//!   an address that nobody there may use. An error for a backend here keeps its source.
//! - No error is answered by another, and none opens a flow.
//! - All that is changed in the quote is made up for by its own checksums and that of the message, so that the sum over the
//!   whole packet stays as it was, which is all that a buffer with a sum of its hardware needs.
use crate::{
    action::Action,
    conntrack,
    context::{Buffer, Packet},
    count, path, route,
};
use aya_ebpf::helpers::bpf_skb_pull_data;
use sluice_ebpf::{
    packet::{ETH_LEN, Headers, Ipv4, Ipv6, is_mapped, mapped, unmapped},
    *,
};

/// Bytes of an ICMP error before the quote.
const HEADER: usize = 8;
/// Bytes of layer 4 that are quoted at least (RFC 792).
const QUOTED: u32 = 8;
/// Bytes behind the IP header that are read: the message, the longest quoted IP header and a TCP header.
const READ: u32 = 8 + 60 + 20;
/// Packed form of "none of our business".
const NONE: u64 = 0xff;

/// What an error quotes.
#[derive(Clone, Copy, Default)]
struct Quote {
    /// The key of the flow in the direction of the error.
    key: CtKey,
    /// Offset of the quoted layer 4 header.
    l4: u32,
    /// Bytes of it that are there.
    len: u32,
}

impl Quote {
    /// Offset of the quoted layer 4 header, bounded in a way that the verifier sees.
    #[inline(always)]
    const fn l4(&self) -> usize {
        self.l4 as usize & 0x1fe
    }
}

/// Is it a message about another packet: unreachable, time exceeded, parameter problem; in IPv6 too big as well?
#[inline(always)]
pub(crate) const fn is_error(v6: bool, message: u8) -> bool {
    matches!((v6, message), (false, 3 | 11 | 12) | (true, 1..=4))
}

/// What to do with an ICMP message that arrives; `None` if it is no error about a flow.
#[inline(always)]
pub(crate) fn arrive(p: Buffer, h: &Headers) -> Option<Action> {
    translate(p, h, 1)
}

/// The same of one that leaves.
#[inline(always)]
pub(crate) fn depart(p: Buffer, h: &Headers) -> Option<Action> {
    translate(p, h, 0)
}

#[inline(always)]
fn translate(p: Buffer, h: &Headers, arrives: u64) -> Option<Action> {
    let [message, _] = p.bounds().read::<[u8; 2]>(h.l4())?;
    if !is_error(h.v6, message) {
        return None;
    }
    match translate_packed(p, h, arrives) {
        NONE => None,
        packed => Some(Action::unpack(packed)),
    }
}

/// Not inlined, for the stack.
#[inline(never)]
fn translate_packed(p: Buffer, h: &Headers, arrives: u64) -> u64 {
    let mut quote = Quote::default();
    if read(p, h, &mut quote) == 0 {
        return NONE;
    }
    let key = &mut quote.key;
    // It is for whoever sent what it quotes.
    if key.tuple.dst != h.key.tuple.dst {
        return NONE;
    }
    let snat = arrives != 0 && path::is_source_port(key.tuple.dst_port);
    key.dir = if snat || arrives == 0 { CT_REPLY } else { CT_REQUEST };
    let mut entry = conntrack::row(key);
    if entry.is_none() && snat {
        key.dir = CT_REQUEST;
        entry = conntrack::row(key);
    }
    let Some(entry) = entry else { return NONE };
    // SAFETY: the kernel keeps the value's memory until the program ends; a torn value misleads one packet at worst.
    let entry = unsafe { &*entry };
    let is_snat = entry.flags & CT_SNAT != 0;
    // A reply that was not sent to this node is seen as it leaves, any other as it arrives.
    if key.dir == CT_REPLY && is_snat != (arrives != 0) {
        return NONE;
    }
    let renamed = key.dir == CT_REPLY || is_snat;
    let mut action = Action::Pass;
    if is_snat {
        if h.ttl <= 1 {
            return count::drop_of(entry.frontend, Reason::TtlExpired).pack();
        }
        let to = &entry.to;
        let way = route::find(p, h, (&to.src, 0), (&to.dst, 0), route::SKIP_NEIGH);
        if !way.is_routed() {
            return count::drop_of(entry.frontend, Reason::NoRoute).pack();
        }
        action = Action::Redirect(way.ifindex);
    }
    // Towards a backend here the source stays.
    let source = if renamed { entry.to.src } else { h.key.tuple.src };
    let changed = write_quote(p, h, &quote, entry);
    if changed == u64::MAX || write_error(p, h, entry, &source, changed) == 0 {
        return count::drop_of(entry.frontend, Reason::Rewrite).pack();
    }
    count::reason(Reason::IcmpTranslated);
    action.pack()
}

/// Reads the quoted headers; 1 if they are those of a TCP or UDP packet, as far as they are needed.
#[inline(never)]
fn read(p: Buffer, h: &Headers, quote: &mut Quote) -> u64 {
    try_read(p, h, quote).is_some() as u64
}

#[inline(always)]
fn try_read(p: Buffer, h: &Headers, quote: &mut Quote) -> Option<()> {
    let want = p.frame_len().min(h.l4() as u32 + READ);
    if (p.bounds().len() as u32) < want {
        // SAFETY: a helper; failing, it leaves the packet cut off, which the reads find.
        unsafe { bpf_skb_pull_data(p.0, want) };
    }
    let b = p.bounds();
    let at = h.l4() + HEADER;
    let (src, dst, proto, header): (Addr, Addr, u8, u32) = if h.v6 {
        let ip = b.read::<Ipv6>(at)?;
        if ip.vtf[0].to_be() >> 12 != 6 || is_mapped(&ip.src) || is_mapped(&ip.dst) {
            return None;
        }
        (bytemuck::cast(ip.src), bytemuck::cast(ip.dst), ip.next, 40)
    } else {
        let ip = b.read::<Ipv4>(at)?;
        // A later fragment has no ports.
        if ip.ver_ihl >> 4 != 4 || ip.ver_ihl & 15 < 5 || ip.frag.to_be() & 0x1fff != 0 {
            return None;
        }
        (mapped(ip.src), mapped(ip.dst), ip.proto, (ip.ver_ihl as u32 & 15) * 4)
    };
    let before = HEADER as u32 + header;
    if (proto != TCP && proto != UDP) || h.l4_len < before + QUOTED {
        return None;
    }
    quote.l4 = h.l4() as u32 + before;
    quote.len = h.l4_len - before;
    let [src_port, dst_port] = b.read::<[u16; 2]>(quote.l4())?;
    quote.key.proto = proto;
    quote.key.tuple = Tuple { src: dst, dst: src, src_port: u16::from_be(dst_port), dst_port: u16::from_be(src_port) };
    Some(())
}

/// The sum that replacing a word adds.
#[inline(always)]
const fn diff16(old: u16, new: u16) -> u64 {
    !old as u64 + new as u64
}

/// Writes the quoted headers, with their checksums as far as they are quoted, and returns what that adds to the sum;
/// `u64::MAX` leaves them half changed, to be dropped. Not inlined, for the stack.
#[inline(never)]
fn write_quote(p: Buffer, h: &Headers, quote: &Quote, entry: &CtEntry) -> u64 {
    try_write_quote(p, h, quote, entry).unwrap_or(u64::MAX)
}

#[inline(always)]
fn try_write_quote(p: Buffer, h: &Headers, quote: &Quote, entry: &CtEntry) -> Option<u64> {
    let b = p.bounds();
    // The quote has both ends exchanged, which the differences do not tell.
    let (old, new) = (&quote.key.tuple, &entry.to);
    let (addrs, ports) = (csum::diff_addrs(old, new, h.v6), csum::diff_ports(old, new));
    let at = h.l4() + HEADER;
    let mut changed = addrs + ports;
    if h.v6 {
        b.write::<[u16; 8]>(at + 8, bytemuck::cast(new.dst))?;
        b.write::<[u16; 8]>(at + 24, bytemuck::cast(new.src))?;
    } else {
        let [check, ..] = b.read::<[u16; 1]>(at + 10)?;
        let right = csum::apply(check, addrs);
        changed += diff16(check, right);
        b.write(at + 10, [right])?;
        b.write(at + 12, unmapped(&new.dst))?;
        b.write(at + 16, unmapped(&new.src))?;
    }
    b.write(quote.l4(), [new.dst_port.to_be(), new.src_port.to_be()])?;
    let is_udp = quote.key.proto == UDP;
    let field = if is_udp { 6 } else { 16 };
    if quote.len < field + 2 {
        return Some(changed);
    }
    let Some(check) = b.read::<u16>(quote.l4() + field as usize) else { return Some(changed) };
    if is_udp && check == 0 {
        return Some(changed);
    }
    let right = csum::apply(check, addrs + ports);
    let right = if is_udp { csum::udp(right) } else { right };
    b.write(quote.l4() + field as usize, right)?;
    Some(changed + diff16(check, right))
}

/// Writes the addresses of the error itself, which comes from `source`, and its checksums; 0 if it does not fit. `changed`:
/// what its quote adds to the sum. Not inlined, for the stack.
#[inline(never)]
fn write_error(p: Buffer, h: &Headers, entry: &CtEntry, source: &Addr, changed: u64) -> u64 {
    try_write_error(p, h, entry, source, changed).is_some() as u64
}

/// What an address adds when `old` becomes `new`; of IPv4-mapped addresses only the last word differs.
#[inline(always)]
const fn diff_addr(old: &Addr, new: &Addr) -> u64 {
    let (o, n) = (csum::words(old), csum::words(new));
    csum::diff(o[0], n[0]) + csum::diff(o[1], n[1]) + csum::diff(o[2], n[2]) + csum::diff(o[3], n[3])
}

#[inline(always)]
fn try_write_error(p: Buffer, h: &Headers, entry: &CtEntry, source: &Addr, changed: u64) -> Option<()> {
    let b = p.bounds();
    let to = &entry.to.dst;
    let addrs = diff_addr(&h.key.tuple.src, source) + diff_addr(&h.key.tuple.dst, to);
    let hop = (entry.flags & CT_SNAT != 0) as u8;
    if h.v6 {
        let [next, hops] = b.read::<[u8; 2]>(ETH_LEN + 6)?;
        b.write(ETH_LEN + 6, [next, hops.wrapping_sub(hop)])?;
        b.write::<[u16; 8]>(ETH_LEN + 8, bytemuck::cast(*source))?;
        b.write::<[u16; 8]>(ETH_LEN + 24, bytemuck::cast(*to))?;
    } else {
        let [life, check] = b.read::<[u16; 2]>(ETH_LEN + 8)?;
        let [ttl, proto] = life.to_ne_bytes();
        let new = u16::from_ne_bytes([ttl.wrapping_sub(hop), proto]);
        b.write(ETH_LEN + 8, [new, csum::apply(check, addrs + csum::diff(life as u32, new as u32))])?;
        b.write(ETH_LEN + 12, unmapped(source))?;
        b.write(ETH_LEN + 16, unmapped(to))?;
    }
    let check = b.read::<u16>(h.l4() + 2)?;
    b.write(h.l4() + 2, csum::apply(check, changed + if h.v6 { addrs } else { 0 }))
}
