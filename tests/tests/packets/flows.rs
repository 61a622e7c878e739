//! Flows: a request to its backend, the reply to its client, over XDP and over TC, both families, TCP and UDP.
use sluice_ebpf::*;
use sluice_tests::packets::*;

/// Both protocols with the packet that opens a flow and one that follows.
fn opener(proto: u8, src: (&str, u16), dst: (&str, u16)) -> Segment {
    if proto == TCP { Segment::tcp(src, dst, 2) } else { Segment::udp(src, dst) }
}

fn follower(proto: u8, src: (&str, u16), dst: (&str, u16)) -> Segment {
    if proto == TCP { Segment::tcp(src, dst, 24) } else { Segment::udp(src, dst) }
}

/// The request entry of the only client.
fn request(lab: &Lab, n: &Net, proto: u8) -> CtEntry {
    lab.entry((n.client, 33000), (n.vip, 80), proto, CT_REQUEST).expect("a request entry")
}

#[test]
fn a_flow_to_another_node_is_rewritten_in_both_directions() {
    with_lab(|lab| {
        for (n, proto) in NETS.iter().flat_map(|n| [(n, TCP), (n, UDP)]) {
            for hook in [Hook::Xdp, Hook::Ingress] {
                lab.forget_flows();
                lab.backend(1, (n.remote, 8080), BACKEND_REMOTE);
                let f = lab.frontend((n.vip, 80), proto, 0, &[1]);
                // The port is the program's choice, so the first packet is only asked for it.
                let open = opener(proto, (n.client, 33000), (n.vip, 80));
                let first = lab.run(hook, &open.bytes());
                let port = request(lab, n, proto).to.src_port;
                assert!((40_000..50_000).contains(&port), "port {port}");
                let macs = |s: Segment, from, to| if hook == Hook::Xdp { s.with_macs(from, to) } else { s };
                let does = if hook == Hook::Xdp { Does::Bounce } else { Does::Redirect };
                let there = |s: &Segment| macs(s.leaving((n.node, port), (n.remote, 8080), 63), UP0, REMOTE);
                assert_eq!(first.packet, there(&open).bytes(), "the packet that opens the flow, {hook:?}");
                let more = follower(proto, (n.client, 33000), (n.vip, 80));
                let reply = follower(proto, (n.remote, 8080), (n.node, port)).with_macs(REMOTE, UP0);
                let back = macs(reply.leaving((n.vip, 80), (n.client, 33000), 63), UP0, GATEWAY);
                for (says, packet, out) in [
                    ("a packet of a tracked flow takes the same way", &more, there(&more)),
                    ("the backend's reply returns to the client as the VIP's", &reply, back),
                ] {
                    lab.check(&Case { says, hook, packet: packet.bytes(), does, out: Some(out.bytes()), reasons: &[] });
                }
                let bytes = |s: &Segment| s.bytes().len() as u64;
                let want = Counters {
                    flows: 1,
                    request_packets: 2,
                    request_bytes: bytes(&open) + bytes(&more),
                    reply_packets: 1,
                    reply_bytes: bytes(&reply),
                    dropped_packets: 0,
                };
                assert_eq!(lab.counters(f), want);
            }
        }
    });
}

#[test]
fn a_flow_to_this_node_keeps_the_clients_address() {
    with_lab(|lab| {
        for (n, proto) in NETS.iter().flat_map(|n| [(n, TCP), (n, UDP)]) {
            lab.backend(1, (n.pod, 8080), BACKEND_LOCAL);
            let f = lab.frontend((n.vip, 80), proto, 0, &[1]);
            let open = opener(proto, (n.client, 33000), (n.vip, 80));
            let there = open.leaving((n.client, 33000), (n.pod, 8080), 64);
            let reply = follower(proto, (n.pod, 8080), (n.client, 33000)).with_macs(UP0, GATEWAY);
            let back = reply.leaving((n.vip, 80), (n.client, 33000), 64);
            let case = |says, hook, packet: &Segment, out: Option<&Segment>| Case {
                says,
                hook,
                packet: packet.bytes(),
                does: Does::Pass,
                out: out.map(Segment::bytes),
                reasons: &[],
            };
            lab.check(&case("XDP leaves a new flow to a pod here alone", Hook::Xdp, &open, None));
            assert!(lab.conntrack().iter().all(|(k, _)| k.proto != proto || k.tuple.dst != addr(n.vip)));
            lab.check(&case("TC sends it to the pod, the hop is the stack's", Hook::Ingress, &open, Some(&there)));
            lab.check(&case("XDP leaves its later packets alone", Hook::Xdp, &open, None));
            lab.check(&case("a reply leaves as the VIP's", Hook::Egress, &reply, Some(&back)));
            let stranger = reply.leaving((n.pod, 8080), (n.client2, 33000), 64);
            lab.check(&case("the pod's own traffic leaves as it is", Hook::Egress, &stranger, None));
            let counters = lab.counters(f);
            assert_eq!((counters.flows, counters.request_packets, counters.reply_packets), (1, 1, 1));
        }
    });
}

#[test]
fn the_route_decides_where_nothing_says_where_a_backend_is() {
    with_lab(|lab| {
        for n in &NETS {
            let syn = Segment::tcp((n.client, 33000), (n.vip, 80), 2);
            for (what, backend, snat) in
                [("on another node", n.remote, true), ("in a pod here", n.pod, false), ("this node", n.node, false)]
            {
                lab.forget_flows();
                lab.backend(1, (backend, 8080), 0);
                lab.frontend((n.vip, 80), TCP, 0, &[1]);
                lab.ingress(&syn.bytes());
                assert_eq!(request(lab, n, TCP).flags & CT_SNAT != 0, snat, "a backend {what}");
            }
        }
    });
}

#[test]
fn another_uplink_is_reached_with_its_own_address() {
    with_lab(|lab| {
        for n in &NETS {
            lab.backend(1, (n.remote1, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            let syn = Segment::tcp((n.client, 33000), (n.vip, 80), 2);
            let port = {
                lab.xdp(&syn.bytes());
                request(lab, n, TCP).to.src_port
            };
            let there = syn.leaving((n.node1, port), (n.remote1, 8080), 63);
            for (hook, out) in [(Hook::Xdp, there.clone().with_macs(UP1, REMOTE1)), (Hook::Ingress, there)] {
                lab.check(&Case {
                    says: "a backend behind the other uplink gets the packet from that uplink's address",
                    hook,
                    packet: syn.bytes(),
                    does: Does::Redirect,
                    out: Some(out.bytes()),
                    reasons: &[],
                });
            }
        }
    });
}

#[test]
fn what_xdp_cannot_finish_it_leaves_untouched() {
    with_lab(|lab| {
        for n in &NETS {
            let syn = Segment::tcp((n.client, 33000), (n.vip, 80), 2);
            lab.backend(1, (n.unresolved, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            let case = |says, hook, does, out| Case { says, hook, packet: syn.bytes(), does, out, reasons: &[] };
            lab.check(&case("a neighbour that is not known yet is TC's to find", Hook::Xdp, Does::Pass, None));
            let port = request(lab, n, TCP).to.src_port;
            let there = syn.leaving((n.node, port), (n.unresolved, 8080), 63).bytes();
            lab.check(&case("and TC finds it", Hook::Ingress, Does::Redirect, Some(there)));
            lab.forget_flows();
            let up1 = lab.up1;
            lab.hash::<u32, Uplink>(map::UPLINKS).remove(&up1).expect("remove an uplink");
            lab.backend(2, (n.remote1, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), TCP, 0, &[2]);
            lab.check(&case("an interface that is no uplink is not XDP's", Hook::Xdp, Does::Pass, None));
            lab.check(&Case {
                reasons: &[Reason::NoSource],
                ..case("and without an address on it there is no source", Hook::Ingress, Does::Drop, None)
            });
            lab.uplink(lab.up1, UP1, "203.0.113.1", "2001:db8:2::1");
        }
    });
}

#[test]
fn every_byte_that_is_not_addressed_stays() {
    with_lab(|lab| {
        lab.backend(1, (V4.remote, 8080), BACKEND_REMOTE);
        lab.frontend((V4.vip, 80), TCP, 0, &[1]);
        lab.frontend((V4.vip, 80), UDP, 0, &[1]);
        lab.backend(2, (V6.remote, 8080), BACKEND_REMOTE);
        lab.frontend((V6.vip, 80), TCP, 0, &[2]);
        let base = Segment::tcp((V4.client, 33000), (V4.vip, 80), 2);
        let base6 = Segment::tcp((V6.client, 33000), (V6.vip, 80), 2);
        lab.xdp(&base.bytes());
        lab.xdp(&base6.bytes());
        lab.xdp(&Segment { l4: L4::Udp, ..base.clone() }.bytes());
        let (p4, p6) = (request(lab, &V4, TCP).to.src_port, request(lab, &V6, TCP).to.src_port);
        let pu = request(lab, &V4, UDP).to.src_port;
        let hop_by_hop = vec![0, 0, 1, 4, 0, 0, 0, 0];
        let options = vec![60, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let routing = vec![43, 0, 4, 0, 0, 0, 0, 0];
        let cases = [
            ("DSCP and ECN are kept (S118)", Segment { tos: 0b1011_1011, ..base.clone() }, p4),
            ("DSCP and ECN are kept over IPv6 (S118)", Segment { tos: 0b1011_1011, ..base6.clone() }, p6),
            ("an identification is kept, and fragmenting allowed", Segment { id: 9999, df: false, ..base.clone() }, p4),
            ("IPv4 options are honoured", Segment { options: vec![1, 1, 1, 1, 1, 1, 1, 0], ..base.clone() }, p4),
            ("the longest header is honoured", Segment { options: vec![1; 40], ..base.clone() }, p4),
            ("data in a SYN stays (S115)", base.clone().carrying(&[0xab; 301]), p4),
            ("a packet without data", base.clone().carrying(b""), p4),
            ("a packet of full size", base.clone().carrying(&[0xcd; 1460]), p4),
            ("a UDP checksum of zero stays zero (S117, S126)", Segment { l4: L4::UdpUnchecked, ..base.clone() }, pu),
            (
                "a hop-by-hop header is skipped (S134)",
                Segment { extensions: vec![(0, hop_by_hop.clone())], ..base6.clone() },
                p6,
            ),
            (
                "three extension headers are skipped (S134)",
                Segment { extensions: vec![(0, hop_by_hop), (43, routing), (60, options)], ..base6 },
                p6,
            ),
        ];
        for (says, packet, port) in cases {
            let (node, remote) = if packet.dst.0.is_ipv4() { (V4.node, V4.remote) } else { (V6.node, V6.remote) };
            let there = packet.leaving((node, port), (remote, 8080), 63);
            for (hook, does, out) in [
                (Hook::Xdp, Does::Bounce, there.clone().with_macs(UP0, REMOTE)),
                (Hook::Ingress, Does::Redirect, there),
            ] {
                lab.check(&Case { says, hook, packet: packet.bytes(), does, out: Some(out.bytes()), reasons: &[] });
            }
        }
    });
}

#[test]
fn xdp_finishes_a_checksum_that_a_local_sender_left_open() {
    with_lab(|lab| {
        for (n, proto) in NETS.iter().flat_map(|n| [(n, TCP), (n, UDP)]) {
            lab.backend(1, (n.remote, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), proto, 0, &[1]);
            let open = opener(proto, (n.client, 33000), (n.vip, 80));
            lab.xdp(&open.bytes());
            let port = request(lab, n, proto).to.src_port;
            // Every bit of a length is summed by another piece of the loop, and the last byte alone.
            for len in (0..70).chain([255, 256, 511, 512, 513, 1023, 1279, 1400, 1433, 1440]) {
                let packet = open.clone().carrying(&vec![0x5a; len]);
                let out = packet.leaving((n.node, port), (n.remote, 8080), 63).with_macs(UP0, REMOTE);
                lab.check(&Case {
                    says: &format!("a partial checksum over {len} bytes is finished (S117)"),
                    hook: Hook::Xdp,
                    packet: partial(&packet),
                    does: Does::Bounce,
                    out: Some(out.bytes()),
                    reasons: &[],
                });
            }
        }
    });
}

#[test]
fn the_time_to_live_ends_here_once() {
    with_lab(|lab| {
        for n in &NETS {
            lab.backend(1, (n.remote, 8080), BACKEND_REMOTE);
            lab.backend(2, (n.pod, 8080), BACKEND_LOCAL);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            lab.frontend((n.vip, 81), TCP, 0, &[2]);
            for ttl in [0, 1] {
                let packet = Segment { ttl, ..Segment::tcp((n.client, 33000), (n.vip, 80), 2) }.bytes();
                for hook in [Hook::Xdp, Hook::Ingress] {
                    lab.check(&Case {
                        says: "a packet that may not be forwarded is not (S118)",
                        hook,
                        packet: packet.clone(),
                        does: Does::Drop,
                        out: None,
                        reasons: &[Reason::TtlExpired],
                    });
                }
            }
            let last = Segment { ttl: 1, ..Segment::tcp((n.client, 33000), (n.vip, 81), 2) };
            lab.check(&Case {
                says: "towards a pod here it is for the stack to judge",
                hook: Hook::Ingress,
                packet: last.bytes(),
                does: Does::Pass,
                out: Some(last.leaving((n.client, 33000), (n.pod, 8080), 1).bytes()),
                reasons: &[],
            });
        }
    });
}

#[test]
fn what_begins_no_flow_goes_to_the_node_that_announced_the_vip_before() {
    with_lab(|lab| {
        for n in &NETS {
            for (flags, at) in [(BACKEND_LOCAL, n.pod), (BACKEND_REMOTE, n.remote)] {
                lab.forget_flows();
                lab.backend(1, (at, 8080), flags);
                lab.frontend((n.vip, 80), TCP, 0, &[1]);
                lab.relayed_vip(n.vip, n.remote);
                let more = Segment::tcp((n.client, 33000), (n.vip, 80), 24);
                let case =
                    |says, hook, does, reasons| Case { says, hook, packet: more.bytes(), does, out: None, reasons };
                lab.check(&case("XDP leaves it to TC", Hook::Xdp, Does::Pass, &[]));
                lab.check(&case("TC sends it on as it is", Hook::Ingress, Does::Redirect, &[Reason::Relayed]));
                assert!(lab.conntrack().is_empty(), "{:?}", lab.conntrack());
                // Its first packet makes it ours.
                lab.ingress(&Segment::tcp((n.client, 33000), (n.vip, 80), 2).bytes());
                let output = lab.ingress(&more.bytes());
                assert_ne!(output.packet, more.bytes(), "{} is rewritten", n.vip);
                // Nobody else announced it: it is opened here, as ever.
                lab.forget_flows();
                lab.vip(n.vip, VIP_ANNOUNCE);
                lab.ingress(&more.bytes());
                assert_eq!(lab.conntrack().len(), 2);
            }
        }
    });
}
