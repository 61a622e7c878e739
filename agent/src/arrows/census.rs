//! How many flows there are, as the last walk of the datapath over them has found.
use serde::Serialize;
use sluice_ebpf::{MAX_CONNTRACK, MAX_OPENING, map};

use super::Occupancy;

/// From this part of the entries of flows that are not proved on people are told, in percent. A full LRU map has some entries
/// free, a hundred or two for each CPU.
const CROWDED: u64 = 75;

/// What the maps of flows hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Census {
    /// Entries in conntrack.
    pub tracked: u64,
    /// Entries of flows that are not proved.
    pub opening: u64,
    /// Flows that are not proved.
    pub opening_flows: u64,
    /// The frontend that has most of these, with its owner: `Service default/web at 192.0.2.1:80/TCP`.
    pub most: Option<String>,
}

impl Census {
    /// How full the two maps are.
    #[must_use]
    pub fn occupancy(&self) -> [Occupancy; 2] {
        [
            Occupancy { map: map::CONNTRACK, used: self.tracked, capacity: MAX_CONNTRACK },
            Occupancy { map: map::OPENING, used: self.opening, capacity: MAX_OPENING },
        ]
    }

    /// A sentence, without numbers that change, where flows that are not proved are about to evict each other.
    #[must_use]
    pub fn pressure(&self) -> Option<String> {
        let is_crowded = self.opening * 100 >= u64::from(MAX_OPENING) * CROWDED;
        is_crowded.then(|| {
            let most = self.most.as_deref().map(|most| format!(", most of them to {most}")).unwrap_or_default();
            format!(
                "the map OPENING is nearly full of flows whose client has proved nothing{most}: their sources may be forged. \
                 Connections that are open are not touched; of new ones those that wait for longest are forgotten first"
            )
        })
    }
}
