//! The flags that keep this machine's directories out of what is built, so that two builds give the same bytes.
//!
//! Three places lie elsewhere on another machine: the clone, cargo's registry and the compiler's own sources. Each gets a
//! fixed name in debug information and in the messages of panics.
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::run::output;

/// `--remap-path-prefix=FROM=TO` for everything that `rustc` could name. Later flags win, so the longest come last.
#[must_use]
pub fn remap_flags(root: &Path, rustc: &Path) -> Vec<String> {
    let flag = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let mut flags = vec![flag(&root, "/sluice")];
    // One directory per registry, named after its address: a mirror must not show either.
    let registries = fs::read_dir(cargo_home().join("registry/src")).into_iter().flatten().flatten();
    let mut registries: Vec<PathBuf> = registries.map(|entry| entry.path()).collect();
    registries.sort();
    flags.extend(registries.iter().map(|dir| flag(dir, "/crates")));
    if let Some(sysroot) = output(Command::new(rustc).args(["--print", "sysroot"])) {
        flags.push(flag(&Path::new(&sysroot).join("lib/rustlib/src/rust"), "/rust"));
    }
    flags
}

/// Where cargo keeps the sources of dependencies.
pub(crate) fn cargo_home() -> PathBuf {
    let home = || env::var_os("HOME").map_or_else(env::temp_dir, PathBuf::from).join(".cargo");
    env::var_os("CARGO_HOME").filter(|d| !d.is_empty()).map_or_else(home, PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_has_a_name_in_place_of_a_directory() {
        let flags = remap_flags(&crate::root(), Path::new("rustc"));
        assert!(flags.iter().any(|f| f.ends_with("=/sluice")), "{flags:?}");
        assert!(flags.iter().any(|f| f.ends_with("/lib/rustlib/src/rust=/rust")), "{flags:?}");
        assert!(flags.iter().all(|f| f.starts_with("--remap-path-prefix=/")), "{flags:?}");
    }
}
