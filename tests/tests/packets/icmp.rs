//! ICMP and ICMPv6 for an owned VIP.
use sluice_ebpf::*;
use sluice_tests::packets::*;

const HOOKS: [Hook; 2] = [Hook::Xdp, Hook::Ingress];

/// The type of an echo request and its reply.
fn echo(n: &Net) -> (u8, u8) {
    if n.vip == V4.vip { (8, 0) } else { (128, 129) }
}

#[test]
fn an_echo_request_is_answered_in_place() {
    with_lab(|lab| {
        for n in &NETS {
            lab.vip(n.vip, VIP_ECHO);
            let (ask, reply) = echo(n);
            for len in [0, 1, 56, 57, 1000, 1400] {
                for ttl in [1, 64, 255] {
                    let request = Segment { ttl, ..Segment::icmp(n.client, n.vip, ask, 0) }.carrying(&vec![0x31; len]);
                    let answer = Segment {
                        l4: L4::Icmp(reply, 0, [0x12, 0x34, 0, 1]),
                        src: request.dst,
                        dst: request.src,
                        macs: (request.macs.1, request.macs.0),
                        ttl: 64,
                        ..request.clone()
                    };
                    for hook in HOOKS {
                        lab.check(&Case {
                            says: &format!("an echo request of {len} bytes, time to live {ttl} (S108)"),
                            hook,
                            packet: request.bytes(),
                            does: Does::Bounce,
                            out: Some(answer.bytes()),
                            reasons: &[Reason::EchoReplied],
                        });
                    }
                }
            }
        }
    });
}

/// Errors and neighbour discovery: what the stack takes for its own sockets and neighbours.
fn of_the_stack(n: &Net) -> &'static [u8] {
    if n.vip == V4.vip { &[3, 11, 12] } else { &[1, 2, 3, 4, 133, 134, 135, 136, 137] }
}

#[test]
fn what_else_is_icmp() {
    with_lab(|lab| {
        for n in &NETS {
            let v4 = n.vip == V4.vip;
            lab.vip(n.vip, VIP_ECHO | VIP_PROXY);
            lab.vip(n.vip2, VIP_REJECT | VIP_PROXY);
            let (ask, reply) = echo(n);
            let message = |dst: &str, kind| Segment::icmp(n.client, dst, kind, 0).bytes();
            for hook in HOOKS {
                let pass = |says, packet| Case { says, hook, packet, does: Does::Pass, out: None, reasons: &[] };
                lab.check(&pass("an echo request to a stranger", message(n.stranger, ask)));
                lab.check(&pass("the stack may answer echo where we do not", message(n.vip2, ask)));
                for kind in of_the_stack(n) {
                    lab.check(&pass("errors and neighbour discovery are the stack's", message(n.vip, *kind)));
                }
                let drop = |says, packet, reasons| Case { says, hook, packet, does: Does::Drop, out: None, reasons };
                let others: &[u8] = if v4 { &[0, 4, 5, 9, 13, 17] } else { &[129, 130, 139, 200] };
                for kind in others {
                    lab.check(&drop("any other message", message(n.vip, *kind), &[Reason::Protocol]));
                }
                let own = Segment::icmp(n.vip, n.vip, ask, 0).bytes();
                lab.check(&drop("an echo request from the VIP itself", own, &[Reason::Malformed]));
                assert_ne!(ask, reply);
            }
        }
    });
}

#[test]
fn without_the_proxy_the_stack_gets_no_icmp_for_a_vip() {
    with_lab(|lab| {
        for n in &NETS {
            lab.vip(n.vip, VIP_ECHO | VIP_REJECT);
            lab.vip(n.vip2, VIP_REJECT);
            let message = |dst: &str, kind| Segment::icmp(n.client, dst, kind, 0).bytes();
            for hook in HOOKS {
                let drop = |says, packet| {
                    let reasons = &[Reason::Protocol];
                    Case { says, hook, packet, does: Does::Drop, out: None, reasons }
                };
                for kind in of_the_stack(n) {
                    let is_error = *kind < if n.vip == V4.vip { 13 } else { 5 };
                    if hook == Hook::Xdp && (*kind == 135 || is_error) {
                        let packet = message(n.vip, *kind);
                        let says = "a solicitation and an error are TC's to judge";
                        lab.check(&Case { says, hook, packet, does: Does::Pass, out: None, reasons: &[] });
                        continue;
                    }
                    let says = "the stack has no such address and would send it back where it came from";
                    lab.check(&drop(says, message(n.vip, *kind)));
                    let node = message(n.node, *kind);
                    let says = "what is for the node itself is the stack's";
                    lab.check(&Case { says, hook, packet: node, does: Does::Pass, out: None, reasons: &[] });
                }
                lab.check(&drop("a VIP that does not answer echo", message(n.vip2, echo(n).0)));
            }
        }
    });
}
