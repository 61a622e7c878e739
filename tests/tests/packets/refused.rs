//! Packets that no backend gets: RST, ICMP unreachable, silence; and what limits the answers.
use sluice_ebpf::*;
use sluice_tests::packets::*;

const SYN: u8 = 2;

/// The answer as it leaves: from the VIP, back where it came from.
fn answer(to: &Segment, l4: L4, payload: &[u8]) -> Segment {
    Segment {
        macs: (to.macs.1, to.macs.0),
        src: to.dst,
        dst: to.src,
        l4,
        ttl: 64,
        tos: 0,
        id: 0,
        df: true,
        options: vec![0; to.options.len()],
        extensions: Vec::new(),
        payload: payload.to_vec(),
    }
}

/// ICMP port unreachable that quotes the packet.
fn unreachable(to: &Segment) -> Segment {
    let (kind, code) = if to.dst.0.is_ipv4() { (3, 3) } else { (1, 4) };
    let quote = &to.bytes()[14..];
    answer(to, L4::Icmp(kind, code, [0; 4]), &quote[..quote.len().min(128)])
}

fn refused<'a>(says: &'a str, packet: &Segment, out: &Segment, reasons: &'a [Reason]) -> Case<'a> {
    Case { says, hook: Hook::Ingress, packet: packet.bytes(), does: Does::Bounce, out: Some(out.bytes()), reasons }
}

fn dropped<'a>(says: &'a str, hook: Hook, packet: Vec<u8>, reasons: &'a [Reason]) -> Case<'a> {
    Case { says, hook, packet, does: Does::Drop, out: None, reasons }
}

#[test]
fn tcp_without_a_backend_is_reset() {
    with_lab(|lab| {
        for n in &NETS {
            let f = lab.frontend((n.vip, 80), TCP, 0, &[]);
            let before = lab.counters(f).dropped_packets;
            let segment = |flags, seq, ack, payload: &[u8]| {
                Segment { l4: L4::Tcp { flags, seq, ack }, ..Segment::tcp((n.client, 33000), (n.vip, 80), 0) }
                    .carrying(payload)
            };
            let rst = |flags, seq, ack| L4::Tcp { flags, seq, ack };
            let cases = [
                ("a SYN is acknowledged by the RST (S60)", segment(SYN, 1000, 0, b""), rst(20, 0, 1001)),
                ("data in a SYN is acknowledged too", segment(SYN, 1000, 0, b"hello"), rst(20, 0, 1006)),
                ("a sequence number wraps", segment(SYN, u32::MAX, 0, b""), rst(20, 0, 0)),
                ("a segment with ACK gets its number back", segment(16, 5, 777, b"data"), rst(4, 777, 0)),
                ("a FIN without ACK counts as a byte", segment(1, 50, 0, b"abc"), rst(20, 0, 54)),
            ];
            for (says, packet, l4) in &cases {
                let mut out = answer(packet, l4.clone(), b"");
                // The window of a reset is nothing.
                let mut bytes = out.bytes();
                let at = out.l4_offset();
                bytes[at + 14..at + 16].fill(0);
                let sum = u16::from_be_bytes([bytes[at + 16], bytes[at + 17]]);
                let (sum, carry) = sum.overflowing_add(4096);
                bytes[at + 16..at + 18].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
                out.payload.clear();
                lab.check(&Case {
                    says,
                    hook: Hook::Ingress,
                    packet: packet.bytes(),
                    does: Does::Bounce,
                    out: Some(bytes),
                    reasons: &[Reason::NoBackend],
                });
                lab.check(&Case {
                    says: "XDP leaves the answer to TC",
                    hook: Hook::Xdp,
                    packet: packet.bytes(),
                    does: Does::Pass,
                    out: None,
                    reasons: &[],
                });
            }
            let reset = segment(4, 1000, 0, b"").bytes();
            lab.check(&dropped("an RST is never answered", Hook::Ingress, reset, &[Reason::NoBackend]));
            assert_eq!(lab.counters(f).dropped_packets - before, 6);
            assert!(lab.conntrack().is_empty(), "a refused flow leaves no entry (S64)");
        }
    });
}

#[test]
fn udp_without_a_backend_is_unreachable() {
    with_lab(|lab| {
        for n in &NETS {
            lab.frontend((n.vip, 53), UDP, 0, &[]);
            for len in [0, 1, 6, 63, 64, 65, 80, 81, 92, 93, 100, 101, 500, 1400] {
                let packet = Segment::udp((n.client, 33000), (n.vip, 53)).carrying(&vec![0x77; len]);
                let says = format!("a datagram of {len} bytes is quoted (S60)");
                lab.check(&refused(&says, &packet, &unreachable(&packet), &[Reason::NoBackend]));
            }
        }
        let options = Segment { options: vec![1; 12], ..Segment::udp((V4.client, 33000), (V4.vip, 53)) };
        lab.check(&refused(
            "options are quoted and not copied",
            &options,
            &unreachable(&options),
            &[Reason::NoBackend],
        ));
        let zero = Segment { l4: L4::UdpUnchecked, ..Segment::udp((V4.client, 33000), (V4.vip, 53)) };
        lab.check(&refused("nor does it need a checksum", &zero, &unreachable(&zero), &[Reason::NoBackend]));
        let padded = Segment::udp((V4.client, 33000), (V4.vip, 53)).carrying(b"x");
        lab.check(&Case {
            packet: lengthen(padded.bytes(), 60),
            ..refused("padding is not quoted", &padded, &unreachable(&padded), &[Reason::NoBackend])
        });
        let extensions = vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0])];
        let behind = Segment { extensions, ..Segment::udp((V6.client, 33000), (V6.vip, 53)) };
        let says = "behind extension headers nothing is answered";
        lab.check(&dropped(says, Hook::Ingress, behind.bytes(), &[Reason::NoBackend]));
    });
}

#[test]
fn a_port_without_a_frontend_is_refused_on_an_owned_address_only() {
    with_lab(|lab| {
        for n in &NETS {
            lab.vip(n.vip, VIP_ECHO | VIP_REJECT);
            lab.vip(n.vip2, 0);
            let udp = Segment::udp((n.client, 33000), (n.vip, 9));
            lab.check(&refused(
                "an unknown port of a VIP is refused (S63)",
                &udp,
                &unreachable(&udp),
                &[Reason::NoFrontend],
            ));
            for (says, dst) in [("a VIP that does not reject", n.vip2), ("a stranger", n.stranger)] {
                for hook in [Hook::Xdp, Hook::Ingress, Hook::Egress] {
                    for s in [Segment::udp((n.client, 1), (dst, 9)), Segment::tcp((n.client, 1), (dst, 9), SYN)] {
                        let packet = s.bytes();
                        lab.check(&Case { says, hook, packet, does: Does::Pass, out: None, reasons: &[] });
                    }
                }
            }
        }
    });
}

#[test]
fn backends_elsewhere_are_not_denied() {
    with_lab(|lab| {
        for n in &NETS {
            let f = lab.frontend((n.vip, 80), TCP, FRONTEND_DROP, &[]);
            let packet = Segment::tcp((n.client, 33000), (n.vip, 80), SYN).bytes();
            for hook in [Hook::Xdp, Hook::Ingress] {
                let says = "with backends on other nodes only, the packet is dropped in silence (S52, S61)";
                lab.check(&dropped(says, hook, packet.clone(), &[Reason::NoLocalBackend]));
            }
            assert_eq!(lab.counters(f).dropped_packets, 2);
        }
    });
}

#[test]
fn the_first_packet_after_a_backend_appears_succeeds() {
    with_lab(|lab| {
        for n in &NETS {
            lab.frontend((n.vip, 53), UDP, 0, &[]);
            let packet = Segment::udp((n.client, 33000), (n.vip, 53));
            assert_eq!(lab.ingress(&packet.bytes()).code, 7, "refused");
            lab.backend(1, (n.pod, 53), BACKEND_LOCAL);
            lab.frontend((n.vip, 53), UDP, 0, &[1]);
            lab.check(&Case {
                says: "a refusal is not remembered (S64)",
                hook: Hook::Ingress,
                packet: packet.bytes(),
                does: Does::Pass,
                out: Some(packet.leaving((n.client, 33000), (n.pod, 53), 64).bytes()),
                reasons: &[],
            });
        }
    });
}

#[test]
fn answers_are_limited() {
    with_lab(|lab| {
        lab.frontend((V4.vip, 80), TCP, 0, &[]);
        lab.settings(Settings { snat_first: 40_000, snat_last: 49_999, reject_rate: 1, ..Settings::default() });
        let syn = Segment::tcp((V4.client, 33000), (V4.vip, 80), SYN).bytes();
        let answered = (0..50).filter(|_| lab.ingress(&syn).code == 7).count() as u64;
        // One for each CPU and second.
        let most = 2 * aya::util::nr_cpus().expect("CPUs") as u64;
        assert!((1..=most).contains(&answered), "{answered} of 50 answered (S65)");
        let reasons = lab.reasons();
        assert_eq!(reasons.get("no_backend").copied().unwrap_or(0), answered);
        assert_eq!(reasons["reject_limited"], 50 - answered);
        lab.settings(Settings { snat_first: 40_000, snat_last: 49_999, reject_rate: 0, ..Settings::default() });
        lab.check(&dropped("a rate of nothing answers nothing", Hook::Ingress, syn, &[Reason::RejectLimited]));
    });
}

#[test]
fn what_contradicts_itself_is_dropped() {
    with_lab(|lab| {
        for n in &NETS {
            lab.frontend((n.vip, 80), TCP, 0, &[9]);
            lab.backend(2, (n.vip2, 80), BACKEND_REMOTE);
            lab.frontend((n.vip2, 80), TCP, 0, &[9]);
            lab.frontend((n.vip, 81), TCP, 0, &[2]);
            let unroutable = if n.vip == V4.vip { "192.0.2.66" } else { "2001:db8:dead::1" };
            lab.backend(3, (unroutable, 80), BACKEND_REMOTE);
            lab.frontend((n.vip, 82), TCP, 0, &[3]);
            let syn = |src: &str, port| Segment::tcp((src, 33000), (n.vip, port), SYN).bytes();
            let v4 = n.vip == V4.vip;
            let cases = [
                ("a table that names a missing backend", syn(n.client, 80), Reason::BackendMissing),
                ("a backend that is a frontend is a loop (S36)", syn(n.client, 81), Reason::Loop),
                ("a land attack (S118)", syn(n.vip, 80), Reason::Malformed),
                ("a land attack on a port without a frontend", syn(n.vip, 7), Reason::Malformed),
                ("a martian source (S118)", syn(if v4 { "127.0.0.1" } else { "::1" }, 80), Reason::Malformed),
                ("a multicast source", syn(if v4 { "224.0.0.5" } else { "ff02::5" }, 80), Reason::Malformed),
                ("no source", syn(if v4 { "0.0.0.0" } else { "::" }, 7), Reason::Malformed),
            ];
            for (says, packet, reason) in cases {
                lab.check(&dropped(says, Hook::Ingress, packet, &[reason]));
            }
            // What listens at an address of a node, whose other ports are frontends (B2).
            lab.vip(n.node, VIP_HOST);
            lab.backend(4, (n.node, 8088), BACKEND_LOCAL);
            lab.frontend((n.vip, 83), TCP, 0, &[4]);
            let to = Segment::tcp((n.client, 33000), (n.vip, 83), SYN).bytes();
            assert_eq!(lab.ingress(&to).code, -1, "{:?}", lab.reasons());
            let entry = lab.entry((n.client, 33000), (n.vip, 83), TCP, CT_REQUEST).expect("an entry");
            assert_eq!((entry.to.dst, entry.to.dst_port), (addr(n.node), 8088), "no loop: no frontend has that port");
            lab.forget_reasons();
            if v4 {
                let packet = syn(n.client, 82);
                let says = "a backend without a route";
                lab.check(&dropped(says, Hook::Ingress, packet.clone(), &[Reason::NoRoute]));
                lab.check(&Case { says, hook: Hook::Xdp, packet, does: Does::Pass, out: None, reasons: &[] });
            }
        }
    });
}

#[test]
fn what_does_not_fit_is_dropped_and_counted() {
    with_lab(|lab| {
        for n in &NETS {
            lab.backend(1, (n.remote1, 80), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            let large = Segment::tcp((n.client, 33000), (n.vip, 80), 16).carrying(&[1; 1300]);
            lab.check(&Case {
                says: "XDP leaves to TC what is too large for the other uplink",
                hook: Hook::Xdp,
                packet: large.bytes(),
                does: Does::Pass,
                out: None,
                reasons: &[],
            });
            lab.check(&dropped("and TC drops it", Hook::Ingress, large.bytes(), &[Reason::TooBig]));
        }
    });
}

#[test]
fn the_proxys_frontends_are_passed() {
    with_lab(|lab| {
        for n in &NETS {
            lab.backend(1, (n.remote, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 443), TCP, FRONTEND_PROXY, &[1]);
            for hook in [Hook::Xdp, Hook::Ingress] {
                lab.check(&Case {
                    says: "a layer 7 frontend's packets go to the host's stack (S153)",
                    hook,
                    packet: Segment::tcp((n.client, 33000), (n.vip, 443), SYN).bytes(),
                    does: Does::Pass,
                    out: None,
                    reasons: &[],
                });
            }
        }
    });
}
