//! The packet as each hook gives it: [`Frame`] in XDP, [`Buffer`] in TC; the only place that reads kernel contexts.
//!
//! # Design
//!
//! The two differ in three things, which are the methods of [`Packet`]: where the bytes are, how a layer 4 checksum is
//! adjusted, and which code means what. XDP sees raw bytes, so it must finish a checksum that a local sender left to
//! the device; TC has the kernel's helpers, which know about offloads.
use crate::{action::Action, icmp, reject};
use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, TC_ACT_REDIRECT, TC_ACT_SHOT, xdp_action::*, xdp_md},
    helpers::*,
};
use core::{arch::asm, ffi::c_void, mem::offset_of};
use sluice_ebpf::{
    Reason, UDP, csum,
    packet::{Bounds, ETH_LEN, ETH_TAG, Headers, L4_MAX, Parsed, TAG_LEN, TAG_VLAN, Tagged, parse},
};

/// TCX: on to the next program.
pub(crate) const NEXT: i32 = -1;
/// The address family of the pseudo header is IPv6: keeps `CHECKSUM_COMPLETE` right (Linux 6.16, ignored before).
const BPF_F_IPV6: u64 = 128;
/// A checksum of zero stays zero.
const BPF_F_MARK_MANGLED_0: u64 = 32;
/// Bytes of a buffer that are summed at once.
const PIECE: u32 = 64;
/// So many of them at most: a packet of 9216 bytes.
const MAX_PIECES: u32 = 144;
/// `skb->pkt_type` of a frame for another host.
const PACKET_OTHERHOST: u32 = 3;

/// A packet at a hook.
pub(crate) trait Packet: Copy {
    /// Is it XDP, where only whole flows between nodes are handled?
    const XDP: bool;
    /// The kernel's context.
    fn ctx(self) -> *mut c_void;
    /// The linear bytes, to be asked anew after every helper that may move them.
    fn bounds(self) -> Bounds;
    /// All bytes, from the Ethernet header on.
    fn frame_len(self) -> u32;
    /// Is it a super-packet that will be cut by the device?
    fn is_gso(self) -> bool;
    /// The interface it came in on, or goes out of.
    fn ifindex(self) -> u32;
    /// Parses the packet into `h`, which must be fresh. In XDP a priority tag is taken off before.
    fn parse(self, h: &mut Headers) -> Parsed;
    /// Adjusts the layer 4 checksum to addresses and ports that have been written; the differences are the sums of
    /// `csum::diff_addrs` and `csum::diff_ports`, `new` the sum of the pseudo header now.
    fn fix_l4(self, h: &Headers, addrs: u64, ports: u64, new: u64) -> Option<()>;
    /// Puts back the priority tag that the parse took off.
    fn tag(self, tag: u32) -> Option<()>;
    /// Is the layer 4 checksum right, or still to be finished by a device? What cannot be read is not right.
    fn sums_up(self, h: &Headers) -> bool;
    /// What to do with an ICMP error about a tracked flow; `None` for any other message. XDP leaves all errors to TC.
    fn icmp_error(self, h: &Headers) -> Option<Action>;
    /// Answers a packet that has no backend; XDP leaves that to TC.
    fn reject(self, h: &Headers, why: Reason, now: u64) -> Action;
}

const _: () = {
    assert!(offset_of!(xdp_md, data) == 0 && offset_of!(xdp_md, data_end) == 4);
    assert!(offset_of!(__sk_buff, data) == 76 && offset_of!(__sk_buff, data_end) == 80);
};

/// Loads a packet pointer from the context.
///
/// The fields are declared as `u32`, and the verifier makes pointers of them. The compiler must not know the former: it
/// would spill 32 bits of the pointer to the stack, which the verifier refuses.
///
/// # Safety
/// `ctx` is the program's context, with such a field at `OFFSET`.
#[inline(always)]
unsafe fn load<const OFFSET: usize>(ctx: *mut c_void) -> usize {
    let p: usize;
    // SAFETY: the caller's promise.
    unsafe {
        asm!("{p} = *(u32 *)({ctx} + {at})", p = out(reg) p, ctx = in(reg) ctx, at = const OFFSET, options(nostack));
    }
    p
}

/// Offset of the checksum in the layer 4 header.
#[inline(always)]
const fn check_offset(h: &Headers) -> usize {
    h.l4() + if h.key.proto == UDP { 6 } else { 16 }
}

/// A frame in XDP.
#[derive(Clone, Copy)]
pub(crate) struct Frame(pub(crate) *mut xdp_md);

impl Packet for Frame {
    const XDP: bool = true;

    #[inline(always)]
    fn ctx(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn bounds(self) -> Bounds {
        // SAFETY: the context outlives the program; between `data` and `data_end` is the packet, 2-aligned.
        unsafe { Bounds::new(load::<0>(self.ctx()), load::<4>(self.ctx())) }
    }

    #[inline(always)]
    fn frame_len(self) -> u32 {
        self.bounds().len() as u32
    }

    #[inline(always)]
    fn is_gso(self) -> bool {
        false
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the context outlives the program.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    fn parse(self, h: &mut Headers) -> Parsed {
        Parsed::unpack(parse_frame(self.0, h))
    }

    #[inline(always)]
    fn fix_l4(self, h: &Headers, addrs: u64, ports: u64, new: u64) -> Option<()> {
        let (b, at) = (self.bounds(), check_offset(h));
        let old = b.read::<u16>(at)?;
        if h.key.proto == UDP && old == 0 {
            return Some(());
        }
        let check = if csum::is_partial(old, csum::pseudo(&h.key.tuple, h.key.proto, h.l4_len, h.v6)) {
            b.write(at, csum::fold(new))?;
            let sum = sum_l4(self.0, h.l4() as u32, h.l4_len);
            if sum == u64::MAX {
                return None;
            }
            !csum::fold(sum)
        } else {
            csum::apply(old, addrs + ports)
        };
        self.bounds().write(at, if h.key.proto == UDP { csum::udp(check) } else { check })
    }

    #[inline(always)]
    fn tag(self, tag: u32) -> Option<()> {
        // SAFETY: a helper; the room was there before the tag was taken off.
        if unsafe { bpf_xdp_adjust_head(self.0, -(TAG_LEN as i32)) } != 0 {
            return None;
        }
        let b = self.bounds();
        let macs = b.read::<[u16; 6]>(TAG_LEN)?;
        b.write(0, macs)?;
        b.write(12, [ETH_TAG.to_be(), tag as u16])
    }

    #[inline(always)]
    fn sums_up(self, h: &Headers) -> bool {
        is_right_frame(self.0, h) != 0
    }

    #[inline(always)]
    fn icmp_error(self, h: &Headers) -> Option<Action> {
        let [message, _] = self.bounds().read::<[u8; 2]>(h.l4())?;
        icmp::is_error(h.v6, message).then_some(Action::Pass)
    }

    #[inline(always)]
    fn reject(self, _: &Headers, _: Reason, _: u64) -> Action {
        Action::Pass
    }
}

impl Frame {
    /// The kernel's code.
    #[inline(always)]
    pub(crate) fn finish(self, action: Action) -> u32 {
        match action {
            Action::Pass => XDP_PASS,
            Action::Drop | Action::Handed => XDP_DROP,
            Action::Bounce => XDP_TX,
            // SAFETY: a helper with scalar arguments.
            Action::Redirect(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
        }
    }
}

/// Parses a frame; a global function, so that the verifier walks through the parse once and then forgets its paths.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn parse_frame(ctx: *mut xdp_md, h: *mut Headers) -> u32 {
    let parsed = parse_into(Frame(ctx), h);
    match (parsed == Parsed::Foreign.pack()).then(|| untag(ctx)).flatten() {
        Some(tag) => {
            let parsed = parse_into(Frame(ctx), h);
            // SAFETY: the caller's own value, which the verifier wants checked all the same.
            if let Some(h) = unsafe { h.as_mut() } {
                h.tag = tag;
            }
            parsed
        }
        None => parsed,
    }
}

/// Takes a priority tag off an IP packet. (In TC the kernel has done that, and keeps the tag beside the packet.)
#[inline(always)]
fn untag(ctx: *mut xdp_md) -> Option<u32> {
    let b = Frame(ctx).bounds();
    let eth = b.read::<Tagged>(0)?;
    let tag = eth.priority();
    // The header must move as a whole or not at all.
    if tag == 0 || b.at(0, size_of::<Tagged>() + ETH_LEN).is_none() {
        return None;
    }
    b.write(TAG_LEN, eth.macs)?;
    // SAFETY: a helper; the packet is longer than what is cut off.
    if unsafe { bpf_xdp_adjust_head(ctx, TAG_LEN as i32) } != 0 {
        Frame(ctx).bounds().write(0, eth)?;
        return None;
    }
    Some(tag)
}

/// Parses a buffer, as [`parse_frame`] does.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn parse_buffer(ctx: *mut __sk_buff, h: *mut Headers) -> u32 {
    parse_into(Buffer(ctx), h)
}

#[inline(always)]
fn parse_into<P: Packet>(p: P, h: *mut Headers) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    match unsafe { h.as_mut() } {
        Some(h) => parse(p.bounds(), p.frame_len(), p.is_gso(), h).pack(),
        None => Parsed::Foreign.pack(),
    }
}

/// The sum of `len` bytes at `off`, or `u64::MAX` when they are not all there.
///
/// A global function: the verifier checks it once, alone, and not at every place that calls it. The pieces have
/// constant sizes, since "512 more bytes are there" can be proved and "`len` more" cannot.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn sum_l4(ctx: *mut xdp_md, off: u32, len: u32) -> u64 {
    if off as usize > L4_MAX {
        return u64::MAX;
    }
    let b = Frame(ctx).bounds();
    let (mut at, mut left, mut sum) = (off as usize, len, 0u64);
    // 512 bytes at a time for frames of up to 9216 bytes, then fewer, then what remains.
    for _ in 0..18 {
        if left < 512 || add::<512>(b, &mut at, &mut left, &mut sum).is_none() {
            break;
        }
    }
    for _ in 0..8 {
        if left < PIECE || add::<PIECE>(b, &mut at, &mut left, &mut sum).is_none() {
            break;
        }
    }
    if left >= PIECE {
        return u64::MAX;
    }
    let last = left & (PIECE - 1);
    if last == 0 {
        return sum;
    }
    let mut piece = [0u64; PIECE as usize / 8];
    // SAFETY: helpers; `last` is less than the size of the buffer, which is zero behind what is loaded.
    unsafe {
        if bpf_xdp_load_bytes(ctx, at as u32, piece.as_mut_ptr().cast(), last) != 0 {
            return u64::MAX;
        }
        bpf_csum_diff(core::ptr::null_mut(), 0, piece.as_mut_ptr().cast(), PIECE, sum as u32) as u32 as u64
    }
}

/// The same of a buffer of any form, piece by piece over the stack.
#[inline(always)]
fn sum_buffer(ctx: *mut __sk_buff, off: u32, len: u32) -> u64 {
    let mut piece = [0u64; PIECE as usize / 8];
    let (mut at, mut left, mut sum) = (off, len, 0u32);
    let mut add = |size: u32, at: u32| {
        // SAFETY: helpers; `size` is at most that of the buffer, which is zero behind what is loaded.
        unsafe {
            let loaded = bpf_skb_load_bytes(ctx.cast(), at, piece.as_mut_ptr().cast(), size);
            sum = bpf_csum_diff(core::ptr::null_mut(), 0, piece.as_mut_ptr().cast(), PIECE, sum) as u32;
            piece = [0; PIECE as usize / 8];
            loaded == 0
        }
    };
    for _ in 0..MAX_PIECES {
        if left < PIECE {
            break;
        }
        if !add(PIECE, at) {
            return u64::MAX;
        }
        at += PIECE;
        left -= PIECE;
    }
    if left >= PIECE || left != 0 && !add(left & (PIECE - 1), at) {
        return u64::MAX;
    }
    sum as u64
}

/// Is the layer 4 checksum of a frame right? A global function, for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_right_frame(ctx: *mut xdp_md, h: *const Headers) -> u32 {
    is_right(Frame(ctx), h, |off, len| sum_l4(ctx, off, len)) as u32
}

/// The same of a buffer.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_right_buffer(ctx: *mut __sk_buff, h: *const Headers) -> u32 {
    is_right(Buffer(ctx), h, |off, len| sum_buffer(ctx, off, len)) as u32
}

/// Compares the layer 4 checksum with the sum of the packet.
#[inline(always)]
fn is_right<P: Packet>(p: P, h: *const Headers, sum: impl Fn(u32, u32) -> u64) -> bool {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(h) = (unsafe { h.as_ref() }) else { return false };
    let Some(check) = p.bounds().read::<u16>(check_offset(h)) else { return false };
    let pseudo = csum::pseudo(&h.key.tuple, h.key.proto, h.l4_len, h.v6);
    if csum::is_partial(check, pseudo) {
        return true;
    }
    let sum = sum(h.l4() as u32, h.l4_len);
    sum != u64::MAX && csum::fold(sum + pseudo) == 0xffff
}

/// Adds `N` bytes.
#[inline(always)]
fn add<const N: u32>(b: Bounds, at: &mut usize, left: &mut u32, sum: &mut u64) -> Option<()> {
    let p = b.at(*at, N as usize)?;
    // SAFETY: `at` checked that the bytes are there; the helper only reads them.
    let s = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, p as *mut _, N, *sum as u32) };
    *sum = s as u32 as u64;
    *at += N as usize;
    *left -= N;
    Some(())
}

/// A socket buffer in TC.
#[derive(Clone, Copy)]
pub(crate) struct Buffer(pub(crate) *mut __sk_buff);

impl Packet for Buffer {
    const XDP: bool = false;

    #[inline(always)]
    fn ctx(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    fn bounds(self) -> Bounds {
        // SAFETY: the context outlives the program; between `data` and `data_end` is the packet's head, 2-aligned.
        unsafe { Bounds::new(load::<76>(self.ctx()), load::<80>(self.ctx())) }
    }

    #[inline(always)]
    fn frame_len(self) -> u32 {
        // SAFETY: the context outlives the program.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn is_gso(self) -> bool {
        // SAFETY: the context outlives the program.
        unsafe { (*self.0).gso_size != 0 }
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the context outlives the program.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    fn parse(self, h: &mut Headers) -> Parsed {
        Parsed::unpack(parse_buffer(self.0, h))
    }

    #[inline(always)]
    fn fix_l4(self, h: &Headers, addrs: u64, ports: u64, _new: u64) -> Option<()> {
        let at = check_offset(h) as u32;
        let zero = if h.key.proto == UDP { BPF_F_MARK_MANGLED_0 } else { 0 };
        let pseudo = BPF_F_PSEUDO_HDR as u64 | if h.v6 { BPF_F_IPV6 } else { 0 };
        // Size 0: the value is a difference.
        // SAFETY: helpers that check the offset themselves.
        let (a, p) = unsafe {
            let a = bpf_l4_csum_replace(self.0, at, 0, csum::fold32(addrs) as u64, pseudo | zero);
            (a, bpf_l4_csum_replace(self.0, at, 0, csum::fold32(ports) as u64, zero))
        };
        (a == 0 && p == 0).then_some(())
    }

    #[inline(always)]
    fn tag(self, _: u32) -> Option<()> {
        Some(())
    }

    #[inline(always)]
    fn sums_up(self, h: &Headers) -> bool {
        // Of what was put together from several packets each has been checked.
        self.is_gso() || is_right_buffer(self.0, h) != 0
    }

    #[inline(always)]
    fn icmp_error(self, h: &Headers) -> Option<Action> {
        icmp::arrive(self, h)
    }

    #[inline(always)]
    fn reject(self, h: &Headers, why: Reason, now: u64) -> Action {
        Action::unpack(reject::answer(self, h, why as u32, now))
    }
}

impl Buffer {
    /// Makes the headers linear; `false` for what is not ours to look at: a frame of a VLAN, whose tag is beside the packet,
    /// or one that arrived for another host. A tag without a VLAN is a priority, and what is ours goes out without it.
    #[inline(always)]
    pub(crate) fn prepare(self, arrived: bool) -> bool {
        // SAFETY: the context outlives the program.
        let (tagged, kind) = unsafe { ((*self.0).vlan_present, (*self.0).pkt_type) };
        if (tagged != 0 && !self.is_priority()) || (arrived && kind == PACKET_OTHERHOST) {
            return false;
        }
        let want = self.frame_len().min(L4_MAX as u32 + 60);
        if (self.bounds().len() as u32) < want {
            // SAFETY: a helper; failing, it leaves the packet cut off, which the parse finds.
            unsafe { bpf_skb_pull_data(self.0, want) };
        }
        true
    }

    /// The ethertype that the kernel gives the packet, network order.
    #[inline(always)]
    pub(crate) fn ethertype(self) -> u16 {
        // SAFETY: the context outlives the program.
        unsafe { (*self.0).protocol as u16 }
    }

    /// Puts an Ethernet header before a packet that has none, its addresses zero.
    #[inline(always)]
    pub(crate) fn cover(self, ethertype: u16) -> Option<()> {
        // SAFETY: a helper; failing, it leaves the packet as it is.
        if unsafe { bpf_skb_change_head(self.0, ETH_LEN as u32, 0) } != 0 {
            return None;
        }
        self.bounds().write(12, ethertype)
    }

    /// Is its tag one without a VLAN?
    #[inline(always)]
    fn is_priority(self) -> bool {
        // SAFETY: the context outlives the program.
        let (kind, tag) = unsafe { ((*self.0).vlan_proto, (*self.0).vlan_tci) };
        kind == ETH_TAG.to_be() as u32 && tag & TAG_VLAN as u32 == 0
    }

    /// The kernel's code.
    #[inline(always)]
    pub(crate) fn finish(self, action: Action) -> i32 {
        // SAFETY: the context outlives the program; a helper.
        let leaves = !matches!(action, Action::Pass | Action::Drop);
        if leaves && unsafe { (*self.0).vlan_present } != 0 && unsafe { bpf_skb_vlan_pop(self.0) } != 0 {
            return TC_ACT_SHOT;
        }
        match action {
            Action::Pass => NEXT,
            Action::Drop => TC_ACT_SHOT,
            // SAFETY: a helper with scalar arguments.
            Action::Bounce => unsafe { bpf_redirect(self.ifindex(), 0) as i32 },
            Action::Handed => TC_ACT_REDIRECT as i32,
            // SAFETY: without a next hop the kernel looks for one itself.
            Action::Redirect(ifindex) => unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 },
        }
    }
}
