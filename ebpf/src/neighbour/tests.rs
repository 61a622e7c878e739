//! The messages as they are on the wire, byte by byte, and who asks for what.
use super::*;
use proptest::prelude::*;

const OWN: [u8; 6] = [2, 0, 0, 0, 1, 1];

fn request(sender: [u8; 4], target: [u8; 4]) -> Arp {
    let words = |a: [u8; 4]| [u16::from_ne_bytes([a[0], a[1]]), u16::from_ne_bytes([a[2], a[3]])];
    Arp {
        hardware: 1_u16.to_be(),
        proto: 0x0800_u16.to_be(),
        lengths: [6, 4],
        op: REQUEST.to_be(),
        sender_mac: mac([2, 0, 0, 0, 0, 9]),
        sender: words(sender),
        target_mac: [0; 3],
        target: words(target),
    }
}

#[test]
fn an_arp_answer_is_the_question_turned_around() {
    let answer = request([192, 0, 2, 9], [192, 0, 2, 200]).answer(mac(OWN));
    let want: [u8; 28] = [0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 1, 1, 192, 0, 2, 200, 2, 0, 0, 0, 0, 9, 192, 0, 2, 9];
    assert_eq!(bytemuck::bytes_of(&answer), want);
    assert_eq!(answer.question(), Question::None, "an answer asks nothing");
}

#[test]
fn what_asks_and_what_does_not() {
    let (host, vip) = ([192, 0, 2, 9], [192, 0, 2, 200]);
    let asked = request(host, vip);
    assert_eq!(asked.question(), Question::Asked);
    assert_eq!(request([0; 4], vip).question(), Question::Asked, "a probe (RFC 5227)");
    assert_eq!(request(vip, vip).question(), Question::None, "an announcement");
    let others = [
        Arp { op: 2_u16.to_be(), ..asked },
        Arp { op: 3_u16.to_be(), ..asked },
        Arp { hardware: 6_u16.to_be(), ..asked },
        Arp { proto: 0x86dd_u16.to_be(), ..asked },
        Arp { lengths: [8, 4], ..asked },
        Arp { lengths: [6, 16], ..asked },
    ];
    for other in others {
        assert_eq!(other.question(), Question::None, "{other:?}");
    }
    let senders = [[127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [0, 0, 0, 1]];
    for sender in senders {
        assert_eq!(request(sender, vip).question(), Question::Malformed, "{sender:?}");
    }
    for sender_mac in [[0; 3], BROADCAST, mac([0x33, 0x33, 0, 0, 0, 1])] {
        assert_eq!(Arp { sender_mac, ..asked }.question(), Question::Malformed, "{sender_mac:?}");
    }
}

#[test]
fn gratuitous_arp_comes_as_a_request_and_as_a_reply() {
    let vip = [192, 0, 2, 200];
    let head = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 1, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0];
    let request = [&head[..], &[1, 2, 0, 0, 0, 1, 1, 192, 0, 2, 200, 0, 0, 0, 0, 0, 0, 192, 0, 2, 200]].concat();
    let reply = [&head[..], &[2, 2, 0, 0, 0, 1, 1, 192, 0, 2, 200, 2, 0, 0, 0, 1, 1, 192, 0, 2, 200]].concat();
    assert_eq!(gratuitous_arp(mac(OWN), vip, false), request[..]);
    assert_eq!(gratuitous_arp(mac(OWN), vip, true), reply[..]);
}

#[test]
fn an_unsolicited_advertisement_overrides_and_claims_no_router() {
    let mut vip = [0; 16];
    vip[..4].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
    vip[15] = 0x77;
    let frame = unsolicited_advertisement(mac(OWN), vip);
    assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 1, 1, 0x86, 0xdd]);
    assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255], "32 bytes of ICMPv6 that crossed no router");
    assert_eq!((&frame[22..38], &frame[38..54]), (&vip[..], &ALL_NODES.octets[..]));
    assert_eq!((frame[54], frame[55], &frame[58..62]), (136, 0, &[0x20, 0, 0, 0][..]));
    assert_eq!((&frame[62..78], &frame[78..]), (&vip[..], &[2, 1, 2, 0, 0, 0, 1, 1][..]));
}

#[test]
fn the_group_of_an_address_has_its_last_three_bytes() {
    let mut target = [0x20; 16];
    target[13..].copy_from_slice(&[0x12, 0x34, 0x56]);
    let want: std::net::Ipv6Addr = "ff02::1:ff12:3456".parse().unwrap();
    assert_eq!(solicited_group(&Addr::v6(target)).octets, want.octets());
}

proptest! {
    #[test]
    fn the_checksum_of_an_advertisement_is_right(
        target: [u8; 16], to: [u8; 16], own: [u8; 6], solicited: bool,
    ) {
        let (ip, message) = advertisement(&Addr::v6(target), mac(own), &Addr::v6(to), solicited);
        let head = [0, 0, 0, 32, 0, 0, 0, 58];
        let bytes = [&target[..], &to, &head, bytemuck::bytes_of(&message)].concat();
        let sum: u32 = bytes.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
        prop_assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
        prop_assert_eq!((ip.hops, message.flags[0].to_be()), (255, if solicited { 0x6000 } else { 0x2000 }));
    }
}
