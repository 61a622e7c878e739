//! What one node tells the others: an annotation on its Lease.
use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{api::Lease, mac::Mac, source::snapshot::Seen};

/// The annotation that holds a [`Report`] as JSON.
pub const REPORT: &str = "sluice.dev/report";
/// Objects that a report names at most; a node that cannot program more than that has another trouble.
pub(super) const MAX_EXCEPT: usize = 500;

/// What a node has programmed and read back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Everything written up to these revisions is programmed, but for `except`.
    pub seen: Seen,
    /// The objects that are not programmed, `Service default/web`.
    pub except: Vec<String>,
    /// Addresses that another host was found to have, each with a sentence.
    pub conflicts: BTreeMap<IpAddr, String>,
    /// The objects with an endpoint that this node cannot reach, `Service default/web`, each with a sentence.
    pub lacking: BTreeMap<String, String>,
    /// The proxy takes connections.
    pub proxy: bool,
    /// The agent is about to end; what is in the kernel goes on forwarding layer 4.
    pub leaving: bool,
    /// Where its neighbours find the node.
    pub address: Option<IpAddr>,
    /// The Ethernet addresses by which it announces VIPs.
    pub macs: Vec<Mac>,
}

impl Report {
    /// The report on a Lease; `None` without one, or with one that does not read.
    #[must_use]
    pub fn of(lease: &Lease) -> Option<Self> {
        serde_json::from_str(lease.metadata.annotations.get(REPORT)?).ok()
    }
}
