//! `XBackendTrafficPolicy` (gateway.networking.x-k8s.io/v1alpha1), as far as it is read: how many retries a Service has to bear.
use serde::{Deserialize, Serialize};

use super::{
    http_route::SessionPersistence,
    meta::ObjectMeta,
    policy::{Policy, PolicyStatus, PolicyTarget},
    wire::or_default,
};

/// An `XBackendTrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficPolicy {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: BackendTrafficPolicySpec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub status: PolicyStatus,
}

impl Policy for BackendTrafficPolicy {
    fn target_refs(&self) -> &[PolicyTarget] {
        &self.spec.target_refs
    }

    fn status(&self) -> &PolicyStatus {
        &self.status
    }
}

/// `spec` of an XBackendTrafficPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficPolicySpec {
    /// The Services.
    #[serde(deserialize_with = "or_default")]
    pub target_refs: Vec<PolicyTarget>,
    /// How many retries they have to bear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_constraint: Option<RetryConstraint>,
    /// Who comes back to which endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

/// How many retries a Service has to bear.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryConstraint {
    /// As a part of its requests.
    #[serde(deserialize_with = "or_default")]
    pub budget: RetryConstraintBudget,
    /// In any case.
    #[serde(deserialize_with = "or_default")]
    pub min_retry_rate: RequestRate,
}

/// Retries as a part of requests.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryConstraintBudget {
    /// The part. Units: percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<i64>,
    /// Of the requests of so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}

/// So many in a time.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRate {
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// In this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
}
