//! A program of another maker in a namespace: what it says is heard line by line, and it ends with this value.
use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::namespace::Namespace;

/// What a program may take for a line or for its end. None takes a tenth of it on a machine with nothing else to do.
const LIMIT: Duration = Duration::from_secs(300);

/// The program, running or ended.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// There is no such program.
    pub fn start(space: &Namespace, command: &mut Command) -> anyhow::Result<Self> {
        let name = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = space.enter(|| command.spawn()).with_context(|| format!("start {name}"))?;
        let (sender, lines) = mpsc::channel();
        hear(child.stdout.take().context("standard output is not piped")?, sender.clone());
        hear(child.stderr.take().context("standard error is not piped")?, sender);
        Ok(Self { name, child, lines, said: Vec::new() })
    }

    /// Starts a server, which says `ready` when it listens.
    ///
    /// # Errors
    /// There is no such program, or it ends instead.
    pub fn serve(space: &Namespace, command: &mut Command) -> anyhow::Result<Self> {
        let mut this = Self::start(space, command)?;
        this.line("ready")?;
        Ok(this)
    }

    /// Runs it to its end, which must be a good one; what it said.
    ///
    /// # Errors
    /// There is no such program, or it fails, or does not end.
    pub fn run(space: &Namespace, command: &mut Command) -> anyhow::Result<String> {
        Self::start(space, command)?.end()
    }

    /// Waits for a line that begins so; the rest of it.
    ///
    /// # Errors
    /// The program ends instead, or says nothing of the kind in time; the error holds what it said.
    pub fn line(&mut self, begins: &str) -> anyhow::Result<String> {
        let began = Instant::now();
        loop {
            match self.lines.recv_timeout(LIMIT.saturating_sub(began.elapsed())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if let Some(rest) = line.strip_prefix(begins) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => anyhow::bail!("{}: no line {begins:?}: {}", self.name, self.told()),
                Err(RecvTimeoutError::Disconnected) => {
                    anyhow::bail!("{} ended without a line {begins:?}: {}", self.name, self.told())
                }
            }
        }
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// It has ended.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.child.stdin.as_mut().context("standard input is not piped")?;
        writeln!(input, "{line}").with_context(|| format!("write to {}", self.name))
    }

    /// Sends it SIGTERM.
    ///
    /// # Errors
    /// It has ended.
    pub fn terminate(&self) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).context("ask a program to end")
    }

    /// Waits for its end, which must be a good one; what it said.
    ///
    /// # Errors
    /// It fails, or does not end in time; the error holds what it said.
    pub fn end(mut self) -> anyhow::Result<String> {
        let status = self.wait()?;
        anyhow::ensure!(status.success(), "{} ended with {status}: {}", self.name, self.told());
        Ok(self.told())
    }

    fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let began = Instant::now();
        // To the end of what it says, which is when it ends.
        while self.line("\0").is_ok() {}
        while began.elapsed() < LIMIT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        anyhow::bail!("{} still runs after {LIMIT:?}: {}", self.name, self.told())
    }

    fn told(&self) -> String {
        self.said.join("\n")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines on a thread of their own until there are no more.
fn hear(from: impl Read + Send + 'static, to: Sender<String>) {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(from).lines().map_while(Result::ok);
        let _ = lines.try_for_each(|line| to.send(line));
    });
}
