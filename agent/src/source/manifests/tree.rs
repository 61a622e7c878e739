//! The files below a directory, what was last read from each, and the snapshot that they make together.
//!
//! A file is read again when it was touched or is another one than before (inode, size, times). One that cannot be
//! read keeps its last good objects. Names that begin with a dot are not looked at: editors' temporary files, and the
//! directories behind a ConfigMap volume's `..data`, which is reached through the links beside it.
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::parse::{self, Document, Flaw, Format, Object};
use crate::{
    api::ObjectName,
    source::snapshot::{Fault, Snapshot},
};

/// Bytes of one file at most; a larger one is a fault.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Directories below each other at most; what lies deeper is not read.
const MAX_DEPTH: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tree {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Links and directories with hidden names, as a ConfigMap volume's `..data`: files may be reached through them.
    hidden: BTreeSet<PathBuf>,
    /// Directories that could not be read.
    unreadable: BTreeMap<PathBuf, String>,
    snapshot: Arc<Snapshot>,
    /// Kinds that nobody reads and that were reported.
    unknown: BTreeSet<String>,
    /// Whether everything has been read once.
    complete: bool,
}

/// What was last read from a file.
#[derive(Debug, Default)]
struct File {
    stamp: Option<Stamp>,
    documents: Vec<Document>,
    flaws: Vec<Flaw>,
    /// All of it could be read once.
    was_good: bool,
}

/// Tells a file from the one that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    id: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            id: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What a scan must know.
pub(super) struct Scan<'a> {
    /// Paths to read even if they look unchanged: times are coarse.
    pub(super) touched: &'a BTreeSet<PathBuf>,
    /// Files that somebody is writing; what was read from them before stays.
    pub(super) writing: &'a BTreeSet<PathBuf>,
    /// Called for each directory before its entries are read.
    pub(super) enter: &'a mut dyn FnMut(&Path),
}

/// One pass over the tree.
struct Pass<'a, 'b> {
    scan: &'a mut Scan<'b>,
    /// Files and directories by device and inode: a second way to the same one is not taken.
    seen: BTreeSet<(u64, u64)>,
    found: BTreeSet<PathBuf>,
    hidden: BTreeSet<PathBuf>,
    unreadable: BTreeMap<PathBuf, String>,
    changed: bool,
}

impl<'a, 'b> Pass<'a, 'b> {
    fn new(scan: &'a mut Scan<'b>) -> Self {
        let (seen, found, hidden, unreadable) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { scan, seen, found, hidden, unreadable, changed: false }
    }
}

impl Tree {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, ..Self::default() }
    }

    /// Brings the tree up to date. The snapshot, if it is another one than before; none until the root was read once.
    pub(super) fn scan(&mut self, mut scan: Scan<'_>) -> Option<Arc<Snapshot>> {
        let mut pass = Pass::new(&mut scan);
        let root = self.root.clone();
        if let Ok(metadata) = fs::metadata(&root) {
            self.enter(&root, &metadata, 0, &mut pass);
        }
        // Afterwards: when it went meanwhile, what was not found in it any more is not gone.
        if let Err(e) = fs::metadata(&root) {
            pass.unreadable.insert(root, format!("cannot be read: {e}; want a directory of manifests"));
        }
        let Pass { found, hidden, unreadable, changed, .. } = pass;
        self.hidden = hidden;
        let before = self.files.len();
        // What lies in a directory that cannot be read is neither there nor gone.
        self.files.retain(|path, _| found.contains(path) || unreadable.keys().any(|dir| path.starts_with(dir)));
        let changed = changed || self.files.len() != before || unreadable != self.unreadable;
        self.unreadable = unreadable;
        let was_complete = self.complete;
        self.complete |= !self.unreadable.contains_key(&self.root);
        if !self.complete {
            if changed {
                self.report(&[], &self.faults());
            }
            return None;
        }
        (changed || !was_complete).then(|| self.build())
    }

    /// Whether a path was a hidden link or directory at the last scan.
    pub(super) fn is_hidden_way(&self, path: &Path) -> bool {
        self.hidden.contains(path)
    }

    /// Whether a path was a manifest at the last scan.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Whether a file that was not known is one of its own, and no other way to one that is known.
    pub(super) fn is_new(&self, path: &Path, metadata: &fs::Metadata) -> bool {
        let is_hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let id = Stamp::of(metadata).id;
        self.complete && !is_hidden && self.files.values().all(|file| file.stamp.is_none_or(|stamp| stamp.id != id))
    }

    /// As [`Self::scan`], for when nothing but single files can have changed, come or gone. Cost: that of what changed, and a
    /// copy of the index.
    pub(super) fn refresh(&mut self, mut scan: Scan<'_>) -> Option<Arc<Snapshot>> {
        let paths = scan.touched;
        let mut pass = Pass::new(&mut scan);
        let mut before = Vec::new();
        for path in paths {
            let Some(format) = format_of(path) else { continue };
            let objects = |file: &File| file.objects().cloned().collect::<Vec<_>>();
            match fs::metadata(path) {
                Ok(metadata) => {
                    before.push((path, self.files.get(path).map(objects).unwrap_or_default()));
                    self.visit(path, format, &metadata, &mut pass);
                }
                Err(_) => {
                    let Some(file) = self.files.remove(path) else { continue };
                    before.push((path, objects(&file)));
                    pass.changed = true;
                }
            }
        }
        if !pass.changed {
            return None;
        }
        Some(self.patch(&before).unwrap_or_else(|| self.build()))
    }

    /// The last snapshot with what files hold now that held these objects before; `None` when there is more to it.
    fn patch(&mut self, before: &[(&PathBuf, Vec<Object>)]) -> Option<Arc<Snapshot>> {
        let files = before.iter().filter_map(|(path, _)| self.files.get(*path));
        let is_plain = |file: &File| {
            let mut unknown = file.documents.iter().flat_map(|document| &document.unknown);
            file.flaws.is_empty() && unknown.all(|kind| self.unknown.contains(kind))
        };
        // Without faults each object is the only one of its name.
        if !self.snapshot.faults.is_empty() || !files.clone().all(is_plain) {
            return None;
        }
        let (mut old, mut names) = (BTreeMap::new(), BTreeSet::new());
        for object in before.iter().flat_map(|(_, objects)| objects) {
            old.insert(object.describe(), object);
        }
        for object in files.flat_map(File::objects) {
            let name = object.describe();
            let is_another = !old.contains_key(&name) && object.is_in(&self.snapshot);
            if is_another || !names.insert(name) {
                return None;
            }
        }
        let mut next = Snapshot::clone(&self.snapshot);
        for (_, object) in old.iter().filter(|(name, _)| !names.contains(*name)) {
            object.remove(&mut next);
        }
        for (path, _) in before {
            let documents = self.files.get_mut(*path).into_iter().flat_map(|file| &mut file.documents);
            for object in documents.flat_map(|document| &mut document.objects) {
                if old.get(&object.describe()).is_none_or(|old| !object.is(old)) {
                    object.insert(&mut next, &self.snapshot);
                }
            }
        }
        self.snapshot = Arc::new(next);
        Some(Arc::clone(&self.snapshot))
    }

    /// Reads a directory.
    fn enter(&mut self, path: &Path, metadata: &fs::Metadata, depth: usize, pass: &mut Pass<'_, '_>) {
        if !pass.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        if depth > MAX_DEPTH {
            pass.unreadable.insert(path.to_owned(), format!("is deeper than {MAX_DEPTH} directories"));
            return;
        }
        (pass.scan.enter)(path);
        let mut entries = match fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
            Ok(entries) => entries,
            // Deleted since it was seen.
            Err(e) if e.kind() == io::ErrorKind::NotFound && depth > 0 => return,
            Err(e) => {
                pass.unreadable.insert(path.to_owned(), format!("cannot be read: {e}; want a directory of manifests"));
                return;
            }
        };
        entries.sort_unstable_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                if !entry.file_type().is_ok_and(|t| t.is_file()) {
                    pass.hidden.insert(entry.path());
                }
                continue;
            }
            let child = entry.path();
            let format = format_of(&child);
            if format.is_none() && entry.file_type().is_ok_and(|t| t.is_file()) {
                continue;
            }
            // Follows links; one that leads nowhere is as good as absent.
            let Ok(metadata) = fs::metadata(&child) else { continue };
            match format {
                _ if metadata.is_dir() => self.enter(&child, &metadata, depth + 1, pass),
                Some(format) if metadata.is_file() => self.visit(&child, format, &metadata, pass),
                _ => {}
            }
        }
    }

    /// Reads a file if it is not as it was.
    fn visit(&mut self, path: &Path, format: Format, metadata: &fs::Metadata, pass: &mut Pass<'_, '_>) {
        if !pass.seen.insert((metadata.dev(), metadata.ino())) {
            return;
        }
        pass.found.insert(path.to_owned());
        let known = self.files.get(path);
        let same = known.is_some_and(|f| f.stamp == Some(Stamp::of(metadata))) && !pass.scan.touched.contains(path);
        if same || pass.scan.writing.contains(path) {
            if known.is_none() {
                pass.found.remove(path);
            }
            return;
        }
        let file = self.files.entry(path.to_owned()).or_default();
        match read(path) {
            Ok((stamp, text)) => {
                file.stamp = Some(stamp);
                pass.changed |= file.update(&text, format);
            }
            // Deleted since it was seen; the next scan, for which there is an event, agrees or not.
            Err(Unreadable::Gone) if file.stamp.is_none() => {
                self.files.remove(path);
            }
            Err(Unreadable::Gone) => {
                pass.found.remove(path);
            }
            Err(Unreadable::Because(reason)) => {
                file.stamp = Some(Stamp::of(metadata));
                let flaws = vec![Flaw::of_file(None, reason)];
                pass.changed |= file.flaws != flaws;
                file.flaws = flaws;
            }
        }
    }

    /// Makes the snapshot from the files, in the order of their paths.
    fn build(&mut self) -> Arc<Snapshot> {
        let mut faults = self.faults();
        let mut next = Snapshot::default();
        let mut origins = BTreeMap::<(&str, ObjectName), (&Path, u64)>::new();
        for (path, file) in &mut self.files {
            for Document { line, objects, unknown, .. } in &mut file.documents {
                for kind in unknown {
                    if !self.unknown.contains(kind) {
                        tracing::info!(kind = %kind, file = %path.display(), "kind is not read, ignored");
                        self.unknown.insert(kind.clone());
                    }
                }
                for object in objects {
                    let (kind, name) = object.describe();
                    match origins.entry((kind, name.clone())) {
                        Entry::Vacant(free) => {
                            free.insert((path, *line));
                            object.insert(&mut next, &self.snapshot);
                        }
                        Entry::Occupied(winner) => {
                            let (winner, at) = winner.get();
                            let reason = format!(
                                "{kind} {name} is also in {}, line {at}, which counts as the first by path; want it once",
                                winner.display()
                            );
                            let origin = path.display().to_string();
                            faults.push(Fault { origin, line: Some(*line), object: None, reason });
                        }
                    }
                }
            }
        }
        next.faults = faults;
        self.report(&self.snapshot.faults, &next.faults);
        self.snapshot = Arc::new(next);
        Arc::clone(&self.snapshot)
    }

    /// What is wrong with directories and files, in the order of their paths.
    fn faults(&self) -> Vec<Fault> {
        let fault = |path: &PathBuf, line, object: &Option<String>, reason: &String| Fault {
            origin: path.display().to_string(),
            line,
            object: object.clone(),
            reason: reason.clone(),
        };
        let dirs = self.unreadable.iter().map(|(path, reason)| fault(path, None, &None, reason));
        let of_file = |(path, file): (_, &File)| {
            file.flaws.iter().map(|flaw| fault(path, flaw.line, &flaw.object, &flaw.reason)).collect::<Vec<_>>()
        };
        dirs.chain(self.files.iter().flat_map(of_file)).collect()
    }

    /// Logs faults that were not there before.
    fn report(&self, before: &[Fault], now: &[Fault]) {
        for Fault { origin, line, object: _, reason } in now.iter().filter(|f| !before.contains(f)) {
            tracing::warn!(file = %origin, line = *line, reason = %reason, "manifest is not read, last good objects stay");
        }
        if now.is_empty() && !before.is_empty() {
            tracing::info!(root = %self.root.display(), "all manifests are read again");
        }
    }
}

impl File {
    fn objects(&self) -> impl Iterator<Item = &Object> {
        self.documents.iter().flat_map(|d| &d.objects)
    }

    /// Applies a text; whether anything is different now.
    ///
    /// Where each flaw names its object, these objects alone keep their last good form. Any other flaw may hide objects,
    /// and all of the file stays as it was. Either way Services are closed that a flaw closes.
    fn update(&mut self, text: &str, format: Format) -> bool {
        let (mut documents, flaws) = parse::parse(text, format, &self.documents);
        let is_good = flaws.iter().all(|flaw| flaw.object.is_some());
        let flaws_before = std::mem::replace(&mut self.flaws, flaws);
        if !is_good && self.was_good {
            self.close();
            return self.flaws != flaws_before;
        }
        let mut flawed = self.flaws.iter().filter_map(|f| Some((f.object.as_deref()?, f.line))).collect::<Vec<_>>();
        flawed.dedup_by_key(|(object, _)| *object);
        for (flawed, line) in flawed {
            let last = self.objects().find(|object| object.name() == flawed).cloned();
            documents.extend(last.map(|object| Document::keep(line.unwrap_or(1), object)));
        }
        self.was_good = is_good;
        self.documents = documents;
        self.close();
        true
    }

    /// Closes the Services that flaws close.
    fn close(&mut self) {
        let closing: Vec<&Flaw> = self.flaws.iter().filter(|flaw| flaw.closes.is_some()).collect();
        if closing.is_empty() {
            return;
        }
        for document in &mut self.documents {
            document.close(|name| closing.iter().find_map(|flaw| flaw.of_closed(name)));
        }
    }
}

/// How a file is written, by its extension; `None` for one that is no manifest.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

enum Unreadable {
    Gone,
    Because(String),
}

fn read(path: &Path) -> Result<(Stamp, String), Unreadable> {
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => Unreadable::Gone,
        io::ErrorKind::InvalidData => Unreadable::Because("is not text, want UTF-8".to_owned()),
        _ => Unreadable::Because(format!("cannot be read: {e}")),
    };
    let file = fs::File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.len() > MAX_FILE_BYTES {
        let text = format!("has {} bytes, want {MAX_FILE_BYTES} at most", metadata.len());
        return Err(Unreadable::Because(text));
    }
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(fail)?;
    Ok((Stamp::of(&metadata), text))
}
