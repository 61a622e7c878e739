//! What the datapath has really programmed: the stage's output.
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::Serialize;

use super::load::XdpKind;

/// What is in the kernel now.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The revision of the model that is programmed; 0 before the first.
    pub rev: u64,
    /// How long the last change took, from the model to the last write.
    pub took: Duration,
    /// Writes that the last change took.
    pub ops: usize,
    /// Frontends in the maps.
    pub frontends: usize,
    /// Backends in the maps, with those that are about to be removed.
    pub backends: usize,
    /// Chunks of lookup table in use.
    pub table_chunks: u32,
    /// The interfaces that were asked for, and what became of each.
    pub uplinks: Vec<UplinkStatus>,
    /// What could not be programmed, and why.
    pub faults: Vec<String>,
    /// The objects that lack a frontend in the maps, `Service default/web`.
    pub unprogrammed: Vec<String>,
    /// Settings of this host that keep flows from being forwarded.
    pub host: Vec<String>,
    /// Announcements of VIPs sent since the start.
    pub announcements: u64,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// How XDP is attached; `None`: TC alone.
    pub xdp: Option<XdpKind>,
    /// Whether the TC programs are attached.
    pub tc: bool,
    /// The source of flows to other nodes.
    pub v4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub v6: Option<Ipv6Addr>,
    /// What is wrong, or why XDP is not used.
    pub note: Option<String>,
}

impl Applied {
    /// Why the node is not ready to forward; `None` when it is.
    #[must_use]
    pub fn blocker(&self) -> Option<String> {
        if self.rev == 0 {
            return Some("datapath: no model is programmed yet".to_owned());
        }
        let detached = self.uplinks.iter().find(|u| !u.tc);
        if let Some(uplink) = detached {
            let why = uplink.note.as_deref().unwrap_or("not attached yet");
            return Some(format!("datapath: interface {}: {why}", uplink.name));
        }
        self.uplinks.is_empty().then(|| "datapath: no interface to attach to".to_owned())
    }
}
