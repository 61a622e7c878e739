//! What the suite says, read line by line: which tests passed, failed or were left out, and why.
//!
//! In: the output of `go test -v`. A line `=== RUN`, `=== CONT` or `=== NAME` says whose the lines after it are.
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{Duration, Instant},
};

/// The test that has all others below it.
const ROOT: &str = "TestConformance/";
/// What a test that needs an unclaimed feature says.
const UNCLAIMED: &str = "suite does not support ";
/// What a test says where others are asked for by name.
const NOT_ASKED: &str = "test explicitly skipped";
/// How often it is said how far the suite is: it says itself what became of its tests at the end.
const REPORT: Duration = Duration::from_secs(10);
/// So many lines of a test that failed are shown: its last ones.
const SHOWN: usize = 60;

/// How it ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    passed: Vec<String>,
    failed: Vec<String>,
    /// By test that was left out, why: a feature that is not claimed, or another reason.
    left_out: BTreeMap<String, Option<String>>,
    /// The lines of each test.
    said: BTreeMap<String, Vec<String>>,
    /// Whose lines these are.
    now: String,
    /// Tests that have begun.
    begun: BTreeSet<String>,
    /// When it was last said how far the suite is.
    reported: Option<Instant>,
    /// The runner itself has said that all is well, each time.
    is_well: Option<bool>,
}

impl Outcome {
    /// Takes the next line.
    pub(crate) fn take(&mut self, line: &str) {
        let text = line.trim();
        if let Some(name) = ["=== RUN", "=== CONT", "=== NAME", "=== PAUSE"].iter().find_map(|p| text.strip_prefix(p)) {
            name.trim().clone_into(&mut self.now);
            self.progress();
            return;
        }
        if let Some((verdict, name, time)) = verdict(text) {
            match verdict {
                "PASS" => {
                    self.left_out.remove(name);
                    self.passed.push(name.to_owned());
                }
                // In another run of the suite it was not.
                "SKIP" if self.passed.iter().chain(&self.failed).any(|known| known == name) => {}
                "SKIP" => {
                    let said = self.said.get(name).map_or(&[][..], Vec::as_slice);
                    let feature = said.iter().rev().find_map(|l| Some(l.split_once(UNCLAIMED)?.1.trim().to_owned()));
                    if !said.iter().any(|l| l.contains(NOT_ASKED)) {
                        self.left_out.insert(name.to_owned(), feature);
                    }
                }
                _ => {
                    self.left_out.remove(name);
                    self.failed.push(name.to_owned());
                }
            }
            if verdict != "SKIP" {
                println!("      {} {name} {time}", if verdict == "PASS" { "ok    " } else { "FAILED" });
            }
            return;
        }
        let name = test_of(&self.now).unwrap_or_default().to_owned();
        self.said.entry(name).or_default().push(line.to_owned());
    }

    /// Says now and then how far the suite is.
    fn progress(&mut self) {
        let Some(name) = test_of(&self.now).map(str::to_owned) else { return };
        self.begun.insert(name.clone());
        if self.reported.is_none_or(|at| at.elapsed() >= REPORT) {
            self.reported = Some(Instant::now());
            println!("      {} tests have begun, now {name}", self.begun.len());
        }
    }

    /// The suite has ended.
    pub(crate) fn end(&mut self, is_success: bool) {
        self.is_well = Some(self.is_well.unwrap_or(true) && is_success);
    }

    /// Whether something was run, all of it passed, and nothing was left out but for features that are not claimed.
    #[must_use]
    pub(crate) fn is_passed(&self) -> bool {
        let is_reasoned = self.left_out.values().all(Option::is_some);
        self.is_well == Some(true) && self.failed.is_empty() && !self.passed.is_empty() && is_reasoned
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.failed {
            let said = self.said.get(name).map_or(&[][..], Vec::as_slice);
            writeln!(f, "\n--- {name}")?;
            for line in &said[said.len().saturating_sub(SHOWN)..] {
                writeln!(f, "{line}")?;
            }
        }
        // A set-up that fails is no test's.
        if self.passed.is_empty() {
            let said = self.said.get("").map_or(&[][..], Vec::as_slice);
            writeln!(f, "\n--- the set-up")?;
            for line in &said[said.len().saturating_sub(SHOWN)..] {
                writeln!(f, "{line}")?;
            }
        }
        let features: BTreeSet<&str> = self.left_out.values().flatten().map(String::as_str).collect();
        let left_out = self.left_out.values().flatten().count();
        writeln!(f, "conformance: {} passed, {} failed", self.passed.len(), self.failed.len())?;
        if left_out > 0 {
            writeln!(f, "{left_out} need features that are not claimed: {features:?}")?;
        }
        for (name, _) in self.left_out.iter().filter(|(_, feature)| feature.is_none()) {
            writeln!(
                f,
                "{name} was skipped for no feature:\n{}",
                self.said.get(name).map_or(String::new(), |s| s.join("\n"))
            )?;
        }
        if !self.failed.is_empty() {
            writeln!(f, "failed: {}", self.failed.join(" "))?;
        }
        Ok(())
    }
}

/// `--- PASS: TestConformance/HTTPRouteWeight (1.20s)` -> the verdict, the test, its time; not of what is below a test.
fn verdict(line: &str) -> Option<(&str, &str, &str)> {
    let (verdict, rest) = line.strip_prefix("--- ")?.split_once(": ")?;
    let (name, time) = rest.strip_prefix(ROOT)?.split_once(' ')?;
    (!name.contains('/')).then_some((verdict, name, time))
}

/// The test that something below [`ROOT`] belongs to.
fn test_of(name: &str) -> Option<&str> {
    name.strip_prefix(ROOT)?.split('/').next()
}
