//! From a write to the API server to changed maps, with a real control plane full of Services.
//!
//! The agent is the only one and leads: it writes addresses and status as well, once, before anything is measured. Its
//! cold start is the next one, without pins. A change is measured from the API server's answer to the write to the moment
//! at which the pinned maps, read from this process, lead to exactly the new endpoints.
//!
//! # Design
//! The API server and the writers take most of the CPU, so both are made as cheap as they go, and what a change costs each
//! process is printed: protobuf, a token, no admission by policy, and slices without managed fields. Those of a real
//! cluster have them, some hundred bytes of JSON that the agent reads over.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::json;

use super::{
    LOOK, Options,
    cost::Cost,
    expose,
    feed::{Call, Feed},
    figures::{Figures, Times},
    objects, until_changed, wire,
};
use crate::{
    cluster::{
        Api, ControlPlane, Identity, Part, Tuning,
        scene::{self, Scene},
    },
    netns::{Agent, Maps},
};

/// How long the agent may take to come to rest.
const LIMIT: Duration = Duration::from_secs(600);
/// The pause between two changes, at random in this range of milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 5..60;
/// For how long idleness is measured.
const IDLE: Duration = Duration::from_secs(20);
/// How often the maps are looked at under many changes.
const COARSE: Duration = Duration::from_millis(1);
/// At most so far the maps may lag behind the server's answers. Units: milliseconds.
const BEHIND: f64 = 1_000.0;
/// At most this part of a core is rest. Units: percent.
const REST: f64 = 3.0;

/// Measures, prints.
pub(super) fn run(options: &Options, figures: &mut Figures) -> anyhow::Result<()> {
    let began = Instant::now();
    let mut scene = Scene::with(1, 0, |plane| fill(plane, options.services).expect("the objects"));
    objects::lead_to_endpoints(&scene.lab)?;
    let agent = &mut scene.agents[0];
    println!("loaded in {:.0?}; the agent gives addresses and writes status", began.elapsed());
    let began = Instant::now();
    until_rest(agent)?;
    println!("at rest in {:.0?}", began.elapsed());
    start(agent, figures)?;
    let maps = Maps::open(agent.bpf_dir())?;
    for service in 0..options.services {
        let reached = maps.reach(objects::vip(service))?;
        let wanted = objects::endpoints(service, 0);
        ensure!(reached == Some(wanted), "the maps do not hold Service {service} after the start");
    }
    rest(agent, figures)?;
    expose::run(&scene.plane, figures)?;
    // What is left of that is not the price of a slice.
    until_rest(agent)?;
    let mut generations = vec![0; options.services];
    changes(&scene.plane, &maps, options.changes, &mut generations, figures)?;
    let agent = &mut scene.agents[0];
    churn(&scene.plane, agent, &maps, options, &mut generations, figures)?;
    agent.stop()
}

/// What the API server does for each write and nobody needs here. Memory is not short either: its collector rests.
const CHEAP: [&str; 2] = [
    "--enable-priority-and-fairness=false",
    "--disable-admission-plugins=MutatingAdmissionPolicy,MutatingAdmissionWebhook,ValidatingAdmissionPolicy,\
     ValidatingAdmissionWebhook",
];

/// Writes every object.
fn fill(plane: &ControlPlane, services: usize) -> anyhow::Result<()> {
    // What they make of a change is no business of ours, and there are two cores for everything.
    plane.kill(Part::Controllers);
    [Part::ApiServer, Part::Etcd].into_iter().for_each(|part| plane.kill(part));
    for (part, flags) in [(Part::Etcd, &[][..]), (Part::ApiServer, &CHEAP[..])] {
        plane.tune(part, Tuning { flags, variables: &[("GOGC", "800")] });
        plane.start_part(part)?;
    }
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": WRITER, "namespace": "default" },
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": WRITER },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
        "subjects": [{ "kind": "ServiceAccount", "name": WRITER, "namespace": "default" }],
    });
    plane.apply(&format!("{account}\n---\n{binding}"))?;
    scene::pool_of(plane, "bench", &json!({ "addresses": [objects::POOL] }));
    let create = |path: &str, content, body| Call { method: Method::POST, path: path.to_owned(), content, body };
    let service = |n| create(SERVICES, "application/json", objects::service(n).to_string().into());
    let api = writer(plane)?;
    Feed::new(services, None).run(&api, service)?;
    let slice = |n| create(SLICES, wire::CONTENT, wire::slice(&objects::slice(n, 0)).into());
    Feed::new(services, None).run(&api, slice)
}

/// Who writes. A token, because the server remembers it; a certificate it verifies anew for each request.
const WRITER: &str = "writer";

fn writer(plane: &ControlPlane) -> anyhow::Result<Api> {
    plane.api_as(&Identity::service_account("default", WRITER))
}

pub(super) const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn replace(service: usize, generation: u32) -> Call {
    let slice = objects::slice(service, generation);
    let path = format!("{SLICES}/{}", slice.name);
    Call { method: Method::PUT, path, content: wire::CONTENT, body: wire::slice(&slice).into() }
}

/// Waits until the agent has nothing to do any more.
fn until_rest(agent: &Agent) -> anyhow::Result<()> {
    let pid = agent.pid().context("the agent does not run")?;
    let began = Instant::now();
    while share(pid, Duration::from_secs(3))? > REST {
        ensure!(began.elapsed() < LIMIT, "the agent does not come to rest:\n{}", agent.log_tail());
    }
    Ok(())
}

/// The part of a core that a process takes. Units: percent.
fn share(pid: u32, during: Duration) -> anyhow::Result<f64> {
    let (before, began) = (Cost::of(pid)?, Instant::now());
    std::thread::sleep(during);
    let cpu = Cost::of(pid)?.cpu.saturating_sub(before.cpu);
    Ok(100.0 * cpu.as_secs_f64() / began.elapsed().as_secs_f64())
}

/// Starts the agent again, on a node where it has left nothing.
fn start(agent: &mut Agent, figures: &mut Figures) -> anyhow::Result<()> {
    agent.stop()?;
    agent.cleanup()?;
    let read = agent.log().len();
    let began = Instant::now();
    agent.spawn()?;
    // It gives up sooner than a busy machine has read so many objects.
    while let Err(error) = agent.wait_ready() {
        ensure!(agent.pid().is_some() && began.elapsed() < LIMIT, "{error:#}");
    }
    let ready = began.elapsed();
    let log = agent.log();
    let times = log.get(read..).unwrap_or_default().lines().filter_map(|line| Some((line, time(line)?)));
    let (mut listed, mut programmed) = (None, None);
    for (line, at) in times {
        if programmed.is_none() && line.contains(" followed") {
            listed = Some(at);
        } else if line.contains(" programmed") {
            programmed = programmed.or(Some(at));
        }
    }
    let (listed, programmed) = (listed.context("no kind was followed")?, programmed.context("nothing programmed")?);
    figures.at_most("cold start, from the lists to programmed", programmed - listed, Some(5.0), "s");
    figures.at_most("cold start, from the start to ready", ready.as_secs_f64(), None, "s");
    let cost = Cost::of(agent.pid().context("the agent does not run")?)?;
    figures.at_most("CPU to ready", cost.cpu.as_secs_f64(), None, "s");
    figures.at_most("memory, most until ready", cost.peak_mebibytes(), None, "MiB");
    Ok(())
}

/// The time of a line of the log, in seconds of the day.
fn time(line: &str) -> Option<f64> {
    let (_, clock) = line.split_whitespace().next()?.trim_end_matches('Z').split_once('T')?;
    clock.split(':').try_fold(0.0, |sum, part| Some(60.0 * sum + part.parse::<f64>().ok()?))
}

/// What it takes to do nothing.
fn rest(agent: &Agent, figures: &mut Figures) -> anyhow::Result<()> {
    until_rest(agent)?;
    let pid = agent.pid().context("the agent does not run")?;
    figures.at_most("CPU when idle", share(pid, IDLE)?, Some(1.0), "%");
    figures.at_most("memory when idle", Cost::of(pid)?.mebibytes(), Some(250.0), "MiB");
    Ok(())
}

/// Single changes.
fn changes(
    plane: &ControlPlane,
    maps: &Maps,
    count: usize,
    generations: &mut [u32],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let api = writer(plane)?;
    let mut random = fastrand::Rng::with_seed(7);
    let (mut programmed, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..count {
        std::thread::sleep(Duration::from_millis(random.u64(PAUSE_MS)));
        let service = random.usize(0..generations.len());
        generations[service] += 1;
        let generation = generations[service];
        let feed = Feed::new(1, None);
        let (began, seen) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| feed.run(&api, |_| replace(service, generation)));
            let began = Instant::now();
            let seen = until_changed(maps, service, generation, LOOK);
            writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            anyhow::Ok((began, seen?))
        })?;
        let answered = feed.answered(0).context("no answer")?;
        programmed.push(seen.saturating_duration_since(answered));
        whole.push(seen.duration_since(began));
    }
    let (programmed, whole) = (Times::new(programmed), Times::new(whole));
    figures.at_most("a changed slice, from the server's answer, p50", programmed.at(50), None, "ms");
    figures.at_most("a changed slice, from the server's answer, p99", programmed.at(99), Some(10.0), "ms");
    figures.at_most("a changed slice, slowest", programmed.at(100), None, "ms");
    figures.at_most("the same, from a new connection on, p50", whole.at(50), None, "ms");
    figures.at_most("the same, from a new connection on, p99", whole.at(99), None, "ms");
    Ok(())
}

/// Many changes a second, and how far the maps lag behind.
fn churn(
    plane: &ControlPlane,
    agent: &Agent,
    maps: &Maps,
    options: &Options,
    generations: &mut [u32],
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let pid = agent.pid().context("the agent does not run")?;
    let services = generations.len();
    let calls = (options.rate * options.seconds as f64) as usize;
    let part = |part| plane.pid(part).and_then(|pid| u32::try_from(pid.as_raw()).ok()).context("it does not run");
    let all = [
        ("the agent", pid),
        ("the API server", part(Part::ApiServer)?),
        ("etcd", part(Part::Etcd)?),
        ("the feed, and the way to the server", std::process::id()),
    ];
    let costs = || all.iter().map(|(_, pid)| Cost::of(*pid)).collect::<anyhow::Result<Vec<_>>>();
    let feed = Feed::new(calls, Some(options.rate));
    // Services in turn, so that no two writes of one are under way at once.
    let of = |n: usize| (n % services, (n / services) as u32 + 1);
    let (before, began) = (costs()?, Instant::now());
    let start = generations.to_vec();
    let make = |n| {
        let (service, turn) = of(n);
        replace(service, start[service] + turn)
    };
    let api = writer(plane)?;
    let lags = std::thread::scope(|scope| {
        let writer = scope.spawn(|| feed.run(&api, make));
        let mut lags = Vec::new();
        while !writer.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            let Some(newest) = feed.newest() else { continue };
            let (service, turn) = of(newest);
            let seen = until_changed(maps, service, start[service] + turn, COARSE)?;
            if let Some(answered) = feed.answered(newest) {
                lags.push(seen.saturating_duration_since(answered));
            }
        }
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        anyhow::Ok(lags)
    })?;
    let (written, after) = (Instant::now(), costs()?);
    let took = written.duration_since(began).as_secs_f64();
    let last: BTreeMap<usize, u32> = (0..calls).map(of).collect();
    for (service, turn) in last {
        generations[service] += turn;
        until_changed(maps, service, generations[service], COARSE)?;
    }
    let (lags, reached) = (Times::new(lags), calls as f64 / took);
    figures.at_least("changes a second", reached, 0.99 * options.rate, "/s");
    figures.at_most("behind the server's answers, p50", lags.at(50), None, "ms");
    figures.at_most("behind the server's answers, p99", lags.at(99), None, "ms");
    figures.at_most("behind the last answer", written.elapsed().as_secs_f64() * 1e3, Some(BEHIND), "ms");
    let mut each = Vec::new();
    for ((who, _), (before, after)) in all.iter().zip(before.iter().zip(&after)) {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        figures.at_most(&format!("CPU of {who}"), 100.0 * cpu / took, None, "%");
        each.push((format!("CPU for a change, {who}"), 1e3 * cpu / calls as f64));
    }
    each.iter().for_each(|(what, cpu)| figures.at_most(what, *cpu, None, "ms"));
    figures.at_most("memory after it", Cost::of(pid)?.mebibytes(), Some(250.0), "MiB");
    if reached < 0.99 * options.rate {
        let agent = if lags.at(99) < BEHIND { "kept up with that" } else { "fell behind even that" };
        println!(
            "  The writers came to {reached:.0}/s, no more; the agent {agent}. Its own CPU would do for {:.0}/s on one core.",
            1e3 / each[0].1
        );
    }
    Ok(())
}
