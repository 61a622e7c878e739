//! What policies that are attached to objects have in common: whom they are for, and what their status says.
//!
//! Source: GEP-713, `LocalPolicyTargetReferenceWithSectionName` and `PolicyStatus` of gateway.networking.k8s.io/v1.
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Kind, ObjectName,
    condition::Condition,
    route::ParentRef,
    wire::{list, or_default},
};

/// A kind of policy.
pub trait Policy: Kind<Key = ObjectName> {
    /// Whom it is for.
    fn target_refs(&self) -> &[PolicyTarget];

    /// What became of it.
    fn status(&self) -> &PolicyStatus;
}

/// Whom a policy is for: an object of its own namespace, or a section of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyTarget {
    /// The API group; empty for the core.
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    /// The kind.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// The name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Of a Service, the name of a port; all of it when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// `status` of a policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyStatus {
    /// What each Gateway answers; also those of other controllers, which are kept as they are.
    #[serde(deserialize_with = "list")]
    pub ancestors: Vec<Value>,
}

/// An entry of ours in `status.ancestors`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyAncestorStatus {
    /// The Gateway.
    #[serde(deserialize_with = "or_default")]
    pub ancestor_ref: ParentRef,
    /// Who answers.
    #[serde(deserialize_with = "or_default")]
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs` and those of others.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
}
