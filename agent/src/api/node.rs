//! `Node`, as far as it is read.
use serde::{Deserialize, Serialize};

use super::{
    meta::ObjectMeta,
    wire::{list, or_default},
};

/// A `Node`. Source: `v1 Node`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Name, labels and so on; the `namespace` in it means nothing.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted of it.
    #[serde(deserialize_with = "or_default")]
    pub spec: NodeSpec,
    /// What it says of itself.
    #[serde(deserialize_with = "or_default")]
    pub status: NodeStatus,
}

/// `spec`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Cordoned.
    #[serde(deserialize_with = "or_default")]
    pub unschedulable: bool,
    /// The ranges of its pods' addresses, one of each family at most.
    #[serde(rename = "podCIDRs", deserialize_with = "list")]
    pub pod_cidrs: Vec<String>,
    /// What keeps pods away.
    #[serde(deserialize_with = "list")]
    pub taints: Vec<Taint>,
}

/// One taint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Its key.
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// Its value.
    #[serde(deserialize_with = "or_default")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[serde(deserialize_with = "or_default")]
    pub effect: String,
}

/// `status`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Its addresses and names.
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<NodeAddress>,
    /// `Ready`, `NetworkUnavailable` and others.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<NodeCondition>,
}

/// One address, or name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, `InternalDNS` or `ExternalDNS`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub type_: String,
    /// The address or name.
    #[serde(deserialize_with = "or_default")]
    pub address: String,
}

/// One condition; its times are not read, for they change when nothing else does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeCondition {
    /// `Ready` and others.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
}
