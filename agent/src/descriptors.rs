//! How many files and sockets this process may have open, and what they are for.
//!
//! The soft limit that a process starts with is often 1024 (systemd, containerd 2), for programs that use `select`; this one
//! does not and may have what the hard limit allows. What there is is divided once, at start: a reserve for the agent's
//! own work, the rest in equal parts for clients of the proxy and for its connections to endpoints. So the proxy stops
//! accepting before the agent can no longer read a map, renew its Lease or answer a probe.
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that the proxy leaves to the rest of the agent. Beyond it maps cannot be read, Leases not be renewed.
///
/// About 60 for programs, maps, links, netlink, watches and logs; 3 x 64 and 16 for the listeners of the admin API
/// (`admin::server::CONNECTIONS` and others); 64 for one inspection that opens every map and every manifest beside it; the rest is room.
pub const RESERVE: usize = 384;

/// What the descriptors of this process are divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The limit of the process.
    pub limit: usize,
    /// For the agent itself.
    pub reserve: usize,
    /// For connections of clients of the proxy.
    pub clients: usize,
    /// For connections of the proxy to endpoints.
    pub upstreams: usize,
}

impl Descriptors {
    /// Divides a limit. One too small for [`RESERVE`] gives half to the agent.
    #[must_use]
    pub fn of(limit: usize) -> Self {
        let reserve = RESERVE.min(limit / 2);
        let clients = (limit - reserve) / 2;
        Self { limit, reserve, clients, upstreams: limit - reserve - clients }
    }
}

/// Raises the soft limit to the hard one and divides it.
///
/// # Errors
/// The kernel does not say what the limit is. A limit that cannot be raised is logged, and divided as it is.
pub fn raise() -> io::Result<Descriptors> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
            soft
        }
    };
    let descriptors = Descriptors::of(usize::try_from(limit).unwrap_or(usize::MAX));
    tracing::info!(limit, was = soft, reserve = descriptors.reserve, "descriptors divided");
    Ok(descriptors)
}

/// Whether an operation failed for want of something of this host or process, which no other side is the cause of:
/// descriptors, memory, source ports.
#[must_use]
pub fn is_exhausted(error: &io::Error) -> bool {
    use nix::libc::{EADDRNOTAVAIL, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    error.raw_os_error().is_some_and(|code| [EMFILE, ENFILE, ENOBUFS, ENOMEM, EADDRNOTAVAIL].contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_divided_and_nothing_is_counted_twice() {
        let parts = |limit| {
            let Descriptors { limit, reserve, clients, upstreams } = Descriptors::of(limit);
            assert_eq!(reserve + clients + upstreams, limit);
            (reserve, clients, upstreams)
        };
        assert_eq!(parts(1024), (384, 320, 320));
        assert_eq!(parts(20_001), (384, 9808, 9809));
        assert_eq!(parts(256), (128, 64, 64));
        assert_eq!(parts(0), (0, 0, 0));
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(raise().unwrap().limit as u64, hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }

    #[test]
    fn want_of_our_own_is_told_from_an_endpoint_that_refuses() {
        let is = |code| is_exhausted(&io::Error::from_raw_os_error(code));
        assert!(is(nix::libc::EMFILE) && is(nix::libc::ENFILE) && is(nix::libc::EADDRNOTAVAIL));
        assert!(!is(nix::libc::ECONNREFUSED) && !is(nix::libc::EHOSTUNREACH) && !is(nix::libc::ETIMEDOUT));
        assert!(!is_exhausted(&io::ErrorKind::TimedOut.into()));
    }
}
