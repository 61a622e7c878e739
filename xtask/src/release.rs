//! The release build: one set of objects, of which the tests and what ships are linked.
//!
//! # Design
//! - What ships has no profile of its own: `cargo xtask image`, `build`, `bench l7` and the tests on a cluster use one binary, and each
//!   finds what another has built. Each command here that builds for release uses [`cargo`].
//! - No LTO. Measured (`bench l7 h1 h2`, a quiet machine, CPU of a request as a ratio to nginx): thin LTO over all 1.18 and 0.97, none 1.16
//!   and 1.01; its link takes five minutes of processor time. The kernel takes 60 % of a request, and what is left is hyper's generic
//!   code, which is compiled in our own crate anyway.
//! - The binary is static. `+crt-static` is given to the last crate alone (`cargo rustc`), because as a flag for all it would
//!   forbid procedural macros on this target. The musl target would be another way: its standard library must be fetched, and its
//!   allocator is slow.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    install, paths, progress, root,
    run::{self, output},
};

/// What the last crate of the binary that ships is compiled with.
const LAST: [&str; 2] = ["-Ctarget-feature=+crt-static", "-Cstrip=symbols"];

/// cargo for the release profile: no object names a directory of this machine.
#[must_use]
pub fn cargo() -> Command {
    let rustc = output(Command::new("rustc").args(["--print", "sysroot"])).unwrap_or_default();
    let flags = paths::remap_flags(&root(), &Path::new(&rustc).join("bin/rustc"));
    let mut cargo = run::cargo();
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo
}

/// Builds the binary that ships and returns its path: `target/release/static/sluice`.
///
/// # Errors
/// The build fails.
pub fn static_binary() -> Result<PathBuf> {
    install::ebpf_toolchain()?;
    let mut build = cargo();
    build.args(["rustc", "--locked", "--release", "--package", "sluice", "--bin", "sluice", "--"]).args(LAST);
    progress::follow_cargo(build, &["sluice"])?;
    // The next ordinary build puts its own binary there: keep this one beside it.
    let dir = root().join("target/release");
    let (built, kept) = (dir.join("sluice"), dir.join("static/sluice"));
    fs::create_dir_all(dir.join("static")).with_context(|| format!("make {}/static", dir.display()))?;
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    refuse_directories(&bytes).with_context(|| built.display().to_string())?;
    if !fs::read(&kept).is_ok_and(|old| old == bytes) {
        let _ = fs::remove_file(&kept);
        fs::copy(&built, &kept).with_context(|| format!("copy {} to {}", built.display(), kept.display()))?;
    }
    Ok(kept)
}

/// Fails where a directory of this machine is named in the binary: a build elsewhere would then give another digest.
fn refuse_directories(binary: &[u8]) -> Result<()> {
    for dir in [root(), paths::cargo_home().join("registry")] {
        let name = dir.as_os_str().as_encoded_bytes();
        if let Some(at) = binary.windows(name.len()).position(|window| window == name) {
            let tail = String::from_utf8_lossy(&binary[at..(at + 120).min(binary.len())]).into_owned();
            bail!("names a directory of this machine: {tail:?}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_that_names_a_directory_of_this_machine_is_refused() {
        let named = |dir: &Path| [b"panicked at ", dir.as_os_str().as_encoded_bytes(), b"/src/lib.rs"].concat();
        assert!(refuse_directories(&named(&root())).is_err());
        assert!(refuse_directories(&named(&paths::cargo_home().join("registry"))).is_err());
        assert!(refuse_directories(&named(Path::new("/sluice"))).is_ok());
    }
}
