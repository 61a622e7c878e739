//! What this node must do, computed from what the API says. Pure: no I/O, no clock, no randomness, no panic.
//!
//! [`compile`] is total: a bad object becomes a [`Verdict`] and never blocks the good ones. Collections
//! are ordered: same input, same output. [`Memo`] does the same in less time, from one snapshot to the next.
pub mod addr;
pub mod announce;
pub mod attach;
pub mod backend_ref;
pub mod backend_tls;
pub mod backend_traffic;
pub mod balance;
pub mod candidates;
pub mod certificate;
pub mod chain;
pub mod endpoints;
pub mod filter;
#[cfg(test)]
pub(crate) mod fixture;
pub mod gateway;
pub mod grants;
mod grpc_rule;
pub mod host;
pub mod http;
pub mod ipam;
mod limits;
pub mod listener;
pub mod listener_set;
pub mod memo;
pub mod mesh;
mod ownership;
pub mod policy;
pub mod pool;
mod quiet;
pub mod report;
mod retry;
pub mod route;
pub mod rule;
pub mod service;
mod session;
pub mod sources;
mod stream;
pub mod stream_route;
pub mod tls;
pub mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::Serialize;

pub use addr::{Frontend, HostAddresses, Port, Proto};
pub use candidates::Candidate;
pub use memo::Memo;
pub use sources::Ranges;
pub use verdict::{ObjectRef, Outcome, Verdict};

use crate::{
    api::ObjectName,
    shared::SharedMap,
    source::{Snapshot, snapshot::Seen},
};

/// What this node is and was told on the command line: the part of the input that is not an API object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, compared with `nodeName` of endpoints.
    pub name: String,
    /// Its zone, compared with the hints of endpoints.
    pub zone: Option<String>,
    /// The ranges that addresses are given from, in the order of the flags.
    pub pools: Vec<ipnet::IpNet>,
    /// Where no endpoint may be, whatever a slice says.
    pub refused: Vec<ipnet::IpNet>,
    /// Addresses given before, by object; they stay while they are legal.
    pub allocations: Arc<Allocations>,
    /// Who gives addresses.
    pub role: Role,
    /// Whether Services that name no `loadBalancerClass` are ours.
    pub default_class: bool,
    /// Whether it announces the VIPs that it has: it is the only node, or no other does.
    pub announce: bool,
    /// The nodes that live and may announce; empty with [`Role::Alone`].
    pub candidates: Vec<Candidate>,
    /// The host: what of it must not be taken.
    pub host: Arc<host::Host>,
    /// The addresses of this host: no pool gives them. Empty with [`Role::Member`], where the Nodes' status tells.
    pub addresses: Arc<HostAddresses>,
    /// Whom the system trusts: what `wellKnownCACertificates: System` means.
    pub system_authorities: Arc<tls::Authorities>,
}

impl Node {
    /// A node that is all there is, without zone, pools and addresses given before.
    #[must_use]
    pub fn alone(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            zone: None,
            pools: Vec::new(),
            refused: Vec::new(),
            allocations: Arc::default(),
            role: Role::Alone,
            default_class: true,
            announce: true,
            candidates: Vec::new(),
            host: Arc::default(),
            addresses: Arc::default(),
            system_authorities: Arc::default(),
        }
    }
}

impl Node {
    /// Whether a name that somebody wrote means this node: it is its name, or the one is the other's first label
    /// (`node1`, `node1.example.com`): who writes slices by hand takes the one, `--node` may be the other.
    #[must_use]
    pub fn is_named(&self, written: &str) -> bool {
        is_same_node(&self.name, written)
    }
}

/// Whether two names mean one node. Two full names do only where they are equal.
#[must_use]
pub fn is_same_node(a: &str, b: &str) -> bool {
    let is_short_of = |short: &str, full: &str| {
        !short.is_empty() && !short.contains('.') && full.strip_prefix(short).is_some_and(|rest| rest.starts_with('.'))
    };
    a == b || is_short_of(a, b) || is_short_of(b, a)
}

/// Who gives addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// This node: it programs what it gives.
    #[default]
    Alone,
    /// The leader of the cluster: this node programs what is written on the objects.
    Member,
}

/// Which object has which addresses: what must survive a restart.
pub type Allocations = BTreeMap<ObjectRef, Vec<IpAddr>>;

/// What this node must do.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Counts the models of one [`Memo`], 0 before the first.
    pub rev: u64,
    /// Up to where the API server was followed for this model.
    pub seen: Seen,
    /// Something could not be read: what is missing here may exist all the same.
    pub partial: bool,
    /// Every frontend and what becomes of its flows.
    pub frontends: SharedMap<Frontend, Target>,
    /// The pools, understood.
    pub pools: Arc<pool::Pools>,
    /// The addresses that objects should have: what the leader writes on them.
    pub wanted: Arc<Allocations>,
    /// The addresses that objects have on this node. With [`Role::Alone`] the same as `wanted`; with [`Role::Member`] those
    /// among them that are written on the object.
    pub allocations: Arc<Allocations>,
    /// The node that announces each address; empty with [`Role::Alone`].
    pub announcers: Arc<BTreeMap<IpAddr, String>>,
    /// The addresses that the objects' status showed when everything was compiled last: some node has announced them already.
    /// A write of a status compiles nothing, so one that is shown since is not among them; its announcer is in `announcers`.
    pub published: Arc<BTreeSet<IpAddr>>,
    /// The VIPs that this node announces to its neighbours.
    pub announced: Arc<BTreeSet<IpAddr>>,
    /// Of those, the address of the node that would announce it without this one: it may know flows that this one does not.
    pub relays: Arc<BTreeMap<IpAddr, IpAddr>>,
    /// The layer 7 part: listeners, rules, their backends.
    pub http: Arc<http::HttpModel>,
    /// The Services that stand before a Gateway, and what is behind it.
    pub chains: Arc<chain::Chains>,
    /// The EndpointSlices that are there and ours.
    pub own_slices: Arc<BTreeSet<ObjectName>>,
    /// What became of the Gateways that are ours.
    pub gateways: Arc<report::GatewayReports>,
    /// What became of the routes at these Gateways.
    pub routes: report::RouteReports,
    /// What became of the policies that these Gateways obey, or would.
    pub policies: Arc<policy::PolicyReports>,
    /// What was compiled for it and the models before.
    pub work: memo::Work,
    /// One per object that was considered, accepted or not.
    pub verdicts: SharedMap<ObjectRef, Verdict>,
}

impl Model {
    /// Says what became of an object.
    fn judge(&mut self, object: ObjectRef, verdict: Verdict) {
        if self.verdicts.get(&object) != Some(&verdict) {
            self.verdicts.insert(object, verdict);
        }
    }

    /// The addresses that are ours.
    #[must_use]
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.frontends.keys().map(|f| f.vip).collect()
    }

    /// The nodes that clients of these addresses come to: those that announce them; `None` where one of them is announced by
    /// nobody, so that traffic may come to any node.
    #[must_use]
    pub fn announcers_of(&self, addrs: &[IpAddr]) -> Option<BTreeSet<&str>> {
        addrs.iter().map(|addr| self.announcers.get(addr).map(String::as_str)).collect()
    }

    /// Those among the addresses that are a node's own as well: what comes to another port there is the node's.
    #[must_use]
    pub fn node_vips(&self) -> BTreeSet<IpAddr> {
        self.vips().into_iter().filter(|vip| self.pools.is_of_node(*vip)).collect()
    }
}

/// Compiles what the API says into what this node must do.
#[must_use]
pub fn compile(snapshot: &Snapshot, node: &Node) -> Model {
    let model = Memo::default().compile(&Arc::new(snapshot.clone()), node);
    Model { rev: 0, ..Arc::unwrap_or_clone(model) }
}

/// What becomes of a frontend's flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Layer 4: the programs choose a backend.
    Endpoints(Arc<EndpointTarget>),
    /// Layer 7: the proxy decides. Its listeners are compiled apart.
    Proxy {
        /// The Gateway.
        gateway: ObjectName,
        /// The Service whose address it is; else it is the Gateway's own.
        service: Option<ObjectName>,
        /// From where clients may come, as that Service says; `None`: from everywhere.
        sources: Option<Ranges>,
        /// When the object was created.
        created: Created,
    },
}

/// When an object was created, as the API says; nothing for objects of files, which count as older than all others.
pub type Created = Option<Arc<str>>;

/// Who comes first where not all fit: the oldest object, then by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Age {
    created: Created,
    owner: ObjectRef,
}

impl Age {
    /// Of an object that was created then.
    #[must_use]
    pub fn new(created: Created, owner: ObjectRef) -> Self {
        Self { created, owner }
    }
}

impl Target {
    /// The object that the frontend belongs to.
    #[must_use]
    pub fn owner(&self) -> ObjectRef {
        match self {
            Self::Endpoints(e) => e.owner.clone(),
            Self::Proxy { service: Some(service), .. } => ObjectRef::new("Service", service.clone()),
            Self::Proxy { gateway, service: None, .. } => ObjectRef::new("Gateway", gateway.clone()),
        }
    }

    /// Its object's place among all by age.
    #[must_use]
    pub fn age(&self) -> Age {
        let created = match self {
            Self::Endpoints(endpoints) => &endpoints.created,
            Self::Proxy { created, .. } => created,
        };
        Age::new(created.clone(), self.owner())
    }

    /// From where clients may come; `None`: from everywhere.
    #[must_use]
    pub fn sources(&self) -> Option<&Ranges> {
        match self {
            Self::Endpoints(endpoints) => endpoints.sources.as_ref(),
            Self::Proxy { sources, .. } => sources.as_ref(),
        }
    }
}

/// The backends of a layer 4 frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTarget {
    /// The object that the frontend belongs to: a Service, or a Gateway with a listener of TCP or UDP.
    pub owner: ObjectRef,
    /// The route that says where flows go; `None` for a Service, and for a listener without a route.
    pub route: Option<ObjectRef>,
    /// How new flows are split; one share, of any weight, for a Service. What has weight 0 is not among them.
    pub shares: Vec<EndpointShare>,
    /// The weight of references that name no Service port: this part of new flows is refused, as is that of shares without
    /// backends.
    pub refused: u32,
    /// What happens to a new flow when there is no backend at all.
    pub when_empty: WhenEmpty,
    /// `sessionAffinity: ClientIP`.
    pub affinity: bool,
    /// From where clients may come; `None`: from everywhere.
    #[serde(skip)]
    pub sources: Option<Ranges>,
    /// When the object was created.
    #[serde(skip)]
    pub created: Created,
}

/// A Service port's part of the flows of a layer 4 frontend. Without backends, for there is no endpoint, no such Service or no
/// permission to use it, its part is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointShare {
    /// Its part, of the sum of all.
    pub weight: u32,
    /// The Service.
    pub service: ObjectName,
    /// The Service's port.
    pub port: Port,
    /// The port's name in the Service; empty for the only one.
    pub port_name: String,
    /// Those that new flows may go to, distinct, in order.
    pub backends: Vec<Backend>,
    /// Those that keep the flows they have: they left the set but still serve.
    pub draining: Vec<Backend>,
}

impl EndpointTarget {
    /// All that new flows may go to; those of several Services may be there more than once.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.shares.iter().flat_map(|share| &share.backends)
    }

    /// All that keep the flows they have and get no new one from their own Service.
    pub fn draining(&self) -> impl Iterator<Item = &Backend> {
        self.shares.iter().flat_map(|share| &share.draining)
    }
}

/// What happens to a flow that has nowhere to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenEmpty {
    /// TCP RST or ICMP unreachable: there is no endpoint at all.
    Reject,
    /// Nothing: endpoints exist, but policy keeps this node from using them, and another node may.
    Drop,
}

/// One place where a flow can be sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The endpoint's address: never loopback, link-local, multicast or unspecified.
    pub addr: IpAddr,
    /// The endpoint's port.
    pub port: Port,
    /// Where it runs.
    pub locality: Locality,
}

/// Where a backend runs, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Locality {
    /// On this node.
    Local,
    /// On another node.
    Remote,
    /// The slice does not say; the route decides.
    Unknown,
}
