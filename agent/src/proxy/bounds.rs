//! How many connections there may be: of clients, of the clients of one Gateway, to endpoints, to one endpoint.
//!
//! A place is given back by whatever closes its descriptor, be it a request, a tunnel or a pool: what holds the descriptor holds
//! the place. So the counts are those of open sockets, and a bound is never exceeded; but each worker may hold one connection
//! more, which it has accepted and does not serve before a place is free.
//!
//! # Design
//! - At the bound of all clients nothing is accepted: new connections wait in the backlog, where they cost nothing.
//! - One Gateway of several, or one endpoint of several, may have half of what there is, so that none takes the others' part: a
//!   Gateway half of the clients, and half of the connections to endpoints, however many endpoints its routes lead to.
//!   All frontends share one socket, so a connection beyond a Gateway's part is accepted and closed.
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use super::{settings::Settings, stats::Stats};

/// The bounds of a proxy.
#[derive(Debug)]
pub(super) struct Bounds {
    clients: Arc<Semaphore>,
    upstreams: Arc<Semaphore>,
    /// Who waits for one of those.
    waiting: Arc<Load>,
    max_clients: usize,
    max_upstreams: usize,
    max_held: usize,
}

/// One of the places that all share, until dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Bounds {
    /// The bounds of these settings, with all places free.
    #[must_use]
    pub(super) fn new(settings: &Settings) -> Self {
        let most = |wanted: usize| wanted.clamp(1, Semaphore::MAX_PERMITS);
        let (max_clients, max_upstreams) = (most(settings.max_connections), most(settings.max_upstreams));
        Self {
            clients: Arc::new(Semaphore::new(max_clients)),
            upstreams: Arc::new(Semaphore::new(max_upstreams)),
            waiting: Arc::default(),
            max_clients,
            max_upstreams,
            max_held: settings.max_held,
        }
    }

    /// A place for a client; waits for one to be free, which is counted.
    pub(super) async fn client(&self, stats: &Stats) -> Place {
        let free = match Arc::clone(&self.clients).try_acquire_owned() {
            Ok(place) => return Place(place),
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => Arc::clone(&self.clients).acquire_owned(),
        };
        super::stats::add(&stats.accept_waits);
        stats.accept_waiting.store(1, Relaxed);
        let place = free.await.expect("the semaphore is never closed");
        stats.accept_waiting.store(0, Relaxed);
        Place(place)
    }

    /// A place for a connection to an endpoint, if one is free.
    pub(super) fn try_upstream(&self) -> Option<Place> {
        Arc::clone(&self.upstreams).try_acquire_owned().ok().map(Place)
    }

    /// A place for a connection to an endpoint; waits for one to be free.
    pub(super) async fn upstream(&self) -> Place {
        let _waits = self.waiting.try_share(usize::MAX);
        Place(Arc::clone(&self.upstreams).acquire_owned().await.expect("the semaphore is never closed"))
    }

    /// Whether somebody waits for a place for a connection to an endpoint: no unused one should be kept then.
    #[must_use]
    pub(super) fn upstreams_are_wanted(&self) -> bool {
        self.waiting.0.load(Relaxed) > 0
    }

    /// How many connections to endpoints may be open: of `endpoints` and of `gateways` there are.
    #[must_use]
    pub(super) fn most(&self, endpoints: usize, gateways: usize) -> Most {
        Most { endpoint: part(self.max_upstreams, endpoints), gateway: part(self.max_upstreams, gateways) }
    }

    /// What one of `gateways` Gateways may have.
    #[must_use]
    pub(super) fn of_gateway(&self, gateways: usize) -> Part {
        Part { connections: part(self.max_clients, gateways), held: part(self.max_held, gateways) }
    }
}

/// What the clients of one Gateway may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Connections.
    pub connections: usize,
    /// Memory for what is not taken. Units: bytes.
    pub held: usize,
}

/// How many connections to endpoints there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Most {
    /// To one endpoint, used and unused.
    pub endpoint: usize,
    /// Those that one Gateway's requests use.
    pub gateway: usize,
}

/// What one of so many may have of `all`.
fn part(all: usize, of: usize) -> usize {
    if of > 1 { all.div_ceil(2) } else { all }
}

/// The connections that one Gateway or one endpoint has.
#[derive(Debug, Default)]
pub(super) struct Load(AtomicUsize);

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct Share(Arc<Load>);

impl Load {
    /// How many there are.
    #[must_use]
    pub(super) fn now(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// One more, unless there are `most` already.
    pub(super) fn try_share(self: &Arc<Self>, most: usize) -> Option<Share> {
        let more = |open| (open < most).then_some(open + 1);
        self.0.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Share(Arc::clone(self)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_has_half_and_one_alone_has_all() {
        let bounds =
            Bounds::new(&Settings { max_connections: 7, max_upstreams: 8, max_held: 100, ..Settings::default() });
        let part = |gateways| (bounds.of_gateway(gateways).connections, bounds.of_gateway(gateways).held);
        assert_eq!([part(1), part(2), part(9)], [(7, 100), (4, 50), (4, 50)]);
        let most = |endpoints, gateways| bounds.most(endpoints, gateways);
        assert_eq!([most(0, 0), most(1, 2), most(2, 1)].map(|m| (m.endpoint, m.gateway)), [(8, 8), (8, 4), (4, 8)]);
    }

    #[test]
    fn a_share_is_given_back_when_it_is_dropped() {
        let load = Arc::new(Load::default());
        let (one, two) = (load.try_share(2), load.try_share(2));
        assert!(one.is_some() && two.is_some() && load.try_share(2).is_none());
        drop(one);
        assert!(load.try_share(2).is_some());
        assert!(load.try_share(1).is_none(), "a bound that fell takes nobody's connection away");
    }
}
