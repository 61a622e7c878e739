//! The command line, done: runs the agent or asks one.
//!
//! Here and not in `main.rs`, so that the agent is compiled with the library: the binary is linked more than once, for the
//! tests and for the image, and must not be compiled anew each time.
use std::{error::Error, io::Write};

use super::Inspect;
use crate::{
    cli,
    config::{Command, Generated, InspectArgs, InstancesArgs},
    discovery::Filter,
    telemetry,
};

/// Does what the command line asks for.
///
/// # Errors
/// Whatever keeps it from being done, in one sentence.
pub fn dispatch(command: Command) -> Result<(), Box<dyn Error>> {
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
            Ok(runtime.block_on(crate::run(args))?)
        }
        Command::Status(args) => inspect(&args, Inspect::Status),
        Command::Services(args) => inspect(&args, Inspect::Services),
        Command::Backends(args) => inspect(&args, Inspect::Backends),
        Command::Routes(args) => inspect(&args, Inspect::Routes),
        Command::Flows(args) => inspect(&args.inspect, Inspect::Flows { limit: args.limit }),
        Command::Instances(args) => {
            let InstancesArgs { service, namespace, ready, inspect: common } = args;
            inspect(&common, Inspect::Instances { service, filter: Filter { namespace, ready } })
        }
        Command::Why(args) => inspect(&args.inspect, Inspect::Why { object: args.object }),
        Command::Generate { what: Generated::Crds } => {
            print!("{}", crate::api::crd::address_pools());
            Ok(())
        }
        Command::Generate { what: Generated::Rbac } => {
            print!("{}", crate::source::access::rbac());
            Ok(())
        }
        Command::Cleanup(args) => {
            runtime.block_on(crate::cleanup(&args.bpf_dir))?;
            println!("detached and removed everything below {}", args.bpf_dir.display());
            if args.stay {
                runtime.block_on(crate::until_told())?;
            }
            Ok(())
        }
    }
}
