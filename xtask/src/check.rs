//! `cargo xtask check`: format, lints, documentation, dependencies. Everything that is wrong without running a test.
use std::process::Command;

use anyhow::Result;

use crate::{
    ebpf, install, root,
    run::{Steps, cargo, run},
};

/// Not `advisories`: their database is fetched from the network, and a check must not change from one hour to the next.
const DENY: [&str; 6] = ["--log-level", "error", "check", "licenses", "bans", "sources"];

/// What [`DENY`] leaves out, for a job that runs every night: whether a known fault is in a dependency.
const ADVISORIES: [&str; 4] = ["--log-level", "error", "check", "advisories"];

/// Compares the dependencies with the database of known faults, which is fetched anew.
///
/// # Errors
/// One of them has a known fault, or the database cannot be had.
pub fn advisories() -> Result<()> {
    let mut steps = Steps::new(1);
    steps.step("known faults of dependencies", || {
        run(Command::new(install::cargo_deny()?).current_dir(root()).args(ADVISORIES))
    })
}

/// Runs every check; the first failure ends it.
///
/// # Errors
/// A check fails.
pub fn check() -> Result<()> {
    let mut steps = Steps::new(7);
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
            .env("RUSTDOCFLAGS", "-Dwarnings -Arustdoc::private_intra_doc_links"))
    })?;
    steps.step("licences and sources of dependencies", || {
        run(Command::new(install::cargo_deny()?).current_dir(root()).args(DENY))
    })?;
    steps.step("folders without circles", crate::layers::check)?;
    steps.step("sizes of files", crate::sizes::check)
}
