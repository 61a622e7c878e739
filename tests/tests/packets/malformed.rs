//! Packets that are cut off, contradict themselves, or are no whole packets: dropped and counted when their destination
//! is ours, passed untouched when it is not, and never mangled (S135).
use sluice_ebpf::*;
use sluice_tests::packets::*;

const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Ingress];

/// A frontend on each VIP, for both protocols, with a backend on another node.
fn serve(lab: &mut Lab) {
    for (i, n) in NETS.iter().enumerate() {
        let id = 1 + i as u32;
        lab.backend(id, (n.remote, 8080), BACKEND_REMOTE);
        lab.frontend((n.vip, 80), TCP, 0, &[id]);
        lab.frontend((n.vip, 80), UDP, 0, &[id]);
    }
}

/// Builds the packet for the VIP and for a stranger: the first is dropped for the reason, the second passes.
fn ours_alone(lab: &mut Lab, says: &str, reason: Reason, packet: impl Fn(&Net, &str) -> Vec<u8>, nets: &[Net]) {
    for (n, hook) in nets.iter().flat_map(|n| HOOKS.map(|h| (n, h))) {
        lab.check(&Case { says, hook, packet: packet(n, n.vip), does: Does::Drop, out: None, reasons: &[reason] });
        let stranger = packet(n, n.stranger);
        lab.check(&Case { says, hook, packet: stranger, does: Does::Pass, out: None, reasons: &[] });
    }
}

fn tcp(n: &Net, dst: &str) -> Segment {
    Segment::tcp((n.client, 33000), (dst, 80), 2)
}

fn udp(n: &Net, dst: &str) -> Segment {
    Segment::udp((n.client, 33000), (dst, 80))
}

/// The frame with bytes replaced.
fn with(s: &Segment, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = s.bytes();
    for (at, value) in changes {
        bytes[*at] = *value;
    }
    bytes
}

#[test]
fn a_packet_cut_off_anywhere_changes_nothing() {
    with_lab(|lab| {
        serve(lab);
        for n in &NETS {
            let options = if n.vip == V4.vip { vec![1; 8] } else { Vec::new() };
            let extensions =
                if n.vip == V4.vip { Vec::new() } else { vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0]), (60, vec![0; 8])] };
            let fancy = Segment { options, extensions, ..tcp(n, n.vip) };
            for whole in [tcp(n, n.vip), udp(n, n.vip), fancy, Segment::icmp(n.client, n.vip, 8, 0)] {
                let bytes = whole.bytes();
                let addressed = if n.vip == V4.vip { 34 } else { 54 };
                for len in 14..bytes.len() {
                    for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
                        // The kernel itself makes no buffer of less than an IP header.
                        if len < addressed && hook != Hook::Xdp {
                            continue;
                        }
                        lab.forget_reasons();
                        let cut = &bytes[..len];
                        let out = lab.run(hook, cut);
                        let (pass, drop) = if hook == Hook::Xdp { (2, 1) } else { (-1, 2) };
                        let want = if len >= addressed && hook != Hook::Egress { drop } else { pass };
                        assert_eq!(out.code, want, "{hook:?} on {len} of {} bytes", bytes.len());
                        assert!(out.packet == cut, "{hook:?} changed a packet of {len} bytes");
                        let reasons = if want == drop { vec![Reason::Malformed] } else { Vec::new() };
                        assert_eq!(lab.reasons(), drop_reasons(&reasons), "{hook:?} on {len} bytes");
                    }
                }
            }
        }
        assert!(lab.conntrack().is_empty());
    });
}

#[test]
fn lengths_that_contradict_each_other() {
    with_lab(|lab| {
        serve(lab);
        let m = Reason::Malformed;
        let v4 = &[V4][..];
        let v6 = &[V6][..];
        ours_alone(lab, "a header of less than five words", m, |n, d| with(&tcp(n, d), &[(14, 0x44)]), v4);
        ours_alone(lab, "a header longer than the packet", m, |n, d| with(&tcp(n, d).carrying(b""), &[(14, 0x4f)]), v4);
        ours_alone(lab, "a version that the frame denies", m, |n, d| with(&tcp(n, d), &[(14, 0x65)]), v4);
        ours_alone(lab, "a version that the frame denies", m, |n, d| with(&tcp(n, d), &[(14, 0x45)]), v6);
        ours_alone(lab, "a total length beyond the frame", m, |n, d| with(&tcp(n, d), &[(16, 5), (17, 0)]), v4);
        ours_alone(lab, "a total length below the header", m, |n, d| with(&tcp(n, d), &[(16, 0), (17, 19)]), v4);
        ours_alone(lab, "no total length", m, |n, d| with(&tcp(n, d), &[(16, 0), (17, 0)]), v4);
        ours_alone(lab, "a payload length beyond the frame", m, |n, d| with(&tcp(n, d), &[(18, 5)]), v6);
        ours_alone(lab, "a payload too short for TCP", m, |n, d| with(&tcp(n, d), &[(18, 0), (19, 12)]), v6);
        ours_alone(lab, "no payload", m, |n, d| with(&udp(n, d), &[(18, 0), (19, 0)]), v6);
        ours_alone(lab, "a total length too short for TCP", m, |n, d| with(&tcp(n, d), &[(17, 39)]), v4);
        let at = |n: &Net| if n.vip == V4.vip { 34 } else { 54 };
        ours_alone(lab, "a TCP header below its size", m, |n, d| with(&tcp(n, d), &[(at(n) + 12, 0x40)]), &NETS);
        ours_alone(lab, "a TCP header beyond the packet", m, |n, d| with(&tcp(n, d), &[(at(n) + 12, 0xf0)]), &NETS);
        ours_alone(lab, "a UDP length below its header", m, |n, d| with(&udp(n, d), &[(at(n) + 5, 7)]), &NETS);
        ours_alone(lab, "a UDP length beyond the packet", m, |n, d| with(&udp(n, d), &[(at(n) + 4, 1)]), &NETS);
        let bare = |n: &Net, d: &str| Segment { l4: L4::UdpUnchecked, ..udp(n, d) }.bytes();
        ours_alone(lab, "UDP over IPv6 without a checksum (S126)", m, bare, v6);
    });
}

#[test]
fn fragments() {
    with_lab(|lab| {
        serve(lab);
        let f = Reason::Fragment;
        let v4 = &[V4][..];
        let v6 = &[V6][..];
        ours_alone(lab, "the first fragment (S128, S133)", f, |n, d| with(&udp(n, d), &[(20, 0x20)]), v4);
        ours_alone(lab, "a later fragment", f, |n, d| with(&udp(n, d), &[(20, 0x20), (21, 9)]), v4);
        ours_alone(lab, "the last fragment", f, |n, d| with(&udp(n, d), &[(20, 0), (21, 9)]), v4);
        let piece = |more: u8, offset: u8| {
            move |n: &Net, d: &str| {
                Segment { extensions: vec![(44, vec![0, 0, offset, more, 0, 0, 0, 7])], ..udp(n, d) }.bytes()
            }
        };
        ours_alone(lab, "the first fragment over IPv6", f, piece(1, 0), v6);
        ours_alone(lab, "a later fragment over IPv6", f, piece(1, 5), v6);
        ours_alone(lab, "an atomic fragment", f, piece(0, 0), v6);
    });
}

#[test]
fn the_fragments_of_a_tracked_reply() {
    with_lab(|lab| {
        for n in &NETS {
            lab.backend(1, (n.pod, 8080), BACKEND_LOCAL);
            lab.backend(2, (n.remote, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), UDP, 0, &[1]);
            lab.frontend((n.vip, 81), UDP, 0, &[2]);
            lab.ingress(&udp(n, n.vip).bytes());
            lab.ingress(&Segment::udp((n.client, 33000), (n.vip, 81)).bytes());
            let port = lab.entry((n.client, 33000), (n.vip, 81), UDP, CT_REQUEST).expect("an entry").to.src_port;
            let first = |s: Segment| {
                if n.vip == V4.vip {
                    with(&s, &[(20, 0x20)])
                } else {
                    Segment { extensions: vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 7])], ..s }.bytes()
                }
            };
            for (says, hook, packet) in [
                ("of a pod here", Hook::Egress, first(Segment::udp((n.pod, 8080), (n.client, 33000)))),
                ("of another node, in TC", Hook::Ingress, first(Segment::udp((n.remote, 8080), (n.node, port)))),
                ("of another node, in XDP", Hook::Xdp, first(Segment::udp((n.remote, 8080), (n.node, port)))),
            ] {
                lab.check(&Case { says, hook, packet, does: Does::Drop, out: None, reasons: &[Reason::Fragment] });
            }
            for (says, hook, packet) in [
                ("of a stranger", Hook::Egress, first(Segment::udp((n.pod, 8081), (n.client, 33000)))),
                ("to this node itself", Hook::Ingress, first(Segment::udp((n.remote, 8081), (n.node, port)))),
            ] {
                lab.check(&Case { says, hook, packet, does: Does::Pass, out: None, reasons: &[] });
            }
        }
    });
}

#[test]
fn extension_headers_that_are_not_skipped() {
    with_lab(|lab| {
        serve(lab);
        let x = Reason::ExtensionHeader;
        let v6 = &[V6][..];
        let chain = |list: Vec<(u8, Vec<u8>)>| {
            move |n: &Net, d: &str| Segment { extensions: list.clone(), ..tcp(n, d) }.bytes()
        };
        let eight = || vec![0; 8];
        ours_alone(lab, "authentication (S134)", x, chain(vec![(51, vec![0, 4, 0, 0, 0, 0, 0, 0])]), v6);
        ours_alone(
            lab,
            "a source route that is not at its end",
            x,
            chain(vec![(43, vec![0, 0, 0, 1, 0, 0, 0, 0])]),
            v6,
        );
        ours_alone(
            lab,
            "more than four",
            x,
            chain(vec![(0, eight()), (60, eight()), (60, eight()), (60, eight()), (60, eight())]),
            v6,
        );
        let long = || {
            let mut b = vec![0; 256];
            b[1] = 31;
            b
        };
        ours_alone(lab, "one that is longer than is looked at", x, chain(vec![(60, long())]), v6);
        let cut = |n: &Net, d: &str| {
            let mut s = Segment { extensions: vec![(60, vec![0; 8])], ..tcp(n, d) };
            s.extensions[0].1[1] = 20;
            s.bytes()
        };
        ours_alone(lab, "one that ends behind the packet", Reason::Malformed, cut, v6);
    });
}

#[test]
fn protocols_that_have_no_frontends() {
    with_lab(|lab| {
        serve(lab);
        for (says, number) in [("SCTP (S129)", 132), ("GRE", 47), ("IP in IP", 4), ("nothing at all", 59)] {
            let packet = |n: &Net, d: &str| Segment { l4: L4::Other(number), ..tcp(n, d) }.carrying(&[7; 40]).bytes();
            ours_alone(lab, says, Reason::Protocol, packet, &NETS);
        }
        let esp = |n: &Net, d: &str| Segment { l4: L4::Other(50), ..tcp(n, d) }.carrying(&[7; 40]).bytes();
        ours_alone(lab, "ESP over IPv4", Reason::Protocol, esp, &[V4]);
        ours_alone(lab, "ESP over IPv6", Reason::ExtensionHeader, esp, &[V6]);
    });
}

#[test]
fn frames_that_are_not_ours_to_read() {
    with_lab(|lab| {
        serve(lab);
        let tagged = |ethertypes: &[u16], s: &Segment| {
            let mut bytes = s.bytes();
            for t in ethertypes.iter().rev() {
                let mut tag = t.to_be_bytes().to_vec();
                tag.extend_from_slice(&[0, 42]);
                bytes.splice(12..12, tag);
            }
            bytes
        };
        for n in &NETS {
            let s = tcp(n, n.vip);
            let arp = [&[0xff; 6][..], &GATEWAY, &[8, 6], &[0, 1, 8, 0, 6, 4, 0, 1], &[0; 20]].concat();
            let broadcast = Segment { macs: (GATEWAY, [0xff; 6]), ..s.clone() };
            let multicast = Segment { macs: (GATEWAY, [0x33, 0x33, 0, 0, 0, 1]), ..s.clone() };
            for (says, packet) in [
                ("QinQ", tagged(&[0x88a8, 0x8100], &s)),
                ("two tags of the old kind", tagged(&[0x9100, 0x8100], &s)),
                ("ARP", arp),
                ("MPLS", with(&s, &[(12, 0x88), (13, 0x47)])),
                ("a frame to everybody", broadcast.bytes()),
                ("a frame to a group", multicast.bytes()),
            ] {
                for hook in HOOKS {
                    let packet = packet.clone();
                    lab.check(&Case { says, hook, packet, does: Does::Pass, out: None, reasons: &[] });
                }
            }
            let packet = tagged(&[0x8100], &s);
            lab.check(&Case { says: "VLAN", hook: Hook::Xdp, packet, does: Does::Pass, out: None, reasons: &[] });
            let elsewhere = Segment { macs: (GATEWAY, REMOTE), ..s };
            lab.check(&Case {
                says: "a frame for another host that the interface took nevertheless",
                hook: Hook::Ingress,
                packet: elsewhere.bytes(),
                does: Does::Pass,
                out: None,
                reasons: &[],
            });
        }
    });
}

#[test]
fn an_ipv4_address_in_an_ipv6_header_is_nobodys() {
    with_lab(|lab| {
        serve(lab);
        // The maps hold IPv4 in this form, so such a packet could be taken for IPv4: its VIP, and its flow.
        let flow = Segment::udp((V4.client, 33000), (V4.vip, 80));
        lab.ingress(&flow.bytes());
        let port = lab.entry((V4.client, 33000), (V4.vip, 80), UDP, CT_REQUEST).expect("an entry").to.src_port;
        lab.backend(3, (V4.pod, 8080), BACKEND_LOCAL);
        lab.frontend((V4.vip, 81), UDP, 0, &[3]);
        lab.ingress(&Segment::udp((V4.client, 33000), (V4.vip, 81)).bytes());
        let m = |ip: &str| format!("::ffff:{ip}");
        let udp = |src: (String, u16), dst: (String, u16)| Segment::udp((&src.0, src.1), (&dst.0, dst.1));
        for (says, hooks, s) in [
            ("to a VIP", &HOOKS[..], udp((m(V4.client), 33001), (m(V4.vip), 80))),
            ("to a VIP, of a tracked flow", &HOOKS, udp((m(V4.client), 33000), (m(V4.vip), 80))),
            ("to a port of a VIP that has no frontend", &HOOKS, udp((m(V4.client), 33000), (m(V4.vip), 7))),
            ("a reply of another node", &HOOKS, udp((m(V4.remote), 8080), (m(V4.node), port))),
            ("a reply of a pod here", &[Hook::Egress], udp((m(V4.pod), 8080), (m(V4.client), 33000))),
            ("only the source is one", &HOOKS, udp((m(V4.client), 33000), (V6.vip.into(), 80))),
            ("only the destination is one", &HOOKS, udp((V6.client.into(), 33000), (m(V4.vip), 80))),
            ("echo", &HOOKS, Segment::icmp(&m(V4.client), &m(V4.vip), 128, 0)),
            ("another protocol", &HOOKS, Segment::icmp(&m(V4.client), &m(V4.vip), 200, 0)),
        ] {
            for hook in hooks {
                let packet = s.bytes();
                lab.check(&Case { says, hook: *hook, packet, does: Does::Pass, out: None, reasons: &[] });
            }
        }
        // What merely looks alike is an address like any other.
        let near = "::fffe:192.0.2.200";
        lab.frontend((near, 80), UDP, 0, &[2]);
        lab.ingress(&Segment::udp((V6.client, 33000), (near, 80)).bytes());
        assert!(lab.entry((V6.client, 33000), (near, 80), UDP, CT_REQUEST).is_some());
    });
}

#[test]
fn padding_is_not_part_of_the_packet() {
    with_lab(|lab| {
        serve(lab);
        let s = tcp(&V4, V4.vip).carrying(b"");
        lab.xdp(&s.bytes());
        let port = lab.entry((V4.client, 33000), (V4.vip, 80), TCP, CT_REQUEST).expect("an entry").to.src_port;
        let out = s.leaving((V4.node, port), (V4.remote, 8080), 63).with_macs(UP0, REMOTE);
        for packet in [lengthen(s.bytes(), 60), lengthen(partial(&s), 60)] {
            lab.check(&Case {
                says: "a frame of the smallest size",
                hook: Hook::Xdp,
                packet,
                does: Does::Bounce,
                out: Some(lengthen(out.bytes(), 60)),
                reasons: &[],
            });
        }
    });
}
