use super::*;
use proptest::prelude::*;

/// Parses bytes as the programs do, in memory that is aligned as a packet is.
fn parse_bytes(bytes: &[u8], frame: u32, gso: bool) -> (Parsed, Headers) {
    let mut memory: Vec<u16> =
        bytes.chunks(2).map(|c| u16::from_ne_bytes([c[0], c.get(1).copied().unwrap_or(0)])).collect();
    let start = memory.as_mut_ptr() as usize;
    // SAFETY: the bytes are those of `memory`, which outlives the bounds and is 2-aligned.
    let bounds = unsafe { Bounds::new(start, start + bytes.len()) };
    let mut h = Headers::default();
    (parse(bounds, frame, gso, &mut h), h)
}

fn parse_frame(bytes: &[u8]) -> (Parsed, Headers) {
    parse_bytes(bytes, bytes.len() as u32, false)
}

fn tcp4() -> Vec<u8> {
    let mut b = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    b.extend([0x45, 0x12, 0, 42, 0, 7, 0x40, 0, 63, 6, 0, 0, 198, 51, 100, 7, 192, 0, 2, 200]);
    b.extend([0x80, 0xe8, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x12, 1, 0, 0, 0, 0, 0, b'h', b'i']);
    b
}

fn udp6() -> Vec<u8> {
    let mut b = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    b.extend([0x61, 0x20, 0, 0, 0, 18, 0, 5]);
    b.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    b.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    b.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    b.extend([0x80, 0xe8, 0, 53, 0, 10, 0x12, 0x34, b'h', b'i']);
    b
}

#[test]
fn a_tcp_segment() {
    let (parsed, h) = parse_frame(&tcp4());
    assert_eq!(parsed, Parsed::Flow);
    let tuple =
        Tuple { src: Addr::v4([198, 51, 100, 7]), dst: Addr::v4([192, 0, 2, 200]), src_port: 33000, dst_port: 80 };
    assert_eq!(h.key, CtKey { tuple, proto: TCP, dir: CT_REQUEST, pad: [0; 2] });
    assert_eq!((h.l4(), h.l4_len, h.total, h.v6), (34, 22, 42, false));
    assert_eq!((h.ttl, h.tos, h.tcp_flags), (63, 0x12, tcp::SYN | tcp::ACK));
}

#[test]
fn a_datagram_behind_an_extension_header() {
    let (parsed, h) = parse_frame(&udp6());
    assert_eq!(parsed, Parsed::Flow);
    assert_eq!((h.key.tuple.src_port, h.key.tuple.dst_port, h.key.proto), (33000, 53, UDP));
    assert_eq!((h.l4(), h.l4_len, h.total, h.v6, h.ttl, h.tos), (62, 10, 58, true, 5, 0x12));
}

#[test]
fn every_truncation_is_noticed() {
    for whole in [tcp4(), udp6()] {
        let addressed = if whole[12] == 8 { 34 } else { 54 };
        for len in 0..whole.len() {
            let want = if len < addressed { Parsed::Foreign } else { Parsed::Bad(Reason::Malformed) };
            assert_eq!(parse_frame(&whole[..len]).0, want, "{len} of {} bytes", whole.len());
        }
    }
}

#[test]
fn a_super_packet_may_be_longer_than_its_length_field_says() {
    let mut b = tcp4();
    b[16..18].fill(0);
    assert_eq!(parse_bytes(&b, 70_000, false).0, Parsed::Bad(Reason::Malformed));
    let (parsed, h) = parse_bytes(&b, 70_000, true);
    assert_eq!((parsed, h.total, h.l4_len), (Parsed::Flow, 69_986, 69_966));
}

#[test]
fn mapped_and_back() {
    let wire = [u16::from_ne_bytes([192, 0]), u16::from_ne_bytes([2, 1])];
    assert_eq!(mapped(wire), Addr::v4([192, 0, 2, 1]));
    assert_eq!(unmapped(&mapped(wire)), wire);
}

#[test]
fn packed_and_back() {
    use Reason::{ExtensionHeader, Fragment, Malformed, Protocol};
    let bad = [Malformed, Fragment, ExtensionHeader, Protocol].map(Parsed::Bad);
    for p in [Parsed::Foreign, Parsed::Flow, Parsed::Icmp].into_iter().chain(bad) {
        assert_eq!(Parsed::unpack(p.pack()), p);
    }
}

proptest! {
    /// Whatever the bytes, nothing is read behind the end, and what is called a flow has its header in the packet.
    #[test]
    fn no_bytes_lead_astray(mut bytes in prop::collection::vec(any::<u8>(), 0..200), v6: bool, clean: bool) {
        if clean && bytes.len() > 20 {
            bytes[0] = 2;
            bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
            bytes[14] = if v6 { 0x60 } else { 0x45 };
            let ip = bytes.len() as u16 - 14;
            let (at, len) = if v6 { (18, ip.saturating_sub(40)) } else { (16, ip) };
            bytes[at..at + 2].copy_from_slice(&len.to_be_bytes());
        }
        let (parsed, h) = parse_frame(&bytes);
        if parsed == Parsed::Flow {
            let header = if h.key.proto == TCP { 20 } else { 8 };
            prop_assert!(h.l4() + header <= bytes.len());
            prop_assert!(h.l4() + h.l4_len as usize <= bytes.len());
            prop_assert!(h.key.proto == TCP || h.key.proto == UDP);
        }
    }

    /// One changed byte never turns into a read behind the end either.
    #[test]
    fn no_changed_byte_leads_astray(at in 0usize..72, value: u8, v6: bool) {
        let mut bytes = if v6 { udp6() } else { tcp4() };
        if at < bytes.len() {
            bytes[at] = value;
        }
        let (parsed, h) = parse_frame(&bytes);
        prop_assert!(parsed != Parsed::Flow || h.l4() + h.l4_len as usize <= bytes.len());
    }
}
