//! What the proxy keeps in memory for clients and endpoints that do not take it, and the bound on that, by Gateway.
//!
//! # Design
//! - Bytes in flow cost little and are gone in a moment. Counted is what has stalled: a body of which a part was given and for
//!   [`GRACE`] nothing more was asked. It claims what it may hold at the most, since libraries do not tell what it does.
//! - At the bound the claim that is oldest ends, and its body with it. Who reads on makes progress and claims nothing; who opens
//!   streams and takes nothing has the oldest claims, and loses those first.
use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{claims::Claim, pressure::Bound, stats::Stats, tenant::Tenant};

/// How long a body has not moved that counts as stalled.
const GRACE: Duration = Duration::from_millis(100);
/// Between two looks at what has stalled and may do so for ever.
const LONG: Duration = Duration::from_secs(3600);

/// What one Gateway may hold.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// The Gateway, which has the claims of memory.
    pub tenant: Arc<Tenant>,
    /// How much they may have together. Units: bytes.
    pub most: usize,
    /// Where it is counted that one had to end.
    pub stats: Arc<Stats>,
}

/// A body that waits to be taken.
#[derive(Debug)]
pub(super) struct Stall {
    room: Room,
    /// How long it may wait.
    limit: Option<Duration>,
    clock: Pin<Box<Sleep>>,
    /// How far it was when the clock was set; `None` before it was looked at.
    seen: Option<u64>,
    since: Instant,
    claim: Option<(Claim, Pin<Box<WaitForCancellationFutureOwned>>)>,
}

impl Stall {
    /// One that has just begun to wait.
    pub(super) fn new(room: &Room, limit: Option<Duration>) -> Self {
        let clock = Box::pin(tokio::time::sleep(first_look(limit)));
        Self { room: room.clone(), limit, clock, seen: None, since: Instant::now(), claim: None }
    }

    /// Ready when it has to end. `moved`: how far it is; `bytes`: what it may hold in memory.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, moved: u64, bytes: usize) -> Poll<()> {
        let seen = *self.seen.get_or_insert(moved);
        if self.claim.is_some() && seen != moved {
            self.restart(moved);
        }
        loop {
            if let Some((_, ended)) = &mut self.claim
                && ended.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(());
            }
            ready!(self.clock.as_mut().poll(cx));
            if self.seen != Some(moved) {
                self.restart(moved);
                continue;
            }
            if self.limit.is_some_and(|limit| self.since.elapsed() >= limit) {
                return Poll::Ready(());
            }
            if self.claim.is_none() {
                self.claim = Some(self.claim(bytes));
            }
            let next = self.limit.map_or_else(|| Instant::now() + LONG, |limit| self.since + limit);
            self.clock.as_mut().reset(next);
        }
    }

    /// It has moved.
    fn restart(&mut self, moved: u64) {
        (self.seen, self.since, self.claim) = (Some(moved), Instant::now(), None);
        self.clock.as_mut().reset(self.since + first_look(self.limit));
    }

    fn claim(&self, bytes: usize) -> (Claim, Pin<Box<WaitForCancellationFutureOwned>>) {
        let Room { tenant, most, stats } = &self.room;
        let (claim, evicted) = tenant.held.claim(bytes, *most);
        if evicted > 0 {
            stats.stalled_evictions.fetch_add(evicted as u64, Relaxed);
            tenant.pressure.refuse(&tenant.name, Bound::Memory, *most, evicted);
        }
        let ended = Box::pin(claim.ended().clone().cancelled_owned());
        (claim, ended)
    }
}

/// How long a body that waits is left alone at first.
fn first_look(limit: Option<Duration>) -> Duration {
    limit.map_or(GRACE, |limit| limit.min(GRACE))
}
