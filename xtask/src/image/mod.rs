//! `cargo xtask image`: the image that a cluster runs, made without Docker and without a base image.
//!
//! The binary is static, and the one that ships ([`crate::release`]): the tests on a cluster run no other. The agent never resolves a
//! name through the C library in the cluster: the API server is an address (`KUBERNETES_SERVICE_HOST`), so that a static glibc
//! misses nothing.
mod layer;
mod oci;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

pub use oci::{Image, Program, pack};

use crate::{release, root};

/// The image's name where none is asked for; the version is the tag.
pub const NAME: &str = "sluice.dev/sluice";
/// The name that the tests' overlay (`deploy/overlays/test`) runs.
pub const TEST_NAME: &str = "test.local/sluice:1";

/// `cargo xtask image`.
///
/// # Errors
/// The flags are wrong, the build fails, or the archive cannot be written.
pub fn image(arguments: &[String]) -> Result<()> {
    let Flags { out, binary, names } = Flags::parse(arguments)?;
    let binary = match binary {
        Some(path) => path,
        None => release::static_binary()?,
    };
    let out = out.unwrap_or_else(|| root().join("target/image/sluice.tar"));
    let digest = write(&binary, &names, &out)?;
    println!("{}\n{}\n{digest}", out.display(), names.join(" "));
    Ok(())
}

/// The image that the tests run, named as `deploy/overlays/test` wants it; quick when nothing has changed.
///
/// # Errors
/// A build fails, or the archive cannot be written.
pub fn for_tests() -> Result<PathBuf> {
    let out = test_archive();
    write(&release::static_binary()?, &[TEST_NAME.to_owned()], &out)?;
    Ok(out)
}

/// Where [`for_tests`] leaves the image. The tests read it there: they must not build while they run.
#[must_use]
pub fn test_archive() -> PathBuf {
    root().join("target/image/test.tar")
}

/// The agent's environment. What a burst has freed goes back to the system after 100 ms: mimalloc would wait for a second, and then for
/// whoever allocates next. Measured for a connection that is idle after a thousand were opened at once (`bench l7 idle idle-tls`):
/// 3.6 and 10.8 KiB, where it was 12.1 and 23.8. After 10 ms responses of 1 MiB would cost more.
pub const ENVIRONMENT: [&str; 1] = ["MIMALLOC_PURGE_DELAY=100"];

/// The agent. With `drop: [ALL]` root has the capabilities that are added, and no other.
const AGENT: Program<'_> =
    Program { name: "sluice", version: env!("CARGO_PKG_VERSION"), user: "0:0", environment: &ENVIRONMENT };

/// Packs the agent's binary into an archive and returns the image's digest. An archive that is the same already stays untouched.
///
/// # Errors
/// The binary cannot be read or is not static, or the archive cannot be written.
pub fn write(binary: &Path, names: &[String], out: &Path) -> Result<String> {
    write_program(AGENT, binary, names, out)
}

/// The same, of any program.
///
/// # Errors
/// As [`write()`].
pub fn write_program(program: Program<'_>, binary: &Path, names: &[String], out: &Path) -> Result<String> {
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    let packed = pack(program, &bytes, names).with_context(|| format!("pack {}", binary.display()))?;
    let Image { archive, digest } = packed;
    if fs::read(out).is_ok_and(|old| old == archive) {
        return Ok(digest);
    }
    if let Some(dir) = out.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    // Whoever reads the file while it is written must not see half of it.
    let part = out.with_extension("part");
    fs::write(&part, archive).with_context(|| format!("write {}", part.display()))?;
    fs::rename(&part, out).with_context(|| format!("write {}", out.display()))?;
    Ok(digest)
}

/// The flags of `cargo xtask image`.
#[derive(Debug, PartialEq, Eq)]
struct Flags {
    out: Option<PathBuf>,
    binary: Option<PathBuf>,
    names: Vec<String>,
}

impl Flags {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut flags = Self { out: None, binary: None, names: Vec::new() };
        let mut words = arguments.iter();
        while let Some(flag) = words.next() {
            let mut value = || words.next().with_context(|| format!("{flag}: want a value"));
            match flag.as_str() {
                "--out" => flags.out = Some(value()?.into()),
                "--binary" => flags.binary = Some(value()?.into()),
                "--name" => flags.names.push(value()?.clone()),
                other => bail!("image: {other:?} is not known; want --out, --binary or --name"),
            }
        }
        if flags.names.is_empty() {
            flags.names.push(format!("{NAME}:{}", env!("CARGO_PKG_VERSION")));
        }
        Ok(flags)
    }
}
