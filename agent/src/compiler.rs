//! The stage between source and model: compiles each snapshot, remembers given addresses.
//!
//! In: snapshots, who lives, what the host has. Out: models. [`crate::model::compile`] is pure; what it needs from one run to the next is kept here:
//! the addresses given, on disk too, and the [`Memo`].
pub mod allocations;
pub mod authorities;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    host::Seen,
    membership::{Members, Report},
    model::{Candidate, Frontend, HostAddresses, Memo, Model, Node, Outcome, Role, verdict::some_of},
    shared::Difference,
    source::Snapshot,
    telemetry::chain,
};

/// How long the first model of a member waits for the other nodes.
const HOLD: Duration = Duration::from_secs(3);
/// Between two tries to write the allocations down.
const RETRY: Duration = Duration::from_secs(10);

/// The stage's state.
pub struct Compiler {
    node: Node,
    state_dir: PathBuf,
    memo: Memo,
    /// The allocations on disk are not those in memory.
    unsaved: bool,
    /// What the host has.
    seen: Seen,
}

/// What the stage follows.
pub struct Inputs {
    /// What the API says.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Who lives.
    pub members: watch::Receiver<Arc<Members>>,
    /// What the host has.
    pub host: watch::Receiver<Seen>,
    /// The host's addresses, for a node that gives addresses itself.
    pub addresses: watch::Receiver<Option<Arc<HostAddresses>>>,
}

impl Compiler {
    /// A compiler for this node; `node.allocations` are those read from `state_dir`.
    #[must_use]
    pub fn new(node: Node, state_dir: PathBuf) -> Self {
        Self { node, state_dir, memo: Memo::default(), unsaved: false, seen: Seen::default() }
    }

    /// Follows the snapshots until cancelled.
    pub async fn run(mut self, inputs: Inputs, out: watch::Sender<Arc<Model>>, cancel: CancellationToken) {
        let Inputs { mut snapshots, mut members, mut host, mut addresses } = inputs;
        self.follow_host(host.borrow_and_update().clone());
        if self.node.role == Role::Member {
            // Knowing of nobody it would take back what the programs announce, and announce it anew a moment later.
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(HOLD) => {}
                Ok(known) = members.wait_for(|known| !known.alive.is_empty()) => {
                    self.follow_members(&known);
                }
            }
        }
        if self.node.role == Role::Alone {
            // Before anything is given away.
            tokio::select! {
                () = cancel.cancelled() => return,
                known = addresses.wait_for(Option::is_some) => match known {
                    Ok(host) => self.node.addresses = host.clone().unwrap_or_default(),
                    Err(_) => return,
                },
            }
        }
        loop {
            let retry = self.unsaved;
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY), if retry => {
                    self.save();
                    continue;
                }
                changed = snapshots.changed() => if changed.is_err() {
                    return;
                },
                Ok(()) = host.changed() => self.follow_host(host.borrow_and_update().clone()),
                Ok(()) = addresses.changed() => {
                    self.node.addresses = addresses.borrow_and_update().clone().unwrap_or_default();
                }
                // Its end is this agent's: who announces stays as it is.
                Ok(()) = members.changed() => {
                    if !self.follow_members(&members.borrow_and_update()) {
                        continue;
                    }
                }
            }
            let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
            let model = self.compile(&snapshot);
            report(&out.borrow(), &model);
            // The kernel first, the disk after: an address is worth nothing before it is programmed.
            out.send_replace(model);
            self.save();
        }
    }

    /// Takes over what the host has.
    fn follow_host(&mut self, seen: Seen) {
        if self.node.host.addresses != seen.addresses {
            Arc::make_mut(&mut self.node.host).addresses.clone_from(&seen.addresses);
        }
        self.seen = seen;
    }

    /// Takes over who may announce; whether that changed.
    fn follow_members(&mut self, members: &Members) -> bool {
        let candidates = candidates(members);
        if self.node.candidates == candidates {
            return false;
        }
        let (nodes, with_proxy) = (candidates.len(), candidates.iter().filter(|c| c.has_proxy).count());
        let (come, gone) = (others(&candidates, &self.node.candidates), others(&self.node.candidates, &candidates));
        tracing::info!(nodes, with_proxy, come, gone, "nodes that live");
        self.node.candidates = candidates;
        true
    }

    fn compile(&mut self, snapshot: &Arc<Snapshot>) -> Arc<Model> {
        let began = Instant::now();
        let mut model = self.memo.compile(snapshot, &self.node);
        let shadowed = shadowed(&model, &self.seen);
        if shadowed != self.node.host.listening {
            // What frontends there are does not depend on it: once more is enough.
            Arc::make_mut(&mut self.node.host).listening = shadowed;
            model = self.memo.compile(snapshot, &self.node);
        }
        tracing::debug!(rev = model.rev, frontends = model.frontends.len(), elapsed = ?began.elapsed(), "compiled");
        // A member of a cluster remembers nothing: what it programs is written on the objects.
        if self.node.role == Role::Member {
            return model;
        }
        let mut allocations = Arc::clone(&model.wanted);
        if !snapshot.faults.is_empty() {
            // What cannot be read is not gone: its addresses are kept for when it can.
            for (object, addresses) in self.node.allocations.iter() {
                if !allocations.contains_key(object) {
                    Arc::make_mut(&mut allocations).insert(object.clone(), addresses.clone());
                }
            }
        }
        self.unsaved |= allocations != self.node.allocations;
        self.node.allocations = allocations;
        model
    }

    fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        match allocations::store(&self.state_dir, &self.node.allocations) {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                tracing::warn!(error = chain(&error), "given addresses are not on disk and may change at a restart");
            }
        }
    }
}

/// The frontends at addresses of this host at which its processes listen as well.
fn shadowed(model: &Model, seen: &Seen) -> BTreeSet<Frontend> {
    let mut shadowed = BTreeSet::new();
    for socket in &seen.listening {
        let of_socket: &mut dyn Iterator<Item = IpAddr> = match socket.addr {
            Some(addr) if seen.addresses.contains(&addr) => &mut std::iter::once(addr),
            Some(_) => continue,
            None => &mut seen.addresses.iter().copied(),
        };
        let at = of_socket.map(|vip| Frontend { vip, port: socket.port, proto: socket.proto });
        shadowed.extend(at.filter(|frontend| model.frontends.contains_key(frontend)));
    }
    shadowed
}

/// Those that may announce, in the order of their names.
fn candidates(members: &Members) -> Vec<Candidate> {
    let candidate = |(name, report): (&String, &Report)| Candidate { name: name.clone(), has_proxy: report.proxy };
    members.alive.iter().map(candidate).collect()
}

/// The names of those in `of` that are not in `without`; of many the first ones, and how many more.
fn others(of: &[Candidate], without: &[Candidate]) -> String {
    const NAMED: usize = 10;
    let known: BTreeSet<&str> = without.iter().map(|c| c.name.as_str()).collect();
    let others: Vec<&str> = of.iter().map(|c| c.name.as_str()).filter(|name| !known.contains(name)).collect();
    some_of(others.iter(), NAMED)
}

/// Logs what changed for each object, once, where it is decided.
fn report(before: &Model, after: &Model) {
    let differences = before.verdicts.differences(&after.verdicts, |(_, before), (_, after)| before == after);
    for Difference { key: object, old: _, new } in differences {
        let (kind, ns, name) = (&object.kind, &object.object.ns, &object.object.name);
        let Some(verdict) = new else {
            tracing::info!(%kind, %ns, %name, "gone");
            continue;
        };
        let addresses: Vec<_> = after.allocations.get(object).into_iter().flatten().map(ToString::to_string).collect();
        let addresses = addresses.join(",");
        match verdict.outcome {
            Outcome::Accepted => {
                let remark = (!verdict.messages.is_empty()).then(|| verdict.messages.join("; "));
                tracing::info!(%kind, %ns, %name, addresses, remark, "accepted");
            }
            Outcome::Refused if verdict.reason == "Pending" => {
                tracing::info!(%kind, %ns, %name, "waits for an address");
            }
            Outcome::Ignored => tracing::debug!(%kind, %ns, %name, reason = verdict.reason, "ignored"),
            Outcome::Partial | Outcome::Refused => {
                let reason = verdict.messages.join("; ");
                tracing::warn!(%kind, %ns, %name, outcome = ?verdict.outcome, reason, "not wholly accepted");
            }
        }
    }
}
