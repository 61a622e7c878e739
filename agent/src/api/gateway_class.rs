//! `GatewayClass` (gateway.networking.k8s.io/v1), as far as it is read.
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    condition::Condition,
    meta::ObjectMeta,
    wire::{list, or_default},
};

/// A `GatewayClass`: which controller serves the Gateways that name it; cluster-scoped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClass {
    /// Name, labels and so on; the `namespace` in it means nothing.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: GatewayClassSpec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub status: GatewayClassStatus,
}

/// `spec` of a GatewayClass.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    /// Who serves the Gateways.
    #[serde(deserialize_with = "or_default")]
    pub controller_name: String,
    /// Settings of the controller's own; we have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters_ref: Option<Value>,
}

/// `status` of a GatewayClass.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassStatus {
    /// `Accepted` and those of others.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
    /// What its Gateways can do, by name, sorted.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub supported_features: Vec<SupportedFeature>,
}

/// One entry of `status.supportedFeatures`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(default)]
pub struct SupportedFeature {
    /// Its name, as the conformance suite has it.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}
