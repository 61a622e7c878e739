//! A Gateway as far as its clients share something: connections, requests, and the settings that it asks for.
//!
//! # Design
//! - What is counted outlives a change of the settings; a connection keeps those that it began with.
//! - Memory is bounded by these counts, and for bodies that nobody takes by [`super::held`]: a connection holds a head and what hyper
//!   reads ahead, a request what its two bodies have in hand, each of which has a bound of its own ([`super::settings`],
//!   `connection.rs`).
use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    bounds::{Load, Share},
    claims::Claims,
    held::Room,
    pressure::{Bound, Pressure},
    settings::Settings,
    stats::Stats,
};
use crate::{api::ObjectName, model::http::limits::Limits};

/// One Gateway.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenant {
    /// Its name.
    pub name: ObjectName,
    /// The connections of its clients.
    pub connections: Arc<Load>,
    /// Connections of HTTP/1.1 to endpoints that their requests use.
    pub upstreams: Arc<Load>,
    /// Their requests in flight.
    pub requests: Arc<Load>,
    /// What is in memory for bodies that are not taken.
    pub held: Arc<Claims>,
    /// What its bounds have refused.
    pub pressure: Arc<Pressure>,
    /// What it asks for.
    pub limits: Arc<Limits>,
}

/// How much earlier or later than asked a connection gets too old, so that those that began together do not end together.
const JITTER: f64 = 0.1;

impl Tenant {
    /// A connection more, of at most so many.
    pub(super) fn try_connection(&self, most: usize) -> Option<Share> {
        let most = self.limits.max_connections.map_or(most, |own| own.min(most));
        self.of(&self.connections, Bound::Connections, most)
    }

    /// A connection to an endpoint more, of at most so many.
    pub(super) fn try_upstream(&self, most: usize) -> Option<Share> {
        self.of(&self.upstreams, Bound::Upstreams, most)
    }

    /// One more of what it may have `most` of.
    fn of(&self, load: &Arc<Load>, bound: Bound, most: usize) -> Option<Share> {
        let share = load.try_share(most);
        if share.is_none() {
            self.pressure.refuse(&self.name, bound, most, 1);
        }
        share
    }

    /// What it may hold in memory for bodies that are not taken, of at most so many bytes.
    pub(super) fn room(self: &Arc<Self>, most: usize, stats: &Arc<Stats>) -> Room {
        let most = self.limits.max_held.map_or(most, |own| own.min(most));
        Room { tenant: Arc::clone(self), most, stats: Arc::clone(stats) }
    }

    /// A request more.
    pub(super) fn try_request(&self) -> Option<Share> {
        self.of(&self.requests, Bound::Requests, self.limits.max_requests.unwrap_or(usize::MAX))
    }

    /// How large a head may be. Units: bytes.
    pub(super) fn max_head(&self, settings: &Settings) -> usize {
        self.limits.max_head.unwrap_or(settings.max_head)
    }

    /// When a connection that begins now is too old.
    pub(super) fn expiry(&self) -> Option<Instant> {
        let age = self.limits.max_age?.mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        Instant::now().checked_add(age.max(Duration::from_millis(1)))
    }
}
