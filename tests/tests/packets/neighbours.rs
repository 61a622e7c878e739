//! ARP and neighbour discovery: who is answered, how, and who is not.
use sluice_ebpf::*;
use sluice_tests::packets::*;

/// A host on the network of `up0`.
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x4d];
/// Its link-local address.
const LINK_LOCAL: &str = "fe80::ff:fe00:4d";
const ALL_NODES: (&str, [u8; 6]) = ("ff02::1", [0x33, 0x33, 0, 0, 0, 1]);
/// Flags of an advertisement.
const SOLICITED_OVERRIDE: u8 = 0x60;
const OVERRIDE: u8 = 0x20;

fn announced(lab: &mut Lab) {
    // `HOST` is another node.
    lab.hash(map::PEERS).insert(neighbour::peer(&neighbour::mac(HOST)), PEER_KNOWN, 0).expect("insert a peer");
    for n in &NETS {
        lab.vip(n.vip, VIP_ECHO | VIP_REJECT | VIP_ANNOUNCE);
        lab.vip(n.vip2, VIP_ECHO | VIP_REJECT | VIP_PROXY);
    }
}

fn answered<'a>(says: &'a str, packet: Vec<u8>, out: Vec<u8>, reasons: &'a [Reason]) -> Case<'a> {
    Case { says, hook: Hook::Ingress, packet, does: Does::Bounce, out: Some(out), reasons }
}

fn passed(says: &str, packet: Vec<u8>) -> Case<'_> {
    Case { says, hook: Hook::Ingress, packet, does: Does::Pass, out: None, reasons: &[] }
}

/// The same, and it is counted that another host has the VIP.
fn overheard(says: &str, packet: Vec<u8>) -> Case<'_> {
    Case { reasons: &[Reason::AnnouncedElsewhere], ..passed(says, packet) }
}

fn dropped<'a>(says: &'a str, packet: Vec<u8>, reasons: &'a [Reason]) -> Case<'a> {
    Case { says, hook: Hook::Ingress, packet, does: Does::Drop, out: None, reasons }
}

/// A host asks for an address of the other family's `Net`.
fn ask(target: &'static str) -> ArpFrame {
    ArpFrame::request((HOST, V4.stranger), target)
}

fn answer(request: &ArpFrame) -> Vec<u8> {
    let macs = (UP0, request.sender.0);
    ArpFrame { macs, op: 2, sender: (UP0, request.target.1), target: request.sender }.bytes()
}

#[test]
fn arp_for_an_announced_vip_is_answered_with_the_uplinks_address() {
    with_lab(|lab| {
        announced(lab);
        let asked = ask(V4.vip);
        let probe = ArpFrame { sender: (HOST, "0.0.0.0"), ..asked.clone() };
        let unicast = ArpFrame { macs: (HOST, UP0), target: (UP0, V4.vip), ..asked.clone() };
        for (says, request) in [
            ("a host asks everybody", asked),
            ("a host that is about to take the address asks (S105, RFC 5227)", probe),
            ("a host makes sure that the one it knows still has the address", unicast),
        ] {
            lab.check(&answered(says, request.bytes(), answer(&request), &[Reason::ArpAnswered]));
            let padded = lengthen(request.bytes(), 60);
            let out = lengthen(answer(&request), 60);
            lab.check(&answered(says, padded, out, &[Reason::ArpAnswered]));
        }
    });
}

#[test]
fn arp_that_is_not_ours_to_answer() {
    with_lab(|lab| {
        announced(lab);
        let not_here = &[Reason::NotAnnounced];
        lab.check(&dropped("another node answers, and the host must not (S105)", ask(V4.vip2).bytes(), not_here));
        for (says, target) in [("the node's own address", V4.node), ("a stranger's", V4.stranger), ("a pod's", V4.pod)]
        {
            lab.check(&passed(says, ask(target).bytes()));
        }
        lab.vip(V4.node, VIP_HOST | VIP_PROXY);
        lab.check(&passed("the host answers for its own address, VIP or not", ask(V4.node).bytes()));
        lab.vip(V4.node, VIP_HOST | VIP_ANNOUNCE);
        lab.check(&passed("the host answers for its own address, announced or not", ask(V4.node).bytes()));
        let asked = ask(V4.vip);
        let reply = ArpFrame { macs: (HOST, UP0), op: 2, sender: (HOST, V4.vip), target: (UP0, V4.node) };
        lab.check(&overheard("an answer is for who asked", reply.bytes()));
        for op in [1, 2] {
            let other = ArpFrame { op, sender: (HOST, V4.vip), ..asked.clone() };
            lab.check(&overheard("another node announces the VIP", other.bytes()));
        }
        let tagged = [&asked.bytes()[..12], &[0x81, 0, 0, 5], &asked.bytes()[12..]].concat();
        let code = lab.ingress(&tagged).code;
        assert_eq!(code, -1, "a question on a VLAN is another interface's (S104)");
        for len in 14..asked.bytes().len() {
            lab.check(&passed("a message that is cut off", asked.bytes()[..len].to_vec()));
        }
        for (at, byte) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 3), (21, 0)] {
            let mut other = asked.bytes();
            other[at] = byte;
            lab.check(&passed("another network, another operation", other));
        }
    });
}

#[test]
fn arp_that_no_host_sends_is_dropped() {
    with_lab(|lab| {
        announced(lab);
        let asked = ask(V4.vip);
        for mac in [[0; 6], [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]] {
            let bad = ArpFrame { sender: (mac, V4.stranger), ..asked.clone() };
            lab.check(&dropped("the sender's Ethernet address is none", bad.bytes(), &[Reason::Malformed]));
        }
        for ip in ["127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.1"] {
            let bad = ArpFrame { sender: (HOST, ip), ..asked.clone() };
            lab.check(&dropped("the sender's address is none", bad.bytes(), &[Reason::Malformed]));
        }
    });
}

#[test]
fn an_uplink_without_an_ethernet_address_leaves_the_question_to_the_host() {
    with_lab(|lab| {
        announced(lab);
        lab.uplink(lab.up0, [0; 6], V4.node, V6.node);
        lab.check(&passed("ARP", ask(V4.vip).bytes()));
        lab.check(&passed("neighbour discovery", solicitation(V6.vip).bytes()));
    });
}

/// A host asks the group of `target`.
fn solicitation(target: &str) -> Segment {
    let (group, mac) = solicited(target);
    discovery(135, 0, (V6.stranger, HOST), (&group, mac), target, &link_layer(1, HOST))
}

/// What answers a host.
fn advertisement(src: &str, to: (&str, [u8; 6]), flags: u8) -> Vec<u8> {
    discovery(136, flags, (src, UP0), to, src, &link_layer(2, UP0)).bytes()
}

#[test]
fn a_solicitation_for_an_announced_vip_is_answered() {
    with_lab(|lab| {
        announced(lab);
        let (vip, nd) = (V6.vip, &[Reason::NdAnswered]);
        let (group, group_mac) = solicited(vip);
        let to_group = (group.as_str(), group_mac);
        let own = link_layer(1, HOST);
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        for from in [V6.stranger, LINK_LOCAL] {
            let out = advertisement(vip, (from, HOST), SOLICITED_OVERRIDE);
            let host = (from, HOST);
            for (says, to, options) in [
                ("a host asks the group (S106)", to_group, own.clone()),
                ("a host asks the one that it knows (NUD, S106)", (vip, UP0), own.clone()),
                ("such a question needs no option", (vip, UP0), Vec::new()),
                ("a question to the group, sent to one address", (group.as_str(), UP0), own.clone()),
                ("options that are not known", to_group, [&nonce[..], &own, &[200, 3], &[7; 22]].concat()),
                ("as many options as there is room for", to_group, nonce.repeat(13)),
            ] {
                let question = discovery(135, 0, host, to, vip, &options);
                lab.check(&answered(says, question.bytes(), out.clone(), nd));
                let padded = lengthen(question.bytes(), 150);
                lab.check(&answered(says, padded, out.clone(), nd));
            }
        }
        let told = advertisement(vip, ALL_NODES, OVERRIDE);
        for options in [&[][..], &nonce] {
            let question = discovery(135, 0, ("::", HOST), to_group, vip, options);
            let says = "who is about to take the address is told, with everybody (duplicate address detection)";
            lab.check(&answered(says, question.bytes(), told.clone(), nd));
        }
    });
}

#[test]
fn a_solicitation_that_is_not_ours_to_answer() {
    with_lab(|lab| {
        announced(lab);
        let host = (V6.stranger, HOST);
        let own = link_layer(1, HOST);
        let not_here = &[Reason::NotAnnounced];
        lab.check(&dropped("another node answers", solicitation(V6.vip2).bytes(), not_here));
        let unicast = discovery(135, 0, host, (V6.vip2, UP0), V6.vip2, &own);
        lab.check(&dropped("another node answers", unicast.bytes(), not_here));
        for (says, target) in [("the node's own", V6.node), ("a stranger's", V6.remote), ("link-local", LINK_LOCAL)] {
            lab.check(&passed(says, solicitation(target).bytes()));
            lab.check(&passed(says, discovery(135, 0, host, (target, UP0), target, &own).bytes()));
        }
        lab.vip(V6.node, VIP_HOST | VIP_ANNOUNCE);
        let says = "the host answers for its own address";
        lab.check(&passed(says, solicitation(V6.node).bytes()));
        lab.check(&passed(says, discovery(135, 0, host, (V6.node, UP0), V6.node, &own).bytes()));
        let (group, mac) = solicited(V6.vip);
        let advert = discovery(136, OVERRIDE, (V6.vip, HOST), ALL_NODES, V6.vip, &link_layer(2, HOST));
        lab.check(&overheard("another node announces the VIP", advert.bytes()));
        let routed = Segment { ttl: 254, ..advert };
        lab.check(&passed("it came through a router", routed.bytes()));
        let mine = discovery(136, OVERRIDE, (V6.vip, UP0), ALL_NODES, V6.vip, &link_layer(2, UP0));
        lab.check(&passed("it is our own", mine.bytes()));
        let foreign = discovery(136, OVERRIDE, (V6.vip2, HOST), ALL_NODES, V6.vip2, &link_layer(2, HOST));
        lab.check(&passed("the VIP is not announced here", foreign.bytes()));
        // An IPv4 VIP is in the map of VIPs as well.
        let mapped = format!("::ffff:{}", V4.vip);
        let (mapped_group, mapped_mac) = solicited(&mapped);
        let question = discovery(135, 0, host, (&mapped_group, mapped_mac), &mapped, &own);
        lab.check(&passed("no IPv4 address is asked for like this", question.bytes()));
        let behind = Segment { extensions: vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])], ..solicitation(V6.vip) };
        lab.check(&passed("a question behind an extension header", behind.bytes()));
        let whole = discovery(135, 0, host, (&group, mac), V6.vip, &own).bytes();
        // The kernel takes no shorter one for a test.
        for len in 54..78 {
            lab.check(&passed("a question that is cut off before its target ends", whole[..len].to_vec()));
        }
    });
}

#[test]
fn a_solicitation_that_no_host_sends_is_dropped() {
    with_lab(|lab| {
        announced(lab);
        let (vip, host, own) = (V6.vip, (V6.stranger, HOST), link_layer(1, HOST));
        let (group, mac) = solicited(vip);
        let to = (group.as_str(), mac);
        let good = solicitation(vip);
        let with = |options: &[u8]| discovery(135, 0, host, to, vip, options);
        let from = |src: &str, src_mac, options: &[u8]| discovery(135, 0, (src, src_mac), to, vip, options);
        let all_nodes = discovery(135, 0, ("::", HOST), ALL_NODES, vip, &[]);
        let [.., fewer] = [&[1, 0, 2, 0, 0, 0, 0, 0x4d][..], &own[..7]];
        for (says, bad) in [
            ("it came through a router", Segment { ttl: 254, ..good.clone() }),
            ("a code", Segment { l4: L4::Icmp(135, 1, [0; 4]), ..good.clone() }),
            ("an option without a length", with(&[1, 0, 2, 0, 0, 0, 0, 0x4d])),
            ("an option that is cut off", with(fewer)),
            ("an option that is longer than the message", with(&[1, 2, 2, 0, 0, 0, 0, 0x4d])),
            ("half an option more", with(&[&own[..], &[14]].concat())),
            ("a message that is too long", with(&own.repeat(14))),
            ("no sender, but its Ethernet address", from("::", HOST, &own)),
            ("no sender, and not to the group", all_nodes),
            ("the VIP asks for itself", from(vip, HOST, &own)),
            ("a sender that is a group", from("ff02::1", HOST, &own)),
            ("the loopback asks", from("::1", HOST, &own)),
            ("a frame from a group", from(V6.stranger, [0x33, 0x33, 0, 0, 0, 1], &own)),
        ] {
            lab.check(&dropped(says, bad.bytes(), &[Reason::Malformed]));
        }
        let bytes = good.bytes();
        for len in 78..bytes.len() {
            lab.check(&dropped("options that are not there", bytes[..len].to_vec(), &[Reason::Malformed]));
        }
        for bit in 0..16 {
            let mut bad = bytes.clone();
            bad[56 + bit / 8] ^= 1 << (bit % 8);
            lab.check(&dropped("a checksum that is wrong", bad, &[Reason::Malformed]));
        }
    });
}

#[test]
fn xdp_passes_what_tc_answers() {
    with_lab(|lab| {
        announced(lab);
        let unicast = discovery(135, 0, (V6.stranger, HOST), (V6.vip, UP0), V6.vip, &link_layer(1, HOST));
        for (says, packet) in [
            ("ARP", ask(V4.vip).bytes()),
            ("a question to the group", solicitation(V6.vip).bytes()),
            ("a question to the VIP itself", unicast.bytes()),
        ] {
            lab.check(&Case { says, hook: Hook::Xdp, packet, does: Does::Pass, out: None, reasons: &[] });
        }
    });
}

#[test]
fn a_node_that_may_no_longer_announce_falls_silent_by_itself() {
    with_lab(|lab| {
        announced(lab);
        const SECOND: u64 = 1_000_000_000;
        let until = |lab: &mut Lab, announce_until| lab.settings(Settings { announce_until, ..Settings::default() });
        for (announce_until, is_answered) in [(now() + 600 * SECOND, true), (now() - SECOND, false), (0, false)] {
            until(lab, announce_until);
            for (packet, reason) in
                [(ask(V4.vip).bytes(), Reason::ArpAnswered), (solicitation(V6.vip).bytes(), Reason::NdAnswered)]
            {
                lab.forget_reasons();
                let (code, want) = if is_answered { (7, reason) } else { (2, Reason::NotAnnounced) };
                assert_eq!(lab.ingress(&packet).code, code, "whoever takes over is the only one to answer (S99)");
                assert_eq!(lab.reasons(), drop_reasons(&[want]));
            }
        }
    });
}

#[test]
fn this_host_asks_in_its_own_name() {
    with_lab(|lab| {
        announced(lab);
        let asks = |sender| ArpFrame { macs: (UP0, [0xff; 6]), sender: (UP0, sender), ..ask(V4.stranger) };
        let case = |says, sender, out: Option<&'static str>| Case {
            says,
            hook: Hook::Egress,
            packet: asks(sender).bytes(),
            does: Does::Pass,
            out: out.map(|sender| asks(sender).bytes()),
            reasons: &[],
        };
        lab.check(&case("a VIP that another node announces is replaced", V4.vip2, Some(V4.node)));
        lab.check(&case("one that is announced here stays", V4.vip, None));
        lab.check(&case("so does the node's own", V4.node, None));
        lab.uplink(lab.up0, UP0, V4.node, V6.node);
        let gratuitous = ArpFrame { target: ([0; 6], V4.vip2), ..asks(V4.vip2) }.bytes();
        let says = "who announces on purpose is let";
        lab.check(&Case { says, hook: Hook::Egress, packet: gratuitous, does: Does::Pass, out: None, reasons: &[] });
        let up0 = lab.up0;
        lab.hash(map::UPLINKS).insert(up0, Uplink { mac: UP0, ..Uplink::default() }, 0).expect("an uplink");
        let packet = asks(V4.vip2).bytes();
        let reasons = &[Reason::NoSource];
        let says = "without an address of its own it does not ask";
        lab.check(&Case { says, hook: Hook::Egress, packet, does: Does::Drop, out: None, reasons });
    });
}

#[test]
fn of_the_hosts_own_address_we_own_the_frontends_alone() {
    with_lab(|lab| {
        for n in &NETS {
            lab.vip(n.node, VIP_HOST);
            let hop = |p: Segment| p.bytes();
            let (echo, error) = if n.vip == V4.vip { (8, 3) } else { (128, 1) };
            for hook in [Hook::Xdp, Hook::Ingress] {
                for (says, packet) in [
                    ("a port without a frontend", hop(Segment::tcp((n.client, 33000), (n.node, 22), 2))),
                    ("the same by UDP", hop(Segment::udp((n.client, 33000), (n.node, 53)))),
                    ("an echo request", hop(Segment::icmp(n.client, n.node, echo, 0))),
                    ("an ICMP error", hop(Segment::icmp(n.client, n.node, error, 0))),
                    (
                        "another protocol",
                        hop(Segment { l4: L4::Other(47), ..Segment::udp((n.client, 0), (n.node, 0)) }),
                    ),
                ] {
                    lab.check(&Case { says, hook, packet, does: Does::Pass, out: None, reasons: &[] });
                }
            }
        }
    });
}

#[test]
fn b8_a_host_that_asks_for_an_address_while_this_node_does_is_heard() {
    with_lab(|lab| {
        // `HOST` is another node; the other one is none.
        const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x5e];
        announced(lab);
        let (heard, not_here) = (&[Reason::AnnouncedElsewhere, Reason::NotAnnounced][..], &[Reason::NotAnnounced][..]);
        for n in &NETS {
            lab.vip(n.vip, VIP_ECHO | VIP_REJECT | VIP_PROBE);
        }
        let (group, mac) = solicited(V6.vip);
        let probe =
            |from: [u8; 6]| ArpFrame { sender: (from, "0.0.0.0"), ..ArpFrame::request((from, "0.0.0.0"), V4.vip) };
        let detection = |from: [u8; 6]| discovery(135, 0, ("::", from), (&group, mac), V6.vip, &[]);
        for (says, from, reasons) in [
            ("both ask whether they may have it (RFC 5227, RFC 4862)", STRANGER, heard),
            ("another node may be a moment behind", HOST, not_here),
            ("it is our own", UP0, not_here),
        ] {
            lab.check(&dropped(says, probe(from).bytes(), reasons));
            lab.check(&dropped(says, detection(from).bytes(), reasons));
        }
        let question = ArpFrame::request((STRANGER, V4.stranger), V4.vip);
        lab.check(&dropped("a host that looks for the VIP has an address", question.bytes(), not_here));
        let sum = Segment { ttl: 254, ..detection(STRANGER) };
        lab.check(&dropped("it came through a router", sum.bytes(), &[Reason::Malformed]));
        // Announced, it is answered.
        lab.vip(V4.vip, VIP_ECHO | VIP_REJECT | VIP_ANNOUNCE);
        let asked = probe(STRANGER);
        lab.check(&answered("it is announced", asked.bytes(), answer(&asked), &[Reason::ArpAnswered]));
    });
}
