//! ARP and neighbour discovery for VIPs: which messages ask for one, what answers them, what tells everybody.
//!
//! Pure, and the same in the kernel, in the agent and in tests. Whether a VIP is announced here is not known here.
//!
//! # Design
//!
//! An advertisement comes from the VIP itself and never claims to be a router's: nothing routes through a VIP. It
//! overrides what a neighbour remembers, because a VIP that has moved must be followed.
//!
//! Source: RFC 826 and RFC 5227 for ARP, RFC 4861 for neighbour discovery.
use crate::{
    abi::{Addr, CLAIM_GAP_NS, Claim, DEFEND_NS},
    csum, flow,
    packet::{ETH_LEN, Eth, ICMPV6, Ipv6, mapped},
};
use bytemuck::{Pod, Zeroable};

/// An Ethernet address, in memory order.
pub type Mac = [u16; 3];

/// The ethertype of ARP.
pub const ETH_ARP: u16 = 0x0806;
/// The ethertype of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;
/// The ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// The ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// The hop limit of all neighbour discovery: it has crossed no router.
pub const HOPS: u8 = 255;
/// Bytes of the largest solicitation that is read, from its type to the end of its options.
pub const SOLICITATION_MAX: u32 = 128;
/// Bytes of a frame with an ARP message.
pub const ARP_FRAME: usize = ETH_LEN + size_of::<Arp>();
/// Bytes of a frame with an advertisement.
pub const ADVERTISEMENT_FRAME: usize = ETH_LEN + size_of::<Ipv6>() + size_of::<Advertisement>();
/// Bytes of a frame with a solicitation without options.
pub const SOLICITATION_FRAME: usize = ETH_LEN + size_of::<Ipv6>() + size_of::<Solicitation>();

/// `ff02::1`, all nodes of the link.
pub const ALL_NODES: Addr = Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// The Ethernet address of [`ALL_NODES`].
pub const ALL_NODES_MAC: Mac = mac([0x33, 0x33, 0, 0, 0, 1]);
/// The Ethernet address of everybody.
pub const BROADCAST: Mac = [0xffff; 3];

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// An ARP message for IPv4 over Ethernet.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Arp {
    /// The kind of network, network order; 1 is Ethernet.
    pub hardware: u16,
    /// The ethertype of the addresses, network order.
    pub proto: u16,
    /// Bytes of a hardware address and of a protocol address.
    pub lengths: [u8; 2],
    /// What it says, network order.
    pub op: u16,
    /// The sender's hardware address.
    pub sender_mac: Mac,
    /// The sender's address; 0.0.0.0 in a probe.
    pub sender: [u16; 2],
    /// The target's hardware address.
    pub target_mac: Mac,
    /// The target's address.
    pub target: [u16; 2],
}

/// A neighbour solicitation without its options.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Solicitation {
    /// Type and code.
    pub kind: [u8; 2],
    /// Checksum.
    pub check: u16,
    /// Unused.
    pub reserved: [u16; 2],
    /// Who is asked for.
    pub target: [u16; 8],
}

/// A neighbour advertisement with the one option that it needs.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct Advertisement {
    /// Type and code.
    pub kind: [u8; 2],
    /// Checksum.
    pub check: u16,
    /// Router, solicited and override; the rest unused. Network order.
    pub flags: [u16; 2],
    /// Whose address this is.
    pub target: [u16; 8],
    /// Target link-layer address, one unit of eight bytes.
    pub option: [u8; 2],
    /// That address.
    pub mac: Mac,
}

/// What is done with a message about a VIP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Question {
    /// Nobody asks: a reply, an announcement, another network.
    None,
    /// Somebody asks for the target.
    Asked,
    /// It asks in a way that no host does.
    Malformed,
}

/// An Ethernet address from its bytes.
#[must_use]
#[inline(always)]
pub const fn mac(b: [u8; 6]) -> Mac {
    [u16::from_ne_bytes([b[0], b[1]]), u16::from_ne_bytes([b[2], b[3]]), u16::from_ne_bytes([b[4], b[5]])]
}

/// An Ethernet address as the key of a peer.
#[must_use]
#[inline(always)]
pub const fn peer(m: &Mac) -> u64 {
    (m[0].to_be() as u64) << 32 | (m[1].to_be() as u64) << 16 | m[2].to_be() as u64
}

/// What is done about a host that says that an address is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Contest {
    /// It has said so a moment ago.
    Same,
    /// It may be an error, or an old message: it is contradicted.
    Defend,
    /// It says so again: the address is its own.
    Yield,
}

impl Claim {
    /// Takes note of a claim, as RFC 5227 has it in section 2.4 under (b).
    #[inline(always)]
    pub const fn hear(&mut self, now: u64) -> Contest {
        let since = now.wrapping_sub(self.heard);
        if self.heard != 0 && since < CLAIM_GAP_NS {
            return Contest::Same;
        }
        let again = self.heard != 0 && since <= DEFEND_NS;
        self.heard = now;
        if !again {
            return Contest::Defend;
        }
        self.yielded = now;
        Contest::Yield
    }
}

/// Is it the address of one interface?
#[must_use]
#[inline(always)]
pub const fn is_unicast(m: &Mac) -> bool {
    m[0].to_be() & 0x100 == 0 && m[0] | m[1] | m[2] != 0
}

/// The group that is asked for an address (RFC 4291, section 2.7.1).
#[must_use]
#[inline(always)]
pub const fn solicited_group(target: &Addr) -> Addr {
    let [.., a, b, c] = target.octets;
    Addr::v6([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

impl Arp {
    /// Is it about IPv4 on Ethernet?
    #[inline(always)]
    fn is_ethernet(&self) -> bool {
        self.hardware.to_be() == 1 && self.proto.to_be() == 0x0800 && self.lengths == [6, 4]
    }

    /// Does its sender say that the address is its own? A probe does not, whatever it does.
    #[inline(always)]
    pub fn is_claim(&self) -> bool {
        self.is_ethernet() && is_unicast(&self.sender_mac) && self.sender != [0; 2]
    }

    /// What it asks.
    #[inline(always)]
    pub fn question(&self) -> Question {
        // A request for the sender's own address announces it and asks nothing.
        if !self.is_ethernet() || self.op.to_be() != REQUEST || self.sender == self.target {
            return Question::None;
        }
        let sender = mapped(self.sender);
        let probe = self.sender == [0; 2];
        if !is_unicast(&self.sender_mac) || (!probe && flow::is_martian(&sender, false)) {
            return Question::Malformed;
        }
        Question::Asked
    }

    /// What contradicts the sender: its address is at `mac`, told as a request for that address.
    #[must_use]
    #[inline(always)]
    pub const fn contradiction(&self, mac: Mac) -> Self {
        Self { op: REQUEST.to_be(), sender_mac: mac, target_mac: [0; 3], target: self.sender, ..*self }
    }

    /// The answer: the target is at `mac`.
    #[must_use]
    #[inline(always)]
    pub const fn answer(&self, mac: Mac) -> Self {
        Self {
            op: REPLY.to_be(),
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
            ..*self
        }
    }
}

/// The advertisement that `target` is at `mac`, for `to`; `solicited`: it answers that host's question.
#[must_use]
#[inline(always)]
pub fn advertisement(target: &Addr, mac: Mac, to: &Addr, solicited: bool) -> (Ipv6, Advertisement) {
    const OVERRIDE: u16 = 0x2000;
    const SOLICITED: u16 = 0x4000;
    const LEN: u16 = size_of::<Advertisement>() as u16;
    let ip = Ipv6 {
        vtf: [0x6000_u16.to_be(), 0],
        payload: LEN.to_be(),
        next: ICMPV6,
        hops: HOPS,
        src: bytemuck::cast(*target),
        dst: bytemuck::cast(*to),
    };
    let mut message = Advertisement {
        kind: [ADVERTISEMENT, 0],
        check: 0,
        flags: [(OVERRIDE | if solicited { SOLICITED } else { 0 }).to_be(), 0],
        target: ip.src,
        option: [2, 1],
        mac,
    };
    let words: [u16; 16] = bytemuck::cast(message);
    let sum = words.iter().fold(pseudo(target, to, LEN as u32), |sum, w| sum + *w as u64);
    message.check = !csum::fold(sum);
    (ip, message)
}

/// The sum of the pseudo header of an ICMPv6 message.
#[must_use]
#[inline(always)]
pub const fn pseudo(src: &Addr, dst: &Addr, len: u32) -> u64 {
    let (s, d) = (csum::words(src), csum::words(dst));
    let src = s[0] as u64 + s[1] as u64 + s[2] as u64 + s[3] as u64;
    let dst = d[0] as u64 + d[1] as u64 + d[2] as u64 + d[3] as u64;
    src + dst + (ICMPV6 as u32).to_be() as u64 + len.to_be() as u64
}

/// The frame by which `mac` asks whether any host has the IPv4 address `vip`, without saying that it will (RFC 5227).
#[must_use]
pub fn arp_probe(mac: Mac, vip: [u8; 4]) -> [u8; ARP_FRAME] {
    arp_frame(mac, REQUEST, [0; 2], [0; 3], halves(vip))
}

/// The frame by which `mac` asks whether any host has the IPv6 address `vip`: that of duplicate address detection (RFC 4862,
/// section 5.4.2).
#[must_use]
pub fn duplicate_solicitation(mac: Mac, vip: [u8; 16]) -> [u8; SOLICITATION_FRAME] {
    const LEN: u16 = size_of::<Solicitation>() as u16;
    let target = Addr::v6(vip);
    let group = solicited_group(&target);
    let [.., a, b, c, d] = group.octets;
    let ip = Ipv6 {
        vtf: [0x6000_u16.to_be(), 0],
        payload: LEN.to_be(),
        next: ICMPV6,
        hops: HOPS,
        src: [0; 8],
        dst: bytemuck::cast(group),
    };
    let mut message =
        Solicitation { kind: [SOLICITATION, 0], check: 0, reserved: [0; 2], target: bytemuck::cast(target) };
    let words: [u16; 12] = bytemuck::cast(message);
    let sum = words.iter().fold(pseudo(&Addr::NONE, &group, LEN as u32), |sum, w| sum + *w as u64);
    message.check = !csum::fold(sum);
    let mut frame = [0; SOLICITATION_FRAME];
    let eth = Eth { dst: self::mac([0x33, 0x33, a, b, c, d]), src: mac, proto: ETH_IPV6.to_be() };
    frame[..ETH_LEN].copy_from_slice(bytemuck::bytes_of(&eth));
    frame[ETH_LEN..ETH_LEN + size_of::<Ipv6>()].copy_from_slice(bytemuck::bytes_of(&ip));
    frame[ETH_LEN + size_of::<Ipv6>()..].copy_from_slice(bytemuck::bytes_of(&message));
    frame
}

/// The frame by which `mac` tells everybody that it has the IPv4 address `vip`: as a request or as a reply, since some
/// hosts heed one and some the other.
#[must_use]
pub fn gratuitous_arp(mac: Mac, vip: [u8; 4], reply: bool) -> [u8; ARP_FRAME] {
    let vip = halves(vip);
    // Linux takes a reply for gratuitous only if both ends are the same.
    if reply { arp_frame(mac, REPLY, vip, mac, vip) } else { arp_frame(mac, REQUEST, vip, [0; 3], vip) }
}

/// An ARP message from `mac` to everybody. Order: `op` host, the rest as on the wire.
fn arp_frame(mac: Mac, op: u16, sender: [u16; 2], target_mac: Mac, target: [u16; 2]) -> [u8; ARP_FRAME] {
    let arp = Arp {
        hardware: 1_u16.to_be(),
        proto: 0x0800_u16.to_be(),
        lengths: [6, 4],
        op: op.to_be(),
        sender_mac: mac,
        sender,
        target_mac,
        target,
    };
    let mut frame = [0; ARP_FRAME];
    let eth = Eth { dst: BROADCAST, src: mac, proto: ETH_ARP.to_be() };
    frame[..ETH_LEN].copy_from_slice(bytemuck::bytes_of(&eth));
    frame[ETH_LEN..].copy_from_slice(bytemuck::bytes_of(&arp));
    frame
}

/// An IPv4 address as ARP's fields hold it.
fn halves([a, b, c, d]: [u8; 4]) -> [u16; 2] {
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

/// The frame by which `mac` tells everybody that it has the IPv6 address `vip`.
#[must_use]
pub fn unsolicited_advertisement(mac: Mac, vip: [u8; 16]) -> [u8; ADVERTISEMENT_FRAME] {
    let (ip, message) = advertisement(&Addr::v6(vip), mac, &ALL_NODES, false);
    let mut frame = [0; ADVERTISEMENT_FRAME];
    let eth = Eth { dst: ALL_NODES_MAC, src: mac, proto: ETH_IPV6.to_be() };
    frame[..ETH_LEN].copy_from_slice(bytemuck::bytes_of(&eth));
    frame[ETH_LEN..ETH_LEN + size_of::<Ipv6>()].copy_from_slice(bytemuck::bytes_of(&ip));
    frame[ETH_LEN + size_of::<Ipv6>()..].copy_from_slice(bytemuck::bytes_of(&message));
    frame
}

#[cfg(test)]
mod tests;
