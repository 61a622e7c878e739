//! A process that removes a run when its owner is gone, however it went.
//!
//! A test binary ends by `exit`, which drops no `static`; so the control plane that its tests share would outlive it, and
//! so would every one whose owner is killed. The guard waits for the end of its standard input, a pipe that only the
//! owner holds open, and then removes what is left.
use std::{
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

use crate::netns::run::{RUNS, Run};

/// The guard of one run; ends when dropped.
#[derive(Debug)]
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Sets a guard over the run `id`.
    ///
    /// # Errors
    /// There is no binary.
    pub fn set(id: &str) -> anyhow::Result<Self> {
        let mut command = Command::new(binary()?);
        // A group of its own: a signal to the owner's group must not end it.
        command.args(["guard", id]).process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.context("start the guard of a cluster")? })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What the guard does.
///
/// # Errors
/// Its standard input cannot be read.
pub fn watch(id: &str) -> anyhow::Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the owner's end")?;
    // Mostly the owner has removed it itself.
    if Path::new(RUNS).join(id).exists() {
        drop(Run::adopt(id)?);
    }
    Ok(())
}

/// The binary `cluster`, beside this executable.
pub(super) fn binary() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("find this executable")?;
    let dir = exe.parent().context("this executable has no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("deps has no parent")? } else { dir };
    let path = dir.join("cluster");
    anyhow::ensure!(path.exists(), "no {}: build it with `cargo build -p sluice-tests --bin cluster`", path.display());
    Ok(path)
}
