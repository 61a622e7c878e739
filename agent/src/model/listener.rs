//! One listener of a Gateway, looked at alone and among those of its Gateway.
//!
//! Whether it can be served and which routes it admits are told apart: routes are counted at a listener that is not
//! served as well. Source: `ListenerStatus.attachedRoutes`.
use std::collections::{BTreeMap, BTreeSet};

use super::{
    Port,
    http::{Hostname, HttpEntry},
    report::{Fault, ListenerReport},
};
use crate::{
    api::{
        Gateway, LabelSelector,
        gateway::{AllowedRoutes, Listener, RouteGroupKind},
    },
    source::Snapshot,
};

/// The API group of Gateways and routes.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// The kinds of routes that an HTTP listener takes.
const HTTP_KINDS: &[&str] = &["HTTPRoute"];
/// The label that every namespace has: its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A listener as far as it was understood.
#[derive(Debug)]
pub struct Served<'a> {
    /// The listener as written.
    pub spec: &'a Listener,
    /// Where it listens, or why it cannot.
    pub accepted: Result<Open, Fault>,
    /// With which other it conflicts; then it is not accepted.
    pub conflict: Option<Fault>,
    /// Whether it knows all kinds of routes that it asks for.
    pub resolved: Result<(), Fault>,
    /// The kinds of routes that it takes.
    pub kinds: &'static [&'static str],
    /// The namespaces whose routes it takes.
    pub guests: Guests<'a>,
    /// Its host name; `None` when it is none.
    pub hostname: Option<Hostname>,
    /// How many routes were attached.
    pub attached: usize,
    /// The entries of those that are served.
    pub entries: Vec<HttpEntry>,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Its port.
    pub port: Port,
    /// Its host name.
    pub hostname: Hostname,
}

/// From which namespaces routes may attach.
#[derive(Clone, Copy, Debug)]
pub enum Guests<'a> {
    /// That of the Gateway.
    Same,
    /// All.
    All,
    /// None.
    None,
    /// Those with such labels.
    Selected(&'a LabelSelector),
}

impl Guests<'_> {
    fn of(spec: &AllowedRoutes) -> Result<Guests<'_>, Fault> {
        let bad = |what: String| Err(Fault::new("UnsupportedValue", format!("allowedRoutes.namespaces.{what}")));
        match spec.namespaces.from.as_deref() {
            None | Some("Same") => Ok(Guests::Same),
            Some("All") => Ok(Guests::All),
            Some("None") => Ok(Guests::None),
            Some("Selector") => match &spec.namespaces.selector {
                None => bad("selector is missing, want it with from Selector".to_owned()),
                Some(selector) => match selector.fault() {
                    Some(fault) => bad(format!("selector.{fault}")),
                    None => Ok(Guests::Selected(selector)),
                },
            },
            Some(other) => bad(format!("from {other:?}, want \"Same\", \"All\", \"Selector\" or \"None\"")),
        }
    }

    /// Whether routes of a namespace may attach to a Gateway's listener.
    #[must_use]
    pub fn admit(&self, snapshot: &Snapshot, gateway_ns: &str, route_ns: &str) -> bool {
        match self {
            Self::Same => gateway_ns == route_ns,
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

/// Whether a listener of some Gateway chooses namespaces by their labels.
#[must_use]
pub fn uses_namespaces(snapshot: &Snapshot) -> bool {
    let by_labels = |l: &Listener| l.allowed_routes.namespaces.selector.is_some();
    snapshot.gateways.values().any(|gateway| gateway.spec.listeners.iter().any(by_labels))
}

impl<'a> Served<'a> {
    /// Looks at each listener of a Gateway alone, then at those that share a port.
    #[must_use]
    pub fn all(gateway: &'a Gateway) -> Vec<Self> {
        let specs = &gateway.spec.listeners;
        specs.iter().map(|spec| Self::of(spec, specs)).collect()
    }

    fn of(spec: &'a Listener, all: &[Listener]) -> Self {
        let hostname = match spec.hostname.as_deref() {
            None | Some("") => Some(Hostname::Any),
            Some(text) => Hostname::try_new(text),
        };
        let guests = Guests::of(&spec.allowed_routes);
        let (kinds, resolved) =
            if spec.protocol == "HTTP" { route_kinds(&spec.allowed_routes.kinds) } else { (&[][..], Ok(())) };
        let conflict = hostname.as_ref().and_then(|hostname| conflict(spec, hostname, all));
        let accepted = open(spec, hostname.as_ref()).and_then(|open| match (&guests, &conflict) {
            (Err(fault), _) | (Ok(_), Some(fault)) => Err(fault.clone()),
            (Ok(_), None) => Ok(open),
        });
        let guests = guests.unwrap_or(Guests::None);
        Self { spec, accepted, conflict, resolved, kinds, guests, hostname, attached: 0, entries: Vec::new() }
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

    /// What status says of it, when its port can be had.
    #[must_use]
    pub fn report(&self) -> ListenerReport {
        ListenerReport {
            name: self.spec.name.clone(),
            accepted: self.accepted.as_ref().map(drop).map_err(Clone::clone),
            conflict: self.conflict.clone(),
            resolved: self.resolved.clone(),
            kinds: self.kinds,
            attached: self.attached,
        }
    }
}

fn open(spec: &Listener, hostname: Option<&Hostname>) -> Result<Open, Fault> {
    let port = Port::try_new(spec.port)
        .ok_or_else(|| Fault::new("PortUnavailable", format!("port {}, want 1 to 65535", spec.port)))?;
    match spec.protocol.as_str() {
        "HTTP" => {}
        known @ ("HTTPS" | "TLS" | "TCP" | "UDP") => {
            let why = format!("protocol {known} is not supported yet, want HTTP");
            return Err(Fault::new("UnsupportedProtocol", why));
        }
        other => return Err(Fault::new("UnsupportedProtocol", format!("protocol {other:?}, want \"HTTP\""))),
    }
    let hostname = hostname.cloned().ok_or_else(|| {
        let text = spec.hostname.as_deref().unwrap_or_default();
        Fault::new("UnsupportedValue", format!("hostname {text:?} is neither a DNS name nor \"*.\" and one"))
    })?;
    Ok(Open { port, hostname })
}

/// The kinds that an HTTP listener takes of those that it asks for, and which of these nobody knows.
fn route_kinds(asked: &[RouteGroupKind]) -> (&'static [&'static str], Result<(), Fault>) {
    let is_known =
        |k: &RouteGroupKind| k.group.as_deref().unwrap_or(GROUP) == GROUP && HTTP_KINDS.contains(&k.kind.as_str());
    let unknown: BTreeSet<&str> = asked.iter().filter(|k| !is_known(k)).map(|k| k.kind.as_str()).collect();
    let kinds = if asked.is_empty() || asked.iter().any(is_known) { HTTP_KINDS } else { &[] };
    if unknown.is_empty() {
        return (kinds, Ok(()));
    }
    let why = format!("allowedRoutes.kinds has {unknown:?}, want \"HTTPRoute\" alone");
    (kinds, Err(Fault::new("InvalidRouteKinds", why)))
}

/// Why an HTTP listener cannot share its port with the others of its Gateway. No party wins.
fn conflict(spec: &Listener, hostname: &Hostname, all: &[Listener]) -> Option<Fault> {
    // UDP ports are others; what is no protocol is not listened to.
    let is_stream = |l: &Listener| matches!(l.protocol.as_str(), "HTTP" | "HTTPS" | "TLS" | "TCP");
    let beside = |other: &&Listener| !std::ptr::eq(*other, spec) && other.port == spec.port && is_stream(other);
    if !is_stream(spec) {
        return None;
    }
    let others = || all.iter().filter(beside);
    if let Some(other) = others().find(|other| other.protocol != spec.protocol) {
        let why = format!("port {} is also the {} listener {:?}", spec.port, other.protocol, other.name);
        return Some(Fault::new("ProtocolConflict", why));
    }
    let same = |other: &&Listener| match other.hostname.as_deref() {
        None | Some("") => *hostname == Hostname::Any,
        Some(text) => Hostname::try_new(text).as_ref() == Some(hostname),
    };
    others().find(same).map(|other| {
        let why = format!("port {} and hostname {hostname} are also those of listener {:?}", spec.port, other.name);
        Fault::new("HostnameConflict", why)
    })
}
