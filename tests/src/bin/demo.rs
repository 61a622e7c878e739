//! `cargo xtask demo`: the main job of Sluice, shown in network namespaces. See [`sluice_tests::demo`].
use std::process::ExitCode;

use sluice_tests::demo;

const USAGE: &str = "\
demo [--keep | --down]

  --keep   leave everything standing afterwards, and print commands to try
  --down   remove what --keep has left
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [] => demo::show(false),
        ["--keep"] => demo::show(true),
        ["--down"] => demo::keep::down(),
        // Not for people: the process that serves in the pods of a demo that is kept.
        ["--hold", id] => demo::keep::hold(id),
        ["--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("arguments {arguments:?} are not known\n\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\ndemo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
