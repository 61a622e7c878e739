//! The house's limit on the size of a file, so that nobody has to argue about it in review.
use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Lines above which a source file is a defect.
const LIMIT: usize = 600;

/// Fails with every Rust file of the workspace that is longer than [`LIMIT`] lines.
///
/// # Errors
/// A file is too long, or cannot be read.
pub fn check() -> Result<()> {
    let root = crate::root();
    let mut long = Vec::new();
    for part in ["agent", "ebpf", "xtask", "tests"] {
        for file in rust_files(&root.join(part))? {
            let lines = fs::read_to_string(&file).with_context(|| file.display().to_string())?.lines().count();
            if lines > LIMIT {
                long.push(format!("  {}: {lines} lines, want {LIMIT} at most", file.display()));
            }
        }
    }
    if long.is_empty() { Ok(()) } else { bail!("files that are too long:\n{}", long.join("\n")) }
}

/// The Rust files below a directory.
pub(crate) fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            found.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    Ok(found)
}
