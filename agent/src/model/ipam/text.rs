//! Why an object gets no address, in sentences.
use std::net::IpAddr;

use super::{Claim, Conflict, SHARING_KEY, SHARING_NAMESPACES};
use crate::model::{
    Outcome, Verdict,
    endpoints::Family,
    pool::{Pool, Pools},
    service::CLASS,
};

pub(super) fn without(reason: &'static str, messages: Vec<String>) -> Verdict {
    Verdict { outcome: Outcome::Refused, reason, messages }
}

fn refused(reason: &'static str, message: String) -> Verdict {
    without(reason, vec![message])
}

pub(super) fn pending() -> Verdict {
    refused("Pending", "it waits for the leader to give it an address".to_owned())
}

pub(super) fn too_many(addr: IpAddr, other: IpAddr) -> Verdict {
    refused("TooManyAddresses", format!("{addr} and {other} are asked for, want one address of each family at most"))
}

pub(super) fn other_family(addr: IpAddr, families: &[Family]) -> Verdict {
    let wanted = families.iter().map(|f| name(*f)).collect::<Vec<_>>().join(" and ");
    let text = format!("{addr} is asked for, want an {wanted} address as the object's families say");
    refused("AddressFamilyMismatch", text)
}

pub(super) fn outside_pools(addr: IpAddr, pools: &Pools) -> Verdict {
    let names = pools.iter().map(Pool::name).collect::<Vec<_>>().join(", ");
    let names = if names.is_empty() { "there is none".to_owned() } else { names };
    refused("AddressOutsidePools", format!("{addr} is asked for, want one of a pool: {names}"))
}

pub(super) fn of_another_pool(addr: IpAddr, pool: &Pool, named: &str) -> Verdict {
    let text = format!(
        "{addr} is asked for, which is one of pool {}, and so is pool {named}; want them to agree",
        pool.name()
    );
    refused("PoolMismatch", text)
}

pub(super) fn not_for(addr: IpAddr, pool: &Pool, why: &str) -> Verdict {
    refused("PoolNotAllowed", format!("{addr} is asked for, but its pool {} is {why}", pool.name()))
}

pub(super) fn foreign_status(in_status: &[IpAddr], other: &[String]) -> Verdict {
    let shown = in_status.iter().map(ToString::to_string).chain(other.iter().cloned()).collect::<Vec<_>>().join(", ");
    let text = format!(
        "status shows {shown}, which no pool has: it is another controller's; want loadBalancerClass {CLASS:?}, or status empty"
    );
    Verdict { outcome: Outcome::Ignored, reason: "ForeignStatus", messages: vec![text] }
}

/// Why an address that the object names cannot be had.
pub(super) fn taken(addr: IpAddr, how: &str, conflict: &Conflict<'_>) -> Verdict {
    let why = reason(conflict);
    let (reason, want) = match conflict {
        Conflict::Held(holder) if holder.sharing_key.is_some() => (
            "AddressTaken",
            format!(
                "want another address, or annotation {SHARING_KEY} with one value on both, in one namespace or with {SHARING_NAMESPACES}"
            ),
        ),
        Conflict::Held(_) => (
            "AddressTaken",
            format!("want another address, or annotation {SHARING_KEY} with one value on both, in one namespace"),
        ),
        Conflict::Port(..) => ("PortConflict", "want other ports, or another address".to_owned()),
        Conflict::Local(_) => {
            ("PolicyConflict", "want equal selectors, or externalTrafficPolicy Cluster on both".to_owned())
        }
        Conflict::Host => ("AddressInUse", "want another address".to_owned()),
        Conflict::Reserved(..) => ("PortReserved", "want another port".to_owned()),
    };
    refused(reason, format!("{addr} is {how}, but {why}; {want}"))
}

pub(super) fn reason(conflict: &Conflict<'_>) -> String {
    match conflict {
        Conflict::Held(holder) => format!("{} has it", holder.object),
        Conflict::Port(holder, (port, proto)) => format!("{} has port {port}/{proto} of it", holder.object),
        Conflict::Local(holder) => format!("{} has it for other pods, with externalTrafficPolicy Local", holder.object),
        Conflict::Reserved(port, why) => format!("port {port} is {why}"),
        Conflict::Host => "it is this node's own address".to_owned(),
    }
}

/// No pool of the family is open to the object.
pub(super) fn no_pool(family: Family, claim: &Claim, pools: &Pools) -> String {
    let family_name = name(family);
    if let Some(named) = &claim.pool
        && pools.get(named).is_none()
    {
        let names = pools.iter().map(Pool::name).collect::<Vec<_>>().join(", ");
        let names = if names.is_empty() { "there is none".to_owned() } else { names };
        return format!("pool {named:?} is asked for, want one that exists: {names}");
    }
    let closed = pools.iter().filter(|pool| pool.families().contains(&family)).map(|pool| {
        let why = match &claim.pool {
            Some(named) if named != pool.name() => format!("not {named}, which is asked for"),
            _ => pool
                .excludes(&claim.object.object.ns, &claim.labels)
                .unwrap_or_else(|| "for objects that ask for it alone".to_owned()),
        };
        format!("pool {} is {why}", pool.name())
    });
    let closed = closed.collect::<Vec<_>>().join(", ");
    if closed.is_empty() {
        format!("no pool has {family_name} addresses, want one: an AddressPool, or --pool CIDR")
    } else {
        format!("no pool gives it an {family_name} address: {closed}")
    }
}

pub(super) fn exhausted(family: Family, full: &[String]) -> String {
    format!("no {} address is free: {}; want a larger pool or another one", name(family), full.join(", "))
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
        Family::Any => "IP",
    }
}
