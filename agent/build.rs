//! Builds the eBPF programs and embeds the object; no binary is ever committed.
use std::path::Path;

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    xtask::ebpf::build_into(&root, Path::new(&std::env::var("OUT_DIR")?))
}
