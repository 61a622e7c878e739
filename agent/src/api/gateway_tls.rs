//! The TLS parts of a `Gateway` (gateway.networking.k8s.io/v1), as far as they are read.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::wire::{list, or_default};

/// `tls` of a listener.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    /// `Terminate` (the default) or `Passthrough`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The Secrets with the certificates.
    #[serde(deserialize_with = "list")]
    pub certificate_refs: Vec<TlsRef>,
    /// Settings with a domain in their names.
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
}

/// A reference to an object that TLS needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsRef {
    /// The API group; empty for the core, which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind; `Secret` where the API has a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace; that of the Gateway when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// `spec.tls` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTls {
    /// Towards clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frontend: Option<FrontendTls>,
    /// Towards backends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<GatewayBackendTls>,
}

/// `spec.tls.backend`: who the Gateway is to backends that it speaks TLS to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayBackendTls {
    /// The Secret with its certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<TlsRef>,
}

/// `spec.tls.frontend`: what clients must show.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTls {
    /// At all HTTPS listeners, unless their port has its own.
    #[serde(rename = "default", deserialize_with = "or_default")]
    pub all: PortTls,
    /// At the listeners of one port.
    #[serde(deserialize_with = "list")]
    pub per_port: Vec<TlsPort>,
}

/// An entry of `perPort`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsPort {
    /// The port.
    #[serde(deserialize_with = "or_default")]
    pub port: i64,
    /// What holds there.
    #[serde(deserialize_with = "or_default")]
    pub tls: PortTls,
}

/// What holds for listeners.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortTls {
    /// How clients' certificates are looked at; not at all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<ClientValidation>,
}

/// How clients' certificates are looked at.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientValidation {
    /// Who may have signed them.
    #[serde(rename = "caCertificateRefs", deserialize_with = "list")]
    pub authorities: Vec<TlsRef>,
    /// `AllowValidOnly` (the default) or `AllowInsecureFallback`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}
