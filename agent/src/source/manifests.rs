//! A directory of Kubernetes manifests as a source: all `*.yaml`, `*.yml` and `*.json` below it, watched for change.
//!
//! inotify says when to look and which files to distrust; what is there is found by looking: each burst of events leads
//! to one scan, in which a file that is as it was costs one `stat`. Where single files alone can have changed, come
//! or gone, these alone are looked at. A full scan now and then makes up for lost events.
//!
//! # Design
//! A file that is being written is read when its writer closes it, not when its first bytes arrive: half a manifest may
//! parse. A directory that disappears or cannot be read keeps its objects, as a Kubernetes API that does not answer.
mod parse;
pub mod schema;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{sync, sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::snapshot::Snapshot;
use tree::{Scan, Tree};

/// How long events are gathered before a scan.
const COALESCE: Duration = Duration::from_millis(1);
/// Time between scans without an event, at least.
const RESCAN: Duration = Duration::from_secs(5);
/// In terms of what the last full scan took: they make up for lost events alone, and must neither cost nor delay.
const RESCAN_SHARE: u32 = 200;
/// And at most: the first scan, which reads all files, takes long.
const RESCAN_LIMIT: Duration = Duration::from_secs(60);
/// How long the end of a write is waited for.
const SETTLE: Duration = Duration::from_millis(250);
/// Events that wait for the next scan at most; beyond it they are dropped, and that scan is a full one.
const EVENTS: usize = 4096;

/// Why the source stopped.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A relative path has no meaning: the working directory is gone.
    #[error("manifests directory {} cannot be made absolute", path.display())]
    Directory {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Our fault.
    #[error("reading manifests in {} failed", path.display())]
    Scan {
        /// The directory.
        path: PathBuf,
        /// The panic.
        #[source]
        source: tokio::task::JoinError,
    },
}

/// Sends a [`Snapshot`] of the manifests below `dir`, first when all have been read once, then whenever they change,
/// until `cancel`. While `dir` does not exist there is no snapshot; one that disappears keeps its objects.
///
/// # Errors
/// When `dir` cannot be made absolute, or on a panic. What is wrong with files is in the snapshots' faults.
pub async fn watch(
    dir: PathBuf,
    tx: sync::watch::Sender<Option<Arc<Snapshot>>>,
    cancel: CancellationToken,
) -> Result<(), SourceError> {
    let root = match std::path::absolute(&dir) {
        Ok(root) => root,
        Err(source) => return Err(SourceError::Directory { path: dir, source }),
    };
    let (events, mut inbox) = mpsc::channel(EVENTS);
    let mut reader = Reader::new(&root, events);
    let mut pending = Pending { rewatch: true, due: true, ..Pending::default() };
    let mut rescan_at = Instant::now() + RESCAN;
    loop {
        if pending.due {
            let burst = pending.take();
            let (began, is_full) = (Instant::now(), burst.rewatch);
            let scan = tokio::task::spawn_blocking(move || {
                let snapshot = reader.scan(&burst);
                (reader, snapshot)
            });
            let (returned, snapshot) = scan.await.map_err(|source| SourceError::Scan { path: root.clone(), source })?;
            reader = returned;
            if is_full {
                let share = if reader.watcher.is_some() { began.elapsed() * RESCAN_SHARE } else { RESCAN };
                rescan_at = Instant::now() + share.clamp(RESCAN, RESCAN_LIMIT);
            }
            if let Some(snapshot) = snapshot {
                tx.send_replace(Some(snapshot));
            }
            pending.due = std::mem::take(&mut reader.again);
            pending.rewatch = pending.due;
        }
        let settled = pending.settled_at();
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            Some(event) = inbox.recv(), if !pending.due => {
                tokio::time::sleep(COALESCE).await;
                pending.note(event);
                while let Ok(event) = inbox.try_recv() {
                    pending.note(event);
                }
            }
            () = tokio::time::sleep_until(settled.unwrap_or_else(Instant::now)), if settled.is_some() => pending.due = true,
            () = tokio::time::sleep_until(rescan_at) => (pending.due, pending.rewatch) = (true, true),
            () = std::future::ready(()), if pending.due => {}
        }
    }
}

/// What events told since the last scan.
#[derive(Default)]
struct Pending {
    /// A scan is due.
    due: bool,
    /// Directories may have come or gone.
    rewatch: bool,
    touched: BTreeSet<PathBuf>,
    /// Files between their first write and their close, and when they count as closed.
    writing: BTreeMap<PathBuf, Instant>,
}

/// What a scan must know.
struct Burst {
    /// Files to read anew.
    touched: BTreeSet<PathBuf>,
    /// Files to leave alone.
    writing: BTreeSet<PathBuf>,
    /// Directories may have changed.
    rewatch: bool,
}

impl Pending {
    fn note(&mut self, event: Event) {
        let Event { kind, paths, attrs: _ } = event;
        let is_data = matches!(kind, EventKind::Modify(ModifyKind::Data(_)));
        self.due |= !is_data;
        self.rewatch |= paths.is_empty();
        for path in paths {
            let is_manifest = tree::format_of(&path).is_some();
            if is_data && is_manifest {
                self.writing.entry(path.clone()).or_insert_with(|| Instant::now() + SETTLE);
            } else {
                self.writing.remove(&path);
            }
            self.touched.insert(path);
        }
    }

    fn take(&mut self) -> Burst {
        let now = Instant::now();
        self.writing.retain(|_, settled| *settled > now);
        let writing = self.writing.keys().cloned().collect::<BTreeSet<_>>();
        let touched = std::mem::take(&mut self.touched);
        // Those that are not read now are still to be read.
        self.touched.extend(touched.intersection(&writing).cloned());
        self.due = false;
        Burst { touched, writing, rewatch: std::mem::take(&mut self.rewatch) }
    }

    /// When the first of the files that are being written counts as closed.
    fn settled_at(&self) -> Option<Instant> {
        self.writing.values().min().copied()
    }
}

/// The tree and the watches on its directories.
struct Reader {
    root: PathBuf,
    tree: Tree,
    /// None where the kernel has no inotify instance left: then scans are made now and then alone.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    /// Events were dropped since the last full scan began.
    lost: Arc<AtomicBool>,
    /// Watches were moved: what happened meanwhile may be lost.
    again: bool,
}

impl Reader {
    fn new(root: &Path, events: mpsc::Sender<Event>) -> Self {
        let relevant = root.to_owned();
        let lost = Arc::<AtomicBool>::default();
        let dropped = Arc::clone(&lost);
        let forward = move |event: notify::Result<Event>| {
            let event = event.unwrap_or_else(|_| Event::new(EventKind::Other));
            // Reading makes events too. A path above the root matters when it is one that leads to the root.
            let is_ours = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
            let is_relevant = event.paths.is_empty()
                || event.paths.iter().any(|path| path.starts_with(&relevant) || relevant.starts_with(path));
            if !is_ours && is_relevant {
                // Full: a scan is due already. Closed: the source has stopped.
                if events.try_send(event).is_err() {
                    dropped.store(true, Relaxed);
                }
            }
        };
        let watcher = notify::recommended_watcher(forward)
            .inspect_err(|error| {
                tracing::warn!(%error, "manifests cannot be watched, they are looked at every {} s", RESCAN.as_secs());
            })
            .ok();
        Self {
            root: root.to_owned(),
            tree: Tree::new(root.to_owned()),
            watcher,
            watched: BTreeSet::new(),
            lost,
            again: false,
        }
    }

    /// Whether a directory, or a link to one, may have come or gone under a name that an event told.
    ///
    /// A name that is gone and was none of these before was a file, or lived so briefly that what it was renamed to,
    /// which has an event of its own, tells more: writers make `.web.yaml.tmp`, the kubelet makes `..data_tmp`.
    fn may_be_directory(&self, path: &Path) -> bool {
        let was_way = self.watched.contains(path) || self.tree.is_hidden_way(path);
        was_way || path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file())
    }

    /// Whether an event can have changed no more than one file: what it holds, or that it is there.
    fn is_of_file(&self, path: &Path) -> bool {
        if tree::format_of(path).is_none() {
            return true;
        }
        let Some(dir) = path.parent().filter(|dir| dir.starts_with(&self.root) && self.watched.contains(*dir)) else {
            return false;
        };
        match path.symlink_metadata() {
            Ok(metadata) => metadata.is_file() && (self.tree.has(path) || self.tree.is_new(path, &metadata)),
            // Else it is the directory that is gone, or cannot be read.
            Err(error) => error.kind() == io::ErrorKind::NotFound && self.tree.has(path) && dir.is_dir(),
        }
    }

    /// One scan; watches each directory before it is read, so that nothing happens unseen in between.
    fn scan(&mut self, burst: &Burst) -> Option<Arc<Snapshot>> {
        let Burst { touched, writing, rewatch } = burst;
        let lost = self.lost.swap(false, Relaxed);
        let rewatch = *rewatch || lost || touched.iter().any(|path| self.may_be_directory(path));
        if !rewatch && !touched.is_empty() && touched.iter().all(|path| self.is_of_file(path)) {
            return self.tree.refresh(Scan { touched, writing, enter: &mut |_| {} });
        }
        let Self { root, tree, watcher, watched, lost: _, again: _ } = self;
        let mut entered = BTreeSet::new();
        let mut enter = |path: &Path| {
            if rewatch || !watched.contains(path) {
                begin(watcher, path);
            }
            entered.insert(path.to_owned());
        };
        // The way to the root: it may appear, or be replaced.
        if let Some(above) = root.ancestors().skip(1).find(|a| a.is_dir()) {
            enter(above);
        }
        let snapshot = tree.scan(Scan { touched, writing, enter: &mut enter });
        let mut left = watched.difference(&entered).peekable();
        if left.peek().is_some() {
            for path in left {
                if let Some(watcher) = watcher {
                    // Not watched any more: the directory was deleted.
                    let _ = watcher.unwatch(path);
                }
            }
            // A directory that was renamed has one watch for both names, and that one is gone now.
            entered.iter().for_each(|path| begin(watcher, path));
            self.again = true;
        }
        *watched = entered;
        snapshot
    }
}

/// Watches a directory; one that is watched already stays so.
fn begin(watcher: &mut Option<RecommendedWatcher>, path: &Path) {
    let Some(watcher) = watcher else { return };
    if let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) {
        tracing::debug!(path = %path.display(), %error, "directory is not watched, it is looked at now and then");
    }
}
