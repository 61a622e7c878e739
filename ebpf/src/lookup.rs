//! `sk_lookup`: a connection to a layer 7 frontend goes to the proxy's one listening socket.
use crate::{FRONTENDS, MESH, PROXY, UPLINKS, count, sources};
use aya_ebpf::{
    bindings::{
        bpf_sk_lookup,
        sk_action::{SK_DROP, SK_PASS},
    },
    programs::SkLookupContext,
};
use sluice_ebpf::*;

const AF_INET: u32 = 2;

/// Chooses the proxy's socket, if the frontend is the proxy's; otherwise the kernel's own lookup decides.
///
/// While the proxy has no socket its clients are refused: to pass them would hand them to any listener of the host that
/// is bound to all addresses.
#[inline(always)]
pub(crate) fn steer(ctx: &SkLookupContext) -> u32 {
    let Some((key, client)) = ends(ctx.lookup) else { return SK_PASS };
    // SAFETY: the kernel keeps the value's memory until the program ends.
    let Some(f) = FRONTENDS.get_ptr(&key).map(|f| unsafe { &*f }) else { return steer_pod(ctx, &key) };
    if f.flags & FRONTEND_PROXY == 0 {
        return SK_PASS;
    }
    // Who speaks from the VIP itself is this host.
    if client != key.vip && !sources::admits(f, &client) {
        count::refused(f.id);
        count::reason(Reason::SourceRefused);
        return SK_DROP;
    }
    hand_over(ctx)
}

/// A ClusterIP that the proxy serves is for pods of this node: nobody comes to it by an uplink, or by a side interface that is no
/// bridge of theirs.
#[inline(always)]
fn steer_pod(ctx: &SkLookupContext, key: &FrontendKey) -> u32 {
    if MESH.get_ptr(&MeshKey { addr: key.vip, port: key.port, side: MESH_SERVED }).is_none() {
        return SK_PASS;
    }
    // SAFETY: the context outlives the program; volatile, because the kernel refuses other accesses to this context.
    let ifindex = unsafe { core::ptr::read_volatile(&raw const (*ctx.lookup).ingress_ifindex) };
    // SAFETY: read at once; the kernel keeps the memory until the program ends.
    let flags = UPLINKS.get_ptr(&ifindex).map(|u| unsafe { (*u).flags });
    if flags.is_some_and(|flags| flags & UPLINK_GUESTS == 0) { SK_PASS } else { hand_over(ctx) }
}

#[inline(always)]
fn hand_over(ctx: &SkLookupContext) -> u32 {
    match PROXY.redirect_sk_lookup(ctx, PROXY_TCP, 0) {
        Ok(()) => SK_PASS,
        Err(_) => SK_DROP,
    }
}

#[inline(always)]
fn ends(c: *mut bpf_sk_lookup) -> Option<(FrontendKey, Addr)> {
    // SAFETY: the context outlives the program. The words of an address are read one by one, all of them and volatile,
    // because the kernel refuses wider accesses to this context and addresses that were computed.
    let (proto, family, port, local, remote) = unsafe {
        let word = |w: *const u32| core::ptr::read_volatile(w);
        let words = |w: *const u32| [word(w), word(w.add(1)), word(w.add(2)), word(w.add(3))];
        let (l6, r6) = ((&raw const (*c).local_ip6).cast::<u32>(), (&raw const (*c).remote_ip6).cast::<u32>());
        let (l4, r4) = (word(&raw const (*c).local_ip4), word(&raw const (*c).remote_ip4));
        ((*c).protocol, (*c).family, (*c).local_port, (l4, words(l6)), (r4, words(r6)))
    };
    let is_v4 = family == AF_INET;
    let addr = |(v4, v6)| bytemuck::cast(if is_v4 { [0, 0, 0xffff_u32.to_be(), v4] } else { v6 });
    let family = if is_v4 { 4 } else { 6 };
    let key = FrontendKey { vip: addr(local), port: port as u16, proto: TCP, family };
    (proto == TCP as u32).then_some((key, addr(remote)))
}
