//! Gateways -> claims for addresses, frontends that lead to the proxy, and the proxy's listeners.
//!
//! Ours are those of class [`CLASS`]. A listener that cannot be served is refused by name and keeps no other from
//! working; an address that cannot be had refuses the whole Gateway. Routes are attached by `model::route`.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{
    Frontend, Model, Node, ObjectRef, Outcome, Port, Proto, Target, Verdict,
    endpoints::SliceIndex,
    http::{Hostname, HttpEntry, HttpListener, HttpModel},
    ipam::{Claim, SHARING_KEY},
    route,
};
use crate::{
    api::{Gateway, ObjectName, gateway::Listener},
    source::Snapshot,
};

/// The GatewayClass whose Gateways are ours.
pub const CLASS: &str = "sluice";
/// The API group of Gateways and routes.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// A listener as far as it was understood.
#[derive(Debug)]
pub struct Served<'a> {
    /// The listener as written.
    pub spec: &'a Listener,
    /// From where routes may attach, or why none can: reason and message.
    pub state: Result<Open, (&'static str, String)>,
    /// What was attached.
    pub entries: Vec<HttpEntry>,
}

/// A listener that can be served.
#[derive(Debug)]
pub struct Open {
    /// Its port.
    pub port: Port,
    /// Its host name.
    pub hostname: Hostname,
    /// Whether routes of every namespace may attach, or those of the Gateway's alone.
    pub all_namespaces: bool,
}

/// The listeners of each Gateway that is ours, in the order in which they are written.
pub type Listeners<'a> = BTreeMap<ObjectName, Vec<Served<'a>>>;

/// What the Gateways that are ours claim.
#[must_use]
pub fn claims(snapshot: &Snapshot) -> Vec<Claim> {
    let claim = |(name, gateway): (&ObjectName, &Arc<Gateway>)| {
        let requested = requested(gateway).ok()?;
        let in_status = gateway.status.addresses.iter().filter_map(|a| a.value.as_ref()?.parse().ok()).collect();
        let wants = |family: fn(&IpAddr) -> bool| requested.is_empty() || requested.iter().any(family);
        Some(Claim {
            object: object(name),
            created: gateway.metadata.creation_timestamp.clone(),
            v4: wants(IpAddr::is_ipv4),
            v6: wants(IpAddr::is_ipv6),
            all_families: false,
            in_status,
            requested,
            sharing_key: gateway.metadata.annotations.get(SHARING_KEY).cloned(),
        })
    };
    ours(snapshot).filter_map(claim).collect()
}

/// Adds the frontends and listeners of the Gateways that are ours, at the addresses in `model.allocations`.
pub fn compile(snapshot: &Snapshot, slices: &SliceIndex, node: &Node, model: &mut Model) {
    let mut listeners: Listeners<'_> = ours(snapshot).map(|(name, gateway)| (name.clone(), served(gateway))).collect();
    let services = route::attach(snapshot, slices, node, &mut listeners, model);
    let mut http = HttpModel { frontends: BTreeMap::new(), services };
    for (name, served) in listeners {
        if let Some(gateway) = snapshot.gateways.get(&name) {
            program(&name, gateway, served, model, &mut http);
        }
    }
    model.http = Arc::new(http);
}

/// Adds one Gateway's frontends and its verdict.
fn program(name: &ObjectName, gateway: &Gateway, served: Vec<Served<'_>>, model: &mut Model, http: &mut HttpModel) {
    let object = object(name);
    if let Err(message) = requested(gateway) {
        model.judge(object, refused("UnsupportedAddress", message));
        return;
    }
    let mut faults: Vec<(&'static str, String)> = Vec::new();
    let mut ports: BTreeMap<Port, Vec<HttpListener>> = BTreeMap::new();
    for Served { spec, state, entries } in served {
        match state {
            Ok(open) => ports.entry(open.port).or_default().push(HttpListener {
                gateway: name.clone(),
                name: spec.name.clone(),
                hostname: open.hostname,
                entries,
            }),
            Err((reason, message)) => faults.push((reason, format!("listener {:?}: {message}", spec.name))),
        }
    }
    let vips = model.allocations.get(&object).cloned().unwrap_or_default();
    let mut programmed = 0;
    for (port, listeners) in ports {
        let listeners = Arc::new(listeners);
        for &vip in &vips {
            let frontend = Frontend { vip, port, proto: Proto::Tcp };
            if model.frontends.contains_key(&frontend) {
                faults.push(("PortConflict", format!("{frontend} belongs to another object")));
                continue;
            }
            model.frontends.insert(frontend, Target::Proxy { gateway: name.clone() });
            http.frontends.insert(SocketAddr::new(vip, port.get()), Arc::clone(&listeners));
            programmed += 1;
        }
    }
    // Without an address the allocator has said why already.
    if !vips.is_empty() || !model.verdicts.contains_key(&object) {
        model.judge(object, verdict(programmed > 0, vips.is_empty(), faults));
    }
}

fn verdict(programmed: bool, homeless: bool, faults: Vec<(&'static str, String)>) -> Verdict {
    let outcome = match (programmed, faults.is_empty()) {
        (true, true) => Outcome::Accepted,
        (true, false) => Outcome::Partial,
        (false, _) => Outcome::Refused,
    };
    let reason = match (outcome, homeless, faults.first()) {
        (Outcome::Accepted, ..) => "Accepted",
        (_, true, None) => "AddressNotAssigned",
        (_, _, Some(&(reason, _))) if faults.iter().all(|(r, _)| *r == reason) => reason,
        _ => "ListenersNotValid",
    };
    let mut messages: Vec<String> = faults.into_iter().map(|(_, message)| message).collect();
    if homeless {
        messages.push("the Gateway has no address".to_owned());
    } else if !programmed && messages.is_empty() {
        messages.push("the Gateway has no listener".to_owned());
    }
    Verdict { outcome, reason, messages }
}

/// A verdict that nothing works.
pub(super) fn refused(reason: &'static str, message: String) -> Verdict {
    Verdict { outcome: Outcome::Refused, reason, messages: vec![message] }
}

fn object(name: &ObjectName) -> ObjectRef {
    ObjectRef::new("Gateway", name.clone())
}

fn ours(snapshot: &Snapshot) -> impl Iterator<Item = (&ObjectName, &Arc<Gateway>)> {
    snapshot.gateways.iter().filter(|(_, gateway)| gateway.spec.gateway_class_name == CLASS)
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

/// Looks at each listener alone, then at those that share a port.
fn served(gateway: &Gateway) -> Vec<Served<'_>> {
    let specs = &gateway.spec.listeners;
    let served = |spec: &'_ Listener| {
        let state = open(spec).and_then(|open| conflict(spec, &open.hostname, specs).map_or(Ok(open), Err));
        (state, Vec::new())
    };
    specs
        .iter()
        .map(|spec| {
            let (state, entries) = served(spec);
            Served { spec, state, entries }
        })
        .collect()
}

fn open(spec: &Listener) -> Result<Open, (&'static str, String)> {
    let port =
        Port::try_new(spec.port).ok_or_else(|| ("PortUnavailable", format!("port {}, want 1 to 65535", spec.port)))?;
    match spec.protocol.as_str() {
        "HTTP" => {}
        known @ ("HTTPS" | "TLS" | "TCP" | "UDP") => {
            return Err(("UnsupportedProtocol", format!("protocol {known} is not supported yet, want HTTP")));
        }
        other => return Err(("UnsupportedProtocol", format!("protocol {other:?}, want \"HTTP\""))),
    }
    let hostname = match spec.hostname.as_deref() {
        None | Some("") => Hostname::Any,
        Some(text) => Hostname::try_new(text).ok_or_else(|| {
            ("UnsupportedValue", format!("hostname {text:?} is neither a DNS name nor \"*.\" and one"))
        })?,
    };
    let kinds = &spec.allowed_routes.kinds;
    let known = kinds.iter().any(|k| k.kind == "HTTPRoute" && k.group.as_deref().unwrap_or(GROUP) == GROUP);
    if !kinds.is_empty() && !known {
        let given: BTreeSet<&str> = kinds.iter().map(|k| k.kind.as_str()).collect();
        return Err(("InvalidRouteKinds", format!("allowedRoutes.kinds {given:?}, want \"HTTPRoute\" among them")));
    }
    let all_namespaces = match spec.allowed_routes.namespaces.from.as_deref() {
        None | Some("Same") => false,
        Some("All") => true,
        Some("Selector") => {
            let why = "allowedRoutes.namespaces.from Selector is not supported yet: namespaces are not read";
            return Err(("UnsupportedValue", why.to_owned()));
        }
        Some(other) => {
            let why = format!("allowedRoutes.namespaces.from {other:?}, want \"Same\" or \"All\"");
            return Err(("UnsupportedValue", why));
        }
    };
    Ok(Open { port, hostname, all_namespaces })
}

/// Why an otherwise good HTTP listener cannot share its port with the others of its Gateway. No party wins.
fn conflict(spec: &Listener, hostname: &Hostname, all: &[Listener]) -> Option<(&'static str, String)> {
    let beside = |other: &&Listener| !std::ptr::eq(*other, spec) && other.port == spec.port && other.protocol != "UDP";
    let others = || all.iter().filter(beside);
    if let Some(other) = others().find(|other| other.protocol != spec.protocol) {
        let why = format!("port {} is also the {} listener {:?}", spec.port, other.protocol, other.name);
        return Some(("ProtocolConflict", why));
    }
    let same = |other: &&Listener| match other.hostname.as_deref() {
        None | Some("") => *hostname == Hostname::Any,
        Some(text) => Hostname::try_new(text).as_ref() == Some(hostname),
    };
    others().find(same).map(|other| {
        let why = format!("port {} and hostname {hostname} are also those of listener {:?}", spec.port, other.name);
        ("HostnameConflict", why)
    })
}
