//! What `cargo xtask` does: the one entry for people and for CI.
//!
//! The library exists because `agent/build.rs` builds the eBPF object through the same discovery ([`ebpf`]) as
//! `cargo xtask build-ebpf`; installing what is missing ([`install`]) is left to the latter.
pub mod check;
pub mod clients;
pub mod ebpf;
pub mod generate;
pub mod image;
pub mod install;
pub mod kubernetes;
pub mod layers;
pub mod paths;
pub mod progress;
pub mod release;
pub mod run;
pub mod sizes;
pub mod test;

use std::path::{Path, PathBuf};

/// The root of the workspace.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}
