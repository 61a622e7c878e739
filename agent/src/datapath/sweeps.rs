//! When conntrack is walked: the schedule of [`super::sweep`].
//!
//! In: that a walk is wanted. Out: walks on a thread of their own, one at a time, and what the last has found. Invariant: between
//! two of them there is a pause of [`REST`] times the last, however often one is wanted.
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::sweep::sweep;
use crate::{arrows::Census, model::Model};

/// How much longer the pause after a walk is than the walk.
const REST: u32 = 20;

/// The walks over conntrack: one at a time, and so far apart that they take a small part of one processor.
#[derive(Default)]
pub(super) struct Sweeps {
    /// A walk is wanted.
    pub(super) due: bool,
    /// What the last walk has found.
    pub(super) census: Census,
    /// Ends with the time that it took, and what it has found.
    running: Option<JoinHandle<(Duration, Option<Census>)>>,
    rest_until: Option<tokio::time::Instant>,
}

impl Sweeps {
    /// Starts the walk that is wanted, unless one is under way or the last was a moment ago.
    pub(super) fn start_if_due(&mut self, dir: &Path, model: &Arc<Model>) {
        if !self.due || self.running.is_some() || self.rest_until.is_some() {
            return;
        }
        self.due = false;
        let (dir, model) = (dir.to_owned(), Arc::clone(model));
        self.running = Some(tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let census = match sweep(&dir, &model) {
                Ok((removed, census)) => {
                    tracing::debug!(removed, tracked = census.tracked, opening = census.opening, "flows swept");
                    Some(census)
                }
                Err(error) => {
                    tracing::warn!(%error, "sweep of flows");
                    None
                }
            };
            (began.elapsed(), census)
        }));
    }

    /// Returns when the next walk may start, for the one that is due; at no time when none is under way.
    pub(super) async fn rested(&mut self) -> Option<()> {
        if let Some(running) = &mut self.running {
            // A walk that panicked has taken no time that matters.
            let (took, census) = running.await.unwrap_or_default();
            self.running = None;
            if let Some(census) = census {
                let pressure = census.pressure();
                if let Some(reason) = pressure.filter(|now| self.census.pressure().as_ref() != Some(now)) {
                    tracing::warn!(reason, opening = census.opening, "flows without an answer");
                }
                self.census = census;
            }
            self.rest_until = Some(tokio::time::Instant::now() + took * REST);
        }
        tokio::time::sleep_until(self.rest_until?).await;
        self.rest_until = None;
        Some(())
    }
}
