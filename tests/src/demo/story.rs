//! What the demo prints: chapters while it works, the summary at the end. It knows nothing of networks.
use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

/// Columns of the claims in the summary.
const CLAIM_WIDTH: usize = 44;

/// One line of the summary.
#[derive(Debug)]
struct Line {
    claim: String,
    evidence: String,
    holds: bool,
}

/// The lines so far.
#[derive(Debug)]
pub(super) struct Story {
    lines: Vec<Line>,
    colour: bool,
}

impl Story {
    pub(super) fn new() -> Self {
        Self { lines: Vec::new(), colour: std::io::stdout().is_terminal() }
    }

    /// Tells one chapter: `prove` returns the evidence, or what speaks against the claim.
    pub(super) fn chapter(&mut self, claim: &str, prove: impl FnOnce(&Teller) -> anyhow::Result<String>) {
        println!("\n{} {claim}", self.paint("1", "▸"));
        let _ = std::io::stdout().flush();
        let (evidence, holds) = match prove(&Teller) {
            Ok(evidence) => (evidence, true),
            Err(error) => (format!("{error:#}"), false),
        };
        println!("  {} {evidence}", self.mark(holds));
        self.lines.push(Line { claim: claim.to_owned(), evidence, holds });
    }

    /// Whether every claim holds, and there is one.
    pub(super) fn all_true(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(|l| l.holds)
    }

    /// Prints the summary.
    pub(super) fn summary(&self, took: Duration) {
        let rule = "─".repeat(110);
        println!("\n{rule}");
        for Line { claim, evidence, holds } in &self.lines {
            // The first line of a reason is enough here, the chapter has the rest.
            let evidence = evidence.lines().next().unwrap_or_default();
            let verdict = if *holds { "" } else { "NOT TRUE: " };
            println!("{} {claim:<CLAIM_WIDTH$} {verdict}{evidence}", self.mark(*holds));
        }
        println!("{rule}");
        let (held, all) = (self.lines.iter().filter(|l| l.holds).count(), self.lines.len());
        println!("{held} of {all} true, in {:.1} s", took.as_secs_f64());
    }

    fn mark(&self, holds: bool) -> String {
        if holds { self.paint("32", "✓") } else { self.paint("31", "✗") }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Prints what a chapter has to say on its way.
pub(super) struct Teller;

impl Teller {
    /// One step.
    pub(super) fn say(&self, text: impl Display) {
        println!("    {text}");
    }

    /// Output of a program, as it is.
    pub(super) fn quote(&self, text: &str) {
        text.trim_end().lines().for_each(|line| println!("    │ {line}"));
    }
}
