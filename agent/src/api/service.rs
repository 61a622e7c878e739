//! `Service`, as far as it is read.
use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{
    choice::{Choice, Listed},
    condition::Condition,
    meta::ObjectMeta,
    wire::{list, or_default},
};

/// A `Service`. Source: `v1 Service`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Name, labels and so on.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    #[serde(deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    /// What is shown to others.
    #[serde(deserialize_with = "or_default")]
    pub status: ServiceStatus,
}

/// `spec`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`; empty is `ClusterIP`.
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub type_: String,
    /// The cluster's own address, or `None` for a headless Service.
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    /// All of them, of a Service of both families the first being `clusterIP`; on the wire since there are two families.
    #[serde(rename = "clusterIPs", deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// The ports.
    #[serde(deserialize_with = "list")]
    pub ports: Vec<ServicePort>,
    /// The labels of the pods; empty for a Service whose slices somebody else writes.
    #[serde(deserialize_with = "or_default")]
    pub selector: BTreeMap<String, String>,
    /// Whose Service this is; none is the default implementation's.
    pub load_balancer_class: Option<String>,
    /// The address asked for; deprecated, but in use.
    #[serde(rename = "loadBalancerIP", deserialize_with = "or_default")]
    pub load_balancer_ip: String,
    /// The sources that may connect; empty is all.
    #[serde(deserialize_with = "list")]
    pub load_balancer_source_ranges: Vec<String>,
    /// What is wrong with a newer form that says something else about sources and could not be read; never on the wire.
    #[serde(skip)]
    pub unread_sources: Option<String>,
    /// `IPv4` and `IPv6`, the first is the primary one.
    #[serde(deserialize_with = "list")]
    pub ip_families: Vec<String>,
    /// `SingleStack`, `PreferDualStack` or `RequireDualStack`; empty is `SingleStack`.
    #[serde(deserialize_with = "or_default")]
    pub ip_family_policy: String,
    /// Which endpoints clients from outside the cluster may reach.
    pub external_traffic_policy: Choice<TrafficPolicy>,
    /// Whether a client stays with its endpoint.
    pub session_affinity: Choice<SessionAffinity>,
    /// What `ClientIP` means; the API server fills it in.
    #[serde(deserialize_with = "or_default")]
    pub session_affinity_config: SessionAffinityConfig,
    /// Where policy Local tells whether this node has endpoints; 0 is nowhere.
    #[serde(deserialize_with = "or_default")]
    pub health_check_node_port: i64,
}

impl ServiceSpec {
    /// The fields that hold none of the values that there are, a sentence each.
    #[must_use]
    pub fn unknown_values(&self) -> Vec<String> {
        let Self { external_traffic_policy, session_affinity, .. } = self;
        let faults =
            [external_traffic_policy.fault("externalTrafficPolicy"), session_affinity.fault("sessionAffinity")];
        faults.into_iter().flatten().collect()
    }
}

/// `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those on the node that the client's packets come to.
    Local,
}

impl Listed for TrafficPolicy {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Cluster, "Cluster"), (Self::Local, "Local")];
}

/// `sessionAffinity`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SessionAffinity {
    /// Each flow goes where it may.
    #[default]
    None,
    /// All flows of a client's address go to one endpoint.
    ClientIp,
}

impl Listed for SessionAffinity {
    const ALL: &'static [(Self, &'static str)] = &[(Self::None, "None"), (Self::ClientIp, "ClientIP")];
}

/// Source: `core/v1 SessionAffinityConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// Of `ClientIP`.
    #[serde(rename = "clientIP", deserialize_with = "or_default")]
    pub client_ip: ClientIpConfig,
}

/// Source: `core/v1 ClientIPConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// After how long a client may go elsewhere. Units: seconds.
    pub timeout_seconds: Option<i64>,
}

/// What the API server writes where nobody has said how long affinity lasts. Source: `core/v1
/// DefaultClientIPServiceAffinitySeconds`.
pub const DEFAULT_AFFINITY_SECONDS: i64 = 10_800;

/// One port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Its name, which the slices repeat; empty for the only one.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// The port that clients dial.
    #[serde(deserialize_with = "or_default")]
    pub port: i64,
    /// `TCP`, `UDP` or `SCTP`; empty is `TCP`.
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    /// The pods' port; the slices hold what it resolves to.
    pub target_port: Option<IntOrString>,
    /// What is spoken there.
    pub app_protocol: Option<String>,
}

impl ServicePort {
    /// The protocol; `TCP` where none is written.
    #[must_use]
    pub fn protocol(&self) -> &str {
        if self.protocol.is_empty() { "TCP" } else { &self.protocol }
    }
}

/// A number or a name. Source: `IntOrString`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A name.
    String(String),
}

impl fmt::Display for IntOrString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(n) => n.fmt(f),
            Self::String(s) => s.fmt(f),
        }
    }
}

/// `status`, as far as it is read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// The load balancer's part.
    #[serde(deserialize_with = "or_default")]
    pub load_balancer: LoadBalancerStatus,
    /// Conditions, ours and foreign ones.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    /// The addresses.
    #[serde(deserialize_with = "list")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// The address; empty for an entry that has a host name.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// The host name; empty for an entry that has an address.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// `VIP` or `Proxy`; absent is `VIP`.
    #[serde(rename = "ipMode", skip_serializing_if = "Option::is_none")]
    pub ip_mode: Option<String>,
    /// What became of each port, as written: entries of others are written back as they were.
    #[serde(deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<serde_json::Value>,
}
