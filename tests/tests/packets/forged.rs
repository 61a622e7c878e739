//! Sources that nobody on the network can have, and source routes: dropped and counted where they are for us (issue 8, F10).
use sluice_ebpf::*;
use sluice_tests::packets::*;

const SYN: u8 = 2;

/// An address of the host that is on no uplink.
fn other_own(n: &Net) -> &'static str {
    if n.vip == V4.vip { "10.244.0.1" } else { "2001:db8:f::1" }
}

/// What the agent writes: the addresses of this host.
fn host(lab: &mut Lab) {
    for n in &NETS {
        for own in [n.node, n.node1, other_own(n)] {
            lab.hash(map::HOST).insert(addr(own), HOST_OWN, 0).expect("insert an address");
        }
    }
}

fn dropped<'a>(says: &'a str, hook: Hook, packet: &Segment) -> Case<'a> {
    Case { says, hook, packet: packet.bytes(), does: Does::Drop, out: None, reasons: &[Reason::SourceForged] }
}

#[test]
fn f10_a_source_that_is_a_vip_or_this_hosts_opens_no_flow() {
    with_lab(|lab| {
        host(lab);
        for (n, remote) in NETS.iter().flat_map(|n| [(n, false), (n, true)]) {
            let (to, flags) = if remote { (n.remote, BACKEND_REMOTE) } else { (n.pod, BACKEND_LOCAL) };
            lab.backend(1, (to, 8080), flags);
            lab.frontend((n.vip2, 80), TCP, 0, &[1]);
            let f = lab.frontend((n.vip, 80), TCP, 0, &[1]);
            lab.table((n.vip, 80), UDP, 0, &[1], f);
            for source in [n.vip2, n.node, n.node1, other_own(n)] {
                for packet in
                    [Segment::tcp((source, 33000), (n.vip, 80), SYN), Segment::udp((source, 33000), (n.vip, 80))]
                {
                    for hook in [Hook::Xdp, Hook::Ingress] {
                        lab.check(&dropped(source, hook, &packet));
                    }
                }
            }
            assert_eq!(lab.counters(f).dropped_packets, 16, "it is counted for the frontend");
            assert!(lab.conntrack().is_empty(), "and nothing is remembered");
            let hook = if remote { Hook::Xdp } else { Hook::Ingress };
            for (says, source) in [("a client", n.client), ("another node, whose address is a VIP", n.stranger)] {
                lab.forget_reasons();
                lab.vip(n.stranger, VIP_NODE | VIP_REJECT);
                lab.run(hook, &Segment::tcp((source, 33000), (n.vip, 80), SYN).bytes());
                assert_eq!(lab.reasons(), drop_reasons(&[]), "{says}");
                assert!(lab.entry((source, 33000), (n.vip, 80), TCP, CT_REQUEST).is_some(), "{says} is served");
            }
            lab.forget_flows();
        }
    });
}

#[test]
fn f10_nor_does_it_get_an_answer_or_the_proxy() {
    with_lab(|lab| {
        host(lab);
        for n in &NETS {
            lab.vip(n.vip2, 0);
            lab.frontend((n.vip, 443), TCP, FRONTEND_PROXY, &[]);
            let echo = if n.vip == V4.vip { 8 } else { 128 };
            for source in [n.vip2, n.node] {
                let unnamed = Segment::udp((source, 33000), (n.vip, 9));
                lab.check(&dropped("a port without a frontend is not denied", Hook::Ingress, &unnamed));
                let open = Segment::tcp((source, 33000), (n.vip, 443), SYN);
                lab.check(&dropped("the proxy gets no such connection", Hook::Ingress, &open));
                for hook in [Hook::Xdp, Hook::Ingress] {
                    lab.check(&dropped("nor is a ping answered", hook, &Segment::icmp(source, n.vip, echo, 0)));
                }
                for (says, packet) in [
                    ("what is not for us is none of our business", Segment::udp((source, 33000), (n.stranger, 9))),
                    ("a connection that the stack has goes on", Segment::tcp((n.client, 33000), (n.vip, 443), 16)),
                ] {
                    let packet = packet.bytes();
                    lab.check(&Case { says, hook: Hook::Ingress, packet, does: Does::Pass, out: None, reasons: &[] });
                }
            }
        }
    });
}

#[test]
fn f10_an_ipv4_source_route_is_dropped() {
    with_lab(|lab| {
        let n = &V4;
        lab.backend(1, (n.remote, 8080), BACKEND_REMOTE);
        lab.frontend((n.vip, 80), UDP, 0, &[1]);
        let with = |dst, options: &[u8]| {
            let mut options = options.to_vec();
            options.resize(options.len().next_multiple_of(4), 0);
            Segment { options, ..Segment::udp((n.client, 33000), (dst, 80)) }.bytes()
        };
        // Type, length, pointer, one hop.
        let route = |kind| vec![kind, 7, 4, 192, 0, 2, 77];
        let padded = |before: usize, kind| [vec![1; before], route(kind)].concat();
        let behind = |kind| [vec![148, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0], route(kind)].concat();
        for kind in [131, 137] {
            for options in [route(kind), padded(1, kind), padded(2, kind), padded(33, kind), behind(kind)] {
                for hook in [Hook::Xdp, Hook::Ingress] {
                    lab.check(&Case {
                        says: "a source route",
                        hook,
                        packet: with(n.vip, &options),
                        does: Does::Drop,
                        out: None,
                        reasons: &[Reason::SourceRoute],
                    });
                    lab.check(&Case {
                        says: "a source route to a stranger",
                        hook,
                        packet: with(n.stranger, &options),
                        does: Does::Pass,
                        out: None,
                        reasons: &[],
                    });
                }
            }
        }
        assert!(lab.conntrack().is_empty());
        let record = |kind: u8| vec![kind, 7, 4, 131, 137, 131, 137];
        for options in [vec![1; 40], record(7), record(68), vec![148, 4, 131, 137], [vec![0], route(131)].concat()] {
            lab.forget_reasons();
            assert_eq!(lab.xdp(&with(n.vip, &options)).code, 3, "other options are served: {options:?}");
            assert_eq!(lab.reasons(), drop_reasons(&[]), "{options:?}");
        }
    });
}
