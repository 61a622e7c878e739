//! What the proxy keeps in memory for clients and endpoints that do not take it, and the bound on that, by Gateway.
//!
//! # Design
//! - Bytes in flow cost little and are gone in a moment. Counted is what has stalled: a body of which a part was given and for
//!   [`GRACE`] nothing more was asked. It claims what it may hold at the most, since libraries do not tell what it does.
//! - At the bound the claim that is oldest ends, and its body with it. Who reads on makes progress and claims nothing; who opens
//!   streams and takes nothing has the oldest claims, and loses those first.
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::stats::Stats;

/// How long a body has not moved that counts as stalled.
const GRACE: Duration = Duration::from_millis(100);
/// Between two looks at what has stalled and may do so for ever.
const LONG: Duration = Duration::from_secs(3600);

/// The claims of one Gateway.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<Claims>);

#[derive(Debug, Default)]
struct Claims {
    /// How many there were.
    begun: u64,
    /// What those that are open have together. Units: bytes.
    bytes: usize,
    /// By when they began.
    open: BTreeMap<u64, (usize, CancellationToken)>,
}

/// Memory that a body may hold, until dropped.
#[derive(Debug)]
struct Claim {
    among: Arc<Held>,
    number: u64,
    ended: CancellationToken,
}

impl Held {
    /// So many bytes more, of at most so many; how many claims had to end for it. One alone is always let.
    fn claim(self: &Arc<Self>, bytes: usize, most: usize) -> (Claim, usize) {
        let (ended, mut evicted) = (CancellationToken::new(), Vec::new());
        let mut all = self.lock();
        while all.bytes.saturating_add(bytes) > most
            && let Some((_, (freed, oldest))) = all.open.pop_first()
        {
            all.bytes -= freed;
            evicted.push(oldest);
        }
        let number = all.begun;
        all.begun += 1;
        all.bytes += bytes;
        all.open.insert(number, (bytes, ended.clone()));
        drop(all);
        evicted.iter().for_each(CancellationToken::cancel);
        (Claim { among: Arc::clone(self), number, ended }, evicted.len())
    }

    fn lock(&self) -> MutexGuard<'_, Claims> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.among.lock();
        if let Some((bytes, _)) = all.open.remove(&self.number) {
            all.bytes -= bytes;
        }
    }
}

/// What one Gateway may hold.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Its claims.
    pub held: Arc<Held>,
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
        let clock = Box::pin(tokio::time::sleep(limit.map_or(GRACE, |limit| limit.min(GRACE))));
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
        let wait = self.limit.map_or(GRACE, |limit| limit.min(GRACE));
        self.clock.as_mut().reset(self.since + wait);
    }

    fn claim(&self, bytes: usize) -> (Claim, Pin<Box<WaitForCancellationFutureOwned>>) {
        let Room { held, most, stats } = &self.room;
        let (claim, evicted) = held.claim(bytes, *most);
        stats.stalled_evictions.fetch_add(evicted as u64, Relaxed);
        let ended = Box::pin(claim.ended.clone().cancelled_owned());
        (claim, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_bound_the_oldest_claims_end() {
        let held = Arc::<Held>::default();
        let claim = |bytes| held.claim(bytes, 10);
        let ((a, none), (b, _), (c, _)) = (claim(4), claim(3), claim(3));
        assert_eq!((none, held.lock().bytes), (0, 10));
        let (d, evicted) = claim(5);
        assert_eq!(([&a, &b, &c, &d].map(|c| c.ended.is_cancelled()), evicted), ([true, true, false, false], 2));
        // What has ended is not given back twice.
        drop((a, b));
        assert_eq!(held.lock().bytes, 8);
        let (e, evicted) = claim(20);
        assert_eq!((evicted, held.lock().bytes), (2, 20), "one alone is let");
        drop((c, d, e));
        assert!(held.lock().open.is_empty() && held.lock().bytes == 0);
    }
}
