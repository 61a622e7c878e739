//! The way of a packet between a pod of this node and the proxy that serves a Service's ClusterIP.
//!
//! A pod's packet is seen where it enters the host, before netfilter, and so before kube-proxy: one to a ClusterIP and port that is in
//! `MESH` gets the address of this host at which the proxy serves it, and on the way back the ClusterIP as its source again. Both are
//! one look-up and a rewrite; nothing is remembered here, and the client's address stays.
//!
//! # Design
//!
//! - A flow that was open before the proxy served its ClusterIP is kube-proxy's, and stays: of packets other than the first of a
//!   connection only those are led to the proxy to whose ends a socket belongs.
//! - Fragments, options and what is no TCP pass: kube-proxy serves those as it did.
use crate::{
    MESH,
    action::Action,
    context::{Buffer, Packet},
    count,
};
use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp},
};
use sluice_ebpf::{
    csum,
    flow::tcp,
    packet::{ETH_LEN, Headers, Parsed, unmapped},
    *,
};

/// A socket that listens. Source: `BPF_TCP_LISTEN` in `linux/bpf.h`.
const LISTEN: u32 = 10;
/// The network namespace that the packet is in.
const HERE: u64 = u64::MAX;

/// A packet of a pod that arrives.
#[inline(always)]
pub(crate) fn arrive(p: Buffer) -> Action {
    let mut h = Headers::default();
    let Some(served) = other(p, &mut h, MESH_DIALLED) else { return Action::Pass };
    let is_first = h.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    if !is_first && has_socket(p, &h, &served) == 0 {
        return Action::Pass;
    }
    Action::unpack(rewrite(p, &h, &served, MESH_DIALLED as u32))
}

/// A packet that leaves for a pod.
#[inline(always)]
pub(crate) fn leave(p: Buffer) -> Action {
    let mut h = Headers::default();
    let Some(dialled) = other(p, &mut h, MESH_SERVED) else { return Action::Pass };
    Action::unpack(rewrite(p, &h, &dialled, MESH_SERVED as u32))
}

/// Puts an address in the place of that of one end. Not inlined, for the stack.
#[inline(never)]
fn rewrite(p: Buffer, h: &Headers, with: &Addr, side: u32) -> u64 {
    let action = match replace(p, h, with, side == MESH_DIALLED as u32) {
        Some(()) => Action::Pass,
        None => count::drop(Reason::Rewrite),
    };
    action.pack()
}

/// `None` leaves a packet half changed, to be dropped.
#[inline(always)]
fn replace(p: Buffer, h: &Headers, with: &Addr, is_destination: bool) -> Option<()> {
    let old = if is_destination { &h.key.tuple.dst } else { &h.key.tuple.src };
    let (o, n) = (csum::words(old), csum::words(with));
    let b = p.bounds();
    let last = csum::diff(o[3], n[3]);
    let addrs = if h.v6 {
        b.write::<[u16; 8]>(ETH_LEN + if is_destination { 24 } else { 8 }, bytemuck::cast(*with))?;
        last + csum::diff(o[0], n[0]) + csum::diff(o[1], n[1]) + csum::diff(o[2], n[2])
    } else {
        let check = b.read::<u16>(ETH_LEN + 10)?;
        b.write(ETH_LEN + 10, csum::apply(check, last))?;
        b.write(ETH_LEN + if is_destination { 16 } else { 12 }, unmapped(with))?;
        last
    };
    p.fix_l4(h, addrs, 0, 0)
}

/// The address that one end of the packet has on the other side; `None` for a packet of nobody's.
#[inline(always)]
fn other(p: Buffer, h: &mut Headers, side: u16) -> Option<Addr> {
    if !matches!(p.parse(h), Parsed::Flow) || h.key.proto != TCP {
        return None;
    }
    let t = &h.key.tuple;
    let (addr, port) = if side == MESH_DIALLED { (t.dst, t.dst_port) } else { (t.src, t.src_port) };
    // SAFETY: read at once; the kernel keeps the memory until the program ends.
    MESH.get_ptr(&MeshKey { addr, port, side }).map(|found| unsafe { *found })
}

/// 1 if the packet's connection, served at this address, has a socket of this host, be it about to end. Not inlined, for the stack.
#[inline(never)]
fn has_socket(p: Buffer, h: &Headers, served: &Addr) -> u64 {
    let t = &h.key.tuple;
    let ports = [t.src_port.to_be(), t.dst_port.to_be()];
    let is_open = if h.v6 {
        let ends: [u32; 9] = bytemuck::cast(Ends6 { src: t.src.octets, dst: served.octets, ports });
        is_open(p, &ends)
    } else {
        let ends: [u32; 3] = bytemuck::cast(Ends4 { src: unmapped(&t.src), dst: unmapped(served), ports });
        is_open(p, &ends)
    };
    is_open as u64
}

/// `bpf_sock_tuple.ipv4`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Ends4 {
    src: [u16; 2],
    dst: [u16; 2],
    ports: [u16; 2],
}

/// `bpf_sock_tuple.ipv6`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Ends6 {
    src: [u8; 16],
    dst: [u8; 16],
    ports: [u16; 2],
}

#[inline(always)]
fn is_open<const WORDS: usize>(p: Buffer, ends: &[u32; WORDS]) -> bool {
    let tuple = ends.as_ptr().cast_mut().cast::<bpf_sock_tuple>();
    let size = size_of::<[u32; WORDS]>() as u32;
    // SAFETY: a helper that reads the tuple; the socket is asked for its state while it is held, and given back.
    unsafe {
        let socket: *mut bpf_sock = bpf_skc_lookup_tcp(p.ctx(), tuple, size, HERE, 0);
        if socket.is_null() {
            return false;
        }
        let state = core::ptr::read_volatile(&raw const (*socket).state);
        bpf_sk_release(socket.cast());
        state != LISTEN
    }
}
