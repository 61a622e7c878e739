//! A reference of a route to a Service port, the same for routes of every kind.
//!
//! Order: the kind that is referred to, then whether the reference is permitted, then whether what it names exists: who may
//! not refer to a Service is not told whether there is one.
use super::{Port, Proto, balance, grants::GroupKind, http::ServicePort, report::Fault, rule::World};
use crate::api::{
    ObjectName, RouteKind, Service,
    http_route::HttpBackendRef,
    route::BackendRef,
    service::{self, ServicePort as Spec},
};

/// Who refers to a backend.
#[derive(Clone, Copy, Debug)]
pub struct Referrer<'a> {
    /// The kind of the route.
    pub kind: RouteKind,
    /// The route.
    pub route: &'a ObjectName,
}

/// The object that a backendRef names.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    group: Option<&'a str>,
    kind: Option<&'a str>,
    namespace: Option<&'a str>,
    name: &'a str,
    port: Option<i64>,
}

impl<'a> From<&'a HttpBackendRef> for Reference<'a> {
    fn from(spec: &'a HttpBackendRef) -> Self {
        let HttpBackendRef { group, kind, namespace, name, port, weight: _, filters: _ } = spec;
        let (group, kind, namespace) = (group.as_deref(), kind.as_deref(), namespace.as_deref());
        Self { group, kind, namespace, name, port: *port }
    }
}

impl<'a> From<&'a BackendRef> for Reference<'a> {
    fn from(spec: &'a BackendRef) -> Self {
        let BackendRef { group, kind, namespace, name, port, weight: _ } = spec;
        let (group, kind, namespace) = (group.as_deref(), kind.as_deref(), namespace.as_deref());
        Self { group, kind, namespace, name, port: *port }
    }
}

/// The Service port that a reference names, and what the Service says of it.
///
/// # Errors
/// It is of another kind, not permitted, or there is none: the reasons are those of the condition `ResolvedRefs`.
pub fn resolve<'a>(
    world: &World<'a>,
    from: Referrer<'_>,
    to: Reference<'_>,
    proto: Proto,
) -> Result<(ServicePort, &'a Spec), Fault> {
    let Referrer { kind: of, route } = from;
    let (group, kind) = (to.group.unwrap_or(""), to.kind.unwrap_or("Service"));
    if (group, kind) != ("", "Service") {
        let slash = if group.is_empty() { "" } else { "/" };
        return Err(Fault::new(
            "InvalidKind",
            format!("backendRef {:?} is a {group}{slash}{kind}, want a Service", to.name),
        ));
    }
    let name = ObjectName::new(to.namespace.unwrap_or(&route.ns), to.name);
    world.look_up(&route.ns, &name);
    let referent = (GroupKind::core("Service"), name.ns.as_str(), name.name.as_str());
    if !world.grants.permits((GroupKind::gateway(of.name()), &route.ns), referent) {
        let why = format!(
            "backendRef {name} is in another namespace, want a ReferenceGrant there from {of}s of {:?} to it",
            route.ns
        );
        return Err(Fault::new("RefNotPermitted", why));
    }
    let Some(service) = world.snapshot.services.get(&name) else {
        return Err(Fault::new("BackendNotFound", format!("Service {name} does not exist")));
    };
    if service.spec.type_ == "ExternalName" {
        return Err(Fault::new("UnsupportedValue", format!("Service {name} is of type ExternalName")));
    }
    let Some(number) = to.port else {
        return Err(Fault::new("UnsupportedValue", format!("backendRef {name} has no port")));
    };
    let port = Port::try_new(number).and_then(|port| Some((port, port_of(service, port, proto)?)));
    let Some((port, found)) = port else {
        return Err(Fault::new("BackendNotFound", format!("Service {name} has no {proto} port {number}")));
    };
    told(service, of).map_err(|why| Fault::new("UnsupportedProtocol", format!("Service {name}: {why}")))?;
    Ok((ServicePort { service: name, port }, found))
}

/// Whether the endpoints of a Service can be told who their clients are, if they want to be.
///
/// # Errors
/// Nobody knows whether they want to, or the route's connections are none of the proxy's. Who is not told takes the first bytes of a
/// client for a head.
fn told(service: &Service, of: RouteKind) -> Result<(), String> {
    match (balance::proxy_protocol(service)?, of) {
        (None, _) | (Some(_), RouteKind::Http | RouteKind::Grpc | RouteKind::Tls) => Ok(()),
        (Some(version), RouteKind::Tcp | RouteKind::Udp) => Err(format!(
            "it wants the PROXY protocol {version}, which no {of} speaks: clients keep their address there, want a Service \
             without proxy.sluice.dev/proxy-protocol"
        )),
    }
}

/// The port of a Service with this number and protocol.
#[must_use]
pub fn port_of(service: &Service, port: Port, proto: Proto) -> Option<&service::ServicePort> {
    let name = proto.to_string();
    service.spec.ports.iter().find(|p| p.port == i64::from(port.get()) && p.protocol() == name)
}

/// The share of a reference: 1 where it says nothing. Source: `BackendRef.weight`, 0 to 1,000,000.
#[must_use]
pub fn weight(written: Option<i64>) -> u32 {
    u32::try_from(written.unwrap_or(1).clamp(0, 1_000_000)).unwrap_or(0)
}
