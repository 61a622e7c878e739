//! What a kernel refuses because it does not have it, in words: which feature that is, which Linux has it, what follows.
//!
//! # Design
//! The kernel is asked by doing: a version is only told, never decided by, because distributions carry features back and
//! filters forbid them. Its own answer to what it does not know is "invalid argument", of which nobody learns anything.
use std::{error::Error, fs, io};

use nix::libc::{EINVAL, ENOSYS, EOPNOTSUPP};

use super::permission;

/// `ENOTSUPP` of the kernel, which no C library has a name for.
const ENOTSUPP: i32 = 524;

/// What the datapath asks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    /// The types of maps and programs, and what the programs call.
    Programs,
    /// TC programs as links.
    Tcx,
    /// XDP as a link.
    Xdp,
    /// `sk_lookup` as a link.
    SkLookup,
}

impl Feature {
    /// What is wanted, and what follows where it is not there.
    fn wanted(self) -> &'static str {
        match self {
            Self::Programs => "Linux 6.6 or later; without it nothing is forwarded",
            Self::Tcx => "BPF links for TC (TCX), in Linux since 6.6; without them nothing is forwarded here",
            Self::Xdp => "BPF links for XDP, in Linux since 5.9; without them TC forwards alone",
            Self::SkLookup => {
                "BPF links for sk_lookup, in Linux since 5.9; without them no layer 7 connection is taken"
            }
        }
    }
}

/// What to add to the kernel's refusal; `None` where that says it all.
pub(super) fn advice(feature: Feature, error: &(dyn Error + 'static)) -> Option<String> {
    let errors = std::iter::successors(Some(error), |e| (*e).source());
    let code = errors.filter_map(|e| e.downcast_ref::<io::Error>()).find_map(io::Error::raw_os_error)?;
    match code {
        EINVAL | ENOSYS | EOPNOTSUPP | ENOTSUPP => Some(lacking(feature)),
        nix::libc::EPERM | nix::libc::EACCES => Some(match permission::check() {
            Err(_) => "want root, or the capabilities BPF, NET_ADMIN and PERFMON".to_owned(),
            Ok(()) => {
                "this process has the capabilities for it: a seccomp filter or a security module forbids it".to_owned()
            }
        }),
        _ => None,
    }
}

/// What is wanted, and what was found.
pub(super) fn lacking(feature: Feature) -> String {
    format!("want {} (this is Linux {})", feature.wanted(), release())
}

fn release() -> String {
    let found = fs::read_to_string("/proc/sys/kernel/osrelease");
    found.map_or_else(|_| "of an unknown version".to_owned(), |release| release.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s148_what_a_kernel_does_not_know_is_named_with_the_version_that_does() {
        let refused = |code| io::Error::from_raw_os_error(code);
        let said = advice(Feature::Tcx, &refused(EINVAL)).unwrap();
        assert!(said.starts_with("want BPF links for TC (TCX), in Linux since 6.6;"), "{said}");
        assert!(said.ends_with(&format!("(this is Linux {})", release())), "{said}");
        assert_eq!(advice(Feature::Xdp, &refused(nix::libc::EBUSY)), None, "the kernel's word is enough");
        assert_eq!(advice(Feature::Xdp, &io::Error::other("no code")), None);
        assert!(advice(Feature::SkLookup, &refused(nix::libc::EPERM)).is_some());
    }
}
