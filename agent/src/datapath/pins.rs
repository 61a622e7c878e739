//! The directory of the pins: made on a bpffs, held by one agent at a time, removed without harming what is not ours.
//!
//! Below the configured root lies one directory per map layout, `v<N>`, with the maps, and in its `links` the links. A
//! link's pin carries the index of its interface, or the inode of its namespace: a name alone may come to mean another
//! device, whose packets the old link would not see.
//!
//! Invariant: whoever changes anything here holds the lock on the root, so that no second agent and no cleanup pulls the
//! maps from under a running one. The lock goes with the process, however that ends.
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use sluice_ebpf::{LAYOUT, user};

use super::load::LoadError;

/// Where the kernel's bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// The directory of this layout's pins below a root.
#[must_use]
pub fn pin_dir(root: &Path) -> PathBuf {
    root.join(format!("v{LAYOUT}"))
}

/// The pins of this agent, and the lock that makes them so.
pub struct Pins {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// Makes the directories and takes the lock.
    ///
    /// # Errors
    /// The root is on no bpffs, another process holds it, or it has maps of another layout.
    pub fn open(root: &Path) -> Result<Self, LoadError> {
        if root.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)) {
            let none: Option<&str> = None;
            nix::mount::mount(Some("bpf"), BPFFS, Some("bpf"), nix::mount::MsFlags::empty(), none)
                .map_err(|e| refused(Path::new(BPFFS), format!("is no bpffs and cannot be mounted as one: {e}")))?;
        }
        // Before anything is made: a typo must not leave directories behind.
        if !root.ancestors().find(|a| a.exists()).is_some_and(is_bpffs) {
            return Err(refused(root, "is not on a bpffs; want a directory below /sys/fs/bpf"));
        }
        fs::create_dir_all(root).map_err(|e| refused(root, e))?;
        let lock = lock(root)?;
        let others: Vec<String> =
            layouts(root)?.into_iter().map(|(name, _)| name).filter(|name| *name != format!("v{LAYOUT}")).collect();
        if !others.is_empty() {
            let mismatches = format!("layout {}, want v{LAYOUT}", others.join(", "));
            return Err(LoadError::Incompatible { dir: root.into(), root: root.into(), mismatches });
        }
        let dir = pin_dir(root);
        fs::create_dir_all(dir.join("links")).map_err(|e| refused(&dir, e))?;
        Ok(Self { dir, _lock: lock })
    }

    /// The directory of the maps.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a link is pinned: what is attached, to what, and which one of that name it is. A bpffs takes no dot in a name, and
    /// interfaces of VLANs and overlays have one.
    #[must_use]
    pub fn link(&self, label: &str, name: &str, id: u64) -> PathBuf {
        self.dir.join("links").join(format!("{label}-{}-{id}", name.replace('.', "_")))
    }

    /// Detaches every link but these.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn keep_links(&self, wanted: &BTreeSet<PathBuf>) -> Result<(), LoadError> {
        for pin in entries(&self.dir.join("links"))? {
            if !wanted.contains(&pin) {
                tracing::info!(pin = %pin.display(), "detached: it is on no interface that is asked for");
                detach(&pin)?;
            }
        }
        Ok(())
    }
}

/// Detaches a link and removes its pin; one that is gone is what was wanted. When this returns nothing is attached.
///
/// # Errors
/// It is there and cannot be removed.
pub fn detach(pin: &Path) -> Result<(), LoadError> {
    if pin.exists()
        && let Err(error) = user::detach_link(pin)
    {
        // Its interface is gone, or it is no link: what is left is the pin, and that goes.
        tracing::debug!(pin = %pin.display(), %error, "a link that cannot be detached");
    }
    remove(pin)
}

/// Removes a pin; one that is gone is what was wanted.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(pin: &Path) -> Result<(), LoadError> {
    match fs::remove_file(pin) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(refused(pin, e)),
        _ => Ok(()),
    }
}

/// Detaches everything and removes the pins of every layout below a root, and the root if nothing else is in it.
///
/// # Errors
/// The root is on no bpffs, an agent holds it, or something of ours cannot be removed.
pub fn cleanup(root: &Path) -> Result<(), LoadError> {
    if !root.exists() {
        return Ok(());
    }
    if !is_bpffs(root) {
        return Err(refused(root, "is not on a bpffs: nothing was removed; want the --bpf-dir of an agent"));
    }
    let _lock = lock(root)?;
    for (_, dir) in layouts(root)? {
        let links = dir.join("links");
        // Links first: what is detached needs its maps no more.
        if links.is_dir() {
            entries(&links)?.iter().filter(|p| !p.is_dir()).try_for_each(|pin| detach(pin))?;
        }
        entries(&dir)?.iter().filter(|p| !p.is_dir()).try_for_each(|pin| remove(pin))?;
        if links.is_dir() {
            fs::remove_dir(&links).map_err(|e| refused(&links, e))?;
        }
        fs::remove_dir(&dir).map_err(|e| refused(&dir, e))?;
    }
    // What else is there is somebody else's, and so is a mount point.
    let _ = fs::remove_dir(root);
    Ok(())
}

/// The directories of layouts below a root, by name.
fn layouts(root: &Path) -> Result<Vec<(String, PathBuf)>, LoadError> {
    let named = entries(root)?.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.to_owned();
        let is_layout = name.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        is_layout.then_some((name, path))
    });
    Ok(named.collect())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let read = fs::read_dir(dir).and_then(|all| all.map(|e| e.map(|e| e.path())).collect());
    read.map_err(|e| refused(dir, e))
}

fn lock(root: &Path) -> Result<Flock<File>, LoadError> {
    let file = File::open(root).map_err(|e| refused(root, e))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => refused(root, "is in use by a running agent; stop it first, or use another"),
        other => refused(root, other),
    })
}

fn is_bpffs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

fn refused(dir: &Path, reason: impl ToString) -> LoadError {
    LoadError::Directory { dir: dir.to_owned(), reason: reason.to_string() }
}
