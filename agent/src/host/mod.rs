//! The stage that watches the host: the addresses of its uplinks, and what its processes listen on.
//!
//! In: netlink and `/proc/net`. Out: [`Seen`], which the compiler takes into its [`crate::model::Node`]. Invariant: the first
//! value is there before the first model, so that no model takes an address of the host for a VIP like others.
pub mod addresses;
pub mod network;
mod sockets;

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use sockets::Listening;

use network::{Network, NetworkError};

/// How often the host is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// All addresses of the uplinks.
    pub addresses: BTreeSet<IpAddr>,
    /// What processes listen on.
    pub listening: BTreeSet<Listening>,
}

/// Looks once. `interfaces` are the uplinks; empty: those of the default routes.
///
/// # Errors
/// The interfaces cannot be read.
pub async fn look(interfaces: &[String]) -> Result<Seen, NetworkError> {
    let network = Network::try_new()?;
    let uplinks = network.uplinks(interfaces).await?;
    let links = network.links().await?;
    let uplinks = links.into_iter().filter(|(name, _)| uplinks.contains(name));
    let addresses = uplinks.flat_map(|(_, link)| link.addresses).collect();
    let listening = tokio::task::spawn_blocking(sockets::read).await.unwrap_or_default();
    Ok(Seen { addresses, listening })
}

/// Looks again and again until cancelled.
pub async fn run(interfaces: Vec<String>, out: watch::Sender<Seen>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        match look(&interfaces).await {
            Ok(seen) => drop(out.send_if_modified(|last| {
                let changed = *last != seen;
                *last = seen;
                changed
            })),
            // What was seen last stays.
            Err(error) => tracing::warn!(reason = %error, "addresses of the host"),
        }
    }
}
