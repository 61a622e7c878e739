//! Conditions as they should be, merged with those that an object has.
//!
//! # Design
//! Conditions of types that are not ours stay as they are and where they are. The time of the last transition changes
//! with `status` alone, so that what says the same compares equal and is not written again.
use crate::{api::condition::Condition, model::report::Fault};

/// Bytes of a message at most; the rest is cut off. Source: `meta/v1 Condition` admits 32768 characters.
const MAX_MESSAGE: usize = 2048;

/// A condition as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its type.
    pub type_: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// Why.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Wanted {
    /// One that holds.
    #[must_use]
    pub fn holds(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: true, reason, message: message.into() }
    }

    /// One that does not.
    #[must_use]
    pub fn fails(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, status: false, reason, message: message.into() }
    }

    /// One that holds with `reason`, or fails for a reason of its own.
    #[must_use]
    pub fn of(type_: &'static str, reason: &'static str, result: &Result<(), Fault>) -> Self {
        match result {
            Ok(()) => Self::holds(type_, reason, ""),
            Err(fault) => Self::fails(type_, fault.reason, fault.message.clone()),
        }
    }

    fn to_condition(&self, present: Option<&Condition>, generation: i64, now: &str) -> Condition {
        let status = if self.status { "True" } else { "False" };
        let since = present.filter(|p| p.status == status).and_then(|p| p.last_transition_time.clone());
        Condition {
            type_: self.type_.to_owned(),
            status: status.to_owned(),
            reason: self.reason.to_owned(),
            message: self.message[..self.message.floor_char_boundary(MAX_MESSAGE)].to_owned(),
            // A Service has none, and the API server drops a 0: what says the same must compare equal.
            observed_generation: Some(generation).filter(|generation| *generation > 0),
            last_transition_time: Some(since.unwrap_or_else(|| now.to_owned())),
        }
    }
}

/// The conditions that an object has, with those of `ours` as they should be: those that are there in their places, those
/// that are missing at the end, those that are not wanted gone.
#[must_use]
pub fn merge(present: &[Condition], ours: &[&str], wanted: &[Wanted], generation: i64, now: &str) -> Vec<Condition> {
    let mut left: Vec<&Wanted> = wanted.iter().collect();
    let mut out = Vec::with_capacity(present.len() + wanted.len());
    for condition in present {
        if !ours.contains(&condition.type_.as_str()) {
            out.push(condition.clone());
        } else if let Some(at) = left.iter().position(|w| w.type_ == condition.type_) {
            out.push(left.remove(at).to_condition(Some(condition), generation, now));
        }
    }
    out.extend(left.into_iter().map(|w| w.to_condition(None, generation, now)));
    out
}
