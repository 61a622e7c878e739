//! What one Service wants, read from it alone: nothing, an address, or something that cannot be had.
use std::net::IpAddr;

use crate::{
    api::{Service, service::ServiceSpec},
    model::{ObjectRef, Outcome, Verdict, ipam},
};

/// The `loadBalancerClass` of Services that are ours; so are those that name none.
pub const CLASS: &str = "sluice.dev/lb";

/// Makes proxies skip a Service. Source: `v1.IsHeadlessService`, the label of the same meaning.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What one Service wants.
pub(super) enum Demand {
    /// Nothing: it is not ours.
    Nothing(Verdict),
    /// Something that cannot be had.
    Impossible(Verdict),
    /// Addresses.
    Addresses(ipam::Claim),
}

impl Demand {
    pub(super) fn of(service: &Service) -> Self {
        let Service { metadata, spec, status } = service;
        if let Some(verdict) = not_ours(service) {
            return Self::Nothing(verdict);
        }
        let requested = match requested(service) {
            Ok(requested) => requested,
            Err(verdict) => return Self::Impossible(verdict),
        };
        let (v4, v6, all_families) = match families(spec, &requested) {
            Ok(families) => families,
            Err(verdict) => return Self::Impossible(verdict),
        };
        Self::Addresses(ipam::Claim {
            object: ObjectRef::new("Service", metadata.object_name()),
            created: metadata.creation_timestamp.clone(),
            v4,
            v6,
            all_families,
            in_status: status.load_balancer.ingress.iter().filter_map(|i| i.ip.parse().ok()).collect(),
            requested,
            sharing_key: metadata.annotations.get(ipam::SHARING_KEY).filter(|k| !k.is_empty()).cloned(),
        })
    }
}

fn not_ours(service: &Service) -> Option<Verdict> {
    let Service { metadata, spec, status: _ } = service;
    let (reason, message) = if spec.type_ != "LoadBalancer" {
        let found = if spec.type_.is_empty() { "ClusterIP" } else { &spec.type_ };
        ("NotLoadBalancer", format!("type is {found}, want LoadBalancer"))
    } else if let Some(class) = spec.load_balancer_class.as_deref().filter(|class| *class != CLASS) {
        ("ForeignClass", format!("loadBalancerClass is {class:?}, want none or {CLASS:?}"))
    } else if spec.cluster_ip == "None" {
        ("Headless", "clusterIP is None, want an address or nothing".to_owned())
    } else if metadata.labels.contains_key(HEADLESS_LABEL) {
        ("Headless", format!("label {HEADLESS_LABEL} is set, want it absent"))
    } else if metadata.deletion_timestamp.is_some() {
        ("Deleted", "it is being deleted".to_owned())
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

/// Whether it wants IPv4, IPv6, and both without fail.
///
/// The API server always fills `ipFamilies` and `clusterIP`; a manifest may have neither.
fn families(spec: &ServiceSpec, requested: &[IpAddr]) -> Result<(bool, bool, bool), Verdict> {
    if let Some(odd) = spec.ip_families.iter().find(|f| !matches!(f.as_str(), "IPv4" | "IPv6")) {
        return Err(impossible("InvalidIPFamily", vec![format!("ipFamilies holds {odd:?}, want IPv4 or IPv6")]));
    }
    match spec.ip_family_policy.as_str() {
        "RequireDualStack" => return Ok((true, true, true)),
        "PreferDualStack" => return Ok((true, true, false)),
        "" | "SingleStack" => {}
        odd => {
            let text = format!("ipFamilyPolicy is {odd:?}, want SingleStack, PreferDualStack or RequireDualStack");
            return Err(impossible("InvalidIPFamily", vec![text]));
        }
    }
    let families = |named: &[IpAddr]| (named.iter().any(IpAddr::is_ipv4), named.iter().any(IpAddr::is_ipv6), false);
    Ok(match spec.ip_families.first() {
        Some(primary) => (primary == "IPv4", primary == "IPv6", false),
        None => spec.cluster_ip.parse().map_or_else(|_| families(requested), |ip| families(&[ip])),
    })
}

fn impossible(reason: &'static str, messages: Vec<String>) -> Verdict {
    Verdict { outcome: Outcome::Refused, reason, messages }
}
