//! What splicing a stream in the kernel would be: whatever comes in at the socket in `FROM` goes out at the one in `TO`.
//!
//! No part of the agent. `tests/tests/packets/splice.rs` runs it and shows why: the kernel does not hold a sender back whose bytes the
//! other side does not take.
#![no_std]
#![no_main]

use aya_ebpf::{
    btf_maps::SockMap,
    macros::{btf_map, stream_verdict},
    programs::SkBuffContext,
};

#[btf_map]
static FROM: SockMap<1> = SockMap::new();
#[btf_map]
static TO: SockMap<1> = SockMap::new();

/// Of sockets in `FROM`, for which it is attached.
#[stream_verdict]
pub(crate) fn sluice_splice(ctx: SkBuffContext) -> u32 {
    TO.redirect_skb(&ctx, 0, 0) as u32
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers are offered to programs under a GPL-compatible licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
