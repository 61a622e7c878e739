//! What user space needs beyond the types: `aya::Pod`, and the calls of bpf(2) that aya does not offer.
//!
//! One of the two places with `unsafe`: every block is a system call or a marker for a type that `bytemuck` has already
//! proved to be plain data.
use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

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

/// Replaces the program of a pinned link at once: no packet sees the interface without one.
///
/// # Errors
/// The pin cannot be opened; the kernel refuses (`ENOLINK`: the link's interface is gone).
///
/// Source: `BPF_OBJ_GET` and `BPF_LINK_UPDATE` of bpf(2); aya 0.14 offers them for some program types only.
pub fn update_link(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    const OBJ_GET: nix::libc::c_long = 7;
    const LINK_UPDATE: nix::libc::c_long = 29;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // `union bpf_attr`: { pathname: u64, bpf_fd: u32, file_flags: u32 }.
    let get = [path.as_ptr() as u64, 0];
    // SAFETY: the attribute is 16 bytes as passed, and `path` outlives the call.
    let link = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, OBJ_GET, get.as_ptr(), size_of_val(&get)) };
    let link = i32::try_from(link).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just returned this descriptor and nobody else owns it.
    let link = unsafe { OwnedFd::from_raw_fd(link) };
    // { link_fd: u32, new_prog_fd: u32, flags: u32, old_prog_fd: u32 }.
    let update = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
    // SAFETY: the attribute is 16 bytes as passed; both descriptors are open for the length of the call.
    let rc = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, LINK_UPDATE, update.as_ptr(), size_of_val(&update)) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
