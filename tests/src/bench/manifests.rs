//! From a changed manifest to changed maps: what a node without a cluster has.
//!
//! One file per Service and one per EndpointSlice. A change is measured from `rename()` to the moment at which the pinned
//! maps, read from this process, lead to exactly the new endpoints.
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use super::{
    LOOK, Options,
    cost::Cost,
    figures::{Figures, Times},
    objects, until_changed,
};
use crate::netns::{Agent, AgentSpec, Datapath, Lab, LabSpec, Maps};

/// The pause between two changes, at random in this range of milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 5..60;
/// What the project aims for: the 99th percentile with 1,000 Services. Units: milliseconds.
const GOAL_P99: f64 = 20.0;

/// Measures, prints.
pub(super) fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let lab = Lab::build(&LabSpec { kind: "bench".to_owned(), pods: Vec::new(), xdp: false })?;
    objects::lead_to_endpoints(&lab)?;
    let mut agent = Agent::prepare(&lab, AgentSpec::new(Datapath::Tc).pools(&[objects::POOL]))?;
    for service in 0..options.services {
        agent.write(&format!("{}-service.yaml", objects::name(service)), &[objects::service(service)])?;
        prepare(&agent, service, 0)?.publish()?;
    }
    let began = Instant::now();
    agent.launch()?;
    figures.at_most("start to ready", began.elapsed().as_secs_f64(), None, "s");
    let pid = agent.pid().context("the agent does not run")?;
    let maps = Maps::open(agent.bpf_dir())?;
    for service in 0..options.services {
        let reached = maps.reach(objects::vip(service))?;
        let wanted = objects::endpoints(service, 0);
        ensure!(reached == Some(wanted), "the maps do not hold Service {service} after the start");
    }
    let (before, began) = (Cost::of(pid)?, Instant::now());
    figures.at_most("CPU to ready", before.cpu.as_secs_f64(), None, "s");
    let mut random = fastrand::Rng::with_seed(7);
    let (mut generations, mut times) = (vec![0; options.services], Vec::with_capacity(options.changes));
    for _ in 0..options.changes {
        std::thread::sleep(Duration::from_millis(random.u64(PAUSE_MS)));
        let service = random.usize(0..options.services);
        generations[service] += 1;
        let change = prepare(&agent, service, generations[service])?;
        let started = Instant::now();
        change.publish()?;
        times.push(until_changed(&maps, service, generations[service], LOOK)?.duration_since(started));
    }
    let (after, took) = (Cost::of(pid)?, began.elapsed());
    let times = Times::new(times);
    figures.at_most("a changed slice, p50", times.at(50), None, "ms");
    figures.at_most("a changed slice, p99", times.at(99), Some(GOAL_P99), "ms");
    figures.at_most("a changed slice, slowest", times.at(100), None, "ms");
    let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
    figures.at_most("CPU meanwhile", 100.0 * cpu / took.as_secs_f64(), None, "%");
    figures.at_most("memory of the agent", after.mebibytes(), None, "MiB");
    agent.stop()
}

/// A file that is written and not yet published.
struct Change {
    new: PathBuf,
    path: PathBuf,
}

impl Change {
    /// Renames it into place.
    fn publish(self) -> anyhow::Result<()> {
        fs::rename(&self.new, &self.path).with_context(|| format!("rename to {}", self.path.display()))
    }
}

fn prepare(agent: &Agent, service: usize, generation: u32) -> anyhow::Result<Change> {
    let (dir, file) = (agent.manifests(), format!("{}-slice.yaml", objects::name(service)));
    let new = dir.join(format!(".{file}.new"));
    let text = format!("{:#}\n", objects::slice(service, generation).json());
    fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    Ok(Change { new, path: dir.join(file) })
}
