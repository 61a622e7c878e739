//! Where the programs of the control plane come from: `$KUBEBUILDER_ASSETS`, else what `cargo xtask` has built.
use std::{path::PathBuf, process::Command};

use anyhow::Context as _;

/// The variable under which others keep an API server for tests.
const VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// The programs.
#[derive(Clone, Debug)]
pub struct Assets {
    dir: PathBuf,
    /// Whether they are our own build: its version is known, and every part is there.
    pub own: bool,
}

impl Assets {
    /// Finds them; builds ours on a machine that has none yet.
    ///
    /// # Errors
    /// The build fails, or the variable leads to nothing.
    pub fn find() -> anyhow::Result<Self> {
        let assets = match std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) {
            Some(dir) => Self { dir: dir.into(), own: false },
            None => Self { dir: xtask::kubernetes::control_plane()?, own: true },
        };
        for program in ["etcd", "kube-apiserver", "kubectl"] {
            anyhow::ensure!(assets.has(program), "no {program} in {}", assets.dir.display());
        }
        Ok(assets)
    }

    /// Whether there is a program of this name.
    #[must_use]
    pub fn has(&self, program: &str) -> bool {
        self.dir.join(program).exists()
    }

    /// A program, about to be called.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.dir.join(program));
        // A proxy of the environment is not for a cluster that lives in namespaces.
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
    }

    /// A program's path.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn path(&self, program: &str) -> anyhow::Result<PathBuf> {
        let path = self.dir.join(program);
        path.exists().then_some(path).with_context(|| format!("no {program} in {}", self.dir.display()))
    }
}
