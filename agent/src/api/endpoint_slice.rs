//! `EndpointSlice`, as far as it is read.
use serde::{Deserialize, Serialize};

use super::meta::ObjectMeta;

/// A `EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Name, labels and so on.
    pub metadata: ObjectMeta,
}
