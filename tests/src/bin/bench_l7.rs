//! `cargo xtask bench l7`: what a request costs, beside nginx and HAProxy. See [`sluice_tests::bench::l7`].
use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use sluice_tests::bench::{self, L7Options};

const USAGE: &str = "\
bench l7 [ROW]... [--rounds N] [--seconds N] [--json FILE]

  ROW            rows of the table alone; without any, all
  --rounds N     slices of each proxy (7)
  --seconds N    the length of a slice (2)
  --json FILE    write the figures there as well
";

fn main() -> ExitCode {
    let usage = format!("{USAGE}\nRows: {}\n", bench::l7_rows().join(", "));
    bench::command("l7", &usage, |arguments| bench::l7(&parse(arguments)?))
}

fn parse(arguments: &[String]) -> anyhow::Result<L7Options> {
    let mut options = L7Options { rows: Vec::new(), rounds: 7, seconds: 2, json: None };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if !word.starts_with('-') {
            options.rows.push(word.clone());
            continue;
        }
        let value = words.next().with_context(|| format!("{word}: want a value\n\n{USAGE}"))?;
        let number = || match value.parse::<u32>() {
            Ok(number) if number > 0 => Ok(number),
            _ => bail!("{word} {value:?}: want a number from 1 on"),
        };
        match word.as_str() {
            "--rounds" => options.rounds = number()? as usize,
            "--seconds" => options.seconds = number()?,
            "--json" => options.json = Some(PathBuf::from(value)),
            _ => bail!("{word} is not known\n\n{USAGE}"),
        }
    }
    Ok(options)
}
