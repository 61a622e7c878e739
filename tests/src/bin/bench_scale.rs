//! `cargo xtask bench scale`: what many nodes cost the API server. See [`sluice_tests::bench::scale`].
use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use sluice_tests::bench::{self, ScaleOptions};

const USAGE: &str = "\
bench scale [--nodes N,N,...] [--seconds N] [--json FILE]

  --nodes N,...  so many nodes, one size after the other (10,100,300)
  --seconds N    each span is measured for so many seconds (60)
  --json FILE    write the figures there as well
";

fn main() -> ExitCode {
    bench::command("scale", USAGE, |arguments| bench::scale(&parse(arguments)?))
}

fn parse(arguments: &[String]) -> anyhow::Result<ScaleOptions> {
    let mut options = ScaleOptions { nodes: vec![10, 100, 300], seconds: 60, json: None };
    let mut words = arguments.iter();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag}: want a value\n\n{USAGE}"))?;
        match flag.as_str() {
            "--nodes" => {
                let number = |n: &str| n.trim().parse().ok().filter(|n| (1..=5_000).contains(n));
                let sizes: Option<Vec<usize>> = value.split(',').map(number).collect();
                options.nodes = sizes.with_context(|| format!("--nodes {value:?}: want numbers from 1 to 5000"))?;
            }
            "--seconds" => {
                let seconds = value.parse().ok().filter(|s| (1..=3_600).contains(s));
                options.seconds = seconds.with_context(|| format!("--seconds {value:?}: want 1 to 3600"))?;
            }
            "--json" => options.json = Some(PathBuf::from(value)),
            _ => bail!("{flag} {value} is not known\n\n{USAGE}"),
        }
    }
    Ok(options)
}
