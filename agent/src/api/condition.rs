//! `Condition`, as every kind of ours and the Gateway API writes them.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::wire::or_default;

/// One aspect of an object's state. Source: `meta/v1 Condition`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
    /// Why, in one word for machines.
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    /// Why, for people.
    #[serde(deserialize_with = "or_default")]
    pub message: String,
    /// The generation that this speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed, RFC 3339; whoever writes the condition fills it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}
