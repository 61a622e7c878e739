//! The pinned maps, read as the programs read them: which backends may a frontend's flows reach right now.
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::Context as _;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use sluice_ebpf::{
    Addr, Backend, CHUNK_SLOTS, CT_REQUEST, CtEntry, CtKey, Frontend, FrontendKey, TCP, TableChunk, Tuple, UDP, map,
};

/// The maps of one agent; they stay readable when it is gone.
pub struct Maps {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    backends: HashMap<MapData, u32, Backend>,
    tables: Array<MapData, TableChunk>,
    /// Those that are proved, and those that are not.
    flows: [HashMap<MapData, CtKey, CtEntry>; 2],
}

/// The choice that was made for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The endpoint.
    pub backend: SocketAddr,
    /// When the client's last packet came, at most a quarter of a second early. Units: nanoseconds of the monotonic clock.
    pub seen: u64,
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
            flows: [Map::LruHashMap(pin(map::CONNTRACK)?).try_into()?, Map::LruHashMap(pin(map::OPENING)?).try_into()?],
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

    /// The backends in a frontend's table, slots without a backend aside; an id that has no row is an error.
    ///
    /// # Errors
    /// A table names a backend that is not there, or the kernel refuses.
    pub fn backends(&self, frontend: &Frontend) -> anyhow::Result<BTreeSet<SocketAddr>> {
        let chunks = frontend.table_slots.div_ceil(CHUNK_SLOTS);
        let mut ids = BTreeSet::new();
        let mut left = frontend.table_slots;
        for chunk in frontend.table_chunk..frontend.table_chunk + chunks {
            let row = self.tables.get(&chunk, 0).context("look up a chunk of a table")?;
            ids.extend(row.ids.iter().take(left.min(CHUNK_SLOTS) as usize).filter(|id| **id != 0));
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

    /// What was chosen for the flow of a client; `None` when no entry tells.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn chosen(&self, client: SocketAddr, to: SocketAddr, proto: u8) -> anyhow::Result<Option<Chosen>> {
        let tuple = Tuple { src: addr(client.ip()), dst: addr(to.ip()), src_port: client.port(), dst_port: to.port() };
        let key = CtKey { tuple, proto, dir: CT_REQUEST, pad: [0; 2] };
        let [proved, opening] = &self.flows;
        let row = match optional(proved.get(&key, 0))? {
            None => optional(opening.get(&key, 0))?,
            found => found,
        };
        Ok(row.map(|entry| {
            let backend = IpAddr::from(entry.to.dst.octets).to_canonical();
            Chosen { backend: (backend, entry.to.dst_port).into(), seen: entry.seen }
        }))
    }
}

/// The key of a frontend.
#[must_use]
pub fn key(to: SocketAddr, proto: u8) -> FrontendKey {
    FrontendKey { vip: addr(to.ip()), port: to.port(), proto, family: if to.is_ipv4() { 4 } else { 6 } }
}

fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(ip) => Addr::v4(ip.octets()),
        IpAddr::V6(ip) => Addr::v6(ip.octets()),
    }
}

fn optional<T>(found: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
