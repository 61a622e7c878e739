//! The pinned maps, read as the programs read them: which backends may a frontend's flows reach right now.
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Context as _;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use sluice_ebpf::{Addr, Backend, CHUNK_SLOTS, Frontend, FrontendKey, TCP, TableChunk, UDP, map};

/// The maps of one agent; they stay readable when it is gone.
pub struct Maps {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    backends: HashMap<MapData, u32, Backend>,
    tables: Array<MapData, TableChunk>,
}

impl Maps {
    /// Opens the pins below an agent's `--bpf-dir`.
    ///
    /// # Errors
    /// They are not there.
    pub fn open(bpf_dir: &Path) -> anyhow::Result<Self> {
        let dir = bpf_dir.join(format!("v{}", sluice_ebpf::LAYOUT));
        let pin = |name: &str| MapData::from_pin(dir.join(name)).with_context(|| format!("open pinned map {name}"));
        Ok(Self {
            frontends: Map::HashMap(pin(map::FRONTENDS)?).try_into()?,
            backends: Map::HashMap(pin(map::BACKENDS)?).try_into()?,
            tables: Map::Array(pin(map::TABLES)?).try_into()?,
        })
    }

    /// The row of a frontend.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn frontend(&self, key: &FrontendKey) -> anyhow::Result<Option<Frontend>> {
        optional(self.frontends.get(key, 0)).context("look up a frontend")
    }

    /// The number of rows of frontends and of backends.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.frontends.keys().count(), self.backends.keys().count())
    }

    /// The backends in a frontend's table; an id that has no row is an error.
    ///
    /// # Errors
    /// A table names a backend that is not there, or the kernel refuses.
    pub fn backends(&self, frontend: &Frontend) -> anyhow::Result<BTreeSet<SocketAddr>> {
        let chunks = frontend.table_slots.div_ceil(CHUNK_SLOTS);
        let mut ids = BTreeSet::new();
        let mut left = frontend.table_slots;
        for chunk in frontend.table_chunk..frontend.table_chunk + chunks {
            let row = self.tables.get(&chunk, 0).context("look up a chunk of a table")?;
            ids.extend(row.ids.iter().take(left.min(CHUNK_SLOTS) as usize));
            left = left.saturating_sub(CHUNK_SLOTS);
        }
        let address = |id: u32| -> anyhow::Result<SocketAddr> {
            let row = optional(self.backends.get(&id, 0))?.with_context(|| format!("backend {id} is not there"))?;
            Ok((IpAddr::from(row.addr.octets).to_canonical(), row.port).into())
        };
        ids.into_iter().map(address).collect()
    }

    /// The backends of `vip:port/TCP`; `None` when there is no such frontend.
    ///
    /// # Errors
    /// As [`Maps::backends`].
    pub fn reach(&self, tcp: SocketAddr) -> anyhow::Result<Option<BTreeSet<SocketAddr>>> {
        self.frontend(&key(tcp, TCP))?.map(|f| self.backends(&f)).transpose()
    }

    /// The backends of `vip:port/UDP`; `None` when there is no such frontend.
    ///
    /// # Errors
    /// As [`Maps::backends`].
    pub fn reach_udp(&self, udp: SocketAddr) -> anyhow::Result<Option<BTreeSet<SocketAddr>>> {
        self.frontend(&key(udp, UDP))?.map(|f| self.backends(&f)).transpose()
    }
}

/// The key of a frontend.
#[must_use]
pub fn key(to: SocketAddr, proto: u8) -> FrontendKey {
    let (vip, family) = match to.ip() {
        IpAddr::V4(ip) => (Addr::v4(ip.octets()), 4),
        IpAddr::V6(ip) => (Addr::v6(ip.octets()), 6),
    };
    FrontendKey { vip, port: to.port(), proto, family }
}

fn optional<T>(found: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
