//! The XDP program that lets a veth peer take frames from `XDP_TX`.
//!
//! On real hardware nothing of the kind is needed: it stands for the wire behind node1's uplink.
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya::{
    EbpfLoader,
    programs::{Xdp, xdp::XdpMode},
};
use sluice_ebpf::program;

use super::namespace::Namespace;

/// The program on one or more links; detached when dropped.
pub struct Pass {
    _ebpf: aya::Ebpf,
}

impl Pass {
    /// Loads the program and attaches it to `links` in `space`, in the driver's mode.
    ///
    /// # Errors
    /// The object is not built, or the kernel refuses it.
    pub fn attach(space: &Namespace, links: &[&str]) -> anyhow::Result<Self> {
        let path = object();
        let bytes = std::fs::read(&path)
            .with_context(|| format!("read {}: build it with `cargo xtask build-ebpf`", path.display()))?;
        let mut loader = EbpfLoader::new();
        let mut ebpf = loader.load(&bytes).context("load the eBPF object")?;
        let xdp: &mut Xdp = ebpf.program_mut(program::PASS).context("the object has no pass program")?.try_into()?;
        xdp.load().context("load the pass program")?;
        space.enter(|| {
            links.iter().try_for_each(|link| {
                xdp.attach(link, XdpMode::Driver)
                    .map(drop)
                    .with_context(|| format!("attach the pass program to {link}"))
            })
        })?;
        Ok(Self { _ebpf: ebpf })
    }
}

/// The eBPF object of this workspace.
#[must_use]
pub fn object() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("target/ebpf/bpfel-unknown-none/release/programs")
}
