//! `AddressPool` (sluice.dev/v1alpha1): where VIPs come from.
//!
//! Our own kind: the definition that the API server gets, `deploy/crds/addresspools.yaml`, is generated from the types
//! here by [`super::crd`]. Their sentences are what `kubectl explain` shows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    LabelSelector,
    condition::Condition,
    meta::ObjectMeta,
    wire::{list, or_default},
};

/// The API group of our kinds.
pub const GROUP: &str = "sluice.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Entries of `spec.addresses` at most, so that the API server can bound what checking them costs.
pub const MAX_ENTRIES: usize = 64;

/// A pool of addresses; cluster-scoped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressPool {
    /// Name, labels and so on; the `namespace` in it means nothing.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: AddressPoolSpec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub status: AddressPoolStatus,
}

/// What a pool holds and who gets addresses from it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressPoolSpec {
    /// The addresses: CIDRs (`203.0.113.0/24`), ranges (`203.0.113.10-203.0.113.20`) or single ones, of both families.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Instead of `addresses`: the nodes' own addresses, for clusters of one node. Services share one as long as their
    /// ports differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_addresses: Option<NodeAddresses>,
    /// The namespaces whose objects get addresses from here; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// The Services and Gateways that get addresses from here; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// Pools of higher priority are tried first; those of equal priority in the order of their names.
    #[serde(deserialize_with = "or_default")]
    pub priority: i32,
    /// Whether objects that do not ask for this pool, or for an address in it, get addresses from here.
    pub auto_assign: bool,
    /// Leave out the first and the last address of an IPv4 CIDR, and IPv4 addresses that end in .0 or .255, which some
    /// hosts take for those of a network; an object that asks for one gets it.
    pub avoid_buggy_addresses: bool,
    /// Who answers for the addresses: `auto`, a node chosen by Sluice; `none`, nobody: something else routes them here.
    #[serde(deserialize_with = "or_default")]
    pub announce: Announce,
}

impl Default for AddressPoolSpec {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            node_addresses: None,
            namespace_selector: None,
            service_selector: None,
            priority: 0,
            auto_assign: true,
            avoid_buggy_addresses: true,
            announce: Announce::Auto,
        }
    }
}

/// Which addresses of which nodes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAddresses {
    /// Which of a node's addresses, the first that it has of each family: `InternalIP`, `ExternalIP`.
    #[serde(deserialize_with = "list")]
    pub types: Vec<NodeAddressType>,
    /// The nodes; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<LabelSelector>,
    /// Ports that the nodes need for themselves and that no object gets at their addresses, whatever it had before. The ports
    /// of Sluice itself and those of `--snat-ports` are reserved besides.
    pub reserved_ports: Vec<u16>,
}

/// Ports that nodes need for themselves, with what listens there: reserved on every address of a host that no pool of nodes'
/// addresses has another list for.
pub const RESERVED_PORTS: [(u16, &str); 10] = [
    (22, "SSH"),
    (2379, "etcd"),
    (2380, "etcd"),
    (6443, "the API server"),
    (9640, "Sluice's metrics and health"),
    (10249, "kube-proxy's metrics"),
    (10250, "the kubelet"),
    (10256, "kube-proxy's health"),
    (10257, "the controller manager"),
    (10259, "the scheduler"),
];

impl Default for NodeAddresses {
    fn default() -> Self {
        let reserved_ports = RESERVED_PORTS.iter().map(|(port, _)| *port).collect();
        Self { types: vec![NodeAddressType::InternalIp], node_selector: None, reserved_ports }
    }
}

/// A type of `status.addresses` of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum NodeAddressType {
    /// `InternalIP`.
    #[serde(rename = "InternalIP")]
    InternalIp,
    /// `ExternalIP`.
    #[serde(rename = "ExternalIP")]
    ExternalIp,
}

impl NodeAddressType {
    /// As the Node spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InternalIp => "InternalIP",
            Self::ExternalIp => "ExternalIP",
        }
    }
}

/// Who answers for a pool's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Announce {
    /// One node for each address, chosen by Sluice.
    #[default]
    Auto,
    /// Nobody.
    None,
}

/// What became of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AddressPoolStatus {
    /// The generation that this speaks of.
    #[serde(deserialize_with = "or_default")]
    pub observed_generation: i64,
    /// How many addresses can be given unasked; a number, as text because IPv6 exceeds every integer of JSON.
    #[serde(deserialize_with = "or_default")]
    pub total: String,
    /// How many of the pool's addresses are in use.
    #[serde(deserialize_with = "or_default")]
    pub used: String,
    /// How many more can be given unasked.
    #[serde(deserialize_with = "or_default")]
    pub free: String,
    /// `Ready`, `Exhausted`, `Overlapping`, `OutOfPool`.
    #[serde(deserialize_with = "list")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
