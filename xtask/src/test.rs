//! `cargo xtask test`, `demo` and `bench`: builds what they need, then runs it.
//!
//! # Design
//! The benches and the tests use the release profile: they then share one build of everything with what ships
//! ([`crate::release`]), and 10,000 connections do not wait for an unoptimised proxy. Who wants to see the demo has nothing built
//! yet and waits for it: it is built in the dev profile, a third of the work, from the two binaries that it runs.
use std::{env, path::Path, process::Command, str::FromStr};

use anyhow::{Context, Result, bail};

use crate::{
    clients, ebpf, image, install, kubernetes, progress, release, root,
    run::{Steps, cargo, is_root, run},
};

/// What a test needs to run; each level includes nothing of the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// Pure code, and the proxy on loopback.
    Unit,
    /// The real programs on single packets, in the kernel.
    Packets,
    /// The real agent between network namespaces.
    Netns,
    /// A real Kubernetes.
    Cluster,
    /// The official suite of Gateway API, on a real Kubernetes.
    Conformance,
}

impl Level {
    /// Every level, least powerful first.
    pub const ALL: [Self; 5] = [Self::Unit, Self::Packets, Self::Netns, Self::Cluster, Self::Conformance];
}

impl FromStr for Level {
    type Err = anyhow::Error;

    fn from_str(s: &str) -> Result<Self> {
        Ok(match s {
            "unit" => Self::Unit,
            "packets" => Self::Packets,
            "netns" => Self::Netns,
            "cluster" => Self::Cluster,
            "conformance" => Self::Conformance,
            other => bail!("test level {other:?}: want unit, packets, netns, cluster or conformance"),
        })
    }
}

/// Runs the levels; `filter` goes to the test binaries.
///
/// # Errors
/// A level fails, or cannot run here.
pub fn test(levels: &[Level], filter: &[String]) -> Result<()> {
    let privileged = levels.iter().any(|l| *l != Level::Unit);
    if privileged && !is_root() {
        bail!("all levels but unit load eBPF programs and make network namespaces: run them as root");
    }
    let conformance = levels.contains(&Level::Conformance);
    let cluster = conformance || levels.contains(&Level::Cluster);
    let netns = levels.contains(&Level::Netns);
    let steps = 2 + 2 * usize::from(cluster) + usize::from(conformance) + usize::from(netns);
    let mut steps = Steps::new(levels.len() + steps);
    if cluster {
        // First, because an ordinary build then puts its own binary in place again, which costs one more link.
        steps.step("build the agent's image", || image::for_tests().map(drop))?;
    }
    prepare(&mut steps, privileged)?;
    if cluster {
        steps.step("build Kubernetes", build_kubernetes)?;
    }
    if conformance {
        steps.step("build the conformance suite", || {
            kubernetes::conformance()?;
            kubernetes::mesh_echo().map(drop)
        })?;
    }
    if netns {
        steps.step("build clients of other makers", clients::all)?;
    }
    for level in levels {
        match level {
            Level::Unit => steps.step("unit: pure code, and the proxy on loopback", || {
                suite("--workspace --exclude sluice-tests --lib --bins --tests", &[], filter)
            })?,
            Level::Packets => steps.step("packets: the real programs, packet by packet", || {
                suite("--package sluice-tests --test packets --test abi", &[], filter)
            })?,
            Level::Netns => steps.step("netns: the real agent between network namespaces", || {
                suite("--package sluice-tests --lib --test netns", &TWO, filter)
            })?,
            Level::Cluster => steps.step("cluster: a real Kubernetes", || {
                suite("--package sluice-tests --test cluster --test nodes", &TWO, filter)
            })?,
            Level::Conformance => steps.step("conformance: the official suite of Gateway API", || {
                suite("--package sluice-tests --test conformance", &[], filter)
            })?,
        }
    }
    Ok(())
}

/// Tests that wait more than they work: two at a time.
const TWO: [&str; 1] = ["--test-threads=2"];

/// Runs the tests that `what` selects; `how` and `filter` go to their binaries.
fn suite(what: &str, how: &[&str], filter: &[String]) -> Result<()> {
    run(release::cargo().args(["test", "--release"]).args(what.split(' ')).arg("--").args(how).args(filter))
}

/// Runs the demo; `arguments` go to it.
///
/// # Errors
/// Not root, a build fails, or a line of the demo's summary is not true.
pub fn demo(arguments: &[String]) -> Result<()> {
    if !is_root() {
        bail!("the demo makes network namespaces and loads eBPF programs: run it as root");
    }
    let mut steps = Steps::new(3);
    tools(&mut steps, true)?;
    steps.step("build the agent and the demo", || {
        let mut build = cargo();
        build.args(["build", "--package", "sluice", "--bin", "sluice", "--package", "sluice-tests", "--bin", "demo"]);
        progress::follow_cargo(build, &["sluice", "sluice-tests"])
    })?;
    steps.step("demo", || run(Command::new(root().join("target/debug/demo")).args(arguments)))
}

/// A Kubernetes for people: `up` builds what it takes; `arguments` go to it.
///
/// # Errors
/// Not root, a build fails, or what is asked for does.
pub fn cluster(arguments: &[String]) -> Result<()> {
    if !is_root() {
        bail!("a cluster lives in network namespaces: run it as root");
    }
    if arguments.first().is_some_and(|a| a == "up") {
        let mut steps = Steps::new(4);
        prepare(&mut steps, true)?;
        steps.step("build Kubernetes", build_kubernetes)?;
        return steps.step("cluster", || run(released("cluster").args(arguments)));
    }
    if !released("cluster").get_program().to_str().is_some_and(|p| Path::new(p).exists()) {
        bail!("no cluster stands: start one with `cargo xtask cluster up`");
    }
    // With our own standard input, and its exit status: `kubectl apply -f -` and `kubectl exec -it` work.
    let status = released("cluster").args(arguments).status().context("start target/release/cluster")?;
    std::process::exit(status.code().unwrap_or(1));
}

fn build_kubernetes() -> Result<()> {
    if env::var_os("KUBEBUILDER_ASSETS").is_none_or(|v| v.is_empty()) {
        kubernetes::control_plane()?;
    }
    kubernetes::nodes()?;
    install::nft()?;
    kubernetes::gateway_crds().map(drop)
}

/// Runs a benchmark: `control`, `l7` or `heads`; `arguments` go to it.
///
/// # Errors
/// Not root, no such benchmark, or it finds a wrong answer.
pub fn bench(name: &str, arguments: &[String]) -> Result<()> {
    if name == "heads" {
        let mut steps = Steps::new(2);
        steps.step("build the benchmark", || {
            install::ebpf_toolchain()?;
            let mut build = release::cargo();
            build.args(["build", "--release", "--package", "sluice-tests", "--bin", "bench_heads"]);
            progress::follow_cargo(build, &["sluice-tests"])
        })?;
        return steps.step("bench heads", || run(released("bench_heads").args(arguments)));
    }
    if !matches!(name, "control" | "l7" | "scale") {
        bail!("benchmark {name:?}: want control, scale, l7 or heads");
    }
    if !is_root() {
        bail!("the benchmarks make network namespaces and load eBPF programs: run them as root");
    }
    let mut steps = Steps::new(if name == "l7" { 4 } else { 3 });
    prepare(&mut steps, true)?;
    let mut bench = released(&format!("bench_{name}"));
    if name == "l7" {
        install::http_peers()?;
        // The one that `image` packs and that the tests on a cluster run.
        steps.step("build the binary that ships", || {
            bench.env("SLUICE_BIN", release::static_binary()?);
            bench.envs(image::ENVIRONMENT.iter().filter_map(|variable| variable.split_once('=')));
            Ok(())
        })?;
    }
    steps.step(&format!("bench {name}"), || run(bench.args(arguments)))
}

/// Builds the binary as it ships.
///
/// # Errors
/// A build fails.
pub fn build() -> Result<()> {
    println!("{}", release::static_binary()?.display());
    Ok(())
}

fn released(binary: &str) -> Command {
    Command::new(root().join("target/release").join(binary))
}

/// The two first steps of everything: tools and eBPF programs, then all that is ours.
fn prepare(steps: &mut Steps, privileged: bool) -> Result<()> {
    tools(steps, privileged)?;
    steps.step("build the agent and the tests", || {
        let mut build = release::cargo();
        build.args(["build", "--release", "--package", "sluice", "--package", "sluice-tests"]);
        progress::follow_cargo(build, &["sluice", "sluice-tests"])
    })
}

fn tools(steps: &mut Steps, privileged: bool) -> Result<()> {
    steps.step("eBPF toolchain and programs", || {
        install::ebpf_toolchain()?;
        if privileged {
            install::inspection_tools()?;
        }
        ebpf::build(&root()).map(drop)
    })
}
