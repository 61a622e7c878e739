//! The programs: map statics and entry points.
//!
//! Every hook does the same three things: it parses, asks the path of its hook for an [`Action`](action::Action), and
//! turns that into the kernel's code. The paths are generic over [`Packet`](context::Packet), so XDP and TC cannot
//! drift apart; what each may do with a packet is in `context.rs`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(clippy::needless_borrows_for_generic_args, reason = "a key by value is a copy on a stack of 512 bytes")]

use aya_ebpf::{
    bindings::xdp_action::XDP_PASS,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SockMap},
    macros::{btf_map, classifier, sk_lookup, xdp},
    programs::{SkLookupContext, TcContext, XdpContext},
};
use sluice_ebpf::*;

mod action;
mod announce;
mod conntrack;
mod context;
mod count;
mod echo;
mod enter;
mod icmp;
mod lb;
mod lookup;
mod mesh;
mod nat;
mod opening;
mod path;
mod reject;
mod relay;
mod route;
mod side;
mod sources;

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, Frontend, { MAX_FRONTENDS as usize }> = HashMap::new();
#[btf_map]
static BACKENDS: HashMap<u32, Backend, { MAX_BACKENDS as usize }> = HashMap::new();
#[btf_map]
static TABLES: Array<TableChunk, { MAX_CHUNKS as usize }> = Array::new();
#[btf_map]
static VIPS: HashMap<Addr, Vip, { MAX_VIPS as usize }> = HashMap::new();
#[btf_map]
static CONNTRACK: LruHashMap<CtKey, CtEntry, { MAX_CONNTRACK as usize }> = LruHashMap::new();
#[btf_map]
static OPENING: LruHashMap<CtKey, CtEntry, { MAX_OPENING as usize }> = LruHashMap::new();
#[btf_map]
static SHARES: Array<Share, { MAX_FRONTENDS as usize }> = Array::new();
#[btf_map]
static CHOICE: PerCpuArray<Choice, 1> = PerCpuArray::new();
#[btf_map]
static COUNTERS: PerCpuArray<Counters, { MAX_FRONTENDS as usize }> = PerCpuArray::new();
#[btf_map]
static REASONS: PerCpuArray<u64, { Reason::CAPACITY as usize }> = PerCpuArray::new();
#[btf_map]
static UPLINKS: HashMap<u32, Uplink, { MAX_UPLINKS as usize }> = HashMap::new();
#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();
#[btf_map]
static REJECTS: PerCpuArray<Bucket, 1> = PerCpuArray::new();
#[btf_map]
static PROXY: SockMap<1> = SockMap::new();
#[btf_map]
static CLAIMED: LruHashMap<Addr, Claim, { MAX_CLAIMED as usize }> = LruHashMap::new();
#[btf_map]
static SOURCES: LpmTrie<Source, u32, { MAX_SOURCES as usize }> = LpmTrie::new();
#[btf_map]
static LEFT: HashMap<Seat, u32, { MAX_LEFT as usize }> = HashMap::new();
#[btf_map]
static HOST: HashMap<Addr, u32, { MAX_HOST as usize }> = HashMap::new();
#[btf_map]
static PEERS: HashMap<u64, u32, { MAX_PEERS as usize }> = HashMap::new();
#[btf_map]
static HEARD: LruHashMap<Addr, Heard, { MAX_CLAIMED as usize }> = LruHashMap::new();

#[btf_map]
static MESH: HashMap<MeshKey, Addr, { MAX_MESH as usize }> = HashMap::new();

/// XDP on an uplink: flows whose backend is on another node, in both directions.
#[xdp]
pub(crate) fn sluice_xdp(ctx: XdpContext) -> u32 {
    let frame = context::Frame(ctx.ctx);
    frame.finish(path::ingress(frame))
}

/// TC ingress on an uplink: everything that XDP passed.
#[classifier]
pub(crate) fn sluice_ingress(ctx: TcContext) -> i32 {
    let buffer = context::Buffer(ctx.skb.skb);
    if !buffer.prepare(true) {
        return context::NEXT;
    }
    let action = match announce::arrive(buffer) {
        Some(action) => action,
        None => path::ingress(buffer),
    };
    buffer.finish(action)
}

/// TC egress on an uplink: replies of backends on this node.
#[classifier]
pub(crate) fn sluice_egress(ctx: TcContext) -> i32 {
    let buffer = context::Buffer(ctx.skb.skb);
    if !buffer.prepare(false) {
        return context::NEXT;
    }
    let action = match announce::depart(buffer) {
        Some(action) => action,
        None => path::egress(buffer),
    };
    buffer.finish(action)
}

/// TC ingress on a side interface: replies that return to this node's own address.
#[classifier]
pub(crate) fn sluice_side_in(ctx: TcContext) -> i32 {
    let buffer = context::Buffer(ctx.skb.skb);
    if buffer.prepare(true) { buffer.finish(side::arrive(buffer)) } else { context::NEXT }
}

/// TC egress on a side interface: replies of backends on this node.
#[classifier]
pub(crate) fn sluice_side_out(ctx: TcContext) -> i32 {
    let buffer = context::Buffer(ctx.skb.skb);
    if buffer.prepare(false) { buffer.finish(path::egress(buffer)) } else { context::NEXT }
}

/// `sluice_side_in` where packets have no Ethernet header.
#[classifier]
pub(crate) fn sluice_bare_in(ctx: TcContext) -> i32 {
    let buffer = context::Buffer(ctx.skb.skb);
    if buffer.prepare(true) { buffer.finish(side::arrive_bare(buffer)) } else { context::NEXT }
}

/// `sluice_side_out` where packets have no Ethernet header.
#[classifier]
pub(crate) fn sluice_bare_out(ctx: TcContext) -> i32 {
    let buffer = context::Buffer(ctx.skb.skb);
    if buffer.prepare(false) { buffer.finish(side::leave_bare(buffer)) } else { context::NEXT }
}

/// TC ingress where pods of this node enter: what they send to a ClusterIP that the proxy serves.
#[classifier]
pub(crate) fn sluice_mesh_in(ctx: TcContext) -> i32 {
    let buffer = context::Buffer(ctx.skb.skb);
    // At a port of a bridge a frame for the host has the bridge's address, and so is another's here.
    if buffer.prepare(false) { buffer.finish(mesh::arrive(buffer)) } else { context::NEXT }
}

/// TC egress to pods of this node: what the proxy answers them.
#[classifier]
pub(crate) fn sluice_mesh_out(ctx: TcContext) -> i32 {
    let buffer = context::Buffer(ctx.skb.skb);
    if buffer.prepare(false) { buffer.finish(mesh::leave(buffer)) } else { context::NEXT }
}

/// TC, attached nowhere: sends the frame out of the interface that it is run for; 1 if it went.
#[classifier]
pub(crate) fn sluice_announce(ctx: TcContext) -> i32 {
    announce::send(context::Buffer(ctx.skb.skb)) as i32
}

/// `sk_lookup` in the node's network namespace: layer 7 frontends to the proxy's socket.
#[sk_lookup]
pub(crate) fn sluice_lookup(ctx: SkLookupContext) -> u32 {
    lookup::steer(&ctx)
}

/// XDP that passes everything.
#[xdp]
pub(crate) fn sluice_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers are offered to programs under a GPL-compatible licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
