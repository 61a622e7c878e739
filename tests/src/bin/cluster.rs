//! The processes of [`sluice_tests::cluster`] that outlive a test or a call of `cargo xtask cluster`.
use std::{
    io::Read as _,
    process::{ExitCode, ExitStatus},
};

use anyhow::Context as _;
use sluice_tests::cluster::{Cluster, ControlPlane, guard, keep, nodes};

const USAGE: &str = "\
cluster up [--nodes N]      start a cluster that stays; without nodes it is the control plane alone
cluster kubectl ARGUMENT... ask it
cluster exec N COMMAND...   run a command in its node N
cluster load FILE           load an archive of images into its nodes
cluster logs [PART]         print the ends of its logs, or one log whole
cluster down                remove it

Not for people:

cluster guard RUN    remove the run when standard input ends
cluster node SPEC    be a node of a cluster
cluster keep N       hold a cluster of N nodes until a signal comes
cluster hold N       start a cluster of N nodes, print its run, remove it when standard input ends
";

/// The addresses of the lan are made for nine nodes; the client has the tenth.
const MOST_NODES: u8 = 9;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["up"] => keep::up(2),
        ["up", "--nodes", nodes] => count(nodes).and_then(keep::up),
        ["kubectl", ref rest @ ..] => return ended(keep::kubectl(rest)),
        ["exec", node, ref rest @ ..] if !rest.is_empty() => return ended(keep::exec(node, rest)),
        ["load", archive] => keep::load(archive),
        ["logs"] => keep::logs(None),
        ["logs", part] => keep::logs(Some(part)),
        ["down"] => keep::down(),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["keep", nodes] => count(nodes).and_then(keep::keep),
        ["guard", run] => guard::watch(run),
        ["hold", nodes] => hold(nodes),
        ["node", spec] => nodes::inside::outer(spec),
        ["node-init", spec] => nodes::inside::inner(spec),
        _ => {
            eprint!("arguments {arguments:?} are not known\n\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("\ncluster: {error:#}");
    ExitCode::FAILURE
}

/// Ends as the command has ended.
fn ended(status: anyhow::Result<ExitStatus>) -> ExitCode {
    match status {
        Ok(status) => status.code().and_then(|c| u8::try_from(c).ok()).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => failed(&error),
    }
}

fn count(nodes: &str) -> anyhow::Result<u8> {
    nodes.parse().ok().filter(|n| *n <= MOST_NODES).with_context(|| format!("{nodes:?} nodes: want 0 to {MOST_NODES}"))
}

/// With no nodes it is the api half.
fn hold(nodes: &str) -> anyhow::Result<()> {
    let nodes = count(nodes)?;
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
