//! One listener of a Gateway, looked at alone and among those of its Gateway.
//!
//! Whether it can be served and which routes it admits are told apart: routes are counted at a listener that is not
//! served as well. Source: `ListenerStatus.attachedRoutes`.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Port, Proto, certificate,
    grants::{Grants, GroupKind, Referrer},
    http::Hostname,
    report::{Fault, ListenerReport},
    tls::{self, Security},
};
use crate::{
    api::{
        Gateway, LabelSelector, ObjectName, RouteKind,
        gateway::{Listener, RouteGroupKind, RouteNamespaces},
    },
    source::Snapshot,
};

/// The API group of Gateways and routes.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// The label that every namespace has: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// What a listener speaks. Source: `ProtocolType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `HTTP`.
    Http,
    /// `HTTPS`.
    Https,
    /// `TLS`.
    Tls,
    /// `TCP`.
    Tcp,
    /// `UDP`.
    Udp,
}

impl Protocol {
    const ALL: [Self; 5] = [Self::Http, Self::Https, Self::Tls, Self::Tcp, Self::Udp];

    /// The protocol with this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name)
    }

    /// As the API names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// Whether its connections and datagrams are split by the programs alone: the proxy is not in the way.
    #[must_use]
    pub const fn is_layer4(self) -> bool {
        match self {
            Self::Tcp | Self::Udp => true,
            Self::Http | Self::Https | Self::Tls => false,
        }
    }

    /// The kinds of routes that fit it. Source: `AllowedRoutes.kinds`.
    #[must_use]
    pub const fn kinds(self) -> &'static [RouteKind] {
        match self {
            Self::Http | Self::Https => &[RouteKind::Http, RouteKind::Grpc],
            Self::Tls => &[RouteKind::Tls],
            Self::Tcp => &[RouteKind::Tcp],
            Self::Udp => &[RouteKind::Udp],
        }
    }

    /// Whose port it takes.
    #[must_use]
    pub const fn transport(self) -> Proto {
        match self {
            Self::Http | Self::Https | Self::Tls | Self::Tcp => Proto::Tcp,
            Self::Udp => Proto::Udp,
        }
    }

    /// Whether clients say which host they want, so that listeners may share a port.
    const fn has_hostname(self) -> bool {
        match self {
            Self::Http | Self::Https | Self::Tls => true,
            Self::Tcp | Self::Udp => false,
        }
    }

    /// Whether both may be at one port, where their host names are distinct.
    fn shares_port(self, other: Self) -> bool {
        matches!((self, other), (Self::Http, Self::Http) | (Self::Https | Self::Tls, Self::Https | Self::Tls))
    }
}

/// A listener as far as it was understood, whatever is attached to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Served {
    /// The listener as written.
    pub spec: Listener,
    /// The ListenerSet that it is of; else it is the Gateway's own.
    pub set: Option<ObjectName>,
    /// Where it listens, or why it cannot.
    pub accepted: Result<Open, Fault>,
    /// With which other it conflicts; then it is not accepted.
    pub conflict: Option<Fault>,
    /// Whether it knows all kinds of routes that it asks for, and has all certificates.
    pub resolved: Result<(), Fault>,
    /// Whether it terminates TLS, and how.
    pub security: Security,
    /// The kinds of routes that it takes.
    pub kinds: Vec<RouteKind>,
    /// The namespaces whose routes it takes.
    pub allowed: AllowedNamespaces,
    /// Its host name; `None` when it is none.
    pub hostname: Option<Hostname>,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its port.
    pub port: Port,
    /// Its host name.
    pub hostname: Hostname,
}

/// From which namespaces routes may attach.
#[derive(Clone, Debug, PartialEq)]
pub enum AllowedNamespaces {
    /// That of the Gateway.
    Same,
    /// All.
    All,
    /// None.
    None,
    /// Those with such labels.
    Selected(Arc<LabelSelector>),
}

impl AllowedNamespaces {
    /// What a field says; `unsaid` where it says nothing.
    pub(super) fn of(spec: &RouteNamespaces, field: &str, unsaid: Self) -> Result<Self, Fault> {
        let bad = |what: String| Err(Fault::new("UnsupportedValue", format!("{field}.namespaces.{what}")));
        match spec.from.as_deref() {
            None => Ok(unsaid),
            Some("Same") => Ok(Self::Same),
            Some("All") => Ok(Self::All),
            Some("None") => Ok(Self::None),
            Some("Selector") => match &spec.selector {
                None => bad("selector is missing, want it with from Selector".to_owned()),
                Some(selector) => match selector.fault() {
                    Some(fault) => bad(format!("selector.{fault}")),
                    None => Ok(Self::Selected(Arc::new(selector.clone()))),
                },
            },
            Some(other) => bad(format!("from {other:?}, want \"Same\", \"All\", \"Selector\" or \"None\"")),
        }
    }

    /// Whether objects of a namespace may attach to what is in namespace `own`.
    #[must_use]
    pub fn admit(&self, snapshot: &Snapshot, own: &str, route_ns: &str) -> bool {
        match self {
            Self::Same => own == route_ns,
            Self::All => true,
            Self::None => false,
            Self::Selected(selector) => match snapshot.namespaces.get(route_ns) {
                Some(namespace) if namespace.metadata.labels.contains_key(NAME_LABEL) => {
                    selector.selects(&namespace.metadata.labels)
                }
                known => {
                    let labels = known.map(|namespace| namespace.metadata.labels.clone());
                    let mut labels: BTreeMap<String, String> = labels.unwrap_or_default();
                    labels.insert(NAME_LABEL.to_owned(), route_ns.to_owned());
                    selector.selects(&labels)
                }
            },
        }
    }
}

/// Whether some Gateway, or a listener, chooses namespaces by their labels.
#[must_use]
pub fn uses_namespaces(snapshot: &Snapshot) -> bool {
    let by_labels = |l: &Listener| l.allowed_routes.namespaces.selector.is_some();
    let allows = |gateway: &Gateway| {
        gateway.spec.allowed_listeners.as_ref().is_some_and(|allowed| allowed.namespaces.selector.is_some())
    };
    snapshot.gateways.values().any(|gateway| allows(gateway) || gateway.spec.listeners.iter().any(by_labels))
        || snapshot.listener_sets.values().any(|set| set.spec.listeners.iter().any(by_labels))
}

impl Served {
    /// Looks at each listener of a Gateway alone, then at those that share a port.
    #[must_use]
    pub fn all(gateway: &Gateway) -> Vec<Self> {
        let mut ports = Ports::default();
        gateway.spec.listeners.iter().for_each(|spec| ports.add(spec));
        gateway.spec.listeners.iter().map(|spec| Self::of(spec, None, &ports)).collect()
    }

    /// Looks at a listener of a ListenerSet, which loses where it conflicts with one of those `before` it.
    #[must_use]
    pub fn of_set(spec: &Listener, set: &ObjectName, before: &Ports<'_>) -> Self {
        Self::of(spec, Some(set), before)
    }

    fn of(spec: &Listener, set: Option<&ObjectName>, all: &Ports<'_>) -> Self {
        let protocol = Protocol::of(&spec.protocol);
        let hostname = hostname(spec, protocol);
        let allowed = AllowedNamespaces::of(&spec.allowed_routes.namespaces, "allowedRoutes", AllowedNamespaces::Same);
        let fitting = protocol.map(Protocol::kinds);
        let (kinds, resolved) =
            fitting.map_or((Vec::new(), Ok(())), |fitting| route_kinds(&spec.allowed_routes.kinds, fitting));
        let conflict = protocol.zip(hostname.as_ref()).and_then(|own| all.conflict(spec, own, set.is_some()));
        let accepted = match (&conflict, &allowed) {
            (Some(fault), _) | (None, Err(fault)) => Err(fault.clone()),
            (None, Ok(_)) => open(spec, protocol, hostname.as_ref()),
        };
        let allowed = allowed.unwrap_or(AllowedNamespaces::None);
        let security = match protocol {
            Some(Protocol::Https | Protocol::Tls) => Security::Unready,
            Some(Protocol::Http | Protocol::Tcp | Protocol::Udp) | None => Security::Plain,
        };
        let (spec, set) = (spec.clone(), set.cloned());
        Self { spec, set, accepted, conflict, resolved, security, kinds, allowed, hostname }
    }

    /// Gets a listener that terminates TLS its certificates.
    pub(super) fn secure(
        &mut self,
        world: (&Snapshot, &Grants<'_>),
        gateway: (&ObjectName, &Gateway),
        store: &mut certificate::Store,
    ) {
        match self.security {
            Security::Unready => {}
            Security::Plain | Security::Passthrough | Security::Terminate(_) => return,
        }
        if tls::passes_through(&self.spec) {
            self.security = Security::Passthrough;
            return;
        }
        let (security, certificates) = tls::terminate(world, self.owner(gateway.0), gateway, &self.spec, store);
        match security {
            Ok(security) => self.security = security,
            Err(fault) if self.accepted.is_ok() => self.accepted = Err(fault),
            Err(_) => {}
        }
        if self.resolved.is_ok() {
            self.resolved = certificates;
        }
    }

    /// Who wrote it, and from which namespace its references go out.
    #[must_use]
    pub fn owner<'s>(&'s self, gateway: &'s ObjectName) -> Referrer<'s> {
        self.set.as_ref().map_or((GroupKind::gateway("Gateway"), gateway.ns.as_str()), |set| {
            (GroupKind::gateway("ListenerSet"), set.ns.as_str())
        })
    }

    /// The listener's name among all of the Gateway.
    #[must_use]
    pub fn full_name(&self) -> String {
        self.set.as_ref().map_or_else(|| self.spec.name.clone(), |set| format!("{set}/{}", self.spec.name))
    }

    /// Where it takes requests, or why it takes none.
    ///
    /// # Errors
    /// It is not accepted, or takes no kind of route that there is.
    pub fn open(&self) -> Result<&Open, &Fault> {
        match (&self.accepted, &self.resolved) {
            (Err(fault), _) => Err(fault),
            (Ok(_), Err(fault)) if self.kinds.is_empty() => Err(fault),
            (Ok(open), _) => Ok(open),
        }
    }

    /// Whether another one is the same but for the certificates that both terminate TLS with.
    #[must_use]
    pub fn is_secured_as(&self, new: &Self) -> bool {
        let is_same_kind = match (&self.security, &new.security) {
            (Security::Terminate(_), Security::Terminate(_)) => true,
            (old, new) => old == new,
        };
        is_same_kind
            && Self { security: Security::Plain, ..self.clone() } == Self { security: Security::Plain, ..new.clone() }
    }

    /// What status says of it, when its port can be had and so many routes are attached.
    #[must_use]
    pub fn report(&self, attached: usize) -> ListenerReport {
        ListenerReport {
            name: self.spec.name.clone(),
            set: self.set.clone(),
            accepted: self.accepted.as_ref().map(drop).map_err(Clone::clone),
            conflict: self.conflict.clone(),
            resolved: self.resolved.clone(),
            is_secured: !matches!(self.security, Security::Unready),
            kinds: self.kinds.clone(),
            attached,
        }
    }
}

/// The host name that a listener serves; `None` when what is written is none. Of TCP and UDP it is not looked at.
fn hostname(spec: &Listener, protocol: Option<Protocol>) -> Option<Hostname> {
    let written = spec.hostname.as_deref().filter(|_| protocol.is_none_or(Protocol::has_hostname));
    match written {
        None | Some("") => Some(Hostname::Any),
        Some(text) => Hostname::try_new(text),
    }
}

fn open(spec: &Listener, protocol: Option<Protocol>, hostname: Option<&Hostname>) -> Result<Open, Fault> {
    let port = Port::try_new(spec.port)
        .ok_or_else(|| Fault::new("PortUnavailable", format!("port {}, want 1 to 65535", spec.port)))?;
    let protocol = protocol.ok_or_else(|| {
        let known = Protocol::ALL.map(Protocol::name).join(" or ");
        Fault::new("UnsupportedProtocol", format!("protocol {:?}, want {known}", spec.protocol))
    })?;
    if matches!(protocol, Protocol::Https | Protocol::Tls) {
        tls::check(spec)?;
    }
    let hostname = hostname.cloned().ok_or_else(|| {
        let text = spec.hostname.as_deref().unwrap_or_default();
        Fault::new("UnsupportedValue", format!("hostname {text:?} is neither a DNS name nor \"*.\" before one"))
    })?;
    Ok(Open { protocol, port, hostname })
}

/// The kinds that a listener takes of those that it asks for, and which of these do not fit its protocol.
fn route_kinds(asked: &[RouteGroupKind], fitting: &[RouteKind]) -> (Vec<RouteKind>, Result<(), Fault>) {
    let is =
        |k: &RouteGroupKind, kind: RouteKind| k.group.as_deref().unwrap_or(GROUP) == GROUP && k.kind == kind.name();
    let unknown: BTreeSet<&str> =
        asked.iter().filter(|k| !fitting.iter().any(|kind| is(k, *kind))).map(|k| k.kind.as_str()).collect();
    let is_asked = |kind: &RouteKind| asked.is_empty() || asked.iter().any(|k| is(k, *kind));
    let kinds = fitting.iter().copied().filter(is_asked).collect();
    if unknown.is_empty() {
        return (kinds, Ok(()));
    }
    let want = fitting.iter().map(|kind| format!("{:?}", kind.name())).collect::<Vec<_>>().join(" and ");
    let found: Vec<String> = unknown.iter().map(|kind| format!("{kind:?}")).collect();
    let why = format!("allowedRoutes.kinds has {}, want none but {want}", found.join(", "));
    (kinds, Err(Fault::new("InvalidRouteKinds", why)))
}

/// The listeners of a Gateway by the ports that they ask for, each looked at once however many share one.
#[derive(Debug, Default)]
pub struct Ports<'a> {
    by_port: BTreeMap<(i64, Proto), Vec<AtPort<'a>>>,
}

/// A listener that asks for a port.
#[derive(Debug)]
struct AtPort<'a> {
    spec: &'a Listener,
    protocol: Protocol,
    hostname: Option<Hostname>,
}

impl<'a> Ports<'a> {
    /// Adds a listener; what is no protocol is not listened to.
    pub fn add(&mut self, spec: &'a Listener) {
        if let Some(protocol) = Protocol::of(&spec.protocol) {
            let hostname = hostname(spec, Some(protocol));
            // UDP ports are others than those of TCP.
            let at = self.by_port.entry((spec.port, protocol.transport())).or_default();
            at.push(AtPort { spec, protocol, hostname });
        }
    }

    /// Why a listener cannot share its port with these. No party wins. Source: `GatewaySpec.listeners`.
    fn conflict(&self, spec: &Listener, (protocol, hostname): (Protocol, &Hostname), is_of_set: bool) -> Option<Fault> {
        let all = self.by_port.get(&(spec.port, protocol.transport())).map_or(&[][..], Vec::as_slice);
        let beside = || all.iter().filter(|other| !std::ptr::eq(other.spec, spec));
        if let Some(other) = beside().find(|other| !protocol.shares_port(other.protocol)) {
            // A set's owner may not know the names of other tenants' listeners.
            let whose = if is_of_set { String::new() } else { format!(" {:?}", other.spec.name) };
            let why = format!("port {} is also the {} listener{whose}", spec.port, other.protocol.name());
            return Some(Fault::new("ProtocolConflict", why));
        }
        beside().find(|other| other.hostname.as_ref() == Some(hostname)).map(|other| {
            let whose =
                if is_of_set { "another listener".to_owned() } else { format!("listener {:?}", other.spec.name) };
            let why = format!("port {} and hostname {hostname} are also those of {whose}", spec.port);
            Fault::new("HostnameConflict", why)
        })
    }
}
