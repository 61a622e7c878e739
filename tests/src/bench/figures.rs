//! The table that a benchmark prints: each figure, and the goal beside it.
use std::{path::Path, time::Duration};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// What was measured so far.
#[derive(Default)]
pub(super) struct Figures {
    all: Map<String, Value>,
}

impl Figures {
    /// Prints a figure, with its goal where it has one, which it should not exceed.
    pub(super) fn at_most(&mut self, what: &str, value: f64, goal: Option<f64>, unit: &str) {
        self.put(what, value, goal.map(|goal| ("<=", goal, value <= goal)), unit);
    }

    /// Prints a figure that should reach its goal.
    pub(super) fn at_least(&mut self, what: &str, value: f64, goal: f64, unit: &str) {
        self.put(what, value, Some((">=", goal, value >= goal)), unit);
    }

    fn put(&mut self, what: &str, value: f64, goal: Option<(&str, f64, bool)>, unit: &str) {
        let beside = goal.map_or_else(String::new, |(sign, goal, is_met)| {
            format!("goal {sign} {goal} {unit}{}", if is_met { "" } else { "   MISSED" })
        });
        println!("  {what:<52} {value:>9.2} {unit:<4} {beside}");
        self.all.insert(what.to_owned(), json!({"value": value, "unit": unit, "goal": goal.map(|(_, goal, _)| goal)}));
    }

    /// Writes all of them as JSON.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = format!("{:#}\n", Value::Object(self.all.clone()));
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

/// Times, to be told by their percentiles.
pub(super) struct Times(Vec<Duration>);

impl Times {
    pub(super) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// Units: milliseconds.
    pub(super) fn at(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(at).map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
    }
}
