//! A look at a packet that has no Ethernet header, as tunnels for IP alone carry it: whose flow may it be of?
//!
//! Order: ethertype network, as `__sk_buff` has it. What is found to be ours is parsed as a whole later, behind an Ethernet
//! header ([`packet::parse`](crate::packet::parse)); so only what nearly every packet looks like is recognised here: no IPv4
//! options, no fragment, no IPv6 extension header.
use crate::{
    abi::*,
    flow::tcp,
    packet::{Bounds, Headers, ICMP, ICMPV6, Ipv4, Ipv6, is_mapped, mapped},
};

/// Fills in the key, the family and the TCP flags; returns the first byte of layer 4, which is the type of an ICMP message.
/// `None` for whatever is not TCP, UDP or ICMP as the module says.
#[inline(always)]
pub fn parse(b: Bounds, ethertype: u16, h: &mut Headers) -> Option<u8> {
    match u16::from_be(ethertype) {
        0x0800 => {
            let ip = b.read::<Ipv4>(0)?;
            if ip.ver_ihl != 0x45 || ip.frag.to_be() & 0x3fff != 0 {
                return None;
            }
            (h.key.tuple.src, h.key.tuple.dst, h.key.proto) = (mapped(ip.src), mapped(ip.dst), ip.proto);
            layer4(b, size_of::<Ipv4>(), h)
        }
        0x86dd => {
            let ip = b.read::<Ipv6>(0)?;
            if ip.vtf[0].to_be() >> 12 != 6 || is_mapped(&ip.src) || is_mapped(&ip.dst) {
                return None;
            }
            h.v6 = true;
            (h.key.tuple.src, h.key.tuple.dst) = (bytemuck::cast(ip.src), bytemuck::cast(ip.dst));
            h.key.proto = ip.next;
            layer4(b, size_of::<Ipv6>(), h)
        }
        _ => None,
    }
}

#[inline(always)]
fn layer4(b: Bounds, at: usize, h: &mut Headers) -> Option<u8> {
    let [src, dst] = b.read::<[u16; 2]>(at)?;
    match (h.key.proto, h.v6) {
        (TCP, _) => {
            let [_, flags] = b.read::<[u8; 2]>(at + 12)?;
            h.tcp_flags = flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK);
        }
        (UDP, _) => {}
        (ICMP, false) | (ICMPV6, true) => return Some(src.to_ne_bytes()[0]),
        _ => return None,
    }
    (h.key.tuple.src_port, h.key.tuple.dst_port) = (u16::from_be(src), u16::from_be(dst));
    Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{self, Parsed};

    const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];

    /// A packet behind an Ethernet header: addresses that end in 1 and 2, ports 513 and 80, SYN and ACK.
    fn packet(ethertype: u16, proto: u8) -> Vec<u8> {
        let mut p = vec![0; 12];
        p.extend(ethertype.to_be_bytes());
        if ethertype == 0x0800 {
            p.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, proto, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        } else {
            p.extend([0x60, 0, 0, 0, 0, 20, proto, 64]);
            for last in [1, 2] {
                p.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
        }
        p.extend([2, 1, 0, 80, 0, 20, 7, 7, 0, 0, 0, 0, 0x50, tcp::SYN | tcp::ACK, 0, 0, 0, 0, 0, 0]);
        p
    }

    /// With the buffer that the bounds are of.
    fn words(bytes: &[u8]) -> (Vec<u16>, Bounds) {
        let words: Vec<u16> = bytes.chunks(2).map(|c| u16::from_ne_bytes([c[0], *c.get(1).unwrap_or(&0)])).collect();
        let data = words.as_ptr() as usize;
        // SAFETY: the heap does not move with the vector, and only reads follow.
        let bounds = unsafe { Bounds::new(data, data + bytes.len()) };
        (words, bounds)
    }

    fn look(bytes: &[u8], ethertype: u16) -> Option<(u8, Headers)> {
        let ((_words, bounds), mut h) = (words(bytes), Headers::default());
        parse(bounds, ethertype.to_be(), &mut h).map(|first| (first, h))
    }

    #[test]
    fn it_is_the_flow_that_the_whole_parse_finds() {
        for (ethertype, proto) in ETHERTYPES.into_iter().flat_map(|e| [(e, TCP), (e, UDP)]) {
            let packet = packet(ethertype, proto);
            let ((_words, bounds), mut whole) = (words(&packet), Headers::default());
            assert_eq!(packet::parse(bounds, packet.len() as u32, false, &mut whole), Parsed::Flow);
            let (first, h) = look(&packet[14..], ethertype).expect("a flow");
            assert_eq!((first, h.key, h.v6, h.tcp_flags), (0, whole.key, whole.v6, whole.tcp_flags));
            assert_eq!((h.key.tuple.src_port, h.key.tuple.dst_port), (513, 80));
        }
    }

    #[test]
    fn an_icmp_message_is_told_by_its_type_and_whatever_is_cut_off_is_nothing() {
        for (ethertype, proto) in [(0x0800, ICMP), (0x86dd, ICMPV6)] {
            assert_eq!(look(&packet(ethertype, proto)[14..], ethertype).map(|(first, _)| first), Some(2));
        }
        for ethertype in ETHERTYPES {
            let header = if ethertype == 0x0800 { 20 } else { 40 };
            let packet = packet(ethertype, TCP);
            for len in 0..header + 14 {
                assert!(look(&packet[14..14 + len], ethertype).is_none(), "{len} bytes");
            }
            assert!(look(&packet[14..], 0x0806).is_none(), "ARP");
        }
    }

    #[test]
    fn options_fragments_and_extension_headers_are_nothing() {
        let mut options = packet(0x0800, TCP);
        options[14] = 0x46;
        let mut fragment = packet(0x0800, TCP);
        fragment[20] = 0x20;
        for (packet, ethertype) in [(options, 0x0800), (fragment, 0x0800), (packet(0x86dd, 0), 0x86dd)] {
            assert!(look(&packet[14..], ethertype).is_none());
        }
    }
}
