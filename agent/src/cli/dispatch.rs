//! The command line, done: runs the agent or asks one.
//!
//! Here and not in `main.rs`, so that the agent is compiled with the library: the binary is linked more than once, for the
//! tests and for the image, and must not be compiled anew each time.
use std::{error::Error, io::Write, path::Path, process::ExitCode};

use clap::CommandFactory;

use super::{Answer, Inspect, printable};
use crate::{
    admin::flows::FlowQuery,
    cli,
    config::{Cli, Command, FlowsArgs, Generated, InspectArgs, InstancesArgs},
    discovery::Filter,
    proxy::explain::Asked,
    status::node,
    telemetry,
};

/// The exit status where an object is refused.
const REFUSED: u8 = 1;
/// The exit status where nothing is known of an object, be it that nobody can be asked.
const UNKNOWN: u8 = 2;

/// Does what the command line asks for.
///
/// # Errors
/// Whatever keeps it from being done, in one sentence.
pub fn dispatch(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let inspect = |args: &InspectArgs, what| -> Result<ExitCode, Box<dyn Error>> {
        let Answer { text, is_refused } = runtime.block_on(cli::inspect(args, what))?;
        // A reader that went away, as `head` does, is no error.
        let _ = writeln!(std::io::stdout(), "{text}");
        Ok(if is_refused { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
    };
    // A pod that cannot start says why where `kubectl describe` shows it.
    let say = |error: &crate::RunError| node::leave(Path::new(node::TERMINATION_LOG), &telemetry::chain(error));
    match command {
        Command::Agent(args) => {
            telemetry::start(args.log_format);
            runtime.block_on(crate::run(*args)).inspect_err(say)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Controller(args) => {
            telemetry::start(args.log_format);
            runtime.block_on(crate::controller::run(*args)).inspect_err(say)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(args) => inspect(&args, Inspect::Status),
        Command::Services(args) => inspect(&args.inspect, Inspect::Services { name: args.name }),
        Command::Backends(args) => inspect(&args, Inspect::Backends),
        Command::Routes(args) => inspect(&args, Inspect::Routes),
        Command::Explain(args) => {
            let asked = Asked::try_new(&args.method, &args.url, &args.headers, args.at)?.from(args.client);
            inspect(&args.inspect, Inspect::Explain(asked))
        }
        Command::Flows(args) => {
            let FlowsArgs { inspect: common, limit, client, vip, service } = args;
            inspect(&common, Inspect::Flows(FlowQuery { limit, client, vip, service }))
        }
        Command::Instances(args) => {
            let InstancesArgs { service, namespace, ready, inspect: common } = args;
            inspect(&common, Inspect::Instances { service, filter: Filter { namespace, ready } })
        }
        Command::Why(args) => inspect(&args.inspect, Inspect::Why { object: args.object }).or_else(|error| {
            eprintln!("sluice: {}", printable(&telemetry::chain(&*error)));
            Ok(ExitCode::from(UNKNOWN))
        }),
        Command::Version => {
            println!("sluice {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir)?;
            clap_mangen::generate_to(Cli::command(), &dir)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Generate { what: Generated::Fields, files } => {
            print!("{}", crate::source::manifests::schema::table(&files)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Generate { what: Generated::Crds, .. } => {
            print!("{}", crate::api::crd::address_pools());
            Ok(ExitCode::SUCCESS)
        }
        Command::Generate { what: Generated::Rbac, .. } => {
            print!("{}", crate::source::access::rbac());
            Ok(ExitCode::SUCCESS)
        }
        Command::Cleanup(args) => {
            let is_there = args.bpf_dir.exists();
            runtime.block_on(crate::cleanup(&args.bpf_dir))?;
            let dir = args.bpf_dir.display().to_string();
            let dir = printable(&dir);
            if is_there {
                println!("detached and removed everything below {dir}");
            } else {
                println!("nothing was removed: there is no {dir}");
            }
            if args.stay {
                runtime.block_on(crate::until_told())?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}
