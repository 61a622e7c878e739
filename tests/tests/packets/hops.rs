//! Remembered routes: XDP follows the way that it was given for a tenth of a second, if the packet fits it.
use std::time::{Duration, Instant};

use sluice_ebpf::*;
use sluice_tests::packets::*;

/// For how long a test tries to be quick: a hop ends by itself, and a busy machine may be too slow to see it followed.
const PATIENCE: Duration = Duration::from_secs(120);
/// A neighbour that no route leads to: a packet that goes there followed what was remembered.
const ELSEWHERE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// Macs as a hop has them, destination first.
fn macs(to: [u8; 6], from: [u8; 6]) -> [u16; 6] {
    let bytes = [to, from].concat();
    std::array::from_fn(|i| u16::from_ne_bytes([bytes[2 * i], bytes[2 * i + 1]]))
}

/// A flow to a backend on another node; its packets, and its source port here.
fn flow(lab: &mut Lab, n: &Net) -> (Segment, u16) {
    lab.forget_flows();
    lab.backend(1, (n.remote, 8080), BACKEND_REMOTE);
    lab.frontend((n.vip, 80), TCP, 0, &[1]);
    let packet = Segment::tcp((n.client, 33000), (n.vip, 80), 16);
    assert_eq!(lab.xdp(&packet.bytes()).code, 3, "the packet that opens the flow");
    (packet, entry(lab, n).to.src_port)
}

fn entry(lab: &Lab, n: &Net) -> CtEntry {
    lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("a request entry")
}

/// Makes the flow remember the way elsewhere, changed as told, and runs the packet.
fn run(lab: &mut Lab, packet: &Segment, change: impl Fn(&mut Hop)) -> Output {
    let (ifindex, macs) = (lab.up0, macs(ELSEWHERE, UP0));
    lab.age(|_, e| {
        let mut hop = Hop { until: now() + HOP_NS / 2, ifindex, ingress: ifindex, macs, mtu: 1500, check: 0 };
        change(&mut hop);
        e.hop = if hop.check == 0 { flow::checked(hop) } else { hop };
    });
    lab.xdp(&packet.bytes())
}

/// Tries until the packet comes out as wanted.
fn until(lab: &mut Lab, says: &str, packet: &Segment, change: impl Fn(&mut Hop), want: &Output) {
    let began = Instant::now();
    while run(lab, packet, &change) != *want {
        assert!(began.elapsed() < PATIENCE, "{says}: never seen, but {:?}", lab.xdp(&packet.bytes()));
    }
}

#[test]
fn a_remembered_hop_is_followed() {
    with_lab(|lab| {
        for n in &NETS {
            let (packet, port) = flow(lab, n);
            let there = packet.leaving((n.node, port), (n.remote, 8080), 63);
            let there = |from, to| there.clone().with_macs(from, to).bytes();
            let want = Output { code: 3, packet: there(UP0, ELSEWHERE) };
            until(lab, "a hop that is fresh", &packet, |_| {}, &want);
            let (up1, way) = (lab.up1, macs(REMOTE1, UP1));
            let by_up1 = |h: &mut Hop| (h.ifindex, h.macs) = (up1, way);
            until(lab, "by the other uplink", &packet, by_up1, &Output { code: 4, packet: there(UP1, REMOTE1) });
            lab.hash::<u32, Uplink>(map::UPLINKS).remove(&up1).expect("remove an uplink");
            let want = Output { code: 2, packet: packet.bytes() };
            until(lab, "not by what is an uplink no more", &packet, by_up1, &want);
            lab.uplink(lab.up1, UP1, "203.0.113.1", "2001:db8:2::1");
        }
    });
}

/// What is wrong with a hop, and how it comes about.
type Spoiled<'a> = (&'a str, &'a dyn Fn(&mut Hop));

#[test]
fn a_hop_that_does_not_fit_is_asked_for_again() {
    with_lab(|lab| {
        for n in &NETS {
            let (packet, port) = flow(lab, n);
            let there = packet.leaving((n.node, port), (n.remote, 8080), 63).with_macs(UP0, REMOTE);
            let want = Output { code: 3, packet: there.bytes() };
            let (up0, up1, length) = (lab.up0, lab.up1, packet.bytes().len() as u16 - 14);
            let cases: [Spoiled; 7] = [
                ("it is over", &|h| h.until = now() - 10 * HOP_NS),
                ("it was never asked for", &|h| *h = Hop::default()),
                ("it ends later than any that is made", &|h| h.until = now() + 3 * HOP_NS),
                ("the packet came in by another interface", &|h| h.ingress = up1),
                ("the packet is longer than what it is known to take", &|h| h.mtu = length - 1),
                ("it is two that were written into each other", &|h| {
                    h.check = flow::checked(Hop { ifindex: up1, ..*h }).check;
                }),
                ("its sum is wrong", &|h| h.check = flow::checked(*h).check ^ 1),
            ];
            for (says, change) in cases {
                assert_eq!(run(lab, &packet, change), want, "{says}");
                let hop = entry(lab, n).hop;
                assert_eq!((hop.ifindex, hop.ingress, hop.macs), (up0, up0, macs(REMOTE, UP0)), "{says}: the answer");
                assert_eq!((hop.mtu, hop.check), (1500, flow::checked(hop).check), "{says}: the answer");
                assert!(hop.until <= now() + HOP_NS, "{says}: it ends");
            }
            let want = Output { code: 3, packet: there.clone().with_macs(UP0, ELSEWHERE).bytes() };
            until(lab, "a packet that just fits", &packet, |h| h.mtu = length, &want);
        }
    });
}

#[test]
fn no_hop_is_remembered_where_xdp_cannot_send() {
    with_lab(|lab| {
        for n in &NETS {
            lab.backend(1, (n.unresolved, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            lab.forget_flows();
            assert_eq!(lab.xdp(&Segment::tcp((n.client, 33000), (n.vip, 80), 2).bytes()).code, 2);
            assert_eq!(entry(lab, n).hop, Hop::default(), "a neighbour that is not known");
            let (packet, _) = flow(lab, n);
            lab.forget_flows();
            lab.ingress(&packet.bytes());
            assert_eq!(entry(lab, n).hop, Hop::default(), "TC asks each time");
        }
    });
}
