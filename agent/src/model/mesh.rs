//! Services as parents of routes: what pods of this node that dial a Service meet instead of its endpoints.
//!
//! In: the Services and the HTTPRoutes and GRPCRoutes that name one as their parent. Out: for each such Service the listeners that routes
//! are attached to, as Gateways have them, one for each port that some route asks for, and an address of this node at which the proxy
//! serves each ClusterIP. A Service without a route has no listener, and is kube-proxy's alone.
//!
//! # Design
//! - A Service is among the Gateways ([`Listeners`]) under a name that no Gateway has ([`owner`]): attachment, order, indices and
//!   limits are those of Gateways, and a changed route costs what it costs there. A route whose Service parents change is as a Gateway
//!   that changes: everything is looked at.
//! - Where it is dialled decides, not `Host`: the host names of a route count for nothing at a Service. Source: GEP-1426.
//! - The proxy cannot listen at a ClusterIP: kube-proxy's rules come before any socket. So each has another address here ([`served_at`]),
//!   made of the ClusterIP alone, the same at every node and after every restart; `ebpf/src/mesh.rs` puts the one for the other.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use super::{
    Port,
    gateway::{Listeners, Proxied},
    http::{Hostname, HttpListener, HttpModel, cluster::Transport},
    listener::{AllowedNamespaces, Open, Protocol, Served},
    report::{Fault, RouteKey},
    route::Routes,
    tls::Security,
};
use crate::{
    api::{ObjectName, Route, RouteKind, Service, gateway::Listener, route::ParentRef, service::ServicePort},
    source::Snapshot,
};

/// Before the name of a Service that is among Gateways: no object's name has a slash.
const PREFIX: &str = "service/";
/// What ports speak, beside what endpoints are spoken to in, that calls come to.
const CALLS: [&str; 3] = ["grpc", "grpc-web", "h2c"];
/// Beginnings of the names of ports without `appProtocol` at which no HTTP in clear text is expected.
const NOT_HTTP: [&str; 3] = ["https", "tls", "tcp"];
/// Where the ClusterIPs of IPv6 are served: `fd73:6c75:6963:6500::/64`, which nobody else has.
const SERVED_V6: [u8; 8] = [0xfd, 0x73, 0x6c, 0x75, 0x69, 0x63, 0x65, 0];

/// Whether a parent is a Service.
pub(super) fn is_service(parent: &ParentRef) -> bool {
    parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service")
}

/// The name under which a Service is among Gateways.
#[must_use]
pub fn owner(service: &ObjectName) -> ObjectName {
    ObjectName::new(&service.ns, format!("{PREFIX}{}", service.name))
}

/// The Service that is among Gateways under this name; `None` for a Gateway.
#[must_use]
pub fn service_of(owner: &ObjectName) -> Option<ObjectName> {
    owner.name.strip_prefix(PREFIX).map(|name| ObjectName::new(&owner.ns, name))
}

/// The host names of a route that count at a Gateway, or at a Service: there all hosts are the route's.
pub(super) fn hostnames<'a>(owner: &ObjectName, of_route: &'a [Hostname]) -> &'a [Hostname] {
    if owner.name.starts_with(PREFIX) { &[Hostname::Any] } else { of_route }
}

/// The addresses of a Service that pods dial.
///
/// # Errors
/// It has none; the text says why.
fn cluster_ips(service: &Service) -> Result<Vec<IpAddr>, &'static str> {
    if service.spec.type_ == "ExternalName" {
        return Err("is an ExternalName");
    }
    let written = service.spec.cluster_ips.iter().chain([&service.spec.cluster_ip]);
    let mut out: Vec<IpAddr> = Vec::new();
    for ip in written.filter_map(|text| text.parse::<IpAddr>().ok()) {
        if !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || out.contains(&ip)) {
            out.push(ip);
        }
    }
    match service.spec.cluster_ip.as_str() {
        "None" => Err("is headless"),
        _ if out.is_empty() => Err("has no ClusterIP yet"),
        _ => Ok(out),
    }
}

/// The address of this node at which the proxy serves a ClusterIP: 240.0.0.0/4 with the last 28 bits, or `fd73:6c75:6963:6500::/64` with
/// the last 64. Ranges of ClusterIPs are no wider, so two of one range never meet.
fn served_at(cluster_ip: IpAddr) -> IpAddr {
    match cluster_ip {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) | 0xf000_0000).into(),
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[..8].copy_from_slice(&SERVED_V6);
            Ipv6Addr::from(octets).into()
        }
    }
}

/// Whether a port is one at which HTTP in clear text is spoken.
///
/// # Errors
/// It is not; the text says so.
fn speaks_http(port: &ServicePort) -> Result<(), String> {
    match port.app_protocol.as_deref() {
        None | Some("") => {
            let kind = port.name.split('-').next().unwrap_or_default();
            if NOT_HTTP.contains(&kind) { Err(format!("its name says {kind}")) } else { Ok(()) }
        }
        Some(named) => {
            let is_spoken = Transport::SPOKEN.iter().chain(&CALLS).any(|known| known.eq_ignore_ascii_case(named));
            if is_spoken { Ok(()) } else { Err(format!("its appProtocol is {named:?}")) }
        }
    }
}

/// The ports of a Service that a parent means: those that it names, else all at which HTTP is spoken.
fn ports<'a>(service: &'a Service, parent: &'a ParentRef) -> impl Iterator<Item = &'a ServicePort> {
    let is_named = parent.port.is_some() || parent.section_name.is_some();
    service.spec.ports.iter().filter(move |port| {
        port.protocol() == "TCP"
            && parent.port.is_none_or(|number| number == port.port)
            && parent.section_name.as_deref().is_none_or(|name| name == port.name)
            && (speaks_http(port).is_ok() || (is_named && !is_secured(port)))
    })
}

/// Whether a port says that it speaks TLS: nobody but the backend has its certificate.
fn is_secured(port: &ServicePort) -> bool {
    Transport::is_secured(port.app_protocol.as_deref()) || port.app_protocol.as_deref() == Some("tls")
}

/// The Services that a route names as parents in force: those of its own namespace.
fn parents<'a, T: Route>(name: &'a ObjectName, route: &'a T) -> impl Iterator<Item = (ObjectName, &'a ParentRef)> {
    let of = |parent: &'a ParentRef| {
        let service = ObjectName::new(parent.namespace.as_deref().unwrap_or(&name.ns), &parent.name);
        (service, parent)
    };
    route.parent_refs().iter().filter(|parent| is_service(parent)).map(of).filter(|(service, _)| service.ns == name.ns)
}

/// The listeners of the Services that routes name as parents; where they are as they were, the very same.
pub(super) fn listeners(snapshot: &Snapshot, last: &Listeners) -> Listeners {
    let mut asked: BTreeMap<ObjectName, BTreeMap<Port, Served>> = BTreeMap::new();
    let mut ask = |service: ObjectName, parent: &ParentRef| {
        let of_service = asked.entry(service.clone()).or_default();
        let Some(found) = snapshot.services.get(&service).filter(|found| cluster_ips(found).is_ok()) else { return };
        for port in ports(found, parent) {
            if let Some(number) = Port::try_new(port.port) {
                of_service.entry(number).or_insert_with(|| served(port, number));
            }
        }
    };
    for (name, route) in &snapshot.http_routes {
        parents(name, route.as_ref()).for_each(|(service, parent)| ask(service, parent));
    }
    for (name, route) in &snapshot.grpc_routes {
        parents(name, route.as_ref()).for_each(|(service, parent)| ask(service, parent));
    }
    let of_service = |(service, ports): (ObjectName, BTreeMap<Port, Served>)| {
        let (owner, all) = (owner(&service), ports.into_values().collect::<Vec<_>>());
        let all = match last.get(&owner) {
            Some(last) if **last == all => Arc::clone(last),
            _ => Arc::new(all),
        };
        (owner, all)
    };
    asked.into_iter().map(of_service).collect()
}

/// A port of a Service as a listener.
fn served(port: &ServicePort, number: Port) -> Served {
    let name = if port.name.is_empty() { number.to_string() } else { port.name.clone() };
    let protocol = Protocol::Http;
    Served {
        spec: Listener { name, port: port.port, protocol: protocol.name().to_owned(), ..Listener::default() },
        set: None,
        accepted: Ok(Open { protocol, port: number, hostname: Hostname::Any }),
        conflict: None,
        resolved: Ok(()),
        security: Security::Plain,
        kinds: protocol.kinds().to_vec(),
        allowed: AllowedNamespaces::Same,
        hostname: Some(Hostname::Any),
    }
}

/// Which listeners of a Service a route is attached to.
///
/// # Errors
/// None: why.
pub(super) fn attach(
    (snapshot, listeners): (&Snapshot, &Listeners),
    route: &ObjectName,
    (service, parent): (&ObjectName, &ParentRef),
) -> Result<Vec<usize>, Fault> {
    let no = |reason, why: String| Err(Fault::new(reason, format!("Service {service} {why}")));
    if service.ns != route.ns {
        let why = "is of another namespace: routes for the clients of their own namespace alone are not served yet";
        return no("UnsupportedValue", why.to_owned());
    }
    let Some(found) = snapshot.services.get(service) else {
        return no("NoMatchingParent", "does not exist".to_owned());
    };
    if let Err(why) = cluster_ips(found) {
        return no("NoMatchingParent", format!("{why}: there is no address that its clients dial"));
    }
    let all = listeners.get(&owner(service)).map_or(&[][..], |all| all.as_slice());
    let wanted: BTreeSet<i64> = ports(found, parent).map(|port| port.port).collect();
    let indices: Vec<usize> = (0..all.len()).filter(|&i| wanted.contains(&all[i].spec.port)).collect();
    if !indices.is_empty() {
        return Ok(indices);
    }
    let section = parent.section_name.iter().map(|name| format!(" named {name:?}"));
    let which: String = section.chain(parent.port.iter().map(|port| format!(" {port}"))).collect();
    let why = found.spec.ports.iter().filter(|port| parent.port.is_none_or(|number| number == port.port));
    let why = why.filter_map(|port| Some(format!(" (port {}: {})", port.port, speaks_http(port).err()?)));
    no("NoMatchingParent", format!("has no port{which} of HTTP in clear text{}", why.collect::<String>()))
}

/// Whether these routes name the same parents that are Services, in both.
pub(super) fn asks_the_same<'a>(
    last: &Snapshot,
    new: &Snapshot,
    mut routes: impl Iterator<Item = &'a RouteKey>,
) -> bool {
    fn of<T: Route>(name: &ObjectName, route: Option<&Arc<T>>) -> Vec<ParentRef> {
        let parents = route.iter().flat_map(|route| parents(name, route.as_ref()));
        parents.map(|(_, parent)| parent.clone()).collect()
    }
    routes.all(|(kind, name)| match kind {
        RouteKind::Http => of(name, last.http_routes.get(name)) == of(name, new.http_routes.get(name)),
        RouteKind::Grpc => of(name, last.grpc_routes.get(name)) == of(name, new.grpc_routes.get(name)),
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => true,
    })
}

/// Adds what the proxy serves for Services.
pub(super) fn serve(
    (snapshot, listeners, routes): (&Snapshot, &Listeners, &Routes),
    http: &mut HttpModel,
    proxied: &mut Proxied,
) {
    for (owner, served) in listeners {
        let Some(service) = service_of(owner).and_then(|name| snapshot.services.get(&name)) else { continue };
        let Ok(addresses) = cluster_ips(service) else { continue };
        for (index, (served, held)) in served.iter().zip(routes.held(owner)).enumerate() {
            let Ok(Open { port, hostname, .. }) = served.open().cloned() else { continue };
            let (gateway, name, entries) = (owner.clone(), served.spec.name.clone(), held.entries.clone());
            let listener = HttpListener { gateway, name, hostname, tls: None, streams: None, entries };
            let listeners = Arc::new(vec![listener]);
            proxied.places.insert((owner.clone(), index), (port, 0));
            for ip in &addresses {
                let (at, dialled) = (SocketAddr::new(served_at(*ip), port.get()), SocketAddr::new(*ip, port.get()));
                // The first of two that meet; the other is left to kube-proxy.
                http.mesh.entry(at).or_insert(dialled);
                http.frontends.entry(at).or_insert_with(|| Arc::clone(&listeners));
            }
            proxied.by_port.insert((owner.clone(), port), listeners);
        }
    }
}
