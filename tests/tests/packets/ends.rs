//! What ends a flow: RST and FIN that its other side would take, and no others (issue 8, F9).
use sluice_ebpf::*;
use sluice_tests::packets::*;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
fn each(test: impl Fn(&mut Lab, &Net, bool) + Send + 'static) {
    with_lab(move |lab| {
        for (n, remote) in NETS.iter().flat_map(|n| [(n, false), (n, true)]) {
            test(lab, n, remote);
        }
    });
}

#[test]
fn f9_an_rst_ends_a_flow_only_with_a_number_that_is_expected() {
    each(|lab, n, remote| {
        for (says, ahead, ends) in [
            ("the number that is expected", 0, true),
            ("behind data that is on its way", flow::RST_AHEAD, true),
            ("too far ahead", flow::RST_AHEAD + 1, false),
            ("before what was acknowledged", u32::MAX, false),
            ("any number", 0x8000_0000, false),
        ] {
            for (of_client, seq) in [(true, CLIENT), (false, BACKEND)] {
                let flow = Flow::open(lab, n, remote);
                lab.forget_reasons();
                if of_client {
                    flow.client(lab, RST, seq.wrapping_add(ahead), 0);
                } else {
                    flow.backend(lab, RST | ACK, seq.wrapping_add(ahead), CLIENT);
                }
                assert_eq!(flow.state(lab), if ends { CT_REPLIED | CT_RST } else { CT_REPLIED }, "{says}");
                let reasons = if ends { vec![] } else { vec![Reason::EndIgnored] };
                assert_eq!(lab.reasons(), drop_reasons(&reasons), "{says}");
            }
        }
    });
}

#[test]
fn f9_what_is_expected_follows_the_flow() {
    each(|lab, n, remote| {
        let flow = Flow::open(lab, n, remote);
        // Both send three gigabytes, in steps; the numbers wrap.
        for step in 1..=6_u32 {
            let (there, back) = (CLIENT.wrapping_add(step << 29), BACKEND.wrapping_add(step << 29));
            flow.client(lab, ACK, there, back);
            flow.backend(lab, ACK, back, there);
            flow.client(lab, RST, CLIENT.wrapping_add((step - 1) << 29), 0);
            flow.backend(lab, RST, BACKEND.wrapping_add((step - 1) << 29), 0);
            assert_eq!(flow.state(lab), CT_REPLIED, "what was expected before ends nothing");
        }
        flow.client(lab, RST, CLIENT.wrapping_add(6 << 29), 0);
        assert_eq!(flow.state(lab), CT_REPLIED | CT_RST);
    });
}

#[test]
fn f9_a_fin_ends_its_direction_only_near_what_is_expected() {
    each(|lab, n, remote| {
        for (says, ahead, ends) in [
            ("the number that is expected", 0, true),
            ("the end of a transfer", 50 << 20, true),
            ("a part of the segment is acknowledged", flow::FIN_BEHIND.wrapping_neg(), true),
            ("all of it is", (flow::FIN_BEHIND + 1).wrapping_neg(), false),
            ("any number", 0x8000_0000, false),
        ] {
            let flow = Flow::open(lab, n, remote);
            flow.client(lab, FIN | ACK, CLIENT.wrapping_add(ahead), BACKEND);
            assert_eq!(flow.state(lab), CT_REPLIED | if ends { CT_FIN_CLIENT } else { 0 }, "{says}");
            flow.backend(lab, FIN | ACK, BACKEND.wrapping_add(ahead), CLIENT);
            let both = CT_FIN_CLIENT | CT_FIN_BACKEND;
            assert_eq!(flow.state(lab), CT_REPLIED | if ends { both } else { 0 }, "{says}");
        }
    });
}

#[test]
fn f9_a_wrong_checksum_ends_nothing() {
    each(|lab, n, remote| {
        // The last byte of an odd length counts as well, and those of several pieces.
        for len in [0, 1, 7, 51, 52, 63, 64, 65, 100, 511, 700, 1200] {
            for (of_client, end) in [(true, RST), (true, FIN | ACK), (false, RST | ACK), (false, FIN | ACK)] {
                let flow = Flow::open(lab, n, remote);
                let segment = if of_client {
                    flow.client_sends(end, CLIENT, BACKEND)
                } else {
                    flow.backend_sends(end, BACKEND, CLIENT)
                };
                let good = segment.carrying(&vec![0xa5; len]);
                let mut bad = good.bytes();
                let last = bad.len() - 1;
                bad[last] ^= 0x10;
                if len == 0 {
                    // The urgent pointer, which is the end of the header.
                    assert_eq!(last, good.l4_offset() + 19);
                }
                lab.forget_reasons();
                flow.run(lab, of_client, &bad);
                assert_eq!(flow.state(lab), CT_REPLIED, "{len} bytes with a wrong checksum");
                assert_eq!(lab.reasons(), drop_reasons(&[Reason::EndIgnored]));
                flow.run(lab, of_client, &good.bytes());
                assert_ne!(flow.state(lab), CT_REPLIED, "{len} bytes with the right one");
                let local = Flow::open(lab, n, remote);
                flow.run(lab, of_client, &partial(&good));
                assert_ne!(local.state(lab), CT_REPLIED, "{len} bytes whose checksum the device will finish");
            }
        }
    });
}

#[test]
fn f9_a_refusal_ends_what_it_refuses() {
    each(|lab, n, remote| {
        for (says, ack, ends) in
            [("of this SYN", CLIENT, true), ("of another", CLIENT + 1, false), ("of none", 0, false)]
        {
            lab.forget_flows();
            let flow = Flow::open(lab, n, remote);
            lab.forget_flows();
            flow.client(lab, SYN, CLIENT - 1, 0);
            let flags = if ack == 0 { RST } else { RST | ACK };
            flow.backend(lab, flags, 0, ack);
            assert_eq!(flow.state(lab) & CT_RST != 0, ends, "a refusal {says}");
        }
        // The client gives up before anybody has answered.
        let flow = Flow::open(lab, n, remote);
        lab.forget_flows();
        flow.client(lab, SYN, CLIENT - 1, 0);
        flow.client(lab, RST, CLIENT.wrapping_add(1 << 30), 0);
        assert_eq!(flow.state(lab), 0);
        flow.client(lab, RST, CLIENT, 0);
        assert_eq!(flow.state(lab), CT_RST);
    });
}

#[test]
fn f9_a_flow_that_was_not_ended_goes_on_and_keeps_its_backend() {
    each(|lab, n, remote| {
        let flow = Flow::open(lab, n, remote);
        flow.client(lab, RST, CLIENT ^ 0x4000_0000, 0);
        flow.client(lab, FIN | ACK, CLIENT ^ 0x4000_0000, BACKEND);
        let long_ago = now().wrapping_sub(CT_TCP_CLOSED_NS + 1_000_000_000);
        lab.age(|_, e| e.seen = long_ago);
        lab.backend(
            2,
            (if remote { n.remote1 } else { n.pod }, 8081),
            if remote { BACKEND_REMOTE } else { BACKEND_LOCAL },
        );
        lab.frontend((n.vip, 80), TCP, 0, &[2]);
        let backend =
            |lab: &Lab| lab.entry((n.client, 33000), (n.vip, 80), TCP, CT_REQUEST).expect("an entry").to.dst_port;
        flow.client(lab, ACK, CLIENT, BACKEND);
        assert_eq!(backend(lab), 8080, "it is not forgotten after a minute");
        flow.client(lab, SYN, 77, 0);
        assert_eq!(backend(lab), 8080, "and a SYN does not begin it anew");
    });
}
