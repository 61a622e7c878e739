//! Where many new flows go that are split by weight, and what becomes of those whose share goes nowhere.
//!
//! The tables are those that the agent writes (`sluice::datapath::table`); the flows are new ones, of many clients.
use std::collections::BTreeMap;

use sluice::datapath::{
    rendezvous::{self, Share, Split},
    table::Table,
};
use sluice_ebpf::*;
use sluice_tests::packets::*;

/// So many flows show a share to a few percent: the hash spreads them as coins do.
const FLOWS: u16 = 2_000;
/// How far a share may be off: four standard deviations of half of all.
const NEAR: u32 = 90;

/// The Services' backends, by id, on one pod.
const PORTS: [(u32, u16); 3] = [(1, 8081), (2, 8082), (3, 8083)];

/// The ids of a table of three Services' shares: `blue` has backends 1 and 2, `green` 3, and `empty` none.
fn table(n: &Net, [blue, green, empty]: [u32; 3]) -> Vec<u32> {
    let places = |ids: &[u32]| {
        let of = PORTS.iter().filter(|(id, _)| ids.contains(id));
        of.map(|(_, port)| (addr(n.pod), *port)).collect::<Vec<_>>()
    };
    let share = |name: &str, weight, members| Share { seed: Share::seed("default", name, 80), weight, members };
    let shares =
        [share("blue", blue, places(&[1, 2])), share("green", green, places(&[3])), share("empty", empty, Vec::new())];
    let has_weight = shares.iter().filter(|share| share.weight > 0);
    let members: Vec<_> = has_weight.flat_map(|share| share.members.clone()).collect();
    let backends = PORTS.iter().map(|(id, port)| ((addr(n.pod), *port), *id));
    let backends: Vec<_> = backends.filter(|(place, _)| members.contains(place)).collect();
    let split = Split::of(shares);
    let slots = rendezvous::slots(split.sized_for(backends.len()));
    Table::new(backends, split, slots).ids()
}

/// How many flows each backend gets, and, under 0, how many are refused with an answer.
fn count(lab: &mut Lab, n: &Net, proto: u8) -> BTreeMap<u32, u32> {
    lab.forget_flows();
    lab.forget_reasons();
    let mut counts = BTreeMap::new();
    for flow in 0..FLOWS {
        let client = if n.client.contains(':') {
            format!("2001:db8:c::{flow:x}")
        } else {
            format!("198.51.100.{}", 1 + flow % 250)
        };
        let (from, to) = ((client.as_str(), 10_000 + flow), (n.vip, 80));
        let packet =
            if proto == TCP { Segment::tcp(from, to, 2) } else { Segment::udp(from, to).carrying(b"question") };
        // Redirected back to where it came from.
        if lab.ingress(&packet.bytes()).code == 7 {
            *counts.entry(0).or_default() += 1;
        }
    }
    let refused = counts.get(&0).copied().unwrap_or_default();
    let reasons = lab.reasons();
    assert_eq!(reasons.get(Reason::NoBackend.name()).copied().unwrap_or_default(), u64::from(refused), "{reasons:?}");
    for (_, entry) in lab.conntrack().iter().filter(|(key, _)| key.dir == CT_REQUEST) {
        *counts.entry(entry.backend).or_default() += 1;
    }
    counts
}

#[test]
fn new_flows_are_split_by_weight_and_a_share_that_goes_nowhere_is_refused() {
    with_lab(|lab| {
        lab.settings(Settings {
            snat_first: 40_000,
            snat_last: 49_999,
            reject_rate: 1_000_000,
            announce_until: u64::MAX,
            blind_since: 0,
        });
        for (n, proto) in NETS.iter().flat_map(|n| [(n, TCP), (n, UDP)]) {
            for (id, port) in PORTS {
                lab.backend(id, (n.pod, port), BACKEND_LOCAL);
            }
            // Of a thousand flows, for each: refused, then backends 1 to 3.
            for (weights, want) in [
                ([70, 30, 0], [0, 350, 350, 300]),
                ([1, 0, 1], [500, 250, 250, 0]),
                ([0, 3, 1], [250, 0, 0, 750]),
                ([0, 1, 0], [0, 0, 0, 1_000]),
                ([0, 0, 7], [1_000, 0, 0, 0]),
            ] {
                let frontend = lab.frontend((n.vip, 80), proto, 0, &table(n, weights));
                let counts = count(lab, n, proto);
                assert_eq!(counts.values().sum::<u32>(), u32::from(FLOWS), "{weights:?}: {counts:?}");
                for (id, want) in (0_u32..).zip(want) {
                    let (found, want) = (counts.get(&id).copied().unwrap_or_default(), want * u32::from(FLOWS) / 1_000);
                    let near = if want == 0 || want == u32::from(FLOWS) { 0 } else { NEAR };
                    assert!(found.abs_diff(want) <= near, "{weights:?}: {counts:?}, want {want} of {id}");
                }
                let refused = counts.get(&0).copied().unwrap_or_default();
                assert_eq!(lab.counters(frontend).dropped_packets, u64::from(refused), "counted for the frontend");
            }
        }
    });
}
