//! How many flows there are, as the last walk over them has found.
//!
//! The kernel does not tell how full a map is, nor what an LRU map has evicted: only a walk does.
use std::collections::BTreeMap;

use sluice_ebpf::{CT_REQUEST, CtEntry, CtKey, map};

use crate::{arrows::Census, model::Model};

/// A count that goes on.
#[derive(Default)]
pub(super) struct Count {
    census: Census,
    /// By the frontend's id: a key of one of its flows, and how many are not proved.
    opening: BTreeMap<u32, (CtKey, u64)>,
}

impl Count {
    /// Counts one entry.
    pub(super) fn add(&mut self, map: &str, key: &CtKey, entry: &CtEntry) {
        if map == map::CONNTRACK {
            self.census.tracked += 1;
            return;
        }
        self.census.opening += 1;
        if key.dir == CT_REQUEST {
            self.census.opening_flows += 1;
            self.opening.entry(entry.frontend).or_insert((*key, 0)).1 += 1;
        }
    }

    /// The result; the model names the frontends.
    pub(super) fn finish(self, model: &Model) -> Census {
        let most = self.opening.into_values().max_by_key(|(_, flows)| *flows);
        let name = |(key, _): (CtKey, u64)| {
            let frontend = super::observe::host_frontend(&super::sweep::frontend_of(&key))?;
            Some(format!("{} at {frontend}", model.frontends.get(&frontend)?.owner()))
        };
        Census { most: most.and_then(name), ..self.census }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_ebpf::{Addr, CT_REPLY, TCP, Tuple};

    use super::*;
    use crate::model::{compile, fixture};

    #[test]
    fn f6_a_crowd_is_told_of_with_the_frontend_that_has_most() {
        let snapshot = fixture::snapshot(&json!([
            {"kind": "AddressPool", "metadata": {"name": "p"}, "spec": {"addresses": ["203.0.113.0/24"]}},
            {"kind": "Service", "metadata": {"name": "web", "namespace": "a"},
             "spec": {"type": "LoadBalancer", "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}},
        ]));
        let model = compile(&snapshot, &fixture::node(&["203.0.113.0/24"]));
        let vip = model.frontends.keys().next().expect("a frontend").vip;
        let count = |flows: [(u32, u16, u64); 2]| {
            let mut count = Count::default();
            for (frontend, port, flows) in flows {
                for n in 0..flows {
                    let std::net::IpAddr::V4(ip) = vip else { unreachable!("the pool is IPv4") };
                    let tuple =
                        Tuple { dst: Addr::v4(ip.octets()), dst_port: port, src_port: n as u16, ..Tuple::default() };
                    let entry = CtEntry { frontend, ..CtEntry::default() };
                    for dir in [CT_REQUEST, CT_REPLY] {
                        count.add(map::OPENING, &CtKey { tuple, proto: TCP, dir, pad: [0; 2] }, &entry);
                    }
                    count.add(map::CONNTRACK, &CtKey { tuple, proto: TCP, dir: CT_REPLY, pad: [0; 2] }, &entry);
                }
            }
            count.finish(&model)
        };
        let few = count([(1, 80, 3), (2, 81, 24_572)]);
        assert_eq!((few.tracked, few.opening, few.opening_flows), (24_575, 49_150, 24_575));
        assert_eq!(few.most, Some(format!("Service a/web at {vip}:81/TCP")));
        assert_eq!(few.pressure(), None);
        let crowd = count([(1, 80, 24_572), (2, 81, 4)]);
        let told = crowd.pressure().expect("three quarters of the map");
        assert!(told.contains(&format!("most of them to Service a/web at {vip}:80/TCP: their sources")), "{told}");
        assert_eq!(crowd.occupancy().map(|o| o.used), [24_576, 49_152]);
    }
}
