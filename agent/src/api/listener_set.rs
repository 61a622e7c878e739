//! `ListenerSet` (gateway.networking.k8s.io/v1), as far as it is read: listeners of a Gateway that others than its owner keep.
use serde::{Deserialize, Serialize};

use super::{
    condition::Condition,
    gateway::{Listener, ListenerStatus},
    meta::ObjectMeta,
    route::ParentRef,
    wire::{list, or_default},
};

/// A `ListenerSet`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerSet {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: ListenerSetSpec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub status: ListenerSetStatus,
}

/// `spec` of a ListenerSet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerSetSpec {
    /// The Gateway; of its fields group, kind, namespace and name.
    #[serde(deserialize_with = "or_default")]
    pub parent_ref: ParentRef,
    /// The listeners, at the Gateway's addresses.
    #[serde(deserialize_with = "list")]
    pub listeners: Vec<Listener>,
}

/// `status` of a ListenerSet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerSetStatus {
    /// `Accepted`, `Programmed` and those of others.
    #[serde(deserialize_with = "list")]
    pub conditions: Vec<Condition>,
    /// What became of each listener.
    #[serde(deserialize_with = "list")]
    pub listeners: Vec<ListenerStatus>,
}
