//! Why an object was, or was not, accepted: the text that status and `sluice why` show.
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::api::ObjectName;

/// An object: kind, namespace, name. Written `Kind namespace/name`, or `Kind name` where it is cluster-scoped.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectRef {
    /// The kind as in the API, `Service`.
    pub kind: String,
    /// Namespace and name.
    pub object: ObjectName,
}

impl ObjectRef {
    /// From kind and name.
    pub fn new(kind: impl Into<String>, object: ObjectName) -> Self {
        Self { kind: kind.into(), object }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.object)
    }
}

impl From<ObjectRef> for String {
    fn from(r: ObjectRef) -> Self {
        r.to_string()
    }
}

impl TryFrom<String> for ObjectRef {
    type Error = String;

    fn try_from(s: String) -> Result<Self, String> {
        let parsed = s.split_once(' ').and_then(|(kind, rest)| {
            let (ns, name) = rest.split_once('/').unwrap_or(("", rest));
            (!name.is_empty()).then(|| Self::new(kind, ObjectName::new(ns, name)))
        });
        parsed.ok_or_else(|| format!("object reference {s:?}: want \"Kind namespace/name\" or \"Kind name\""))
    }
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether it works.
    pub outcome: Outcome,
    /// CamelCase, for machines: `Accepted`, `PoolExhausted`, `PortConflict`.
    pub reason: &'static str,
    /// Sentences for people: what was found, what was wanted. Several where several things are wrong.
    pub messages: Vec<String>,
}

/// Whether an object works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// All of it is programmed.
    Accepted,
    /// Some of it is programmed; the messages say what is not.
    Partial,
    /// None of it is programmed.
    Refused,
    /// Nothing is wrong, it is not ours; not shown unless asked for.
    Ignored,
}

/// The first of many for people, at most `most` of them, and how many more there are.
pub(crate) fn some_of<T: ToString>(all: impl ExactSizeIterator<Item = T>, most: usize) -> String {
    let more = all.len().saturating_sub(most);
    let named = all.take(most).map(|one| one.to_string()).collect::<Vec<_>>().join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}
