//! The processes: the endpoint, the peers and the agent, each on its processor.
use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::config::{self, ENDPOINT, HOST, NAME, ONE_OF_REGEXES, PLAIN_VIP, VIP, Variant};
use crate::{
    cluster::process::Process,
    netns::{Agent, AgentSpec, Datapath, Lab, LabSpec, Namespace, addr},
};

/// Where the proxies run.
const PROXIES: &str = "1";
/// Where load and endpoint run.
pub(super) const LOAD: &str = "0";
/// How long a process may take until it accepts connections.
const READY: Duration = Duration::from_secs(20);
/// How long routes may take until they are in effect.
const SERVED: Duration = Duration::from_secs(60);

/// A proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proxy {
    /// nginx.
    Nginx,
    /// HAProxy.
    Haproxy,
    /// Ours.
    Sluice,
    /// Ours, by the address of the Gateway that has one rule.
    Plain,
}

impl Proxy {
    /// All of different makers, in the order of a turn.
    pub(super) const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Sluice];

    /// Its name in the table.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Sluice => "Sluice",
            Self::Plain => "Sluice with one rule",
        }
    }

    /// Where it listens: the peers have a port of its own for HTTP/2 in clear text.
    pub(super) fn address(self, door: Door) -> String {
        match (self, door) {
            (Self::Sluice, Door::Http1 | Door::Http2) => format!("{VIP}:80"),
            (Self::Sluice, Door::Tls) => format!("{VIP}:443"),
            (Self::Plain, Door::Http1 | Door::Http2) => format!("{PLAIN_VIP}:80"),
            (Self::Plain, Door::Tls) => format!("{PLAIN_VIP}:443"),
            (Self::Nginx, door) => format!("{HOST}:{}", 8100 + door as u16),
            (Self::Haproxy, door) => format!("{HOST}:{}", 8200 + door as u16),
        }
    }
}

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// HTTP/1.1 in clear text.
    Http1,
    /// HTTP/2 in clear text.
    Http2,
    /// TLS, and under it what the client offers.
    Tls,
}

impl Door {
    const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Tls];
}

/// All of them, running.
pub(super) struct Stand {
    /// That of all, PEM.
    pub(super) certificate: String,
    pub(super) space: Namespace,
    nginx: Process,
    haproxy: Process,
    agent: Agent,
    _endpoint: Process,
    _lab: Lab,
}

impl Stand {
    /// Starts everything with these routes, and waits until all accept connections. A second worker of ours runs on [`LOAD`].
    pub(super) fn build(variant: Variant, workers: usize) -> anyhow::Result<Self> {
        let lab = Lab::build(&LabSpec { kind: "bench".to_owned(), pods: Vec::new(), xdp: false })?;
        let space = Namespace::open(lab.node1.name())?;
        space.net(async |net| net.address("lo", addr::ip(HOST), 32).await)?;
        // Otherwise ports run out with what has just been closed.
        for (key, value) in [
            ("net/ipv4/ip_local_port_range", "1024 65000"),
            ("net/ipv4/tcp_tw_reuse", "1"),
            ("net/core/somaxconn", "65535"),
        ] {
            space.sysctl(key, value)?;
        }
        let dir = lab.dir().join("l7");
        fs::create_dir_all(dir.join("www")).with_context(|| format!("create {}", dir.display()))?;
        let write = |name: &str, text: &[u8]| -> anyhow::Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        let pair = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("make a certificate")?;
        let (certificate, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
        write("tls.pem", [certificate.as_bytes(), key.as_bytes()].concat().as_slice())?;
        write("www/k", &[b'x'; 1 << 10])?;
        fs::create_dir_all(dir.join("www/v150")).context("create a directory")?;
        write(&format!("www{ONE_OF_REGEXES}"), &[b'x'; 1 << 10])?;
        write("www/m", &vec![b'x'; 1 << 20])?;
        let start = |name: &str, cpu: &str, command: &[&str]| {
            let mut pinned = Command::new("taskset");
            pinned.args(["-c", cpu]).args(command);
            Process::start(&space, pinned, &dir.join(format!("{name}.out")))
        };
        let endpoint = write("endpoint.conf", config::endpoint(&dir).as_bytes())?.display().to_string();
        let nginx = write("nginx.conf", config::nginx(&dir, variant, 8100).as_bytes())?.display().to_string();
        let haproxy = config::haproxy(&dir, variant, 8200);
        let haproxy = write("haproxy.cfg", haproxy.as_bytes())?.display().to_string();
        let endpoint = start("endpoint", LOAD, &["nginx", "-c", &endpoint])?;
        let nginx = start("nginx", PROXIES, &["nginx", "-c", &nginx])?;
        let haproxy = start("haproxy", PROXIES, &["haproxy", "-db", "-f", &haproxy])?;
        let mut spec = AgentSpec::new(Datapath::Tc).pools(&["203.0.113.0/24"]);
        spec.extra.push(format!("--proxy-workers={workers}"));
        let mut agent = Agent::prepare(&lab, spec)?;
        agent.write("all.yaml", &config::manifests(variant, &certificate, &key))?;
        agent.launch()?;
        let pid = agent.pid().context("the agent does not run")?;
        pin(&["-a"], pid, PROXIES)?;
        for (name, task) in threads(pid)? {
            if name == "proxy-1" {
                pin(&[], task, LOAD)?;
            }
        }
        let stand = Self { certificate, space, nginx, haproxy, agent, _endpoint: endpoint, _lab: lab };
        stand.until_listening(&format!("{HOST}:{ENDPOINT}"))?;
        for (proxy, door) in Proxy::ALL.iter().flat_map(|proxy| Door::ALL.map(|door| (proxy, door))) {
            stand.until_listening(&proxy.address(door))?;
        }
        stand.until_served(variant)?;
        Ok(stand)
    }

    /// Waits until our route is in effect.
    fn until_served(&self, variant: Variant) -> anyhow::Result<()> {
        let host = if variant.fields().iter().any(|field| field.starts_with("Host:")) { "" } else { "host: a\r\n" };
        let fields = variant.fields().join("\r\n");
        let request = format!("GET {} HTTP/1.0\r\n{host}{fields}\r\n\r\n", variant.path());
        let ask = || -> std::io::Result<Vec<u8>> {
            let mut stream = std::net::TcpStream::connect(Proxy::Sluice.address(Door::Http1))?;
            stream.set_read_timeout(Some(READY))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let began = Instant::now();
        loop {
            let answer = self.space.enter(ask);
            if answer
                .as_ref()
                .is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200") || answer.starts_with(b"HTTP/1.0 200"))
            {
                return Ok(());
            }
            ensure!(
                began.elapsed() < SERVED,
                "{request:?} is not answered by 200: {:?}",
                answer.map(String::from_utf8)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn until_listening(&self, address: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match self.space.enter(|| std::net::TcpStream::connect(address)) {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > READY => {
                    let said = format!("{}\n{}", self.nginx.tail(), self.haproxy.tail());
                    return Err(error).with_context(|| format!("connect to {address}\n{said}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The process of a proxy; nginx has a child that does the work.
    fn pid(&self, proxy: Proxy) -> anyhow::Result<u32> {
        match proxy {
            Proxy::Nginx => Ok(self.nginx.pid().as_raw().cast_unsigned()),
            Proxy::Haproxy => Ok(self.haproxy.pid().as_raw().cast_unsigned()),
            Proxy::Sluice | Proxy::Plain => self.agent.pid().context("the agent does not run"),
        }
    }

    /// A proxy's processor time so far, user and system.
    pub(super) fn cpu(&self, proxy: Proxy) -> anyhow::Result<Duration> {
        let mut total = 0;
        for pid in family(self.pid(proxy)?)? {
            total += threads(pid)?.iter().map(|(_, task)| cpu_of(*task)).sum::<u64>();
        }
        Ok(Duration::from_nanos(total))
    }

    /// The processor time of each worker of ours so far.
    pub(super) fn workers(&self) -> anyhow::Result<Vec<Duration>> {
        let mut all = threads(self.pid(Proxy::Sluice)?)?;
        all.retain(|(name, _)| name.starts_with("proxy-"));
        all.sort();
        Ok(all.iter().map(|(_, task)| Duration::from_nanos(cpu_of(*task))).collect())
    }

    /// The memory that belongs to a proxy alone, and its share of what it shares. Units: bytes.
    pub(super) fn memory(&self, proxy: Proxy) -> anyhow::Result<u64> {
        let mut total = 0;
        for pid in family(self.pid(proxy)?)? {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).context("smaps_rollup has no Pss")?;
            total += 1024 * line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).context("no number")?;
        }
        Ok(total)
    }
}

/// Pins a process, with `-a`, or a thread.
fn pin(flags: &[&str], task: u32, cpu: &str) -> anyhow::Result<()> {
    let mut command = Command::new("taskset");
    let pinned = command.args(flags).args(["-c", "-p", cpu, &task.to_string()]).output().context("start taskset")?;
    ensure!(pinned.status.success(), "taskset: {}", String::from_utf8_lossy(&pinned.stderr));
    Ok(())
}

/// The threads of a process by their names.
fn threads(pid: u32) -> anyhow::Result<Vec<(String, u32)>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
    // A thread may end meanwhile.
    let named = tasks.flatten().filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        Some((name.trim().to_owned(), task.file_name().to_str()?.parse().ok()?))
    });
    Ok(named.collect())
}

/// The processor time of a thread so far; 0 if it has ended. Units: nanoseconds.
fn cpu_of(task: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{task}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A process and those below it.
fn family(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut all = vec![pid];
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
            all.extend(family(child).unwrap_or_default());
        }
    }
    Ok(all)
}
