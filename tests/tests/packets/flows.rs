//! Flows: a request to its backend, the reply to its client, over XDP and over TC.
use sluice_ebpf::*;
use sluice_tests::packets::{Lab, Output, Segment, with_lab};

const PASS: i32 = 2;
const TX: i32 = 3;

#[test]
fn xdp_sends_a_request_to_the_other_node_and_its_reply_back() {
    with_lab(|lab: &mut Lab| {
        lab.backend(1, ("192.0.2.20", 8080), BACKEND_REMOTE);
        let f = lab.frontend(("192.0.2.200", 80), TCP, 0, &[1]);
        let syn = Segment::tcp(("198.51.100.7", 33000), ("192.0.2.200", 80), 2);
        let out = lab.xdp(&syn.bytes());
        println!("{out:x?} {:?} {:?}", lab.reasons(), lab.conntrack());
        let e = lab.entry(("198.51.100.7", 33000), ("192.0.2.200", 80), TCP, CT_REQUEST).expect("an entry");
        let want = syn
            .leaving(("192.0.2.1", e.to.src_port), ("192.0.2.20", 8080), 63)
            .with_macs([2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 0, 0x14]);
        assert_eq!(out, Output { code: TX, packet: want.bytes() });
        println!("{:?}", lab.counters(f));
        let _ = PASS;
    });
}
