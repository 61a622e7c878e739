//! Which endpoint gets a request, and what its outcome says of it.
//!
//! In: the endpoints of a Service port, how they are balanced ([`Balance`]), the moment, and which endpoints had the request before. Out:
//! the endpoint for the next try. What is known of an endpoint ([`Vital`]) is one for all routes and workers, and atomic: nobody waits.
//!
//! # Design
//! - Of two chosen at random the one that is less busy, where a request counts as long as it takes there of late ([`latency`]): close to
//!   the best of all, without a look at each. A new endpoint, of which nothing is known, is compared by its requests alone.
//! - An ejected endpoint ([`health`]) is passed over while another is left. Where none is, all are asked (Envoy calls it panic): that
//!   is better than to refuse everything.
//! - After an ejection one request at a time sees whether the endpoint is well; only a request's first try does, so that one which fails
//!   goes on to an endpoint with which nothing is wrong. However many are dead while nobody says so, a request meets one of them.
//! - With a slow start a new endpoint gives away a part of what it would get, less of it from moment to moment; what comes by a key or a
//!   session it keeps. Where all are new each has its part.
//! - Nothing here looks at each endpoint for each request: where most are ejected a few more are drawn first.
mod clock;
mod health;
mod key;
mod latency;
mod maglev;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, StatusCode};

pub(super) use clock::Moment;
pub(super) use health::{Cause, Ejected, State};
pub(super) use key::key;
pub(super) use maglev::Maglev;

use self::{
    health::Health,
    latency::{Latency, slowness},
};
use super::{
    bounds::Load,
    budget::Budget,
    metrics::BackendSeries,
    pool::Upstream,
    stats::{Stats, add},
};
use crate::model::http::balance::{Balance, Balancer};

/// How often another endpoint is drawn when one is ejected, before each is looked at.
const DRAWS: usize = 16;

/// The part of its requests that an endpoint has at the very start of a slow start. As in Envoy.
const LEAST_PART: f64 = 0.1;

/// What is known of one endpoint, on a cache line of its own: what a choice reads is in one place.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Vital {
    pending: AtomicUsize,
    latency: Latency,
    health: Health,
    /// Since when there is one.
    born: Moment,
}

impl Vital {
    /// Of an endpoint of which nothing is known.
    #[must_use]
    pub(super) fn new(born: Moment) -> Self {
        Self { pending: AtomicUsize::new(0), latency: Latency::default(), health: Health::default(), born }
    }

    /// Requests that it has now.
    #[must_use]
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// One request more.
    pub(super) fn begin(&self) {
        self.pending.fetch_add(1, Relaxed);
    }

    /// One less.
    pub(super) fn end(&self) {
        self.pending.fetch_sub(1, Relaxed);
    }

    /// Its ejection, where it is ejected.
    #[must_use]
    pub(super) fn ejected(&self, now: Moment) -> Option<Ejected> {
        self.health.ejected(now)
    }

    /// Forgets what is too old; called now and then.
    pub(super) fn tidy(&self, now: Moment) {
        self.latency.tidy(now);
    }
}

/// The endpoints of a Service port.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// Their addresses.
    pub(super) upstreams: Vec<Arc<Upstream>>,
    /// The retries that they have to bear now; kept over changes of the endpoints.
    pub(super) retries: Arc<Load>,
    /// What bounds these, where somebody says it; likewise.
    pub(super) budget: Option<Arc<Budget>>,
    /// What is counted of them; likewise.
    pub(super) counts: Arc<BackendSeries>,
    /// How they are balanced.
    pub(super) balance: Arc<Balance>,
    /// Whether they are spoken to under TLS.
    pub(super) security: Security,
    /// Whose turn it is, where they take turns.
    turn: AtomicUsize,
    /// Whose keys are whose, where they have some.
    keys: Option<Maglev>,
}

/// Where a request would like to go, if that is well.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wish {
    /// To the endpoint that has its session,
    pub(super) endpoint: Option<SocketAddr>,
    /// or to whose this key is.
    pub(super) key: Option<u64>,
}

/// How endpoints are spoken to, beside the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    /// In clear text.
    Clear,
    /// Under TLS.
    Tls,
    /// Not at all, but for what a client says under its own TLS: their policy cannot be obeyed, or the Gateway has not the certificate
    /// that it should show.
    Barred,
}

/// What became of a try, as far as it says something of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered with this status.
    Answer(StatusCode),
    /// It did not.
    Failure(Cause),
}

impl Endpoints {
    /// Endpoints in clear text, balanced like this.
    #[must_use]
    pub(super) fn new(mut upstreams: Vec<Arc<Upstream>>, retries: Arc<Load>, balance: Arc<Balance>) -> Self {
        upstreams.sort_by_key(|upstream| upstream.addr);
        let is_hashed = matches!(balance.balancer, Balancer::ConsistentHash(_));
        let keys = if is_hashed { Maglev::new(upstreams.iter().map(|upstream| upstream.addr)) } else { None };
        let (budget, counts) = (balance.retries.map(|spec| Arc::new(Budget::new(spec))), Arc::default());
        Self { upstreams, retries, budget, counts, balance, security: Security::Clear, turn: AtomicUsize::new(0), keys }
    }

    /// Whether an endpoint is one of these.
    #[must_use]
    pub(super) fn has(&self, endpoint: SocketAddr) -> bool {
        self.find(endpoint).is_some()
    }

    /// They are in the order of their addresses.
    fn find(&self, endpoint: SocketAddr) -> Option<&Arc<Upstream>> {
        let at = self.upstreams.binary_search_by_key(&endpoint, |upstream| upstream.addr).ok()?;
        self.upstreams.get(at)
    }

    /// The key of a request, where the endpoints are chosen by one and it has it.
    #[must_use]
    pub(super) fn key(&self, headers: &HeaderMap, peer: IpAddr) -> Option<u64> {
        key(&self.balance.balancer, headers, peer)
    }

    /// The endpoint for a try of a request that these had already; `None` where no other is left.
    pub(super) fn pick(&self, wish: Wish, tried: &[SocketAddr], now: Moment) -> Option<Arc<Upstream>> {
        let fit = |u: &Upstream| match u.vital.health.state(now) {
            State::Well => !tried.contains(&u.addr),
            State::Due => tried.is_empty(),
            State::Ejected => false,
        };
        let at_session = || self.find(wish.endpoint?).filter(|u| fit(u));
        let wished = || at_session().or_else(|| self.of_key(wish.key?, fit));
        let picked = wished().or_else(|| {
            let picked = match self.balance.balancer {
                Balancer::LeastRequest | Balancer::ConsistentHash(_) => self.less_busy(fit, now),
                Balancer::RoundRobin => self.next_of(fit),
            }?;
            if self.is_warm(picked, now) {
                return Some(picked);
            }
            self.less_busy(|other| fit(other) && other.addr != picked.addr, now).or(Some(picked))
        });
        picked.or_else(|| self.less_busy(|u| !tried.contains(&u.addr), now)).map(|picked| {
            // Whether it or another has the trial makes no difference to this request.
            let _ = picked.vital.health.try_begin_trial(now);
            Arc::clone(picked)
        })
    }

    /// Whether an endpoint has a request that is its own: one that is new has a part of them, which grows with its age.
    fn is_warm(&self, upstream: &Upstream, now: Moment) -> bool {
        let Some(time) = self.balance.slow_start else { return true };
        let age = now.since(upstream.vital.born);
        age >= time || fastrand::f64() < (age.as_secs_f64() / time.as_secs_f64()).max(LEAST_PART)
    }

    /// The better of two that are fit; one that is due for its trial before any other.
    fn less_busy(&self, fit: impl Fn(&Upstream) -> bool, now: Moment) -> Option<&Arc<Upstream>> {
        let [first, second] = self.two(fit)?;
        let due = [first, second].into_iter().find(|u| u.vital.health.state(now) == State::Due);
        Some(due.unwrap_or_else(|| better(first, second, now)))
    }

    /// Two that are fit, at random; the same one twice where there is no other.
    fn two(&self, fit: impl Fn(&Upstream) -> bool) -> Option<[&Arc<Upstream>; 2]> {
        let n = self.upstreams.len();
        let drawn = |i: usize| self.upstreams.get(i).filter(|u| fit(u));
        match n {
            0 => return None,
            1 => return drawn(0).map(|only| [only, only]),
            _ => {}
        }
        let first = fastrand::usize(..n);
        let second = (first + fastrand::usize(1..n)) % n;
        let mut found = match (drawn(first), drawn(second)) {
            (Some(first), Some(second)) => return Some([first, second]),
            (one, other) => one.or(other),
        };
        // Some are not fit: rare.
        for _ in 0..if n > DRAWS { DRAWS } else { 0 } {
            match (drawn(fastrand::usize(..n)), found) {
                (Some(other), Some(one)) if !Arc::ptr_eq(one, other) => return Some([one, other]),
                (drawn, before) => found = before.or(drawn),
            }
        }
        // Most are not. Of all that are, each pair is as likely as any other.
        let mut two: [Option<&Arc<Upstream>>; 2] = [None, None];
        for (seen, upstream) in self.upstreams.iter().filter(|u| fit(u)).enumerate() {
            let place = if seen < 2 { seen } else { fastrand::usize(..=seen) };
            if let Some(slot) = two.get_mut(place) {
                *slot = Some(upstream);
            }
        }
        match two {
            [Some(first), second] => Some([first, second.unwrap_or(first)]),
            [None, _] => None,
        }
    }

    /// The one whose a key is, else another that is the same for that key while the first is not fit.
    fn of_key(&self, key: u64, fit: impl Fn(&Upstream) -> bool) -> Option<&Arc<Upstream>> {
        self.keys.as_ref()?.find(key, &self.upstreams, |upstream| fit(upstream))
    }

    /// The next one that is fit.
    fn next_of(&self, fit: impl Fn(&Upstream) -> bool) -> Option<&Arc<Upstream>> {
        let n = self.upstreams.len();
        let begin = self.turn.fetch_add(1, Relaxed).checked_rem(n)?;
        let (at, found) = (0..n).map(|i| (i, &self.upstreams[(begin + i) % n])).find(|(_, u)| fit(u))?;
        if at > 0 {
            // Else the one behind an ejected endpoint would have its turns as well.
            self.turn.fetch_add(at, Relaxed);
        }
        Some(found)
    }

    /// Whether an answer with this status is a failure.
    pub(super) fn is_failure(&self, status: StatusCode) -> bool {
        self.balance.ejection.codes.contains(&status.as_u16())
    }

    /// Learns from a try. That an answer began well is no success yet: [`Self::whole`]. `took` is how long the endpoint took, where that is known; `stats` are those of the worker that had it.
    pub(super) fn learn(
        &self,
        upstream: &Upstream,
        outcome: Outcome,
        took: Option<Duration>,
        now: Moment,
        stats: &Stats,
    ) {
        let Vital { pending: _, latency, health, born: _ } = &upstream.vital;
        let rules = &self.balance.ejection;
        let failure = match outcome {
            Outcome::Answer(status) if self.is_failure(status) => Some(Cause::Answer(status.as_u16())),
            Outcome::Answer(_) => None,
            Outcome::Failure(cause) => Some(cause),
        };
        match failure {
            None if health.answered(now) => {
                latency.forget();
                add(&stats.readmissions);
                tracing::info!(backend = %upstream.addr, "endpoint is well again");
            }
            None => {}
            Some(cause) if health.fail(cause, rules, now, || self.may_eject(now)) => {
                add(&stats.ejections);
                self.counts.ejected();
                let left = health.ejected(now).and_then(|ejected| ejected.left).unwrap_or_default();
                let seconds = format_args!("{:.1}", left.as_secs_f32());
                tracing::warn!(backend = %upstream.addr, %cause, %seconds, "endpoint is ejected");
            }
            Some(_) => {}
        }
        let is_bad = failure.is_some() || matches!(outcome, Outcome::Answer(status) if is_fault(status));
        if let Some(took) = took {
            latency.record(took, is_bad, now);
        }
    }

    /// Learns that an answer which began well has come as a whole.
    pub(super) fn whole(upstream: &Upstream) {
        upstream.vital.health.succeed();
    }

    /// Learns that a connection was opened.
    pub(super) fn connected(&self, upstream: &Upstream, now: Moment, stats: &Stats) {
        if upstream.vital.health.connected(now) {
            add(&stats.readmissions);
            tracing::info!(backend = %upstream.addr, "endpoint can be connected again");
        }
    }

    /// Whether one more may be ejected for its answers.
    fn may_eject(&self, now: Moment) -> bool {
        self.ejected_for_answers(now).count() < self.most_ejected()
    }

    /// How many may be ejected for their answers.
    fn most_ejected(&self) -> usize {
        let (n, percent) = (self.upstreams.len(), usize::from(self.balance.ejection.most));
        let least = usize::from(n > 1 && percent > 0);
        (n.saturating_mul(percent) / 100).max(least)
    }

    fn ejected_for_answers(&self, now: Moment) -> impl Iterator<Item = (Ejected, &Arc<Upstream>)> {
        let ejected = self.upstreams.iter().filter_map(move |u| Some((u.vital.ejected(now)?, u)));
        ejected.filter(|(ejected, _)| !ejected.cause.is_unreached())
    }

    /// Readmits those whose ejection ends first where more are ejected than may be: others have left, or another Service port has
    /// ejected them, too.
    pub(super) fn trim(&self, now: Moment) {
        let most = self.most_ejected();
        if self.ejected_for_answers(now).nth(most).is_none() {
            return;
        }
        let mut ejected: Vec<_> = self.ejected_for_answers(now).map(|(ejected, u)| (ejected.left, u)).collect();
        ejected.sort_by_key(|(left, _)| *left);
        let spare = ejected.len() - most;
        for (_, upstream) in &ejected[..spare] {
            upstream.vital.health.readmit_early(now);
        }
    }
}

/// The one that is less busy, the first where neither is.
fn better<'a>(first: &'a Arc<Upstream>, second: &'a Arc<Upstream>, now: Moment) -> &'a Arc<Upstream> {
    let (a, b) = (&first.vital, &second.vital);
    let (slow_a, slow_b) = slowness(a.latency.estimate(now), b.latency.estimate(now));
    if cost(b.pending(), slow_b) < cost(a.pending(), slow_a) { second } else { first }
}

/// How long one more request would wait for all that are there.
#[expect(clippy::cast_precision_loss, reason = "a comparison")]
fn cost(pending: usize, slowness: f32) -> f64 {
    (pending as f64 + 1.0) * f64::from(slowness)
}

/// Whether a status says that the server failed; 501 says that the request did.
fn is_fault(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}
