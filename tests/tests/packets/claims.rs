//! Who says that a VIP is its own that this node announces, and when that counts (issue 8, F8).
use sluice_ebpf::*;
use sluice_tests::packets::*;

/// Another node.
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x14];
/// A host on the network that is no node.
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x4d];
const ALL_NODES: (&str, [u8; 6]) = ("ff02::1", [0x33, 0x33, 0, 0, 0, 1]);
const OVERRIDE: u8 = 0x20;
const SECOND: u64 = 1_000_000_000;

/// A host says that it has the IPv4 VIP; that it has the IPv6 VIP.
fn claims(mac: [u8; 6]) -> [Vec<u8>; 2] {
    let arp = ArpFrame { macs: (mac, [0xff; 6]), ..ArpFrame::request((mac, V4.vip), V4.vip) };
    let advert = discovery(136, OVERRIDE, (V6.vip, mac), ALL_NODES, V6.vip, &link_layer(2, mac));
    [arp.bytes(), advert.bytes()]
}

/// This node announces both VIPs, knows these peers, and has not heard of the others for a minute, if it is blind.
fn announcing(lab: &mut Lab, peers: &[[u8; 6]], is_blind: bool) {
    for n in &NETS {
        lab.vip(n.vip, VIP_ECHO | VIP_REJECT | VIP_ANNOUNCE);
    }
    for peer in peers {
        lab.hash(map::PEERS).insert(neighbour::peer(&neighbour::mac(*peer)), PEER_KNOWN, 0).expect("insert a peer");
    }
    let blind_since = if is_blind { now().saturating_sub(60 * SECOND).max(1) } else { 0 };
    lab.settings(Settings { announce_until: u64::MAX, blind_since, ..Settings::default() });
}

/// Moves everything that was heard into the past.
fn pass(lab: &mut Lab, nanoseconds: u64) {
    let mut map = lab.hash::<Addr, Claim>(map::CLAIMED);
    let rows: Vec<_> = map.iter().map(|row| row.expect("read a claim")).collect();
    for (vip, claim) in rows {
        let before = |at: u64| if at == 0 { 0 } else { at - nanoseconds };
        let row = Claim { heard: before(claim.heard), yielded: before(claim.yielded) };
        map.insert(vip, row, 0).expect("write a claim");
    }
}

/// Whether this node answers for its VIPs, of each family.
fn answers(lab: &mut Lab) -> [bool; 2] {
    let (group, mac) = solicited(V6.vip);
    let solicitation = discovery(135, 0, (V6.stranger, HOST), (&group, mac), V6.vip, &link_layer(1, HOST));
    [ArpFrame::request((HOST, V4.stranger), V4.vip).bytes(), solicitation.bytes()].map(|q| lab.ingress(&q).code == 7)
}

fn passed<'a>(says: &'a str, packet: &[u8], reasons: &'a [Reason]) -> Case<'a> {
    Case { says, hook: Hook::Ingress, packet: packet.to_vec(), does: Does::Pass, out: None, reasons }
}

/// What contradicts each claim.
fn defence() -> [Vec<u8>; 2] {
    let arp = ArpFrame { macs: (UP0, [0xff; 6]), ..ArpFrame::request((UP0, V4.vip), V4.vip) };
    let advert = discovery(136, OVERRIDE, (V6.vip, UP0), ALL_NODES, V6.vip, &link_layer(2, UP0));
    [arp.bytes(), advert.bytes()]
}

fn defended<'a>(says: &'a str, packet: &[u8], out: Vec<u8>) -> Case<'a> {
    Case { does: Does::Bounce, out: Some(out), ..passed(says, packet, &[Reason::AnnouncedElsewhere, Reason::Defended]) }
}

#[test]
fn f8_who_is_no_node_silences_nothing() {
    with_lab(|lab| {
        // No other node was ever known, then one is.
        for peers in [&[][..], &[PEER]] {
            announcing(lab, peers, true);
            for _ in 0..3 {
                for claim in claims(HOST) {
                    lab.check(&passed("it is no node", &claim, &[Reason::ClaimIgnored]));
                }
                assert_eq!(answers(lab), [true; 2]);
                pass(lab, SECOND);
            }
        }
        let [mut arp, _] = claims(PEER);
        arp[6..12].copy_from_slice(&HOST);
        for _ in 0..2 {
            lab.check(&passed("a frame of one host, a message of another", &arp, &[]));
            pass(lab, SECOND);
        }
        assert_eq!(answers(lab), [true; 2]);
    });
}

#[test]
fn s101_a_node_that_is_cut_off_defends_its_vips_once_and_then_yields() {
    with_lab(|lab| {
        announcing(lab, &[PEER], true);
        for ((family, claim), out) in claims(PEER).iter().enumerate().zip(defence()) {
            let others = |yields: bool| if family == 0 { [!yields, true] } else { [false, !yields] };
            lab.check(&defended("the first is contradicted (RFC 5227)", claim, out.clone()));
            assert_eq!(answers(lab), others(false), "one frame silences nothing");
            lab.check(&passed("the second frame of one announcement", claim, &[Reason::AnnouncedElsewhere]));
            assert_eq!(answers(lab), others(false));
            pass(lab, DEFEND_NS + SECOND);
            lab.check(&defended("long after that it is contradicted again", claim, out));
            assert_eq!(answers(lab), others(false));
            pass(lab, SECOND);
            lab.check(&passed("who insists has it", claim, &[Reason::AnnouncedElsewhere]));
            assert_eq!(answers(lab), others(true));
            pass(lab, DEFEND_NS + SECOND);
            lab.check(&passed("and is not contradicted any more", claim, &[Reason::AnnouncedElsewhere]));
            assert_eq!(answers(lab), others(true));
        }
        announcing(lab, &[], false);
        assert_eq!(answers(lab), [true; 2], "the agent hears of the others again, and knows better");
        lab.settings(Settings { announce_until: u64::MAX, blind_since: now() + SECOND, ..Settings::default() });
        assert_eq!(answers(lab), [true; 2], "what was said before it was cut off does not count");
    });
}

#[test]
fn f8_what_is_heard_before_it_is_known_to_be_cut_off_counts_and_is_not_contradicted() {
    with_lab(|lab| {
        announcing(lab, &[PEER], false);
        for claim in claims(PEER) {
            for _ in 0..2 {
                lab.check(&passed("a node takes a VIP over", &claim, &[Reason::AnnouncedElsewhere]));
                pass(lab, SECOND);
            }
        }
        assert_eq!(answers(lab), [true; 2]);
        announcing(lab, &[], true);
        assert_eq!(answers(lab), [false; 2]);
    });
}

#[test]
fn f8_an_advertisement_that_no_host_sends_is_not_heard() {
    with_lab(|lab| {
        announcing(lab, &[PEER], true);
        let advert = |options: &[u8]| discovery(136, OVERRIDE, (V6.vip, PEER), ALL_NODES, V6.vip, options);
        let good = advert(&link_layer(2, PEER));
        let mut bad: Vec<(&str, Vec<u8>)> = (0..16)
            .map(|bit| {
                let mut bytes = good.bytes();
                bytes[56 + bit / 8] ^= 1 << (bit % 8);
                ("a checksum that is wrong", bytes)
            })
            .collect();
        bad.push(("it came through a router", Segment { ttl: 254, ..good.clone() }.bytes()));
        bad.push(("a code", Segment { l4: L4::Icmp(136, 1, [OVERRIDE, 0, 0, 0]), ..good.clone() }.bytes()));
        bad.push(("half an option", advert(&[2, 1, 2, 0]).bytes()));
        bad.push(("a message that is too long", advert(&link_layer(2, PEER).repeat(14)).bytes()));
        let whole = good.bytes();
        bad.extend((78..whole.len()).map(|len| ("it is cut off", whole[..len].to_vec())));
        for (says, packet) in bad {
            lab.check(&passed(says, &packet, &[]));
        }
        // Without an option, and with others.
        for options in [Vec::new(), [&[14, 1, 1, 2, 3, 4, 5, 6][..], &link_layer(2, PEER)].concat()] {
            let [_, out] = defence();
            lab.check(&defended("it is heard", &advert(&options).bytes(), out));
            pass(lab, DEFEND_NS + SECOND);
        }
    });
}
