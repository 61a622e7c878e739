//! Long builds say how far they are: what is done, of how much, and about how long the rest takes.
//!
//! # Design
//! The estimate takes the rest to be as slow as what was done. So the few crates that take far longer than the others count
//! for several ([`WEIGHTS`]), and what was begun last counts as not done.
use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::run::{cargo, output};

/// How often a build says how far it is, also while it prints nothing.
const REPORT: Duration = Duration::from_secs(10);
/// Before so much is done there is no estimate. Units: per cent.
const FIRST: usize = 5;
/// What takes longer than an ordinary crate: measured once, in the dev profile on two cores.
const WEIGHTS: [(&str, usize); 4] = [("sluice", 40), ("sluice-tests", 25), ("k8s-openapi", 15), ("kube-client", 5)];

/// How far a build is.
pub struct Progress {
    /// What is counted, `crates`.
    unit: &'static str,
    total: usize,
    done: usize,
    /// The weight of what was begun last.
    under_way: usize,
    began: Instant,
    reported: Instant,
}

impl Progress {
    /// A build of so much, of which nothing is done.
    #[must_use]
    pub fn new(unit: &'static str, total: usize) -> Self {
        let now = Instant::now();
        Self { unit, total, done: 0, under_way: 0, began: now, reported: now }
    }

    /// Something of this weight has begun, and what was begun before is done.
    pub fn begin(&mut self, weight: usize) {
        self.done += std::mem::replace(&mut self.under_way, weight);
    }

    /// Says how far it is, if it is time to.
    pub fn tick(&mut self) {
        if self.reported.elapsed() >= REPORT {
            self.reported = Instant::now();
            eprintln!("      {}", self.text(self.began.elapsed()));
        }
    }

    fn text(&self, elapsed: Duration) -> String {
        let Self { unit, total, done, .. } = self;
        let left = left(elapsed, *done, *total).map(|left| format!(", about {} s left", left.as_secs()));
        let share = (100 * done).checked_div(*total).unwrap_or(0).min(99);
        format!("{} s: {share} % of the {unit}{}", elapsed.as_secs(), left.unwrap_or_default())
    }
}

/// How long the rest takes if it is as slow as what is done; `None` while that says nothing.
fn left(elapsed: Duration, done: usize, total: usize) -> Option<Duration> {
    let rest = total.checked_sub(done)?;
    let is_enough = done > 0 && 100 * done >= FIRST * total;
    is_enough.then(|| elapsed * u32::try_from(rest).unwrap_or(u32::MAX) / u32::try_from(done).unwrap_or(u32::MAX))
}

/// Runs a build by cargo, of these packages, and says how far it is.
///
/// # Errors
/// The build fails.
pub fn follow_cargo(mut command: Command, packages: &[&str]) -> Result<()> {
    let mut progress = Progress::new("crates", weigh(packages));
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("start cargo")?;
    let status = follow(child, |line| {
        match line.and_then(|line| line.trim_start().strip_prefix("Compiling ")) {
            Some(crate_) => progress.begin(weight(crate_.split(' ').next().unwrap_or_default())),
            None => line.into_iter().for_each(|line| eprintln!("{line}")),
        }
        progress.tick();
    })?;
    if !status.success() {
        bail!("cargo ended with {status}");
    }
    Ok(())
}

fn weight(name: &str) -> usize {
    WEIGHTS.iter().find(|(known, _)| *known == name).map_or(1, |(_, weight)| *weight)
}

/// The weight of all crates that some packages are built from; 0 where cargo does not tell.
fn weigh(packages: &[&str]) -> usize {
    let mut tree = cargo();
    tree.args(["tree", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
    tree.args(packages.iter().flat_map(|package| ["--package", package]));
    let text = output(&mut tree).unwrap_or_default();
    let name_and_version = |line: &str| line.split(' ').take(2).map(str::to_owned).collect::<Vec<_>>();
    let crates: BTreeSet<Vec<String>> = text.lines().map(name_and_version).filter(|words| words.len() == 2).collect();
    crates.iter().map(|words| weight(&words[0])).sum()
}

/// Hands over each line that a child writes to its standard error, and `None` now and then while it writes nothing; how it
/// ended.
///
/// # Errors
/// Its standard error is not piped, or it cannot be waited for.
pub fn follow(mut child: Child, mut on: impl FnMut(Option<&str>)) -> Result<ExitStatus> {
    let stderr = child.stderr.take().context("standard error is not piped")?;
    let (lines, said) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        loop {
            match said.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => on(Some(&line)),
                Err(RecvTimeoutError::Timeout) => on(None),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    child.wait().context("wait for the build")
}

/// The number of lines that a command prints; 0 where it fails.
#[must_use]
pub fn count_lines(command: &mut Command) -> usize {
    output(command).unwrap_or_default().lines().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_as_slow_as_what_was_done() {
        let second = Duration::from_secs;
        assert_eq!(left(second(10), 0, 100), None);
        assert_eq!(left(second(10), 4, 100), None, "too little to tell");
        assert_eq!(left(second(10), 20, 100), Some(second(40)));
        assert_eq!(left(second(90), 100, 100), Some(second(0)));
        assert_eq!(left(second(90), 101, 100), None, "more than there was said to be");
    }

    #[test]
    fn what_is_under_way_is_not_done() {
        let mut progress = Progress::new("crates", 100);
        assert_eq!(progress.text(Duration::from_secs(1)), "1 s: 0 % of the crates");
        progress.begin(50);
        assert_eq!(progress.text(Duration::from_secs(9)), "9 s: 0 % of the crates");
        progress.begin(1);
        assert_eq!(progress.text(Duration::from_secs(10)), "10 s: 50 % of the crates, about 10 s left");
        assert_eq!(Progress::new("packages", 0).text(Duration::ZERO), "0 s: 0 % of the packages");
    }

    #[test]
    fn the_demo_is_built_from_crates_that_can_be_counted() {
        let weight = weigh(&["xtask"]);
        assert!(weight > 3, "{weight}");
    }
}
