//! A real `sluice` process in a node's network namespace, with directories of its own.
//!
//! The binary is `$SLUICE_BIN`, else `sluice` beside this executable's profile directory. Its log goes to a file, and to
//! standard error when the test that owns it panics.
mod ask;
mod spec;

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{lab::Lab, namespace::Namespace};
pub use spec::{AgentSpec, Datapath};

/// How long the agent may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// How long it may take to end when asked to.
const STOP: Duration = Duration::from_secs(10);
/// Lines of the log that are shown when something fails.
const LOG_LINES: usize = 60;

/// The agent, running or not.
#[derive(Debug)]
pub struct Agent {
    spec: AgentSpec,
    node: String,
    space: Namespace,
    dir: PathBuf,
    bpf_dir: PathBuf,
    child: Option<Child>,
}

impl Agent {
    /// Starts it on its node and waits until it is ready.
    ///
    /// # Errors
    /// It is not ready in time; the error holds its log.
    pub fn start(lab: &Lab, spec: AgentSpec) -> anyhow::Result<Self> {
        let mut agent = Self::prepare(lab, spec)?;
        agent.launch()?;
        Ok(agent)
    }

    /// Makes its directories and starts nothing: manifests may be written first.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn prepare(lab: &Lab, spec: AgentSpec) -> anyhow::Result<Self> {
        Self::prepare_at("node1", Namespace::open(lab.node1.name())?, lab.dir(), lab.run().bpf_dir(), spec)
    }

    /// The same for a second agent, on node2.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn prepare_second(lab: &Lab, spec: AgentSpec) -> anyhow::Result<Self> {
        let (dir, bpf_dir) = (lab.dir().join("node2"), lab.run().bpf_dir().join("node2"));
        Self::prepare_at("node2", Namespace::open(lab.node2.name())?, dir, bpf_dir, spec)
    }

    fn prepare_at(
        node: &str,
        space: Namespace,
        dir: PathBuf,
        bpf_dir: PathBuf,
        spec: AgentSpec,
    ) -> anyhow::Result<Self> {
        let agent = Self { spec, node: node.to_owned(), space, dir, bpf_dir, child: None };
        for dir in [agent.manifests(), agent.dir.join("state")] {
            fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        }
        Ok(agent)
    }

    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// It is not ready in time; the error holds its log.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts the process.
    ///
    /// # Errors
    /// There is no binary.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path()).context("open the agent's log")?;
        let mut command = match self.spec.files {
            None => Command::new(binary()?),
            Some((soft, hard)) => {
                // The shell's own limits, and what it becomes has them.
                let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
                let mut shell = Command::new("bash");
                shell.arg("-c").arg(limits).arg(binary()?);
                shell
            }
        };
        command.arg("agent").args(self.arguments()).stdin(Stdio::null());
        // A group of its own: ^C in a terminal is for us, who then end it.
        command.stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = self.space.enter(|| command.spawn()).context("start the agent")?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// Not in time, or the process has ended; the error holds its log.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.as_mut().context("the agent was not started")?.try_wait()? {
                self.child = None;
                anyhow::bail!("the agent ended with {status}:\n{}", self.log_tail());
            }
            let answer = self.get("/readyz");
            if matches!(answer, Ok((200, _))) {
                return Ok(());
            }
            if began.elapsed() > READY {
                anyhow::bail!("the agent is not ready after {READY:?} ({answer:?}):\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the process ends by itself; returns how, and what it has logged.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait_end(&mut self) -> anyhow::Result<(ExitStatus, String)> {
        let mut child = self.child.take().context("the agent does not run")?;
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok((status, self.log()));
            }
            if began.elapsed() > STOP {
                self.child = Some(child);
                anyhow::bail!("the agent still runs after {STOP:?}:\n{}", self.log_tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the agent does not run")?;
        child.kill().context("kill the agent")?;
        child.wait().context("wait for the agent's end").map(drop)
    }

    /// Asks it to end, as systemd and the kubelet do, and waits.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.pid().context("the agent does not run")?.cast_signed());
        kill(pid, Signal::SIGTERM).context("ask the agent to end")?;
        let (status, log) = self.wait_end()?;
        anyhow::ensure!(status.success(), "the agent ended with {status}:\n{log}");
        Ok(())
    }

    /// The process, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it is run; takes effect with the next start.
    pub fn spec_mut(&mut self) -> &mut AgentSpec {
        &mut self.spec
    }

    /// The directory of its manifests.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// The directory of its pins.
    #[must_use]
    pub fn bpf_dir(&self) -> &Path {
        &self.bpf_dir
    }

    /// Its admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Leaves the process running when this value is dropped.
    pub fn release(mut self) {
        self.child = None;
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    fn arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let source = match &self.spec.kubeconfig {
            None => ("--manifests", text(&self.manifests())),
            Some(path) => ("--kubeconfig", text(path)),
        };
        let mut flags = vec![
            source,
            ("--node", self.node.clone()),
            ("--datapath", self.spec.datapath.flag().to_owned()),
            ("--bpf-dir", text(&self.bpf_dir)),
            ("--state-dir", text(&self.dir.join("state"))),
            ("--admin-socket", text(&self.socket())),
        ];
        flags.extend(self.spec.interfaces.iter().map(|i| ("--interface", i.clone())));
        flags.extend(self.spec.pools.iter().map(|p| ("--pool", p.clone())));
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        flags.chain(self.spec.extra.iter().cloned()).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the agent's log ---\n{}\n---", self.log_tail());
        }
        if self.child.is_some() {
            let _ = self.kill9();
        }
    }
}

/// The binary to run.
///
/// # Errors
/// There is none.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("SLUICE_BIN") {
        return Ok(path.into());
    }
    let exe = std::env::current_exe().context("find this executable")?;
    let dir = exe.parent().context("this executable has no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("deps has no parent")? } else { dir };
    let path = dir.join("sluice");
    anyhow::ensure!(
        path.exists(),
        "no {}: build it with `cargo build --bin sluice`, or set SLUICE_BIN",
        path.display()
    );
    Ok(path)
}
