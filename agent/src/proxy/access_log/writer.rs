//! The thread that writes the access log.
//!
//! # Design
//! A file that was renamed or removed is opened anew within a second: so it is rotated by `mv`, and by logrotate without `copytruncate`
//! and without a signal. Lines that cannot be written are counted, and the next ones tried again.
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::{LineFormat, LogCounts, entry::Entry};

/// How often it is looked whether the file is still where it was.
const LOOK: Duration = Duration::from_secs(1);
/// How much is written at a time. Units: bytes.
const BATCH: usize = 64 << 10;
/// How often a failure is told at most.
const QUIET: Duration = Duration::from_secs(60);

/// The thread, until it has written everything.
#[derive(Debug)]
pub struct Writer(Receiver<()>);

impl Writer {
    /// Starts it.
    ///
    /// # Errors
    /// The file cannot be opened, or the system refuses a thread.
    pub(super) fn start(
        entries: Receiver<Box<Entry>>,
        format: LineFormat,
        file: Option<PathBuf>,
        counts: Arc<LogCounts>,
    ) -> io::Result<Self> {
        let to = match file {
            None => Target::Stdout,
            Some(path) => {
                let named = |e: io::Error| io::Error::new(e.kind(), format!("access log {}: {e}", path.display()));
                let file = open(&path).map_err(named)?;
                Target::File(path, file)
            }
        };
        let (ended_out, ended) = channel();
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            // Dropped with the thread, however it ends.
            let _ended = ended_out;
            Writing { entries, format, to, counts, looked: Instant::now(), told: None }.run();
        })?;
        Ok(Self(ended))
    }

    /// Waits until all is written, once nobody logs any more.
    pub fn finish(self, limit: Duration) {
        // Either way there is nothing left to wait for.
        let _ = self.0.recv_timeout(limit);
    }
}

#[derive(Debug)]
enum Target {
    Stdout,
    File(PathBuf, File),
}

struct Writing {
    entries: Receiver<Box<Entry>>,
    format: LineFormat,
    to: Target,
    counts: Arc<LogCounts>,
    looked: Instant,
    /// When a failure was last told.
    told: Option<Instant>,
}

impl Writing {
    fn run(&mut self) {
        let mut batch = String::new();
        loop {
            match self.entries.recv_timeout(LOOK) {
                Ok(entry) => {
                    let mut lines = 1;
                    self.format.write(&entry, &mut batch);
                    while batch.len() < BATCH
                        && let Ok(entry) = self.entries.try_recv()
                    {
                        self.format.write(&entry, &mut batch);
                        lines += 1;
                    }
                    self.look();
                    self.write(&batch, lines);
                    batch.clear();
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write(&mut self, batch: &str, lines: u64) {
        let result = match &mut self.to {
            Target::Stdout => io::stdout().lock().write_all(batch.as_bytes()),
            Target::File(_, file) => file.write_all(batch.as_bytes()),
        };
        match result {
            Ok(()) => _ = self.counts.written.fetch_add(lines, Relaxed),
            Err(error) => {
                self.counts.dropped.fetch_add(lines, Relaxed);
                self.tell(&error);
            }
        }
    }

    /// Opens the file anew where it is no longer at its path.
    fn look(&mut self) {
        if self.looked.elapsed() < LOOK {
            return;
        }
        self.looked = Instant::now();
        let Target::File(path, file) = &mut self.to else { return };
        let is_same = match (file.metadata(), std::fs::metadata(&*path)) {
            (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        if is_same {
            return;
        }
        match open(path) {
            Ok(opened) => *file = opened,
            // Until then lines go where they went.
            Err(error) => self.tell(&error),
        }
    }

    fn tell(&mut self, error: &io::Error) {
        if self.told.is_none_or(|told| told.elapsed() >= QUIET) {
            self.told = Some(Instant::now());
            tracing::warn!(%error, "the access log cannot be written; its lines are lost");
        }
    }
}

/// Opens a file to append to; others than its owner may not read who asked for what.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}
