//! What the pinned maps say while no agent runs: the programs go on, and so do these answers.
//!
//! In: the directory of the pins. Out: the same shapes as the admin API's. The maps know addresses and not objects: names
//! are `-`, and whatever needs the objects is left out.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use sluice_ebpf::{BACKEND_LOCAL, BACKEND_REMOTE, Backend};

use crate::{
    admin::{flows::FlowQuery, view},
    datapath::{
        maps::{Pinned, TableError},
        observe,
        rows::ip,
    },
    model::Model,
};

/// In place of a name.
const UNNAMED: &str = "-";

/// The tracked flows; the query names no Service.
///
/// # Errors
/// A map cannot be read.
pub(super) fn flows(pins: &Path, query: &FlowQuery) -> Result<view::Flows, TableError> {
    let (flows, total) = observe::flows(pins, query.limit, query.filter(&Model::default()))?;
    Ok(view::Flows { total, flows: flows.iter().map(view::Flow::from).collect() })
}

/// The backends that new flows may go to.
///
/// # Errors
/// A map cannot be read.
pub(super) fn backends(pins: &Path) -> Result<Vec<view::Backend>, TableError> {
    let observed = Pinned::open(pins)?.observe()?;
    let mut rows = Vec::new();
    for (key, (_, slots)) in &observed.frontends {
        let Some(frontend) = observe::host_frontend(key) else { continue };
        let ids = slots.iter().copied().collect::<BTreeSet<_>>();
        rows.extend(ids.iter().filter_map(|id| observed.backends.get(id)).map(|backend| {
            let Backend { addr, port, flags } = *backend;
            let locality = match flags {
                _ if flags & BACKEND_LOCAL != 0 => "local",
                _ if flags & BACKEND_REMOTE != 0 => "remote",
                _ => "unknown",
            };
            view::Backend {
                frontend: frontend.to_string(),
                service: UNNAMED.to_owned(),
                weight: None,
                backend: SocketAddr::new(ip(addr), port).to_string(),
                locality: locality.to_owned(),
                state: "active".to_owned(),
            }
        }));
    }
    Ok(rows)
}

/// The VIPs, each as a Service of its own.
///
/// # Errors
/// A map cannot be read.
pub(super) fn services(pins: &Path) -> Result<Vec<view::Service>, TableError> {
    let mut of_vip: BTreeMap<IpAddr, Vec<_>> = BTreeMap::new();
    for (frontend, count) in observe::frontends(pins)? {
        of_vip.entry(frontend.vip).or_default().push((frontend, count));
    }
    let backends = backends(pins)?;
    let service = |(vip, frontends): (IpAddr, Vec<_>)| {
        let names = frontends.iter().map(|(f, _): &(crate::model::Frontend, _)| f.to_string()).collect::<BTreeSet<_>>();
        let behind = backends.iter().filter(|b| names.contains(&b.frontend)).map(|b| b.backend.as_str());
        let sum = |of: fn(&observe::FrontendCount) -> u64| frontends.iter().map(|(_, count)| of(count)).sum::<u64>();
        view::Service {
            object: view::Object {
                kind: UNNAMED.to_owned(),
                name: UNNAMED.to_owned(),
                outcome: "accepted".to_owned(),
                reason: "InTheMaps".to_owned(),
                messages: Vec::new(),
            },
            addresses: vec![vip.to_string()],
            announced: Vec::new(),
            announcers: BTreeMap::new(),
            ports: frontends.iter().map(|(f, _)| format!("{}/{}", f.port, f.proto)).collect(),
            sources: Vec::new(),
            backends: Some(behind.collect::<BTreeSet<_>>().len()),
            backend_families: None,
            flows: Some(sum(|c| c.flows)),
            bytes: Some(sum(|c| c.request_bytes + c.reply_bytes)),
            dropped: sum(|c| c.dropped_packets),
        }
    };
    Ok(of_vip.into_iter().map(service).collect())
}
