//! The object in the kernel: loads the programs, creates or adopts the pinned maps, attaches or swaps the links.
//!
//! Invariant: a pinned map is adopted only when its shape is the object's; a link is swapped, never dropped and made
//! again, so that no packet meets an interface without a program.
//!
//! # Design
//! aya adopts a pinned map of any shape without a look, and typed access to it would then read and write past its
//! values. So every pin is compared first, and all mismatches are told at once.
use std::{
    collections::BTreeSet,
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, TestRun, TestRunOptions,
    maps::{MapInfo, SockMap},
    programs::{
        SchedClassifier, SkLookup, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkOrder},
        tc::TcAttachOptions,
    },
};
use sluice_ebpf::{PROXY_TCP, map, program, user};

use super::{
    feature::{Feature, advice, lacking},
    maps::{TableError, open},
    pins::{self, Pins},
};
use crate::{arrows::XdpKind, host::network::Link, telemetry::chain};

const TC_INGRESS: &str = "tc-ingress";
const TC_EGRESS: &str = "tc-egress";
const SIDE_INGRESS: &str = "side-ingress";
const SIDE_EGRESS: &str = "side-egress";
const NAMESPACE: &str = "/proc/self/ns/net";

/// The eBPF object, built by `build.rs`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs"));

/// The programs could not be brought into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory of the pins cannot be used.
    #[error("bpf directory {dir}: {reason}")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What was found and what was wanted.
        reason: String,
    },
    /// Pinned maps have another shape than this version's.
    #[error(
        "{dir} holds maps that this version cannot use: {mismatches}; run `sluice cleanup --bpf-dir {root}` to remove them \
         (established connections are then forgotten)"
    )]
    Incompatible {
        /// The directory of this layout.
        dir: PathBuf,
        /// The directory that was configured.
        root: PathBuf,
        /// Every mismatch.
        mismatches: String,
    },
    /// The kernel or the object refused.
    #[error("eBPF object: {what}: {}", explain(Feature::Programs, &**source))]
    Object {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program could not be attached.
    #[error("attach {program} to {interface}: {reason}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface, or the namespace.
        interface: String,
        /// Why not.
        reason: String,
    },
    /// A map could not be opened or written.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl XdpKind {
    fn label(self) -> &'static str {
        match self {
            Self::Native => "xdp-native",
            Self::Generic => "xdp-generic",
        }
    }
}

/// The programs and where their pins are.
pub struct Programs {
    ebpf: Ebpf,
    pins: Pins,
}

impl Programs {
    /// Loads the object; its maps are pinned below `root`, or adopted from there.
    ///
    /// # Errors
    /// The directory is no bpffs, a pin is incompatible, or the kernel refuses a map or a program.
    pub fn load(root: &Path) -> Result<Self, LoadError> {
        let pins = Pins::open(root)?;
        let dir = pins.dir();
        compare(root, dir)?;
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            loader.map_pin_path(name, dir.join(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|e| object("create the maps", e))?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in names.iter().filter(|n| *n != program::PASS) {
            let loaded = match ebpf.program_mut(name) {
                Some(aya::programs::Program::Xdp(p)) => p.load(),
                Some(aya::programs::Program::SchedClassifier(p)) => p.load(),
                Some(aya::programs::Program::SkLookup(p)) => p.load(),
                _ => continue,
            };
            loaded.map_err(|e| object(&format!("load the program {name}"), e))?;
        }
        Ok(Self { ebpf, pins })
    }

    /// The directory of the pins.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.pins.dir()
    }

    /// Puts the proxy's listening socket where `sk_lookup` finds it.
    ///
    /// # Errors
    /// The kernel refuses the socket.
    pub fn set_proxy_socket(&self, socket: &impl std::os::fd::AsRawFd) -> Result<(), LoadError> {
        let mut sockets: SockMap<aya::maps::MapData> = open(self.dir(), map::PROXY)?;
        sockets.set(PROXY_TCP, socket, 0).map_err(|e| object("hand over the proxy's socket", e))
    }

    /// Attaches XDP to an interface, in one mode; a link in the other mode is removed.
    ///
    /// # Errors
    /// The driver has no XDP, or a foreign program is attached.
    pub fn attach_xdp(&mut self, to: &Link, kind: XdpKind) -> Result<(), LoadError> {
        let interface = to.name.as_str();
        let other = if kind == XdpKind::Native { XdpKind::Generic } else { XdpKind::Native };
        pins::detach(&self.link_pin(other.label(), to))?;
        let pin = self.link_pin(kind.label(), to);
        let wrong = |reason: String| attach_error(program::XDP, interface, reason);
        let xdp: &mut Xdp = typed(&mut self.ebpf, program::XDP)?;
        if swap(&pin, xdp.fd().map_err(|e| wrong(e.to_string()))?.as_fd()).map_err(|e| wrong(e.to_string()))? {
            return Ok(());
        }
        let mode = if kind == XdpKind::Native { XdpMode::Driver } else { XdpMode::Skb };
        let id = xdp.attach(interface, mode).map_err(|e| wrong(explain(Feature::Xdp, &e)))?;
        let link = xdp.take_link(id).map_err(|e| wrong(explain(Feature::Xdp, &e)))?;
        // Where the kernel has no such links aya attaches in a way that ends with the process.
        let link = FdLink::try_from(link).map_err(|e| wrong(format!("{e}; {}", lacking(Feature::Xdp))))?;
        link.pin(&pin).map_err(|e| wrong(explain(Feature::Xdp, &e))).map(drop)
    }

    /// Removes XDP from an interface where it is ours.
    ///
    /// # Errors
    /// The pin cannot be removed.
    pub fn detach_xdp(&self, from: &Link) -> Result<(), LoadError> {
        pins::detach(&self.link_pin(XdpKind::Native.label(), from))?;
        pins::detach(&self.link_pin(XdpKind::Generic.label(), from))
    }

    /// Attaches both TC programs to an interface, before those of others.
    ///
    /// # Errors
    /// The kernel refuses a link.
    pub fn attach_tc(&mut self, to: &Link) -> Result<(), LoadError> {
        self.attach_pair(to, [(program::INGRESS, TC_INGRESS), (program::EGRESS, TC_EGRESS)])
    }

    /// Attaches the programs that look for replies to a side interface; `bare`: its packets have no Ethernet header.
    ///
    /// # Errors
    /// The kernel refuses a link.
    pub fn attach_side(&mut self, to: &Link, bare: bool) -> Result<(), LoadError> {
        let [ingress, egress] =
            if bare { [program::BARE_IN, program::BARE_OUT] } else { [program::SIDE_IN, program::SIDE_OUT] };
        self.attach_pair(to, [(ingress, SIDE_INGRESS), (egress, SIDE_EGRESS)])
    }

    /// Attaches a program to ingress and another to egress, each pinned under its label.
    fn attach_pair(&mut self, to: &Link, pair: [(&'static str, &str); 2]) -> Result<(), LoadError> {
        let interface = to.name.as_str();
        for ((name, label), at) in pair.into_iter().zip([TcAttachType::Ingress, TcAttachType::Egress]) {
            let pin = self.link_pin(label, to);
            let wrong = |reason: String| attach_error(name, interface, reason);
            let tc: &mut SchedClassifier = typed(&mut self.ebpf, name)?;
            if swap(&pin, tc.fd().map_err(|e| wrong(e.to_string()))?.as_fd()).map_err(|e| wrong(e.to_string()))? {
                continue;
            }
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = tc.attach_with_options(interface, at, options).map_err(|e| wrong(explain(Feature::Tcx, &e)))?;
            let link = tc.take_link(id).map_err(|e| wrong(explain(Feature::Tcx, &e)))?;
            let link = FdLink::try_from(link).map_err(|e| wrong(e.to_string()))?;
            link.pin(&pin).map_err(|e| wrong(explain(Feature::Tcx, &e)))?;
        }
        Ok(())
    }

    /// Attaches the programs that lead a pod to the proxy; they end with what is returned, and so with this process: without the
    /// proxy a Service is kube-proxy's.
    ///
    /// # Errors
    /// The kernel refuses a link.
    pub fn attach_guest(&mut self, to: &Link) -> Result<[FdLink; 2], LoadError> {
        let mut attach = |name, at| {
            let wrong = |reason: String| attach_error(name, &to.name, reason);
            let tc: &mut SchedClassifier = typed(&mut self.ebpf, name)?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = tc.attach_with_options(&to.name, at, options).map_err(|e| wrong(explain(Feature::Tcx, &e)))?;
            let link = tc.take_link(id).map_err(|e| wrong(explain(Feature::Tcx, &e)))?;
            FdLink::try_from(link).map_err(|e| wrong(e.to_string()))
        };
        // The way back first: nothing is led here before its answers are led back.
        let out = attach(program::MESH_OUT, TcAttachType::Egress)?;
        Ok([out, attach(program::MESH_IN, TcAttachType::Ingress)?])
    }

    /// Sends a frame out of an interface.
    ///
    /// # Errors
    /// The interface is gone or not up, or the kernel refuses.
    pub fn send(&self, interface: u32, frame: &[u8]) -> io::Result<()> {
        // `struct __sk_buff`, of which the kernel takes the interface's index.
        let mut context = [0; 192];
        context[40..44].copy_from_slice(&interface.to_ne_bytes());
        let announce = self.ebpf.program(program::ANNOUNCE).ok_or(io::ErrorKind::NotFound)?;
        let announce: &SchedClassifier = announce.try_into().map_err(io::Error::other)?;
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::default() };
        let sent = announce.test_run(options).map_err(|e| io::Error::other(explain(Feature::Programs, &e)))?;
        if sent.return_value == 1 { Ok(()) } else { Err(io::Error::other("the interface did not take the frame")) }
    }

    /// Attaches `sk_lookup` to this process's network namespace.
    ///
    /// # Errors
    /// The kernel refuses the link.
    pub fn attach_lookup(&mut self) -> Result<(), LoadError> {
        let pin = self.lookup_pin()?;
        let wrong = |reason: String| attach_error(program::LOOKUP, NAMESPACE, reason);
        let lookup: &mut SkLookup = typed(&mut self.ebpf, program::LOOKUP)?;
        if swap(&pin, lookup.fd().map_err(|e| wrong(e.to_string()))?.as_fd()).map_err(|e| wrong(e.to_string()))? {
            return Ok(());
        }
        let namespace = fs::File::open(NAMESPACE).map_err(|e| wrong(e.to_string()))?;
        let id = lookup.attach(namespace).map_err(|e| wrong(explain(Feature::SkLookup, &e)))?;
        let link = lookup.take_link(id).map_err(|e| wrong(explain(Feature::SkLookup, &e)))?;
        let link: FdLink = link.into();
        link.pin(&pin).map_err(|e| wrong(explain(Feature::SkLookup, &e))).map(drop)
    }

    /// Detaches what is on no interface of these, uplinks and side interfaces: a restart may ask for others, and devices come
    /// and go.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn keep_attached(&self, uplinks: &[&Link], sides: &[&Link]) -> Result<(), LoadError> {
        let labels = [XdpKind::Native.label(), XdpKind::Generic.label(), TC_INGRESS, TC_EGRESS];
        let mut wanted = BTreeSet::from([self.lookup_pin()?]);
        wanted.extend(uplinks.iter().flat_map(|link| labels.map(|label| self.link_pin(label, link))));
        let beside = [SIDE_INGRESS, SIDE_EGRESS];
        wanted.extend(sides.iter().flat_map(|link| beside.map(|label| self.link_pin(label, link))));
        self.pins.keep_links(&wanted)
    }

    fn link_pin(&self, label: &str, to: &Link) -> PathBuf {
        self.pins.link(label, &to.name, to.index.into())
    }

    fn lookup_pin(&self) -> Result<PathBuf, LoadError> {
        let namespace = fs::metadata(NAMESPACE);
        let inode = namespace.map_err(|e| attach_error(program::LOOKUP, NAMESPACE, e.to_string()))?.ino();
        Ok(self.pins.link("sk-lookup", "netns", inode))
    }
}

/// Gives a pinned link another program. `false` when there is none, or its interface is gone and the pin with it.
fn swap(pin: &Path, program: std::os::fd::BorrowedFd<'_>) -> io::Result<bool> {
    if !pin.exists() {
        return Ok(false);
    }
    match user::update_link(pin, program) {
        Ok(()) => Ok(true),
        // The interface is gone (ENOLINK), perhaps replaced by another of the same name.
        Err(e) if e.raw_os_error() == Some(nix::libc::ENOLINK) => fs::remove_file(pin).map(|()| false),
        Err(e) => Err(e),
    }
}

/// Compares every pinned map with the object's definition of it.
fn compare(root: &Path, dir: &Path) -> Result<(), LoadError> {
    let wanted = aya_obj::Object::parse(OBJECT).map_err(|e| object("parse", e))?;
    let mut mismatches = Vec::new();
    for name in map::ALL {
        let (Ok(found), Some(want)) = (MapInfo::from_pin(dir.join(name)), wanted.maps.get(name)) else { continue };
        let kind = found.map_type().map_or(0, |t| t as u32);
        let pairs = [
            ("type", kind, want.map_type()),
            ("key size", found.key_size(), want.key_size()),
            ("value size", found.value_size(), want.value_size()),
            ("max entries", found.max_entries(), want.max_entries()),
        ];
        let wrong = pairs.iter().filter(|(_, found, want)| found != want);
        mismatches.extend(wrong.map(|(what, found, want)| format!("{name}: {what} {found}, want {want}")));
    }
    if mismatches.is_empty() {
        return Ok(());
    }
    Err(LoadError::Incompatible { dir: dir.into(), root: root.into(), mismatches: mismatches.join("; ") })
}

fn typed<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| object(name, io::Error::other("is not in the object")))?;
    program.try_into().map_err(|e| object(name, e))
}

/// An error with its causes, and what would cure it: aya's own text leaves out what the kernel said.
fn explain(feature: Feature, error: &(dyn std::error::Error + 'static)) -> String {
    let text = chain(error);
    advice(feature, error).map_or(text.clone(), |advice| format!("{text}; {advice}"))
}

fn object(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LoadError {
    LoadError::Object { what: what.to_owned(), source: source.into() }
}

fn attach_error(program: &'static str, interface: &str, reason: String) -> LoadError {
    LoadError::Attach { program, interface: interface.to_owned(), reason }
}
