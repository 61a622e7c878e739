//! What must not leave this process: the private keys of listeners are in its memory.
//!
//! # Design
//! A crash writes the memory to a file, or pipes it to a program that does. `RLIMIT_CORE` stops the first; the second is stopped by
//! the process not being dumpable, which also keeps other users' debuggers out. Keys are written nowhere, so that this is all there is.
use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
};

/// Has a crash leave nothing behind.
pub fn forbid_core_dumps() {
    let limited = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let Err(error) = limited.and_then(|()| prctl::set_dumpable(false)) {
        tracing::warn!(%error, "a core dump of this process would have the private keys of listeners");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_leaves_nothing_behind() {
        forbid_core_dumps();
        assert_eq!(nix::sys::resource::getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
        assert_eq!(prctl::get_dumpable(), Ok(false));
    }
}
