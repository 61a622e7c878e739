//! Whether a client comes from where a frontend's clients must come from.
//!
//! # Design
//!
//! - Asked where a flow would be opened, and by nobody else: the packets of a flow that has its entry pay nothing. The
//!   agent removes the entries of those who may no longer come.
//! - The proxy's frontends have no entries here, so TC asks for each of their packets, and connections end as flows do.
//! - `sk_lookup` asks as well: for who comes by no uplink, from a pod of this node or by another interface, and for what TC
//!   cannot judge, the fragments for an address of the host.
//! - A list is of one family, that of the frontend.
use crate::SOURCES;
use aya_ebpf::btf_maps::lpm_trie::Key;
use sluice_ebpf::*;

/// May a client with this address use the frontend?
#[inline(always)]
pub(crate) fn admits(f: &Frontend, client: &Addr) -> bool {
    f.flags & FRONTEND_SOURCES == 0 || is_listed(f.sources, client) != 0
}

/// Is the address in a range of the list?
///
/// A global function, for the verifier: it walks through it once, and not on every path that comes here.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn is_listed(list: u32, client: *const Addr) -> u32 {
    // SAFETY: the caller's own value, which the verifier wants checked all the same.
    let Some(client) = (unsafe { client.as_ref() }) else { return 0 };
    let key = Key::new(SOURCE_BITS + 128, Source { list: list.to_be_bytes(), addr: *client });
    SOURCES.get(&key).is_some() as u32
}
