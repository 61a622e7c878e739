//! The other nodes' uplinks as the programs know them: whose claims to a VIP count while the API server is away.
//!
//! In: the Ethernet addresses that the others report. Out: the rows of the map `PEERS`, which outlive the agent: one that
//! starts while the API server is away knows who the one before it knew.
use std::{collections::BTreeSet, path::Path};

use aya::maps::{HashMap, MapData};
use sluice_ebpf::{MAX_PEERS, PEER_KNOWN, map, neighbour};

use super::maps::{TableError, fault, open};
use crate::mac::Mac;

/// See the module.
pub(super) struct Peers {
    rows: HashMap<MapData, u64, u32>,
}

impl Peers {
    /// Opens the map.
    ///
    /// # Errors
    /// The pin is missing or of another kind.
    pub(super) fn open(dir: &Path) -> Result<Self, TableError> {
        Ok(Self { rows: open(dir, map::PEERS)? })
    }

    /// Makes the rows those of these addresses, of which [`MAX_PEERS`] are written.
    ///
    /// # Errors
    /// A read or a write fails.
    pub(super) fn follow(&mut self, peers: &BTreeSet<Mac>) -> Result<(), TableError> {
        let wrong = |e: aya::maps::MapError| fault(map::PEERS, e);
        let key = |mac: &Mac| neighbour::peer(&neighbour::mac(mac.0));
        let wanted: BTreeSet<u64> = peers.iter().take(MAX_PEERS as usize).map(key).collect();
        let found: BTreeSet<u64> = self.rows.keys().collect::<Result<_, _>>().map_err(wrong)?;
        found.difference(&wanted).try_for_each(|key| self.rows.remove(key)).map_err(wrong)?;
        wanted.difference(&found).try_for_each(|key| self.rows.insert(key, PEER_KNOWN, 0)).map_err(wrong)
    }
}
