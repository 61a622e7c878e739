//! Whether and when a request is sent again.
//!
//! # Design
//! - Without `retry` in its rule a request goes on to another endpoint only where nothing of it was processed: no connection, or
//!   a stream that was refused. With it `attempts` bounds all tries beyond the first, whatever they are for.
//! - A request that an endpoint may have processed is sent again for a status that the rule names, and after a try that took too
//!   long if its method is idempotent or the rule names 504. Never after a connection that broke.
//! - Tries that endpoints have to bear are bounded by a budget of the cluster: a part of the requests that it has now, so that
//!   retries cannot multiply what an overloaded backend gets. A connection that was refused costs nobody anything and is free. Where
//!   a policy says what the budget is, that one holds ([`super::budget`]), and what is beyond it is answered with 503 (GEP-3388).
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};

use super::{
    balance::{Endpoints, Moment},
    bounds::{Load, Share},
    grpc,
};
use crate::model::http::Retry;

/// What `backoff` is where the rule has none, doubled with each try up to [`MOST_BACKOFF`]. As in Envoy.
const BACKOFF: Duration = Duration::from_millis(25);
/// How long one pause is at most, unless the rule says more.
const MOST_BACKOFF: Duration = Duration::from_millis(250);
/// How long a pause `Retry-After` may ask for. Beyond it the response is passed on: the client waits better.
const MOST_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Retries of a cluster at a time: so many, or this part of its requests, whichever is more. As in Envoy, which has 3.
const BUDGET: (usize, usize) = (10, 5);

/// Whether there is another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There is.
    Yes,
    /// There is none.
    No,
    /// There would be one, and somebody has said that the backend shall not bear it: the client is told so.
    OverBudget,
}

/// What is left of a request's retries.
#[derive(Debug)]
pub(super) struct Retries<'a> {
    rule: Option<&'a Retry>,
    left: u32,
    done: u32,
    /// The part of the budget that the try which runs now has.
    budget: Option<Share>,
}

impl<'a> Retries<'a> {
    /// Those that a rule allows; `unprocessed` where it says nothing.
    #[must_use]
    pub(super) fn new(rule: Option<&'a Retry>, unprocessed: u32) -> Self {
        Self { rule, left: rule.map_or(unprocessed, |rule| rule.attempts), done: 0, budget: None }
    }

    /// Whether the rule asks for retries.
    #[must_use]
    pub(super) fn is_asked(&self) -> bool {
        self.rule.is_some_and(|rule| rule.attempts > 0)
    }

    /// Whether a response may be followed by another try, and the pause that it asks for.
    #[must_use]
    pub(super) fn wants(&self, status: StatusCode, headers: &HeaderMap, is_grpc: bool) -> Option<Duration> {
        let rule = self.rule.filter(|_| self.left > 0)?;
        let is_listed = rule.codes.contains(&status.as_u16()) || (is_grpc && grpc::is_unavailable(headers));
        if !is_listed {
            return None;
        }
        let asked = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Some(asked.map_or(Duration::ZERO, Duration::from_secs)).filter(|pause| *pause <= MOST_RETRY_AFTER)
    }

    /// Whether a try that took too long may be followed by another.
    #[must_use]
    pub(super) fn wants_after_timeout(&self, method: &Method) -> bool {
        let is_named = self.rule.is_some_and(|rule| rule.codes.contains(&StatusCode::GATEWAY_TIMEOUT.as_u16()));
        self.is_asked() && self.left > 0 && (is_named || method.is_idempotent())
    }

    /// Takes one that no endpoint had to bear.
    pub(super) fn take_free(&mut self) -> bool {
        self.budget = None;
        let taken = self.left > 0;
        self.left -= u32::from(taken);
        self.done += u32::from(taken);
        taken
    }

    /// Takes one of the cluster's budget.
    pub(super) fn take(&mut self, cluster: &Endpoints) -> Taken {
        self.budget = None;
        if self.left == 0 {
            return Taken::No;
        }
        if let Some(budget) = &cluster.budget {
            if !budget.try_retry(Moment::now()) {
                return Taken::OverBudget;
            }
        } else {
            let pending: usize = cluster.upstreams.iter().map(|upstream| upstream.vital.pending()).sum();
            self.budget = Load::try_share(&cluster.retries, BUDGET.0.max(pending / BUDGET.1));
            if self.budget.is_none() {
                return Taken::No;
            }
        }
        self.left -= 1;
        self.done += 1;
        Taken::Yes
    }

    /// How long to pause before the next try: between the base and twice that, doubled with each try, at least `asked`.
    #[must_use]
    pub(super) fn pause(&self, asked: Duration) -> Duration {
        let base = self.rule.and_then(|rule| rule.backoff).unwrap_or(BACKOFF);
        let doubled = base.saturating_mul(1 << self.done.saturating_sub(1).min(10)).min(MOST_BACKOFF.max(base));
        doubled.mul_f64(1.0 + fastrand::f64()).max(asked)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn rule(attempts: u32, codes: &[u16], backoff: Option<Duration>) -> Retry {
        Retry { attempts, codes: codes.iter().copied().collect(), backoff }
    }

    #[test]
    fn a_response_is_followed_by_another_try_as_the_rule_says() {
        let with = |retry_after: Option<&str>, grpc: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.extend(retry_after.map(|v| (header::RETRY_AFTER, v.parse().unwrap())));
            headers.extend(grpc.map(|v| (http::HeaderName::from_static("grpc-status"), v.parse().unwrap())));
            headers
        };
        let (none, rule) = (HeaderMap::new(), rule(1, &[503], None));
        let retries = Retries::new(Some(&rule), 2);
        let pause = |status: u16, headers: &HeaderMap, is_grpc| {
            retries.wants(StatusCode::from_u16(status).unwrap(), headers, is_grpc)
        };
        assert_eq!(pause(503, &none, false), Some(Duration::ZERO));
        assert_eq!(pause(500, &none, false), None);
        assert_eq!(pause(503, &with(Some("2"), None), false), Some(Duration::from_secs(2)));
        assert_eq!(pause(503, &with(Some("600"), None), false), None, "the client is told");
        assert_eq!(pause(503, &with(Some("Fri, 27 Nov 2026 00:00:00 GMT"), None), false), Some(Duration::ZERO));
        assert_eq!(pause(200, &with(None, Some("14")), true), Some(Duration::ZERO));
        assert_eq!(pause(200, &with(None, Some("14")), false), None, "no gRPC request");
        assert_eq!(pause(200, &with(None, Some("13")), true), None);
        assert_eq!(Retries::new(None, 2).wants(StatusCode::SERVICE_UNAVAILABLE, &none, false), None);
    }

    #[test]
    fn attempts_bound_all_tries_and_pauses_grow() {
        let rule = rule(2, &[504], Some(Duration::from_secs(1)));
        let mut retries = Retries::new(Some(&rule), 9);
        assert!(retries.wants_after_timeout(&Method::POST), "504 is named");
        assert!(retries.take_free());
        let first = retries.pause(Duration::ZERO);
        assert!(first >= Duration::from_secs(1) && first <= Duration::from_secs(2), "{first:?}");
        assert!(retries.take_free());
        assert!(retries.pause(Duration::ZERO) >= Duration::from_secs(1));
        assert_eq!(retries.pause(Duration::from_secs(4)), Duration::from_secs(4));
        assert!(!retries.take_free() && !retries.wants_after_timeout(&Method::GET));
        let endpoints = Arc::new(Endpoints::new(Vec::new(), Arc::default(), Arc::default()));
        let many = Retry { attempts: 2, ..Retry::default() };
        let mut all: Vec<_> = (0..BUDGET.0 + 1).map(|_| Retries::new(Some(&many), 0)).collect();
        let taken = all.iter_mut().filter_map(|retries| (retries.take(&endpoints) == Taken::Yes).then_some(())).count();
        assert_eq!(taken, BUDGET.0, "the budget is the cluster's");
        assert!(
            all[0].take_free() && all[BUDGET.0].take(&endpoints) == Taken::Yes,
            "given back by whoever goes on without"
        );
        let off = Retry { attempts: 0, ..Retry::default() };
        assert!(!Retries::new(Some(&off), 9).take_free());
    }
}
