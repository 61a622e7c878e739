//! The control plane's benchmark: how long from a changed manifest to changed maps, with many Services loaded.
//!
//! A real agent reads N Services of three endpoints, one file per Service and one per EndpointSlice. Then one endpoint
//! of a random slice is replaced, again and again at random intervals. A change is measured from `rename()` to the
//! moment at which the pinned maps, read from this process, lead to exactly the new endpoints. A wrong answer fails the
//! benchmark; a slow one does not.
mod cost;
mod objects;

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::netns::{Agent, AgentSpec, Datapath, Lab, LabSpec, Maps, maps};
use cost::Cost;
use objects::Fleet;

/// How long the agent may take to load everything, and a change to arrive.
const LIMIT: Duration = Duration::from_secs(60);
/// The pause between two changes, at random in this range of milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 5..60;
/// What the project aims for: the 99th percentile with 1,000 Services.
const TARGET: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Services that are loaded.
    pub services: usize,
    /// Changes that are measured.
    pub changes: usize,
    /// Where the figures go besides standard output.
    pub json: Option<PathBuf>,
}

/// Measures, prints a table, writes the file.
///
/// # Errors
/// Not root, the agent fails, or the maps do not come to hold what they should.
pub fn control(options: &Options) -> anyhow::Result<()> {
    let lab = Lab::build(&LabSpec { kind: "bench".to_owned(), pods: Vec::new(), xdp: false })?;
    let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc).pools(&[objects::POOL]))?;
    let mut fleet = Fleet::write(&agent, options.services)?;
    println!("{} Services, {} EndpointSlices, {} endpoints", options.services, options.services, options.services * 3);
    let began = Instant::now();
    agent.launch()?;
    let loaded = began.elapsed();
    let pid = agent.pid().context("the agent does not run")?;
    let maps = Maps::open(agent.bpf_dir())?;
    for service in 0..options.services {
        let (vip, wanted) = (fleet.vip(service), fleet.endpoints(service));
        ensure!(maps.reach(vip)? == Some(wanted), "the maps do not hold Service {service} after the start");
    }
    let (after_load, began) = (Cost::of(pid)?, Instant::now());
    println!("ready in {loaded:.0?}; {} changes follow", options.changes);
    let mut random = fastrand::Rng::with_seed(7);
    let mut times = Vec::with_capacity(options.changes);
    for _ in 0..options.changes {
        std::thread::sleep(Duration::from_millis(random.u64(PAUSE_MS)));
        let service = random.usize(0..options.services);
        let change = fleet.replace_one(&agent, service)?;
        let started = Instant::now();
        change.publish()?;
        times.push(until_changed(&maps, fleet.vip(service), &fleet, service, started)?);
    }
    let (after, took) = (Cost::of(pid)?, began.elapsed());
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let cpu = after.cpu.saturating_sub(after_load.cpu);
    println!("\n  changes of a slice     p50        p90        p99        max        target p99");
    println!(
        "  {:<18} {:>9.2?}  {:>9.2?}  {:>9.2?}  {:>9.2?}  {:>9.0?}",
        times.len(),
        at(50),
        at(90),
        at(99),
        at(100),
        TARGET
    );
    println!("\n  agent                  CPU to ready   CPU for the changes   of one core   memory");
    println!(
        "                         {:>9.2?}      {:>9.2?}             {:>5.1} %      {:>5.1} MiB",
        after_load.cpu,
        cpu,
        100.0 * cpu.as_secs_f64() / took.as_secs_f64(),
        after.resident as f64 / 1_048_576.0
    );
    if let Some(path) = &options.json {
        let us = |d: Duration| d.as_secs_f64() * 1e6;
        let figures = json!({
            "services": options.services, "endpoints": options.services * 3, "changes": times.len(),
            "ready_ms": loaded.as_secs_f64() * 1e3,
            "latency_us": {"p50": us(at(50)), "p90": us(at(90)), "p99": us(at(99)), "max": us(at(100))},
            "target_p99_us": us(TARGET),
            "cpu_s": {"to_ready": after_load.cpu.as_secs_f64(), "changes": cpu.as_secs_f64()},
            "resident_bytes": after.resident,
        });
        std::fs::write(path, format!("{figures:#}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    agent.stop()
}

/// Waits until the maps hold what the fleet says; returns the time since `started`.
fn until_changed(
    maps: &Maps,
    vip: SocketAddr,
    fleet: &Fleet,
    service: usize,
    started: Instant,
) -> anyhow::Result<Duration> {
    let (key, wanted) = (maps::key(vip, sluice_ebpf::TCP), fleet.endpoints(service));
    let mut seen = None;
    loop {
        let row = maps.frontend(&key)?;
        // The whole table is read only when the row has changed: one system call per look otherwise.
        if row != seen {
            let at = started.elapsed();
            if row.map(|r| maps.backends(&r)).transpose()? == Some(wanted.clone()) {
                return Ok(at);
            }
            seen = row;
        }
        ensure!(started.elapsed() < LIMIT, "Service {service} is not in the maps as it should be: {row:?}");
    }
}
