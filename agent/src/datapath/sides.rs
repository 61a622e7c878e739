//! Side interfaces: those that are no uplinks, and by which endpoints are reached, or replies return to clients. A second card,
//! a CNI's overlay, a tunnel.
//!
//! In: the host's interfaces and routes. Out: to which of them the programs of `ebpf/src/side.rs` are attached. Pure.
//!
//! # Design
//! - Taken from the routes and not from the endpoints: whatever endpoint comes next, its flows find the programs in place, and
//!   an interface does not come and go with the endpoints behind it.
//! - A route to one address without a gateway is a guest's (Calico, Cilium, `ptp`): what comes from there is seen at the
//!   uplink. It counts for tunnels alone, which have no guests.
//! - Nothing is announced there and no client is served there: that is what `--interface` is for.
//! - The programs cost whatever passes there a look at its ports, and on egress one in conntrack. XDP is not attached.
use std::collections::BTreeMap;

use crate::host::network::{Head, Link, routes::Route};

/// An interface that the programs belong on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side<'a> {
    /// The interface.
    pub link: &'a Link,
    /// It is a bridge: who is on its link, and whose node nothing names, is a guest of this node.
    pub guests: bool,
}

/// The side interfaces, those first that are not bridges: where there is no room for all it is mostly bridges of containers
/// that are many. `is_uplink` says which interfaces are taken otherwise.
#[must_use]
pub fn find<'a>(
    links: &'a BTreeMap<String, Link>,
    routes: &[Route],
    is_uplink: impl Fn(&str) -> bool,
) -> Vec<Side<'a>> {
    let by_index: BTreeMap<u32, &Link> = links.values().map(|link| (link.index, link)).collect();
    let mut found = BTreeMap::new();
    for route in routes.iter().filter(|route| !is_of_link(route)) {
        for hop in &route.hops {
            let Some(&link) = by_index.get(&hop.index) else { continue };
            let is_way = hop.gateway || !route.is_host() || link.head == Head::Bare;
            if is_way && link.up && link.head != Head::Other && !is_uplink(&link.name) {
                found.insert((link.bridge, link.index), Side { link, guests: link.bridge });
            }
        }
    }
    found.into_values().collect()
}

/// Whether it leads to addresses that are known on one link alone, or to groups: every interface has such.
fn is_of_link(route: &Route) -> bool {
    match route.to {
        std::net::IpAddr::V4(to) => to.is_link_local() || to.is_multicast(),
        std::net::IpAddr::V6(to) => to.is_unicast_link_local() || to.is_multicast(),
    }
}

/// The interfaces of the best default routes of IPv4, by which most replies return to clients, if no uplink is among them.
#[must_use]
pub fn default_beside<'a>(
    links: &'a BTreeMap<String, Link>,
    routes: &[Route],
    is_uplink: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    const MAIN: u32 = 254;
    let defaults = routes.iter().filter(|r| r.to.is_ipv4() && r.prefix == 0 && r.table == MAIN);
    let best = defaults.min_by_key(|route| route.metric)?;
    let link = |index| links.values().find(|link| link.index == index);
    let names: Vec<&str> = best.hops.iter().filter_map(|hop| Some(link(hop.index)?.name.as_str())).collect();
    if names.iter().any(|name| is_uplink(name)) { None } else { names.first().copied() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::host::network::routes::Hop;

    fn link(index: u32, name: &str, head: Head) -> Link {
        Link {
            index,
            name: name.to_owned(),
            veth: name.starts_with("veth"),
            guest: false,
            master: None,
            bridge: name.starts_with("br"),
            head,
            up: !name.ends_with("down"),
            mac: None,
            carrier: None,
            addresses: BTreeSet::new(),
            usable: Vec::new(),
        }
    }

    fn links() -> BTreeMap<String, Link> {
        let all = [
            link(1, "lo", Head::Other),
            link(2, "eth0", Head::Ethernet),
            link(3, "eth1", Head::Ethernet),
            link(4, "flannel.1", Head::Ethernet),
            link(5, "wg0", Head::Bare),
            link(6, "vetha1", Head::Ethernet),
            link(7, "br0", Head::Ethernet),
            link(8, "ib0", Head::Other),
            link(9, "tun-down", Head::Bare),
        ];
        all.into_iter().map(|link| (link.name.clone(), link)).collect()
    }

    fn route(to: &str, hops: &[(u32, bool)]) -> Route {
        let net: ipnet::IpNet = to.parse().unwrap();
        let hops = hops.iter().map(|(index, gateway)| Hop { index: *index, gateway: *gateway }).collect();
        Route { to: net.addr(), prefix: net.prefix_len(), metric: 0, table: 254, hops }
    }

    fn names(routes: &[Route]) -> Vec<String> {
        let links = links();
        find(&links, routes, |name| name == "eth0").iter().map(|side| side.link.name.clone()).collect()
    }

    #[test]
    fn ways_are_routes_that_lead_to_more_than_a_guest() {
        for (to, hops, expected) in [
            ("0.0.0.0/0", &[(2, true)][..], &[][..]),
            ("0.0.0.0/0", &[(3, true)], &["eth1"]),
            ("::/0", &[(2, true), (3, true)], &["eth1"]),
            ("10.50.0.0/24", &[(3, false)], &["eth1"]),
            ("10.244.2.0/24", &[(4, true)], &["flannel.1"]),
            ("10.244.2.7/32", &[(4, true)], &["flannel.1"]),
            ("10.244.1.7/32", &[(6, false)], &[]),
            ("2001:db8::7/128", &[(6, false)], &[]),
            ("10.80.0.9/32", &[(5, false)], &["wg0"]),
            ("172.17.0.0/16", &[(7, false)], &["br0"]),
            ("10.9.0.0/24", &[(8, false)], &[]),
            ("10.9.0.0/24", &[(9, false)], &[]),
            ("10.9.0.0/24", &[(77, false)], &[]),
            ("127.0.0.0/8", &[(1, false)], &[]),
            ("fe80::/64", &[(3, false)], &[]),
            ("ff00::/8", &[(3, false)], &[]),
        ] {
            assert_eq!(names(&[route(to, hops)]), expected, "{to} by {hops:?}");
        }
        let all = [route("172.17.0.0/16", &[(7, false)]), route("0.0.0.0/0", &[(5, false)])];
        assert_eq!(names(&all), ["wg0", "br0"], "bridges last");
    }

    #[test]
    fn the_default_route_is_beside_the_uplinks_when_its_best_one_is() {
        let links = links();
        let found = |routes: &[Route]| default_beside(&links, routes, |name| name == "eth0").map(str::to_owned);
        let of = |index, metric| Route { metric, ..route("0.0.0.0/0", &[(index, true)]) };
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[of(2, 0), of(3, 100)]), None);
        assert_eq!(found(&[of(2, 100), of(3, 0)]), Some("eth1".to_owned()));
        assert_eq!(found(&[route("0.0.0.0/0", &[(3, true), (2, true)])]), None);
        assert_eq!(found(&[Route { table: 7, ..of(3, 0) }]), None, "of another table");
        assert_eq!(found(&[route("::/0", &[(3, true)])]), None, "of IPv6, which has no such filter");
    }
}
