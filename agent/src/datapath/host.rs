//! The host's own addresses as the programs know them: sources that nobody on the network can have.
//!
//! In: the addresses of all interfaces. Out: the rows of the map `HOST`. Invariant: what a reader finds there is, or was a
//! tick ago, an address of this host.
use std::{collections::BTreeSet, net::IpAddr, path::Path};

use aya::maps::{HashMap, MapData};
use sluice_ebpf::{Addr, HOST_OWN, MAX_HOST, map};

use super::{
    departures::Departures,
    maps::{TableError, fault, open},
    rows::addr,
};

/// See the module.
pub(super) struct Host {
    rows: HashMap<MapData, Addr, u32>,
    written: BTreeSet<Addr>,
    departures: Departures,
}

impl Host {
    /// Opens the map and reads what an earlier run has left in it.
    ///
    /// # Errors
    /// The pin is missing or of another kind, or the map cannot be read.
    pub(super) fn open(dir: &Path) -> Result<Self, TableError> {
        let rows: HashMap<MapData, Addr, u32> = open(dir, map::HOST)?;
        let written = rows.keys().collect::<Result<BTreeSet<Addr>, _>>().map_err(|e| fault(map::HOST, e))?;
        // What went while no agent ran is noticed as well.
        let departures = Departures::of(written.clone());
        Ok(Self { rows, written, departures })
    }

    /// Lets a tick pass; returns the addresses that the host has lost for good.
    pub(super) fn departed(&mut self) -> BTreeSet<Addr> {
        self.departures.tick(&self.written)
    }

    /// Makes the rows those of these addresses, of which [`MAX_HOST`] are written; returns how many are left out.
    ///
    /// # Errors
    /// A write fails; the next call tries again.
    pub(super) fn follow(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<usize, TableError> {
        let wanted: BTreeSet<Addr> = addresses.iter().take(MAX_HOST as usize).map(|ip| addr(*ip)).collect();
        let (gone, new): (Vec<_>, Vec<_>) =
            (self.written.difference(&wanted).copied().collect(), wanted.difference(&self.written).copied().collect());
        for addr in gone {
            self.rows.remove(&addr).map_err(|e| fault(map::HOST, e))?;
            self.written.remove(&addr);
        }
        for addr in new {
            self.rows.insert(addr, HOST_OWN, 0).map_err(|e| fault(map::HOST, e))?;
            self.written.insert(addr);
        }
        Ok(addresses.len().saturating_sub(MAX_HOST as usize))
    }
}
