//! ICMP errors about packets of tracked flows: they reach the end that sent the packet, in both directions, with the
//! quoted header as that end knows it (issue 8, B9).
use sluice_ebpf::*;
use sluice_tests::packets::*;

const SYN: u8 = 2;
const ACK: u8 = 16;
/// The router on the client's side, and the port of the client.
const ROUTER: [&str; 2] = ["198.51.100.254", "2001:db8:c::fe"];
const PORT: u16 = 33000;

/// The errors of a family: type, code, and what follows the checksum.
fn errors(n: &Net) -> Vec<(u8, u8, [u8; 4])> {
    if n.vip == V4.vip {
        // An MTU of 1300; port and host unreachable; time exceeded; a problem at byte 20.
        vec![(3, 4, [0, 0, 5, 20]), (3, 3, [0; 4]), (3, 1, [0; 4]), (11, 0, [0; 4]), (12, 0, [20, 0, 0, 0])]
    } else {
        vec![(2, 0, [0, 0, 5, 20]), (1, 4, [0; 4]), (1, 0, [0; 4]), (3, 0, [0; 4]), (4, 1, [0, 0, 0, 40])]
    }
}

/// A flow of the client to the VIP, and the tuples that it has on the wire towards the backend.
struct Flow<'a> {
    n: &'a Net,
    proto: u8,
    remote: bool,
    /// Where the backend is, and whom it answers.
    backend: (&'a str, u16),
    peer: (&'a str, u16),
}

impl<'a> Flow<'a> {
    fn open(lab: &mut Lab, n: &'a Net, proto: u8, remote: bool) -> Self {
        lab.forget_flows();
        let (to, flags) = if remote { (n.remote, BACKEND_REMOTE) } else { (n.pod, BACKEND_LOCAL) };
        lab.backend(1, (to, 8080), flags);
        lab.frontend((n.vip, 80), proto, 0, &[1]);
        let first = packet(proto, (n.client, PORT), (n.vip, 80), SYN);
        lab.run(if remote { Hook::Xdp } else { Hook::Ingress }, &first.bytes());
        let entry = lab.entry((n.client, PORT), (n.vip, 80), proto, CT_REQUEST).expect("an entry");
        let peer = (if remote { n.node } else { n.client }, entry.to.src_port);
        Self { n, proto, remote, backend: (to, 8080), peer }
    }

    fn vip(&self) -> (&'a str, u16) {
        (self.n.vip, 80)
    }

    fn client(&self) -> (&'a str, u16) {
        (self.n.client, PORT)
    }

    /// A packet of the flow from one of its names to another.
    fn packet(&self, from: (&str, u16), to: (&str, u16)) -> Segment {
        packet(self.proto, from, to, ACK)
    }

    /// How an error that goes on comes out: here the stack forwards it, from another node it is sent on.
    fn goes_on<'c>(&self, says: &'c str, hook: Hook, (come, go): (&Segment, &Segment)) -> Case<'c> {
        let does = if self.remote { Does::Redirect } else { Does::Pass };
        let ttl = go.ttl - u8::from(self.remote);
        let out = Segment { ttl, ..go.clone() }.bytes();
        Case { says, hook, packet: come.bytes(), does, out: Some(out), reasons: &[Reason::IcmpTranslated] }
    }
}

fn packet(proto: u8, from: (&str, u16), to: (&str, u16), flags: u8) -> Segment {
    let s = Segment::tcp(from, to, flags).carrying(b"what was sent and could not be delivered");
    if proto == UDP { Segment { l4: L4::Udp, ..s } } else { s }
}

/// An error that quotes so many bytes of a packet, from its IP header on.
fn error((kind, code, rest): (u8, u8, [u8; 4]), from: &str, to: &str, about: &Segment, bytes: usize) -> Segment {
    let quoted = &about.bytes()[14..];
    let quoted = &quoted[..bytes.min(quoted.len())];
    Segment { l4: L4::Icmp(kind, code, rest), ..Segment::icmp(from, to, kind, code) }.carrying(quoted)
}

fn each(test: impl Fn(&mut Lab, &Flow<'_>) + Send + 'static) {
    with_lab(move |lab| {
        for n in &NETS {
            for (proto, remote) in [(TCP, false), (TCP, true), (UDP, false), (UDP, true)] {
                let flow = Flow::open(lab, n, proto, remote);
                test(lab, &flow);
            }
        }
    });
}

fn header(n: &Net) -> usize {
    if n.vip == V4.vip { 20 } else { 40 }
}

#[test]
fn b9_what_the_client_does_not_get_is_told_to_the_backend() {
    each(|lab, flow| {
        let n = flow.n;
        let router = ROUTER[usize::from(n.vip == V6.vip)];
        let (sent, known) = (flow.packet(flow.vip(), flow.client()), flow.packet(flow.backend, flow.peer));
        for (kind, from) in errors(n).into_iter().flat_map(|kind| [(kind, router), (kind, n.client)]) {
            for bytes in [header(n) + 8, header(n) + 15, header(n) + 20, 500] {
                let come = error(kind, from, n.vip, &sent, bytes);
                // From another node it comes from this one: nobody there knows the router.
                let source = if flow.remote { n.node } else { from };
                let go = error(kind, source, flow.backend.0, &known, bytes);
                lab.check(&flow.goes_on("an error about a reply", Hook::Ingress, (&come, &go)));
                let says = "XDP leaves it to TC";
                let packet = come.bytes();
                lab.check(&Case { says, hook: Hook::Xdp, packet, does: Does::Pass, out: None, reasons: &[] });
            }
        }
    });
}

#[test]
fn b9_what_the_backend_does_not_get_is_told_to_the_client() {
    each(|lab, flow| {
        let n = flow.n;
        let (sent, known) = (flow.packet(flow.peer, flow.backend), flow.packet(flow.client(), flow.vip()));
        let hook = if flow.remote { Hook::Ingress } else { Hook::Egress };
        for (kind, from) in errors(n).into_iter().flat_map(|kind| [(kind, flow.backend.0), (kind, n.stranger)]) {
            for bytes in [header(n) + 8, header(n) + 15, header(n) + 20, 500] {
                let come = error(kind, from, flow.peer.0, &sent, bytes);
                let go = error(kind, n.vip, n.client, &known, bytes);
                lab.check(&flow.goes_on("an error about a request", hook, (&come, &go)));
            }
        }
    });
}

#[test]
fn b9_the_quoted_packet_may_have_options_and_no_checksum() {
    with_lab(|lab| {
        let n = &V4;
        let flow = Flow::open(lab, n, UDP, false);
        for (options, l4) in [(vec![1; 40], L4::Udp), (vec![1; 4], L4::UdpUnchecked), (vec![], L4::UdpUnchecked)] {
            let with = |s: Segment| Segment { options: options.clone(), l4: l4.clone(), ..s };
            let (sent, known) = (flow.packet(flow.vip(), flow.client()), flow.packet(flow.backend, flow.peer));
            let come = error((3, 3, [0; 4]), n.client, n.vip, &with(sent), 500);
            let go = error((3, 3, [0; 4]), n.client, n.pod, &with(known), 500);
            lab.check(&flow.goes_on("the quoted header is as it was", Hook::Ingress, (&come, &go)));
        }
    });
}

#[test]
fn b9_an_error_about_no_flow_is_what_it_was() {
    each(|lab, flow| {
        let n = flow.n;
        let kind = errors(n)[0];
        let sent = flow.packet(flow.vip(), flow.client());
        let whole = error(kind, n.client, n.vip, &sent, 500);
        let other = flow.packet((n.vip, 80), (n.client, PORT + 1));
        let foreign = flow.packet((n.vip2, 80), (n.client, PORT));
        let mut fragment = whole.clone();
        if n.vip == V4.vip {
            fragment.payload[6..8].copy_from_slice(&[0, 9]);
        } else {
            fragment.payload[6] = 44;
        }
        let short = header(n) + 7;
        for (says, packet) in [
            ("of another client's port", error(kind, n.client, n.vip, &other, 500)),
            ("whose quote was sent by another", error(kind, n.client, n.vip, &foreign, 500)),
            ("that quotes a later fragment", fragment),
            ("that quotes too little", error(kind, n.client, n.vip, &sent, short)),
            ("that quotes nothing", error(kind, n.client, n.vip, &sent, 0)),
        ] {
            lab.check(&Case {
                says: &format!("an error {says}"),
                hook: Hook::Ingress,
                packet: packet.bytes(),
                does: Does::Drop,
                out: None,
                reasons: &[Reason::Protocol],
            });
        }
        for (hook, from, to) in [
            (Hook::Ingress, (n.node, 45_678), (n.remote, 8080)),
            (Hook::Ingress, (n.node, 22), (n.client, 5)),
            (Hook::Egress, (n.client, 5), (n.pod, 8080)),
            (Hook::Egress, (n.client, 5), (n.node, 22)),
        ] {
            let packet = error(kind, to.0, from.0, &flow.packet(from, to), 500).bytes();
            let says = "an error about a packet of the host's, or of a pod's";
            lab.check(&Case { says, hook, packet, does: Does::Pass, out: None, reasons: &[] });
        }
        // Cut off anywhere, nothing is mangled.
        let bytes = whole.bytes();
        for len in (if n.vip == V4.vip { 34 } else { 54 })..bytes.len() {
            lab.forget_reasons();
            let out = lab.ingress(&bytes[..len]);
            assert_eq!((out.code, out.packet == bytes[..len]), (2, true), "{len} bytes");
        }
    });
}
