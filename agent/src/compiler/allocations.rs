//! The addresses that were given, on disk: what makes them outlive a restart.
//!
//! One JSON object in `allocations.json`, `"Kind namespace/name"` -> addresses, replaced as a whole: a reader sees the
//! old file or the new one, after a power failure too.
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::model::Allocations;

/// The file's name in the state directory.
pub const FILE: &str = "allocations.json";

/// Why allocations could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AllocationsError {
    /// The file system refused; a retry may help.
    #[error("allocations {} cannot be {what}", path.display())]
    Io {
        /// `read` or `written`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file is none of ours, or was edited.
    #[error("allocations {} are not readable, want a JSON object like {{\"Service default/web\": [\"192.0.2.1\"]}}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads what was stored last; nothing where nothing was.
///
/// # Errors
/// When the file is there and cannot be read, or does not hold allocations.
pub fn load(state_dir: &Path) -> Result<Allocations, AllocationsError> {
    let path = state_dir.join(FILE);
    match fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| AllocationsError::Content { path, source }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Allocations::new()),
        Err(source) => Err(AllocationsError::Io { what: "read", path, source }),
    }
}

/// Replaces what was stored; makes the directory if need be.
///
/// # Errors
/// When the file system refuses. What was stored before is then still there.
pub fn store(state_dir: &Path, allocations: &Allocations) -> Result<(), AllocationsError> {
    let path = state_dir.join(FILE);
    let text = serde_json::to_vec_pretty(allocations)
        .map_err(|source| AllocationsError::Content { path: path.clone(), source })?;
    replace(state_dir, &path, &text).map_err(|source| AllocationsError::Io { what: "written", path, source })
}

fn replace(dir: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let new = path.with_extension("json.new");
    let mut file = fs::File::create(&new)?;
    file.write_all(text)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    // The name itself must reach the disk too.
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::ObjectName, model::ObjectRef};

    #[test]
    fn what_is_stored_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("not/yet/there");
        assert_eq!(load(&state).unwrap(), Allocations::new());
        let mut given = Allocations::new();
        let web = ObjectRef::new("Service", ObjectName::new("default", "web"));
        given.insert(web.clone(), vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        store(&state, &given).unwrap();
        assert_eq!(load(&state).unwrap(), given);
        given.remove(&web);
        store(&state, &given).unwrap();
        assert_eq!(load(&state).unwrap(), given);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it_and_what_was_wanted() {
        let dir = tempfile::tempdir().unwrap();
        for damaged in ["", "[]", r#"{"web": ["192.0.2.1"]}"#, r#"{"Service default/web": ["nonsense"]}"#] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            let error = load(dir.path()).unwrap_err();
            assert!(matches!(error, AllocationsError::Content { .. }), "{damaged:?}: {error}");
            assert!(error.to_string().contains(FILE) && error.to_string().contains("want"), "{error}");
        }
    }
}
