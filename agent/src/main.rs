//! The `sluice` binary: parses flags and leaves the rest to the library.
use std::process::ExitCode;

use clap::Parser;
use sluice::{cli, config::Cli, telemetry};

fn main() -> ExitCode {
    match cli::dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {}", telemetry::chain(&*error));
            ExitCode::FAILURE
        }
    }
}
