//! Conntrack: which packets follow an entry, which make one, and when one is over.
use sluice_ebpf::*;
use sluice_tests::packets::*;

const FIN_ACK: u8 = 17;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const SECOND: u64 = 1_000_000_000;

/// A frontend on `vip`:80 whose two backends are in pods here, at ports 8081 and 8082.
fn two_pods(lab: &mut Lab, n: &Net, proto: u8, flags: u32) {
    lab.backend(1, (n.pod, 8081), BACKEND_LOCAL);
    lab.backend(2, (n.pod, 8082), BACKEND_LOCAL);
    let ids: Vec<u32> = (0..61).map(|i| 1 + i % 2).collect();
    lab.frontend((n.vip, 80), proto, flags, &ids);
}

/// Sends the packet through TC and returns the port of the backend it went to.
fn goes_to(lab: &mut Lab, s: &Segment) -> u16 {
    let out = lab.ingress(&s.bytes());
    assert_eq!(out.code, -1, "{s:?}: {:?}", lab.reasons());
    let at = s.l4_offset();
    u16::from_be_bytes([out.packet[at + 2], out.packet[at + 3]])
}

/// Gives a reply to the flow whose backend has this port.
fn replies(lab: &mut Lab, n: &Net, port: u16, flags: u8) {
    let l4 = L4::Tcp { flags, seq: 2000 - u32::from(flags & SYN) / 2, ack: 1001 };
    let reply = Segment { l4, ..Segment::tcp((n.pod, port), (n.client, 33000), flags) };
    let out = lab.egress(&reply.bytes());
    assert_eq!(out.packet, reply.leaving((n.vip, 80), (n.client, 33000), 64).bytes(), "a reply of the flow");
}

/// Leaves only the other backend in the table.
fn swap_table(lab: &mut Lab, n: &Net, proto: u8, was: u16) -> u16 {
    let (id, port) = if was == 8081 { (2, 8082) } else { (1, 8081) };
    lab.frontend((n.vip, 80), proto, 0, &[id]);
    port
}

#[test]
fn the_choice_outlives_the_table() {
    with_lab(|lab| {
        for n in &NETS {
            two_pods(lab, n, TCP, 0);
            let syn = Segment::tcp((n.client, 33000), (n.vip, 80), SYN);
            let first = goes_to(lab, &syn);
            let other = swap_table(lab, n, TCP, first);
            assert_eq!(goes_to(lab, &syn), first, "a SYN sent again keeps its backend (S112)");
            let data = Segment::tcp((n.client, 33000), (n.vip, 80), ACK);
            assert_eq!(goes_to(lab, &data), first, "a backend that left the table keeps its flows (S114)");
            let new = Segment::tcp((n.client, 33001), (n.vip, 80), SYN);
            assert_eq!(goes_to(lab, &new), other, "a new flow follows the new table (S113)");
        }
    });
}

#[test]
fn s112_a_syn_is_sent_again_to_a_backend_while_that_is_there_and_no_longer() {
    with_lab(|lab| {
        for n in &NETS {
            let syn = Segment::tcp((n.client, 33000), (n.vip, 80), SYN);
            let id = |port: u16| u32::from(port - 8080);
            for (says, answered, (left, forgotten), moves) in [
                ("it left the table and is still there", false, (false, false), false),
                ("it was forgotten and never answered", false, (false, true), true),
                ("it was forgotten, and has answered before", true, (false, true), false),
                ("it left the frontend, is another's, and never answered", false, (true, false), true),
                ("it left the frontend, is another's, and has answered before", true, (true, false), false),
            ] {
                lab.forget_flows();
                two_pods(lab, n, TCP, 0);
                let first = goes_to(lab, &syn);
                if answered {
                    replies(lab, n, first, SYN | ACK);
                }
                let other = swap_table(lab, n, TCP, first);
                if forgotten {
                    lab.hash::<u32, Backend>(map::BACKENDS).remove(&id(first)).expect("it was there");
                }
                if left {
                    let entry = lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("an entry");
                    let seat = |frontend| Seat { frontend, backend: id(first) };
                    lab.hash(map::LEFT).insert(seat(entry.frontend), SEAT_LEFT, 0).expect("insert a seat");
                    lab.hash(map::LEFT).insert(seat(entry.frontend + 1000), SEAT_LEFT, 0).expect("another frontend's");
                }
                let late = Segment::tcp((n.client, 33000), (n.vip, 80), ACK);
                assert_eq!(goes_to(lab, &late), first, "what is no SYN begins nothing: {says}");
                let want = if moves { other } else { first };
                assert_eq!(goes_to(lab, &syn), want, "{says}");
                assert_eq!(goes_to(lab, &late), want, "and the flow goes on there: {says}");
                let entry = lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("an entry");
                assert_eq!(entry.backend, id(want), "{says}");
            }
            lab.forget_flows();
            two_pods(lab, n, TCP, 0);
            let first = goes_to(lab, &syn);
            let other = swap_table(lab, n, TCP, first);
            lab.backend(id(first), (n.pod, 8083), BACKEND_LOCAL);
            assert_eq!(goes_to(lab, &syn), other, "another backend has its id by now");
            replies(lab, n, other, SYN | ACK);
            let answer = Segment::tcp((n.pod, first), (n.client, 33000), SYN | ACK);
            let says = "an answer that comes after all still has its entry, and the client refuses it";
            assert_eq!(
                lab.egress(&answer.bytes()).packet,
                answer.leaving((n.vip, 80), (n.client, 33000), 64).bytes(),
                "{says}"
            );
        }
    });
}

#[test]
fn s112_the_same_in_xdp_for_a_backend_on_another_node() {
    with_lab(|lab| {
        for n in &NETS {
            lab.forget_flows();
            lab.backend(1, (n.remote, 8080), BACKEND_REMOTE);
            lab.backend(2, (n.remote1, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            let syn = Segment::tcp((n.client, 33000), (n.vip, 80), SYN).bytes();
            let goes_to = |lab: &mut Lab| {
                assert!(matches!(lab.xdp(&syn).code, 3 | 4), "{:?}", lab.reasons());
                lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("an entry").to.dst
            };
            assert_eq!(goes_to(lab), addr(n.remote));
            lab.frontend((n.vip, 80), TCP, 0, &[2]);
            assert_eq!(goes_to(lab), addr(n.remote), "while it is there");
            lab.hash::<u32, Backend>(map::BACKENDS).remove(&1).expect("it was there");
            assert_eq!(goes_to(lab), addr(n.remote1), "and no longer");
        }
    });
}

#[test]
fn a_packet_without_an_entry_goes_where_its_flow_went() {
    with_lab(|lab| {
        for n in &NETS {
            two_pods(lab, n, TCP, 0);
            for port in 33000..33040 {
                let syn = Segment::tcp((n.client, port), (n.vip, 80), SYN);
                let first = goes_to(lab, &syn);
                lab.forget_flows();
                let data = Segment::tcp((n.client, port), (n.vip, 80), ACK);
                assert_eq!(goes_to(lab, &data), first, "the choice is the same without state (S110)");
                lab.forget_flows();
            }
        }
    });
}

#[test]
fn the_programs_choose_as_the_library_does() {
    with_lab(|lab| {
        for (n, proto) in NETS.iter().flat_map(|n| [(n, TCP), (n, UDP)]) {
            two_pods(lab, n, proto, 0);
            let f = Frontend { table_slots: 61, ..Default::default() };
            let mut seen = [0; 2];
            for port in (33000..33400).step_by(2) {
                let s = Segment {
                    l4: if proto == TCP { L4::Tcp { flags: SYN, seq: 1, ack: 0 } } else { L4::Udp },
                    ..Segment::udp((n.client, port), (n.vip, 80))
                };
                let tuple = Tuple { src: addr(n.client), dst: addr(n.vip), src_port: port, dst_port: 80 };
                let (chunk, i) = flow::table_position(&f, flow::hash(&tuple, proto)).expect("a table");
                let want = 8081 + ((chunk * CHUNK_SLOTS + i) % 2) as u16;
                assert_eq!(goes_to(lab, &s), want, "source port {port}");
                seen[usize::from(want - 8081)] += 1;
            }
            assert!(seen.iter().all(|n| *n > 60), "200 flows spread as {seen:?}");
        }
    });
}

#[test]
fn affinity_goes_by_the_clients_address_alone() {
    with_lab(|lab| {
        for n in &NETS {
            two_pods(lab, n, TCP, FRONTEND_AFFINITY);
            let mut ports: Vec<u16> =
                (33000..33050).map(|p| goes_to(lab, &Segment::tcp((n.client, p), (n.vip, 80), SYN))).collect();
            ports.dedup();
            assert_eq!(ports.len(), 1, "one client, one backend (S136)");
        }
    });
}

#[test]
fn a_syn_on_a_closed_flow_is_a_new_flow() {
    with_lab(|lab| {
        for n in &NETS {
            for (says, ends) in [
                ("after both sides ended it (S111, S115)", &[(true, FIN_ACK), (false, FIN_ACK)][..]),
                ("after the client reset it", &[(true, RST)]),
                ("after the backend reset it", &[(false, RST | ACK)]),
            ] {
                lab.forget_flows();
                two_pods(lab, n, TCP, 0);
                let syn = Segment::tcp((n.client, 33000), (n.vip, 80), SYN);
                let first = goes_to(lab, &syn);
                replies(lab, n, first, SYN | ACK);
                let other = swap_table(lab, n, TCP, first);
                for (client, flags) in ends {
                    assert_eq!(goes_to(lab, &syn), first, "not before it is over: {says}");
                    if *client {
                        assert_eq!(goes_to(lab, &Segment::tcp((n.client, 33000), (n.vip, 80), *flags)), first);
                    } else {
                        replies(lab, n, first, *flags);
                    }
                }
                let late = Segment::tcp((n.client, 33000), (n.vip, 80), ACK);
                assert_eq!(goes_to(lab, &late), first, "its last packets still follow it: {says}");
                assert_eq!(goes_to(lab, &syn), other, "{says}");
                let entry = lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("an entry");
                assert_eq!(entry.flags, 0, "the new flow begins afresh: {says}");
            }
        }
    });
}

#[test]
fn state_is_kept_on_both_entries() {
    with_lab(|lab| {
        for n in &NETS {
            two_pods(lab, n, TCP, 0);
            let port = goes_to(lab, &Segment::tcp((n.client, 33000), (n.vip, 80), SYN));
            let flags = |lab: &Lab| {
                let there = lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("a request entry");
                let back = lab.entry((n.pod, port), (n.client, 33000), TCP, CT_REPLY).expect("a reply entry");
                assert_eq!(there.flags, back.flags);
                there.flags
            };
            assert_eq!(flags(lab), 0);
            replies(lab, n, port, SYN | ACK);
            assert_eq!(flags(lab), CT_REPLIED);
            goes_to(lab, &Segment::tcp((n.client, 33000), (n.vip, 80), FIN_ACK));
            assert_eq!(flags(lab), CT_REPLIED | CT_FIN_CLIENT);
            replies(lab, n, port, FIN_ACK);
            assert_eq!(flags(lab), CT_REPLIED | CT_FIN_CLIENT | CT_FIN_BACKEND);
            replies(lab, n, port, RST);
            assert_eq!(flags(lab), CT_REPLIED | CT_FIN_CLIENT | CT_FIN_BACKEND | CT_RST);
        }
    });
}

#[test]
fn an_idle_flow_is_forgotten_when_both_directions_are_idle() {
    with_lab(|lab| {
        let n = &V4;
        for (says, replied, seconds, other_direction, kept) in [
            ("a TCP flow that nobody answered waits for a SYN that is sent again (F6)", false, 9, 9, true),
            ("and no longer", false, 11, 11, false),
            ("an established flow survives two hours of silence (S122)", true, 7_900, 7_900, true),
            ("and ends some time after", true, 8_010, 8_010, false),
            ("but not while the other direction is busy", true, 8_010, 5, true),
        ] {
            lab.forget_flows();
            two_pods(lab, n, TCP, 0);
            let syn = Segment::tcp((n.client, 33000), (n.vip, 80), SYN);
            let first = goes_to(lab, &syn);
            if replied {
                replies(lab, n, first, SYN | ACK);
                goes_to(lab, &Segment { l4: L4::Tcp { flags: ACK, seq: 1001, ack: 2000 }, ..syn });
            }
            let other = swap_table(lab, n, TCP, first);
            let t = now();
            lab.age(|k, e| {
                let age = if k.dir == CT_REQUEST { seconds } else { other_direction };
                // A machine that has just started wraps below zero, and the difference stays right.
                e.seen = t.wrapping_sub(age * SECOND);
            });
            let data = Segment::tcp((n.client, 33000), (n.vip, 80), ACK);
            assert_eq!(goes_to(lab, &data), if kept { first } else { other }, "{says}");
        }
    });
}

#[test]
fn a_busy_flow_is_refreshed_and_not_with_every_packet() {
    with_lab(|lab| {
        let n = &V4;
        two_pods(lab, n, TCP, 0);
        let data = Segment::tcp((n.client, 33000), (n.vip, 80), ACK);
        goes_to(lab, &data);
        let seen = |lab: &Lab| lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("an entry").seen;
        let recent = now() - CT_REFRESH_NS / 2;
        lab.age(|_, e| e.seen = recent);
        goes_to(lab, &data);
        assert_eq!(seen(lab), recent, "not yet");
        let stale = now() - 2 * CT_REFRESH_NS;
        lab.age(|_, e| e.seen = stale);
        goes_to(lab, &data);
        assert!(seen(lab) > stale + CT_REFRESH_NS, "refreshed");
    });
}

#[test]
fn one_client_port_to_two_vips_of_one_backend_is_two_flows() {
    with_lab(|lab| {
        for n in &NETS {
            lab.backend(1, (n.pod, 8080), BACKEND_LOCAL);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            lab.frontend((n.vip2, 80), TCP, 0, &[1]);
            let one = Segment::tcp((n.client, 33000), (n.vip, 80), SYN);
            let two = Segment::tcp((n.client, 33000), (n.vip2, 80), SYN);
            let first = lab.ingress(&one.bytes()).packet;
            let second = lab.ingress(&two.bytes()).packet;
            assert_eq!(first, one.leaving((n.client, 33000), (n.pod, 8080), 64).bytes());
            let entry = lab.entry((n.client, 33000), (n.vip2, 80), TCP, CT_REQUEST).expect("an entry");
            let port = entry.to.src_port;
            assert!((40_000..50_000).contains(&port), "the second flow has another port (S116): {port}");
            assert_eq!(second, two.leaving((n.client, port), (n.pod, 8080), 64).bytes());
            for (vip, port) in [(n.vip, 33000), (n.vip2, port)] {
                let reply = Segment::tcp((n.pod, 8080), (n.client, port), SYN | ACK);
                lab.check(&Case {
                    says: "each reply returns as the VIP that was asked (S116)",
                    hook: Hook::Egress,
                    packet: reply.bytes(),
                    does: Does::Pass,
                    out: Some(reply.leaving((vip, 80), (n.client, 33000), 64).bytes()),
                    reasons: &[],
                });
            }
        }
    });
}

#[test]
fn source_ports_are_not_shared_and_may_run_out() {
    with_lab(|lab| {
        for n in &NETS {
            lab.forget_flows();
            let f = Flow::frontend(lab, n, true);
            lab.settings(Settings { snat_first: 40_000, snat_last: 40_003, reject_rate: 1000, ..Settings::default() });
            let mut ports = Vec::new();
            for client in 33000..33004 {
                ports.push(Flow::open_from(lab, n, true, client).reply.1);
            }
            ports.sort_unstable();
            assert_eq!(ports, [40_000, 40_001, 40_002, 40_003]);
            let fifth = Segment::tcp((n.client, 33004), (n.vip, 80), SYN);
            for hook in [Hook::Xdp, Hook::Ingress] {
                lab.check(&Case {
                    says: "without a free port the flow is refused",
                    hook,
                    packet: fifth.bytes(),
                    does: Does::Drop,
                    out: None,
                    reasons: &[Reason::SnatExhausted],
                });
            }
            assert_eq!(lab.counters(f).dropped_packets, 2);
            assert_eq!(lab.conntrack().len(), 8, "a refused flow leaves nothing behind");
            // One of the four ends.
            lab.xdp(
                &Segment {
                    l4: L4::Tcp { flags: RST, seq: CLIENT, ack: 0 },
                    ..Segment::tcp((n.client, 33002), (n.vip, 80), RST)
                }
                .bytes(),
            );
            assert_eq!(lab.xdp(&fifth.bytes()).code, 3, "the port of a closed flow is taken");
            assert!(lab.entry((n.client, 33002), (n.vip, 80), TCP, CT_REQUEST).is_none(), "with its request entry");
            assert_eq!(lab.conntrack().len(), 8);
            lab.settings(Settings { snat_first: 40_000, snat_last: 49_999, reject_rate: 1000, ..Settings::default() });
        }
    });
}

#[test]
fn with_95_percent_of_the_ports_taken_a_new_flow_opens() {
    const PORTS: u16 = 2_000;
    with_lab(|lab| {
        let n = &NETS[0];
        lab.forget_flows();
        lab.backend(1, (n.remote, 8080), BACKEND_REMOTE);
        lab.frontend((n.vip, 80), TCP, 0, &[1]);
        let range = |last| Settings { snat_first: 40_000, snat_last: last, reject_rate: 1000, ..Settings::default() };
        // While few are taken every flow finds one.
        lab.settings(range(40_000 + PORTS - 1));
        let taken = PORTS / 20 * 19;
        // One that is proved, and others like it at the first ports of the range.
        Flow::open_from(lab, n, true, 33_000);
        let rows = lab.rows(map::CONNTRACK);
        let (key, entry) = *rows.iter().find(|(key, _)| key.dir == CT_REPLY).expect("its reply");
        for port in 0..taken {
            let tuple = Tuple { dst_port: 40_000 + port, ..key.tuple };
            let to = Tuple { dst_port: 1 + port, ..entry.to };
            lab.track(CtKey { tuple, ..key }, CtEntry { to, ..entry });
        }
        // One in 19,000 does not: of forty all, or chance has its day and it is one or two. With sixteen probes it was thirteen.
        let opened = (0..40).filter(|client| {
            let opens = lab.xdp(&Segment::tcp((n.client, 50_000 + client), (n.vip, 80), SYN).bytes()).code == 3;
            // The ports that are free stay as many.
            lab.forget(map::OPENING);
            opens
        });
        let opened = opened.count();
        assert!(opened >= 38, "{opened} of 40");
        lab.settings(range(49_999));
        lab.forget_flows();
    });
}

#[test]
fn an_empty_port_range_refuses_flows_that_need_one() {
    with_lab(|lab| {
        lab.backend(1, (V4.remote, 8080), BACKEND_REMOTE);
        lab.frontend((V4.vip, 80), TCP, 0, &[1]);
        for (first, last) in [(0, 0), (50_000, 40_000)] {
            lab.settings(Settings { snat_first: first, snat_last: last, reject_rate: 1000, ..Settings::default() });
            lab.check(&Case {
                says: "no range, no port",
                hook: Hook::Xdp,
                packet: Segment::tcp((V4.client, 33000), (V4.vip, 80), SYN).bytes(),
                does: Does::Drop,
                out: None,
                reasons: &[Reason::SnatExhausted],
            });
        }
    });
}

#[test]
fn a_direct_connection_to_the_pod_is_not_taken_for_an_old_flow() {
    with_lab(|lab| {
        let n = &V4;
        two_pods(lab, n, TCP, 0);
        let port = goes_to(lab, &Segment::tcp((n.client, 33000), (n.vip, 80), SYN));
        replies(lab, n, port, SYN | ACK);
        goes_to(lab, &Segment::tcp((n.client, 33000), (n.vip, 80), FIN_ACK));
        replies(lab, n, port, FIN_ACK);
        let direct = Segment::tcp((n.pod, port), (n.client, 33000), SYN | ACK);
        lab.check(&Case {
            says: "the pod's SYN-ACK to the same client port belongs to a connection that never saw the VIP",
            hook: Hook::Egress,
            packet: direct.bytes(),
            does: Does::Pass,
            out: None,
            reasons: &[],
        });
    });
}
