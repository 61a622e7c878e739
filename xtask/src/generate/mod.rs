//! `cargo xtask generate`: writes what of `deploy/` is made from code, or says what is stale.
//!
//! The agent prints what follows from its own types and tables (`sluice generate`); the chart is made of the manifests in
//! `deploy/` by substitution alone ([`chart`]), so that there is one truth.
pub mod chart;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    install, release, root,
    run::{output, run},
};

/// What `sluice generate` prints, and the file that it is kept in.
const PRINTED: [(&str, &str); 2] = [("rbac", "deploy/base/rbac.yaml"), ("crds", "deploy/crds/addresspools.yaml")];

/// `cargo xtask generate [--check]`.
///
/// # Errors
/// The agent does not build; a file cannot be written; with `--check`, a file is stale.
pub fn generate(arguments: &[String]) -> Result<()> {
    let is_check = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => false,
        ["--check"] => true,
        _ => bail!("generate: want --check or nothing"),
    };
    install::ebpf_toolchain()?;
    run(release::cargo().args(["build", "--release", "--quiet", "--package", "sluice"]))?;
    let mut stale = Vec::new();
    for (what, file) in PRINTED {
        let mut command = std::process::Command::new(root().join("target/release/sluice"));
        let text = output(command.args(["generate", what])).with_context(|| format!("`sluice generate {what}`"))?;
        keep(&root().join(file), &(text + "\n"), is_check, &mut stale)?;
    }
    let deploy = root().join("deploy");
    for (file, text) in chart::generate(&deploy)? {
        keep(&deploy.join("chart").join(file), &text, is_check, &mut stale)?;
    }
    if !stale.is_empty() {
        bail!("stale, run `cargo xtask generate`:\n{}", stale.join("\n"));
    }
    Ok(())
}

/// Writes a file that differs, or takes note of it.
fn keep(path: &Path, text: &str, is_check: bool, stale: &mut Vec<String>) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    if is_check {
        stale.push(format!("  {}", path.display()));
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// Generated files by their path below a directory.
pub type Files = BTreeMap<PathBuf, String>;
