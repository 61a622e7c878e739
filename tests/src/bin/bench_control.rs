//! `cargo xtask bench control`: from a changed object to changed maps. See [`sluice_tests::bench`].
use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use sluice_tests::bench::{self, Options, Source};

const USAGE: &str = "\
bench control [--source cluster|manifests|routes] [--services N] [--changes N] [--rate N] [--seconds N] [--json FILE]

  --source       a real API server (cluster), a directory of manifests, or one of HTTPRoutes (routes)
  --services N   Services that are loaded, ten endpoints each (10000; manifests: 1000), or routes (3000)
  --changes N    single changes of an EndpointSlice, or of a route, that are measured (500)
  --rate N       changes a second, many at once, from a cluster (1000)
  --seconds N    for so many seconds (60)
  --json FILE    write the figures there as well
";

fn main() -> ExitCode {
    bench::command("control", USAGE, |arguments| bench::control(&parse(arguments)?))
}

fn parse(arguments: &[String]) -> anyhow::Result<Options> {
    let (mut source, mut services) = (Source::Cluster, None);
    let mut options = Options { source, services: 0, changes: 500, rate: 1000.0, seconds: 60, json: None };
    let mut words = arguments.iter();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag}: want a value\n\n{USAGE}"))?;
        let number = || value.parse::<u32>().with_context(|| format!("{flag} {value:?}: want a number"));
        match (flag.as_str(), value.as_str()) {
            ("--source", "cluster") => source = Source::Cluster,
            ("--source", "manifests") => source = Source::Manifests,
            ("--source", "routes") => source = Source::Routes,
            ("--services", _) => services = Some(number()? as usize),
            ("--changes", _) => options.changes = number()? as usize,
            ("--rate", _) => options.rate = number()?.into(),
            ("--seconds", _) => options.seconds = number()?.into(),
            ("--json", _) => options.json = Some(PathBuf::from(value)),
            _ => bail!("{flag} {value} is not known\n\n{USAGE}"),
        }
    }
    options.source = source;
    options.services = services.unwrap_or(match source {
        Source::Cluster => 10_000,
        Source::Manifests => 1_000,
        Source::Routes => 3_000,
    });
    Ok(options)
}
