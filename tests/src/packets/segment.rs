//! Writes packets, with checksums that are computed independently of the programs.
use std::net::IpAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader,
    ip_number::{ICMP, IPV6_ICMP, TCP, UDP},
};

/// What is behind the IP header.
#[derive(Clone, Debug, PartialEq)]
pub enum L4 {
    /// TCP with these flags (FIN 1, SYN 2, RST 4, PSH 8, ACK 16) and numbers.
    Tcp {
        /// Flag bits.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
    },
    /// UDP.
    Udp,
    /// UDP without a checksum.
    UdpUnchecked,
    /// ICMP or ICMPv6, by the family: type, code and the four bytes that follow the checksum.
    Icmp(u8, u8, [u8; 4]),
    /// Another protocol; the payload is all there is.
    Other(u8),
}

/// A packet to be written.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Source and destination of the Ethernet header.
    pub macs: ([u8; 6], [u8; 6]),
    /// Source address and port.
    pub src: (IpAddr, u16),
    /// Destination address and port.
    pub dst: (IpAddr, u16),
    /// Layer 4.
    pub l4: L4,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4: don't fragment.
    pub df: bool,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers, each with its protocol number and its whole bytes; the next-header byte is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// What layer 4 carries.
    pub payload: Vec<u8>,
}

/// A checksum over a pseudo header and bytes, the textbook way.
fn checksum(pseudo: &[u8], bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for part in [pseudo, bytes] {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Segment {
    /// A TCP segment with flags: the SYN with the number 1000, any other with the next, and 2000 acknowledged.
    #[must_use]
    pub fn tcp(src: (&str, u16), dst: (&str, u16), flags: u8) -> Self {
        let ip = |a: &str| a.parse().expect("an address in a test");
        Self {
            macs: ([2, 0, 0, 0, 0, 0xfe], [2, 0, 0, 0, 1, 1]),
            src: (ip(src.0), src.1),
            dst: (ip(dst.0), dst.1),
            l4: L4::Tcp { flags, seq: 1001 - u32::from(flags & 2) / 2, ack: if flags & 16 != 0 { 2000 } else { 0 } },
            ttl: 64,
            tos: 0,
            id: 7,
            df: true,
            options: Vec::new(),
            extensions: Vec::new(),
            payload: b"sluice".to_vec(),
        }
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(src: (&str, u16), dst: (&str, u16)) -> Self {
        Self { l4: L4::Udp, ..Self::tcp(src, dst, 0) }
    }

    /// An ICMP or ICMPv6 message.
    #[must_use]
    pub fn icmp(src: &str, dst: &str, kind: u8, code: u8) -> Self {
        Self { l4: L4::Icmp(kind, code, [0x12, 0x34, 0, 1]), ..Self::tcp((src, 0), (dst, 0), 0) }
    }

    /// The same packet as it leaves: other ends, other MACs, this time to live.
    #[must_use]
    pub fn leaving(&self, src: (&str, u16), dst: (&str, u16), ttl: u8) -> Self {
        let at = Self::tcp(src, dst, 0);
        Self { src: at.src, dst: at.dst, ttl, ..self.clone() }
    }

    /// The same packet with these Ethernet addresses.
    #[must_use]
    pub fn with_macs(self, src: [u8; 6], dst: [u8; 6]) -> Self {
        Self { macs: (src, dst), ..self }
    }

    /// The same packet with another payload.
    #[must_use]
    pub fn carrying(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    /// The protocol number.
    fn proto(&self) -> IpNumber {
        match self.l4 {
            L4::Tcp { .. } => TCP,
            L4::Udp | L4::UdpUnchecked => UDP,
            L4::Icmp(..) if self.dst.0.is_ipv4() => ICMP,
            L4::Icmp(..) => IPV6_ICMP,
            L4::Other(n) => IpNumber(n),
        }
    }

    /// Layer 4 with its checksum.
    fn l4_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let (sport, dport) = (self.src.1, self.dst.1);
        match self.l4 {
            L4::Tcp { flags, seq, ack } => {
                let mut h = TcpHeader::new(sport, dport, seq, 4096);
                h.acknowledgment_number = ack;
                (h.fin, h.syn, h.rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                (h.psh, h.ack) = (flags & 8 != 0, flags & 16 != 0);
                h.checksum = match (self.src.0, self.dst.0) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => h.calc_checksum_ipv4_raw(s.octets(), d.octets(), &self.payload),
                    (IpAddr::V6(s), IpAddr::V6(d)) => h.calc_checksum_ipv6_raw(s.octets(), d.octets(), &self.payload),
                    _ => panic!("one family"),
                }
                .expect("short enough");
                h.write(&mut out).expect("write to memory");
            }
            L4::Udp | L4::UdpUnchecked => {
                let len = (8 + self.payload.len()) as u16;
                let mut h = UdpHeader { source_port: sport, destination_port: dport, length: len, checksum: 0 };
                if self.l4 == L4::Udp {
                    h.checksum = match (self.src.0, self.dst.0) {
                        (IpAddr::V4(s), IpAddr::V4(d)) => {
                            h.calc_checksum_ipv4_raw(s.octets(), d.octets(), &self.payload)
                        }
                        (IpAddr::V6(s), IpAddr::V6(d)) => {
                            h.calc_checksum_ipv6_raw(s.octets(), d.octets(), &self.payload)
                        }
                        _ => panic!("one family"),
                    }
                    .expect("short enough");
                }
                h.write(&mut out).expect("write to memory");
            }
            L4::Icmp(kind, code, rest) => {
                let mut h = [kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]];
                let whole = [&h[..], &self.payload].concat();
                let pseudo = if let (IpAddr::V6(s), IpAddr::V6(d)) = (self.src.0, self.dst.0) {
                    let len = (whole.len() as u32).to_be_bytes();
                    [&s.octets()[..], &d.octets(), &len, &[0, 0, 0, 58]].concat()
                } else {
                    Vec::new()
                };
                h[2..4].copy_from_slice(&checksum(&pseudo, &whole).to_be_bytes());
                out.extend_from_slice(&h);
            }
            L4::Other(_) => {}
        }
        out.extend_from_slice(&self.payload);
        out
    }

    /// The whole frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let l4 = self.l4_bytes();
        let v4 = self.dst.0.is_ipv4();
        let mut out = Vec::new();
        let ether_type = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
        let eth = Ethernet2Header { source: self.macs.0, destination: self.macs.1, ether_type };
        eth.write(&mut out).expect("write to memory");
        match (self.src.0, self.dst.0) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                let options = self.options[..].try_into().expect("a multiple of four");
                let mut h = Ipv4Header { options, ..Default::default() };
                h.set_payload_len(l4.len()).expect("short enough");
                (h.time_to_live, h.protocol, h.identification) = (self.ttl, self.proto(), self.id);
                (h.source, h.destination, h.dont_fragment) = (s.octets(), d.octets(), self.df);
                h.fragment_offset = IpFragOffset::ZERO;
                (h.dscp, h.ecn) = ((self.tos >> 2).try_into().expect("6 bits"), (self.tos & 3).try_into().expect("2"));
                h.header_checksum = h.calc_header_checksum();
                h.write_raw(&mut out).expect("write to memory");
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                let mut next = self.proto();
                let mut tail = Vec::new();
                for (number, bytes) in self.extensions.iter().rev() {
                    let mut bytes = bytes.clone();
                    bytes[0] = next.0;
                    next = IpNumber(*number);
                    tail.splice(0..0, bytes);
                }
                let h = Ipv6Header {
                    traffic_class: self.tos,
                    payload_length: (tail.len() + l4.len()) as u16,
                    next_header: next,
                    hop_limit: self.ttl,
                    source: s.octets(),
                    destination: d.octets(),
                    ..Default::default()
                };
                h.write(&mut out).expect("write to memory");
                out.extend_from_slice(&tail);
            }
            _ => panic!("one family"),
        }
        out.extend_from_slice(&l4);
        out
    }

    /// Offset of layer 4 in [`Self::bytes`].
    #[must_use]
    pub fn l4_offset(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, b)| b.len()).sum();
        14 + if self.dst.0.is_ipv4() { 20 + self.options.len() } else { 40 + extensions }
    }
}

/// The frame with a partial layer 4 checksum, as a local sender leaves it for the device: the folded sum of the pseudo
/// header, not complemented.
#[must_use]
pub fn partial(s: &Segment) -> Vec<u8> {
    let mut bytes = s.bytes();
    let at = s.l4_offset();
    let len = (bytes.len() - at) as u32;
    let pseudo = match (s.src.0, s.dst.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => [&a.octets()[..], &b.octets()].concat(),
        (IpAddr::V6(a), IpAddr::V6(b)) => [&a.octets()[..], &b.octets()].concat(),
        _ => panic!("one family"),
    };
    let pseudo = [&pseudo[..], &len.to_be_bytes(), &[0, 0, 0, s.proto().0]].concat();
    let field = at + if s.proto() == TCP { 16 } else { 6 };
    bytes[field..field + 2].copy_from_slice(&(!checksum(&pseudo, &[])).to_be_bytes());
    bytes
}

/// The frame with padding behind the IP packet, as Ethernet requires of short ones.
#[must_use]
pub fn lengthen(mut bytes: Vec<u8>, to: usize) -> Vec<u8> {
    bytes.resize(bytes.len().max(to), 0);
    bytes
}
