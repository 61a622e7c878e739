//! The load: wrk and h2load, and what they say.
use std::{path::Path, process::Command};

use anyhow::{Context as _, ensure};

use super::{
    config::Variant,
    proxies::{Door, LOAD, Proxy, Stand},
};

/// How a proxy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// HTTP/1.1 over so many connections that stay open, as fast as it goes.
    KeepAlive(u32),
    /// The same, of responses of 1 MiB.
    Large(u32),
    /// A connection for each request.
    NewConnections,
    /// HTTP/1.1 at 8,000 requests a second.
    Rate,
    /// HTTP/2 in clear text, 8 connections of 16 streams.
    Http2,
    /// HTTP/1.1 under TLS 1.3 over so many connections that stay open.
    Tls(u32),
    /// HTTP/2 under TLS 1.3, 8 connections of 16 streams.
    Http2Tls,
    /// Requests with the head of a gRPC call: HTTP/2 both ways, 8 connections of 16 streams.
    Rpc,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Served {
    /// Requests that were answered with 200.
    pub(super) requests: f64,
    /// The median and the 99th percentile of the time to an answer, where it is told. Units: microseconds.
    pub(super) latency: Option<[f64; 2]>,
}

impl Load {
    /// Asks a proxy for so many seconds.
    ///
    /// # Errors
    /// The program is missing, or an answer is not 200.
    pub(super) fn run(self, stand: &Stand, proxy: Proxy, variant: Variant, seconds: u32) -> anyhow::Result<Served> {
        let path = if let Self::Large(_) = self { "/m" } else { variant.path() };
        let (scheme, door) = match self {
            Self::KeepAlive(_) | Self::Large(_) | Self::NewConnections | Self::Rate => ("http", Door::Http1),
            Self::Http2 | Self::Rpc => ("http", Door::Http2),
            Self::Tls(_) | Self::Http2Tls => ("https", Door::Tls),
        };
        let url = format!("{scheme}://{}{path}", proxy.address(door));
        let duration = seconds.to_string();
        let log = std::env::temp_dir().join(format!("sluice-h2load-{}.log", std::process::id()));
        let log_flag = format!("--log-file={}", log.display());
        let mut command = Command::new("taskset");
        command.args(["-c", LOAD]);
        match self {
            Self::KeepAlive(connections) | Self::Large(connections) => {
                let (connections, duration) = (format!("-c{connections}"), format!("-d{duration}s"));
                command.args(["wrk", "-t1", &connections, &duration]);
            }
            Self::NewConnections => {
                command.args(["wrk", "-t1", "-c32", &format!("-d{duration}s"), "-H", "connection: close"]);
            }
            Self::Rate => {
                command.args(["h2load", "--h1", "-c16", "--rps=500", "-D", &duration, &log_flag]);
            }
            Self::Tls(connections) => {
                command.args(["wrk", "-t1", &format!("-c{connections}"), &format!("-d{duration}s")]);
            }
            Self::Http2 | Self::Http2Tls => {
                command.args(["h2load", "-c8", "-m16", "-D", &duration]);
            }
            // Without a body: the endpoint does not read one, and nginx takes that for a failure of the endpoint.
            Self::Rpc => {
                command.args(["h2load", "-c8", "-m16", "-D", &duration, "-H", "te: trailers"]);
            }
        }
        variant.fields().iter().for_each(|field| {
            command.args(["-H", field]);
        });
        command.arg(&url);
        let output = stand.space.enter(|| command.output()).context("start wrk or h2load")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let served = match self {
            Self::KeepAlive(_) | Self::Large(_) | Self::NewConnections | Self::Tls(_) => wrk(&said),
            Self::Rate => h2load(&said).and_then(|served| Ok(Served { latency: Some(latencies(&log)?), ..served })),
            Self::Http2 | Self::Http2Tls | Self::Rpc => h2load(&said),
        };
        let _ = std::fs::remove_file(&log);
        served.with_context(|| format!("{} at {url} said:\n{said}", proxy.name()))
    }
}

/// `12345 requests in 3.00s, 15.1MB read`; what went wrong stands in lines of its own.
fn wrk(said: &str) -> anyhow::Result<Served> {
    ensure!(!said.contains("Non-2xx"), "not every answer is 200");
    ensure!(!said.contains("Socket errors"), "connections failed");
    let line = said.lines().find_map(|l| l.trim().split_once(" requests in "));
    let requests = line.and_then(|(n, _)| n.parse::<f64>().ok()).context("no number of requests")?;
    ensure!(requests > 0.0, "nothing was answered");
    Ok(Served { requests, latency: None })
}

/// `requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout`.
fn h2load(said: &str) -> anyhow::Result<Served> {
    let line = said.lines().find_map(|l| l.strip_prefix("requests: ")).context("no number of requests")?;
    let number = |what: &str| {
        let part = line.split(", ").find_map(|part| part.strip_suffix(what));
        part.and_then(|n| n.trim().parse::<f64>().ok()).with_context(|| format!("no number of{what}"))
    };
    ensure!(number(" failed")? == 0.0 && number(" errored")? == 0.0, "requests failed");
    let requests = number(" succeeded")?;
    ensure!(requests > 0.0, "nothing was answered");
    Ok(Served { requests, latency: None })
}

/// A log of h2load: begin, status and duration of each request; durations are microseconds.
fn latencies(log: &Path) -> anyhow::Result<[f64; 2]> {
    let text = std::fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let mut all: Vec<u64> = text.lines().filter_map(|l| l.split_whitespace().nth(2)?.parse().ok()).collect();
    ensure!(!all.is_empty(), "h2load has logged no request");
    all.sort_unstable();
    let at = |percent: usize| all[(all.len() * percent / 100).min(all.len() - 1)] as f64;
    Ok([at(50), at(99)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_say_is_understood() {
        let said = "Running 3s test\n  12345 requests in 3.00s, 15.10MB read\nRequests/sec:   4115.00\n";
        assert_eq!(wrk(said).unwrap().requests, 12345.0);
        assert!(wrk("  5 requests in 3.00s, 1KB read\n  Non-2xx or 3xx responses: 5\n").is_err());
        assert!(wrk("  0 requests in 3.00s, 0B read\n").is_err());
        let said = "requests: 100 total, 100 started, 100 done, 99 succeeded, 0 failed, 0 errored, 0 timeout\n";
        assert_eq!(h2load(said).unwrap().requests, 99.0);
        assert!(h2load(&said.replace("0 failed", "1 failed")).is_err());
    }
}
