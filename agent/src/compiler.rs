//! The stage between source and model: compiles each snapshot, counts models, remembers given addresses.
//!
//! In: snapshots. Out: models. [`crate::model::compile`] is pure; the state that it needs from one run to the next, the
//! addresses given, is kept here and on disk.
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    model::{self, Model, Node, Outcome},
    source::{Snapshot, allocations},
};

/// Between two tries to write the allocations down.
const RETRY: Duration = Duration::from_secs(10);

/// The stage's state.
pub struct Compiler {
    node: Node,
    state_dir: PathBuf,
    rev: u64,
    /// The allocations on disk are not those in memory.
    unsaved: bool,
}

impl Compiler {
    /// A compiler for this node; `node.allocations` are those read from `state_dir`.
    #[must_use]
    pub fn new(node: Node, state_dir: PathBuf) -> Self {
        Self { node, state_dir, rev: 0, unsaved: false }
    }

    /// Follows the snapshots until cancelled.
    pub async fn run(
        mut self,
        mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        out: watch::Sender<Arc<Model>>,
        cancel: CancellationToken,
    ) {
        loop {
            let retry = self.unsaved;
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(RETRY), if retry => self.save(),
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
                    let model = self.compile(&snapshot);
                    report(&out.borrow(), &model);
                    // The kernel first, the disk after: an address is worth nothing before it is programmed.
                    out.send_replace(Arc::new(model));
                    self.save();
                }
            }
        }
    }

    fn compile(&mut self, snapshot: &Snapshot) -> Model {
        let began = Instant::now();
        let mut model = model::compile(snapshot, &self.node);
        self.rev += 1;
        model.rev = self.rev;
        tracing::debug!(rev = model.rev, frontends = model.frontends.len(), elapsed = ?began.elapsed(), "compiled");
        let mut allocations = model.allocations.clone();
        if !snapshot.faults.is_empty() {
            // What cannot be read is not gone: its addresses are kept for when it can.
            for (object, addresses) in &self.node.allocations {
                allocations.entry(object.clone()).or_insert_with(|| addresses.clone());
            }
        }
        if allocations != self.node.allocations {
            self.node.allocations = allocations;
            self.unsaved = true;
        }
        model
    }

    fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        match allocations::store(&self.state_dir, &self.node.allocations) {
            Ok(()) => self.unsaved = false,
            Err(error) => tracing::warn!(%error, "given addresses are not on disk and may change at a restart"),
        }
    }
}

/// Logs what changed for each object, once, where it is decided.
fn report(before: &Model, after: &Model) {
    for (object, verdict) in &after.verdicts {
        if before.verdicts.get(object) == Some(verdict) {
            continue;
        }
        let (kind, ns, name) = (&object.kind, &object.object.ns, &object.object.name);
        let addresses: Vec<_> = after.allocations.get(object).into_iter().flatten().map(ToString::to_string).collect();
        let addresses = addresses.join(",");
        match verdict.outcome {
            Outcome::Accepted => tracing::info!(%kind, %ns, %name, addresses, "accepted"),
            Outcome::Ignored => tracing::debug!(%kind, %ns, %name, reason = verdict.reason, "ignored"),
            Outcome::Partial | Outcome::Refused => {
                let reason = verdict.messages.join("; ");
                tracing::warn!(%kind, %ns, %name, outcome = ?verdict.outcome, reason, "not wholly accepted");
            }
        }
    }
    for object in before.verdicts.keys().filter(|o| !after.verdicts.contains_key(o)) {
        tracing::info!(kind = %object.kind, ns = %object.object.ns, name = %object.object.name, "gone");
    }
}
