//! Pods that dial a ClusterIP which the proxy serves: what is led there and back, and what is not.
use std::net::{IpAddr, SocketAddr, TcpListener};

use sluice_ebpf::{
    user::{LookupQuery, LookupVerdict, run_lookup},
    *,
};
use sluice_tests::packets::*;
use socket2::{Domain, Socket, Type};

/// A Service of one family: where pods dial it, where the host serves it, a pod.
struct Mesh {
    dialled: &'static str,
    served: &'static str,
    pod: &'static str,
}

/// The addresses at which the host serves are its own here, so that a connection to them can be opened in the lab.
const MESHES: [Mesh; 2] = [
    Mesh { dialled: "10.96.0.10", served: V4.node, pod: V4.node1 },
    Mesh { dialled: "fd00:10:96::a", served: V6.node, pod: V6.node1 },
];
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn serve(lab: &mut Lab, mesh: &Mesh, port: u16) {
    let mut rows = lab.hash(map::MESH);
    let (dialled, served) = (addr(mesh.dialled), addr(mesh.served));
    rows.insert(MeshKey { addr: served, port, side: MESH_SERVED }, dialled, 0).expect("insert a row");
    rows.insert(MeshKey { addr: dialled, port, side: MESH_DIALLED }, served, 0).expect("insert a row");
}

fn check(lab: &mut Lab, says: &str, hook: Hook, packet: &Segment, out: Option<&Segment>) {
    let at_up1 = |segment: &Segment| segment.clone().with_macs(REMOTE1, UP1).bytes();
    let (packet, out) = (at_up1(packet), out.map(at_up1));
    lab.check(&Case { says, hook, packet, does: Does::Pass, out, reasons: &[] });
}

/// A connection from the pod to where the Service is served, and whatever holds it.
fn connect(mesh: &Mesh, from: u16, port: u16) -> (Socket, TcpListener) {
    let at = |ip: &str, port| SocketAddr::new(ip.parse::<IpAddr>().expect("an address"), port);
    let listener = TcpListener::bind(at(mesh.served, port)).expect("a listener");
    let pod = at(mesh.pod, from);
    let socket = Socket::new(Domain::for_address(pod), Type::STREAM, None).expect("a socket");
    socket.bind(&pod.into()).expect("an address of the lab");
    socket.connect(&at(mesh.served, port).into()).expect("a connection");
    (socket, listener)
}

#[test]
fn a_new_connection_to_a_cluster_ip_is_led_to_where_it_is_served_and_its_answers_back() {
    with_lab(|lab| {
        for mesh in &MESHES {
            serve(lab, mesh, 80);
            let syn = Segment::tcp((mesh.pod, 33000), (mesh.dialled, 80), SYN);
            let led = syn.leaving((mesh.pod, 33000), (mesh.served, 80), 64);
            check(lab, "a SYN gets another destination", Hook::MeshIn, &syn, Some(&led));
            for flags in [SYN | ACK, ACK, RST] {
                let answer = Segment::tcp((mesh.served, 80), (mesh.pod, 33000), flags).carrying(b"200");
                let back = answer.leaving((mesh.dialled, 80), (mesh.pod, 33000), 64);
                check(lab, "an answer gets the ClusterIP as its source", Hook::MeshOut, &answer, Some(&back));
            }
        }
    });
}

#[test]
fn a_packet_whose_checksum_a_device_is_to_finish_is_led_as_well() {
    with_lab(|lab| {
        for mesh in &MESHES {
            serve(lab, mesh, 80);
            let syn = Segment::tcp((mesh.pod, 33000), (mesh.dialled, 80), SYN);
            let led = syn.leaving((mesh.pod, 33000), (mesh.served, 80), 64).with_macs(REMOTE1, UP1);
            // In a test run no device is told of it, so it is a wrong checksum, and stays as wrong: all before it is right.
            let output = lab.run(Hook::MeshIn, &partial(&syn.with_macs(REMOTE1, UP1)));
            let until = led.l4_offset() + 16;
            assert_eq!((output.code, &output.packet[..until]), (-1, &led.bytes()[..until]));
        }
    });
}

#[test]
fn of_what_is_no_beginning_only_the_packets_of_a_socket_are_led() {
    with_lab(|lab| {
        for mesh in &MESHES {
            serve(lab, mesh, 80);
            serve(lab, mesh, 81);
            let _held = connect(mesh, 33000, 80);
            let listens_alone = connect(mesh, 33002, 81);
            for flags in [ACK, RST, SYN | ACK, 0] {
                let of_socket = Segment::tcp((mesh.pod, 33000), (mesh.dialled, 80), flags).carrying(b"GET /");
                let led = of_socket.leaving((mesh.pod, 33000), (mesh.served, 80), 64);
                check(lab, "a connection that is open here", Hook::MeshIn, &of_socket, Some(&led));
                for (says, from, port) in [
                    ("a connection that was open before, of another port", 33001, 80),
                    ("one that a socket would take that listens", 33003, 81),
                ] {
                    let other = Segment::tcp((mesh.pod, from), (mesh.dialled, port), flags).carrying(b"GET /");
                    check(lab, says, Hook::MeshIn, &other, None);
                }
            }
            drop(listens_alone);
        }
    });
}

#[test]
fn nothing_else_is_touched() {
    with_lab(|lab| {
        for mesh in &MESHES {
            serve(lab, mesh, 80);
            for (says, packet) in [
                ("another port of the ClusterIP", Segment::tcp((mesh.pod, 33000), (mesh.dialled, 81), SYN)),
                ("a datagram", Segment::udp((mesh.pod, 33000), (mesh.dialled, 80))),
                ("another pod", Segment::tcp((mesh.pod, 33000), (mesh.pod, 80), SYN)),
                ("where it is served", Segment::tcp((mesh.pod, 33000), (mesh.served, 80), SYN)),
                ("a pod's own answer from a port like it", Segment::tcp((mesh.dialled, 80), (mesh.pod, 80), SYN | ACK)),
            ] {
                check(lab, says, Hook::MeshIn, &packet, None);
            }
            for (says, packet) in [
                ("another port of the host", Segment::tcp((mesh.served, 81), (mesh.pod, 33000), ACK)),
                ("the host as a client", Segment::tcp((mesh.served, 33000), (mesh.pod, 80), SYN)),
                ("what a ClusterIP answers", Segment::tcp((mesh.dialled, 80), (mesh.pod, 33000), SYN | ACK)),
            ] {
                check(lab, says, Hook::MeshOut, &packet, None);
            }
        }
    });
}

#[test]
fn the_proxys_socket_takes_what_is_served_and_no_other_port() {
    with_lab(|lab| {
        let listener = TcpListener::bind("[::]:0").expect("a listener");
        let sockets = lab.bpf.map_mut(map::PROXY).expect("the sockmap");
        aya::maps::SockMap::try_from(sockets).expect("a sockmap").set(PROXY_TCP, &listener, 0).expect("put it");
        let ask = |lab: &Lab, mesh: &Mesh, port: u16| {
            let p = lab.bpf.program(program::LOOKUP).expect("a program");
            let p: &aya::programs::SkLookup = p.try_into().expect("sk_lookup");
            let parse = |a: &str| a.parse::<IpAddr>().expect("an address");
            let (remote, local) = ((parse(mesh.pod), 33000).into(), (parse(mesh.served), port).into());
            let query = LookupQuery { proto: TCP, remote, local };
            run_lookup(std::os::fd::AsFd::as_fd(p.fd().expect("loaded")), &query).expect("a lookup")
        };
        for mesh in &MESHES {
            assert_eq!(ask(lab, mesh, 80), LookupVerdict::Kernel, "nothing is served yet");
            serve(lab, mesh, 80);
            assert!(matches!(ask(lab, mesh, 80), LookupVerdict::Socket(_)));
            assert_eq!(ask(lab, mesh, 81), LookupVerdict::Kernel);
        }
    });
}
