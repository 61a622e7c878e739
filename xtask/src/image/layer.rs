//! Tar archives with nothing of this machine in them: no time, no user, a fixed order.
use std::collections::BTreeMap;

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// The files and directories of an archive, sorted by path.
#[derive(Default)]
pub(super) struct Tree {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Directory { mode: u32 },
    File { mode: u32, bytes: Vec<u8> },
}

impl Tree {
    /// Adds a directory; `path` without a slash at either end.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::Directory { mode });
    }

    /// Adds a file and the directories above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.parents(path);
        self.entries.insert(path.to_owned(), Entry::File { mode, bytes: bytes.into() });
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert(Entry::Directory { mode: 0o755 });
        }
    }

    /// The archive: uid, gid and time are 0.
    ///
    /// # Errors
    /// A path does not fit into a header.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut tar = Builder::new(Vec::new());
        for (path, entry) in &self.entries {
            let mut header = Header::new_ustar();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            let (name, mode, kind, bytes) = match entry {
                // A directory's name ends in a slash.
                Entry::Directory { mode } => (format!("{path}/"), *mode, EntryType::Directory, &[][..]),
                Entry::File { mode, bytes } => (path.clone(), *mode, EntryType::Regular, &bytes[..]),
            };
            header.set_mode(mode);
            header.set_entry_type(kind);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, &name, bytes).with_context(|| format!("add {path} to the archive"))?;
        }
        tar.into_inner().context("end the archive")
    }
}
