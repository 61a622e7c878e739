//! The answers that the programs make themselves, over a real veth to a real socket: its packets carry partial
//! checksums, which a test run cannot have.
use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use sluice_ebpf::*;
use sluice_tests::packets::*;

fn sh(script: &str) {
    let out = Command::new("bash").args(["-ec", script]).output().expect("run bash");
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Runs `test` in a namespace that is the other end of `up0`, as the stranger's address. The devices there finish no
/// checksum, so that a wrong one is noticed.
fn with_client(lab: &mut Lab, test: impl FnOnce() + Send + 'static) {
    let p: &mut SchedClassifier = lab.bpf.program_mut(program::INGRESS).expect("a program").try_into().expect("TC");
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    p.attach_with_options("up0", TcAttachType::Ingress, first).expect("attach to up0");
    let (tid, ready) = (mpsc::channel(), mpsc::channel());
    let client = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("make a namespace");
        tid.0.send(gettid()).expect("the test waits");
        ready.1.recv().expect("the test says so");
        sh(&format!(
            "ip link set lo up; ip addr add {}/24 dev p-up0; ip addr add {}/64 dev p-up0 nodad; ip link set p-up0 up
             ip neigh add {} lladdr 02:00:00:00:01:01 dev p-up0; ip neigh add {} lladdr 02:00:00:00:01:01 dev p-up0",
            V4.stranger, V6.stranger, V4.vip, V6.vip
        ));
        test();
    });
    sh(&format!(
        "ethtool -K up0 tx off >/dev/null; ip link set p-up0 netns {}",
        tid.1.recv().expect("the client lives")
    ));
    ready.0.send(()).expect("the client waits");
    if let Err(panic) = client.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A counter of /proc/net/snmp or snmp6 in this thread's namespace.
fn counter(name: &str) -> u64 {
    let six = fs::read_to_string("/proc/thread-self/net/snmp6").expect("snmp6");
    if let Some(line) = six.lines().find(|l| l.split_whitespace().next() == Some(name)) {
        return line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    }
    let four = fs::read_to_string("/proc/thread-self/net/snmp").expect("snmp");
    let lines: Vec<Vec<&str>> = four.lines().map(|l| l.split_whitespace().collect()).collect();
    let pair = lines.chunks(2).find_map(|p| Some((p[0].iter().position(|n| *n == name)?, &p[1])));
    pair.and_then(|(i, values)| values[i].parse().ok()).unwrap_or_else(|| panic!("no counter {name}"))
}

fn vip(n: &Net, port: u16) -> SocketAddr {
    (n.vip.parse::<IpAddr>().expect("an address"), port).into()
}

#[test]
fn a_socket_is_refused_at_once() {
    with_lab(|lab| {
        for n in &NETS {
            lab.frontend((n.vip, 80), TCP, 0, &[]);
            lab.frontend((n.vip, 53), UDP, 0, &[]);
        }
        with_client(lab, || {
            for n in &NETS {
                for port in [80, 81] {
                    let refused = TcpStream::connect_timeout(&vip(n, port), Duration::from_secs(3)).map(drop);
                    assert_eq!(
                        refused.map_err(|e| e.kind()),
                        Err(ErrorKind::ConnectionRefused),
                        "TCP {}",
                        vip(n, port)
                    );
                }
                for port in [53, 54] {
                    let any = if n.vip == V4.vip { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).expect("a socket");
                    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
                    socket.connect(vip(n, port)).expect("a name for the other end");
                    socket.send(b"hello").expect("send");
                    let answer = socket.recv(&mut [0; 16]).map_err(|e| e.kind());
                    assert_eq!(answer, Err(ErrorKind::ConnectionRefused), "UDP {}", vip(n, port));
                }
            }
            for name in ["InCsumErrors", "Icmp6InCsumErrors", "Udp6InCsumErrors"] {
                assert_eq!(counter(name), 0, "{name}");
            }
        });
    });
}
