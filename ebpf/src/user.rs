//! What user space needs beyond the types: `aya::Pod`, and the calls of bpf(2) that aya does not offer.
//!
//! The only `unsafe` in user space: every block is a system call, takes over a descriptor that one returned, or marks a
//! type that `bytemuck` has already proved to be plain data.
use std::{
    ffi::CString,
    io,
    net::{IpAddr, SocketAddr},
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
pod!(
    Addr,
    FrontendKey,
    MeshKey,
    Frontend,
    Source,
    Backend,
    Seat,
    TableChunk,
    Vip,
    Heard,
    CtKey,
    CtEntry,
    Counters,
    Uplink,
    Settings,
    Bucket,
    Share,
    Claim
);

/// Replaces the program of a pinned link at once: no packet sees the interface without one.
///
/// # Errors
/// The pin cannot be opened; the kernel refuses (`ENOLINK`: the link's interface is gone).
///
/// Source: `BPF_OBJ_GET` and `BPF_LINK_UPDATE` of bpf(2); aya 0.14 offers them for some program types only.
pub fn update_link(pin: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    const LINK_UPDATE: nix::libc::c_long = 29;
    let link = open_pin(pin)?;
    // { link_fd: u32, new_prog_fd: u32, flags: u32, old_prog_fd: u32 }.
    let update = [link.as_raw_fd(), program.as_raw_fd(), 0, 0];
    // SAFETY: the attribute is 16 bytes as passed; both descriptors are open for the length of the call.
    let rc = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, LINK_UPDATE, update.as_ptr(), size_of_val(&update)) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Detaches a pinned link: when this returns no packet runs into its program any more. Removing the pin alone detaches some
/// time later. The pin stays.
///
/// # Errors
/// The pin is no link, or the kernel refuses.
///
/// Source: `BPF_OBJ_GET` and `BPF_LINK_DETACH` of bpf(2).
pub fn detach_link(pin: &Path) -> io::Result<()> {
    const LINK_DETACH: nix::libc::c_long = 34;
    let link = open_pin(pin)?;
    // { link_fd: u32 }.
    let detach = [link.as_raw_fd()];
    // SAFETY: the attribute is 4 bytes as passed; the descriptor is open for the length of the call.
    let rc = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, LINK_DETACH, detach.as_ptr(), size_of_val(&detach)) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until no program runs any more that ran when this was called: what was taken from the maps before is read by nobody then.
///
/// Source: `membarrier(2)`, `MEMBARRIER_CMD_GLOBAL`, which is `synchronize_rcu`; programs run in a reading section of RCU. A kernel
/// with `nohz_full` cores has no such command, and there time does: programs run for microseconds.
pub fn await_readers() {
    const GLOBAL: nix::libc::c_int = 1;
    // SAFETY: three numbers; no memory is passed.
    let rc = unsafe { nix::libc::syscall(nix::libc::SYS_membarrier, GLOBAL, 0, 0) };
    if rc != 0 {
        std::thread::sleep(READERS);
    }
}

/// Longer than any program runs.
const READERS: std::time::Duration = std::time::Duration::from_millis(50);

/// Opens what is pinned.
fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    const OBJ_GET: nix::libc::c_long = 7;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // `union bpf_attr`: { pathname: u64, bpf_fd: u32, file_flags: u32 }.
    let get = [path.as_ptr() as u64, 0];
    // SAFETY: the attribute is 16 bytes as passed, and `path` outlives the call.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, OBJ_GET, get.as_ptr(), size_of_val(&get)) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A connection attempt to ask an `sk_lookup` program about.
#[derive(Clone, Copy, Debug)]
pub struct LookupQuery {
    /// Protocol number.
    pub proto: u8,
    /// Who connects.
    pub remote: SocketAddr,
    /// What is dialled; the same family.
    pub local: SocketAddr,
}

/// What an `sk_lookup` program decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupVerdict {
    /// The connection is refused.
    Refused,
    /// The kernel looks for a socket itself.
    Kernel,
    /// The socket with this cookie takes the connection.
    Socket(u64),
}

/// Runs an `sk_lookup` program in this thread's network namespace and returns what it decided.
///
/// # Errors
/// The kernel refuses to run it.
///
/// Source: `BPF_PROG_TEST_RUN` of bpf(2) with a `struct bpf_sk_lookup` as context; aya 0.14 has it for other types only.
pub fn run_lookup(program: BorrowedFd<'_>, query: &LookupQuery) -> io::Result<LookupVerdict> {
    const PROG_TEST_RUN: nix::libc::c_long = 10;
    let family: u32 = if query.local.is_ipv4() { 2 } else { 10 };
    let mut ctx = [0u8; 72];
    let mut put = |at: usize, bytes: &[u8]| ctx[at..at + bytes.len()].copy_from_slice(bytes);
    put(8, &family.to_ne_bytes());
    put(12, &u32::from(query.proto).to_ne_bytes());
    put(36, &query.remote.port().to_be_bytes());
    put(60, &u32::from(query.local.port()).to_ne_bytes());
    for (ip, v4, v6) in [(query.remote.ip(), 16, 20), (query.local.ip(), 40, 44)] {
        match ip {
            IpAddr::V4(a) => put(v4, &a.octets()),
            IpAddr::V6(a) => put(v6, &a.octets()),
        }
    }
    // `union bpf_attr`, the part for test runs, in words of 8 bytes: { prog_fd, retval }, sizes, data, { repeat,
    // duration }, { ctx_size_in, ctx_size_out }, ctx_in, ctx_out, { flags, cpu }, batch_size.
    let mut attr = [0u64; 10];
    attr[0] = u64::from(program.as_raw_fd().unsigned_abs());
    attr[5] = 72 | 72 << 32;
    attr[6] = ctx.as_ptr() as u64;
    attr[7] = ctx.as_mut_ptr() as u64;
    // SAFETY: the attribute is 80 bytes as passed, and `ctx` has the 72 bytes that it names for reading and writing.
    let rc = unsafe { nix::libc::syscall(nix::libc::SYS_bpf, PROG_TEST_RUN, attr.as_mut_ptr(), size_of_val(&attr)) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    let cookie = ctx[..8].iter().rev().fold(0, |cookie, b| cookie << 8 | u64::from(*b));
    // `retval` is SK_DROP, 0, or SK_PASS, 1.
    Ok(match (attr[0] >> 32, cookie) {
        (0, _) => LookupVerdict::Refused,
        (_, 0) => LookupVerdict::Kernel,
        (_, cookie) => LookupVerdict::Socket(cookie),
    })
}

/// Makes a device of this thread's network namespace whose packets have no Ethernet header, or takes one over: what it sends
/// is read from the file, one packet at a time, what is written to the file it receives. It goes with the file.
///
/// # Errors
/// There is no `/dev/net/tun`, the name is longer than 15 bytes, or the kernel refuses.
///
/// Source: `Documentation/networking/tuntap.rst`; `TUNSETIFF` with `IFF_TUN` and `IFF_NO_PI`.
pub fn open_tun(name: &str) -> io::Result<std::fs::File> {
    const TUNSETIFF: nix::libc::Ioctl = 0x4004_54ca;
    const TUN_WITHOUT_INFO: u16 = 0x1001;
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    // `struct ifreq`: the name in 16 bytes, then the flags.
    let mut request = [0u8; 40];
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a device's name has 15 bytes at most");
    request[..15].get_mut(..name.len()).ok_or_else(too_long)?.copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&TUN_WITHOUT_INFO.to_ne_bytes());
    // SAFETY: the request is as long as the kernel reads and writes, and the file is open for the length of the call.
    let rc = unsafe { nix::libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}
