//! The nodes of the cluster: tells the others that this one lives and what it has programmed, and hears the same of them.
//!
//! In: what this node has programmed, and the Leases `sluice-node-*` of the agents' namespace. Out: the [`Members`] that
//! live, for how long this one may announce VIPs, and its own Lease, renewed every [`RENEW`].
//!
//! # Design
//! What a node has done travels in one Lease per node: the load on the API server grows with nodes, not with Services.
//!
//! The programs answer for VIPs as long as the Lease is valid, counted from before it was written, and the others count
//! from when they see it: this node is silent before another takes over. An agent that hears of nobody goes on all the
//! same: mostly the API server is away, and then nobody takes over. Should this node alone be cut off, the one that takes
//! over says so on the network, and the programs yield to that. So do the programs of an agent that starts and hears of
//! nobody, however long the one before it has been dead, and those of an agent that has ended on purpose, which the others
//! expect back: see [`presence`]. One that ends before it has [`SETTLED`] is not expected back: a node that has stood in for
//! it may go on to say so for a moment, the programs would yield to that, and nobody would answer.
mod observer;
mod peers;
mod presence;
mod report;

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

pub use observer::observe;
use peers::Peers;
pub use peers::{Members, PREFIX};
use presence::Presence;
pub use report::{REPORT, Report};

use crate::{
    arrows::{Answering, Applied, UplinkStatus, Validity},
    mac::Mac,
    model::Model,
    source::{
        kubernetes::{Leases, Step, follow_leases},
        snapshot::Seen,
    },
    telemetry::chain,
};

/// Between two renewals of this node's Lease.
const RENEW: Duration = Duration::from_secs(1);
/// How long a Lease is valid. Units: seconds.
const DURATION: u64 = 3;
/// How long the Lease of an agent that ends on purpose is valid: its programs go on, and it is expected back. Units: seconds.
const LEAVING: u64 = 40;
/// How long the Lease of an agent is valid that ends on purpose before it has [`SETTLED`]: it is not expected back. Units: seconds.
const HASTY: u64 = 1;
/// How long after its first Lease every other node has heard of an agent, and has let go of what it announces.
const SETTLED: Duration = Duration::from_secs(3);
/// How often a node is asked for whose agent has ended on purpose.
const LOOK: Duration = Duration::from_millis(500);
/// How long one write may take.
const WRITE: Duration = Duration::from_millis(2_000);
/// Between two writes of the Lease, at least.
const SPACING: Duration = Duration::from_millis(50);
/// Leases that wait for this task at most; beyond it their watch is read more slowly.
const STEPS: usize = 256;
/// Models whose revisions are remembered until the datapath has caught up.
const MODELS: usize = 64;
/// Who writes.
pub const FIELD_MANAGER: &str = "sluice";

/// The ends of the arrows that the stage reads.
#[derive(Clone)]
pub struct Inputs {
    /// The newest model.
    pub models: watch::Receiver<Arc<Model>>,
    /// What is programmed.
    pub applied: watch::Receiver<Applied>,
    /// What the proxy routes by.
    pub routed: watch::Receiver<u64>,
}

/// The ends of the arrows that the stage writes.
pub struct Outputs {
    /// Who lives.
    pub members: watch::Sender<Arc<Members>>,
    /// For how long this node may announce VIPs.
    pub validity: watch::Sender<Validity>,
    /// The Ethernet addresses of the other nodes; `None` before they were seen.
    pub peers: watch::Sender<Option<BTreeSet<Mac>>>,
}

/// The stage.
pub struct Membership {
    node: String,
    client: Client,
    namespace: String,
    inputs: Inputs,
    /// What the models were made of whose programming is not seen yet.
    made_of: VecDeque<(u64, Seen)>,
    report: Report,
    /// Whether VIPs may be announced: what the programs announce is what the agent before this one did a moment ago, or
    /// what the cluster has agreed on.
    announces: bool,
    /// What the programs announce is what the agent before this one did before they fell silent. Nobody can have taken
    /// over while the API server is away, and who has before that was heard.
    has_lapsed: bool,
    /// The API server has refused the Lease.
    is_refused: bool,
    /// Since when another node may have taken over from the agent before this one, until the first model is programmed.
    unheard_since: Option<Instant>,
    /// When the others have let go of what they announced for this node; `None` before they can have heard of it.
    settles_at: Option<Instant>,
}

impl Membership {
    /// A stage for this node, whose programs answer for VIPs already or not.
    #[must_use]
    pub fn new(node: String, client: Client, namespace: String, inputs: Inputs, before: Answering) -> Self {
        let (announces, has_lapsed, unheard_since) = match before {
            Answering::Never => (false, false, None),
            Answering::Lapsed { since } => (false, true, Some(since)),
            Answering::Now { blind_since } => (true, false, blind_since),
        };
        let (made_of, report) = (VecDeque::new(), Report::default());
        let is_refused = false;
        // Nobody has taken over from programs that have answered all the time.
        let settles_at = (announces && unheard_since.is_none()).then(Instant::now);
        Self {
            node,
            client,
            namespace,
            inputs,
            made_of,
            report,
            announces,
            has_lapsed,
            is_refused,
            unheard_since,
            settles_at,
        }
    }

    /// Keeps the Lease and follows the others until `leave`, then says so once.
    pub async fn run(mut self, out: Outputs, leave: CancellationToken) {
        let (steps, mut inbox) = mpsc::channel::<Step<Leases>>(STEPS);
        let watching = tokio::spawn(follow_leases(self.client.clone(), self.namespace.clone(), steps));
        let mut leases = Leases::default();
        let mut peers = Peers::new(Some(&self.node));
        let mut presence = match Presence::try_new() {
            Ok(presence) => Some(presence),
            Err(error) => {
                tracing::warn!(error = chain(&error), "nodes that are switched off in order are missed late");
                None
            }
        };
        let (mut renew_at, mut look_at) = (Instant::now(), Instant::now());
        let mut inputs = self.inputs.clone();
        loop {
            let now = Instant::now();
            publish(&out.members, peers.members(now));
            let leaving = peers.leaving();
            let check_at = peers.next_change(now).unwrap_or(now + RENEW).max(now + Duration::from_millis(10));
            tokio::select! {
                () = leave.cancelled() => break,
                step = inbox.recv() => {
                    let Some(step) = step else { break };
                    hear(step, &mut leases, &mut inbox, &mut peers);
                    if let Some(macs) = peers.macs() {
                        let differs = |known: &Option<BTreeSet<Mac>>| known.as_ref() != Some(&macs);
                        out.peers.send_if_modified(|known| differs(known).then(|| *known = Some(macs.clone())).is_some());
                    }
                }
                changed = async { tokio::select! {
                    changed = inputs.models.changed() => changed,
                    changed = inputs.applied.changed() => changed,
                    changed = inputs.routed.changed() => changed,
                } } => {
                    if changed.is_err() {
                        break;
                    }
                    if self.update() {
                        renew_at = renew_at.min(now + SPACING);
                    }
                }
                () = sleep_until(renew_at.into()) => {
                    self.update();
                    let is_written = self.write(DURATION).await;
                    let blind_since = peers.blind_since(Instant::now());
                    self.announces |= self.has_lapsed && !is_written && blind_since.is_some();
                    if self.inputs.applied.borrow().rev > 0 {
                        self.announces |= is_written;
                        self.unheard_since = None;
                        if is_written {
                            self.settles_at.get_or_insert(now + SETTLED);
                        }
                    }
                    if self.announces {
                        let from = if is_written { now } else { Instant::now() };
                        let until = from + Duration::from_secs(DURATION);
                        out.validity.send_replace(match blind_since.into_iter().chain(self.unheard_since).min() {
                            Some(since) => Validity::Blind { until, since },
                            None => Validity::Until(until),
                        });
                    }
                    renew_at = (now + RENEW).max(Instant::now() + SPACING);
                }
                () = sleep_until(look_at.into()), if !leaving.is_empty() => {
                    if let Some(presence) = &mut presence {
                        for node in presence.look(&leaving).await {
                            tracing::warn!(node, "its agent has ended and it does not answer on the network: taken for dead");
                            peers.silence(&node);
                        }
                    }
                    look_at = Instant::now() + LOOK;
                }
                () = sleep_until(check_at.into()) => {}
            }
        }
        let now = Instant::now();
        let has_settled = self.settles_at.is_some_and(|at| at <= now);
        (self.report.leaving, self.report.proxy) = (has_settled, false);
        let (lease, left) = if has_settled { (LEAVING, LEAVING) } else { (HASTY, DURATION) };
        if self.write(lease).await && self.announces {
            // Whoever takes over, because this machine is switched off or does not count on this agent, says so.
            out.validity.send_replace(Validity::Blind { until: now + Duration::from_secs(left), since: now });
        }
        watching.abort();
    }

    /// Brings the report up to date; whether it changed.
    fn update(&mut self) -> bool {
        let model = self.inputs.models.borrow().clone();
        if self.made_of.back().is_none_or(|(rev, _)| *rev != model.rev) {
            self.made_of.push_back((model.rev, model.seen));
            if self.made_of.len() > MODELS {
                self.made_of.pop_front();
            }
        }
        let applied = self.inputs.applied.borrow().clone();
        let routed = *self.inputs.routed.borrow();
        let mut report = Report { proxy: routed > 0, ..self.report.clone() };
        if let Some(seen) = programmed(&mut self.made_of, applied.rev, routed) {
            report.seen = seen;
        }
        let address = |uplink: &UplinkStatus| uplink.v4.map(IpAddr::V4).or(uplink.v6.map(IpAddr::V6));
        report.address = applied.uplinks.iter().find_map(address);
        report.macs.clone_from(&applied.macs);
        // What is not announced is not served yet; what another host has never is.
        let except = applied.unprogrammed.keys().chain(&applied.unannounced);
        report.except = except.take(report::MAX_EXCEPT).cloned().collect();
        let conflicts = applied.conflicts.iter().take(report::MAX_EXCEPT);
        report.conflicts = conflicts.map(|(vip, holder)| (*vip, holder.sentence())).collect();
        let lacking = applied.lacking.iter().take(report::MAX_EXCEPT);
        report.lacking = lacking.map(|(object, sentence)| (object.clone(), sentence.clone())).collect();
        let differs = report != self.report;
        self.report = report;
        differs
    }

    /// Writes the Lease; whether it is written.
    async fn write(&mut self, duration: u64) -> bool {
        let name = format!("{PREFIX}{}", self.node);
        let now = jiff::Timestamp::now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": {"app.kubernetes.io/managed-by": "sluice"},
                "annotations": {REPORT: serde_json::to_string(&self.report).unwrap_or_default()},
            },
            "spec": {"holderIdentity": self.node, "leaseDurationSeconds": duration, "renewTime": format!("{now:.6}")},
        });
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease"));
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match timeout(WRITE, api.patch(&name, &params, &Patch::Apply(lease))).await {
            Ok(Ok(_)) => {
                self.is_refused = false;
                return true;
            }
            // By RBAC, or by the admission policies: for the others this node does not live, and waiting does not help.
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                if !std::mem::replace(&mut self.is_refused, true) {
                    let reason = status.message;
                    tracing::error!(
                        node = self.node,
                        reason,
                        "this node's Lease is refused: the other nodes do not see it"
                    );
                }
            }
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "this node's Lease is not renewed"),
            Err(_) => tracing::debug!(elapsed = ?WRITE, "this node's Lease is not renewed in time"),
        }
        false
    }
}

/// Says who lives, where that changed.
fn publish(out: &watch::Sender<Arc<Members>>, members: Members) {
    out.send_if_modified(|known| {
        let differs = **known != members;
        if differs {
            *known = Arc::new(members);
        }
        differs
    });
}

/// Takes a step and what else has come, and notes it.
fn hear(step: Step<Leases>, leases: &mut Leases, inbox: &mut mpsc::Receiver<Step<Leases>>, peers: &mut Peers) {
    leases.take(step);
    while let Ok(step) = inbox.try_recv() {
        leases.take(step);
    }
    peers.observe(&leases.leases, Instant::now());
}

/// Up to where the API server was followed for the newest model that is in the maps and in the proxy: a Gateway, and a
/// Service before one, is served when both have it. Forgets the models up to there; `None` where no newer one is.
fn programmed(made_of: &mut VecDeque<(u64, Seen)>, applied: u64, routed: u64) -> Option<Seen> {
    let mut newest = None;
    while let Some((_, seen)) = made_of.pop_front_if(|(rev, _)| *rev <= applied.min(routed)) {
        newest = Some(seen);
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reported_as_programmed_is_in_the_maps_and_in_the_proxy() {
        let made_of =
            || (1..=4).map(|rev| (rev, Seen { services: rev * 10, gateways: rev * 10 })).collect::<VecDeque<_>>();
        for (applied, routed, want) in
            [(0, 0, None), (3, 0, None), (3, 1, Some(10)), (1, 3, Some(10)), (3, 2, Some(20)), (9, 9, Some(40))]
        {
            let mut models = made_of();
            let found = programmed(&mut models, applied, routed).map(|seen| seen.gateways);
            assert_eq!(found, want, "maps at {applied}, proxy at {routed}");
            assert_eq!(programmed(&mut models, applied, routed), None, "it is told once");
        }
    }
}
