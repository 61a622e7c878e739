//! Runs commands and says what is going on: a numbered line before each step, its time after it.
use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A numbered series of steps, each announced before it runs.
pub struct Steps {
    total: usize,
    done: usize,
    started: Instant,
}

impl Steps {
    /// A series of `total` steps.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self { total, done: 0, started: Instant::now() }
    }

    /// Announces a step, runs it, reports its time.
    ///
    /// # Errors
    /// What the step returned, with its title.
    pub fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.done += 1;
        eprintln!("\n[{}/{}] {title}", self.done, self.total);
        let began = Instant::now();
        let result = work().with_context(|| title.to_owned())?;
        eprintln!("      {title}: {} (total {})", seconds(began.elapsed()), seconds(self.started.elapsed()));
        Ok(result)
    }
}

fn seconds(d: Duration) -> String {
    format!("{:.1} s", d.as_secs_f64())
}

/// Runs a command with our own terminal; fails when it fails.
///
/// # Errors
/// The command cannot be started, or ends with another status than 0.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// The trimmed standard output of a command; `None` when it cannot be started or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let out = command.stderr(Stdio::null()).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

/// The cargo that runs us, at the root of the workspace.
///
/// `cargo run` describes us to ourselves in the environment. Build scripts that look at that (ring's does) would run again,
/// and minutes of compiling with them, whenever somebody calls cargo directly in between.
#[must_use]
pub fn cargo() -> Command {
    let mut c = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.current_dir(crate::root());
    for (key, _) in env::vars_os() {
        let text = key.to_string_lossy();
        let is_ours =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| text.starts_with(p));
        if is_ours || text == "CARGO_PRIMARY_PACKAGE" || text == "OUT_DIR" {
            c.env_remove(&key);
        }
    }
    c
}

/// Whether a program of this name is on the path or in the usual places for the administrator's programs.
#[must_use]
pub fn on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|dir: std::path::PathBuf| Path::new(&dir).join(name).is_file())
}

/// Whether we are root.
#[must_use]
pub fn is_root() -> bool {
    output(Command::new("id").arg("-u")).as_deref() == Some("0")
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
