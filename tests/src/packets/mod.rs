//! The real programs on single packets: `BPF_PROG_TEST_RUN` with real maps and real routes.
//!
//! [`Lab`] is a network namespace with two uplinks, a pod interface and their neighbours, and the loaded object in it;
//! [`Segment`] writes a packet with all its checksums computed by etherparse, never by the code under test. A case
//! builds the packet that comes in and the packet that must come out, and compares every byte.
//!
//! The namespace belongs to a thread of its own and ends with it; nothing needs to be deleted.
use std::{
    path::{Path, PathBuf},
    thread,
};

mod case;
mod flow;
mod lab;
mod neighbour;
mod net;
mod segment;

pub use case::{Case, Does, Hook};
pub use flow::{BACKEND, CLIENT, Flow};
pub use lab::{Lab, Output, Reasons, addr, drop_reasons, now};
pub use neighbour::{ArpFrame, discovery, link_layer, solicited};
pub use net::*;
pub use segment::{L4, Segment, lengthen, partial};

/// Where the object is that `cargo xtask build-ebpf` builds.
///
/// # Panics
/// It has not been built.
#[must_use]
pub fn object() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/bpfel-unknown-none/release/programs");
    assert!(path.exists(), "{} is missing: run `cargo xtask build-ebpf`", path.display());
    path
}

/// Runs `test` with a lab, on a thread of its own in a namespace of its own.
///
/// # Panics
/// The lab cannot be made (no root), or the test fails.
pub fn with_lab(test: impl FnOnce(&mut Lab) + Send + 'static) {
    let thread = thread::Builder::new().name("slpkt".into());
    let joined = thread.spawn(|| test(&mut Lab::new().expect("make the lab: root and a built object are needed")));
    if let Err(panic) = joined.expect("start a thread").join() {
        std::panic::resume_unwind(panic);
    }
}
