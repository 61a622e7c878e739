//! Builds the clients and servers of other makers that the tests run, into the cache of tools: `tests/clients/`.
//!
//! [`grpc`] is grpc-go, from Go modules; [`python`] an environment with a compliance suite for WebSocket, a server for it and an
//! HTTP/2 library, from PyPI. Versions are pinned with their hashes in `go.sum` and `python/requirements.txt`. What is of the
//! system ([`install::http2_clients`]) is not built here.
use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    install,
    kubernetes::{cached, go_build},
    root,
    run::run,
};

/// The directory with everything.
const MODULE: &str = "tests/clients";

/// The program that is a gRPC server and a gRPC client.
///
/// # Errors
/// Go is missing or the build fails.
pub fn grpc() -> Result<PathBuf> {
    let dir = cached(MODULE, "grpc", &["cmd/grpc"], "about half a minute", |dir| {
        go_build(MODULE, "build", &["-ldflags", "-s -w", "./cmd/grpc"], dir, false)
    })?;
    Ok(dir.join("grpc"))
}

/// A Python that has what `tests/clients/python/requirements.txt` names.
///
/// # Errors
/// Python is missing, or a package cannot be had.
pub fn python() -> Result<PathBuf> {
    let dir = cached(MODULE, "python", &["python"], "seconds", |dir| {
        // What is called is `bin/python` alone, which finds its environment wherever that is moved to.
        run(Command::new(install::python()?).args(["-m", "venv"]).arg(dir))?;
        let mut pip = Command::new(dir.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
        ]);
        pip.args(["--require-hashes", "-r"]).arg(root().join(MODULE).join("python/requirements.txt"));
        run(&mut pip)
    })?;
    Ok(dir.join("bin/python"))
}

/// A script of `tests/clients/python`.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    root().join(MODULE).join("python").join(name)
}

/// Everything, and what the system has of such clients.
///
/// # Errors
/// Something is missing that cannot be had here.
pub fn all() -> Result<()> {
    install::http2_clients()?;
    grpc()?;
    python().map(drop)
}
