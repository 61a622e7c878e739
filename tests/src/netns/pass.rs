//! Programs of somebody else on a link, which pass every frame on.
//!
//! By XDP that is what lets a veth peer take frames from `XDP_TX`: on real hardware nothing of the kind is needed, it stands
//! for the wire behind node1's uplink.
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya::{
    EbpfLoader,
    programs::{SchedClassifier, TcAttachType, Xdp, links::LinkOrder, tc::TcAttachOptions, xdp::XdpMode},
};
use sluice_ebpf::{map, program};

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
        let mut ebpf = EbpfLoader::new().load(&read_object()?).context("load the eBPF object")?;
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

    /// Attaches a TC program to a link's ingress, in this place among the others. It is our own with empty maps: it knows
    /// no VIP and passes everything on.
    ///
    /// # Errors
    /// The object is not built, or the kernel refuses it.
    pub fn attach_tc(space: &Namespace, link: &str, order: LinkOrder) -> anyhow::Result<Self> {
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            loader.map_max_entries(name, 1);
        }
        let mut ebpf = loader.load(&read_object()?).context("load the eBPF object")?;
        let tc = ebpf.program_mut(program::INGRESS).context("the object has no TC program")?;
        let tc: &mut SchedClassifier = tc.try_into()?;
        tc.load().context("load the TC program")?;
        let options = TcAttachOptions::TcxOrder(order);
        space.enter(|| tc.attach_with_options(link, TcAttachType::Ingress, options)).context("attach it")?;
        Ok(Self { _ebpf: ebpf })
    }
}

fn read_object() -> anyhow::Result<Vec<u8>> {
    let path = object();
    std::fs::read(&path).with_context(|| format!("read {}: build it with `cargo xtask build-ebpf`", path.display()))
}

/// The eBPF object of this workspace.
#[must_use]
pub fn object() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("target/ebpf/bpfel-unknown-none/release/programs")
}
