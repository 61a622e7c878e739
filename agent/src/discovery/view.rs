//! What the discovery API answers: shared by the server, which builds it, and the command line, which shows it.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How many instances there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All of them.
    pub total: usize,
    /// Those that get new flows.
    pub ready: usize,
    /// The others.
    pub not_ready: usize,
    /// Those that are being deleted, ready or not.
    pub terminating: usize,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        let Self { total, ready, not_ready, terminating } = other;
        self.total += total;
        self.ready += ready;
        self.not_ready += not_ready;
        self.terminating += terminating;
    }
}

/// `GET /api/v1/services/NAMESPACE/NAME/instances`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceList {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Of all its instances, whichever are listed.
    pub counts: Counts,
    /// When an instance last came, changed or went, RFC 3339; when the agent started, where none has since.
    pub last_change: String,
    /// Those that were asked for.
    pub instances: Vec<Instance>,
}

/// `GET /api/v1/instances`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnedInstances {
    /// Of all instances in the namespace that was asked for, whichever are listed.
    pub counts: Counts,
    /// When anything of any Service last changed, RFC 3339.
    pub last_change: String,
    /// Those that were asked for, Service by Service.
    pub instances: Vec<OwnedInstance>,
}

/// An instance and whose it is. A pod behind two Services is listed twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnedInstance {
    /// The Service's namespace.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// The instance.
    #[serde(flatten)]
    pub instance: Instance,
}

/// One instance of a Service: a pod, or whatever else its EndpointSlices name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Stays while the instance lives: the pod's uid; without one its name, its host name, its address.
    pub id: String,
    /// Its addresses, of both families.
    pub addresses: Vec<String>,
    /// Its ports by their names in the Service; "" for one without.
    pub ports: BTreeMap<String, InstancePort>,
    /// Gets new flows.
    pub ready: bool,
    /// Answers, be it terminating or not.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<String>,
    /// That node's zone.
    pub zone: Option<String>,
    /// Its host name, where it has one of its own.
    pub hostname: Option<String>,
    /// Its name in the cluster's DNS, without the cluster's domain: behind a headless Service alone.
    pub dns_name: Option<String>,
    /// The object behind it.
    pub target_ref: Option<Reference>,
    /// When any of the above last changed, RFC 3339; when the agent started, where it has not since.
    pub last_change: String,
}

/// A port of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstancePort {
    /// The number.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// What is spoken there.
    pub app_protocol: Option<String>,
}

/// An object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reference {
    /// Its kind: `Pod`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
}
