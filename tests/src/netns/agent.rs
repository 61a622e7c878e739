//! A real `sluice` process in a node's network namespace, with directories of its own.
//!
//! The binary is `$SLUICE_BIN`, else `sluice` beside this executable's profile directory. Its log goes to a file, and to
//! standard error when the test that owns it panics.
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    addr,
    lab::{Lab, UPLINK},
    namespace::Namespace,
};

/// How long the agent may take to be ready.
const READY: Duration = Duration::from_secs(20);
/// How long it may take to end when asked to.
const STOP: Duration = Duration::from_secs(10);
/// Lines of the log that are shown when something fails.
const LOG_LINES: usize = 60;

/// `--datapath`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// The agent decides; on veth that is TC.
    Auto,
    /// XDP in the driver, and TC.
    Xdp,
    /// XDP on socket buffers, and TC.
    XdpGeneric,
    /// TC alone.
    Tc,
}

impl Datapath {
    /// The value of the flag.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::XdpGeneric => "xdp-generic",
            Self::Tc => "tc",
        }
    }
}

/// How to run it.
#[derive(Clone, Debug)]
pub struct AgentSpec {
    /// `--datapath`.
    pub datapath: Datapath,
    /// `--pool`, each.
    pub pools: Vec<String>,
    /// `--interface`, each.
    pub interfaces: Vec<String>,
    /// Other arguments.
    pub extra: Vec<String>,
}

impl AgentSpec {
    /// On the uplink, with the default pools.
    #[must_use]
    pub fn new(datapath: Datapath) -> Self {
        let pools = addr::POOLS.map(str::to_owned).to_vec();
        Self { datapath, pools, interfaces: vec![UPLINK.to_owned()], extra: Vec::new() }
    }

    /// With other pools.
    #[must_use]
    pub fn pools(self, pools: &[&str]) -> Self {
        Self { pools: pools.iter().map(|p| (*p).to_owned()).collect(), ..self }
    }
}

/// The agent, running or not.
#[derive(Debug)]
pub struct Agent {
    spec: AgentSpec,
    space: Namespace,
    dir: PathBuf,
    bpf_dir: PathBuf,
    child: Option<Child>,
}

impl Agent {
    /// Starts it on node1 and waits until it is ready.
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
        let space = Namespace::open(lab.node1.name())?;
        let agent = Self { spec, space, dir: lab.dir(), bpf_dir: lab.run().bpf_dir(), child: None };
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
        let mut command = Command::new(binary()?);
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

    /// The addresses of an object, `Service default/web`, as the agent has written them down for its next start.
    ///
    /// # Errors
    /// It has none yet.
    pub fn addresses(&self, object: &str) -> anyhow::Result<Vec<IpAddr>> {
        let path = self.dir.join("state/allocations.json");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let all: BTreeMap<String, Vec<IpAddr>> = serde_json::from_str(&text).context("read the allocations")?;
        all.get(object).cloned().with_context(|| format!("{object} has no address: {text}"))
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

    /// Writes objects to a file, as one change: a file of another name, then `rename`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, file: &str, objects: &[Value]) -> anyhow::Result<()> {
        let text: Vec<String> = objects.iter().map(|o| format!("{o:#}\n")).collect();
        self.write_text(file, &text.join("---\n"))
    }

    /// Writes a text to a file, as one change.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_text(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let (new, path) = (self.manifests().join(format!(".{file}.new")), self.manifests().join(file));
        fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
        fs::rename(&new, &path).with_context(|| format!("rename to {}", path.display()))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&self, file: &str) -> anyhow::Result<()> {
        fs::remove_file(self.manifests().join(file)).with_context(|| format!("remove {file}"))
    }

    /// Runs `sluice <arguments>` against this agent's admin socket.
    ///
    /// # Errors
    /// There is no binary.
    pub fn cli(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("--admin-socket").arg(self.socket()).stdin(Stdio::null());
        command.output().with_context(|| format!("run sluice {}", arguments.join(" ")))
    }

    /// The same, with its standard output; it must end well.
    ///
    /// # Errors
    /// It does not end well.
    pub fn show(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.cli(arguments)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "sluice {} ended with {}: {err}", arguments.join(" "), output.status);
        Ok(out.into_owned())
    }

    /// The same with `-o json`, parsed.
    ///
    /// # Errors
    /// It does not end well, or does not print JSON.
    pub fn show_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.show(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("sluice {} -o json printed:\n{text}", arguments.join(" ")))
    }

    /// Runs `sluice cleanup` on its pins, in the node's namespace.
    ///
    /// # Errors
    /// It does not end well.
    pub fn cleanup(&self) -> anyhow::Result<String> {
        let mut command = Command::new(binary()?);
        command.arg("cleanup").arg("--bpf-dir").arg(&self.bpf_dir).stdin(Stdio::null());
        let output = self.space.enter(|| command.output()).context("run sluice cleanup")?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        anyhow::ensure!(output.status.success(), "sluice cleanup ended with {}: {err}", output.status);
        Ok(out.into_owned())
    }

    /// GET on the admin socket: status and body.
    ///
    /// # Errors
    /// Nobody listens, or the answer is not HTTP.
    pub fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let mut stream = UnixStream::connect(self.socket()).context("connect to the admin socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: sluice\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("read from the admin socket")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the admin socket's answer is not HTTP")?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("the answer has no status")?;
        Ok((status, body.to_owned()))
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
        let mut flags = vec![
            ("--manifests", text(&self.manifests())),
            ("--node", "node1".to_owned()),
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
