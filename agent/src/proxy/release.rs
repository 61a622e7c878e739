//! How the connections of a frontend learn that it is gone, or that the proxy ends: both are one word for them.
//!
//! In: the tables that follow each other, and the drain of each worker. Out: an [`Ending`] for each connection. When it has begun, idle
//! connections are closed, the answer that is under way is the last of its connection (`Connection: close`, GOAWAY), and what is not over
//! within [`super::Settings::drain`] is cut: streams and tunnels, which nothing else ends.
//!
//! # Design
//! - A token for each worker, a child of that worker's drain: they are looked at with each request, and no place for workers to meet.
//! - Of a frontend that goes nobody waits for the requests that may be on their way, as one does when the proxy ends: its address may
//!   leave the node in the same moment, and what is not said by then is never said.
use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::LAST_CALL;

/// The connections of one frontend, by worker.
#[derive(Clone, Debug)]
pub(super) struct Release(Arc<[CancellationToken]>);

impl Release {
    /// Of a new frontend; `drains` tell each worker of the proxy's end.
    #[must_use]
    pub(super) fn new(drains: &[CancellationToken]) -> Self {
        Self(drains.iter().map(CancellationToken::child_token).collect())
    }

    /// Whether it is the very same frontend.
    #[must_use]
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The frontend is gone.
    pub(super) fn begin(&self) {
        self.0.iter().for_each(CancellationToken::cancel);
    }

    /// For a connection of a worker; `all` is that worker's drain.
    #[must_use]
    pub(super) fn ending(&self, worker: usize, all: &CancellationToken, drain: Duration) -> Ending {
        let token = self.0.get(worker).unwrap_or(all).clone();
        Ending { token, all: all.clone(), drain }
    }
}

/// What a connection ends by.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    token: CancellationToken,
    all: CancellationToken,
    drain: Duration,
}

impl Ending {
    /// Whether no further request is wanted.
    #[must_use]
    pub(super) fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns when no further request is wanted.
    pub(super) async fn begun(&self) {
        self.token.cancelled().await;
    }

    /// How long what is on its way then is waited for.
    #[must_use]
    pub(super) fn last_call(&self) -> Duration {
        if self.all.is_cancelled() { LAST_CALL } else { Duration::ZERO }
    }

    /// Returns when nothing is waited for any more. The end of the proxy has a clock of its own.
    pub(super) async fn over(&self) {
        self.begun().await;
        tokio::time::sleep(self.drain).await;
        if self.all.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frontend_that_goes_cuts_its_own_connections_after_the_drain_and_no_others() {
        const DRAIN: Duration = Duration::from_millis(20);
        let drains = [CancellationToken::new(), CancellationToken::new()];
        let (one, other) = (Release::new(&drains), Release::new(&drains));
        let ending = |release: &Release| release.ending(1, &drains[1], DRAIN);
        let (gone, stays) = (ending(&one), ending(&other));
        one.begin();
        assert!(gone.has_begun() && !stays.has_begun());
        assert_eq!(gone.last_call(), Duration::ZERO);
        let before = tokio::time::Instant::now();
        gone.over().await;
        assert!(before.elapsed() >= DRAIN);
        drains[1].cancel();
        assert!(stays.has_begun() && stays.last_call() == LAST_CALL);
        let late = tokio::time::timeout(2 * DRAIN, stays.over()).await;
        assert!(late.is_err(), "the end of the proxy is not cut here");
        assert!(one.is(&one.clone()) && !one.is(&other));
    }
}
