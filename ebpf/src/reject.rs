//! RST and ICMP port unreachable, for packets that no backend will take. TC only: the packet changes its length.
//!
//! The offending packet becomes the answer: it is cut or grown to size and its headers are written anew, back to back
//! with the Ethernet addresses exchanged, out of the interface it came from.
//!
//! # Design
//!
//! - One CPU answers so many packets a second as the settings say, and then drops.
//! - A buffer from a local sender may carry a partial checksum, and the device will still finish it: at the offset of
//!   the old layer 4 checksum, over everything behind the old layer 4 header. So the answer's layer 4 begins where the
//!   packet's did (IPv4 options become padding), and the field that will be overwritten is written so that the result
//!   is right: for RST, the sum of the pseudo header, as any partial checksum; for ICMP over UDP, a field that is
//!   unused, whose new value makes up for what was summed.
//! - Behind IPv6 extension headers nothing is answered.
use crate::{
    REJECTS,
    action::Action,
    context::{Buffer, Packet},
    count,
    echo::TTL,
};
use aya_ebpf::helpers::{bpf_csum_diff, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes};
use sluice_ebpf::{
    Reason, TCP, Tuple, csum, flow,
    packet::{ETH_LEN, Eth, Headers, ICMP, ICMPV6, Ipv4, Ipv6, Tcp, Udp, unmapped},
};

/// Bytes of the offending packet that an ICMP error quotes at most.
const QUOTE: usize = 128;

/// Answers a packet, or drops it where no answer is due.
///
/// Not inlined, for the stack, and neither are the two answers.
#[inline(never)]
pub(crate) fn answer(ctx: Buffer, h: &Headers, why: u32, now: u64) -> u64 {
    let why = if why == Reason::NoBackend as u32 { Reason::NoBackend } else { Reason::NoFrontend };
    if h.v6 && h.l4() != ETH_LEN + 40 {
        return count::drop(why).pack();
    }
    // An RST is never answered, and takes no token.
    if h.key.proto == TCP && h.tcp_flags & flow::tcp::RST != 0 {
        return count::drop(why).pack();
    }
    if !is_allowed(now) {
        return count::drop(Reason::RejectLimited).pack();
    }
    let done = if h.key.proto == TCP { reset(ctx, h) } else { unreachable(ctx, h) };
    if !done {
        return count::drop(why).pack();
    }
    count::reason(why);
    Action::Bounce.pack()
}

/// Takes a token.
#[inline(always)]
fn is_allowed(now: u64) -> bool {
    let Some(rate) = crate::SETTINGS.get(0).map(|s| s.reject_rate) else { return false };
    // SAFETY: the value is this CPU's own and lives as long as the map.
    REJECTS.get_ptr_mut(0).is_some_and(|b| flow::take_token(unsafe { &mut *b }, now, rate))
}

/// Turns the packet into the RST that answers it.
#[inline(never)]
fn reset(p: Buffer, h: &Headers) -> bool {
    try_reset(p, h).is_some()
}

#[inline(always)]
fn try_reset(p: Buffer, h: &Headers) -> Option<()> {
    let b = p.bounds();
    let t = b.read::<Tcp>(h.l4())?;
    let payload = h.l4_len.saturating_sub((t.off as u32 >> 4) * 4);
    let (seq, ack, flags) = flow::reset_for(t.flags, word(t.seq), word(t.ack), payload)?;
    let partial = csum::is_partial(t.check, csum::pseudo(&h.key.tuple, TCP, h.l4_len, h.v6));
    resize(p, h, TCP, size_of::<Tcp>() as u32)?;
    let mut out = Tcp {
        src: t.dst,
        dst: t.src,
        seq: halves(seq),
        ack: halves(ack),
        off: 5 << 4,
        flags,
        window: 0,
        check: 0,
        urgent: 0,
    };
    let pseudo = csum::pseudo(&flow::reversed(&h.key.tuple), TCP, size_of::<Tcp>() as u32, h.v6);
    out.check = if partial {
        csum::fold(pseudo)
    } else {
        let words: [u16; 10] = bytemuck::cast(out);
        !csum::fold(words.iter().fold(pseudo, |sum, w| sum + *w as u64))
    };
    p.bounds().write(h.l4(), out)
}

/// Turns the packet into the ICMP error that quotes it.
#[inline(never)]
fn unreachable(p: Buffer, h: &Headers) -> bool {
    try_unreachable(p, h).is_some()
}

#[inline(always)]
fn try_unreachable(p: Buffer, h: &Headers) -> Option<()> {
    let check = p.bounds().read::<Udp>(h.l4())?.check;
    let partial = csum::is_partial(check, csum::pseudo(&h.key.tuple, h.key.proto, h.l4_len, h.v6));
    let mut quote = [0u64; QUOTE / 8];
    // Never more than the buffer, and in a form that the verifier follows.
    let len = if h.total as usize >= QUOTE { QUOTE as u32 } else { h.total & (QUOTE as u32 - 1) };
    if len == 0 {
        return None;
    }
    // SAFETY: `len` is at most the size of the buffer.
    if unsafe { bpf_skb_load_bytes(p.ctx(), ETH_LEN as u32, quote.as_mut_ptr().cast(), len) } != 0 {
        return None;
    }
    let proto = if h.v6 { ICMPV6 } else { ICMP };
    resize(p, h, proto, 8 + len)?;
    let pseudo = csum::pseudo(&flow::reversed(&h.key.tuple), proto, 8 + len, true);
    let kind = u16::from_ne_bytes(if h.v6 { [1, 4] } else { [3, 3] });
    // SAFETY: the helper reads the buffer, which is zero behind the quote.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, quote.as_mut_ptr().cast(), QUOTE as u32, 0) };
    let sum = sum as u32 as u64 + kind as u64 + if h.v6 { pseudo } else { 0 };
    let unused = if partial && h.v6 { csum::fold(pseudo) } else { 0 };
    p.bounds().write(h.l4(), [kind, !csum::fold(sum), 0, unused])?;
    // SAFETY: as for the load.
    let stored = unsafe { bpf_skb_store_bytes(p.0, h.l4() as u32 + 8, quote.as_ptr().cast(), len, 0) };
    (stored == 0).then_some(())
}

/// Gives the packet `len` bytes behind its IP header and writes everything before them.
#[inline(always)]
fn resize(p: Buffer, h: &Headers, proto: u8, len: u32) -> Option<()> {
    // SAFETY: a helper; it linearises the buffer and drops its offloads.
    if unsafe { bpf_skb_change_tail(p.0, h.l4() as u32 + len, 0) } != 0 {
        return None;
    }
    let b = p.bounds();
    let eth = b.read::<Eth>(0)?;
    b.write(0, Eth { dst: eth.src, src: eth.dst, proto: eth.proto })?;
    let t: &Tuple = &h.key.tuple;
    if h.v6 {
        let ip = Ipv6 {
            vtf: [0x6000_u16.to_be(), 0],
            payload: (len as u16).to_be(),
            next: proto,
            hops: TTL,
            src: bytemuck::cast(t.dst),
            dst: bytemuck::cast(t.src),
        };
        return b.write(ETH_LEN, ip);
    }
    let header = h.l4() - ETH_LEN;
    let mut ip = Ipv4 {
        ver_ihl: 0x40 | (header / 4) as u8,
        tos: 0,
        total: (header as u16 + len as u16).to_be(),
        id: 0,
        frag: 0x4000_u16.to_be(),
        ttl: TTL,
        proto,
        check: 0,
        src: unmapped(&t.dst),
        dst: unmapped(&t.src),
    };
    let words: [u16; 10] = bytemuck::cast(ip);
    ip.check = !csum::fold(words.iter().fold(0, |sum, w| sum + *w as u64));
    b.write(ETH_LEN, ip)?;
    // What were options is padding.
    let mut at = ETH_LEN + 20;
    for _ in 0..10 {
        if at >= h.l4() {
            break;
        }
        b.write(at, [0u16; 2])?;
        at += 4;
    }
    Some(())
}

/// A number as read from a header, in host order.
#[inline(always)]
fn word(w: [u16; 2]) -> u32 {
    u32::from_be(bytemuck::cast(w))
}

/// A number as a header holds it.
#[inline(always)]
fn halves(w: u32) -> [u16; 2] {
    bytemuck::cast(w.to_be())
}
