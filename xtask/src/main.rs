//! `cargo xtask`: the one entry for people and for CI.
use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::{
    check, ebpf, generate, image, install, root,
    test::{self, Level},
};

const USAGE: &str = "\
cargo xtask COMMAND

  demo [--keep]         show the main job in network namespaces; installs and builds what it needs (root)
  test [LEVEL]...       run the tests: unit, packets, netns, cluster, conformance; no LEVEL: all of them (root but for
                        unit); words after `--` select tests by name
  cluster up [--nodes N]  start a real Kubernetes, built from source; `cluster kubectl ...`, `cluster exec N ...`,
                        `cluster load FILE`, `cluster logs [PART]`, and `cluster down` (root)
  check                 format, lints, documentation, sizes: what must hold before a push
  advisories            known faults of dependencies, from a database that is fetched: for a job of every night
  build-ebpf            build the eBPF programs; installs what they are built with
  build                 build the `sluice` binary as it ships, static: target/release/static/sluice
  image                 pack it into an OCI archive, target/image/sluice.tar, without Docker; --out FILE,
                        --name NAME:TAG (again for more), --binary PATH (a static one)
  generate [--check]    write what of deploy/ is made from code: RBAC rules, the Helm chart
  bench control         measure the control plane (root); --services N, --json FILE
  bench scale           count what 10, 100 and 300 nodes cost an API server (root); --nodes N,N, --seconds N, --json FILE
  bench l7              measure what a request costs the proxy that ships, beside nginx and HAProxy (root); --help says more
  bench heads           measure what the worst request heads cost the proxy, in microseconds
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else {
        bail!("no command\n\n{USAGE}");
    };
    match command.as_str() {
        "demo" => test::demo(rest),
        "cluster" => test::cluster(rest),
        "test" => {
            let (levels, filter) = split(rest);
            let levels = levels.iter().map(|l| l.parse()).collect::<Result<Vec<Level>>>()?;
            test::test(if levels.is_empty() { &Level::ALL } else { &levels }, filter)
        }
        "check" => check::check(),
        "advisories" => check::advisories(),
        "build-ebpf" => {
            install::ebpf_toolchain()?;
            println!("{}", ebpf::build(&root())?.display());
            Ok(())
        }
        "build" => test::build(),
        "generate" => generate::generate(rest),
        "image" => image::image(rest),
        "bench" => {
            let (name, rest) = rest.split_first().map_or(("control", rest), |(n, r)| (n.as_str(), r));
            test::bench(name, rest)
        }
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("command {other:?} is not known\n\n{USAGE}"),
    }
}

/// Words before and after `--`.
fn split(words: &[String]) -> (&[String], &[String]) {
    match words.iter().position(|w| w == "--") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (words, &[]),
    }
}
