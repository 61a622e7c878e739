//! From where clients may come: who is refused, by which hook, and what nobody asks about.
use std::os::fd::AsFd;

use aya::programs::SkLookup;
use sluice_ebpf::{
    user::{LookupQuery, LookupVerdict, run_lookup},
    *,
};
use sluice_tests::packets::*;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// A network that has `client`, and not `client2`.
fn network(n: &Net) -> (&'static str, u32) {
    if n.client.contains(':') { ("2001:db8:c::", 125) } else { ("198.51.100.0", 29) }
}

fn refused<'a>(says: &'a str, hook: Hook, packet: &Segment) -> Case<'a> {
    Case { says, hook, packet: packet.bytes(), does: Does::Drop, out: None, reasons: &[Reason::SourceRefused] }
}

#[test]
fn s96_a_new_flow_from_elsewhere_is_dropped_and_counted_for_its_frontend() {
    with_lab(|lab| {
        for (n, proto) in NETS.iter().flat_map(|n| [(n, TCP), (n, UDP)]) {
            for remote in [false, true] {
                lab.forget_flows();
                let to = if remote { (n.remote, 8080) } else { (n.pod, 8080) };
                lab.backend(1, to, if remote { BACKEND_REMOTE } else { BACKEND_LOCAL });
                let f = lab.frontend((n.vip, 80), proto, FRONTEND_SOURCES, &[1]);
                let (network, bits) = network(n);
                lab.admit(f, network, bits);
                let from = |client| match proto {
                    TCP => Segment::tcp((client, 33000), (n.vip, 80), SYN),
                    _ => Segment::udp((client, 33000), (n.vip, 80)),
                };
                // `client` ends in 7, `client2` in 8: the first is the last of its network.
                for hook in [Hook::Xdp, Hook::Ingress] {
                    lab.check(&refused("a client outside the ranges is dropped in silence", hook, &from(n.client2)));
                }
                assert_eq!(lab.counters(f).dropped_packets, 2);
                assert!(lab.conntrack().is_empty(), "and leaves nothing behind");
                let hook = if remote { Hook::Xdp } else { Hook::Ingress };
                lab.forget_reasons();
                lab.run(hook, &from(n.client).bytes());
                assert_eq!(lab.reasons(), drop_reasons(&[]), "a client inside them is served");
                let entry = lab.entry((n.client, 33000), (n.vip, 80), proto, CT_REQUEST).expect("an entry");
                assert_eq!(entry.to.dst, addr(to.0));
                assert_eq!(lab.counters(f).flows, 1);
            }
        }
    });
}

#[test]
fn s96_a_list_admits_by_its_longest_range_its_own_and_nobody_elses() {
    with_lab(|lab| {
        for n in &NETS {
            lab.backend(1, (n.pod, 8080), BACKEND_LOCAL);
            let syn = |client, vip| Segment::tcp((client, 33000), (vip, 80), SYN);
            let one = lab.frontend((n.vip, 80), TCP, FRONTEND_SOURCES, &[1]);
            let two = lab.frontend((n.vip2, 80), TCP, FRONTEND_SOURCES, &[1]);
            lab.check(&refused("a list without a range admits nobody", Hook::Ingress, &syn(n.client, n.vip)));
            let host = if n.client.contains(':') { 128 } else { 32 };
            lab.admit(two, n.client, host);
            lab.check(&refused("the list of another frontend does not count", Hook::Ingress, &syn(n.client, n.vip)));
            lab.check(&refused("one address is one address", Hook::Ingress, &syn(n.client2, n.vip2)));
            let (everything, _) = if n.client.contains(':') { ("::", 0) } else { ("0.0.0.0", 0) };
            lab.admit(one, everything, 0);
            for (client, vip) in [(n.client, n.vip), (n.client2, n.vip), (n.client, n.vip2)] {
                lab.forget_reasons();
                assert_eq!(lab.ingress(&syn(client, vip).bytes()).code, -1, "{client} to {vip}");
                assert_eq!(lab.reasons(), drop_reasons(&[]));
                assert!(lab.entry((client, 33000), (vip, 80), TCP, CT_REQUEST).is_some(), "{client} to {vip}");
            }
        }
    });
}

#[test]
fn s96_a_flow_that_has_its_entry_goes_on_and_without_it_is_refused() {
    with_lab(|lab| {
        for n in &NETS {
            lab.forget_flows();
            lab.backend(1, (n.pod, 8080), BACKEND_LOCAL);
            lab.frontend((n.vip, 80), TCP, 0, &[1]);
            let data = Segment::tcp((n.client, 33000), (n.vip, 80), ACK);
            lab.ingress(&Segment::tcp((n.client, 33000), (n.vip, 80), SYN).bytes());
            lab.frontend((n.vip, 80), TCP, FRONTEND_SOURCES, &[1]);
            lab.check(&Case {
                says: "whose entries stay is for the agent to say",
                hook: Hook::Ingress,
                packet: data.bytes(),
                does: Does::Pass,
                out: Some(data.leaving((n.client, 33000), (n.pod, 8080), 64).bytes()),
                reasons: &[],
            });
            lab.forget_flows();
            for hook in [Hook::Xdp, Hook::Ingress] {
                lab.check(&refused("a segment of a flow that was cut is dropped", hook, &data));
            }
            // Another node may know the flow, and must not get it all the same.
            lab.relayed_vip(n.vip, n.remote);
            for hook in [Hook::Xdp, Hook::Ingress] {
                lab.check(&refused("nor is it sent on to another node", hook, &data));
            }
        }
    });
}

#[test]
fn s96_the_proxys_packets_are_judged_by_tc_one_by_one() {
    with_lab(|lab| {
        for n in &NETS {
            let f = lab.frontend((n.vip, 80), TCP, FRONTEND_PROXY | FRONTEND_SOURCES, &[]);
            let (network, bits) = network(n);
            lab.admit(f, network, bits);
            for flags in [SYN, ACK] {
                let pass = |hook, client| Case {
                    says: "the host's stack gets it",
                    hook,
                    packet: Segment::tcp((client, 33000), (n.vip, 80), flags).bytes(),
                    does: Does::Pass,
                    out: None,
                    reasons: &[],
                };
                lab.check(&pass(Hook::Xdp, n.client2));
                lab.check(&pass(Hook::Ingress, n.client));
                let late = Segment::tcp((n.client2, 33000), (n.vip, 80), flags);
                lab.check(&refused("before the host's stack sees it", Hook::Ingress, &late));
            }
            assert_eq!(lab.counters(f).dropped_packets, 2);
            let echo = Segment::icmp(n.client2, n.vip, if n.client2.contains(':') { 128 } else { 8 }, 0);
            assert_eq!(lab.xdp(&echo.bytes()).code, 3, "an echo request is answered, whoever asks");
        }
    });
}

#[test]
fn s97_the_proxys_socket_is_for_those_in_the_ranges_and_for_the_host_itself() {
    with_lab(|lab| {
        for n in &NETS {
            let f = lab.frontend((n.vip, 443), TCP, FRONTEND_PROXY | FRONTEND_SOURCES, &[]);
            let (network, bits) = network(n);
            lab.admit(f, network, bits);
            let refusals = |lab: &mut Lab, client: &str| {
                lab.forget_reasons();
                let p: &SkLookup = lab.bpf.program(program::LOOKUP).expect("a program").try_into().expect("sk_lookup");
                let parse = |a: &str| a.parse::<std::net::IpAddr>().expect("an address");
                let (remote, local) = ((parse(client), 33000).into(), (parse(n.vip), 443).into());
                let query = LookupQuery { proto: TCP, remote, local };
                let verdict = run_lookup(p.fd().expect("loaded").as_fd(), &query).expect("a lookup");
                assert_eq!(verdict, LookupVerdict::Refused, "without the proxy nobody is served");
                lab.reasons()
            };
            assert_eq!(refusals(lab, n.client), drop_reasons(&[]), "for want of the proxy alone");
            assert_eq!(refusals(lab, n.vip), drop_reasons(&[]), "the host is its own");
            for other in [n.client2, n.pod] {
                assert_eq!(refusals(lab, other), drop_reasons(&[Reason::SourceRefused]), "{other}");
            }
        }
    });
}
