//! What this node reports, and whether somebody waits for it.
//!
//! In: what the stages of this node have done, and what is on the objects. Out: the [`Report`], and when it must be written
//! before the Lease is due for renewal. Pure, with a clock that is handed in.
//!
//! # Design
//! - Early is written what lets the leader go on with an object that this node serves: it announces an address of the object, or
//!   nobody does; of one that is let go of, it has announced an address since it last reported. What it serves is by its own model: where the leader's differs for
//!   a moment, the next renewal reports it.
//! - Early is written what nobody else can know and others act on: a VIP that another host has, where this node's neighbours
//!   find it, whether its proxy takes connections.
//! - What is pending at once is one write. In a flood of new objects early writes keep more and more distance ([`SLOWEST`]).
use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Report, SPACING, pending::Pending};
use crate::{
    arrows::{Applied, UplinkStatus},
    model::{Model, ObjectRef},
    source::{Snapshot, snapshot::Seen},
};

/// Between two early writes at most.
const SLOWEST: Duration = Duration::from_millis(400);
/// Models whose revisions are remembered until the datapath has caught up; of older ones the next one that is programmed tells.
const MODELS: usize = 64;
/// Sets of announced VIPs that are remembered since the last report; what was let go of before goes with the next renewal.
const HELD: usize = 64;

/// What the stages of this node say.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// What the API says.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// The newest model.
    pub(super) model: Arc<Model>,
    /// What the maps have.
    pub(super) applied: Applied,
    /// The revision of the model that the proxy routes by.
    pub(super) routed: u64,
}

/// A model whose programming is not seen yet.
#[derive(Clone, Debug)]
struct Made {
    rev: u64,
    seen: Seen,
    announced: Arc<BTreeSet<IpAddr>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    node: String,
    made: VecDeque<Made>,
    report: Report,
    /// The last one that the API server has.
    written: Report,
    /// The VIPs that the programs have announced since then, one set for each time that they changed.
    held: VecDeque<Arc<BTreeSet<IpAddr>>>,
    pending: Pending,
    /// The last write, or attempt at one.
    last: Option<Instant>,
    /// Between that and an early one.
    pace: Duration,
    /// When that is due: what comes meanwhile does not put it off.
    due: Option<Instant>,
}

impl Reporter {
    pub(super) fn new(node: String) -> Self {
        Self { node, pace: SPACING, ..Self::default() }
    }

    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    /// Brings the report up to date.
    pub(super) fn update(&mut self, facts: &Facts) {
        let Facts { snapshot, model, applied, routed } = facts;
        if let Some(snapshot) = snapshot {
            self.pending.follow(snapshot);
        }
        if self.made.back().is_none_or(|made| made.rev != model.rev) {
            self.made.push_back(Made { rev: model.rev, seen: model.seen, announced: Arc::clone(&model.announced) });
            if self.made.len() > MODELS {
                self.made.pop_front();
            }
        }
        // A Gateway, and a Service before one, is served when maps and proxy have it.
        while let Some(made) = self.made.pop_front_if(|made| made.rev <= applied.rev.min(*routed)) {
            self.report.seen = made.seen;
            if self.held.back().is_none_or(|held| !Arc::ptr_eq(held, &made.announced)) {
                self.held.push_back(made.announced);
                if self.held.len() > HELD {
                    self.held.pop_front();
                }
            }
        }
        self.report.proxy = *routed > 0;
        let address = |uplink: &UplinkStatus| uplink.v4.map(IpAddr::V4).or(uplink.v6.map(IpAddr::V6));
        self.report.address = applied.uplinks.iter().find_map(address);
        self.report.macs.clone_from(&applied.macs);
        self.report.take(applied);
    }

    /// This node's agent is about to end, and is expected back or not.
    pub(super) fn leave(&mut self, is_expected: bool) {
        (self.report.leaving, self.report.proxy) = (is_expected, false);
    }

    /// When the report must be written; `None` where it may wait for the next renewal.
    pub(super) fn early(&mut self, model: &Model, now: Instant) -> Option<Instant> {
        let is_urgent = self.is_of_another_node()
            || self.pending.released(&self.written, &self.report).any(|(object, waiting)| match waiting.is_leaving {
                true => waiting.addrs.iter().any(|addr| self.held.iter().any(|held| held.contains(addr))),
                false => self.serves(model, object, &waiting.addrs),
            });
        let soonest = now + SPACING;
        let due = self.due.unwrap_or_else(|| self.last.map_or(soonest, |last| soonest.max(last + self.pace)));
        self.due = is_urgent.then_some(due);
        self.due
    }

    /// Whether clients of these addresses, which the object has by the model as well, come to this node.
    fn serves(&self, model: &Model, object: &ObjectRef, addrs: &[IpAddr]) -> bool {
        let has = model.allocations.get(object).is_some_and(|has| addrs.iter().all(|addr| has.contains(addr)));
        has && model.announcers_of(addrs).is_none_or(|announcers| announcers.contains(self.node.as_str()))
    }

    /// Whether what only this node knows of itself is another than what is written.
    fn is_of_another_node(&self) -> bool {
        let (new, old) = (&self.report, &self.written);
        (&new.macs, new.address, new.proxy, &new.conflicts) != (&old.macs, old.address, old.proxy, &old.conflicts)
    }

    /// It was written, early or because it was due; whether the API server has it.
    pub(super) fn note(&mut self, now: Instant, is_early: bool, is_written: bool) {
        (self.last, self.due) = (Some(now), None);
        self.pace = if is_early { (self.pace * 2).min(SLOWEST) } else { SPACING };
        if is_written {
            self.written.clone_from(&self.report);
            // What is let go of from now on was announced by the last model that is reported.
            self.held.drain(..self.held.len().saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests;
