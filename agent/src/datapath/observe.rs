//! Counters and flows, read from the pinned maps in host terms. Reads only; needs nothing of the running stage.
use std::{collections::BTreeMap, net::IpAddr, path::Path};

use aya::maps::{HashMap, MapData, PerCpuArray};
use serde::Serialize;
use sluice_ebpf::{
    CT_FIN_BACKEND, CT_FIN_CLIENT, CT_OPENING, CT_REPLIED, CT_REQUEST, CT_RST, CT_SNAT, Counters, CtEntry, CtKey,
    Frontend, FrontendKey, Reason, TCP, UDP, map,
};

use super::{
    maps::{TableError, fault, open},
    rows::ip,
    sweep::monotonic_nanoseconds,
};
use crate::model::{self, Port, Proto};

/// What a frontend has counted since it was first programmed, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendCount {
    /// Flows begun.
    pub flows: u64,
    /// Packets from clients.
    pub request_packets: u64,
    /// Bytes from clients.
    pub request_bytes: u64,
    /// Packets from backends.
    pub reply_packets: u64,
    /// Bytes from backends.
    pub reply_bytes: u64,
    /// Packets refused or dropped.
    pub dropped_packets: u64,
}

/// One tracked flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// The protocol.
    pub proto: Proto,
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The VIP.
    pub vip: IpAddr,
    /// The frontend's port.
    pub port: u16,
    /// The chosen backend's address.
    pub backend: IpAddr,
    /// The chosen backend's port.
    pub backend_port: u16,
    /// The source that the backend sees, where it was changed.
    pub snat: Option<(IpAddr, u16)>,
    /// `opening`, `established`, `closing` or `closed`; for UDP `oneway` or `replied`.
    pub state: &'static str,
    /// Seconds since the client's last packet.
    pub idle_seconds: u64,
    /// Seconds since the flow began.
    pub age_seconds: u64,
}

/// The counters of every frontend in the maps.
///
/// # Errors
/// A map cannot be read.
pub fn frontends(dir: &Path) -> Result<BTreeMap<model::Frontend, FrontendCount>, TableError> {
    let frontends: HashMap<MapData, FrontendKey, Frontend> = open(dir, map::FRONTENDS)?;
    let counters: PerCpuArray<MapData, Counters> = open(dir, map::COUNTERS)?;
    let mut counts = BTreeMap::new();
    for row in &frontends {
        let (key, frontend) = row.map_err(|e| fault(map::FRONTENDS, e))?;
        let Some(key) = host_frontend(&key) else { continue };
        let mut total = FrontendCount::default();
        for cpu in counters.get(&frontend.id, 0).map_err(|e| fault(map::COUNTERS, e))?.iter() {
            let Counters { flows, request_packets, request_bytes, reply_packets, reply_bytes, dropped_packets } = *cpu;
            total.flows += flows;
            total.request_packets += request_packets;
            total.request_bytes += request_bytes;
            total.reply_packets += reply_packets;
            total.reply_bytes += reply_bytes;
            total.dropped_packets += dropped_packets;
        }
        counts.insert(key, total);
    }
    Ok(counts)
}

/// Packets by reason, over all CPUs and since the maps were made.
///
/// # Errors
/// The map cannot be read.
pub fn reasons(dir: &Path) -> Result<BTreeMap<&'static str, u64>, TableError> {
    let reasons: PerCpuArray<MapData, u64> = open(dir, map::REASONS)?;
    let count = |reason: Reason| {
        let cpus = reasons.get(&(reason as u32), 0).map_err(|e| fault(map::REASONS, e))?;
        Ok((reason.name(), cpus.iter().sum()))
    };
    Reason::ALL.into_iter().map(count).collect()
}

/// Tracked flows that are wanted, at most `limit`, and how many there are of these.
///
/// # Errors
/// The map cannot be opened.
pub fn flows(dir: &Path, limit: usize, is_wanted: impl Fn(&Flow) -> bool) -> Result<(Vec<Flow>, usize), TableError> {
    let now = monotonic_nanoseconds();
    let (mut flows, mut total) = (Vec::new(), 0);
    // Those that are proved first: a flood of others must not hide them.
    for name in [map::CONNTRACK, map::OPENING] {
        let rows: HashMap<MapData, CtKey, CtEntry> = open(dir, name)?;
        // An entry that vanishes while we walk is what an LRU map does.
        for (key, entry) in rows.iter().filter_map(Result::ok).filter(|(key, _)| key.dir == CT_REQUEST) {
            let Some(flow) = flow(&key, &entry, now).filter(&is_wanted) else { continue };
            total += 1;
            if flows.len() < limit {
                flows.push(flow);
            }
        }
    }
    flows.sort_by_key(|f| (f.vip, f.port, f.client, f.client_port));
    Ok((flows, total))
}

fn flow(key: &CtKey, entry: &CtEntry, now: u64) -> Option<Flow> {
    const SECOND: u64 = 1_000_000_000;
    let proto = proto(key.proto)?;
    let has = |bits: u32| entry.flags & bits == bits;
    let state = match proto {
        Proto::Udp if has(CT_REPLIED) => "replied",
        Proto::Udp => "oneway",
        Proto::Tcp if has(CT_RST) || has(CT_FIN_CLIENT | CT_FIN_BACKEND) => "closed",
        Proto::Tcp if has(CT_FIN_CLIENT) || has(CT_FIN_BACKEND) => "closing",
        Proto::Tcp if has(CT_REPLIED) && !has(CT_OPENING) => "established",
        Proto::Tcp => "opening",
    };
    Some(Flow {
        proto,
        client: ip(key.tuple.src),
        client_port: key.tuple.src_port,
        vip: ip(key.tuple.dst),
        port: key.tuple.dst_port,
        backend: ip(entry.to.dst),
        backend_port: entry.to.dst_port,
        snat: has(CT_SNAT).then(|| (ip(entry.to.src), entry.to.src_port)),
        state,
        idle_seconds: now.saturating_sub(entry.seen) / SECOND,
        age_seconds: now.saturating_sub(entry.created) / SECOND,
    })
}

/// A frontend as the model names it; `None` for what no model makes.
pub(crate) fn host_frontend(key: &FrontendKey) -> Option<model::Frontend> {
    Some(model::Frontend { vip: ip(key.vip), port: Port::try_new(key.port.into())?, proto: proto(key.proto)? })
}

fn proto(number: u8) -> Option<Proto> {
    match number {
        TCP => Some(Proto::Tcp),
        UDP => Some(Proto::Udp),
        _ => None,
    }
}
