//! The `sluice` binary: parses flags and leaves the rest to the library.
use std::process::ExitCode;

use clap::Parser;
use sluice::{cli, config::Cli, telemetry};

/// The proxy allocates for every request, and glibc's allocator takes several times as long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice: {}", cli::printable(&telemetry::chain(&*error)));
            ExitCode::FAILURE
        }
    }
}
