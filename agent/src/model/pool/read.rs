//! What is written -> what is used: entries, selectors and nodes of a pool, and what is wrong with them.
use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{
    NAME_LABEL, Origin, Pool, Source, is_reserved,
    range::{Avoid, RESERVED, Range},
};
use crate::{
    api::{
        AddressPool, LabelSelector, Namespace, Node as ApiNode, ObjectName,
        address_pool::{Announce, NodeAddressType, NodeAddresses},
    },
    model::{
        Port,
        endpoints::{Family, unusable},
    },
    source::Snapshot,
};

impl Pool {
    pub(super) fn of(object: &AddressPool, snapshot: &Snapshot, taken: &Taken<'_>) -> Self {
        let AddressPool { metadata, spec, status: _ } = object;
        let mut faults = Vec::new();
        let selectors = [("namespaceSelector", &spec.namespace_selector), ("serviceSelector", &spec.service_selector)];
        for (field, selector) in selectors {
            if let Some(fault) = selector.as_ref().and_then(LabelSelector::fault) {
                faults.push(("InvalidSelector", format!("spec.{field}.{fault}; it selects nothing")));
            }
        }
        let namespaces = spec.namespace_selector.as_ref().map(|selector| select_namespaces(selector, snapshot));
        let source = match &spec.node_addresses {
            Some(which) => {
                if !spec.addresses.is_empty() {
                    let text = "spec has addresses and nodeAddresses, want one of them; addresses are not used";
                    faults.push(("InvalidSpec", text.to_owned()));
                }
                of_nodes(which, snapshot, &mut faults)
            }
            None => {
                let avoid = if spec.avoid_buggy_addresses { Avoid::EndsAndOctets } else { Avoid::Nothing };
                of_entries(&spec.addresses, avoid, taken, &mut faults)
            }
        };
        if metadata.deletion_timestamp.is_some() {
            faults.push(("Deleted", "it is being deleted: it gives no new address".to_owned()));
        }
        Self {
            name: metadata.name.clone(),
            origin: Origin::Object,
            priority: spec.priority,
            source,
            namespaces: namespaces.unwrap_or_default(),
            namespace_selector: spec.namespace_selector.clone(),
            service_selector: spec.service_selector.clone(),
            auto_assign: spec.auto_assign,
            announce: spec.announce,
            faults,
            overlaps: Vec::new(),
        }
    }

    /// A flag's pool: named as it is written, for everybody.
    pub(super) fn of_flag(index: usize, net: &IpNet, taken: &Taken<'_>) -> Self {
        let range = Range::of(net, Avoid::Ends);
        let mut faults = Vec::new();
        let fault = taken.fault(&range);
        let ranges = if fault.is_none() { vec![range] } else { Vec::new() };
        faults.extend(fault);
        Self {
            name: net.trunc().to_string(),
            origin: Origin::Flag(index),
            priority: i32::MIN,
            source: Source::Ranges(ranges),
            namespaces: BTreeMap::new(),
            namespace_selector: None,
            service_selector: None,
            auto_assign: true,
            announce: Announce::Auto,
            faults,
            overlaps: Vec::new(),
        }
    }
}

fn select_namespaces(selector: &LabelSelector, snapshot: &Snapshot) -> BTreeMap<String, bool> {
    let selects = |namespace: &Namespace| {
        let mut labels = namespace.metadata.labels.clone();
        labels.entry(NAME_LABEL.to_owned()).or_insert_with(|| namespace.metadata.name.clone());
        selector.selects(&labels)
    };
    snapshot.namespaces.iter().map(|(name, namespace)| (name.clone(), selects(namespace))).collect()
}

fn of_entries(entries: &[String], avoid: Avoid, taken: &Taken<'_>, faults: &mut Vec<(&'static str, String)>) -> Source {
    let mut ranges = Vec::<Range>::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let place = format!("spec.addresses[{index}]");
        match Range::parse(entry, avoid) {
            Err(fault) => faults.push(("InvalidAddresses", format!("{place}: {fault}"))),
            Ok(range) => match (taken.fault(&range), ranges.iter().find(|known| known.overlaps(&range))) {
                (Some((reason, fault)), _) => faults.push((reason, format!("{place}: {range} is not used: {fault}"))),
                (None, Some(known)) => {
                    let text = format!("{place}: {range} is not used: it overlaps {known}; want each address once");
                    faults.push(("InvalidAddresses", text));
                }
                (None, None) => ranges.push(range),
            },
        }
    }
    if entries.is_empty() {
        faults.push(("InvalidSpec", "spec has neither addresses nor nodeAddresses, want one of them".to_owned()));
    }
    Source::Ranges(ranges)
}

fn of_nodes(which: &NodeAddresses, snapshot: &Snapshot, faults: &mut Vec<(&'static str, String)>) -> Source {
    let NodeAddresses { types, node_selector, reserved_ports } = which;
    if let Some(fault) = node_selector.as_ref().and_then(LabelSelector::fault) {
        faults.push(("InvalidSelector", format!("spec.nodeAddresses.nodeSelector.{fault}; it selects nothing")));
    }
    let types: &[_] = if types.is_empty() { &[NodeAddressType::InternalIp] } else { types };
    let selected = |node: &&ApiNode| node_selector.as_ref().is_none_or(|s| s.selects(&node.metadata.labels));
    let mut addrs = Vec::new();
    for node in snapshot.nodes.values().map(AsRef::as_ref).filter(selected) {
        for family in [Family::V4, Family::V6] {
            let of_type = types.iter().find_map(|type_| node_addr(node, *type_, family));
            addrs.extend(of_type.filter(|addr| !addrs.contains(addr)));
        }
    }
    if addrs.is_empty() {
        let types = types.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(" or ");
        let text = format!("no node that spec.nodeAddresses selects has an address of type {types}, want one");
        faults.push(("NoNodeAddress", text));
    }
    let reserved_ports = reserved_ports.iter().filter_map(|port| Port::try_new(i64::from(*port))).collect();
    Source::Nodes { addrs, reserved_ports }
}

/// The addresses of a node that a flow can be sent to, with their types.
pub(super) fn node_addrs(node: &ApiNode) -> impl Iterator<Item = (&str, IpAddr)> {
    node.status.addresses.iter().filter_map(|address| {
        let addr = address.address.parse().ok().filter(|addr| unusable(*addr).is_none())?;
        Some((address.type_.as_str(), addr))
    })
}

/// The first address of a node of this type and family.
pub(in crate::model) fn node_addr(node: &ApiNode, type_: NodeAddressType, family: Family) -> Option<IpAddr> {
    node_addrs(node).find(|(is, addr)| *is == type_.as_str() && family.admits(*addr)).map(|(_, addr)| addr)
}

/// What the cluster uses for something else: no pool may have it.
pub(super) struct Taken<'a> {
    nets: Vec<(IpNet, User<'a>)>,
}

/// Who uses it.
#[derive(Clone, Copy)]
enum User<'a> {
    /// The pods of a node.
    Pods(&'a str),
    Node(&'a str),
    Service(&'a ObjectName),
}

impl<'a> Taken<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut nets = Vec::new();
        for (name, node) in &snapshot.nodes {
            let cidrs = node.spec.pod_cidrs.iter().filter_map(|cidr| cidr.parse::<IpNet>().ok());
            nets.extend(cidrs.map(|net| (net, User::Pods(name))));
            let addrs = node_addrs(node).filter(|(type_, _)| type_.ends_with("IP"));
            nets.extend(addrs.map(|(_, addr)| (addr.into(), User::Node(name))));
        }
        for (name, service) in &snapshot.services {
            if let Ok(addr) = service.spec.cluster_ip.parse::<IpAddr>() {
                nets.push((addr.into(), User::Service(name)));
            }
        }
        Self { nets }
    }

    /// Why a range cannot be given from: reason and sentence.
    fn fault(&self, range: &Range) -> Option<(&'static str, String)> {
        if let Some(reserved) = RESERVED.iter().find(|r| range.overlaps_net(r)) {
            return Some(("Reserved", is_reserved(reserved)));
        }
        let (net, user) = self.nets.iter().find(|(net, _)| range.overlaps_net(net))?;
        let (reason, what) = match user {
            User::Pods(node) => ("OverlapsPods", format!("the addresses of the pods of Node {node}")),
            User::Node(node) => ("OverlapsNodes", format!("the address of Node {node}")),
            User::Service(name) => ("OverlapsServices", format!("the clusterIP of Service {name}")),
        };
        let net = if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() };
        Some((reason, format!("it overlaps {net}, {what}; want addresses that nothing else has")))
    }
}
