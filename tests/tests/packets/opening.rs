//! Flows that nobody has proved: what proves them, and what they may lose (issue 8, F6).
use sluice_ebpf::*;
use sluice_tests::packets::*;

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const SECOND: u64 = 1_000_000_000;
/// Where a flow's two entries are: conntrack, and the map of flows that are not proved.
const PROVED: (usize, usize) = (2, 0);
const UNPROVED: (usize, usize) = (0, 2);

fn each(test: impl Fn(&mut Lab, &Net, bool) + Send + 'static) {
    with_lab(move |lab| {
        for (n, remote) in NETS.iter().flat_map(|n| [(n, false), (n, true)]) {
            lab.forget_flows();
            test(lab, n, remote);
        }
    });
}

/// Leaves the given source ports, and no others.
fn ports(lab: &mut Lab, first: u16, last: u16) {
    lab.settings(Settings { snat_first: first, snat_last: last, reject_rate: 1000, ..Settings::default() });
}

#[test]
fn f6_the_answer_to_a_syn_proves_nothing_and_its_acknowledgement_does() {
    each(|lab, n, remote| {
        Flow::frontend(lab, n, remote);
        let flow = Flow::begin(lab, n, remote, 33000);
        assert_eq!(flow.places(lab), UNPROVED);
        for _ in 0..2 {
            flow.backend(lab, SYN | ACK, BACKEND - 1, CLIENT);
            flow.client(lab, SYN, CLIENT - 1, 0);
            assert_eq!(flow.places(lab), UNPROVED, "whoever asks is answered");
        }
        for wrong in [0, 1, BACKEND - 1, BACKEND + 1, BACKEND ^ 0x8000_0000] {
            flow.client(lab, ACK, CLIENT, wrong);
            flow.client(lab, ACK, CLIENT + 70_000, wrong ^ 0x4000_0000);
            assert_eq!(flow.places(lab), UNPROVED, "{wrong} acknowledges nothing that was sent");
            // What a host says to a segment that does not fit a connection that is not open yet.
            flow.backend(lab, ACK, BACKEND, CLIENT);
            assert_eq!(flow.places(lab), UNPROVED, "an answer to what does not fit proves nothing");
        }
        flow.client(lab, RST | ACK, CLIENT, BACKEND);
        assert_eq!(flow.places(lab), UNPROVED);
        flow.client(lab, ACK, CLIENT, BACKEND);
        assert_eq!(flow.places(lab), PROVED);
        let flow = Flow::open_from(lab, n, remote, 33001);
        assert_eq!((flow.places(lab), flow.state(lab)), (PROVED, CT_REPLIED));
    });
}

#[test]
fn f6_a_flow_that_is_met_in_its_middle_is_proved_by_its_backend() {
    each(|lab, n, remote| {
        Flow::frontend(lab, n, remote);
        let flow = Flow::begin_with(lab, n, remote, 33000, (ACK, CLIENT, BACKEND));
        for _ in 0..2 {
            flow.client(lab, ACK, CLIENT, BACKEND);
            assert_eq!(flow.places(lab), UNPROVED, "what the client says proves nothing");
        }
        flow.backend(lab, ACK, BACKEND.wrapping_add(2 * flow::ANSWER_NEAR), CLIENT);
        assert_eq!(flow.places(lab), UNPROVED, "that is an answer to somebody else");
        flow.backend(lab, RST, BACKEND, 0);
        assert_eq!(flow.places(lab), UNPROVED, "a refusal proves nothing");
        for (port, says, seq) in [
            (33001, "what the client waits for", BACKEND),
            (33002, "data is on its way", BACKEND.wrapping_add(9_000_000)),
            (33003, "what the client has already", BACKEND.wrapping_sub(60_000)),
        ] {
            let flow = Flow::begin_with(lab, n, remote, port, (ACK, CLIENT, BACKEND));
            flow.backend(lab, ACK, seq, CLIENT);
            assert_eq!((flow.places(lab), flow.state(lab)), (PROVED, CT_REPLIED), "{says}");
        }
    });
}

#[test]
fn f6_a_question_in_a_datagram_is_not_held_and_a_conversation_is() {
    each(|lab, n, remote| {
        let (to, flags) = if remote { (n.remote, BACKEND_REMOTE) } else { (n.pod, BACKEND_LOCAL) };
        lab.backend(1, (to, 53), flags);
        let frontend = lab.frontend((n.vip, 53), UDP, 0, &[1]);
        let (there, back) = if remote { (Hook::Xdp, Hook::Xdp) } else { (Hook::Ingress, Hook::Egress) };
        let asks = Segment::udp((n.client, 33000), (n.vip, 53)).bytes();
        lab.run(there, &asks);
        assert_eq!(lab.share(frontend).flows, 1);
        let entry = lab.entry((n.client, 33000), (n.vip, 53), UDP, CT_REQUEST).expect("an entry");
        let node = if remote { n.node } else { n.client };
        let answer = Segment::udp((to, 53), (node, entry.to.src_port)).bytes();
        lab.run(back, &answer);
        lab.run(there, &asks);
        lab.run(back, &answer);
        assert_eq!((lab.rows(map::CONNTRACK).len(), lab.rows(map::OPENING).len()), UNPROVED);
        assert!(lab.share(frontend).flows <= 1, "a flow that was answered is none of the share");
        lab.age(|_, e| e.created -= CT_UDP_STREAM_NS + SECOND);
        lab.run(there, &asks);
        assert_eq!((lab.rows(map::CONNTRACK).len(), lab.rows(map::OPENING).len()), PROVED);
        lab.run(back, &answer);
        let frontend = lab.counters(frontend);
        assert_eq!((frontend.flows, frontend.request_packets, frontend.reply_packets), (1, 3, 3));
    });
}

#[test]
fn a_question_and_its_answer_are_forgotten_in_seconds_and_a_conversation_is_not() {
    each(|lab, n, remote| {
        let (to, flags) = if remote { (n.remote, BACKEND_REMOTE) } else { (n.pod, BACKEND_LOCAL) };
        lab.backend(1, (to, 53), flags);
        let frontend = lab.frontend((n.vip, 53), UDP, 0, &[1]);
        let (there, back) = if remote { (Hook::Xdp, Hook::Xdp) } else { (Hook::Ingress, Hook::Egress) };
        let asks = Segment::udp((n.client, 33000), (n.vip, 53)).bytes();
        let mut begun = 0;
        let mut begins = |lab: &mut Lab| {
            lab.run(there, &asks);
            let flows = lab.counters(frontend).flows;
            std::mem::replace(&mut begun, flows) != flows
        };
        let answers = |lab: &mut Lab| {
            let entry = lab.entry((n.client, 33000), (n.vip, 53), UDP, CT_REQUEST).expect("an entry");
            let node = if remote { n.node } else { n.client };
            lab.run(back, &Segment::udp((to, 53), (node, entry.to.src_port)).bytes());
        };
        // Idle for so long, a second less and a second more: a packet then is of the same flow, or of another.
        let idle = |lab: &mut Lab, ns: u64| lab.age(|_, e| e.seen -= ns);
        let last = |lab: &mut Lab, ns: u64, begins: &mut dyn FnMut(&mut Lab) -> bool, what: &str| {
            idle(lab, ns - SECOND);
            assert!(!begins(lab), "{what}: forgotten too early");
            idle(lab, ns + SECOND);
            assert!(begins(lab), "{what}: remembered for too long");
        };
        assert!(begins(lab));
        last(lab, CT_UDP_ONEWAY_NS, &mut begins, "without an answer");
        answers(lab);
        answers(lab);
        idle(lab, CT_UDP_ANSWERED_NS + SECOND);
        assert!(begins(lab), "answers to one question: remembered for too long");
        answers(lab);
        idle(lab, CT_UDP_ANSWERED_NS - SECOND);
        assert!(!begins(lab), "answers to one question: forgotten too early");
        // The client has gone on.
        last(lab, CT_UDP_REPLIED_NS, &mut begins, "a conversation");
        // And so it has where the flow lasts.
        answers(lab);
        lab.age(|_, e| e.created -= CT_UDP_STREAM_NS + SECOND);
        answers(lab);
        assert_eq!((lab.rows(map::CONNTRACK).len(), lab.rows(map::OPENING).len()), PROVED);
        last(lab, CT_UDP_REPLIED_NS, &mut begins, "a flow that lasts");
    });
}

#[test]
fn f6_a_port_goes_from_who_is_not_answered_to_who_finds_no_other() {
    with_lab(|lab| {
        for n in &NETS {
            lab.forget_flows();
            Flow::frontend(lab, n, true);
            ports(lab, 40_000, 40_003);
            let proved = [33000, 33001].map(|port| Flow::open_from(lab, n, true, port));
            let mut waiting = [33002, 33003].map(|port| Flow::begin(lab, n, true, port));
            for port in 33004..33060 {
                // The one that waits for longest goes first.
                let late = waiting[0].reply.1;
                lab.age(|key, e| {
                    if late == if key.dir == CT_REPLY { key.tuple.dst_port } else { e.to.src_port } {
                        e.seen -= WAITING_NS + SECOND;
                    }
                });
                let new = Flow::begin(lab, n, true, port);
                assert_eq!(new.reply.1, late);
                assert_eq!(waiting[0].entries(lab)[0], None, "and its request entry with it");
                waiting = [waiting[1], new];
            }
            // Nobody waits for long: any of them, as of those that are closed.
            let new = Flow::open_from(lab, n, true, 33100);
            assert!(waiting.iter().any(|flow| flow.reply.1 == new.reply.1));
            let left: Vec<_> = waiting.iter().filter(|flow| flow.places(lab) == UNPROVED).collect();
            assert_eq!(left.len(), 1, "one port, one flow");
            let last = Flow::open_from(lab, n, true, 33101);
            assert_eq!(last.reply.1, left[0].reply.1);
            for flow in proved.iter().chain([&new, &last]) {
                assert_eq!((flow.places(lab), flow.state(lab)), (PROVED, CT_REPLIED), "a port that is used stays");
            }
            lab.check(&Case {
                says: "all ports are used",
                hook: Hook::Xdp,
                packet: Segment::tcp((n.client, 33102), (n.vip, 80), SYN).bytes(),
                does: Does::Drop,
                out: None,
                reasons: &[Reason::SnatExhausted],
            });
            assert!(lab.rows(map::OPENING).is_empty(), "and nothing is left behind");
            ports(lab, 40_000, 49_999);
        }
    });
}

#[test]
fn f6_who_lost_its_port_begins_anew() {
    with_lab(|lab| {
        for n in &NETS {
            lab.forget_flows();
            Flow::frontend(lab, n, true);
            ports(lab, 40_000, 40_001);
            Flow::open_from(lab, n, true, 33000);
            let first = Flow::begin(lab, n, true, 33001);
            let second = Flow::begin(lab, n, true, 33002);
            assert_eq!((first.reply, first.entries(lab)[0]), (second.reply, None));
            let again = Flow::open_from(lab, n, true, 33001);
            assert_eq!((again.reply, again.places(lab)), (second.reply, PROVED));
            ports(lab, 40_000, 49_999);
        }
    });
}

#[test]
fn f6_an_entry_that_was_evicted_is_made_anew_with_the_clients_next_packet() {
    each(|lab, n, remote| {
        Flow::frontend(lab, n, remote);
        for dir in [CT_REQUEST, CT_REPLY] {
            lab.forget_flows();
            let flow = Flow::begin(lab, n, remote, 33000);
            flow.backend(lab, SYN | ACK, BACKEND - 1, CLIENT);
            let (key, _) = lab.rows(map::OPENING).into_iter().find(|(key, _)| key.dir == dir).expect("an entry");
            lab.hash::<CtKey, CtEntry>(map::OPENING).remove(&key).expect("it was there");
            flow.client(lab, ACK, CLIENT, BACKEND);
            assert_eq!(flow.places(lab), UNPROVED);
            flow.backend(lab, ACK, BACKEND, CLIENT);
            assert_eq!(flow.places(lab), PROVED, "as one that is met in its middle");
        }
    });
}

#[test]
fn f6_a_frontend_has_its_share_of_flows_without_an_answer_and_others_have_theirs() {
    each(|lab, n, remote| {
        let first = Flow::frontend(lab, n, remote);
        let other = lab.frontend((n.vip2, 80), TCP, 0, &[1]);
        let hook = if remote { Hook::Xdp } else { Hook::Ingress };
        let opens = |lab: &mut Lab, vip: &str, port: u16| {
            lab.forget_reasons();
            let out = lab.run(hook, &Segment::tcp((n.client, port), (vip, 80), SYN).bytes());
            assert!(out.code != 1 && out.code != 2 || lab.reasons() == drop_reasons(&[Reason::OpeningShare]));
            lab.reasons().is_empty()
        };
        let set = |lab: &mut Lab, flows: u32| {
            let row = Share { window: (now() >> WINDOW_BITS) as u32, flows };
            let map = lab.bpf.map_mut(map::SHARES).expect("the shares");
            aya::maps::Array::try_from(map).and_then(|mut a| a.set(first, row, 0)).expect("set a share");
            row.window
        };
        // Within one window.
        loop {
            lab.forget_flows();
            let window = set(lab, OPENING_SHARE - 1);
            let got = [opens(lab, n.vip, 33000), opens(lab, n.vip, 33001), opens(lab, n.vip2, 33002)];
            if lab.share(first).window == window && now() >> WINDOW_BITS == u64::from(window) {
                assert_eq!(got, [true, false, true]);
                assert_eq!((lab.share(first).flows, lab.share(other).flows), (OPENING_SHARE, 1));
                break;
            }
        }
        // A flow that is answered is none of the share, and each window begins anew.
        loop {
            lab.forget_flows();
            let window = set(lab, OPENING_SHARE - 1);
            Flow::open_from(lab, n, remote, 33003);
            let got = (opens(lab, n.vip, 33004), opens(lab, n.vip, 33005));
            if now() >> WINDOW_BITS == u64::from(window) {
                assert_eq!(got, (true, false));
                break;
            }
        }
        set(lab, OPENING_SHARE);
        while !opens(lab, n.vip, 33006) {}
        assert_eq!(lab.counters(other).flows, 1);
    });
}
