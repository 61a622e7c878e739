//! The `sluice` binary: parses flags and leaves the rest to the library.
use std::process::ExitCode;

use clap::Parser;
use sluice::{cli, config::Cli, telemetry};

fn main() -> ExitCode {
    match cli::dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice: {}", cli::printable(&telemetry::chain(&*error)));
            ExitCode::FAILURE
        }
    }
}
