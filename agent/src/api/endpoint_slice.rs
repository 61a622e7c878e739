//! `EndpointSlice`, as far as it is read.
use serde::{Deserialize, Serialize};

use super::{
    meta::{ObjectMeta, ObjectName},
    wire::{list, or_default},
};

/// The label that names the Service of a slice.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The label that names who writes a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// What that label says of the slices that we write.
pub const MANAGER: &str = "sluice.dev";

/// An `EndpointSlice`. Source: `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "or_default")]
    pub address_type: String,
    /// The endpoints.
    #[serde(deserialize_with = "list")]
    pub endpoints: Vec<Endpoint>,
    /// The ports that each endpoint has.
    #[serde(deserialize_with = "list")]
    pub ports: Vec<EndpointPort>,
}

impl EndpointSlice {
    /// The Service that the slice belongs to; `None` without the label.
    #[must_use]
    pub fn service_name(&self) -> Option<ObjectName> {
        let name = self.metadata.labels.get(SERVICE_NAME_LABEL).filter(|n| !n.is_empty())?;
        Some(ObjectName::new(&self.metadata.namespace, name))
    }

    /// Whether we write the slice.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.metadata.labels.get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGER)
    }
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Its addresses; the first is used.
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<String>,
    /// Whether it is ready, serving, terminating.
    #[serde(deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
    /// The node it runs on.
    pub node_name: Option<String>,
    /// The zone of that node.
    pub zone: Option<String>,
    /// Its host name, where it has one of its own.
    pub hostname: Option<String>,
    /// The object behind it, a pod mostly. Boxed: slices written by hand have none.
    pub target_ref: Option<Box<TargetRef>>,
    /// Who should use it.
    #[serde(deserialize_with = "or_default")]
    pub hints: EndpointHints,
}

/// `targetRef`: the object behind an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct TargetRef {
    /// Its kind.
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    /// Its namespace.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its identity.
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
}

/// `conditions` as written. What an absent one means is said in [`crate::model::endpoints`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// Gets new flows.
    pub ready: Option<bool>,
    /// Answers, be it terminating or not.
    pub serving: Option<bool>,
    /// Is being deleted.
    pub terminating: Option<bool>,
}

/// `hints`: the nodes and zones that should use the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointHints {
    /// Zones.
    #[serde(deserialize_with = "list")]
    pub for_zones: Vec<HintedName>,
    /// Nodes.
    #[serde(deserialize_with = "list")]
    pub for_nodes: Vec<HintedName>,
}

/// A zone or a node that a hint names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct HintedName {
    /// The name.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

/// One port of a slice.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// The port's name in the Service. The API server writes "" where a manifest has none; so does `source::manifests`.
    pub name: Option<String>,
    /// The number; none means every port, which nothing here can use.
    pub port: Option<i64>,
    /// `TCP`, `UDP` or `SCTP`; none is `TCP`.
    pub protocol: Option<String>,
    /// What is spoken there.
    pub app_protocol: Option<String>,
}

impl EndpointPort {
    /// The protocol; `TCP` where none is written.
    #[must_use]
    pub fn protocol(&self) -> &str {
        self.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP")
    }
}
