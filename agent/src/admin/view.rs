//! What the admin API answers: shared by the server, which builds it, and the command line, which shows it.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /api/v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// Whether the node forwards what the objects ask for.
    pub ready: bool,
    /// What keeps it from being ready.
    pub blockers: Vec<String>,
    /// The revision of the newest model.
    pub model_rev: u64,
    /// The revision that is programmed.
    pub programmed_rev: u64,
    /// How long the last change took to program, in microseconds.
    pub programmed_in_us: u64,
    /// Frontends in the maps.
    pub frontends: usize,
    /// Backends in the maps.
    pub backends: usize,
    /// Chunks of lookup table in use, and how many there are.
    pub table_chunks: (u32, u32),
    /// The interfaces.
    pub uplinks: Vec<Uplink>,
    /// The interfaces besides by which endpoints are reached, or replies return to clients.
    #[serde(default)]
    pub sides: Vec<Uplink>,
    /// Files and documents that could not be read.
    pub faults: Vec<Fault>,
    /// What is not read, or not any more, from the API server, and what is off for that.
    #[serde(default)]
    pub unread: Vec<String>,
    /// What could not be programmed.
    pub unprogrammed: Vec<String>,
    /// Maps that are nearly full.
    #[serde(default)]
    pub nearly_full: Vec<String>,
    /// Bounds that are reached, of the proxy and of flows without an answer: what waits for what.
    #[serde(default)]
    pub limits: Vec<String>,
    /// Settings of this host that keep flows from being forwarded.
    pub host: Vec<String>,
    /// VIPs that another host has.
    #[serde(default)]
    pub conflicts: Vec<String>,
    /// Endpoints that this node cannot reach and leaves out.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// VIPs that something has bound to an interface of this host.
    #[serde(default)]
    pub bound: Vec<String>,
    /// Objects that do not work, or not wholly.
    pub problems: Vec<Object>,
    /// Objects that work, with something odd about them.
    pub remarks: Vec<Object>,
    /// Packets by reason, those that were counted at least once.
    pub reasons: BTreeMap<String, u64>,
    /// The directory of the pinned maps.
    pub pins: String,
}

/// One interface.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// The programs on it: `native XDP + TC`, `TC`, `none`.
    pub programs: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// What is wrong, or why XDP is not used.
    pub note: Option<String>,
}

/// Something that could not be read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// File and line, or the resource.
    pub origin: String,
    /// What was found and what was wanted.
    pub reason: String,
}

/// What became of one object.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Object {
    /// Its kind.
    pub kind: String,
    /// `namespace/name`.
    pub name: String,
    /// `accepted`, `partial`, `refused` or `ignored`.
    pub outcome: String,
    /// For machines.
    pub reason: String,
    /// For people.
    pub messages: Vec<String>,
}

/// One of `GET /api/v1/services`: a Service or a Gateway that is ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// What became of it.
    #[serde(flatten)]
    pub object: Object,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Those of them that this node announces to its neighbours.
    pub announced: Vec<String>,
    /// The node that announces each of them; empty where this node stands alone.
    pub announcers: BTreeMap<String, String>,
    /// `80/TCP`.
    pub ports: Vec<String>,
    /// The ranges that clients must come from; empty: from everywhere.
    pub sources: Vec<String>,
    /// Distinct backends that new flows may go to; absent for a Gateway.
    pub backends: Option<usize>,
    /// How many of them are of each family: a pod with two addresses is one of each.
    #[serde(default)]
    pub backend_families: Option<Families>,
    /// Flows begun; absent where some go to the proxy, which counts requests.
    pub flows: Option<u64>,
    /// Bytes in both directions; absent where the flows are.
    pub bytes: Option<u64>,
    /// Packets refused or dropped.
    pub dropped: u64,
}

/// A count for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Families {
    /// Of IPv4.
    pub ipv4: usize,
    /// Of IPv6.
    pub ipv6: usize,
}

/// One of `GET /api/v1/backends`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// `203.0.113.1:80/TCP`.
    pub frontend: String,
    /// `namespace/name`.
    pub service: String,
    /// The weight of that Service among those of the route; `None` where there is no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// `10.244.1.2:8080`.
    pub backend: String,
    /// `local`, `remote` or `unknown`.
    pub locality: String,
    /// `active`, or `draining`: it keeps its flows and gets no new one.
    pub state: String,
}

/// `GET /api/v1/flows`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flows {
    /// How many are tracked.
    pub total: usize,
    /// Those that were asked for.
    pub flows: Vec<Flow>,
}

/// One tracked flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// `TCP` or `UDP`.
    pub proto: String,
    /// The client's address and port.
    pub client: String,
    /// The frontend's address and port.
    pub frontend: String,
    /// The backend's address and port.
    pub backend: String,
    /// The source that the backend sees, where it was changed.
    pub snat: Option<String>,
    /// `opening`, `established`, `closing` or `closed`; for UDP `oneway` or `replied`.
    pub state: String,
    /// Seconds since the client's last packet.
    pub idle_seconds: u64,
    /// Seconds since the flow began.
    pub age_seconds: u64,
}

/// The body of an answer that is no success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// What was wrong.
    pub error: String,
}
