//! `sk_lookup`: a connection to a layer 7 frontend goes to the proxy's one listening socket.
use crate::{FRONTENDS, PROXY};
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
    let Some(key) = key(ctx.lookup) else { return SK_PASS };
    let Some(f) = FRONTENDS.get_ptr(&key) else { return SK_PASS };
    // SAFETY: the kernel keeps the value's memory until the program ends.
    if unsafe { (*f).flags } & FRONTEND_PROXY == 0 {
        return SK_PASS;
    }
    match PROXY.redirect_sk_lookup(ctx, PROXY_TCP, 0) {
        Ok(()) => SK_PASS,
        Err(_) => SK_DROP,
    }
}

#[inline(always)]
fn key(c: *mut bpf_sk_lookup) -> Option<FrontendKey> {
    // SAFETY: the context outlives the program. The words of the address are read one by one, all of them and volatile,
    // because the kernel refuses wider accesses to this context and addresses that were computed.
    let (proto, family, port, v4, v6) = unsafe {
        let word = |w: *const u32| core::ptr::read_volatile(w);
        let w = (&raw const (*c).local_ip6).cast::<u32>();
        let v6 = [word(w), word(w.add(1)), word(w.add(2)), word(w.add(3))];
        ((*c).protocol, (*c).family, (*c).local_port, word(&raw const (*c).local_ip4), v6)
    };
    let (family, vip) = if family == AF_INET { (4, [0, 0, 0xffff_u32.to_be(), v4]) } else { (6, v6) };
    let key = FrontendKey { vip: bytemuck::cast(vip), port: port as u16, proto: TCP, family };
    (proto == TCP as u32).then_some(key)
}
