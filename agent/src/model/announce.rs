//! Which node announces a VIP: rendezvous hashing, so that every node comes to the same answer alone.
//!
//! # Design
//!
//! Each node has a weight for each VIP, a hash of both; the heaviest of those that live announces it. When a node goes,
//! its VIPs alone move, and spread over all that stay; when it returns, the same ones return. The hash is our own
//! ([`crate::stable`]), because all nodes must agree on it, whatever version each of them runs.
use std::{net::IpAddr, sync::Arc};

use crate::stable::{BASIS, fnv1a};

/// Who announces a VIP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The node that does.
    pub by: Arc<str>,
    /// The node that would if that one were not there; where there is another that may.
    pub next: Option<Arc<str>>,
}

/// The two heaviest of some nodes; `None` when there is none. Their order does not matter. `weighed` counts them.
#[must_use]
pub fn first_two<'a>(vip: IpAddr, nodes: impl Iterator<Item = &'a Arc<str>>, weighed: &mut u64) -> Option<Choice> {
    let (mut first, mut second) = (None, None);
    for name in nodes {
        *weighed += 1;
        // Equal weights are decided by the name.
        let one = Some((weight(vip, name), name));
        if one > first {
            second = std::mem::replace(&mut first, one);
        } else if one > second {
            second = one;
        }
    }
    first.map(|(_, by)| Choice { by: Arc::clone(by), next: second.map(|(_, next)| Arc::clone(next)) })
}

/// FNV-1a over the VIP's sixteen bytes and the node's name, finished by murmur3's `fmix64`: FNV alone leaves the high
/// bits of similar names alike, and the high bits decide.
fn weight(vip: IpAddr, node: &str) -> u64 {
    let vip = match vip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let fnv = fnv1a(fnv1a(BASIS, &vip), node.as_bytes());
    let hash = (fnv ^ fnv >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        collections::BTreeMap,
        net::{Ipv4Addr, Ipv6Addr},
    };

    use proptest::prelude::*;

    use super::*;

    /// The node that announces a VIP.
    pub(crate) fn announcer<'a>(vip: IpAddr, candidates: &[&'a str]) -> Option<&'a str> {
        let names: Vec<Arc<str>> = candidates.iter().map(|name| Arc::from(*name)).collect();
        let mut weighed = 0;
        let choice = first_two(vip, names.iter(), &mut weighed);
        assert_eq!(weighed, names.len() as u64);
        choice.and_then(|choice| candidates.iter().copied().find(|name| *name == &*choice.by))
    }

    fn nodes() -> impl Strategy<Value = Vec<String>> {
        prop::collection::btree_set("[a-z]{1,3}-[0-9]{1,3}", 1..9).prop_map(|names| names.into_iter().collect())
    }

    fn refs(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    proptest! {
        #[test]
        fn the_order_of_the_candidates_does_not_matter(vip: IpAddr, names in nodes(), turn: usize) {
            let mut turned = refs(&names);
            turned.rotate_left(turn % names.len());
            prop_assert_eq!(announcer(vip, &turned), announcer(vip, &refs(&names)));
            turned.reverse();
            prop_assert_eq!(announcer(vip, &turned), announcer(vip, &refs(&names)));
        }

        #[test]
        fn a_node_that_goes_moves_its_own_vips_and_no_other(vip: IpAddr, names in nodes(), gone: prop::sample::Index) {
            let before = announcer(vip, &refs(&names));
            let gone = gone.get(&names);
            let left: Vec<&str> = names.iter().filter(|n| *n != gone).map(String::as_str).collect();
            let after = announcer(vip, &left);
            if before == Some(gone.as_str()) {
                prop_assert!(after != before && after.is_some() != left.is_empty());
            } else {
                prop_assert_eq!(after, before);
            }
        }
    }

    #[test]
    fn without_candidates_there_is_no_announcer() {
        assert_eq!(announcer(Ipv4Addr::new(192, 0, 2, 1).into(), &[]), None);
    }

    #[test]
    fn nodes_share_the_vips_evenly_and_so_they_do_those_of_a_node_that_goes() {
        let names: Vec<String> = (1..=5).map(|n| format!("worker-{n}")).collect();
        let vips: Vec<IpAddr> = (0..5_000_u16)
            .flat_map(|n| {
                let [high, low] = n.to_be_bytes();
                [Ipv4Addr::new(10, 0, high, low).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()]
            })
            .collect();
        let share = |vips: &[IpAddr], names: &[&str]| {
            let mut counts = BTreeMap::new();
            for vip in vips {
                *counts.entry(announcer(*vip, names).unwrap().to_owned()).or_insert(0) += 1;
            }
            counts
        };
        let all = share(&vips, &refs(&names));
        assert!(all.len() == 5 && all.values().all(|n| (1_800..2_200).contains(n)), "{all:?}");
        let orphans: Vec<IpAddr> =
            vips.into_iter().filter(|vip| announcer(*vip, &refs(&names)) == Some("worker-1")).collect();
        let heirs = share(&orphans, &refs(&names[1..]));
        assert!(heirs.len() == 4 && heirs.values().all(|n| (400..600).contains(n)), "{heirs:?}");
    }

    #[test]
    fn every_version_must_choose_as_this_one_does() {
        let names = ["node-a", "node-b", "node-c"];
        let vips = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::1", "2001:db8::2"];
        let chosen = vips.map(|vip| announcer(vip.parse().unwrap(), &names).unwrap());
        assert_eq!(chosen, ["node-c", "node-b", "node-b", "node-a", "node-b", "node-b"]);
    }
}
