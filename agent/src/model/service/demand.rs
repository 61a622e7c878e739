//! What one Service wants, read from it alone: nothing, an address, or something that cannot be had.
use std::net::IpAddr;

use super::{Report, usable_ports};
use crate::{
    api::{
        Service,
        service::{LoadBalancerIngress, ServiceSpec, TrafficPolicy},
    },
    model::{
        Node, ObjectRef, Outcome, Verdict,
        endpoints::Family,
        ipam::{self, Claim},
        pool::Pools,
    },
};

/// The `loadBalancerClass` of Services that are ours; so are those that name none.
pub const CLASS: &str = "sluice.dev/lb";

/// Makes proxies skip a Service. Source: `v1.IsHeadlessService`, the label of the same meaning.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What one Service wants.
pub(super) enum Demand {
    /// Nothing: it is not ours, or it wants what cannot be had.
    Nothing(Verdict),
    /// Addresses.
    Addresses(Box<Claim>),
    /// Nothing any more, but what it has must not be given to another yet.
    Releasing(Box<Claim>, Verdict),
}

impl Demand {
    pub(super) fn of(service: &Service, node: &Node, pools: &Pools) -> Self {
        let Service { metadata, spec, status } = service;
        if let Some(verdict) = not_ours(service, node) {
            return Self::Nothing(verdict);
        }
        let mut report = Report::default();
        let ports = usable_ports(service, &mut report);
        let mut claim = Claim {
            is_of_our_class: spec.load_balancer_class.is_some(),
            ports: ports.into_iter().map(|(_, p, proto)| (p, proto)).collect(),
            local: (spec.external_traffic_policy.is(TrafficPolicy::Local)).then(|| spec.selector.clone()),
            ..Claim::of(ObjectRef::new("Service", metadata.object_name()), metadata, pools)
        };
        for LoadBalancerIngress { ip, hostname, ip_mode: _, ports: _ } in &status.load_balancer.ingress {
            match ip.parse() {
                Ok(addr) => claim.in_status.push(addr),
                Err(_) => claim.other_status.push(if ip.is_empty() { hostname } else { ip }.clone()),
            }
        }
        if claim.is_leaving {
            // Whatever it asks for, what it has is of these families.
            claim.families = vec![Family::V4, Family::V6];
            let message = "it is being deleted".to_owned();
            let verdict = Verdict { outcome: Outcome::Ignored, reason: "Deleted", messages: vec![message] };
            // Unmarked, it is unprogrammed everywhere: who else keeps the object does not keep the address.
            if claim.given.is_empty() {
                return Self::Nothing(verdict);
            }
            return Self::Releasing(Box::new(claim), verdict);
        }
        // What can serve nothing gets no address; one that it has stays reserved, for its ports may come back.
        let has_address = !claim.given.is_empty() || node.allocations.contains_key(&claim.object);
        if claim.ports.is_empty() && !has_address {
            return Self::Nothing(report.verdict());
        }
        // Who reads another value into it opens what should be closed.
        let odd = spec.unknown_values();
        if !odd.is_empty() {
            return Self::Nothing(impossible("UnsupportedValue", odd));
        }
        match requested(service).and_then(|requested| Ok((families(spec, &requested)?, requested))) {
            Ok(((families, all_families), requested)) => {
                (claim.families, claim.all_families, claim.requested) = (families, all_families, requested);
                Self::Addresses(Box::new(claim))
            }
            Err(verdict) => Self::Nothing(verdict),
        }
    }
}

fn not_ours(service: &Service, node: &Node) -> Option<Verdict> {
    let Service { metadata, spec, status: _ } = service;
    let (reason, message) = if spec.type_ != "LoadBalancer" {
        let found = if spec.type_.is_empty() { "ClusterIP" } else { &spec.type_ };
        ("NotLoadBalancer", format!("type is {found}, want LoadBalancer"))
    } else if let Some(class) = spec.load_balancer_class.as_deref().filter(|class| *class != CLASS) {
        let want = if node.default_class { "none or " } else { "" };
        ("ForeignClass", format!("loadBalancerClass is {class:?}, want {want}{CLASS:?}"))
    } else if spec.load_balancer_class.is_none() && !node.default_class {
        ("NoClass", format!("loadBalancerClass is not set, want {CLASS:?}: Services without one are another's here"))
    } else if spec.cluster_ip == "None" {
        ("Headless", "clusterIP is None, want an address or nothing".to_owned())
    } else if metadata.labels.contains_key(HEADLESS_LABEL) {
        ("Headless", format!("label {HEADLESS_LABEL} is set, want it absent"))
    } else {
        return None;
    };
    Some(Verdict { outcome: Outcome::Ignored, reason, messages: vec![message] })
}

/// The addresses that the Service asks for: the annotation's and `spec.loadBalancerIP`, which must not contradict it.
fn requested(service: &Service) -> Result<Vec<IpAddr>, Verdict> {
    let annotation = service.metadata.annotations.get(ipam::ADDRESSES).map_or("", String::as_str);
    let field = service.spec.load_balancer_ip.trim();
    let mut messages = Vec::new();
    let mut parse = |written: &str, place: &str| {
        let parsed = written.parse::<IpAddr>();
        if parsed.is_err() {
            messages.push(format!("{place} holds {written:?}, want an address like 192.0.2.1 or 2001:db8::1"));
        }
        parsed.ok()
    };
    let mut requested = Vec::new();
    for written in annotation.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        if let Some(addr) =
            parse(written, &format!("annotation {}", ipam::ADDRESSES)).filter(|a| !requested.contains(a))
        {
            requested.push(addr);
        }
    }
    let in_field = if field.is_empty() { None } else { parse(field, "spec.loadBalancerIP") };
    if !messages.is_empty() {
        return Err(impossible("InvalidAddress", messages));
    }
    match in_field {
        Some(addr) if requested.is_empty() => requested.push(addr),
        Some(addr) if !requested.contains(&addr) => {
            let name = ipam::ADDRESSES;
            let text =
                format!("spec.loadBalancerIP is {addr}, annotation {name} is {annotation:?}; want them to agree");
            return Err(impossible("AddressesDiffer", vec![text]));
        }
        _ => {}
    }
    Ok(requested)
}

/// The families that it wants, the primary one first, and whether none may be missing.
///
/// The API server always fills `ipFamilies` and `clusterIP`; a manifest may have neither.
fn families(spec: &ServiceSpec, requested: &[IpAddr]) -> Result<(Vec<Family>, bool), Verdict> {
    if let Some(odd) = spec.ip_families.iter().find(|f| !matches!(f.as_str(), "IPv4" | "IPv6")) {
        return Err(impossible("InvalidIPFamily", vec![format!("ipFamilies holds {odd:?}, want IPv4 or IPv6")]));
    }
    let primary = spec.ip_families.first().map(|f| if f == "IPv4" { Family::V4 } else { Family::V6 });
    let cluster_ip = spec.cluster_ip.parse().ok();
    let primary = primary.or(cluster_ip.map(Family::of));
    let both = || if primary == Some(Family::V6) { vec![Family::V6, Family::V4] } else { vec![Family::V4, Family::V6] };
    match spec.ip_family_policy.as_str() {
        "RequireDualStack" => return Ok((both(), true)),
        "PreferDualStack" => return Ok((both(), false)),
        "" | "SingleStack" => {}
        odd => {
            let text = format!("ipFamilyPolicy is {odd:?}, want SingleStack, PreferDualStack or RequireDualStack");
            return Err(impossible("InvalidIPFamily", vec![text]));
        }
    }
    let requested = || {
        let named = |family: &Family| requested.iter().any(|addr| family.admits(*addr));
        [Family::V4, Family::V6].into_iter().filter(named).collect()
    };
    Ok((primary.map_or_else(requested, |primary| vec![primary]), false))
}

fn impossible(reason: &'static str, messages: Vec<String>) -> Verdict {
    Verdict { outcome: Outcome::Refused, reason, messages }
}
