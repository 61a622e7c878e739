//! The addresses of this host, for a node that gives addresses itself: no pool may give what the host has.
//!
//! In: the interfaces, by netlink. Out: [`HostAddresses`]. In a cluster the Nodes' status says it instead, the same to every
//! node, and this does not run.
use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::network::{Network, NetworkError};
use crate::model::HostAddresses;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Follows the addresses until cancelled. `interfaces` are the uplinks; where there are none, those of the default routes.
pub async fn watch(
    network: Network,
    interfaces: Vec<String>,
    out: watch::Sender<Option<Arc<HostAddresses>>>,
    cancel: CancellationToken,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        let found = match look(&network, &interfaces).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "this host's addresses");
                // What is not known does not keep anybody waiting.
                out.borrow().as_deref().cloned().unwrap_or_default()
            }
        };
        out.send_if_modified(|known| {
            let differs = known.as_deref() != Some(&found);
            if differs {
                *known = Some(Arc::new(found));
            }
            differs
        });
    }
}

async fn look(network: &Network, interfaces: &[String]) -> Result<HostAddresses, NetworkError> {
    let links = network.links().await?;
    let uplinks = network.uplinks(interfaces).await?;
    let on_uplinks = links.values().filter(|link| uplinks.contains(&link.name)).flat_map(|link| &link.addresses);
    Ok(HostAddresses {
        on_uplinks: on_uplinks.copied().collect(),
        anywhere: links.values().flat_map(|link| &link.addresses).copied().collect(),
    })
}
