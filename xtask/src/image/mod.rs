//! `cargo xtask image`: the image that a cluster runs, made without Docker and without a base image.
//!
//! The binary is static: the object files of an ordinary build, linked once more with `+crt-static`. So the tests pay for one
//! link, not for a second build. The agent never resolves a name through the C library in the cluster: the API server is
//! an address (`KUBERNETES_SERVICE_HOST`), so that a static glibc misses nothing.
//!
//! # Design
//! `+crt-static` is given to the last crate alone (`cargo rustc`), because as a flag for all it would forbid procedural
//! macros on this target. The musl target would be another way: its standard library must be fetched, and its allocator is slow.
mod layer;
mod oci;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

pub use oci::{Image, Program, pack};

use crate::{
    install, paths, root,
    run::{cargo, output, run},
};

/// The image's name where none is asked for; the version is the tag.
pub const NAME: &str = "sluice.dev/sluice";
/// The name that the tests' overlay (`deploy/overlays/test`) runs.
pub const TEST_NAME: &str = "test.local/sluice:1";

/// How the binary is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// From the objects that the tests are built from.
    Release,
    /// As it ships: optimised as a whole, and free of this machine's directories.
    Dist,
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dist => "dist",
        }
    }
}

/// `cargo xtask image`.
///
/// # Errors
/// The flags are wrong, the build fails, or the archive cannot be written.
pub fn image(arguments: &[String]) -> Result<()> {
    let Flags { out, binary, names, profile } = Flags::parse(arguments)?;
    let binary = match binary {
        Some(path) => path,
        None => static_binary(profile)?,
    };
    let out = out.unwrap_or_else(|| root().join("target/image/sluice.tar"));
    let digest = write(&binary, &names, &out)?;
    println!("{}\n{}\n{digest}", out.display(), names.join(" "));
    Ok(())
}

/// The image of the binary that the tests run, named as `deploy/overlays/test` wants it; quick when nothing has changed.
///
/// # Errors
/// A build fails, or the archive cannot be written.
pub fn for_tests() -> Result<PathBuf> {
    let out = test_archive();
    write(&static_binary(Profile::Release)?, &[TEST_NAME.to_owned()], &out)?;
    Ok(out)
}

/// Where [`for_tests`] leaves the image. The tests read it there: they must not build while they run.
#[must_use]
pub fn test_archive() -> PathBuf {
    root().join("target/image/test.tar")
}

/// The agent. With `drop: [ALL]` root has the capabilities that are added, and no other.
const AGENT: Program<'_> = Program { name: "sluice", version: env!("CARGO_PKG_VERSION"), user: "0:0" };

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

/// Builds the static binary and returns its path: `target/PROFILE/static/sluice`.
///
/// # Errors
/// The build fails.
pub fn static_binary(profile: Profile) -> Result<PathBuf> {
    install::ebpf_toolchain()?;
    let mut build = cargo();
    build.args(["rustc", "--quiet", "--profile", profile.name(), "--package", "sluice", "--bin", "sluice"]);
    if profile == Profile::Dist {
        let rustc = output(Command::new("rustc").args(["--print", "sysroot"])).context("ask rustc for its sysroot")?;
        let flags = paths::remap_flags(&root(), &Path::new(&rustc).join("bin/rustc"));
        build.arg("--locked").env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    }
    run(build.args(["--", "-Ctarget-feature=+crt-static", "-Cstrip=symbols"]))?;
    // The next ordinary build puts its own binary there: keep this one beside it.
    let dir = root().join("target").join(profile.name());
    let (built, kept) = (dir.join("sluice"), dir.join("static/sluice"));
    fs::create_dir_all(dir.join("static")).with_context(|| format!("make {}/static", dir.display()))?;
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    refuse_directories(&bytes, profile).with_context(|| built.display().to_string())?;
    if !fs::read(&kept).is_ok_and(|old| old == bytes) {
        let _ = fs::remove_file(&kept);
        fs::copy(&built, &kept).with_context(|| format!("copy {} to {}", built.display(), kept.display()))?;
    }
    Ok(kept)
}

/// Fails where a directory of this machine is named in the binary: a build elsewhere would then give another digest.
///
/// Only what ships is built with the flags that rename cargo's registry; the clone must not show in either.
fn refuse_directories(binary: &[u8], profile: Profile) -> Result<()> {
    let registry = (profile == Profile::Dist).then(|| paths::cargo_home().join("registry"));
    for dir in [Some(root()), registry].into_iter().flatten() {
        let name = dir.as_os_str().as_encoded_bytes();
        if let Some(at) = binary.windows(name.len()).position(|window| window == name) {
            let tail = String::from_utf8_lossy(&binary[at..(at + 120).min(binary.len())]).into_owned();
            bail!("names a directory of this machine: {tail:?}");
        }
    }
    Ok(())
}

/// The flags of `cargo xtask image`.
#[derive(Debug, PartialEq, Eq)]
struct Flags {
    out: Option<PathBuf>,
    binary: Option<PathBuf>,
    names: Vec<String>,
    profile: Profile,
}

impl Flags {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut flags = Self { out: None, binary: None, names: Vec::new(), profile: Profile::Dist };
        let mut words = arguments.iter();
        while let Some(flag) = words.next() {
            let mut value = || words.next().with_context(|| format!("{flag}: want a value"));
            match flag.as_str() {
                "--out" => flags.out = Some(value()?.into()),
                "--binary" => flags.binary = Some(value()?.into()),
                "--name" => flags.names.push(value()?.clone()),
                "--profile" => {
                    flags.profile = match value()?.as_str() {
                        "release" => Profile::Release,
                        "dist" => Profile::Dist,
                        other => bail!("--profile {other:?}: want release or dist"),
                    };
                }
                other => bail!("image: {other:?} is not known; want --out, --binary, --name or --profile"),
            }
        }
        if flags.names.is_empty() {
            flags.names.push(format!("{NAME}:{}", env!("CARGO_PKG_VERSION")));
        }
        Ok(flags)
    }
}
