//! ARP messages and neighbour solicitations, written byte by byte.
use std::net::{IpAddr, Ipv6Addr};

use super::{L4, Segment};

/// An ARP message in its frame.
#[derive(Clone, Debug)]
pub struct ArpFrame {
    /// Source and destination of the Ethernet header.
    pub macs: ([u8; 6], [u8; 6]),
    /// 1 asks, 2 answers.
    pub op: u16,
    /// The sender: Ethernet address and address.
    pub sender: ([u8; 6], &'static str),
    /// The target.
    pub target: ([u8; 6], &'static str),
}

impl ArpFrame {
    /// A host asks everybody for an address.
    #[must_use]
    pub fn request(sender: ([u8; 6], &'static str), target: &'static str) -> Self {
        Self { macs: (sender.0, [0xff; 6]), op: 1, sender, target: ([0; 6], target) }
    }

    /// The frame.
    ///
    /// # Panics
    /// An address is not IPv4.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let ip = |text: &str| match text.parse() {
            Ok(IpAddr::V4(ip)) => ip.octets(),
            other => panic!("{text}: {other:?}"),
        };
        let eth = [&self.macs.1[..], &self.macs.0, &[8, 6]].concat();
        let head = [0, 1, 8, 0, 6, 4, self.op.to_be_bytes()[0], self.op.to_be_bytes()[1]];
        [&eth[..], &head, &self.sender.0, &ip(self.sender.1), &self.target.0, &ip(self.target.1)].concat()
    }
}

/// An option of neighbour discovery that carries an Ethernet address: 1 of the source, 2 of the target.
#[must_use]
pub fn link_layer(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// The group that is asked for an IPv6 address, and its Ethernet address.
///
/// # Panics
/// `target` is none.
#[must_use]
pub fn solicited(target: &str) -> (String, [u8; 6]) {
    let [.., a, b, c] = target.parse::<Ipv6Addr>().expect("an IPv6 address in a test").octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    (group.to_string(), [0x33, 0x33, 0xff, a, b, c])
}

/// A message of neighbour discovery about `target`: 135 asks and 136 answers; `flags` are the byte after the checksum.
///
/// # Panics
/// `target` is no IPv6 address.
#[must_use]
pub fn discovery(
    kind: u8,
    flags: u8,
    (src, src_mac): (&str, [u8; 6]),
    (dst, dst_mac): (&str, [u8; 6]),
    target: &str,
    options: &[u8],
) -> Segment {
    let target = target.parse::<Ipv6Addr>().expect("an IPv6 address in a test").octets();
    let message =
        Segment::icmp(src, dst, kind, 0).with_macs(src_mac, dst_mac).carrying(&[&target[..], options].concat());
    Segment { l4: L4::Icmp(kind, 0, [flags, 0, 0, 0]), ttl: 255, ..message }
}
