//! `Namespace`, as far as it is read: its labels, which selectors look at.
use serde::{Deserialize, Serialize};

use super::{meta::ObjectMeta, wire::or_default};

/// A `Namespace`. Source: `v1 Namespace`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    /// Name and labels; the `namespace` in it means nothing.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
}
