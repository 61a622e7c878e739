//! Side interfaces (issue 8, B7): backends behind them get this node's address, their replies are found there, and nothing
//! else is touched. `up1` is one here.
use sluice_ebpf::*;
use sluice_tests::packets::*;

/// Makes `up1` no uplink, with these bits besides.
fn side(lab: &mut Lab, n: &Net, flags: u16) {
    let up1 = lab.up1;
    let mut row: Uplink = lab.hash::<u32, Uplink>(map::UPLINKS).get(&up1, 0).expect("an uplink");
    row.flags = UPLINK_SIDE | flags;
    // What the routing table says is taken before what is here.
    (row.v4, row.v6) = (addr(n.stranger), addr(n.stranger));
    lab.hash(map::UPLINKS).insert(up1, row, 0).expect("insert a side interface");
}

fn opener(proto: u8, n: &Net) -> Segment {
    let (from, to) = ((n.client, 33000), (n.vip, 80));
    if proto == TCP { Segment::tcp(from, to, 2) } else { Segment::udp(from, to) }
}

fn reply(proto: u8, from: (&str, u16), to: (&str, u16)) -> Segment {
    if proto == TCP { Segment::tcp(from, to, 18) } else { Segment::udp(from, to) }
}

/// The port that the flow of the only client has towards its backend.
fn port(lab: &Lab, n: &Net, proto: u8) -> u16 {
    lab.entry((n.client, 33000), (n.vip, 80), proto, CT_REQUEST).expect("a request entry").to.src_port
}

#[test]
fn b7_whoever_may_answer_by_another_way_gets_this_nodes_address() {
    with_lab(|lab| {
        for n in &NETS {
            for (what, side_flags, backend_flags, snat) in [
                ("a machine whose node nobody names", 0, 0, true),
                ("an endpoint of another node", 0, BACKEND_REMOTE, true),
                ("an endpoint of this node", 0, BACKEND_LOCAL, false),
                ("a guest whose node nobody names", UPLINK_GUESTS, 0, false),
                ("an endpoint of another node behind a bridge", UPLINK_GUESTS, BACKEND_REMOTE, true),
                ("a guest of this node", UPLINK_GUESTS, BACKEND_LOCAL, false),
            ] {
                side(lab, n, side_flags);
                lab.forget_flows();
                lab.backend(1, (n.remote1, 8080), backend_flags);
                lab.frontend((n.vip, 80), TCP, 0, &[1]);
                lab.ingress(&opener(TCP, n).bytes());
                let entry = lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("a request entry");
                assert_eq!(entry.flags & CT_SNAT != 0, snat, "{what}");
                let seen = if snat { n.node1 } else { n.client };
                assert_eq!(entry.to.src, addr(seen), "{what}");
            }
        }
    });
}

#[test]
fn b7_a_flow_goes_out_by_a_side_interface_and_its_replies_return_there() {
    with_lab(|lab| {
        for (n, proto) in NETS.iter().flat_map(|n| [(n, TCP), (n, UDP)]) {
            side(lab, n, 0);
            lab.forget_flows();
            lab.backend(1, (n.remote1, 8080), BACKEND_REMOTE);
            let f = lab.frontend((n.vip, 80), proto, 0, &[1]);
            let open = opener(proto, n);
            let case = |says, hook, packet: &Segment, does, out: Option<&Segment>| Case {
                says,
                hook,
                packet: packet.bytes(),
                does,
                out: out.map(Segment::bytes),
                reasons: &[],
            };
            lab.check(&case("XDP sends nothing out of what is no uplink", Hook::Xdp, &open, Does::Pass, None));
            let port = port(lab, n, proto);
            let there = open.leaving((n.node1, port), (n.remote1, 8080), 63);
            lab.check(&case("TC does", Hook::Ingress, &open, Does::Redirect, Some(&there)));
            let reply = reply(proto, (n.remote1, 8080), (n.node1, port)).with_macs(REMOTE1, UP1);
            let back = reply.leaving((n.vip, 80), (n.client, 33000), 63);
            lab.check(&case("the reply goes to the client", Hook::SideIn, &reply, Does::Redirect, Some(&back)));
            let counters = lab.counters(f);
            assert_eq!((counters.flows, counters.request_packets, counters.reply_packets), (1, 1, 1));
        }
    });
}

#[test]
fn b7_what_fits_the_way_goes_and_one_byte_more_does_not() {
    with_lab(|lab| {
        for n in &NETS {
            side(lab, n, 0);
            lab.forget_flows();
            lab.backend(1, (n.remote1, 8080), BACKEND_REMOTE);
            lab.frontend((n.vip, 80), UDP, 0, &[1]);
            lab.ingress(&opener(UDP, n).bytes());
            let header = if n.vip == V4.vip { 28 } else { 48 };
            // The MTU of `up1`.
            for (len, does, reasons) in [(1280, Does::Redirect, &[][..]), (1281, Does::Drop, &[Reason::TooBig])] {
                let packet = opener(UDP, n).carrying(&vec![7; len - header]);
                let out = packet.leaving((n.node1, port(lab, n, UDP)), (n.remote1, 8080), 63);
                let says = "a packet of an IP length, whatever its frame has room for";
                let (packet, out) = (packet.bytes(), Some(out.bytes()));
                lab.check(&Case { says, hook: Hook::Ingress, packet, does, out, reasons });
            }
        }
    });
}

#[test]
fn b7_nothing_else_that_comes_by_a_side_interface_is_touched() {
    with_lab(|lab| {
        for n in &NETS {
            side(lab, n, 0);
            lab.forget_flows();
            lab.backend(1, (n.pod, 8080), BACKEND_LOCAL);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            lab.vip(n.vip, VIP_ECHO | VIP_REJECT | VIP_ANNOUNCE);
            let echo = if n.vip == V4.vip { (8, 0) } else { (128, 0) };
            for (says, packet) in [
                ("a connection to a VIP", opener(TCP, n)),
                ("a port of a VIP that nobody has", Segment::tcp((n.client, 33000), (n.vip, 81), 2)),
                ("an echo of a VIP", Segment::icmp(n.client, n.vip, echo.0, echo.1)),
                ("a port that flows are given, without a flow", Segment::tcp((n.remote1, 8080), (n.node1, 40_001), 18)),
                ("whatever is not ours", Segment::udp((n.remote1, 53), (n.node1, 33333))),
            ] {
                let packet = packet.with_macs(REMOTE1, UP1).bytes();
                lab.check(&Case { says, hook: Hook::SideIn, packet, does: Does::Pass, out: None, reasons: &[] });
            }
            assert!(lab.conntrack().is_empty());
        }
        let question = ArpFrame::request((GATEWAY, "192.0.2.254"), V4.vip).bytes();
        let says = "a question for a VIP";
        lab.check(&Case { says, hook: Hook::SideIn, packet: question, does: Does::Pass, out: None, reasons: &[] });
    });
}

#[test]
fn b7_the_reply_of_a_pod_leaves_by_a_side_interface_as_the_vips() {
    with_lab(|lab| {
        for (n, proto) in NETS.iter().flat_map(|n| [(n, TCP), (n, UDP)]) {
            side(lab, n, 0);
            lab.forget_flows();
            lab.backend(1, (n.pod, 8080), BACKEND_LOCAL);
            lab.frontend((n.vip, 80), proto, 0, &[1]);
            lab.ingress(&opener(proto, n).bytes());
            let reply = reply(proto, (n.pod, 8080), (n.client, 33000));
            let back = reply.leaving((n.vip, 80), (n.client, 33000), 64);
            let case = |says, packet: &Segment, out: Option<&Segment>| Case {
                says,
                hook: Hook::SideOut,
                packet: packet.bytes(),
                does: Does::Pass,
                out: out.map(Segment::bytes),
                reasons: &[],
            };
            lab.check(&case("a reply", &reply, Some(&back)));
            let stranger = reply.leaving((n.pod, 8080), (n.client2, 33000), 64);
            lab.check(&case("the pod's own traffic", &stranger, None));
        }
    });
}

#[test]
fn b7_an_error_about_a_flow_is_told_whichever_interface_it_comes_by() {
    with_lab(|lab| {
        let n = &V4;
        side(lab, n, 0);
        lab.backend(1, (n.remote1, 8080), BACKEND_REMOTE);
        lab.frontend((n.vip, 80), TCP, 0, &[1]);
        let open = opener(TCP, n);
        lab.ingress(&open.bytes());
        let sent = open.leaving((n.node1, port(lab, n, TCP)), (n.remote1, 8080), 63);
        let quoting = |from: &str, to: &str, about: &Segment| {
            let what = Segment { l4: L4::Icmp(3, 3, [0; 4]), ..Segment::icmp(from, to, 3, 3) };
            what.carrying(&about.bytes()[14..42]).with_macs(REMOTE1, UP1)
        };
        let (come, go) = (quoting(n.remote1, n.node1, &sent), quoting(n.vip, n.client, &Segment { ttl: 63, ..open }));
        lab.check(&Case {
            says: "the backend's host refuses it",
            hook: Hook::SideIn,
            packet: come.bytes(),
            does: Does::Redirect,
            out: Some(Segment { ttl: 63, ..go }.bytes()),
            reasons: &[Reason::IcmpTranslated],
        });
    });
}
