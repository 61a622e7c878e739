//! The bounds of a Gateway as people see them: which it has reached, when, and what that did to its clients.
//!
//! In: a worker that has refused something for such a bound. Out: [`Pressed`] for `sluice status`, `why gateway` and metrics, and a line in
//! the log, at most one in [`QUIET`] for a Gateway and a bound: whoever is at a bound refuses thousands of times a second.
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{balance::Moment, table::Table, tenant::Tenant};
use crate::api::ObjectName;

/// Between two lines of the log about one bound of one Gateway.
const QUIET: Duration = Duration::from_secs(60);
/// For how long a Gateway is said to be at a bound that has refused something.
const RECENT: Duration = Duration::from_secs(60);

/// A bound that a Gateway has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// Connections of its clients.
    Connections,
    /// Their requests in flight.
    Requests,
    /// Memory for bodies that are not taken.
    Memory,
    /// Connections to endpoints that its requests use.
    Upstreams,
}

impl Bound {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Requests, Self::Memory, Self::Upstreams];

    /// For machines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Memory => "memory",
            Self::Upstreams => "upstream_connections",
        }
    }
}

/// What the bounds of one Gateway have refused. It outlives changes of the Gateway.
#[derive(Debug, Default)]
pub(super) struct Pressure([AtBound; Bound::ALL.len()]);

/// At one bound.
#[derive(Debug, Default)]
struct AtBound {
    refused: AtomicU64,
    /// The bound, the last time.
    most: AtomicUsize,
    /// When that was, and when it was logged: [`Moment::to_bits`], 0 for never.
    last: AtomicU64,
    logged: AtomicU64,
}

impl Pressure {
    /// The Gateway has all that it may have, `most`, and so many more were refused.
    pub(super) fn refuse(&self, gateway: &ObjectName, bound: Bound, most: usize, refused: usize) {
        self.refuse_at(gateway, bound, (most, refused), Moment::now());
    }

    /// Whether it was logged.
    fn refuse_at(&self, gateway: &ObjectName, bound: Bound, (most, refused): (usize, usize), now: Moment) -> bool {
        let at = &self.0[bound as usize];
        let before = at.refused.fetch_add(refused as u64, Relaxed);
        at.most.store(most, Relaxed);
        at.last.store(now.to_bits(), Relaxed);
        let due = |logged| (logged == 0 || now.since(Moment::from_bits(logged)) >= QUIET).then_some(now.to_bits());
        let is_due = at.logged.fetch_update(AcqRel, Relaxed, due).is_ok();
        if is_due {
            let (ObjectName { ns, name }, refused) = (gateway, before + refused as u64);
            tracing::warn!(
                kind = "Gateway",
                ns,
                name,
                bound = bound.name(),
                most,
                refused,
                "Gateway has reached a bound"
            );
        }
        is_due
    }

    fn of(&self, tenant: &Tenant, now: Moment) -> impl Iterator<Item = Pressed> {
        let (gateway, limits) = (tenant.name.clone(), Arc::clone(&tenant.limits));
        let open = [tenant.connections.now(), tenant.requests.now(), tenant.held.taken(), tenant.upstreams.now()];
        Bound::ALL.into_iter().zip(&self.0).zip(open).filter_map(move |((bound, at), open)| {
            let last = at.last.load(Relaxed);
            let is_own = match bound {
                Bound::Connections => limits.max_connections.is_some(),
                Bound::Requests => limits.max_requests.is_some(),
                Bound::Memory => limits.max_held.is_some(),
                Bound::Upstreams => false,
            };
            (last != 0).then(|| Pressed {
                gateway: gateway.clone(),
                bound,
                open,
                most: at.most.load(Relaxed),
                refused: at.refused.load(Relaxed),
                ago: now.since(Moment::from_bits(last)),
                is_own,
            })
        })
    }
}

/// A bound that a Gateway has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pressed {
    /// The Gateway.
    pub gateway: ObjectName,
    /// Which.
    pub bound: Bound,
    /// How much of it there is now. Units: as `most`.
    pub open: usize,
    /// How much there may be. Units: connections, requests or bytes.
    pub most: usize,
    /// How often it has refused something.
    pub refused: u64,
    /// When it did so last.
    pub ago: Duration,
    /// Whether the Gateway's annotations say it; else it is the Gateway's part of what the node has.
    pub is_own: bool,
}

impl Pressed {
    /// Whether it is so now, or was a moment ago.
    #[must_use]
    pub fn is_recent(&self) -> bool {
        self.ago < RECENT
    }
}

/// A sentence without its subject, which is the Gateway.
impl fmt::Display for Pressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gateway: _, bound, open, most, refused, ago, is_own } = self;
        let (what, then, option) = match bound {
            Bound::Connections => ("client connections", "closed at once", "max-connections"),
            Bound::Requests => ("requests", "answered with 503", "max-requests"),
            Bound::Memory => ("bytes of bodies that nobody takes", "streams ended", "max-stalled-bytes"),
            Bound::Upstreams => ("connections to endpoints", "refused", "max-connections"),
        };
        let part = match bound {
            Bound::Memory => "the Gateway's part of the node's memory",
            Bound::Connections | Bound::Requests | Bound::Upstreams => {
                "the Gateway's part of what the node's limit of open files allows"
            }
        };
        let why = if *is_own { format!("its annotation proxy.sluice.dev/{option}") } else { part.to_owned() };
        write!(f, "{open} of {most} {what}, {refused} {then}, the last {} s ago; the bound is {why}", ago.as_secs())
    }
}

/// The Gateways of the node, for people.
#[derive(Clone, Debug)]
pub struct Gateways(Arc<ArcSwap<Table>>);

impl Gateways {
    /// Those of this table.
    pub(super) fn of(table: &Arc<ArcSwap<Table>>) -> Self {
        Self(Arc::clone(table))
    }

    /// The bounds that some Gateway has reached since it is here.
    #[must_use]
    pub fn pressed(&self) -> Vec<Pressed> {
        let (table, now) = (self.0.load(), Moment::now());
        table.tenants().flat_map(|tenant| tenant.pressure.of(tenant, now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_logged_once_in_a_while_however_often_it_is_reached() {
        let (pressure, gateway) = (Pressure::default(), ObjectName::new("default", "gw"));
        let second = |n: u64| Moment::from_bits(1 + n * 1_000_000);
        let logged = |bound, at| pressure.refuse_at(&gateway, bound, (3, 1), second(at));
        assert!(logged(Bound::Connections, 0));
        assert!((0..59).all(|at| !logged(Bound::Connections, at)));
        assert!(logged(Bound::Requests, 30), "each bound has its own");
        assert!(logged(Bound::Connections, 60) && !logged(Bound::Connections, 61));
        let tenant = Tenant { name: gateway.clone(), ..Tenant::default() };
        let said: Vec<_> = pressure.of(&tenant, second(200)).collect();
        assert_eq!(
            said.iter().map(|p| (p.bound, p.refused)).collect::<Vec<_>>(),
            [(Bound::Connections, 62), (Bound::Requests, 1)]
        );
        assert!(said.iter().all(|pressed| !pressed.is_recent()));
        assert!(pressure.of(&tenant, second(62)).next().is_some_and(|pressed| pressed.is_recent()));
        let sentence = said[1].to_string();
        assert!(
            sentence.starts_with(
                "0 of 3 requests, 1 answered with 503, the last 170 s ago; the bound is the Gateway's part"
            ),
            "{sentence}"
        );
    }
}
