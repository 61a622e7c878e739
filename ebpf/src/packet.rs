//! Bounds-checked access to the bytes of a packet, and the parse that both hooks begin with.
//!
//! [`Bounds`] is the only place that touches packet memory: reads and writes of plain types at an offset, each checked
//! against the end, so that the verifier sees the check and a test may pass a buffer. [`parse`] fills [`Headers`] and
//! says what the packet is. It decides nothing about ownership: a bad packet is bad only if its destination is ours,
//! which the caller knows.
//!
//! # Design
//!
//! - The header types hold nothing larger than a `u16`: behind the 14 bytes of Ethernet nothing is aligned better.
//! - VLAN and QinQ frames are foreign: their ethertype is neither IPv4 nor IPv6. A tag without a VLAN, which only gives a
//!   priority (802.1p), is taken off before ([`Tagged`]).
//! - An IPv6 packet from or to an IPv4-mapped address is foreign: the maps hold IPv4 in that form.
//! - The IPv6 walk is bounded by [`EXTENSIONS`] headers and [`L4_MAX`] bytes.
use crate::{abi::*, flow::tcp};
use bytemuck::{Pod, Zeroable};

/// Bytes of an Ethernet header.
pub const ETH_LEN: usize = 14;
/// The farthest offset at which a layer 4 header is looked for.
pub const L4_MAX: usize = 254;
/// IPv6 extension headers that are skipped at most.
pub const EXTENSIONS: u32 = 4;
/// Bytes of options in an IPv4 header at most, each of which may be one.
const MAX_OPTIONS: u32 = 40;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// The Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Eth {
    /// Destination.
    pub dst: [u16; 3],
    /// Source.
    pub src: [u16; 3],
    /// The ethertype, network order.
    pub proto: u16,
}

/// The ethertype of a tag (802.1Q).
pub const ETH_TAG: u16 = 0x8100;
/// Bytes of a tag.
pub const TAG_LEN: usize = 4;
/// The bits of a tag that name a VLAN; those of a frame that is in none are 0.
pub const TAG_VLAN: u16 = 0x0fff;

/// An Ethernet header with one tag.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Tagged {
    /// Destination and source.
    pub macs: [u16; 6],
    /// [`ETH_TAG`], network order.
    pub kind: u16,
    /// Priority and VLAN, network order.
    pub tag: u16,
    /// The ethertype behind the tag, network order.
    pub proto: u16,
}

impl Tagged {
    /// The tag of an IP packet that is in no VLAN, as [`Headers::tag`] holds it; 0 for any other frame.
    #[must_use]
    #[inline(always)]
    pub const fn priority(&self) -> u32 {
        let is_ip = self.proto.to_be() == 0x0800 || self.proto.to_be() == 0x86dd;
        let is_priority = self.kind.to_be() == ETH_TAG && self.tag.to_be() & TAG_VLAN == 0;
        if is_ip && is_priority { 0x1_0000 | self.tag as u32 } else { 0 }
    }
}

/// The IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Ipv4 {
    /// Version and header length in words.
    pub ver_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Total length, network order.
    pub total: u16,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset, network order.
    pub frag: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub proto: u8,
    /// Header checksum.
    pub check: u16,
    /// Source.
    pub src: [u16; 2],
    /// Destination.
    pub dst: [u16; 2],
}

/// The IPv6 header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub vtf: [u16; 2],
    /// Bytes behind this header, network order.
    pub payload: u16,
    /// Next header.
    pub next: u8,
    /// Hop limit.
    pub hops: u8,
    /// Source.
    pub src: [u16; 8],
    /// Destination.
    pub dst: [u16; 8],
}

/// The TCP header without options.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Tcp {
    /// Source port, network order.
    pub src: u16,
    /// Destination port, network order.
    pub dst: u16,
    /// Sequence number, network order.
    pub seq: [u16; 2],
    /// Acknowledgement number, network order.
    pub ack: [u16; 2],
    /// Header length in words, in the high half.
    pub off: u8,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// Checksum.
    pub check: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

/// The UDP header.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Udp {
    /// Source port, network order.
    pub src: u16,
    /// Destination port, network order.
    pub dst: u16,
    /// Length, network order.
    pub len: u16,
    /// Checksum.
    pub check: u16,
}

/// Where a packet's linear bytes begin and end.
#[derive(Clone, Copy)]
pub struct Bounds {
    data: usize,
    end: usize,
}

impl Bounds {
    /// Bounds of a packet.
    ///
    /// # Safety
    /// Until the value is dropped, the bytes from `data` to `end` are valid for reads and writes, and `data` is even.
    #[must_use]
    #[inline(always)]
    pub const unsafe fn new(data: usize, end: usize) -> Self {
        Self { data, end }
    }

    /// The linear bytes.
    #[must_use]
    #[inline(always)]
    pub const fn len(self) -> usize {
        self.end - self.data
    }

    /// Are there no bytes at all?
    #[must_use]
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.end == self.data
    }

    /// The address of `size` bytes at `off`, if they lie within.
    ///
    /// A size of one is not offered: the compiler turns its check into one from which the verifier learns nothing.
    #[must_use]
    #[inline(always)]
    pub const fn at(self, off: usize, size: usize) -> Option<usize> {
        let p = self.data + off;
        if p + size > self.end { None } else { Some(p) }
    }

    /// Reads a value at an even offset.
    #[must_use]
    #[inline(always)]
    pub fn read<T: Pod>(self, off: usize) -> Option<T> {
        const { assert!(align_of::<T>() <= 2 && size_of::<T>() >= 2) };
        let p = self.at(off, size_of::<T>())?;
        // SAFETY: `at` checked the bounds; `data` and `off` are even, and `T` wants no more.
        Some(unsafe { (p as *const T).read() })
    }

    /// Writes a value at an even offset; `None` when it does not fit.
    #[inline(always)]
    pub fn write<T: Pod>(self, off: usize, value: T) -> Option<()> {
        const { assert!(align_of::<T>() <= 2 && size_of::<T>() >= 2) };
        let p = self.at(off, size_of::<T>())?;
        // SAFETY: as in `read`, and the bytes are writable.
        unsafe { (p as *mut T).write(value) };
        Some(())
    }
}

/// What the parse found out.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub struct Headers {
    /// The tuple and the protocol, direction [`CT_REQUEST`]; ports are 0 where there are none.
    pub key: CtKey,
    /// Offset of the layer 4 header.
    pub l4: u64,
    /// Bytes from there to the end of the IP packet.
    pub l4_len: u32,
    /// Bytes of the IP packet.
    pub total: u32,
    /// Is it IPv6?
    pub v6: bool,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// Type of service.
    pub tos: u8,
    /// The priority tag that was taken off, see [`Tagged::priority`]; 0 for none.
    pub tag: u32,
}

impl Headers {
    /// Offset of the layer 4 header, bounded in a way that the verifier sees wherever it is used.
    #[must_use]
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        self.l4 as usize & 0xff
    }
}

/// What kind of packet it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Parsed {
    /// Neither IPv4 nor IPv6 to one host, cut off before its destination, or IPv4-mapped.
    Foreign,
    /// TCP or UDP, whole.
    Flow,
    /// ICMP or ICMPv6, at least its first eight bytes.
    Icmp,
    /// Something that must be dropped if its destination is ours.
    Bad(Reason),
}

impl Parsed {
    /// One number for it, to be returned by a function that is not inlined.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        match self {
            Self::Foreign => 0x100,
            Self::Flow => 0x101,
            Self::Icmp => 0x102,
            Self::Bad(reason) => reason as u32,
        }
    }

    /// What [`Self::pack`] packed.
    #[inline(always)]
    pub const fn unpack(packed: u32) -> Self {
        const FRAGMENT: u32 = Reason::Fragment as u32;
        const EXTENSION: u32 = Reason::ExtensionHeader as u32;
        const PROTOCOL: u32 = Reason::Protocol as u32;
        const SOURCE_ROUTE: u32 = Reason::SourceRoute as u32;
        match packed {
            0x100 => Self::Foreign,
            0x101 => Self::Flow,
            0x102 => Self::Icmp,
            FRAGMENT => Self::Bad(Reason::Fragment),
            EXTENSION => Self::Bad(Reason::ExtensionHeader),
            PROTOCOL => Self::Bad(Reason::Protocol),
            SOURCE_ROUTE => Self::Bad(Reason::SourceRoute),
            _ => Self::Bad(Reason::Malformed),
        }
    }
}

/// Parses a packet whose whole length, linear or not, is `frame`. `gso`: its lengths may be those of a larger packet.
#[inline(always)]
pub fn parse(b: Bounds, frame: u32, gso: bool, h: &mut Headers) -> Parsed {
    let Some(eth) = b.read::<Eth>(0) else { return Parsed::Foreign };
    // Frames to a group are the neighbours' business, whatever they carry.
    if eth.dst[0].to_be() & 0x100 != 0 {
        return Parsed::Foreign;
    }
    match u16::from_be(eth.proto) {
        0x0800 => parse_v4(b, frame, gso, h),
        0x86dd => parse_v6(b, frame, gso, h),
        _ => Parsed::Foreign,
    }
}

#[inline(always)]
fn parse_v4(b: Bounds, frame: u32, gso: bool, h: &mut Headers) -> Parsed {
    let Some(ip) = b.read::<Ipv4>(ETH_LEN) else { return Parsed::Foreign };
    h.key.tuple.src = mapped(ip.src);
    h.key.tuple.dst = mapped(ip.dst);
    h.key.proto = ip.proto;
    h.ttl = ip.ttl;
    h.tos = ip.tos;
    let header = (ip.ver_ihl as u32 & 15) * 4;
    h.total = u16::from_be(ip.total) as u32;
    if gso && h.total == 0 {
        h.total = frame.saturating_sub(ETH_LEN as u32);
    }
    if ip.ver_ihl >> 4 != 4 || header < 20 || h.total < header || h.total + ETH_LEN as u32 > frame {
        return Parsed::Bad(Reason::Malformed);
    }
    h.l4 = ETH_LEN as u64 + header as u64;
    h.l4_len = h.total - header;
    if header > 20 && has_source_route(b, header) {
        return Parsed::Bad(Reason::SourceRoute);
    }
    if ip.frag.to_be() & 0x3fff != 0 {
        // The first fragment of a flow names it.
        if ip.frag.to_be() & 0x1fff == 0 && (ip.proto == TCP || ip.proto == UDP) {
            read_ports(b, h);
        }
        return Parsed::Bad(Reason::Fragment);
    }
    parse_l4(b, gso, h)
}

/// Is there a source route among the options of a header of so many bytes (RFC 791, section 3.1)?
#[inline(always)]
fn has_source_route(b: Bounds, header: u32) -> bool {
    const LOOSE: u8 = 131;
    const STRICT: u8 = 137;
    let end = header as usize - 20;
    let mut at = 0;
    for _ in 0..MAX_OPTIONS {
        if at >= end {
            return false;
        }
        // An option may begin at any byte, and packets are read at even offsets. No branch, and a step that is bounded, so
        // that all rounds look alike to the verifier.
        let Some(bytes) = b.read::<[u8; 4]>(ETH_LEN + 20 + (at & 0x3e)) else { return false };
        let [kind, len, ..] = (u32::from_le_bytes(bytes) >> (at as u32 % 2 * 8)).to_le_bytes();
        if kind == LOOSE || kind == STRICT {
            return true;
        }
        // The end of the list; a length that is none.
        if kind == 0 || (kind != 1 && len < 2) {
            return false;
        }
        at = (at + if kind == 1 { 1 } else { len as usize }) & 0xff;
    }
    false
}

#[inline(always)]
fn parse_v6(b: Bounds, frame: u32, gso: bool, h: &mut Headers) -> Parsed {
    let Some(ip) = b.read::<Ipv6>(ETH_LEN) else { return Parsed::Foreign };
    if is_mapped(&ip.src) || is_mapped(&ip.dst) {
        return Parsed::Foreign;
    }
    h.key.tuple.src = bytemuck::cast(ip.src);
    h.key.tuple.dst = bytemuck::cast(ip.dst);
    h.v6 = true;
    h.ttl = ip.hops;
    h.total = u16::from_be(ip.payload) as u32 + 40;
    if gso && ip.payload == 0 {
        h.total = frame.saturating_sub(ETH_LEN as u32);
    }
    if ip.vtf[0].to_be() >> 12 != 6 || h.total + ETH_LEN as u32 > frame {
        return Parsed::Bad(Reason::Malformed);
    }
    h.tos = (ip.vtf[0].to_be() >> 4) as u8;
    let mut next = ip.next;
    let mut off = ETH_LEN + 40;
    for _ in 0..EXTENSIONS {
        match next {
            0 | 43 | 60 => {
                let Some([following, words, _, left]) = b.read::<[u8; 4]>(off) else {
                    return Parsed::Bad(Reason::Malformed);
                };
                // A source route that is not at its end has another destination than this one.
                if next == 43 && left != 0 {
                    return Parsed::Bad(Reason::ExtensionHeader);
                }
                next = following;
                off += words as usize * 8 + 8;
                if off > L4_MAX {
                    return Parsed::Bad(Reason::ExtensionHeader);
                }
            }
            _ => break,
        }
    }
    h.key.proto = next;
    h.l4 = off as u64;
    let before = (off - ETH_LEN) as u32;
    if h.total < before {
        return Parsed::Bad(Reason::Malformed);
    }
    h.l4_len = h.total - before;
    match next {
        0 | 43 | 60 | 50 | 51 | 135 | 139 | 140 => Parsed::Bad(Reason::ExtensionHeader),
        44 => {
            first_fragment_v6(b, h);
            Parsed::Bad(Reason::Fragment)
        }
        _ => parse_l4(b, gso, h),
    }
}

/// Reads the ports of the first fragment, so that a tracked flow is known by it.
#[inline(always)]
fn first_fragment_v6(b: Bounds, h: &mut Headers) {
    let Some([next, _, high, low]) = b.read::<[u8; 4]>(h.l4()) else { return };
    let offset = u16::from_be_bytes([high, low]) & 0xfff8;
    if offset == 0 && (next == TCP || next == UDP) && h.l4() + 8 <= L4_MAX {
        h.key.proto = next;
        h.l4 += 8;
        read_ports(b, h);
    }
}

#[inline(always)]
fn read_ports(b: Bounds, h: &mut Headers) {
    if let Some([src, dst]) = b.read::<[u16; 2]>(h.l4()) {
        h.key.tuple.src_port = u16::from_be(src);
        h.key.tuple.dst_port = u16::from_be(dst);
    }
}

#[inline(always)]
fn parse_l4(b: Bounds, gso: bool, h: &mut Headers) -> Parsed {
    match (h.key.proto, h.v6) {
        (TCP, _) => {
            let Some(t) = b.read::<Tcp>(h.l4()) else { return Parsed::Bad(Reason::Malformed) };
            let header = (t.off as u32 >> 4) * 4;
            if header < 20 || header > h.l4_len {
                return Parsed::Bad(Reason::Malformed);
            }
            h.tcp_flags = t.flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
            h.key.tuple.src_port = u16::from_be(t.src);
            h.key.tuple.dst_port = u16::from_be(t.dst);
            Parsed::Flow
        }
        (UDP, v6) => {
            let Some(u) = b.read::<Udp>(h.l4()) else { return Parsed::Bad(Reason::Malformed) };
            let len = u16::from_be(u.len) as u32;
            // RFC 8200, section 8.1: over IPv6 the checksum is not optional.
            if h.l4_len < 8 || (!gso && (len < 8 || len > h.l4_len)) || (v6 && u.check == 0) {
                return Parsed::Bad(Reason::Malformed);
            }
            h.key.tuple.src_port = u16::from_be(u.src);
            h.key.tuple.dst_port = u16::from_be(u.dst);
            Parsed::Flow
        }
        (ICMP, false) | (ICMPV6, true) => {
            if h.l4_len < 8 || b.at(h.l4(), 8).is_none() {
                return Parsed::Bad(Reason::Malformed);
            }
            Parsed::Icmp
        }
        _ => Parsed::Bad(Reason::Protocol),
    }
}

/// An IPv4 address as read from a header.
#[must_use]
#[inline(always)]
pub fn mapped(a: [u16; 2]) -> Addr {
    bytemuck::cast([0, 0, 0, 0, 0, 0xffff, a[0], a[1]])
}

/// Is it an IPv4 address as [`mapped`] makes it?
#[must_use]
#[inline(always)]
pub const fn is_mapped(a: &[u16; 8]) -> bool {
    a[0] | a[1] | a[2] | a[3] | a[4] == 0 && a[5] == 0xffff
}

/// The IPv4 address in a mapped one, as a header holds it.
#[must_use]
#[inline(always)]
pub fn unmapped(a: &Addr) -> [u16; 2] {
    bytemuck::cast(a.last4())
}

#[cfg(test)]
mod tests;
