//! `BackendTLSPolicy` (gateway.networking.k8s.io/v1), as far as it is read: TLS towards the endpoints of a Service.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    gateway_tls::TlsRef,
    meta::ObjectMeta,
    policy::{Policy, PolicyStatus, PolicyTarget},
    wire::{list, or_default},
};

/// A `BackendTLSPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicy {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: BackendTlsPolicySpec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub status: PolicyStatus,
}

impl Policy for BackendTlsPolicy {
    fn target_refs(&self) -> &[PolicyTarget] {
        &self.spec.target_refs
    }

    fn status(&self) -> &PolicyStatus {
        &self.status
    }
}

/// `spec` of a BackendTLSPolicy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicySpec {
    /// The Services, or ports of Services.
    #[serde(deserialize_with = "list")]
    pub target_refs: Vec<PolicyTarget>,
    /// How their certificates are looked at.
    #[serde(deserialize_with = "or_default")]
    pub validation: BackendTlsValidation,
    /// Settings with a domain in their names.
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
}

/// How the certificates of endpoints are looked at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsValidation {
    /// Who may have signed them; of the policy's own namespace.
    #[serde(rename = "caCertificateRefs", deserialize_with = "list")]
    pub authorities: Vec<TlsRef>,
    /// `System`: whoever the system trusts.
    #[serde(rename = "wellKnownCACertificates", skip_serializing_if = "Option::is_none")]
    pub well_known: Option<String>,
    /// The name that is asked for (SNI), and that certificates must have unless `subject_alt_names` says otherwise.
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
    /// The names of which certificates must have one.
    #[serde(deserialize_with = "list")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

/// A name of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubjectAltName {
    /// `Hostname` or `URI`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    /// The host name, exact or `*.suffix`.
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
    /// The URI.
    #[serde(deserialize_with = "or_default")]
    pub uri: String,
}
