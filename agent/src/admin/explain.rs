//! What stands behind an object that is served: its addresses, from where clients may come, and where the flows of each of
//! its frontends go.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use crate::arrows::Holder;
use crate::model::{
    Backend, EndpointShare, EndpointTarget, Frontend, Locality, Model, ObjectRef, Proto, Target, WhenEmpty,
    http::HttpRule, mesh, sources::everybody,
};

/// Said of a port among `proxy-protocol-ports`.
pub(super) const BEHIND_A_HEAD: &str = ", behind a head of the PROXY protocol: connections without one are cut off";

/// Sentences for people: one for each address, one for the clients where not all may come, one for each frontend.
pub(super) fn lines(model: &Model, conflicts: &BTreeMap<IpAddr, Holder>, object: &ObjectRef) -> Vec<String> {
    let addresses = model.allocations.get(object).map_or(&[][..], Vec::as_slice);
    let frontends = || model.frontends.iter().filter(|(_, target)| concerns(target, object));
    let sources = sources(frontends());
    let clients = (!sources.is_empty()).then(|| format!("clients must come from {}", sources.join(", ")));
    let targets = frontends().map(|(frontend, target)| {
        format!("{frontend}: {}{}", where_to(frontend, target), head(model, frontend, target))
    });
    let addresses = addresses.iter().map(|addr| address(model, conflicts, *addr));
    addresses.chain(clients).chain(targets).chain(dialled(model, object)).collect()
}

/// Where pods of this node meet the proxy instead of a Service's endpoints, of the Service, or of a route that it is a parent of.
fn dialled<'a>(model: &'a Model, object: &'a ObjectRef) -> impl Iterator<Item = String> + 'a {
    let sentence = move |(at, dialled): (&SocketAddr, &SocketAddr)| {
        let listener = model.http.frontends.get(at)?.first()?;
        let service = mesh::service_of(&listener.gateway)?;
        let is_of = |rule: &HttpRule| rule.kind.name() == object.kind && rule.route == object.object;
        let is_it = object.kind == "Service" && object.object == service;
        let is_its = || listener.entries.iter().any(|entry| is_of(&entry.rule));
        (is_it || is_its()).then(|| format!("{dialled} of Service {service}: to the proxy, from pods of this node"))
    };
    model.http.mesh.iter().filter_map(sentence)
}

/// The addresses of the endpoints that an object's flows go to.
pub(super) fn endpoints(model: &Model, object: &ObjectRef) -> BTreeSet<IpAddr> {
    let targets = model.frontends.iter().map(|(_, target)| target).filter(|target| concerns(target, object));
    let of = |target: &Target| match target {
        Target::Endpoints(endpoints) => endpoints.backends().map(|backend| backend.addr).collect(),
        Target::Proxy { .. } => Vec::new(),
    };
    targets.flat_map(of).collect()
}

/// Whether a frontend is an object's, or leads where the object, a route, says.
fn concerns(target: &Target, object: &ObjectRef) -> bool {
    let route = match target {
        Target::Endpoints(endpoints) => endpoints.route.as_ref(),
        Target::Proxy { .. } => None,
    };
    target.owner() == *object || route == Some(object)
}

/// The ranges that clients of these frontends must come from, of both families; empty where everybody may come.
pub(super) fn sources<'a>(frontends: impl Iterator<Item = (&'a Frontend, &'a Target)>) -> Vec<String> {
    let (mut ranges, mut is_limited) = (BTreeSet::new(), false);
    for (frontend, target) in frontends {
        match target.sources() {
            Some(list) => {
                is_limited = true;
                ranges.extend(list.iter().copied());
            }
            None => drop(ranges.insert(everybody(frontend.vip))),
        }
    }
    match (is_limited, ranges.is_empty()) {
        (false, _) => Vec::new(),
        (true, true) => vec!["nowhere".to_owned()],
        (true, false) => ranges.iter().map(ToString::to_string).collect(),
    }
}

fn address(model: &Model, conflicts: &BTreeMap<IpAddr, Holder>, addr: IpAddr) -> String {
    let pool = match model.pools.of(addr) {
        Some(pool) => format!("of pool {}", pool.name()),
        None => "of no pool".to_owned(),
    };
    let announced = match (model.announcers.get(&addr), model.announced.contains(&addr)) {
        (Some(node), _) => format!("announced by {node}"),
        (None, true) if conflicts.contains_key(&addr) => "not announced".to_owned(),
        (None, true) => "announced here".to_owned(),
        (None, false) if model.pools.is_of_node(addr) => "the node's own".to_owned(),
        (None, false) => "announced by no node".to_owned(),
    };
    format!("{addr}: {pool}, {announced}")
}

/// What connections begin with, where the proxy wants it.
fn head(model: &Model, frontend: &Frontend, target: &Target) -> &'static str {
    match target {
        Target::Proxy { gateway, .. } if model.http.is_proxied(gateway, frontend.port.get()) => BEHIND_A_HEAD,
        Target::Proxy { .. } | Target::Endpoints(_) => "",
    }
}

fn where_to(frontend: &Frontend, target: &Target) -> String {
    let endpoints = match target {
        Target::Proxy { gateway, .. } => return format!("to the proxy, for Gateway {gateway}"),
        Target::Endpoints(endpoints) => endpoints,
    };
    if endpoints.owner.kind == "Gateway" {
        return by_weight(frontend, endpoints);
    }
    let EndpointTarget { when_empty, .. } = &**endpoints;
    let backends: BTreeSet<&Backend> = endpoints.backends().collect();
    let left = match endpoints.draining().count() {
        0 => String::new(),
        n => format!("; {n} more keep the flows that they have"),
    };
    let at = |locality| backends.iter().filter(|b| b.locality == locality).count();
    let (here, unknown) = (at(Locality::Local), at(Locality::Unknown));
    let unsaid = match unknown {
        0 => String::new(),
        n => format!(", {n} whose node its slice does not name"),
    };
    match (backends.len(), when_empty) {
        (0, WhenEmpty::Reject) => format!("no endpoint, new flows are answered with {}{left}", refusal(frontend)),
        (0, WhenEmpty::Drop) => format!("no endpoint that may serve here, new flows are dropped{left}"),
        (1, _) => {
            let place = match (here, unknown) {
                (1, _) => "on this node",
                (_, 1) => "whose node its slice does not name",
                _ => "on another node",
            };
            format!("to 1 endpoint, {place}{left}")
        }
        (n, _) => format!("to {n} endpoints, {here} of them on this node{unsaid}{left}"),
    }
}

/// With what a flow is answered that has nowhere to go.
fn refusal(frontend: &Frontend) -> &'static str {
    match frontend.proto {
        Proto::Tcp => "RST",
        Proto::Udp => "ICMP unreachable",
    }
}

/// How a Gateway's flows at layer 4 are split.
fn by_weight(frontend: &Frontend, target: &EndpointTarget) -> String {
    let refusal = refusal(frontend);
    let Some(route) = &target.route else {
        return format!("no route, new flows are answered with {refusal}");
    };
    let all = target.shares.iter().map(|share| u64::from(share.weight)).sum::<u64>() + u64::from(target.refused);
    let share = |share: &EndpointShare| {
        let EndpointShare { weight, service, port, backends, draining, .. } = share;
        let to = match backends.len() {
            0 => format!("no endpoint, answered with {refusal}"),
            1 => "1 endpoint".to_owned(),
            n => format!("{n} endpoints"),
        };
        let left =
            if draining.is_empty() { String::new() } else { format!(", {} more keep their flows", draining.len()) };
        format!("{weight} of {all} to Service {service} port {port} ({to}{left})")
    };
    let mut parts: Vec<String> = target.shares.iter().map(share).collect();
    if target.refused > 0 {
        parts.push(format!("{} of {all} answered with {refusal}, for references that cannot be used", target.refused));
    }
    if parts.is_empty() {
        parts.push(format!("no weight at all, new flows are answered with {refusal}"));
    }
    format!("by {route}: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::ObjectName,
        model::{
            self,
            fixture::{node, snapshot},
        },
    };

    #[test]
    fn a_served_service_says_who_announces_it_and_where_its_flows_go() {
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let slice = json!({
            "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n1"}, {"addresses": ["10.0.0.2"], "nodeName": "n2"},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            ],
        });
        let service = json!({
            "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "ports": ports},
        });
        let mut model = model::compile(&snapshot(&json!([service, slice])), &node(&["192.0.2.0/24"]));
        let web = ObjectRef::new("Service", ObjectName::new("default", "web"));
        let said = lines(&model, &BTreeMap::new(), &web);
        assert_eq!(said.len(), 3, "{said:?}");
        let at = model.allocations[&web][0];
        assert!(said[0].starts_with(&format!("{at}: of pool ")) && said[0].ends_with("announced here"), "{said:?}");
        let no_endpoint = format!("{at}:53/UDP: no endpoint, new flows are answered with ICMP unreachable");
        let endpoints =
            format!("{at}:80/TCP: to 2 endpoints, 1 of them on this node; 1 more keep the flows that they have");
        assert!(said.contains(&no_endpoint) && said.contains(&endpoints), "{said:?}");
        model.announcers = [(at, "n2".to_owned())].into_iter().collect::<std::collections::BTreeMap<_, _>>().into();
        assert!(lines(&model, &BTreeMap::new(), &web)[0].ends_with("announced by n2"));
        assert!(
            lines(&model, &BTreeMap::new(), &ObjectRef::new("Service", ObjectName::new("default", "other"))).is_empty()
        );
    }

    #[test]
    fn where_an_endpoint_runs_is_said_as_far_as_it_is_known() {
        let service = json!({
            "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]},
        });
        let said = |endpoints: serde_json::Value| {
            let slice = json!({
                "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
                "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            });
            let model = model::compile(&snapshot(&json!([service, slice])), &node(&["192.0.2.0/24"]));
            lines(&model, &BTreeMap::new(), &ObjectRef::new("Service", ObjectName::new("default", "web")))
                .pop()
                .unwrap()
        };
        let (here, there, nowhere) = (
            json!({"addresses": ["10.0.0.1"], "nodeName": "n1"}),
            json!({"addresses": ["10.0.0.2"], "nodeName": "n2"}),
            json!({"addresses": ["10.0.0.3"]}),
        );
        for (endpoints, expected) in [
            (json!([here]), "to 1 endpoint, on this node"),
            (json!([there]), "to 1 endpoint, on another node"),
            (json!([nowhere]), "to 1 endpoint, whose node its slice does not name"),
            (json!([here, there]), "to 2 endpoints, 1 of them on this node"),
            (
                json!([here, there, nowhere]),
                "to 3 endpoints, 1 of them on this node, 1 whose node its slice does not name",
            ),
        ] {
            assert!(said(endpoints.clone()).ends_with(expected), "{expected}: {}", said(endpoints));
        }
    }

    #[test]
    fn s96_from_where_clients_must_come_is_told_for_both_families() {
        for (ranges, told) in [
            (json!([]), None),
            (json!(["0.0.0.0/0", "::/0"]), None),
            (json!(["198.51.100.0/24"]), Some("198.51.100.0/24")),
            (json!(["198.51.100.0/24", "::/0"]), Some("198.51.100.0/24, ::/0")),
        ] {
            let service = json!({
                "kind": "Service", "metadata": {"name": "web", "namespace": "default"},
                "spec": {"type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack", "loadBalancerSourceRanges": ranges,
                         "ports": [{"name": "http", "port": 80}]},
            });
            let pools = ["192.0.2.0/24", "2001:db8::/64"];
            let model = model::compile(&snapshot(&json!([service])), &node(&pools));
            let said = lines(&model, &BTreeMap::new(), &ObjectRef::new("Service", ObjectName::new("default", "web")));
            let found = said.iter().find_map(|line| line.strip_prefix("clients must come from "));
            assert_eq!(found, told, "{said:?}");
        }
    }
}
