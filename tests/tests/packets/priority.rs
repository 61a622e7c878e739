//! Frames with a tag that names no VLAN and only gives a priority (802.1p): as without it (issue 8, B6).
use std::time::{Duration, Instant};

use aya::{
    TestRun, TestRunOptions,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use nix::net::if_::if_nametoindex;
use sluice_ebpf::*;
use sluice_tests::packets::*;

const SYN: u8 = 2;
/// A host on the network of `up0`.
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x4d];

/// The frame with a tag.
fn tagged(frame: &[u8], tag: [u8; 2]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &tag, &frame[12..]].concat()
}

fn serve(lab: &mut Lab) {
    for (id, n) in (1..).zip(&NETS) {
        lab.backend(id, (n.remote, 8080), BACKEND_REMOTE);
        lab.backend(id + 2, (n.pod, 8080), BACKEND_LOCAL);
        lab.frontend((n.vip, 80), TCP, 0, &[id]);
        lab.frontend((n.vip, 81), TCP, 0, &[id + 2]);
        lab.vip(n.vip, VIP_ECHO | VIP_REJECT | VIP_ANNOUNCE);
    }
}

#[test]
fn b6_in_xdp_a_priority_tag_is_taken_off_what_is_ours_and_left_on_the_rest() {
    with_lab(|lab| {
        serve(lab);
        for (n, tag) in NETS.iter().flat_map(|n| [[0, 0], [0x60, 0], [0xf0, 0]].map(|tag| (n, tag))) {
            lab.forget_flows();
            let syn = Segment::tcp((n.client, 33000), (n.vip, 80), SYN);
            let untagged = lab.xdp(&syn.bytes());
            assert_eq!(untagged.code, 3);
            let with_tag = lab.xdp(&tagged(&syn.bytes(), tag));
            assert_eq!(with_tag, untagged, "a SYN goes the same way, without the tag");
            let echo = Segment::icmp(n.client, n.vip, if n.vip == V4.vip { 8 } else { 128 }, 0);
            assert_eq!(lab.xdp(&tagged(&echo.bytes(), tag)), lab.xdp(&echo.bytes()), "so does a ping");
            let arp = ArpFrame::request((HOST, V4.stranger), V4.vip).bytes();
            for (says, frame) in [
                ("what TC does keeps it", Segment::tcp((n.client, 33000), (n.vip, 81), SYN).bytes()),
                ("what is not for us keeps it", Segment::tcp((n.client, 33000), (n.stranger, 80), SYN).bytes()),
                ("ARP keeps it", arp),
            ] {
                let packet = tagged(&frame, tag);
                lab.check(&Case { says, hook: Hook::Xdp, packet, does: Does::Pass, out: None, reasons: &[] });
            }
            for (says, frame) in [
                ("a VLAN is another network", tagged(&syn.bytes(), [tag[0], 5])),
                ("a VLAN behind the priority as well", tagged(&tagged(&syn.bytes(), [0, 5]), tag)),
            ] {
                lab.check(&Case { says, hook: Hook::Xdp, packet: frame, does: Does::Pass, out: None, reasons: &[] });
            }
            let whole = tagged(&syn.bytes(), tag);
            for len in 14..38 {
                let packet = whole[..len].to_vec();
                let says = "what is cut off is passed as it came";
                lab.check(&Case { says, hook: Hook::Xdp, packet, does: Does::Pass, out: None, reasons: &[] });
            }
        }
    });
}

/// Sends a frame out of the other end of `up0`, so that it comes in there as from a wire.
fn send(lab: &Lab, frame: &[u8]) {
    let p: &SchedClassifier = lab.bpf.program(program::ANNOUNCE).expect("a program").try_into().expect("TC");
    let mut context = [0u8; 192];
    let index = if_nametoindex("p-up0").expect("the other end");
    context[40..44].copy_from_slice(&index.to_ne_bytes());
    let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::default() };
    assert_eq!(p.test_run(options).expect("a run").return_value, 1, "it is sent");
}

/// Waits until it holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn b6_in_tc_a_frame_with_a_priority_tag_is_answered_and_opens_flows() {
    with_lab(|lab| {
        serve(lab);
        let p: &mut SchedClassifier = lab.bpf.program_mut(program::INGRESS).expect("a program").try_into().expect("TC");
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        p.attach_with_options("up0", TcAttachType::Ingress, first).expect("attach to up0");
        let (group, mac) = solicited(V6.vip);
        let ask = discovery(135, 0, (V6.stranger, HOST), (&group, mac), V6.vip, &link_layer(1, HOST)).bytes();
        let arp = ArpFrame::request((HOST, V4.stranger), V4.vip).bytes();
        for (frame, reason) in [(arp, Reason::ArpAnswered), (ask, Reason::NdAnswered)] {
            lab.forget_reasons();
            send(lab, &tagged(&frame, [0x60, 5]));
            send(lab, &tagged(&frame, [0x60, 0]));
            until(reason.name(), || lab.reasons().get(reason.name()) == Some(&1));
            assert_eq!(lab.reasons().get(reason.name()), Some(&1), "the one of the VLAN is not answered");
        }
        for n in &NETS {
            for port in [80, 81] {
                let syn = |client| Segment::tcp((n.client, client), (n.vip, port), SYN).bytes();
                send(lab, &tagged(&syn(33001), [0x60, 5]));
                send(lab, &tagged(&syn(33000), [0x60, 0]));
                until("the SYN opens a flow", || {
                    lab.entry((n.client, 33000), (n.vip, port), TCP, CT_REQUEST).is_some()
                });
                assert!(
                    lab.entry((n.client, 33001), (n.vip, port), TCP, CT_REQUEST).is_none(),
                    "one of a VLAN does not"
                );
            }
        }
    });
}
