//! What is told to an agent by its manifests, and asked of it by its command line and its admin socket.
use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::IpAddr,
    os::unix::net::UnixStream,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;

use super::{Agent, binary};

impl Agent {
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

    /// The same, with its standard output; it must end well, or say why an object is refused.
    ///
    /// # Errors
    /// It does not end well.
    pub fn show(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.cli(arguments)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let is_refused = arguments.first() == Some(&"why") && output.status.code() == Some(1);
        let is_well = output.status.success() || is_refused;
        anyhow::ensure!(is_well, "sluice {} ended with {}: {err}", arguments.join(" "), output.status);
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
}
