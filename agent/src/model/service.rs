//! Services of type LoadBalancer -> claims for addresses, frontends and their backends.
//!
//! A port that cannot be programmed is left out and named in the verdict; the others work. The same `VIP:port` claimed
//! twice belongs to the older object ([`super::ownership`]), and a port that a host needs to nobody.
mod demand;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

pub use demand::CLASS;
use demand::Demand;

use super::{
    Backend, EndpointShare, EndpointTarget, Frontend, Model, Node, ObjectRef, Outcome, Port, Proto, Target, Verdict,
    WhenEmpty,
    chain::Links,
    endpoints::{self, Family, SliceIndex},
    ipam::{self, Claim},
    ownership,
    pool::Pools,
    report::Fault,
    sources::{Lists, Ranges, Sources},
};
use crate::{
    api::{
        ObjectName, Service,
        service::{DEFAULT_AFFINITY_SECONDS, ServicePort, ServiceSpec, SessionAffinity, TrafficPolicy},
    },
    shared::SharedMap,
    source::Snapshot,
};

/// Ports of one Service at most; one that has more gets no frontend at all.
pub const MAX_PORTS: usize = 100;

/// The annotation that asks for a Route of OpenShift: its host name, or `auto`.
pub const ROUTE_HOST: &str = "sluice.dev/route-host";

/// Annotations that people write; another one under [`ipam::PREFIX`] is a typo.
const ANNOTATIONS: [&str; 5] = [ipam::ADDRESSES, ipam::POOL, ipam::SHARING_KEY, ipam::SHARING_NAMESPACES, ROUTE_HOST];

/// What the Services that are ours claim, and a verdict for those that claim nothing.
#[must_use]
pub fn claims(snapshot: &Snapshot, node: &Node, pools: &Pools) -> (Vec<Claim>, Vec<(ObjectRef, Verdict)>) {
    let (mut claims, mut verdicts) = (Vec::with_capacity(snapshot.services.len()), Vec::new());
    for (name, service) in &snapshot.services {
        let verdict = match Demand::of(service, node, pools) {
            Demand::Addresses(claim) => {
                claims.push(*claim);
                continue;
            }
            Demand::Releasing(claim, verdict) => {
                claims.push(*claim);
                verdict
            }
            Demand::Nothing(verdict) => verdict,
        };
        verdicts.push((ObjectRef::new("Service", name.clone()), verdict));
    }
    (claims, verdicts)
}

/// All Services, the oldest first, then by name.
pub(super) fn by_age(snapshot: &Snapshot) -> Vec<&Arc<Service>> {
    let mut services = snapshot.services.values().collect::<Vec<_>>();
    // Stable, and the map is in the order of names.
    services.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    services
}

/// What was made of Services before.
#[derive(Debug, Default)]
pub(super) struct Targets {
    made: HashMap<Frontend, Made>,
    vips: Arc<Vips>,
    /// What was made no longer holds; an equal one is still shared.
    is_stale: bool,
}

/// The addresses that were given to anybody.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Vips {
    /// Those that are ours alone.
    own: BTreeSet<IpAddr>,
    /// The frontends at those that are a node's as well: what else is there is the node's, and may be an endpoint.
    of_nodes: BTreeSet<Frontend>,
}

impl Vips {
    /// Whether an object has this address, port and protocol: no endpoint has.
    pub(super) fn has(&self, at: &Frontend) -> bool {
        self.own.contains(&at.vip) || self.of_nodes.contains(at)
    }
}

#[derive(Debug)]
struct Made {
    service: Arc<Service>,
    target: Arc<EndpointTarget>,
    notes: Vec<String>,
}

impl Targets {
    /// Takes over the addresses that were given: no backend has one.
    pub(super) fn note(&mut self, claims: &[Claim], model: &Model) {
        let is_of_node = |addr: &IpAddr| model.pools.is_of_node(*addr);
        let own = model.allocations.values().flatten().copied().filter(|addr| !is_of_node(addr)).collect();
        let mut of_nodes = BTreeSet::new();
        for claim in claims {
            let addrs = model.allocations.get(&claim.object).into_iter().flatten().filter(|addr| is_of_node(addr));
            let all = addrs.flat_map(|vip| {
                claim.ports.iter().map(|(port, proto)| Frontend { vip: *vip, port: *port, proto: *proto })
            });
            of_nodes.extend(all.filter(|at| model.pools.reserves(at.vip, at.port).is_none()));
        }
        let vips = Vips { own, of_nodes };
        if vips != *self.vips {
            self.vips = Arc::new(vips);
            self.is_stale = true;
        }
    }

    /// Whether an object has this address and port of TCP: no endpoint has.
    pub(super) fn has_vip(&self, vip: IpAddr, port: Port) -> bool {
        self.vips.has(&Frontend { vip, port, proto: Proto::Tcp })
    }

    /// Every address given to anybody.
    pub(super) fn vips(&self) -> Arc<Vips> {
        Arc::clone(&self.vips)
    }

    /// Whether what was made of other objects may not hold any more.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Tells that what was made may not hold any more, whatever the objects say.
    pub(super) fn invalidate(&mut self) {
        self.is_stale = true;
    }

    /// Forgets what the model does not have; the rest holds.
    pub(super) fn retain(&mut self, model: &Model) {
        self.made.retain(|frontend, _| model.frontends.contains_key(frontend));
        self.is_stale = false;
    }
}

/// Compiles Services one by one, at the addresses in `model.allocations`.
pub(super) struct Compiler<'a> {
    slices: &'a SliceIndex,
    node: &'a Node,
    /// Services whose slices are others than before.
    touched: &'a BTreeSet<ObjectName>,
    /// Services whose flows go to the proxy, in whole or in part.
    links: &'a Links,
    /// From where clients may come.
    sources: &'a Lists,
    targets: &'a mut Targets,
    /// Every address given to anybody.
    vips: Arc<Vips>,
}

impl<'a> Compiler<'a> {
    pub(super) fn new(
        slices: &'a SliceIndex,
        node: &'a Node,
        touched: &'a BTreeSet<ObjectName>,
        (links, sources): (&'a Links, &'a Lists),
        targets: &'a mut Targets,
    ) -> Self {
        let vips = Arc::clone(&targets.vips);
        Self { slices, node, touched, links, sources, targets, vips }
    }

    /// Adds one Service's frontends and its verdict, or replaces them where its endpoints alone have changed. All
    /// older Services must have been added.
    pub(super) fn add(&mut self, service: &Arc<Service>, model: &mut Model) {
        let object = ObjectRef::new("Service", service.metadata.object_name());
        let Model { allocations, frontends, pools, .. } = model;
        // Without an address: whoever refused it has said why.
        let Some(addrs) = allocations.get(&object) else { return };
        let verdict = self.program(&object.object, service, addrs, pools, frontends);
        model.judge(object, verdict);
    }

    /// Adds the frontends of one Service and says what became of it.
    fn program(
        &mut self,
        name: &ObjectName,
        service: &Arc<Service>,
        vips: &[IpAddr],
        pools: &Pools,
        frontends: &mut SharedMap<Frontend, Target>,
    ) -> Verdict {
        let mut report = Report::default();
        let ports = usable_ports(service, &mut report);
        // What cannot be enforced leaves the Service without frontends: open to all it must not be.
        let (sources, served) = match self.sources.of(name) {
            Ok(sources) => (sources, vips),
            Err(Fault { reason, message }) => {
                report.refuse(reason, message);
                (Sources::default(), &[][..])
            }
        };
        let is_touched = self.touched.contains(name);
        let link = self.links.get(name);
        for vip in served {
            let sources = sources.at(*vip);
            if sources.is_some_and(|ranges| ranges.is_empty()) {
                let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
                report.note(format!("{vip}: the source ranges have none of {family}: nobody may connect"));
            }
            for (written, port, proto) in &ports {
                let frontend = Frontend { vip: *vip, port: *port, proto: *proto };
                let holder = frontends.get(&frontend).filter(|known| !is_of(known, name)).map(Target::owner);
                if let Some(Fault { reason, message }) = ownership::refusal(&frontend, holder, pools) {
                    report.refuse(reason, message);
                    continue;
                }
                self.node.host.warning(&frontend).into_iter().for_each(|sentence| report.note(sentence));
                if let Some(gateway) = link.and_then(|link| link.serves(*port, *proto)) {
                    // What was made for it must not come back: its endpoints are not followed meanwhile.
                    self.targets.made.remove(&frontend);
                    let (gateway, created) = (gateway.clone(), service.metadata.created());
                    let (service, sources) = (Some(name.clone()), sources.cloned());
                    frontends.insert(frontend, Target::Proxy { gateway, service, sources, created });
                    report.programmed += 1;
                } else {
                    let made = self.made(service, written, frontend, sources, is_touched);
                    made.notes.iter().for_each(|sentence| report.note(sentence.clone()));
                    frontends.insert(frontend, Target::Endpoints(Arc::clone(&made.target)));
                    report.programmed += 1;
                }
            }
        }
        link.into_iter().flat_map(|link| link.remarks(service)).for_each(|sentence| report.note(sentence));
        remark(service, vips, pools, &mut report);
        report.verdict()
    }

    /// What a frontend leads to: as remembered where nothing that it is made of has changed.
    fn made(
        &mut self,
        service: &Arc<Service>,
        port: &ServicePort,
        at: Frontend,
        sources: Option<&Ranges>,
        is_touched: bool,
    ) -> &Made {
        let known = self.targets.made.get(&at);
        let holds = !is_touched && !self.targets.is_stale;
        if !known.is_some_and(|made| holds && Arc::ptr_eq(&made.service, service)) {
            let (mut target, notes) = self.target(service, port, at);
            target.sources = sources.cloned();
            let target = match known.filter(|made| *made.target == target) {
                Some(made) => Arc::clone(&made.target),
                None => Arc::new(target),
            };
            self.targets.made.insert(at, Made { service: Arc::clone(service), target, notes });
        }
        &self.targets.made[&at]
    }

    fn target(&self, service: &Service, port: &ServicePort, at: Frontend) -> (EndpointTarget, Vec<String>) {
        let mut selected = endpoints::select_port(self.slices, service, port, Family::of(at.vip), self.node);
        let proto = at.proto;
        selected.exclude(|backend: &Backend| self.vips.has(&Frontend { vip: backend.addr, port: backend.port, proto }));
        let is_local = service.spec.external_traffic_policy.is(TrafficPolicy::Local);
        let exists = !selected.cluster.is_empty();
        let (backends, draining) = if is_local {
            let mut others = selected.cluster;
            others.append(&mut selected.draining);
            others.retain(|backend| selected.local.binary_search(backend).is_err());
            others.sort_unstable();
            (selected.local, others)
        } else {
            (selected.cluster, selected.draining)
        };
        let when_empty = if is_local && exists { WhenEmpty::Drop } else { WhenEmpty::Reject };
        let mut notes = selected.skipped;
        if backends.is_empty() {
            notes.push(match when_empty {
                WhenEmpty::Reject => format!("{at} has no endpoint: connections are rejected"),
                WhenEmpty::Drop => format!("{at} has no endpoint on this node: connections are dropped here"),
            });
        }
        let name = service.metadata.object_name();
        let (service_name, port_name) = (name.clone(), port.name.clone());
        let share = EndpointShare { weight: 1, service: service_name, port: at.port, port_name, backends, draining };
        let target = EndpointTarget {
            owner: ObjectRef::new("Service", name),
            route: None,
            shares: vec![share],
            refused: 0,
            when_empty,
            affinity: service.spec.session_affinity.is(SessionAffinity::ClientIp),
            sources: None,
            created: service.metadata.created(),
        };
        (target, notes)
    }
}

/// Things that are odd and harm nothing.
fn remark(service: &Service, vips: &[IpAddr], pools: &Pools, report: &mut Report) {
    for vip in vips.iter().filter(|vip| pools.of(**vip).is_none()) {
        report.note(format!("{vip} is in no pool; it stays because the Service had it before"));
    }
    let annotations = &service.metadata.annotations;
    for (name, value) in annotations.iter().filter(|(name, _)| name.starts_with(ipam::PREFIX)) {
        if name == ipam::ALLOCATED {
            let odd = value.split(',').map(str::trim).filter(|v| !v.parse().is_ok_and(|addr| vips.contains(&addr)));
            for odd in odd {
                report.note(format!("annotation {name} holds {odd:?}, which the Service cannot have; it is ignored"));
            }
        }
    }
    unknown_annotations(service).into_iter().for_each(|sentence| report.note(sentence));
    not_followed(service).into_iter().for_each(|sentence| report.note(sentence));
}

/// The fields of a Service that say something which is not done, a sentence each.
fn not_followed(service: &Service) -> Vec<String> {
    let ServiceSpec { session_affinity, session_affinity_config, health_check_node_port, .. } = &service.spec;
    let timeout = session_affinity_config.client_ip.timeout_seconds;
    let timeout = timeout
        .filter(|seconds| session_affinity.is(SessionAffinity::ClientIp) && *seconds != DEFAULT_AFFINITY_SECONDS);
    let timeout = timeout.map(|seconds| {
        let place = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        format!("{place} is {seconds} and not followed: affinity holds for as long as the endpoints are the same")
    });
    let port = Some(health_check_node_port).filter(|port| **port != 0).map(|port| {
        format!("spec.healthCheckNodePort is {port} and not served by Sluice: kube-proxy answers there where it runs")
    });
    timeout.into_iter().chain(port).collect()
}

/// The annotations of a Service that are not known and must be typos, a sentence each.
#[must_use]
pub fn unknown_annotations(service: &Service) -> Vec<String> {
    let names = service.metadata.annotations.keys().filter(|name| name.starts_with(ipam::PREFIX));
    let unknown = names.filter(|name| *name != ipam::ALLOCATED && !ANNOTATIONS.contains(&name.as_str()));
    unknown.map(|name| format!("annotation {name} is not known; want {}", ANNOTATIONS.join(", "))).collect()
}

/// The ports that can be programmed; the others are refused one by one.
fn usable_ports<'a>(service: &'a Service, report: &mut Report) -> Vec<(&'a ServicePort, Port, Proto)> {
    let ports = &service.spec.ports;
    if ports.len() > MAX_PORTS {
        report.refuse("TooManyPorts", format!("spec.ports has {} ports, want {MAX_PORTS} at most", ports.len()));
        return Vec::new();
    }
    if ports.is_empty() {
        report.refuse("NoPorts", "spec.ports is empty, want one port at least".to_owned());
    }
    let mut usable: Vec<(&ServicePort, Port, Proto)> = Vec::with_capacity(ports.len());
    for (index, written) in ports.iter().enumerate() {
        let place = format!("spec.ports[{index}]");
        let proto = match written.protocol() {
            "TCP" => Proto::Tcp,
            "UDP" => Proto::Udp,
            odd => {
                report.refuse("UnsupportedProtocol", format!("{place}: protocol is {odd}, want TCP or UDP"));
                continue;
            }
        };
        let Some(port) = Port::try_new(written.port) else {
            report.refuse("InvalidPort", format!("{place}: port is {}, want 1 to 65535", written.port));
            continue;
        };
        if usable.iter().any(|(_, p, t)| (*p, *t) == (port, proto)) {
            report.refuse("DuplicatePort", format!("{place}: {port}/{proto} is there before, want each port once"));
        } else if usable.iter().any(|(known, ..)| known.name == written.name) {
            let text = format!("{place}: name {:?} is there before, want a name of its own", written.name);
            report.refuse("DuplicatePortName", text);
        } else {
            usable.push((written, port, proto));
        }
    }
    usable
}

/// Whether a frontend is a Service's own.
fn is_of(target: &Target, service: &ObjectName) -> bool {
    match target {
        Target::Endpoints(endpoints) => endpoints.owner.kind == "Service" && endpoints.owner.object == *service,
        Target::Proxy { service: of, .. } => of.as_ref() == Some(service),
    }
}

/// What is found while a Service is compiled.
#[derive(Default)]
struct Report {
    /// Frontends made.
    programmed: usize,
    /// The reason of the first refusal.
    refused: Option<&'static str>,
    messages: Vec<String>,
}

impl Report {
    fn refuse(&mut self, reason: &'static str, message: String) {
        self.refused.get_or_insert(reason);
        self.note(message);
    }

    /// Once, however many ports and families find it.
    fn note(&mut self, message: String) {
        if !self.messages.contains(&message) {
            self.messages.push(message);
        }
    }

    fn verdict(self) -> Verdict {
        let Self { programmed, refused, messages } = self;
        let outcome = match refused {
            None => Outcome::Accepted,
            Some(_) if programmed > 0 => Outcome::Partial,
            Some(_) => Outcome::Refused,
        };
        Verdict { outcome, reason: refused.unwrap_or("Accepted"), messages }
    }
}
