//! Builds the eBPF programs and embeds the object; no binary is ever committed.
use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it for build scripts");
    match xtask::ebpf::build_into(&root, Path::new(&out)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One sentence, not a debug print with a backtrace: this is what a newcomer sees first.
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
