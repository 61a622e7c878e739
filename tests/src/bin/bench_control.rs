//! `cargo xtask bench control`: from a changed file to changed maps. See [`sluice_tests::bench`].
use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use sluice_tests::bench::{self, Options};

const USAGE: &str = "\
bench control [--services N] [--changes N] [--json FILE]

  --services N   Services that are loaded, three endpoints each (1000)
  --changes N    changes of an EndpointSlice that are measured (500)
  --json FILE    write the figures there as well
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|a| a == "--help" || a == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match parse(&arguments).and_then(|options| bench::control(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nbench control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { services: 1000, changes: 500, json: None };
    let mut words = arguments.iter();
    while let Some(flag) = words.next() {
        let value = words.next().with_context(|| format!("{flag}: want a value\n\n{USAGE}"))?;
        let number = || value.parse().with_context(|| format!("{flag} {value:?}: want a number"));
        match flag.as_str() {
            "--services" => options.services = number()?,
            "--changes" => options.changes = number()?,
            "--json" => options.json = Some(PathBuf::from(value)),
            _ => bail!("{flag} is not known\n\n{USAGE}"),
        }
    }
    Ok(options)
}
