//! Who lives, for a process that is no node: the controller.
//!
//! # Design
//! It hears of nodes by their Leases alone: a machine that is switched off in order is missed when its Lease ends (40 s), and
//! not when it falls silent on the network, which may not be the observer's.
use std::{sync::Arc, time::Instant};

use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tokio_util::sync::CancellationToken;

use super::{Members, RENEW, STEPS, hear, peers::Peers, publish};
use crate::source::kubernetes::{Leases, Step, follow_leases};

/// Follows the Leases of the nodes until `leave`.
pub async fn observe(
    client: Client,
    namespace: String,
    members: watch::Sender<Arc<Members>>,
    leave: CancellationToken,
) {
    let (steps, mut inbox) = mpsc::channel::<Step<Leases>>(STEPS);
    let watching = tokio::spawn(follow_leases(client, namespace, steps));
    let (mut leases, mut peers) = (Leases::default(), Peers::new(None));
    loop {
        let now = Instant::now();
        publish(&members, peers.members(now));
        let check_at = peers.next_change(now).unwrap_or(now + RENEW).max(now + super::SPACING);
        tokio::select! {
            () = leave.cancelled() => break,
            step = inbox.recv() => {
                let Some(step) = step else { break };
                hear(step, &mut leases, &mut inbox, &mut peers);
            }
            () = sleep_until(check_at.into()) => {}
        }
    }
    watching.abort();
}
