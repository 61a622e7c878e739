//! `cargo xtask check`: format, lints, documentation, dependencies. Everything that is wrong without running a test.
use anyhow::Result;

use crate::{
    ebpf, install, root,
    run::{Steps, cargo, run},
};

/// Runs every check; the first failure ends it.
///
/// # Errors
/// A check fails.
pub fn check() -> Result<()> {
    let mut steps = Steps::new(5);
    steps.step("format", || run(cargo().args(["fmt", "--all", "--check"])))?;
    steps.step("eBPF toolchain and programs", || {
        install::ebpf_toolchain()?;
        ebpf::build(&root()).map(drop)
    })?;
    steps
        .step("lints", || run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])))?;
    steps.step("documentation", || {
        run(cargo()
            .args(["doc", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-Dwarnings"))
    })?;
    steps.step("sizes of files", crate::sizes::check)
}
