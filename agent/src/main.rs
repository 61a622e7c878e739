//! The `sluice` binary: parses flags, runs the agent or asks one.
use std::{error::Error, io::Write, process::ExitCode};

use clap::Parser;
use sluice::{
    cli::{self, Inspect},
    config::{Cli, Command, InspectArgs},
    telemetry,
};

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {}", sluice::telemetry::chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let inspect = |args: &InspectArgs, what| -> Result<(), Box<dyn Error>> {
        let text = runtime.block_on(cli::inspect(args, what))?;
        // A reader that went away, as `head` does, is no error.
        let _ = writeln!(std::io::stdout(), "{text}");
        Ok(())
    };
    match command {
        Command::Agent(args) => {
            telemetry::start(args.log_format);
            Ok(runtime.block_on(sluice::run(args))?)
        }
        Command::Status(args) => inspect(&args, Inspect::Status),
        Command::Services(args) => inspect(&args, Inspect::Services),
        Command::Backends(args) => inspect(&args, Inspect::Backends),
        Command::Routes(args) => inspect(&args, Inspect::Routes),
        Command::Flows(args) => inspect(&args.inspect, Inspect::Flows { limit: args.limit }),
        Command::Why(args) => inspect(&args.inspect, Inspect::Why { object: args.object }),
        Command::Cleanup(args) => {
            runtime.block_on(sluice::cleanup(&args.bpf_dir))?;
            println!("detached and removed everything below {}", args.bpf_dir.display());
            Ok(())
        }
    }
}
