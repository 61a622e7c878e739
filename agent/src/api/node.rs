//! `Node`, as far as it is read.
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    meta::ObjectMeta,
    wire::{list, or_default},
};

/// The conditions that are read.
pub const CONDITIONS: [&str; 2] = ["Ready", "NetworkUnavailable"];

/// A `Node`. Source: `v1 Node`.
///
/// # Design
/// Every agent reads every Node, and kubelets, controllers and networks write them without end. What nothing is made of is dropped here,
/// so that such a write leaves an equal object, and costs nothing after it was parsed: annotations, taints, capacities, images, the
/// times of conditions, and all conditions but two.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Name, labels and so on; the `namespace` in it means nothing, annotations and finalizers are not kept.
    #[serde(deserialize_with = "metadata")]
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
    /// The ranges of its pods' addresses, one of each family at most.
    #[serde(rename = "podCIDRs", deserialize_with = "list")]
    pub pod_cidrs: Vec<String>,
}

/// `status`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Its addresses and names.
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<NodeAddress>,
    /// Those of [`CONDITIONS`].
    #[serde(deserialize_with = "conditions")]
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
    /// One of [`CONDITIONS`].
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[serde(deserialize_with = "or_default")]
    pub status: String,
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let read: ObjectMeta = or_default(deserializer)?;
    Ok(ObjectMeta { annotations: BTreeMap::new(), finalizers: Vec::new(), ..read })
}

fn conditions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeCondition>, D::Error> {
    let mut read: Vec<NodeCondition> = list(deserializer)?;
    read.retain(|condition| CONDITIONS.contains(&condition.type_.as_str()));
    read.shrink_to_fit();
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(edit: impl FnOnce(&mut Value)) -> Node {
        let condition =
            |type_: &str| json!({"type": type_, "status": "False", "lastHeartbeatTime": "1", "reason": "r"});
        let conditions = ["NetworkUnavailable", "MemoryPressure", "Ready"].map(condition);
        let mut node = json!({
            "metadata": {"name": "n1", "labels": {"a": "b"}, "annotations": {"network": "1"}},
            "spec": {"podCIDRs": ["10.1.4.0/24"], "taints": [{"key": "a", "effect": "NoSchedule"}], "unschedulable": false},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "192.0.2.3"}],
                "conditions": conditions, "capacity": {"cpu": "4"}, "images": [],
            },
        });
        edit(&mut node);
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn what_others_write_without_end_is_not_kept() {
        let as_it_was = node(|_| ());
        assert_eq!(
            as_it_was.status.conditions.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(),
            ["NetworkUnavailable", "Ready"]
        );
        let writes: [fn(&mut Value); 7] = [
            |n| n["metadata"]["annotations"]["network"] = "2".into(),
            |n| n["spec"]["taints"] = Value::Null,
            |n| n["spec"]["unschedulable"] = true.into(),
            |n| n["status"]["conditions"][1]["status"] = "True".into(),
            |n| n["status"]["conditions"][2]["lastHeartbeatTime"] = "2".into(),
            |n| n["status"]["images"] = json!([{"names": ["a"]}]),
            |n| n["status"]["allocatable"] = json!({"cpu": "3"}),
        ];
        for (at, write) in writes.into_iter().enumerate() {
            assert_eq!(node(write), as_it_was, "write {at}");
        }
        let counts: [fn(&mut Value); 4] = [
            |n| n["metadata"]["labels"]["a"] = "c".into(),
            |n| n["spec"]["podCIDRs"] = json!(["10.1.5.0/24"]),
            |n| n["status"]["addresses"] = Value::Null,
            |n| n["status"]["conditions"][2]["status"] = "True".into(),
        ];
        for (at, write) in counts.into_iter().enumerate() {
            assert!(node(write) != as_it_was, "what counts {at}");
        }
    }
}
