//! The Leases of one namespace, followed apart: they change every second and concern no Service.
use std::sync::Arc;

use kube::Client;
use tokio::sync::mpsc;

use super::{
    pace::{Agents, Pace},
    reflector::{Place, Step, Store, What, follow},
    served::served,
};
use crate::{api::Lease, shared::SharedMap, source::snapshot::Fault};

/// The Leases as they were read last.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// By name.
    pub(crate) leases: SharedMap<String, Arc<Lease>>,
    faults: Vec<Fault>,
    is_forbidden: bool,
}

impl Store for Leases {
    fn faults(&mut self) -> &mut Vec<Fault> {
        &mut self.faults
    }
}

impl Leases {
    /// Takes note of a change; of why there is none, where there is none.
    pub(crate) fn take(&mut self, step: Step<Self>) {
        match step.what {
            What::Change(change) | What::Synced(change) | What::Absent(change) => {
                self.is_forbidden = false;
                change(self);
            }
            What::Watching => {}
            // Nobody is announced by or reported to whom this node cannot see: a person must act.
            What::Forbidden(reason) => {
                if !std::mem::replace(&mut self.is_forbidden, true) {
                    tracing::error!(kind = step.resource, reason, "reading is forbidden: the other nodes are not seen");
                }
            }
            What::Trouble(reason) => tracing::debug!(kind = step.resource, reason, "not followed for now"),
        }
    }
}

/// Follows the Leases of a namespace until nobody listens.
pub(crate) async fn follow_leases(client: Client, namespace: String, steps: mpsc::Sender<Step<Leases>>) {
    let place = Place::<Lease, Leases> {
        objects: |l| &mut l.leases,
        seen: None,
        namespace: Some(namespace),
        counts_agents: true,
    };
    let agents = Agents::default();
    // Every cluster has Leases: none is ever looked for.
    let (served, looks) = served(client.clone(), Pace::new(agents.clone()));
    tokio::join!(follow(client, place, agents, served, steps), looks);
}
