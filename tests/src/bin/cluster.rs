//! The processes of [`sluice_tests::cluster`] that outlive a test or a call of `cargo xtask cluster`.
use std::{io::Read as _, process::ExitCode};

use anyhow::Context as _;
use sluice_tests::cluster::{Cluster, ControlPlane, guard, nodes};

const USAGE: &str = "\
cluster guard RUN    remove the run when standard input ends
cluster node SPEC    be a node of a cluster
cluster hold N       start a cluster of N nodes, print its run, remove it when standard input ends
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["guard", run] => guard::watch(run),
        ["hold", nodes] => hold(nodes),
        ["node", spec] => nodes::inside::outer(spec),
        ["node-init", spec] => nodes::inside::inner(spec),
        _ => {
            eprint!("arguments {arguments:?} are not known\n\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = outcome {
        eprintln!("\ncluster: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// With no nodes it is the api half.
fn hold(nodes: &str) -> anyhow::Result<()> {
    let nodes: u8 = nodes.parse().context("the number of nodes")?;
    let (plane, cluster);
    let run = if nodes == 0 {
        plane = ControlPlane::start()?;
        plane.run()
    } else {
        cluster = Cluster::up(nodes)?;
        cluster.plane.run()
    };
    println!("{}", run.id());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
