//! Whether an endpoint gets requests, judged by what became of those that it had: passive health.
//!
//! In: the failures and successes of the requests of all routes and workers. Out: a [`State`].
//!
//! ```text
//! Well --failures in a row, or no connection--> Ejected --time--> Due --one request--> on trial --success--> Well
//!                                                  ^                                       |
//!                                                  +----------------- failure, twice as long
//! ```
//!
//! # Design
//! - A connection that cannot be opened ejects at once: what was to go there goes elsewhere, so passing over it takes nothing from anybody.
//!   Answers may be bad because there are too many requests, and then ejecting endpoints takes the others down as well: so it needs several
//!   in a row, and of a cluster there is a part that stays ([`Ejection::most`], which [`super::Endpoints`] counts).
//! - One atomic holds the state. Counters that go with it may be a moment late; none of them can be seen to stop an endpoint for ever.
//! - A trial of which nothing is heard (the client vanished) is over after [`TRIAL`], and the next one begins.
use std::{
    fmt,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::clock::Moment;
use crate::model::http::balance::Ejection;

/// How long a trial may go without a result. Then another one begins.
const TRIAL: Duration = Duration::from_secs(2);
/// An endpoint that was well for so long is ejected as if for the first time.
const CALM: Duration = Duration::from_secs(60);
/// How much longer an ejection may be, at random, so that endpoints that failed together are not tried together.
const JITTER: f64 = 0.25;
/// Failures that no number in a row is above.
const PROBATION: u32 = u32::MAX;
/// More ejections in a row than make it longer.
const STREAK: u32 = 16;

/// What may be sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum State {
    /// Anything.
    Well,
    /// Nothing, while another endpoint is left.
    Ejected,
    /// One request, to see whether it is well.
    Due,
}

/// What was wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Cause {
    /// No connection could be opened.
    Unconnected,
    /// TLS was not made with it as its policy wants it.
    Untrusted,
    /// The connection broke before the end of the answer.
    Broken,
    /// The answer did not come in time.
    Late,
    /// The answer had this status.
    Answer(u16),
}

impl Cause {
    /// Whether no request came to it at all. What was to go there goes elsewhere, so that once is enough, and the first connection that is
    /// opened ends it.
    pub(super) fn is_unreached(self) -> bool {
        matches!(self, Self::Unconnected | Self::Untrusted)
    }

    fn code(self) -> u16 {
        match self {
            Self::Unconnected => 1,
            Self::Broken => 2,
            Self::Late => 3,
            Self::Untrusted => 4,
            Self::Answer(status) => status,
        }
    }

    fn of(code: u16) -> Self {
        match code {
            1 => Self::Unconnected,
            2 => Self::Broken,
            3 => Self::Late,
            4 => Self::Untrusted,
            status => Self::Answer(status),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unconnected => f.write_str("it could not be connected"),
            Self::Untrusted => f.write_str("TLS with it could not be made as its policy wants it; the log says why"),
            Self::Broken => f.write_str("its connections broke before the end of the answer"),
            Self::Late => f.write_str("its answers did not come in time"),
            Self::Answer(status) => write!(f, "its last answers were failures, status {status}"),
        }
    }
}

/// What is known of one endpoint.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Health {
    /// When the ejection ends, or the trial, doubled; odd while there is a trial; 0 while it is well.
    until: AtomicU64,
    /// Failures since the last success.
    failures: AtomicU32,
    /// Ejections without [`CALM`] between them.
    streak: AtomicU32,
    /// When it was last well again.
    back: AtomicU64,
    /// Why it was last ejected.
    cause: AtomicU16,
}

/// An ejection that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) struct Ejected {
    /// Why.
    pub(in crate::proxy) cause: Cause,
    /// For how long still; `None`: the next request shows whether it is well.
    pub(in crate::proxy) left: Option<Duration>,
    /// How often, without a calm time between.
    pub(in crate::proxy) times: u32,
}

impl Health {
    /// What may be sent there.
    #[must_use]
    pub(in crate::proxy) fn state(&self, now: Moment) -> State {
        let until = self.until.load(Relaxed);
        if until == 0 {
            return State::Well;
        }
        let left = Moment(until >> 1).since(now);
        // More is left than there ever was: the clock went back.
        if left.is_zero() || left > Ejection::LONGEST.mul_f64(1.0 + 2.0 * JITTER) { State::Due } else { State::Ejected }
    }

    /// Takes the one request that a [`State::Due`] endpoint gets; `false` where another has it.
    #[must_use]
    pub(super) fn try_begin_trial(&self, now: Moment) -> bool {
        let before = self.until.load(Relaxed);
        let trial = now.after(TRIAL).0 << 1 | 1;
        before != 0
            && self.state(now) == State::Due
            && self.until.compare_exchange(before, trial, Relaxed, Relaxed).is_ok()
    }

    /// An answer has begun well; `true` where that ends an ejection. Until one has come as a whole the next failure ejects again.
    pub(super) fn answered(&self, now: Moment) -> bool {
        let until = self.until.load(Relaxed);
        // What was sent before the ejection does not end it.
        let is_readmitted = until & 1 == 1 && self.readmit(until, now);
        if is_readmitted {
            self.failures.store(PROBATION, Relaxed);
        }
        is_readmitted
    }

    /// An answer has come as a whole.
    pub(super) fn succeed(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Counts a connection that was opened; `true` where it ends an ejection.
    pub(super) fn connected(&self, now: Moment) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && Cause::of(self.cause.load(Relaxed)).is_unreached() && self.readmit(until, now)
    }

    /// Ends an ejection for the others' sake: too many of them are.
    pub(super) fn readmit_early(&self, now: Moment) -> bool {
        let until = self.until.load(Relaxed);
        until != 0 && self.readmit(until, now)
    }

    fn readmit(&self, until: u64, now: Moment) -> bool {
        let is_over = self.until.compare_exchange(until, 0, Relaxed, Relaxed).is_ok();
        if is_over {
            self.back.store(now.0, Relaxed);
            self.failures.store(0, Relaxed);
        }
        is_over
    }

    /// Counts a failure; `true` where it is ejected for it. `may` says whether the cluster can do without it.
    pub(super) fn fail(&self, cause: Cause, rules: &Ejection, now: Moment, may: impl FnOnce() -> bool) -> bool {
        let until = self.until.load(Relaxed);
        let is_enough = if until == 0 {
            cause.is_unreached() || rules.after.is_some_and(|after| self.count(after) >= after && may())
        } else {
            // On trial, or about to be. Else it is what was sent before the ejection.
            until & 1 == 1 || self.state(now) == State::Due
        };
        is_enough && self.eject(until, cause, rules, now)
    }

    /// One failure more, up to so many; how many that makes.
    fn count(&self, most: u32) -> u32 {
        let before = self.failures.load(Relaxed);
        if before < most { self.failures.fetch_add(1, Relaxed).saturating_add(1) } else { before }
    }

    fn eject(&self, until: u64, cause: Cause, rules: &Ejection, now: Moment) -> bool {
        let is_calm = now.since(Moment(self.back.load(Relaxed))) > CALM;
        let streak = if until == 0 && is_calm { 0 } else { self.streak.load(Relaxed).min(STREAK) };
        let time = rules.time.saturating_mul(1 << streak).min(Ejection::LONGEST);
        let end = now.after(time.mul_f64(1.0 + JITTER * fastrand::f64())).0 << 1;
        let is_first = self.until.compare_exchange(until, end, Relaxed, Relaxed).is_ok();
        if is_first {
            self.cause.store(cause.code(), Relaxed);
            self.streak.store(streak + 1, Relaxed);
            self.failures.store(0, Relaxed);
        }
        is_first
    }

    /// The ejection, where there is one.
    #[must_use]
    pub(in crate::proxy) fn ejected(&self, now: Moment) -> Option<Ejected> {
        let until = self.until.load(Relaxed);
        (until != 0).then(|| Ejected {
            cause: Cause::of(self.cause.load(Relaxed)),
            left: Some(Moment(until >> 1).since(now)).filter(|left| !left.is_zero() && until & 1 == 0),
            times: self.streak.load(Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAD: Cause = Cause::Answer(503);

    fn at(millis: u64) -> Moment {
        Moment::from_bits(millis * 1000 + 1)
    }

    fn fail(health: &Health, times: usize, now: Moment) -> bool {
        (0..times).fold(false, |_, _| health.fail(BAD, &Ejection::default(), now, || true))
    }

    #[test]
    fn so_many_failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let health = Health::default();
        for _ in 0..10 {
            assert!(!fail(&health, 4, at(0)));
            assert!(!health.answered(at(0)), "nothing to end");
            health.succeed();
        }
        assert_eq!(health.state(at(0)), State::Well);
        assert!(fail(&health, 5, at(0)));
        assert_eq!((health.state(at(0)), health.state(at(999))), (State::Ejected, State::Ejected));
        assert_eq!(health.state(at(1_251)), State::Due);
        let ejected = health.ejected(at(0)).unwrap();
        assert_eq!((ejected.cause, ejected.times), (BAD, 1));
    }

    #[test]
    fn an_answer_that_began_well_and_broke_off_ejects_again() {
        let health = Health::default();
        assert!(!fail(&health, 4, at(0)) && !health.answered(at(0)) && fail(&health, 1, at(0)), "a head is no success");
        assert!(health.try_begin_trial(at(2_000)) && health.answered(at(2_000)));
        assert!(fail(&health, 1, at(2_001)), "what broke off is the trial's");
        assert!(health.try_begin_trial(at(6_000)) && health.answered(at(6_000)));
        health.succeed();
        assert!(!fail(&health, 4, at(6_001)) && fail(&health, 1, at(6_001)));
    }

    #[test]
    fn a_connection_that_cannot_be_opened_is_enough_and_one_that_can_ends_it() {
        let (health, never) = (Health::default(), Ejection { after: None, ..Ejection::default() });
        assert!(health.fail(Cause::Unconnected, &never, at(0), || unreachable!("nobody is asked")));
        assert_eq!(health.state(at(0)), State::Ejected);
        assert!(health.connected(at(10)) && !health.connected(at(10)));
        assert_eq!(health.state(at(10)), State::Well);
        assert!(!fail_with(&health, &never, 100), "answers never do");
        assert!(fail(&health, 5, at(20)) && !health.connected(at(30)), "it never was a matter of connections");
    }

    fn fail_with(health: &Health, rules: &Ejection, times: usize) -> bool {
        (0..times).any(|_| health.fail(BAD, rules, at(0), || true))
    }

    #[test]
    fn one_request_is_the_trial_and_its_end_decides() {
        let health = Health::default();
        fail(&health, 5, at(0));
        assert!(!health.try_begin_trial(at(500)), "not yet");
        assert!(!health.answered(at(600)), "what was sent before does not end it");
        assert!(health.try_begin_trial(at(2000)) && !health.try_begin_trial(at(2001)));
        assert_eq!(health.state(at(2001)), State::Ejected, "for all others");
        assert!(health.answered(at(2100)));
        assert_eq!((health.state(at(2100)), health.ejected(at(2100))), (State::Well, None));
    }

    #[test]
    fn a_trial_of_which_nothing_is_heard_is_followed_by_another() {
        let health = Health::default();
        fail(&health, 5, at(0));
        assert!(health.try_begin_trial(at(2000)));
        assert_eq!((health.state(at(3999)), health.state(at(4001))), (State::Ejected, State::Due));
        assert!(health.try_begin_trial(at(4001)));
    }

    #[test]
    fn ejections_grow_up_to_a_bound_with_jitter_and_start_anew_after_a_calm_time() {
        fastrand::seed(7);
        let (health, mut now) = (Health::default(), 0);
        let mut times = Vec::new();
        fail(&health, 5, at(now));
        for _ in 0..40 {
            times.push(health.ejected(at(now)).unwrap().left.unwrap().as_secs_f64());
            now += 20_000;
            assert!(health.try_begin_trial(at(now)) && fail(&health, 1, at(now)), "one failure on trial is enough");
        }
        for (time, base) in times.iter().zip([1.0, 2.0, 4.0, 8.0, 10.0, 10.0]) {
            assert!((base..=base * 1.25).contains(time), "{times:?}");
        }
        assert!(times[4..].iter().all(|t| (10.0..=12.5).contains(t)) && times[4] != times[5], "{times:?}");
        now += 20_000;
        assert!(health.try_begin_trial(at(now)) && health.answered(at(now)));
        fail(&health, 5, at(now + 1000));
        assert!(health.ejected(at(now + 1000)).unwrap().left.unwrap() >= Duration::from_secs(10), "no calm time yet");
        now += 20_000;
        assert!(health.try_begin_trial(at(now)) && health.answered(at(now)));
        now += 61_000;
        fail(&health, 5, at(now));
        assert!(health.ejected(at(now)).unwrap().left.unwrap() < Duration::from_secs(2));
    }

    #[test]
    fn a_cluster_that_cannot_do_without_it_keeps_it_and_counters_do_not_overflow() {
        let health = Health::default();
        health.failures.store(u32::MAX - 1, Relaxed);
        let rules = Ejection { after: Some(u32::MAX), ..Ejection::default() };
        for _ in 0..5 {
            assert!(!health.fail(BAD, &rules, at(0), || false));
        }
        assert_eq!((health.state(at(0)), health.failures.load(Relaxed)), (State::Well, u32::MAX));
        assert!(health.fail(BAD, &rules, at(0), || true), "until it can");
    }

    #[test]
    fn a_clock_that_goes_back_keeps_nobody_out() {
        let health = Health::default();
        fail(&health, 5, at(3_600_000));
        assert_eq!(health.state(at(3_600_000)), State::Ejected);
        assert_eq!(health.state(at(0)), State::Due);
        assert!(health.try_begin_trial(at(0)) && health.answered(at(1)));
    }
}
