//! From a changed HTTPRoute, or a new one, to another answer; and what many routes and certificates cost in memory.
//!
//! One file per route, each with a host name of its own. A change is measured from `rename()` to the first answer that is as the new
//! route says, asked for over a kept connection, again and again. Meanwhile another client asks for a route that does not change: its
//! waits are printed beside those that it has while nothing changes.
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    Options,
    cost::Cost,
    figures::{Figures, Times},
};
use crate::netns::{Agent, AgentSpec, Datapath, Lab, LabSpec, Namespace, addr, manifest};

/// The address of the endpoints.
const HOST: &str = "10.9.0.1";
/// The Gateway's.
const VIP: &str = "203.0.113.10";
/// Their ports; each answers with the name of its Service.
const ENDPOINTS: [(&str, u16); 2] = [("a", 9001), ("b", 9002)];
/// What the project aims for: the 99th percentile of a change. Units: milliseconds.
const FLIP_P99: f64 = 10.0;
/// And of a new route. Units: milliseconds.
const ADD_P99: f64 = 20.0;
/// How long a change may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The pause between two changes.
const PAUSE: Duration = Duration::from_millis(20);
/// For how long others are asked while nothing changes.
const CALM: Duration = Duration::from_secs(3);
/// The second half: so many routes and certificates, and the memory that they may take.
const LARGE: (usize, usize, f64) = (5_000, 500, 120.0);

/// Measures, prints.
pub(super) fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let lab = Lab::build(&LabSpec { kind: "bench".to_owned(), pods: Vec::new(), xdp: false })?;
    let space = Namespace::open(lab.node1.name())?;
    space.net(async |net| net.address("lo", addr::ip(HOST), 32).await)?;
    for (name, port) in ENDPOINTS {
        let listener = space.enter(|| TcpListener::bind((HOST, port))).context("listen")?;
        std::thread::spawn(move || serve(&listener, name));
    }
    let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc).pools(&["203.0.113.0/24"]))?;
    agent.write("gateway.yaml", &[manifest::gateway("front", 80, Some(VIP))])?;
    for (name, port) in ENDPOINTS {
        agent.write(&format!("{name}.yaml"), &service(name, port))?;
    }
    for n in 0..options.services {
        prepare(&agent, n, "a")?.publish()?;
    }
    agent.launch()?;
    let pid = agent.pid().context("the agent does not run")?;
    let mut client = Client::connect(&space)?;
    client.until(&host(0), "a", LIMIT)?;
    figures.at_most("memory of the agent", Cost::of(pid)?.mebibytes(), None, "MiB");
    let calm = others(&space, |is_over| {
        std::thread::sleep(CALM);
        is_over.store(true, Relaxed);
        Ok(())
    })?
    .0;
    let (busy, flips) = others(&space, |is_over| {
        let flips = flips(&agent, &mut client, options);
        is_over.store(true, Relaxed);
        flips
    })?;
    figures.at_most("a changed route, p50", flips.at(50), None, "ms");
    figures.at_most("a changed route, p99", flips.at(99), Some(FLIP_P99), "ms");
    figures.at_most("a changed route, slowest", flips.at(100), None, "ms");
    figures.at_most("others' p99 while nothing changes", calm.at(99), None, "ms");
    figures.at_most("others' p99 meanwhile", busy.at(99), Some(1.1 * calm.at(99)), "ms");
    let adds = adds(&agent, &mut client, options)?;
    figures.at_most("a new route, p50", adds.at(50), None, "ms");
    figures.at_most("a new route, p99", adds.at(99), Some(ADD_P99), "ms");
    figures.at_most("a new route, slowest", adds.at(100), None, "ms");
    large(&mut agent, &mut client, options.services + options.changes, figures)
}

/// Changes where a route leads, back and forth.
fn flips(agent: &Agent, client: &mut Client, options: &Options) -> anyhow::Result<Times> {
    let mut times = Vec::with_capacity(options.changes);
    for change in 0..options.changes {
        let (n, to) = (1 + change / 2 * 7 % (options.services - 1), if change % 2 == 0 { "b" } else { "a" });
        let file = prepare(agent, n, to)?;
        client.until(&host(n), if to == "b" { "a" } else { "b" }, LIMIT)?;
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        file.publish()?;
        times.push(client.until(&host(n), to, LIMIT)?.duration_since(began));
    }
    Ok(Times::new(times))
}

/// Adds routes, one after the other: 404, then 200.
fn adds(agent: &Agent, client: &mut Client, options: &Options) -> anyhow::Result<Times> {
    let mut times = Vec::with_capacity(options.changes);
    for n in options.services..options.services + options.changes {
        let file = prepare(agent, n, "a")?;
        ensure!(client.ask(&host(n))? == (404, String::new()), "there is no route {n} yet");
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        file.publish()?;
        times.push(client.until(&host(n), "a", LIMIT)?.duration_since(began));
    }
    Ok(Times::new(times))
}

/// What many routes and certificates take, in an agent that begins with them.
fn large(agent: &mut Agent, client: &mut Client, routes: usize, figures: &mut Figures) -> anyhow::Result<()> {
    agent.stop()?;
    let (all, certificates, goal) = LARGE;
    for n in routes..all {
        prepare(agent, n, "a")?.publish()?;
    }
    // A Gateway has 64 listeners at most.
    for (number, first) in (0..certificates).step_by(60).enumerate() {
        let of_gateway = first..certificates.min(first + 60);
        let mut gateway = manifest::gateway(&format!("secure{number}"), 80, None);
        let listener = |n| {
            json!({"name": format!("t{n}"), "port": 443, "protocol": "HTTPS",
            "hostname": format!("t{n}.example.com"), "tls": {"certificateRefs": [{"name": format!("t{n}")}]}})
        };
        gateway["spec"]["listeners"] = of_gateway.clone().map(listener).collect();
        let mut objects = vec![gateway];
        for n in of_gateway {
            let made = rcgen::generate_simple_self_signed([format!("t{n}.example.com")])?;
            objects.push(json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                "metadata": {"name": format!("t{n}"), "namespace": "default"},
                "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()}}));
        }
        agent.write(&format!("secure{number}.yaml"), &objects)?;
    }
    agent.launch()?;
    *client = Client::connect(&client.space)?;
    client.until(&host(all - 1), "a", LIMIT)?;
    let cost = Cost::of(agent.pid().context("the agent does not run")?)?;
    let what = format!("memory of the agent, {all} routes and {certificates} certificates");
    figures.at_most(&what, cost.mebibytes(), Some(goal), "MiB");
    figures.at_most("the most that it was", cost.peak_mebibytes(), None, "MiB");
    agent.stop()
}

/// Runs something, while the waits of a client of another route are noted.
fn others<T: Send>(
    space: &Namespace,
    what: impl FnOnce(&AtomicBool) -> anyhow::Result<T>,
) -> anyhow::Result<(Times, T)> {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut client = Client::connect(space)?;
            let mut times = Vec::new();
            while !is_over.load(Relaxed) {
                let began = Instant::now();
                let answer = client.ask(&host(0))?;
                times.push(began.elapsed());
                ensure!(answer == (200, "a".to_owned()), "the route that does not change: {answer:?}");
                std::thread::sleep(Duration::from_millis(1));
            }
            anyhow::Ok(Times::new(times))
        });
        let done = what(&is_over);
        is_over.store(true, Relaxed);
        let times = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))??;
        Ok((times, done?))
    })
}

fn host(n: usize) -> String {
    format!("host-{n}.example")
}

fn service(name: &str, port: u16) -> [Value; 2] {
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [HOST], "conditions": {"ready": true}, "nodeName": "node1"}],
    });
    [manifest::cluster_service(name), slice]
}

/// A file that is written and not yet published.
struct Change {
    new: std::path::PathBuf,
    path: std::path::PathBuf,
}

impl Change {
    /// Renames it into place.
    fn publish(self) -> anyhow::Result<()> {
        fs::rename(&self.new, &self.path).with_context(|| format!("rename to {}", self.path.display()))
    }
}

fn prepare(agent: &Agent, n: usize, to: &str) -> anyhow::Result<Change> {
    let rules = json!([{"backendRefs": [{"name": to, "port": 80}]}]);
    let route = manifest::http_route(&format!("r{n}"), "front", &[&host(n)], &rules);
    let (dir, file) = (agent.manifests(), format!("r{n}.yaml"));
    let new = dir.join(format!(".{file}.new"));
    fs::write(&new, format!("{route:#}\n")).with_context(|| format!("write {}", new.display()))?;
    Ok(Change { new, path: dir.join(file) })
}

/// An endpoint: answers every request with its name.
fn serve(listener: &TcpListener, name: &'static str) {
    for stream in listener.incoming().map_while(Result::ok) {
        std::thread::spawn(move || answer(stream, name));
    }
}

fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    // Whole answers in one segment each: else Nagle's algorithm and delayed acknowledgements make 40 ms of every one.
    stream.set_nodelay(true)?;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&buffer[..n]);
        while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            seen.drain(..end + 4);
            stream.write_all(answer.as_bytes())?;
        }
    }
}

/// A client with one kept connection.
struct Client {
    space: Namespace,
    stream: TcpStream,
}

impl Client {
    fn connect(space: &Namespace) -> anyhow::Result<Self> {
        let stream = space.enter(|| TcpStream::connect((VIP, 80))).context("connect to the Gateway")?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { space: Namespace::open(space.name())?, stream })
    }

    /// Asks for a host; the status, and the body of a 200.
    fn ask(&mut self, host: &str) -> anyhow::Result<(u16, String)> {
        self.stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let n = self.stream.read(&mut buffer)?;
            ensure!(n > 0, "the connection ended");
            seen.extend_from_slice(&buffer[..n]);
            let text = String::from_utf8_lossy(&seen);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().filter_map(|line| line.split_once(':'));
            let mut length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = length.next().context("no length")?.1.trim().parse()?;
            if body.len() < length {
                continue;
            }
            let status: u16 = head.split_whitespace().nth(1).context("no status")?.parse()?;
            return Ok((status, if status == 200 { body.to_owned() } else { String::new() }));
        }
    }

    /// Asks until the answer is 200 with this body, and never anything but what a route says or 404; when that was.
    fn until(&mut self, host: &str, body: &str, limit: Duration) -> anyhow::Result<Instant> {
        let began = Instant::now();
        loop {
            let (status, found) = self.ask(host)?;
            if status == 200 && found == body {
                return Ok(Instant::now());
            }
            ensure!(status == 404 || status == 200, "{host}: {status} instead of 404 or 200");
            ensure!(began.elapsed() < limit, "{host} is not answered by {body:?}: {status} {found:?}");
        }
    }
}
