//! EndpointSlices -> the endpoints that a Service port's flows may go to.
//!
//! Same input, same answer as kube-proxy 1.36 (`EndpointSliceCache` and `CategorizeEndpoints`): slices of a Service are
//! merged; a slice port belongs to a Service port when name and protocol agree; only the first address of an
//! endpoint counts; topology hints hold for all ready endpoints or for none; where none is ready, those that terminate
//! but still serve are used; policies Cluster and Local are decided apart.
//!
//! What kube-proxy leaves to the order of a map is decided here by what the slices say, then by their names.
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{Backend, Locality, Node, Port};
use crate::{
    api::{
        EndpointSlice, ObjectName, Service,
        endpoint_slice::{Endpoint, EndpointConditions, HintedName},
        service::ServicePort,
    },
    source::Snapshot,
};

/// The slices of each Service, by `kubernetes.io/service-name`.
#[derive(Clone, Debug, Default)]
pub struct SliceIndex {
    by_service: BTreeMap<ObjectName, Vec<Arc<EndpointSlice>>>,
}

impl SliceIndex {
    /// Indexes a snapshot's slices.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut index = Self::default();
        snapshot.slices.iter().for_each(|(name, slice)| index.insert(name, slice));
        index
    }

    /// Adds a slice that is not there, under its name.
    pub fn insert(&mut self, name: &ObjectName, slice: &Arc<EndpointSlice>) {
        let Some(service) = slice.service_name() else { return };
        let slices = self.by_service.entry(service).or_default();
        // Those of one Service are of one namespace.
        let at = slices.partition_point(|known| known.metadata.name < name.name);
        slices.insert(at, Arc::clone(slice));
    }

    /// Removes a slice of a Service, if it is there.
    pub fn remove(&mut self, service: &ObjectName, name: &ObjectName) {
        let Some(slices) = self.by_service.get_mut(service) else { return };
        slices.retain(|known| known.metadata.name != name.name);
        if slices.is_empty() {
            self.by_service.remove(service);
        }
    }

    /// The slices of a Service, in the order of their names.
    #[must_use]
    pub fn of(&self, service: &ObjectName) -> &[Arc<EndpointSlice>] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }
}

/// Which IP family endpoints must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Either: the proxy does not care.
    Any,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Whether an address is of this family.
    #[must_use]
    pub fn admits(self, ip: IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
            Self::Any => true,
        }
    }
}

/// The outcome of endpoint selection for one Service port, as kube-proxy's `CategorizeEndpoints` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Where new flows may go under policy Cluster; topology hints are honoured. Empty: no endpoint anywhere.
    pub cluster: Vec<Backend>,
    /// Where new flows may go under policy Local.
    pub local: Vec<Backend>,
    /// Endpoints that are not in `cluster` but still in a slice: the flows they have go on. For UDP those that serve
    /// alone, for a client that never closes its socket must not be held by an endpoint that has stopped to answer.
    pub draining: Vec<Backend>,
    /// Sentences about endpoints that no flow may go to: what was found in which slice, what was wanted.
    pub skipped: Vec<String>,
}

impl Selected {
    /// Takes endpoints out that are owned VIPs: a flow sent there would come back.
    pub fn exclude(&mut self, is_vip: impl Fn(&Backend) -> bool) {
        for list in [&mut self.cluster, &mut self.local, &mut self.draining] {
            list.retain(|backend| {
                let is_loop = is_vip(backend);
                if is_loop {
                    let sentence = format!(
                        "endpoint {} is an address that Sluice gave: a loop; want a pod's address",
                        backend.addr
                    );
                    if !self.skipped.contains(&sentence) {
                        self.skipped.push(sentence);
                    }
                }
                !is_loop
            });
        }
    }
}

/// Selects the endpoints of one Service port. `port_name` is the port's name in the Service, "" for an unnamed one.
#[must_use]
pub fn select(slices: &SliceIndex, service: &Service, port_name: &str, family: Family, node: &Node) -> Selected {
    let port = service.spec.ports.iter().find(|p| p.name == port_name);
    port.map_or_else(Selected::default, |port| select_port(slices, service, port, family, node))
}

/// As [`select`], for a port at hand.
#[must_use]
pub fn select_port(
    slices: &SliceIndex,
    service: &Service,
    port: &ServicePort,
    family: Family,
    node: &Node,
) -> Selected {
    let slices = slices.of(&service.metadata.object_name());
    let (candidates, skipped) = merge(slices.iter(), &port.name, port.protocol(), family, node);
    let topology = Topology::of(&candidates, node);
    let pick = |wanted: &dyn Fn(&Candidate<'_>) -> bool| -> Vec<Backend> {
        candidates.iter().filter(|(_, c)| wanted(c)).map(|(at, c)| c.backend(*at)).collect()
    };
    let or_terminating = |ready: Vec<Backend>, fallback: &dyn Fn(&Candidate<'_>) -> bool| {
        if ready.is_empty() { pick(&|c| c.serving && c.terminating && fallback(c)) } else { ready }
    };
    let cluster = or_terminating(pick(&|c| c.ready && topology.admits(c, node)), &|_| true);
    let is_local = |c: &Candidate<'_>| c.locality == Locality::Local;
    let local = or_terminating(pick(&|c| c.ready && is_local(c)), &is_local);
    let is_udp = port.protocol() == "UDP";
    let mut draining = pick(&|c| c.serving || !is_udp);
    // Both lists are in the order of `candidates`.
    draining.retain(|backend| cluster.binary_search(backend).is_err());
    Selected { cluster, local, draining, skipped }
}

/// Every endpoint of a Service port in these slices, in whatever state, by address and port: the same on every node.
pub(super) fn all<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    port: &ServicePort,
    node: &Node,
) -> BTreeMap<(IpAddr, Port), &'a Endpoint> {
    let (candidates, _) = merge(slices, &port.name, port.protocol(), Family::Any, node);
    candidates.into_iter().map(|(at, candidate)| (at, candidate.endpoint)).collect()
}

/// An endpoint that flows may go to, with what decides whether they do.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    endpoint: &'a Endpoint,
    ready: bool,
    serving: bool,
    terminating: bool,
    locality: Locality,
    zones: &'a [HintedName],
    nodes: &'a [HintedName],
}

impl<'a> Candidate<'a> {
    fn new(endpoint: &'a Endpoint, node: &Node) -> Self {
        let EndpointConditions { ready, serving, terminating } = endpoint.conditions;
        let ready = ready.unwrap_or(true);
        let locality = match endpoint.node_name.as_deref() {
            None | Some("") => Locality::Unknown,
            Some(name) if node.is_named(name) => Locality::Local,
            Some(_) => Locality::Remote,
        };
        Self {
            endpoint,
            ready,
            serving: serving.unwrap_or(ready),
            terminating: terminating.unwrap_or(false),
            locality,
            zones: &endpoint.hints.for_zones,
            nodes: &endpoint.hints.for_nodes,
        }
    }

    fn backend(&self, (addr, port): (IpAddr, Port)) -> Backend {
        Backend { addr, port, locality: self.locality }
    }

    /// Of two copies of one endpoint, the greater rank is true: a pod's address may be given to the next pod while the
    /// old one still terminates.
    fn rank(&self) -> (bool, bool, bool, bool) {
        (!self.terminating, self.ready, self.serving, self.locality == Locality::Local)
    }
}

/// Merges the slices of a Service into its endpoints at one port, by address and port, and says what was left out.
fn merge<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    port_name: &str,
    protocol: &str,
    family: Family,
    node: &Node,
) -> (BTreeMap<(IpAddr, Port), Candidate<'a>>, Vec<String>) {
    let mut candidates = BTreeMap::<_, Candidate<'a>>::new();
    let mut skipped = Vec::new();
    for slice in slices {
        if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            let (name, found) = (slice.metadata.object_name(), &slice.address_type);
            skipped.push(format!("EndpointSlice {name}: addressType is {found:?}, want IPv4 or IPv6"));
            continue;
        }
        let ports = slice.ports.iter().filter(|p| p.name.as_deref() == Some(port_name) && p.protocol() == protocol);
        let mut unusable = Unusable::default();
        for number in ports.filter_map(|p| p.port.filter(|n| *n != 0)) {
            let Some(port) = Port::try_new(number) else {
                skipped.push(format!(
                    "EndpointSlice {}: port {number} is out of range, want 1 to 65535",
                    slice.metadata.object_name()
                ));
                continue;
            };
            for endpoint in &slice.endpoints {
                let Some(written) = endpoint.addresses.first() else { continue };
                let addr = match parse_addr(written, &slice.address_type) {
                    Ok(addr) if node.refused.iter().any(|range| range.contains(&addr)) => {
                        unusable.add(written, "in a range of --refuse-endpoints, want a pod's address");
                        continue;
                    }
                    Ok(addr) if family.admits(addr) => addr,
                    Ok(_) => continue,
                    Err(why) => {
                        unusable.add(written, why);
                        continue;
                    }
                };
                let found = Candidate::new(endpoint, node);
                candidates
                    .entry((addr, port))
                    .and_modify(|known| {
                        if found.rank() > known.rank() {
                            *known = found;
                        }
                    })
                    .or_insert(found);
            }
        }
        skipped.extend(unusable.sentence(slice));
    }
    (candidates, skipped)
}

/// The endpoints of one slice that no flow may go to.
#[derive(Default)]
struct Unusable<'a> {
    /// Address and reason of the first one.
    first: Option<(&'a str, &'static str)>,
    count: usize,
}

impl<'a> Unusable<'a> {
    fn add(&mut self, written: &'a str, why: &'static str) {
        self.first.get_or_insert((written, why));
        self.count += 1;
    }

    /// One sentence however many there are: a slice may hold a thousand.
    fn sentence(&self, slice: &EndpointSlice) -> Option<String> {
        let (written, why) = self.first?;
        let more = if self.count > 1 { format!(" and {} more", self.count - 1) } else { String::new() };
        let name = slice.metadata.object_name();
        Some(format!("EndpointSlice {name}: endpoint {written:?}{more} skipped: {why}"))
    }
}

/// Reads an endpoint's address, which must be one that a flow can be sent to.
fn parse_addr(written: &str, address_type: &str) -> Result<IpAddr, &'static str> {
    let addr = written.parse::<IpAddr>().map_err(|_| "not an address, want one like 192.0.2.1 or 2001:db8::1")?;
    match unusable(addr) {
        Some(why) => Err(why),
        None if addr.is_ipv4() == (address_type == "IPv4") => Ok(addr),
        None => Err("an address of the other family than the slice's addressType"),
    }
}

/// Why no packet may be sent to an address, whoever names it.
#[must_use]
pub fn unusable(addr: IpAddr) -> Option<&'static str> {
    let is_link_local = match addr {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    if addr.is_unspecified() {
        Some("an unspecified address, want one that is routed")
    } else if addr.is_loopback() {
        Some("a loopback address, want one that is routed")
    } else if addr.is_multicast() {
        Some("a multicast address, want a unicast one")
    } else if is_link_local {
        Some("a link-local address, want one that is routed")
    } else if matches!(addr, IpAddr::V4(a) if a.is_broadcast()) {
        Some("the broadcast address, want a unicast one")
    } else if matches!(addr, IpAddr::V6(a) if a.to_ipv4_mapped().is_some()) {
        Some("an IPv4-mapped address, want the IPv4 address itself")
    } else {
        None
    }
}

/// Which hints hold for new flows under policy Cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Topology {
    Anywhere,
    Node,
    Zone,
}

impl Topology {
    /// Hints hold when each ready endpoint has them and one of these names this node, or else its zone.
    fn of(candidates: &BTreeMap<(IpAddr, Port), Candidate<'_>>, node: &Node) -> Self {
        let holds = |mode: Self| {
            let mut ready = candidates.values().filter(|c| c.ready).peekable();
            ready.peek().is_some()
                && ready.clone().all(|c| !mode.hints(c).is_empty())
                && ready.any(|c| mode.admits(c, node))
        };
        if holds(Self::Node) {
            Self::Node
        } else if holds(Self::Zone) {
            Self::Zone
        } else {
            Self::Anywhere
        }
    }

    fn hints<'a>(self, candidate: &Candidate<'a>) -> &'a [HintedName] {
        match self {
            Self::Anywhere => &[],
            Self::Node => candidate.nodes,
            Self::Zone => candidate.zones,
        }
    }

    fn admits(self, candidate: &Candidate<'_>, node: &Node) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Node => self.hints(candidate).iter().any(|hint| node.is_named(&hint.name)),
            Self::Zone => {
                let here = node.zone.as_deref().filter(|zone| !zone.is_empty());
                here.is_some_and(|here| self.hints(candidate).iter().any(|hint| hint.name == here))
            }
        }
    }
}
