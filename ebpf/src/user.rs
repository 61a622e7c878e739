//! What user space needs beyond the types: `aya::Pod`, and the calls of bpf(2) that aya does not offer.
//!
//! One of the two places with `unsafe`: every block is a system call or a marker for a type that `bytemuck` has already
//! proved to be plain data.
use crate::abi::*;

/// Marks types as plain data for aya; `bytemuck::Pod` has proved it, padding included.
macro_rules! pod {
    ($($t:ty),+ $(,)?) => {$(
        const _: () = { const fn proved<T: bytemuck::Pod>() {} proved::<$t>() };
        // SAFETY: `bytemuck::Pod`, required above, is the same promise: `Copy`, no padding, every bit pattern valid.
        unsafe impl aya::Pod for $t {}
    )+};
}
pod!(Addr, FrontendKey, Frontend, Backend, TableChunk, Vip, CtKey, CtEntry, Counters, Uplink, Settings, Bucket);
