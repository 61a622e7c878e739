//! `ReferenceGrant` (gateway.networking.k8s.io), as far as it is read.
//!
//! Read at v1beta1, which every release of the Gateway API serves that has the kind; v1 says the same.
use serde::{Deserialize, Serialize};

use super::{
    meta::ObjectMeta,
    wire::{list, or_default},
};

/// A `ReferenceGrant`: objects of its namespace that objects of other namespaces may refer to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrant {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is allowed.
    #[serde(deserialize_with = "or_default")]
    pub spec: ReferenceGrantSpec,
}

/// `spec` of a ReferenceGrant: each of `from` may refer to each of `to`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrantSpec {
    /// Who may refer.
    #[serde(deserialize_with = "list")]
    pub from: Vec<ReferenceGrantFrom>,
    /// To what.
    #[serde(deserialize_with = "list")]
    pub to: Vec<ReferenceGrantTo>,
}

/// Who may refer: the objects of a kind in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrantFrom {
    /// The API group; empty for the core.
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    /// The kind.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// The namespace.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
}

/// To what may be referred, in the grant's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrantTo {
    /// The API group; empty for the core.
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    /// The kind.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// The name; all objects of the kind when absent or empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
