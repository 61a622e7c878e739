//! Gateways -> claims for addresses, frontends that lead to the proxy or to endpoints, and the proxy's listeners.
//!
//! Ours are those of a GatewayClass of ours. A listener that cannot be served is refused by name and keeps no other from
//! working; an address that cannot be had refuses the whole Gateway. Routes are attached by `model::route`.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Frontend, Model, Node, ObjectRef, Outcome, Port, Proto, Target, Verdict,
    backend_tls::Users,
    certificate::{self, Certificate},
    endpoints::Family,
    grants::Grants,
    http::{HttpListener, HttpModel, Identity, ServicePort, limits::Limits},
    ipam::Claim,
    limits,
    listener::{Open, Protocol, Served},
    listener_set::{self, Sets},
    mesh, ownership,
    pool::Pools,
    report::{Fault, GatewayReport, GatewayReports, SetReport, Subject},
    route::{Held, Routes},
    stream::{Endpoints, Streams},
    stream_route::StreamEntry,
    tls::{Security, client_certificate, has_insecure_fallback},
};
use crate::{
    api::{Gateway, GatewayClass, ObjectName, gateway::Listener},
    source::Snapshot,
    spelling::nearest,
};

/// The GatewayClass whose Gateways are ours where there is no such object.
pub const CLASS: &str = "sluice";
/// The `controllerName` of GatewayClasses whose Gateways are ours, and of what we write in `status`.
pub const CONTROLLER: &str = "sluice.dev/gateway";

const NO_ADDRESS: &str = "the Gateway has no address";

/// The listeners of each Gateway that is ours, in the order in which they are written, and the ports of Services that are parents
/// (`model::mesh`).
pub type Listeners = BTreeMap<ObjectName, Arc<Vec<Served>>>;

/// The listeners that the proxy serves at each port of each Gateway, whether or not it has an address.
pub type ListenersByPort = BTreeMap<(ObjectName, Port), Arc<Vec<HttpListener>>>;

/// What the proxy serves of the Gateways, by their ports.
#[derive(Debug, Default)]
pub(super) struct Proxied {
    /// The listeners.
    pub(super) by_port: ListenersByPort,
    /// Where among them a listener of a Gateway is, which is known by its place in [`Listeners`].
    pub(super) places: BTreeMap<(ObjectName, usize), (Port, usize)>,
}

/// The listeners of the Gateways that are ours; where they are as they were, the very same.
pub(super) fn listeners(
    (snapshot, grants): (&Snapshot, &Grants<'_>),
    sets: &Sets<'_>,
    certificates: &mut certificate::Store,
    last: &Listeners,
) -> Listeners {
    let served = |(name, gateway): (&ObjectName, &Arc<Gateway>)| {
        let mut all = listener_set::merged(gateway, sets.get(name));
        all.iter_mut().for_each(|served| served.secure((snapshot, grants), (name, gateway), certificates));
        let all = match last.get(name) {
            Some(last) if **last == all => Arc::clone(last),
            _ => Arc::new(all),
        };
        (name.clone(), all)
    };
    let mut listeners: Listeners = ours(snapshot).map(served).collect();
    listeners.extend(mesh::listeners(snapshot, last));
    certificates.forget_unused();
    listeners
}

/// What the Gateways that are ours claim.
#[must_use]
pub(super) fn claims(snapshot: &Snapshot, sets: &Sets<'_>, pools: &Pools) -> Vec<Claim> {
    let port = |listener: &Listener| {
        let proto = Protocol::of(&listener.protocol).map_or(Proto::Tcp, Protocol::transport);
        Some((Port::try_new(listener.port)?, proto))
    };
    let claim = |(name, gateway): (&ObjectName, &Arc<Gateway>)| {
        let metadata = &gateway.metadata;
        let requested = requested(gateway).ok()?;
        let in_status = gateway.status.addresses.iter().filter_map(|a| a.value.as_ref()?.parse().ok()).collect();
        let wants = |family: &Family| requested.is_empty() || requested.iter().any(|addr| family.admits(*addr));
        Some(Claim {
            families: [Family::V4, Family::V6].into_iter().filter(wants).collect(),
            in_status,
            is_of_our_class: true,
            requested,
            ports: listener_set::specs(gateway, sets.get(name)).filter_map(port).collect(),
            ..Claim::of(object(name), metadata, pools)
        })
    };
    ours(snapshot).filter_map(claim).collect()
}

/// The Gateways that show a certificate to backends, and those that should.
pub(super) type Certified = BTreeMap<ObjectName, Result<Arc<Certificate>, Fault>>;

/// The certificates that Gateways show to backends.
pub(super) fn certified(
    (snapshot, grants): (&Snapshot, &Grants<'_>),
    certificates: &mut certificate::Store,
) -> Certified {
    let of = |(name, gateway): (&ObjectName, &Arc<Gateway>)| {
        let found = client_certificate((snapshot, grants), (name, gateway), certificates);
        Some((name.clone(), found.transpose()?))
    };
    ours(snapshot).filter_map(of).collect()
}

/// What listens at a port of a Gateway.
enum AtPort {
    /// The proxy, with these listeners.
    Proxy(Vec<HttpListener>),
    /// The programs, with the endpoints that this route names; without a route, nobody.
    Endpoints(Option<StreamEntry>),
}

impl Default for AtPort {
    fn default() -> Self {
        Self::Proxy(Vec::new())
    }
}

/// Compiles the Gateways that are ours one by one, at the addresses in `model.allocations`.
pub(super) struct Compiler<'a> {
    snapshot: &'a Snapshot,
    node: &'a Node,
    endpoints: Endpoints<'a>,
    streams: &'a mut Streams,
    listeners: &'a Listeners,
    routes: &'a Routes,
    sets: Sets<'a>,
    http: HttpModel,
    proxied: Proxied,
    reports: GatewayReports,
    /// Whether the Gateways that should show a certificate to backends have it.
    pub(super) resolved: Certified,
    /// The last model, whose settings go on where new ones are not understood.
    pub(super) last: Arc<Model>,
}

impl<'a> Compiler<'a> {
    /// The routes are attached to the listeners; no Gateway has frontends yet.
    pub(super) fn new(
        endpoints: Endpoints<'a>,
        streams: &'a mut Streams,
        (listeners, sets): (&'a Listeners, Sets<'a>),
        routes: &'a Routes,
        model: &mut Model,
    ) -> Self {
        let Endpoints { snapshot, node, .. } = endpoints;
        let http = Arc::unwrap_or_clone(std::mem::take(&mut model.http));
        let (proxied, reports, resolved) = (Proxied::default(), GatewayReports::new(), Certified::new());
        let last = Arc::default();
        Self { snapshot, node, endpoints, streams, listeners, routes, sets, http, proxied, reports, resolved, last }
    }

    /// Adds one Gateway's frontends, its listeners and its report. All objects that are older must have been added.
    pub(super) fn add(&mut self, name: &ObjectName, gateway: &Gateway, model: &mut Model) {
        let (listeners, routes) = (self.listeners, self.routes);
        let served = listeners.get(name).map_or(&[][..], |served| served.as_slice());
        let mut report = self.program((name, gateway), (served, routes.held(name)), model);
        for listener_set::Set { name, spec, allowed } in self.sets.remove(name).unwrap_or_default() {
            let set = SetReport::of(name.clone(), Subject::of(&spec.metadata), allowed, &report.listeners);
            model.judge(ObjectRef::new("ListenerSet", name.clone()), set.verdict());
            report.sets.push(set);
        }
        self.reports.insert(name.clone(), Arc::new(report));
    }

    /// Adds one Gateway's frontends and its verdict.
    fn program(
        &mut self,
        (name, gateway): (&ObjectName, &Gateway),
        (served, held): (&[Served], &[Held]),
        model: &mut Model,
    ) -> GatewayReport {
        let object = object(name);
        let vips = model.allocations.get(&object).cloned().unwrap_or_default();
        let mut report = GatewayReport {
            subject: Subject::of(&gateway.metadata),
            accepted: understood(gateway),
            addressed: addressed(gateway, &vips, model.verdicts.get(&object)),
            resolved: self.resolved.remove(name).map(|found| found.map(drop)),
            parameters: Ok(()),
            is_insecure: has_insecure_fallback(gateway),
            listeners: served.iter().zip(held).map(|(served, held)| served.report(held.attached)).collect(),
            sets: Vec::new(),
        };
        if gateway.metadata.deletion_timestamp.is_some() {
            let messages = vec!["it is being deleted".to_owned()];
            model.judge(object, Verdict { outcome: Outcome::Ignored, reason: "Deleted", messages });
            return report;
        }
        if let Err(fault) = &report.accepted {
            model.judge(object, fault.clone().refusal());
            return report;
        }
        let (limits, unknown) = self.limits(name, gateway, &report.subject);
        let unheard = limits.proxy_ports.iter().filter(|port| !served.iter().any(|one| listens(one, **port)));
        let unheard: Vec<String> = unheard.map(ToString::to_string).collect();
        let unheard = (!unheard.is_empty()).then(|| {
            let why = format!("no listener is at port {}, which is among its proxy-protocol-ports", unheard.join(", "));
            Fault::new("InvalidParameters", why)
        });
        let wrong: Vec<Fault> = unknown.into_iter().chain(unheard).collect();
        report.parameters = Fault::join(&wrong).map_or(Ok(()), Err);
        if *limits != Limits::default() {
            self.http.limits.insert(name.clone(), limits);
        }
        let mut faults: Vec<Fault> =
            report.resolved.iter().filter_map(|resolved| resolved.as_ref().err().cloned()).chain(wrong).collect();
        let mut ports: BTreeMap<(Port, Proto), AtPort> = BTreeMap::new();
        let mut of_port: BTreeMap<(Port, Proto), Vec<usize>> = BTreeMap::new();
        for (index, (one, held)) in served.iter().zip(held).enumerate() {
            let place = format!("listener {:?}", one.spec.name);
            let (full_name, is_own) = (one.full_name(), one.set.is_none());
            match one.open().cloned() {
                Ok(Open { protocol, port, hostname }) => {
                    faults.extend(one.resolved.clone().err().filter(|_| is_own).map(|fault| fault.at(&place)));
                    let tls = match &one.security {
                        Security::Plain | Security::Passthrough => None,
                        Security::Terminate(termination) => Some(Arc::clone(termination)),
                        Security::Unready => continue,
                    };
                    let at = (port, protocol.transport());
                    of_port.entry(at).or_default().push(index);
                    let at_port = ports.entry(at).or_default();
                    if protocol.is_layer4() {
                        self.streams.pass_over(&format!("Gateway {name}, {place}"), &held.streams);
                        *at_port = AtPort::Endpoints(held.streams.first().cloned());
                    } else if let AtPort::Proxy(listeners) = at_port {
                        let (gateway, name) = (name.clone(), full_name);
                        let streams = (protocol == Protocol::Tls).then(|| Arc::clone(&held.streams));
                        let entries = held.entries.clone();
                        self.proxied.places.insert((gateway.clone(), index), (port, listeners.len()));
                        listeners.push(HttpListener { gateway, name, hostname, tls, streams, entries });
                    }
                }
                Err(fault) if is_own => faults.push(fault.clone().at(&place)),
                // That is for the set to say.
                Err(_) => {}
            }
        }
        let mut programmed = 0;
        let mut warnings = Vec::new();
        for ((port, proto), at_port) in ports {
            let at_port = match at_port {
                AtPort::Proxy(listeners) => Ok(Arc::new(listeners)),
                AtPort::Endpoints(route) => Err(route),
            };
            if let Ok(listeners) = &at_port {
                self.proxied.by_port.insert((name.clone(), port), Arc::clone(listeners));
            }
            let mut taken = Vec::new();
            for &vip in &vips {
                let frontend = Frontend { vip, port, proto };
                let holder = model.frontends.get(&frontend).map(Target::owner);
                if let Some(fault) = ownership::refusal(&frontend, holder, &model.pools) {
                    taken.push(fault);
                    continue;
                }
                warnings.extend(self.node.host.warning(&frontend));
                let target = match &at_port {
                    Ok(listeners) => {
                        self.http.frontends.insert(SocketAddr::new(vip, port.get()), Arc::clone(listeners));
                        let created = gateway.metadata.created();
                        Target::Proxy { gateway: name.clone(), service: None, sources: None, created }
                    }
                    Err(route) => {
                        let owner = (object.clone(), gateway.metadata.created());
                        let target = self.streams.target(&self.endpoints, owner, frontend, route.as_ref());
                        Target::Endpoints(target)
                    }
                };
                model.frontends.insert(frontend, target);
                programmed += 1;
            }
            if taken.len() == vips.len()
                && let Some(all) = Fault::join(&taken)
            {
                for index in of_port.remove(&(port, proto)).unwrap_or_default() {
                    report.listeners[index].accepted = Err(Fault { reason: "PortUnavailable", ..all.clone() });
                }
            }
            faults.extend(taken);
        }
        // Without an address the allocator has said why already.
        if !vips.is_empty() || !model.verdicts.contains_key(&object) {
            let mut verdict = verdict(programmed > 0, vips.is_empty(), faults);
            verdict.messages.append(&mut warnings);
            model.judge(object, verdict);
        }
        report
    }

    /// What a Gateway's annotations say; where something is not understood, what it had before, and why.
    fn limits(&self, name: &ObjectName, gateway: &Gateway, subject: &Subject) -> (Arc<Limits>, Option<Fault>) {
        let (limits, fault) = limits::of(&gateway.metadata.annotations);
        let Some(fault) = fault else { return (Arc::new(limits), None) };
        let was = self.last.gateways.get(name).filter(|was| was.subject.uid == subject.uid);
        match was {
            Some(_) => {
                let limits = self.last.http.limits.get(name).cloned().unwrap_or_default();
                let message = format!("the settings before this one go on: {}", fault.message);
                (limits, Some(Fault { message, ..fault }))
            }
            None => (
                Arc::new(limits),
                Some(Fault { message: format!("as if it were not there: {}", fault.message), ..fault }),
            ),
        }
    }

    /// Adds the listeners of the Services that stand before Gateways, and what became of the classes. Returns the listeners by
    /// port.
    pub(super) fn finish(self, model: &mut Model) -> Proxied {
        let Self {
            snapshot,
            node: _,
            endpoints: _,
            last: _,
            streams,
            listeners,
            routes,
            sets: _,
            mut http,
            mut proxied,
            reports,
            resolved: _,
        } = self;
        streams.finish(model);
        for (frontend, target) in &model.frontends {
            if let Target::Proxy { gateway, service: Some(_), .. } = target
                && let Some(listeners) = proxied.by_port.get(&(gateway.clone(), frontend.port))
            {
                http.frontends.insert(SocketAddr::new(frontend.vip, frontend.port.get()), Arc::clone(listeners));
            }
        }
        mesh::serve((snapshot, listeners, routes), &mut http, &mut proxied);
        judge_classes(snapshot, model);
        for (name, _) in &snapshot.listener_sets {
            let object = ObjectRef::new("ListenerSet", name.clone());
            if !model.verdicts.contains_key(&object) {
                let messages = vec!["its parentRef names no Gateway of ours".to_owned()];
                model.judge(object, Verdict { outcome: Outcome::Ignored, reason: "NoMatchingParent", messages });
            }
        }
        model.http = Arc::new(http);
        model.gateways = Arc::new(reports);
        proxied
    }
}

/// Who the Gateways are to the backends of ports that have a policy, where they show a certificate.
pub(super) fn identities(certified: &Certified, users: &Users) -> BTreeMap<ObjectName, Identity> {
    let identity = |(name, found): (&ObjectName, &Result<Arc<Certificate>, Fault>)| {
        let named = users.iter().filter(|(_, gateways)| gateways.contains(name));
        let ports: BTreeSet<ServicePort> = named.map(|(port, _)| port.clone()).collect();
        let certificate = found.clone().map_err(|fault| format!("Gateway {name}: {}", fault.message));
        (name.clone(), Identity { certificate, ports })
    };
    certified.iter().map(identity).filter(|(_, identity)| !identity.ports.is_empty()).collect()
}

/// Says what became of the GatewayClasses that are ours.
fn judge_classes(snapshot: &Snapshot, model: &mut Model) {
    for (name, class) in &snapshot.gateway_classes {
        if class.spec.controller_name == CONTROLLER {
            let (outcome, reason, messages) = match class_accepted(class) {
                Ok(()) => (Outcome::Accepted, "Accepted", Vec::new()),
                Err(Fault { reason, message }) => (Outcome::Partial, reason, vec![message]),
            };
            let object = ObjectRef::new("GatewayClass", ObjectName::new("", name));
            model.judge(object, Verdict { outcome, reason, messages });
        }
    }
    ignored(snapshot).into_iter().for_each(|(object, verdict)| model.judge(object, verdict));
}

/// Why Gateways and classes that are not ours are left alone.
fn ignored(snapshot: &Snapshot) -> Vec<(ObjectRef, Verdict)> {
    let foreign = |reason, message| Verdict { outcome: Outcome::Ignored, reason, messages: vec![message] };
    let classes = snapshot.gateway_classes.iter().filter(|(_, class)| class.spec.controller_name != CONTROLLER);
    let classes = classes.map(|(name, class)| {
        let message = format!("controllerName is {:?}, want {CONTROLLER:?}", class.spec.controller_name);
        (ObjectRef::new("GatewayClass", ObjectName::new("", name)), foreign("ForeignController", message))
    });
    let gateways = snapshot.gateways.iter().filter(|(_, gateway)| !is_ours(snapshot, gateway));
    let gateways = gateways.map(|(name, gateway)| {
        let class = &gateway.spec.gateway_class_name;
        let verdict = if let Some(found) = snapshot.gateway_classes.get(class) {
            let controller = &found.spec.controller_name;
            foreign(
                "ForeignClass",
                format!("GatewayClass {class:?} is of {controller:?}, want a class of {CONTROLLER:?}"),
            )
        } else {
            let known = snapshot.gateway_classes.keys().map(String::as_str).chain([CLASS]);
            let meant = nearest(class, known).map(|name| format!(", did you mean {name:?}?")).unwrap_or_default();
            foreign("NoSuchClass", format!("gatewayClassName is {class:?}, and there is no such GatewayClass{meant}"))
        };
        (object(name), verdict)
    });
    classes.chain(gateways).collect()
}

/// The ports at which a Gateway's listeners are served by the proxy.
///
/// # Errors
/// None of them is: it is not ours, or not accepted.
pub(super) fn open_ports(snapshot: &Snapshot, sets: &Sets<'_>, gateway: &Gateway) -> Result<BTreeSet<Port>, Fault> {
    if !is_ours(snapshot, gateway) {
        let class = &gateway.spec.gateway_class_name;
        return Err(Fault::new("GatewayNotOurs", format!("its class {class:?} is another controller's")));
    }
    if gateway.metadata.deletion_timestamp.is_some() {
        return Err(Fault::new("GatewayNotFound", "it is being deleted"));
    }
    understood(gateway).map_err(|fault| Fault { reason: "GatewayNotAccepted", ..fault })?;
    let all = listener_set::merged(gateway, sets.get(&gateway.metadata.object_name()));
    let proxied = all.iter().filter_map(|served| served.open().ok()).filter(|open| !open.protocol.is_layer4());
    Ok(proxied.map(|open| open.port).collect())
}

/// Whether a GatewayClass of ours is one that we can serve.
///
/// # Errors
/// It has settings; its Gateways are served nevertheless, for a class is a template.
pub fn class_accepted(class: &GatewayClass) -> Result<(), Fault> {
    if class.spec.parameters_ref.is_none() {
        return Ok(());
    }
    let why = "parametersRef is set, want it absent: there are no settings; Gateways are served without";
    Err(Fault::new("InvalidParameters", why))
}

/// Whether what is asked for, listeners apart, is something that there is.
fn understood(gateway: &Gateway) -> Result<(), Fault> {
    if gateway.spec.infrastructure.parameters_ref.is_some() {
        let why = "infrastructure.parametersRef is set, want it absent: settings are annotations, proxy.sluice.dev/";
        return Err(Fault::new("InvalidParameters", why));
    }
    requested(gateway).map(drop).map_err(|message| Fault::new("UnsupportedAddress", message))
}

/// Whether a listener of HTTP or TLS is at a port.
fn listens(served: &Served, port: u16) -> bool {
    served.open().is_ok_and(|open| open.port.get() == port && !open.protocol.is_layer4())
}

/// Whether it has an address; else what the allocator said.
fn addressed(gateway: &Gateway, vips: &[IpAddr], verdict: Option<&Verdict>) -> Result<(), Fault> {
    if !vips.is_empty() {
        return Ok(());
    }
    let asks = requested(gateway).is_ok_and(|addrs| !addrs.is_empty());
    let Some(verdict) = verdict else { return Err(Fault::new("AddressNotAssigned", NO_ADDRESS)) };
    let is_refused = verdict.outcome == Outcome::Refused && verdict.reason != "Pending";
    let reason = if asks && is_refused { "AddressNotUsable" } else { "AddressNotAssigned" };
    Err(Fault::new(reason, format!("{}: {}", verdict.reason, verdict.messages.join("; "))))
}

fn verdict(programmed: bool, unassigned: bool, faults: Vec<Fault>) -> Verdict {
    let outcome = match (programmed, faults.is_empty()) {
        (true, true) => Outcome::Accepted,
        (true, false) => Outcome::Partial,
        (false, _) => Outcome::Refused,
    };
    let reason = match (outcome, unassigned, faults.first()) {
        (Outcome::Accepted, ..) => "Accepted",
        (_, true, None) => "AddressNotAssigned",
        (_, _, Some(first)) if faults.iter().all(|fault| fault.reason == first.reason) => first.reason,
        _ => "ListenersNotValid",
    };
    let mut messages: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
    if unassigned {
        messages.push(NO_ADDRESS.to_owned());
    } else if !programmed && messages.is_empty() {
        messages.push("the Gateway has no listener".to_owned());
    }
    Verdict { outcome, reason, messages }
}

fn object(name: &ObjectName) -> ObjectRef {
    ObjectRef::new("Gateway", name.clone())
}

/// Whether a Gateway is ours: its class names us, or is [`CLASS`] and nobody says whose that is.
#[must_use]
pub fn is_ours(snapshot: &Snapshot, gateway: &Gateway) -> bool {
    let name = &gateway.spec.gateway_class_name;
    match snapshot.gateway_classes.get(name) {
        Some(class) => class.spec.controller_name == CONTROLLER,
        None => name == CLASS,
    }
}

/// The Gateways that are ours, in the order of their names.
pub(super) fn ours(snapshot: &Snapshot) -> impl Iterator<Item = (&ObjectName, &Arc<Gateway>)> {
    snapshot.gateways.iter().filter(|(_, gateway)| is_ours(snapshot, gateway))
}

/// The addresses a Gateway asks for; an entry without value asks for any.
fn requested(gateway: &Gateway) -> Result<Vec<IpAddr>, String> {
    let mut out = Vec::new();
    for address in &gateway.spec.addresses {
        let kind = address.kind.as_deref().unwrap_or("IPAddress");
        if kind != "IPAddress" {
            return Err(format!("spec.addresses: type {kind:?}, want \"IPAddress\""));
        }
        if let Some(value) = address.value.as_deref().filter(|v| !v.is_empty()) {
            out.push(value.parse().map_err(|_| format!("spec.addresses: {value:?} is no IP address"))?);
        }
    }
    Ok(out)
}
