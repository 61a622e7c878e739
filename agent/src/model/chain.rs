//! Services that stand before a Gateway: Service -> Gateway -> routes -> backend Services -> endpoints.
//!
//! A controller makes a Service of type LoadBalancer for a Gateway and expects a data plane behind it. Where the Gateway is
//! ours, that is the proxy: a flow to a port of such a Service that the Gateway listens at gets what the Gateway would give
//! it. Whoever comes through the Service without us (kube-proxy, an OpenShift Route, an ingress) needs endpoints; they are
//! those of the backend Services of all routes at the same port, and `status::slices` writes them.
//!
//! In: the snapshot, and the listeners that `model::gateway` made. Out: [`Links`], where flows go, before frontends are
//! made; [`Chains`], what is behind, after. Both are the same on every node.
//!
//! # Design
//! - A Service names its Gateway by [`GATEWAY_LABEL`], by an owner, or, where nobody else answers for it, by the name that
//!   Gateway API recommends, `GATEWAY-CLASS` (GEP-1762).
//! - Endpoints that others have written are never mixed with ours: while there are some, ours are not due.
//! - Slices that we write are never read here, whichever Service they are of: two Services that lead to each other would
//!   keep each other's endpoints for ever.
//! - Without us nobody weighs, matches or redirects: who has a weight of 0 gets nothing, and all others alike.
#[cfg(test)]
mod tests;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Node, ObjectRef, Outcome, Port, Proto, Verdict,
    endpoints::{self, Family, SliceIndex},
    gateway::{self, ListenersByPort},
    http::{Action, HttpListener, ServicePort, ShareTarget},
    listener::GROUP,
    listener_set::Sets,
    report::Fault,
    rule, service,
};
use crate::{
    api::{
        EndpointSlice, Gateway, ObjectName, Service,
        endpoint_slice::{Endpoint, EndpointHints},
    },
    shared::SharedMap,
    source::Snapshot,
};

/// The label that names the Gateway that a Service was made for. Source: GEP-1762.
pub const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// The port where Istio's gateways answer probes: no listener ever has it.
pub const STATUS_PORT: i64 = 15021;

/// The Services that name a Gateway.
pub type Links = BTreeMap<ObjectName, Link>;
/// What is behind the Services that name a Gateway.
pub type Chains = BTreeMap<ObjectName, Chain>;
/// Endpoints by address and port.
pub type Endpoints = BTreeMap<(IpAddr, Port), Endpoint>;

/// How a Service names its Gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingSource {
    /// By [`GATEWAY_LABEL`].
    Label,
    /// By an owner reference.
    Owner,
    /// By its own name, and nobody else answers for it.
    Name,
}

/// From a Service to its Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The Gateway, which may not exist.
    pub gateway: ObjectName,
    /// How the Service names it.
    pub binding: BindingSource,
    /// The ports that the Gateway listens at, or why it is not served.
    pub ports: Result<BTreeSet<Port>, Fault>,
    /// The Service has endpoints that others have written.
    pub has_own: bool,
}

impl Link {
    /// Whether flows go to the proxy. A name alone is too little where somebody else answers.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.ports.is_ok() && !(self.has_own && self.binding == BindingSource::Name)
    }

    /// The Gateway that serves a port of the Service.
    #[must_use]
    pub fn serves(&self, port: Port, proto: Proto) -> Option<&ObjectName> {
        let ports = self.ports.as_ref().ok().filter(|_| self.is_served() && proto == Proto::Tcp)?;
        ports.contains(&port).then_some(&self.gateway)
    }
}

/// What is behind a Service that names a Gateway.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// The Gateway.
    pub link: Link,
    /// The families of the Service's own addresses.
    pub families: Vec<Family>,
    /// The ports that the Gateway serves, in the order of the Service.
    pub ports: Vec<ChainPort>,
}

/// What is behind one port of the Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ChainPort {
    /// The port's name in the Service.
    pub name: String,
    /// The port, which is the listener's too.
    pub port: Port,
    /// What is spoken there, as the Service has it.
    pub app_protocol: Option<String>,
    /// The names of the listeners.
    pub listeners: Vec<String>,
    /// The routes at them.
    pub routes: BTreeSet<ObjectName>,
    /// The backends of these routes.
    pub services: BTreeSet<ServicePort>,
    /// The endpoints of these backends, in whatever state.
    pub endpoints: Arc<Endpoints>,
}

impl Chain {
    /// Whether slices of ours are due.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.link.is_served() && !self.link.has_own
    }
}

/// Whether a Service has endpoints that others have written.
#[must_use]
pub fn has_own(slices: &SliceIndex, service: &ObjectName) -> bool {
    slices.of(service).iter().any(|slice| !slice.is_ours() && !slice.endpoints.is_empty())
}

/// The Services of type LoadBalancer that are ours and name a Gateway; `verdicts` say which are not ours.
#[must_use]
pub fn links(
    snapshot: &Snapshot,
    sets: &Sets<'_>,
    slices: &SliceIndex,
    verdicts: &SharedMap<ObjectRef, Verdict>,
) -> Links {
    let conventional = |(name, gateway): (&ObjectName, &Arc<Gateway>)| {
        let service = ObjectName::new(&name.ns, format!("{}-{}", name.name, gateway.spec.gateway_class_name));
        gateway::is_ours(snapshot, gateway).then(|| (service, name.clone()))
    };
    let names: BTreeMap<ObjectName, ObjectName> = snapshot.gateways.iter().filter_map(conventional).collect();
    let link = |(name, service): (&ObjectName, &Arc<Service>)| {
        let (gateway, binding, uid) = binding(name, service, &names)?;
        let verdict = verdicts.get(&ObjectRef::new("Service", name.clone()));
        if verdict.is_some_and(|v| v.outcome == Outcome::Ignored) {
            return None;
        }
        // In manifests nothing has an identity.
        let is_same = |known: &str| uid.is_empty() || known.is_empty() || known == uid;
        let found = snapshot.gateways.get(&gateway).filter(|found| is_same(&found.metadata.uid));
        let ports = match found {
            Some(found) => gateway::open_ports(snapshot, sets, found),
            None => Err(Fault::new("GatewayNotFound", "it does not exist")),
        };
        Some((name.clone(), Link { gateway, binding, ports, has_own: has_own(slices, name) }))
    };
    snapshot.services.iter().filter_map(link).collect()
}

/// The Gateway that a Service names, and its identity where that is known.
fn binding<'a>(
    name: &ObjectName,
    service: &'a Service,
    conventional: &BTreeMap<ObjectName, ObjectName>,
) -> Option<(ObjectName, BindingSource, &'a str)> {
    let of = |gateway: &str| ObjectName::new(&name.ns, gateway);
    if let Some(label) = service.metadata.labels.get(GATEWAY_LABEL).filter(|label| !label.is_empty()) {
        return Some((of(label), BindingSource::Label, ""));
    }
    let is_gateway = |api_version: &str| api_version.split_once('/').is_some_and(|(group, _)| group == GROUP);
    let mut owners = service.metadata.owner_references.iter();
    if let Some(owner) = owners.find(|o| o.kind == "Gateway" && is_gateway(&o.api_version)) {
        return Some((of(&owner.name), BindingSource::Owner, &owner.uid));
    }
    Some((conventional.get(name)?.clone(), BindingSource::Name, ""))
}

/// What chains are made of.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) slices: &'a SliceIndex,
    pub(super) targets: &'a service::Targets,
    pub(super) node: &'a Node,
}

impl Source<'_> {
    /// What is behind each link.
    pub(super) fn chains(&self, links: &Links, by_port: &ListenersByPort) -> Chains {
        let chain = |(name, link): (&ObjectName, &Link)| {
            let service = self.snapshot.services.get(name)?;
            Some((name.clone(), self.chain(service, link, by_port)))
        };
        links.iter().filter_map(chain).collect()
    }

    fn chain(&self, service: &Service, link: &Link, by_port: &ListenersByPort) -> Chain {
        let mut ports: Vec<ChainPort> = Vec::new();
        for written in service.spec.ports.iter().filter(|p| p.protocol() == "TCP") {
            let Some(port) = Port::try_new(written.port) else { continue };
            let Some(gateway) = link.serves(port, Proto::Tcp) else { continue };
            let Some(listeners) = by_port.get(&(gateway.clone(), port)) else { continue };
            if ports.iter().any(|known| known.port == port || known.name == written.name) {
                continue;
            }
            let (routes, services) = behind(listeners);
            let endpoints = Arc::new(self.endpoints(&services));
            ports.push(ChainPort {
                name: written.name.clone(),
                port,
                app_protocol: written.app_protocol.clone(),
                listeners: listeners.iter().map(|listener| listener.name.clone()).collect(),
                routes,
                services,
                endpoints,
            });
        }
        let family = |text: &String| match text.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        };
        let families = service.spec.ip_families.iter().filter_map(family).collect();
        Chain { link: link.clone(), families, ports }
    }

    /// The chains that lead to Services whose slices have changed, as they are now.
    pub(super) fn follow(&self, chains: &Chains, touched: &BTreeSet<ObjectName>) -> Vec<(ObjectName, Chain)> {
        let is_touched = |port: &ChainPort| port.services.iter().any(|backend| touched.contains(&backend.service));
        let mut fresh = Vec::new();
        for (name, chain) in chains.iter().filter(|(_, chain)| chain.ports.iter().any(is_touched)) {
            let mut now = chain.clone();
            for port in now.ports.iter_mut().filter(|port| is_touched(port)) {
                let endpoints = self.endpoints(&port.services);
                if endpoints != *port.endpoints {
                    port.endpoints = Arc::new(endpoints);
                }
            }
            if now != *chain {
                fresh.push((name.clone(), now));
            }
        }
        fresh
    }

    /// The endpoints of these Service ports; who is behind two of them is there once.
    fn endpoints(&self, ports: &BTreeSet<ServicePort>) -> Endpoints {
        let mut all = Endpoints::new();
        for ServicePort { service, port } in ports {
            let Some(found) = self.snapshot.services.get(service).and_then(|s| rule::service_port(s, *port)) else {
                continue;
            };
            let foreign = self.slices.of(service).iter().filter(|slice: &&Arc<EndpointSlice>| !slice.is_ours());
            for ((addr, port), endpoint) in endpoints::all(foreign, found, self.node) {
                if !self.targets.has_vip(addr, port) {
                    all.entry((addr, port)).or_insert_with(|| reduced(endpoint, addr));
                }
            }
        }
        all
    }
}

/// An endpoint as another Service may have it: its host name and its hints are those of the Service that it is of.
fn reduced(endpoint: &Endpoint, addr: IpAddr) -> Endpoint {
    Endpoint {
        addresses: vec![addr.to_string()],
        conditions: endpoint.conditions,
        node_name: endpoint.node_name.clone(),
        zone: endpoint.zone.clone(),
        hostname: None,
        target_ref: endpoint.target_ref.clone(),
        hints: EndpointHints::default(),
    }
}

/// The routes at some listeners, and the backends that get requests of them.
fn behind(listeners: &[HttpListener]) -> (BTreeSet<ObjectName>, BTreeSet<ServicePort>) {
    let (mut routes, mut services) = (BTreeSet::new(), BTreeSet::new());
    for entry in listeners.iter().flat_map(|listener| &listener.entries) {
        routes.insert(entry.rule.route.clone());
        let Action::Forward(shares) = &entry.rule.action else { continue };
        services.extend(shares.iter().filter(|share| share.weight > 0).filter_map(|share| match &share.to {
            ShareTarget::Cluster(cluster) => Some(cluster.port.clone()),
            ShareTarget::Invalid(_) => None,
        }));
    }
    (routes, services)
}
