//! Builds the eBPF programs: finds a Rust that can build `core` for BPF and the linker that belongs to it, runs cargo,
//! and refuses an object that the kernel would refuse in worse words.
//!
//! Nothing is installed here; [`crate::install`] does that, and `agent/build.rs` must not.
//!
//! # Design
//! `RUSTC_BOOTSTRAP=1` with a stable compiler is as good as nightly, and it is the compiler that the rest is built
//! with. The linker's LLVM must be the compiler's: bitcode of another version is refused or, worse, misread. So the
//! linker is kept in a cache directory that carries both versions, and one on the path is never taken by chance.
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol};

use crate::{
    paths::remap_flags,
    run::{cargo, output},
};

/// The version of bpf-linker that is built when none is cached.
pub const LINKER_VERSION: &str = "0.13.0";
/// The least minor version of Rust 1.x that the programs' dependencies compile with.
const MIN_MINOR: u32 = 87;

/// A compiler that can build the programs.
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// Its release, `1.95.0`.
    pub version: String,
    /// The major version of its LLVM.
    pub llvm: u32,
}

/// Finds a usable compiler: `$BPF_RUSTC`, the one in use, rustup's others, the system's.
///
/// # Errors
/// Each candidate with the reason why it does not do.
pub fn toolchain() -> Result<Toolchain> {
    let mut candidates: Vec<PathBuf> = env::var_os("BPF_RUSTC").into_iter().map(PathBuf::from).collect();
    candidates.extend(active_rustc());
    // rustup's toolchains are asked by path: `rustup run` may download one.
    if let Some(list) = output(Command::new("rustup").args(["toolchain", "list", "-v"])) {
        candidates.extend(list.lines().filter_map(|l| Some(Path::new(l.split_whitespace().last()?).join("bin/rustc"))));
    }
    candidates.push("/usr/bin/rustc".into());
    let mut reasons = Vec::new();
    for rustc in candidates {
        match probe(&rustc) {
            Ok(found) => return Ok(found),
            Err(reason) => reasons.push(format!("  {}: {reason}", rustc.display())),
        }
    }
    reasons.dedup();
    bail!("no Rust toolchain here can build `core` for the BPF target:\n{}", reasons.join("\n"))
}

/// The compiler behind `rustc`, as a path inside its toolchain.
fn active_rustc() -> Option<PathBuf> {
    Some(Path::new(&output(Command::new("rustc").args(["--print", "sysroot"]))?).join("bin/rustc"))
}

fn probe(rustc: &Path) -> Result<Toolchain, String> {
    let verbose = output(Command::new(rustc).arg("-vV")).ok_or("not runnable")?;
    let sysroot = output(Command::new(rustc).args(["--print", "sysroot"])).ok_or("has no sysroot")?;
    let field = |key: &str| verbose.lines().find_map(|l| l.strip_prefix(key)).map(|v| v.trim().to_owned());
    let version = field("release:").ok_or("does not tell its release")?;
    let minor: u32 = version.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    if minor < MIN_MINOR {
        return Err(format!("is {version}, want 1.{MIN_MINOR} or later"));
    }
    if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() {
        return Err(format!("{version} has no sources of `core` (component rust-src)"));
    }
    let llvm =
        field("LLVM version:").and_then(|v| v.split('.').next()?.parse().ok()).ok_or("does not tell its LLVM")?;
    Ok(Toolchain { rustc: rustc.to_owned(), version, llvm })
}

/// Where the linker for a compiler is, or would be: `$BPF_LINKER`, else our cache.
#[must_use]
pub fn linker(toolchain: &Toolchain) -> PathBuf {
    if let Some(path) = env::var_os("BPF_LINKER") {
        return path.into();
    }
    linker_dir(toolchain).join("bin/bpf-linker")
}

/// The cache directory of the linker for a compiler: one per version of the linker and of LLVM.
#[must_use]
pub fn linker_dir(toolchain: &Toolchain) -> PathBuf {
    tools_dir().join(format!("bpf-linker-{LINKER_VERSION}-llvm{}", toolchain.llvm))
}

/// The cache of tools that are built once and serve every clone.
#[must_use]
pub fn tools_dir() -> PathBuf {
    let home = || env::var_os("HOME").map_or_else(env::temp_dir, PathBuf::from).join(".cache");
    env::var_os("XDG_CACHE_HOME").filter(|d| !d.is_empty()).map_or_else(home, PathBuf::from).join("sluice/tools")
}

/// Builds the objects and returns the path of the agent's. Quick when nothing has changed.
///
/// # Errors
/// No toolchain or no linker, with what to run; the compiler's failure; an object that the kernel would refuse.
pub fn build(root: &Path) -> Result<PathBuf> {
    let hint = "run `cargo xtask build-ebpf`, which installs what the eBPF programs are built with";
    let toolchain = toolchain().context(hint)?;
    let linker = linker(&toolchain);
    if output(Command::new(&linker).arg("--version")).is_none() {
        bail!("no bpf-linker for LLVM {} at {}: {hint}", toolchain.llvm, linker.display());
    }
    let target = root.join("target/ebpf");
    let mut command = cargo();
    isolate(&mut command);
    command
        .current_dir(root)
        .args(["build", "--release", "--quiet", "--package", "sluice-ebpf", "--bin", "programs", "--bin", "splice"])
        .args(["--features", "programs", "-Z", "build-std=core", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&target)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&linker, &remap_flags(root, &toolchain.rustc)));
    for (key, value) in
        [("LTO", "true"), ("PANIC", "abort"), ("CODEGEN_UNITS", "1"), ("DEBUG", "2"), ("OPT_LEVEL", "3")]
    {
        command.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
    }
    let status = command.status().context("start cargo")?;
    if !status.success() {
        bail!(
            "the eBPF build failed with rustc {} (LLVM {}); `Invalid bitcode` or `Unknown attribute` means that {} was \
             built for another LLVM",
            toolchain.version,
            toolchain.llvm,
            linker.display()
        );
    }
    let object = target.join("bpfel-unknown-none/release/programs");
    inspect(&object)?;
    inspect(&splice(root))?;
    Ok(object)
}

/// Where the object is that only a test loads: `ebpf/src/splice.rs`.
#[must_use]
pub fn splice(root: &Path) -> PathBuf {
    root.join("target/ebpf/bpfel-unknown-none/release/splice")
}

/// Builds the object and copies it to `out/programs`: for `build.rs`.
///
/// # Errors
/// As [`build`], or the copy fails.
pub fn build_into(root: &Path, out: &Path) -> Result<()> {
    for watched in ["ebpf/src", "ebpf/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    for variable in ["BPF_RUSTC", "BPF_LINKER"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let object = build(root)?;
    let to = out.join("programs");
    fs::copy(&object, &to).with_context(|| format!("copy {} to {}", object.display(), to.display()))?;
    Ok(())
}

/// Inside a build script the outer cargo describes itself in the environment; none of that is meant for the inner one.
fn isolate(command: &mut Command) {
    let named =
        ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTUP_TOOLCHAIN", "TARGET", "HOST", "RUSTDOC"];
    for (key, _) in env::vars_os() {
        let text = key.to_string_lossy();
        if (text.starts_with("CARGO") && text != "CARGO_HOME" && text != "CARGO") || named.contains(&&*text) {
            command.env_remove(&key);
        }
    }
}

/// Source: the experiments that each of these answers are described in ARCHITECTURE.md, "Building the programs".
fn flags(linker: &Path, remap: &[String]) -> OsString {
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker);
    for flag in [
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Without it every `memset` becomes a call that the kernel's verifier walks byte by byte.
        "-Clink-arg=--disable-expand-memcpy-in-order",
        "-Ctarget-cpu=v3",
    ] {
        flags.push("\x1f");
        flags.push(flag);
    }
    // The object is embedded: where it was built must not show in the binary.
    for flag in remap {
        flags.push("\x1f");
        flags.push(flag);
    }
    flags
}

/// Refuses what the verifier would only say at load time, in worse words.
fn inspect(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("parse {}", path.display()))?;
    if let Some(symbol) = file.symbols().find_map(|s| s.name().ok().filter(|n| n.contains("panicking"))) {
        bail!("{}: a panic path survived ({symbol}): look for indexing, slicing, unwrap, `/` or `%`", path.display());
    }
    if file.section_by_name(".BTF").is_none() {
        bail!("{}: no BTF; maps would have no field names", path.display());
    }
    if file.sections().any(|s| s.name() == Ok("maps")) {
        bail!("{}: a legacy map definition; bpftool could not show its fields", path.display());
    }
    Ok(())
}
