//! Installs what is missing, saying so first; where it cannot, says in one sentence what to install.
//!
//! Everything that a fresh machine lacks is named here and nowhere else.
use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    ebpf::{self, Toolchain},
    run::{cargo, is_root, on_path, output, run},
};

/// The version of cargo-deny that checks the dependencies.
const DENY_VERSION: &str = "0.20.2";

/// What the eBPF programs are built with: a compiler with the sources of `core`, and the linker of its LLVM.
///
/// # Errors
/// Something is missing that cannot be installed here.
pub fn ebpf_toolchain() -> Result<()> {
    let toolchain = match ebpf::toolchain() {
        Ok(found) => found,
        Err(reason) => {
            compiler(&format!("{reason:#}"))?;
            ebpf::toolchain()?
        }
    };
    let linker = ebpf::linker(&toolchain);
    if output(Command::new(&linker).arg("--version")).is_none() {
        bpf_linker(&toolchain)?;
    }
    Ok(())
}

/// Programs that the demo and the tests run besides our own.
///
/// # Errors
/// A package is missing that cannot be installed here.
pub fn inspection_tools() -> Result<()> {
    let missing: Vec<_> = ["bpftool", "ethtool"].into_iter().filter(|t| !on_path(t)).collect();
    if missing.is_empty() { Ok(()) } else { apt(&missing) }
}

/// The oldest Go that fetches the version which a go.mod asks for.
const GO_MINOR: u32 = 21;

/// A `go` that can build any module of ours.
///
/// # Errors
/// There is none, and none can be installed here.
pub fn go() -> Result<PathBuf> {
    // Where those put it who have it not from their system, and may not have told the path.
    let known = ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"];
    let find = || known.into_iter().map(PathBuf::from).find(|go| go_minor(go).is_some_and(|minor| minor >= GO_MINOR));
    if let Some(go) = find() {
        return Ok(go);
    }
    apt(&["golang-go"])?;
    find().with_context(|| {
        format!("the system's Go is too old: please install Go 1.{GO_MINOR} or later and run this again")
    })
}

/// What runc is linked with, besides Go: without it no container is confined as Kubernetes wants it by default.
///
/// # Errors
/// A package is missing that cannot be installed here.
pub fn seccomp() -> Result<()> {
    let mut missing = Vec::new();
    if !on_path("gcc") {
        missing.extend(["gcc", "libc6-dev"]);
    }
    if !Path::new("/usr/include/seccomp.h").exists() {
        missing.push("libseccomp-dev");
    }
    if missing.is_empty() { Ok(()) } else { apt(&missing) }
}

/// What kube-proxy calls.
///
/// # Errors
/// A package is missing that cannot be installed here.
pub fn nft() -> Result<()> {
    if on_path("nft") { Ok(()) } else { apt(&["nftables"]) }
}

/// What kube-proxy calls in the mode of that name.
///
/// # Errors
/// A package is missing that cannot be installed here.
pub fn iptables() -> Result<()> {
    if on_path("iptables") { Ok(()) } else { apt(&["iptables"]) }
}

/// What `bench l7` compares with, and what makes its load. Nothing of it is started, as Debian does with what it installs.
///
/// # Errors
/// A package is missing that cannot be installed here.
pub fn http_peers() -> Result<()> {
    let programs = [("nginx", "nginx-light"), ("haproxy", "haproxy"), ("wrk", "wrk"), ("h2load", "nghttp2-client")];
    let missing: Vec<_> = programs.into_iter().filter(|(p, _)| !on_path(p)).map(|(_, package)| package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    // Source: invoke-rc.d(8); 101 is "action forbidden by policy". Where there is a policy it is the owner's.
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let is_ours = is_root() && !policy.exists();
    if is_ours {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(policy, "#!/bin/sh\nexit 101\n").context("write /usr/sbin/policy-rc.d")?;
        std::fs::set_permissions(policy, std::fs::Permissions::from_mode(0o755)).context("make it executable")?;
    }
    let installed = apt(&missing);
    if is_ours {
        let _ = std::fs::remove_file(policy);
    }
    installed
}

/// HTTP/2 clients of another maker: `h2load` and `nghttp`.
///
/// # Errors
/// The package is missing and cannot be installed here.
pub fn http2_clients() -> Result<()> {
    if ["h2load", "nghttp"].into_iter().all(on_path) { Ok(()) } else { apt(&["nghttp2-client"]) }
}

/// A Python that makes environments, no older than what the tests' packages are built for.
///
/// # Errors
/// There is none, and none can be installed here.
pub fn python() -> Result<PathBuf> {
    let can = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
    let find = || {
        let mut known = ["python3", "/usr/bin/python3"].into_iter().map(PathBuf::from);
        known.find(|python| output(Command::new(python).args(["-c", can])).is_some())
    };
    if let Some(python) = find() {
        return Ok(python);
    }
    apt(&["python3", "python3-venv"])?;
    find().context("the system's Python is too old: please install Python 3.10 or later and run this again")
}

/// The minor version of a Go 1.x.
fn go_minor(go: &Path) -> Option<u32> {
    // At the root there is no go.mod that could call for another version.
    let version = output(Command::new(go).args(["env", "GOVERSION"]).current_dir("/"))?;
    version.strip_prefix("go1.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn compiler(reason: &str) -> Result<()> {
    if on_path("rustup") {
        eprintln!("      adding the component rust-src to the Rust toolchain in use");
        let mut add = Command::new("rustup");
        add.args(["component", "add", "rust-src"]);
        if run(&mut add).is_ok() {
            return Ok(());
        }
        eprintln!("      rustup could not add it; trying the system's compiler");
    }
    apt(&["rustc-web", "rust-web-src"]).with_context(|| reason.to_owned())
}

fn bpf_linker(toolchain: &Toolchain) -> Result<()> {
    let llvm = toolchain.llvm;
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !std::path::Path::new(&prefix).join("bin/llvm-config").exists() {
        apt(&[&format!("llvm-{llvm}-dev")])?;
    }
    let dir = ebpf::linker_dir(toolchain);
    eprintln!(
        "      building bpf-linker {} for LLVM {llvm} into {} (about a minute, once)",
        ebpf::LINKER_VERSION,
        dir.display()
    );
    let mut install = cargo_install("bpf-linker", ebpf::LINKER_VERSION, &dir);
    install.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]).env("LLVM_PREFIX", prefix);
    run(&mut install)
}

/// The path of cargo-deny, built once into the cache.
///
/// # Errors
/// It cannot be built.
pub fn cargo_deny() -> Result<PathBuf> {
    let dir = ebpf::tools_dir().join(format!("cargo-deny-{DENY_VERSION}"));
    let binary = dir.join("bin/cargo-deny");
    if output(Command::new(&binary).arg("--version")).is_none() {
        eprintln!("      building cargo-deny {DENY_VERSION} into {} (about two minutes, once)", dir.display());
        run(&mut cargo_install("cargo-deny", DENY_VERSION, &dir))?;
    }
    Ok(binary)
}

/// `cargo install` of a tool that runs for seconds: optimising it costs more than it saves.
fn cargo_install(name: &str, version: &str, dir: &Path) -> Command {
    let mut install = cargo();
    // Not in our workspace: its `.cargo/config.toml` and profiles are none of the tool's business.
    install
        .current_dir("/")
        .args(["install", name, "--version", version, "--locked", "--quiet", "--root"])
        .arg(dir)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    install
}

fn apt(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !on_path("apt-get") {
        bail!("please install {list} (names of Debian's packages) and run this again");
    }
    if !is_root() {
        bail!("please run `sudo apt-get install {list}` and then this again");
    }
    eprintln!("      installing {list} with apt-get");
    let apt_get = || {
        let mut c = Command::new("apt-get");
        c.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        c
    };
    // A fresh machine has no package lists, or old ones.
    run(apt_get().arg("update"))?;
    run(apt_get().args(["install", "-y", "--no-install-recommends"]).args(packages))
}
