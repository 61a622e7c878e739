//! What the wire allows and serde's derive does not: `null` for a field that has a default.
//!
//! The API server writes `endpoints: null` and `labels: null` for empty collections; both mean the same as a field that
//! is not there.
use serde::{Deserialize, Deserializer};

/// Reads a field; `null` is its default. For `#[serde(default, deserialize_with = "...")]`.
///
/// # Errors
/// When the field is neither `null` nor a `T`.
pub fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
