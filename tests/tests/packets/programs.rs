//! The object as a whole: it loads, it is fast, and `sluice_lookup` steers.
use std::{net::TcpListener, os::fd::AsFd};

use aya::{
    TestRun, TestRunOptions, TestRunResult,
    maps::SockMap,
    programs::{SchedClassifier, SkLookup, Xdp},
};
use sluice_ebpf::{
    user::{LookupQuery, LookupVerdict, run_lookup},
    *,
};
use sluice_tests::packets::*;

/// What the verifier may walk through: a tenth of what it allows for a path, a quarter for those with many.
const MAX_VERIFIED: u32 = 250_000;

#[test]
fn the_verifier_takes_every_program() {
    with_lab(|lab| {
        for (name, p) in lab.bpf.programs() {
            let info = p.info().expect("a loaded program");
            let verified = info.verified_instruction_count().expect("the kernel tells");
            println!(
                "{name}: {verified} instructions verified, {} bytes translated",
                info.size_translated().unwrap_or(0)
            );
            assert!(verified < MAX_VERIFIED, "{name} became hard to verify: {verified}");
        }
        assert_eq!(lab.bpf.programs().count(), 12);
    });
}

/// Nanoseconds for one run, the least of some tries. `repeat` is small where a run changes the packet for good.
fn time(lab: &Lab, name: &str, packet: &[u8], repeat: u32) -> u128 {
    let p: &Xdp = lab.bpf.program(name).expect("a program").try_into().expect("XDP");
    let context = [0, packet.len() as u32, 0, lab.up0, 0, 0];
    least(p, packet, bytemuck::cast_slice(&context), repeat)
}

/// The same for TC ingress.
fn time_ingress(lab: &Lab, packet: &[u8], repeat: u32) -> u128 {
    let p: &SchedClassifier = lab.bpf.program(program::INGRESS).expect("a program").try_into().expect("TC");
    let mut context = [0u8; 192];
    // `__sk_buff::ifindex`.
    context[40..44].copy_from_slice(&lab.up0.to_ne_bytes());
    least(p, packet, &context, repeat)
}

fn least<P>(p: &P, packet: &[u8], context: &[u8], repeat: u32) -> u128
where
    P: for<'a> TestRun<Opts<'a> = TestRunOptions<'a>, Result = TestRunResult>,
{
    let run = || {
        let options =
            TestRunOptions { data_in: Some(packet), ctx_in: Some(context), repeat, ..TestRunOptions::default() };
        p.test_run(options).expect("a timed run").duration.as_nanos()
    };
    (0..10_000_000 / (repeat * 40)).map(|_| run()).min().expect("some tries")
}

#[test]
fn a_tracked_flow_costs_little() {
    with_lab(|lab| {
        for (n, family) in NETS.iter().zip(["IPv4", "IPv6"]) {
            // The packet is not restored between runs, so its flow is rewritten to itself, and its time to live lasts.
            let tuple = Tuple { src: addr(n.client), dst: addr(n.remote), src_port: 33000, dst_port: 80 };
            let key = CtKey { tuple, proto: TCP, dir: CT_REQUEST, pad: [0; 2] };
            let entry = CtEntry { to: tuple, seen: now(), created: now(), flags: CT_SNAT, ..Default::default() };
            lab.hash(map::CONNTRACK).insert(key, entry, 0).expect("insert an entry");
            let tracked = Segment { ttl: 255, ..Segment::tcp((n.client, 33000), (n.remote, 80), 16) }.bytes();
            assert_eq!(lab.xdp(&tracked).code, 3, "the packet is sent on");
            let stranger = Segment::tcp((n.client, 33000), (n.stranger, 80), 16).bytes();
            let cost = time(lab, program::XDP, &tracked, 250);
            println!(
                "{family}: empty program {} ns, foreign packet {} ns, packet of a tracked flow {cost} ns, in TC {} ns",
                time(lab, program::PASS, &tracked, 50_000),
                time(lab, program::XDP, &stranger, 50_000),
                time_ingress(lab, &tracked, 250),
            );
            assert!(cost < 1000, "{cost} ns for a packet");
        }
    });
}

#[test]
fn the_proxys_socket_takes_its_frontends_and_nothing_else() {
    with_lab(|lab| {
        let listener = TcpListener::bind("[::]:0").expect("a listener");
        for n in &NETS {
            lab.frontend((n.vip, 443), TCP, FRONTEND_PROXY, &[]);
            lab.frontend((n.vip, 80), TCP, 0, &[]);
            lab.frontend((n.vip, 443), UDP, FRONTEND_PROXY, &[]);
        }
        let ask = |lab: &Lab, dst: &str, port: u16, proto: u8| {
            let p: &SkLookup = lab.bpf.program(program::LOOKUP).expect("a program").try_into().expect("sk_lookup");
            let src = if dst.contains(':') { V6.client } else { V4.client };
            let parse = |a: &str| a.parse::<std::net::IpAddr>().expect("an address");
            let query = LookupQuery { proto, remote: (parse(src), 33000).into(), local: (parse(dst), port).into() };
            run_lookup(p.fd().expect("loaded").as_fd(), &query).expect("a lookup")
        };
        use LookupVerdict::{Kernel, Refused, Socket};
        let others = |lab: &Lab| {
            for n in &NETS {
                assert_eq!(ask(lab, n.vip, 80, TCP), Kernel, "a layer 4 frontend's is not");
                assert_eq!(ask(lab, n.vip, 444, TCP), Kernel, "nor that of another port");
                assert_eq!(ask(lab, n.stranger, 443, TCP), Kernel, "nor that of another address (S23)");
                assert_eq!(ask(lab, n.vip, 443, UDP), Kernel, "nor a datagram");
            }
        };
        let refused = |lab: &Lab| {
            for n in &NETS {
                assert_eq!(ask(lab, n.vip, 443, TCP), Refused, "without the proxy no listener of the host answers");
            }
        };
        refused(lab);
        others(lab);
        let map = lab.bpf.map_mut(map::PROXY).expect("the sockmap");
        SockMap::try_from(map).expect("a sockmap").set(PROXY_TCP, &listener, 0).expect("put the listener");
        for n in &NETS {
            let verdict = ask(lab, n.vip, 443, TCP);
            assert!(matches!(verdict, Socket(_)), "a layer 7 frontend's connection is the proxy's: {verdict:?}");
        }
        others(lab);
        drop(listener);
        refused(lab);
        others(lab);
    });
}
