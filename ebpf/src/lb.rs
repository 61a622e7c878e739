//! A new flow: from the frontend to a backend, and on to the entries that the rest of the flow follows.
//!
//! Comes in: a whole TCP or UDP packet without a living entry. Goes out: either the entries exist, or an action. The
//! packet itself is not touched.
//!
//! # Design
//!
//! The steps are functions of their own, one after the other and not nested, because a program has 512 bytes of stack
//! for all frames at once. They share [`Choice`], which is not on that stack but in a map, a row for each CPU, and return a
//! packed [`Opened`], since only one register comes back.
use crate::{
    BACKENDS, CHOICE, FRONTENDS, HOST, TABLES, UPLINKS, VIPS,
    action::Action,
    context::{Buffer, Frame, Packet},
    count, enter,
    route::{self, Way},
    sources,
};
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use sluice_ebpf::{flow, packet::Headers, *};

/// What came of a new flow.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) enum Opened {
    /// It has its entries, or may go on to the next step towards them.
    Chosen,
    /// It has none, and this is what to do with the packet.
    Refused(Action),
    /// A reply should say why not.
    Reject(Reason),
}

/// Packed form of [`Opened::Chosen`].
const CHOSEN: u64 = 0xff;
/// Where what [`choose`] says besides begins.
const FLAGS_AT: u32 = 32;
/// The frontend is the proxy's; beyond the bits of a backend.
const IS_PROXIED: u64 = 1 << 16;
/// Mark of the packed form of [`Opened::Reject`].
const REJECT: u64 = 0x1000;

impl Opened {
    #[inline(always)]
    const fn pack(self) -> u64 {
        match self {
            Self::Chosen => CHOSEN,
            Self::Refused(action) => action.pack(),
            Self::Reject(reason) => REJECT | reason as u64,
        }
    }

    #[inline(always)]
    const fn unpack(packed: u64) -> Self {
        const NO_BACKEND: u64 = Opened::Reject(Reason::NoBackend).pack();
        const NO_FRONTEND: u64 = Opened::Reject(Reason::NoFrontend).pack();
        match packed {
            CHOSEN => Self::Chosen,
            NO_BACKEND => Self::Reject(Reason::NoBackend),
            NO_FRONTEND => Self::Reject(Reason::NoFrontend),
            _ => Self::Refused(Action::unpack(packed)),
        }
    }
}

/// Opens a flow.
#[inline(always)]
pub(crate) fn open<P: Packet>(p: P, h: &Headers, now: u64) -> Opened {
    Opened::unpack(open_packed(p, h, now))
}

#[inline(never)]
fn open_packed<P: Packet>(p: P, h: &Headers, now: u64) -> u64 {
    // SAFETY: this CPU's own, and no hook interrupts another on one CPU; array values are never freed.
    let Some(choice) = CHOICE.get_ptr_mut(0).map(|c| unsafe { &mut *c }) else { return Action::Drop.pack() };
    *choice = Choice::default();
    choice.entry.seen = now;
    choice.entry.created = now;
    let hash = flow::hash(&h.key.tuple, h.key.proto);
    let packed = choose(p, h, choice, hash);
    let (packed, flags) = (packed & ((1 << FLAGS_AT) - 1), packed >> FLAGS_AT);
    if packed != CHOSEN {
        // Of the proxy's connections the first segment is enough: the stack takes no other of one that it does not have.
        let opens = !P::XDP && flags & IS_PROXIED != 0 && h.tcp_flags & flow::tcp::SYN != 0;
        if opens && is_forged(&h.key.tuple.src) != 0 {
            return refuse(choice.entry.frontend, Reason::SourceForged).pack();
        }
        return packed;
    }
    if is_forged(&h.key.tuple.src) != 0 {
        return refuse(choice.entry.frontend, Reason::SourceForged).pack();
    }
    let packed = find_source(p, h, choice, flags);
    if packed != CHOSEN {
        return packed;
    }
    let frontend = choice.entry.frontend;
    match enter::enter(p, h, choice, hash) {
        Ok(()) => {
            count::began(frontend);
            CHOSEN
        }
        Err(reason) => refuse(frontend, reason).pack(),
    }
}

/// Drops a packet of a frontend.
#[inline(always)]
fn refuse(frontend: u32, why: Reason) -> Opened {
    Opened::Refused(count::drop_of(frontend, why))
}

/// Leaves the packet to TC when this is XDP, which decides only what it can finish; drops it in TC.
#[inline(always)]
fn leave<P: Packet>(_: P, frontend: u32, why: Reason) -> Opened {
    if P::XDP { Opened::Refused(Action::Pass) } else { refuse(frontend, why) }
}

/// Step 1: the frontend's table names the backend. Behind the packed outcome are its `BACKEND_*` bits, or [`IS_PROXIED`].
#[inline(never)]
fn choose<P: Packet>(p: P, h: &Headers, choice: &mut Choice, hash: u32) -> u64 {
    let mut flags = 0;
    let packed = try_choose(p, h, choice, hash, &mut flags).pack();
    packed | flags << FLAGS_AT
}

#[inline(always)]
fn try_choose<P: Packet>(p: P, h: &Headers, choice: &mut Choice, hash: u32, flags: &mut u64) -> Opened {
    let t = &h.key.tuple;
    let mut key = FrontendKey { vip: t.dst, port: t.dst_port, proto: h.key.proto, family: if h.v6 { 6 } else { 4 } };
    // SAFETY: the kernel keeps the memory until the program ends; the agent replaces values, it does not write them.
    let Some(f) = FRONTENDS.get_ptr(&key).map(|f| unsafe { &*f }) else { return unnamed(p, h) };
    // The proxy's packets come by here one by one: once each is enough.
    let is_passed = P::XDP && f.flags & FRONTEND_PROXY != 0;
    if !is_passed && !sources::admits(f, &t.src) {
        return refuse(f.id, Reason::SourceRefused);
    }
    if f.flags & FRONTEND_PROXY != 0 {
        choice.entry.frontend = f.id;
        *flags = IS_PROXIED;
        return Opened::Refused(Action::Pass);
    }
    if t.src == t.dst || flow::is_martian(&t.src, h.v6) {
        return refuse(f.id, Reason::Malformed);
    }
    let pick = if f.flags & FRONTEND_AFFINITY != 0 { flow::hash_client(&t.src) } else { hash };
    let id = match flow::table_position(f, pick) {
        // SAFETY: array values are never freed; an id is read whole.
        Some((chunk, i)) => TABLES.get_ptr(chunk).map_or(0, |c| unsafe { (*c).ids[(i % CHUNK_SLOTS) as usize] }),
        None => 0,
    };
    if id == 0 {
        return without_backend(p, f);
    }
    let Some(b) = BACKENDS.get_ptr(&id) else { return refuse(f.id, Reason::BackendMissing) };
    // SAFETY: read at once; the kernel keeps the memory until the program ends.
    unsafe {
        choice.reply.tuple.src = (*b).addr;
        choice.reply.tuple.src_port = (*b).port;
        *flags = (*b).flags as u64;
    }
    // An address with frontends may be a node's as well, and whatever else listens there is a backend like others.
    (key.vip, key.port) = (choice.reply.tuple.src, choice.reply.tuple.src_port);
    if FRONTENDS.get_ptr(&key).is_some() {
        return refuse(f.id, Reason::Loop);
    }
    choice.reply.tuple.dst = t.src;
    choice.reply.proto = h.key.proto;
    choice.reply.dir = CT_REPLY;
    choice.entry.to = flow::reversed(t);
    choice.entry.frontend = f.id;
    choice.entry.backend = id;
    Opened::Chosen
}

/// Step 2: the source address towards the backend, the client's own if it is on this node.
#[inline(always)]
fn find_source<P: Packet>(p: P, h: &Headers, choice: &mut Choice, flags: u64) -> u64 {
    if P::XDP {
        find_source_of_frame(p.ctx().cast(), h, choice, flags)
    } else {
        find_source_of_buffer(p.ctx().cast(), h, choice, flags)
    }
}

/// Step 2 in XDP; a global function, so that the verifier walks through it once and then forgets its paths.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_source_of_frame(
    ctx: *mut xdp_md,
    h: *const Headers,
    choice: *mut Choice,
    flags: u64,
) -> u64 {
    // SAFETY: the caller's own values, which the verifier wants checked all the same.
    match unsafe { (h.as_ref(), choice.as_mut()) } {
        (Some(h), Some(choice)) => try_find_source(Frame(ctx), h, choice, flags).pack(),
        _ => Action::Drop.pack(),
    }
}

/// Step 2 in TC, as [`find_source_of_frame`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn find_source_of_buffer(
    ctx: *mut __sk_buff,
    h: *const Headers,
    choice: *mut Choice,
    flags: u64,
) -> u64 {
    // SAFETY: as above.
    match unsafe { (h.as_ref(), choice.as_mut()) } {
        (Some(h), Some(choice)) => try_find_source(Buffer(ctx), h, choice, flags).pack(),
        _ => Action::Drop.pack(),
    }
}

#[inline(always)]
fn try_find_source<P: Packet>(p: P, h: &Headers, choice: &mut Choice, flags: u64) -> Opened {
    // Is for TC.
    let local = if P::XDP { Opened::Refused(Action::Pass) } else { Opened::Chosen };
    let is_here = flags & BACKEND_LOCAL as u64 != 0;
    if P::XDP && is_here {
        return local;
    }
    let remote = flags & BACKEND_REMOTE as u64 != 0;
    let (to, t) = (&mut choice.reply.tuple, &h.key.tuple);
    let (result, ifindex, on_link) = route::source(p, h, (&t.src, t.src_port), (&to.src, to.src_port), &mut to.dst);
    // Delivered on this node, or routed by rules that the lookup does not see: the host's stack knows.
    let is_for_stack = matches!(result, route::NOT_FORWARDED | route::FORWARDING_OFF);
    if !route::is_routed(result) && !is_here && (remote || !is_for_stack) {
        return leave(p, choice.entry.frontend, Reason::NoRoute);
    }
    // A guest of this node on the clients' own network, behind a bridge that is the uplink, would answer past us.
    let is_behind = route::is_routed(result) && (!is_here || on_link);
    let uplink = if is_behind { UPLINKS.get_ptr(&ifindex) } else { None };
    // SAFETY: read at once; the kernel keeps the memory until the program ends.
    let uplink = uplink.filter(|u| returns_to_us(unsafe { (**u).flags }, is_here, remote, on_link));
    let Some(uplink) = uplink else {
        if remote {
            return leave(p, choice.entry.frontend, Reason::NoSource);
        }
        // What stays on this node keeps the client's address.
        to.dst = t.src;
        return local;
    };
    if !is_own(&to.dst) {
        // SAFETY: copied at once; the kernel keeps the memory until the program ends.
        to.dst = unsafe { if h.v6 { (*uplink).v6 } else { (*uplink).v4 } };
    }
    if to.dst == Addr::NONE {
        return leave(p, choice.entry.frontend, Reason::NoSource);
    }
    choice.entry.flags = CT_SNAT;
    Opened::Chosen
}

/// Must the source be this node's, where the way to a backend leaves by an interface with these `UPLINK_*` bits?
///
/// Behind an uplink always. Behind a side interface are other machines, whose replies may take another way to the client; but
/// what is known to be here, and what is on the link of a bridge and not known to be elsewhere, is a guest, and comes back
/// through this node anyhow.
#[inline(always)]
const fn returns_to_us(flags: u16, is_here: bool, remote: bool, on_link: bool) -> bool {
    let is_guest = is_here || (!remote && on_link && flags & UPLINK_GUESTS != 0);
    flags & UPLINK_SIDE == 0 || !is_guest
}

/// Is it an address of this host that replies come back to? A VIP that is bound here as well may be another node's, and a
/// link-local one is known on its link alone.
#[inline(always)]
fn is_own(source: &Addr) -> bool {
    let [a, b, ..] = source.octets;
    // SAFETY: read at once; the kernel keeps the memory until the program ends.
    let is_vip = || VIPS.get_ptr(source).is_some_and(|v| unsafe { (*v).flags } & VIP_HOST == 0);
    *source != Addr::NONE && !(a == 0xfe && b & 0xc0 == 0x80) && !is_vip()
}

/// No frontend has this name: ours to answer only if the address is.
#[inline(always)]
fn unnamed<P: Packet>(_: P, h: &Headers) -> Opened {
    let t = &h.key.tuple;
    // SAFETY: copied at once; the kernel keeps the memory until the program ends.
    let Some(vip) = VIPS.get_ptr(&t.dst).map(|v| unsafe { *v }) else { return Opened::Refused(Action::Pass) };
    if vip.flags & VIP_HOST != 0 {
        return Opened::Refused(Action::Pass);
    }
    if t.src == t.dst || flow::is_martian(&t.src, h.v6) {
        return Opened::Refused(count::drop(Reason::Malformed));
    }
    if P::XDP || vip.flags & VIP_REJECT == 0 {
        return Opened::Refused(Action::Pass);
    }
    if is_forged(&t.src) != 0 {
        return Opened::Refused(count::drop(Reason::SourceForged));
    }
    Opened::Reject(Reason::NoFrontend)
}

/// Is it an address that no client on the network can have: a VIP, or one of this host? The other nodes speak from theirs,
/// VIP or not.
///
/// Asked when a flow is opened and never for its packets. A global function, for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_forged(source: *const Addr) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(source) = (unsafe { source.as_ref() }) else { return 0 };
    if HOST.get_ptr(source).is_some() {
        return 1;
    }
    // SAFETY: read at once; the kernel keeps the memory until the program ends.
    VIPS.get_ptr(source).is_some_and(|vip| unsafe { (*vip).flags } & VIP_NODE == 0) as u32
}

/// The frontend's table is empty.
#[inline(always)]
fn without_backend<P: Packet>(_: P, f: &Frontend) -> Opened {
    if f.flags & FRONTEND_DROP != 0 {
        return refuse(f.id, Reason::NoLocalBackend);
    }
    if P::XDP {
        return Opened::Refused(Action::Pass);
    }
    count::refused(f.id);
    Opened::Reject(Reason::NoBackend)
}

impl Way {
    /// Is there a way out, whether or not the neighbour is known and the packet fits?
    #[inline(always)]
    pub(crate) fn is_routed(&self) -> bool {
        route::is_routed(self.result)
    }
}
