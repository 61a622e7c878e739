//! Whether a node whose agent has ended on purpose is still there.
//!
//! # Design
//! Its programs go on, and its agent is expected back: a rollout. But a machine that is switched off in order ends its
//! agent just so, and its Lease, valid for long, says the same. So the others ask for the node on the network, and when it
//! does not answer there they need not wait. Only neighbours can be asked, and only among neighbours are VIPs announced.
use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use tokio::time::timeout;

use crate::{
    host::network::{Network, NetworkError, neighbours::Neighbour},
    telemetry::chain,
};

/// How long the kernel may take to answer us.
const LIMIT: Duration = Duration::from_secs(1);

/// What was asked.
pub(super) struct Presence {
    network: Network,
    /// The nodes that are leaving, and whether they were asked for: what the kernel knew before is of no interest.
    asked: BTreeMap<String, bool>,
}

impl Presence {
    /// Opens a netlink socket.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn try_new() -> Result<Self, NetworkError> {
        Ok(Self { network: Network::try_new()?, asked: BTreeMap::new() })
    }

    /// Asks for the nodes that are leaving; those that do not answer.
    pub(super) async fn look(&mut self, leaving: &[(String, IpAddr)]) -> Vec<String> {
        self.asked.retain(|name, _| leaving.iter().any(|(node, _)| node == name));
        let mut silent = Vec::new();
        for (node, addr) in leaving {
            let was_asked = self.asked.entry(node.clone()).or_default();
            match timeout(LIMIT, ask(&self.network, *addr, *was_asked)).await {
                Ok(Ok(is_silent)) => {
                    *was_asked = true;
                    if is_silent {
                        silent.push(node.clone());
                    }
                }
                Ok(Err(error)) => tracing::debug!(node, error = chain(&error), "whether the node is there"),
                Err(_) => tracing::debug!(node, elapsed = ?LIMIT, "whether the node is there"),
            }
        }
        silent
    }
}

async fn ask(network: &Network, addr: IpAddr, was_asked: bool) -> Result<bool, NetworkError> {
    let known = network.neighbour(addr).await?;
    if was_asked && known == Neighbour::Silent {
        return Ok(true);
    }
    network.ask(addr, known).await?;
    Ok(false)
}
