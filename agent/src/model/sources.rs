//! From where clients may come: `spec.loadBalancerSourceRanges`, or the older annotation, as lists by family.
//!
//! In: the Services that have addresses. Out: for each that names ranges, the lists of its frontends, or why it is refused.
//! Equal lists are the same `Arc`: what many Services say is held once, here and in the maps. Invariant: what cannot be
//! enforced is refused, never left open.
//!
//! # Design
//! A list is of one family. So `::/0` admits no IPv4 client, although the maps hold IPv4 as a part of IPv6; and an IPv6
//! frontend of a Service that names IPv4 ranges alone has a list without a range, which admits nobody.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use sluice_ebpf::MAX_SOURCES;

use super::{Allocations, ObjectRef, report::Fault};
use crate::api::{ObjectName, Service};

/// Ranges of one family, in order, none within another.
pub type Ranges = Arc<[IpNet]>;

/// The annotation that counts where the field is empty: ranges with commas between them. Source:
/// `v1.AnnotationLoadBalancerSourceRangesKey`.
pub const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Ranges of all lists together, at most: half of the map, because a new list is written before the old one goes.
pub const MAX_RANGES: usize = MAX_SOURCES as usize / 2;

/// The lists of one Service; `None` admits everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    v4: Option<Ranges>,
    v6: Option<Ranges>,
}

impl Sources {
    /// The list of the frontends at an address.
    #[must_use]
    pub fn at(&self, vip: IpAddr) -> Option<&Ranges> {
        if vip.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

/// The range of all clients that come to an address.
#[must_use]
pub fn everybody(vip: IpAddr) -> IpNet {
    let any = if vip.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    IpNet::new_assert(any, 0)
}

/// Whether a list has an address.
#[must_use]
pub fn admits(ranges: &[IpNet], client: IpAddr) -> bool {
    let after = ranges.partition_point(|range| range.network() <= client);
    ranges[..after].last().is_some_and(|range| range.contains(&client))
}

/// The lists of all Services.
#[derive(Debug, Default)]
pub(super) struct Lists {
    services: BTreeMap<ObjectName, Result<Sources, Fault>>,
    shared: BTreeSet<Ranges>,
}

impl Lists {
    /// Of the Services that have addresses, the oldest first; where there are too many ranges, the younger ones are refused.
    pub(super) fn compile(services: &[&Arc<Service>], allocations: &Allocations, last: &Self) -> Self {
        let (mut lists, mut free) = (Self::default(), MAX_RANGES);
        for service in services {
            let name = service.metadata.object_name();
            let Some(written) = written(service).transpose() else { continue };
            if !allocations.contains_key(&ObjectRef::new("Service", name.clone())) {
                continue;
            }
            let sources = written.and_then(|ranges| lists.place(ranges, &mut free, last));
            lists.services.insert(name, sources);
        }
        lists
    }

    /// The lists of a Service.
    ///
    /// # Errors
    /// They cannot be enforced.
    pub(super) fn of(&self, service: &ObjectName) -> Result<Sources, Fault> {
        self.services.get(service).cloned().unwrap_or_else(|| Ok(Sources::default()))
    }

    fn place(&mut self, ranges: Vec<IpNet>, free: &mut usize, last: &Self) -> Result<Sources, Fault> {
        let (v4, v6) = ranges.into_iter().partition(|range| matches!(range, IpNet::V4(_)));
        let lists = [disjoint(v4), disjoint(v6)].map(|list| Some(list).filter(|list| !is_everybody(list)));
        let is_new = |list: &&Vec<IpNet>| !self.shared.contains(list.as_slice());
        let needed: usize = lists.iter().flatten().filter(is_new).map(Vec::len).sum();
        if needed > *free {
            let text = format!(
                "loadBalancerSourceRanges has {needed} ranges that no older Service has, and {} of {MAX_RANGES} are in use; \
                 want fewer",
                MAX_RANGES - *free
            );
            return Err(Fault::new("TooManySourceRanges", text));
        }
        *free -= needed;
        let [v4, v6] = lists.map(|list| list.map(|list| self.share(list, last)));
        Ok(Sources { v4, v6 })
    }

    fn share(&mut self, list: Vec<IpNet>, last: &Self) -> Ranges {
        if let Some(known) = self.shared.get(list.as_slice()) {
            return Arc::clone(known);
        }
        let ranges = last.shared.get(list.as_slice()).map_or_else(|| Ranges::from(list), Arc::clone);
        self.shared.insert(Arc::clone(&ranges));
        ranges
    }
}

/// The ranges that a Service names; `None` where it names none.
fn written(service: &Service) -> Result<Option<Vec<IpNet>>, Fault> {
    if let Some(reason) = &service.spec.unread_sources {
        return Err(Fault::new("InvalidSourceRanges", format!("{reason}; nobody may connect")));
    }
    let field = &service.spec.load_balancer_source_ranges;
    let (place, texts) = match service.metadata.annotations.get(ANNOTATION) {
        Some(text) if field.is_empty() && !text.trim().is_empty() => {
            (format!("annotation {ANNOTATION}"), text.split(',').collect::<Vec<_>>())
        }
        _ => ("spec.loadBalancerSourceRanges".to_owned(), field.iter().map(String::as_str).collect()),
    };
    if texts.is_empty() {
        return match misspelt(service) {
            Some(name) => {
                let text = format!("annotation {name} is not known, did you mean {ANNOTATION}? nobody may connect");
                Err(Fault::new("InvalidSourceRanges", text))
            }
            None => Ok(None),
        };
    }
    // IPv4 in the clothes of IPv6 would admit nobody: no client comes with such an address.
    let is_mapped = |range: &IpNet| matches!(range, IpNet::V6(v6) if v6.trunc().addr().to_ipv4_mapped().is_some());
    let range = |text: &&str| {
        let range = text.trim().parse::<IpNet>().ok().filter(|range| !is_mapped(range));
        range.ok_or_else(|| format!("{text:?}"))
    };
    let odd: Vec<String> = texts.iter().map(range).filter_map(Result::err).collect();
    if !odd.is_empty() {
        let odd = odd.join(", ");
        let text =
            format!("{place} holds {odd}, want ranges like 198.51.100.0/24 or 2001:db8::/32; nobody may connect");
        return Err(Fault::new("InvalidSourceRanges", text));
    }
    Ok(Some(texts.iter().map(range).filter_map(Result::ok).map(|range| range.trunc()).collect()))
}

/// An annotation whose name is that of the ranges but for a slip of two letters at most: `aws-` before it is another's.
fn misspelt(service: &Service) -> Option<&str> {
    // Compared letter by letter only where one of the words is right: that costs the square of the length.
    let is_near = |name: &&String| {
        name.len().abs_diff(ANNOTATION.len()) <= 2
            && (name.contains("source") || name.contains("range"))
            && name.as_str() != ANNOTATION
            && strsim::damerau_levenshtein(name, ANNOTATION) <= 2
    };
    service.metadata.annotations.keys().find(is_near).map(String::as_str)
}

/// In order, without what lies within another.
fn disjoint(mut ranges: Vec<IpNet>) -> Vec<IpNet> {
    // By address, the larger range first: what covers a range has come before it.
    ranges.sort_unstable();
    let mut kept: Vec<IpNet> = Vec::with_capacity(ranges.len());
    for range in ranges {
        if kept.last().is_none_or(|last| !last.contains(&range)) {
            kept.push(range);
        }
    }
    kept
}

fn is_everybody(list: &[IpNet]) -> bool {
    matches!(list, [range] if range.prefix_len() == 0)
}

#[cfg(test)]
mod tests;
