//! How long an endpoint takes to answer, of late: the peak EWMA of Finagle and Linkerd.
//!
//! In: how long each answer took. Out: an estimate that jumps up to a slower answer at once and comes down as slowly as a moving
//! average does. One atomic holds estimate and time, so that no lock is needed and none sees half of a change; of two answers at the very
//! same moment one may go uncounted.
//!
//! # Design
//! - A failure counts as an answer that took [`FAILED`], averaged: an endpoint that refuses everything at once looks as slow as it is
//!   useless, and one failure in a hundred costs it a hundredth of that.
//! - What is not asked any more is forgotten at the same pace, but down to what the others have and no further ([`slowness`]): an
//!   endpoint that was slow gets requests again some time, and never all of them at once.
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::clock::Moment;

/// After so long an answer counts for 1/e. Units: milliseconds.
///
/// Finagle has 10 s. What was slow for a moment would be avoided for a minute then: until it is forgotten down to what others take.
const DECAY: f32 = 2000.0;
/// How long a failure counts as.
const FAILED: Duration = Duration::from_secs(1);
/// Differences below this are noise of the network. Units: microseconds.
const FLOOR: f32 = 500.0;
/// The longest that is told apart, so that products stay exact enough. Units: microseconds.
const CEILING: f32 = 600e6;
/// An estimate this old is none. It keeps the clock's 32 bits of milliseconds from coming round. Units: milliseconds.
const STALE: u32 = 3_600_000;
/// Below this much idle time nothing is gained by working out what is forgotten. Units: milliseconds.
const FRESH: u32 = 64;

/// The estimate of one endpoint: in the upper half microseconds as `f32`, never 0, in the lower half when that was so, in milliseconds;
/// 0 where there is none.
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

/// An estimate, and how long ago it was made. Units: microseconds, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    micros: f32,
    idle: u32,
}

impl Latency {
    /// What is known of it.
    #[must_use]
    pub(super) fn estimate(&self, now: Moment) -> Option<Estimate> {
        let packed = self.0.load(Relaxed);
        (packed != 0).then(|| {
            let (micros, at) = unpack(packed);
            Estimate { micros, idle: elapsed(at, now) }
        })
    }

    /// Counts an answer.
    pub(super) fn record(&self, took: Duration, is_failure: bool, now: Moment) {
        let before = self.0.load(Relaxed);
        let took = micros(took);
        let sample = if is_failure { took.max(micros(FAILED)) } else { took };
        let micros = if before == 0 {
            sample
        } else {
            let (micros, at) = unpack(before);
            let kept = kept(elapsed(at, now));
            took.max(micros * kept + sample * (1.0 - kept))
        };
        let after = u64::from(micros.max(1.0).to_bits()) << 32 | u64::from(now.millis());
        // Lost against another answer: that one is as good.
        let _ = self.0.compare_exchange(before, after, Relaxed, Relaxed);
    }

    /// Knows nothing any more.
    pub(super) fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    /// Forgets what is too old to tell its age.
    pub(super) fn tidy(&self, now: Moment) {
        let packed = self.0.load(Relaxed);
        if packed != 0 && elapsed(unpack(packed).1, now) > STALE {
            let _ = self.0.compare_exchange(packed, 0, Relaxed, Relaxed);
        }
    }
}

/// How slow two endpoints are, compared with each other; the same for both where they do not differ by half, or nothing is known
/// of one.
#[must_use]
pub(super) fn slowness(a: Option<Estimate>, b: Option<Estimate>) -> (f32, f32) {
    let (Some(a), Some(b)) = (a, b) else { return (1.0, 1.0) };
    let (raw_a, raw_b) = (a.micros.max(FLOOR), b.micros.max(FLOOR));
    // The slower one's is forgotten while nobody asks it; down to the faster one's, for more would draw all requests to it.
    let (a, b) = if raw_a > raw_b { (a.now().max(raw_b), raw_b) } else { (raw_a, b.now().max(raw_a)) };
    if a < 2.0 * b && b < 2.0 * a { (1.0, 1.0) } else { (a, b) }
}

impl Estimate {
    fn now(self) -> f32 {
        if self.idle < FRESH { self.micros } else { self.micros * kept(self.idle) }
    }
}

/// Which part of an estimate is left after so many milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a part of a millisecond in hours")]
fn kept(elapsed: u32) -> f32 {
    (-(elapsed as f32) / DECAY).exp()
}

/// Milliseconds from `at` until now; 0 where the clock went back.
fn elapsed(at: u32, now: Moment) -> u32 {
    let elapsed = now.millis().wrapping_sub(at);
    if elapsed > u32::MAX / 2 { 0 } else { elapsed }
}

fn unpack(packed: u64) -> (f32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    let halves = (f32::from_bits((packed >> 32) as u32), packed as u32);
    halves
}

fn micros(time: Duration) -> f32 {
    (time.as_secs_f32() * 1e6).min(CEILING)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_bits(millis * 1000 + 1)
    }

    fn ms(latency: &Latency, now: Moment) -> f32 {
        latency.estimate(now).unwrap().micros / 1000.0
    }

    #[test]
    fn it_jumps_up_at_once_and_comes_down_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.estimate(at(5)), None);
        latency.record(Duration::from_millis(1), false, at(0));
        latency.record(Duration::from_millis(100), false, at(1));
        assert!((ms(&latency, at(1)) - 100.0).abs() < 0.01);
        latency.record(Duration::from_millis(1), false, at(2001));
        let after_a_decay = ms(&latency, at(2001));
        assert!((after_a_decay - (1.0 + 99.0 / std::f32::consts::E)).abs() < 0.1, "{after_a_decay}");
    }

    #[test]
    fn ten_thousand_answers_a_second_move_it_as_one_does() {
        let latency = Latency::default();
        latency.record(Duration::from_millis(100), false, at(0));
        for tenth in 0..20_000_u64 {
            latency.record(Duration::from_millis(1), false, Moment::from_bits(tenth * 100 + 1));
        }
        let found = ms(&latency, at(2000));
        assert!((found - (1.0 + 99.0 / std::f32::consts::E)).abs() < 1.0, "{found}");
    }

    #[test]
    fn failures_count_as_slow_answers_however_fast_they_are() {
        let (failing, sometimes) = (Latency::default(), Latency::default());
        for milli in 0..1000 {
            failing.record(Duration::from_micros(50), true, at(milli));
            sometimes.record(Duration::from_micros(50), milli % 100 == 0 && milli > 0, at(milli));
        }
        assert!(ms(&failing, at(1000)) > 900.0, "the first is all that is known");
        assert!((0.1..10.0).contains(&ms(&sometimes, at(1000))), "{}", ms(&sometimes, at(1000)));
        failing.record(Duration::from_secs(30), true, at(1000));
        assert!(ms(&failing, at(1000)) > 29_999.0, "and one that took longer as that");
    }

    #[test]
    fn what_differs_by_less_than_half_is_alike_and_what_is_idle_comes_down_to_the_others() {
        let of = |micros, idle| Some(Estimate { micros, idle });
        assert_eq!(slowness(None, of(1e6, 0)), (1.0, 1.0));
        assert_eq!(slowness(of(10.0, 0), of(499.0, 0)), (1.0, 1.0), "noise");
        assert_eq!(slowness(of(1000.0, 0), of(1900.0, 0)), (1.0, 1.0));
        assert_eq!(slowness(of(1000.0, 0), of(10_000.0, 0)), (1000.0, 10_000.0));
        assert_eq!(slowness(of(10_000.0, 0), of(1000.0, 0)), (10_000.0, 1000.0));
        let (fast, slow) = slowness(of(1000.0, 0), of(10_000.0, 2000));
        assert!((fast, slow.round()) == (1000.0, 3679.0), "{fast} {slow}");
        assert_eq!(slowness(of(20_000.0, 0), of(1e6, 600_000)), (1.0, 1.0), "as the other, and not less");
    }

    #[test]
    fn clocks_that_jump_or_come_round_do_no_harm() {
        let latency = Latency::default();
        latency.record(Duration::from_millis(5), false, at(1_000_000));
        assert!((ms(&latency, at(0)) - 5.0).abs() < 0.01, "back");
        latency.record(Duration::from_millis(7), false, at(0));
        latency.record(Duration::from_millis(3), false, at(u64::from(u32::MAX) + 5));
        assert!((2.9..=7.1).contains(&ms(&latency, at(u64::from(u32::MAX) + 5))));
        latency.record(Duration::MAX, false, at(u64::from(u32::MAX) + 6));
        assert!(latency.estimate(at(u64::from(u32::MAX) + 6)).unwrap().micros.is_finite());
        latency.tidy(at(u64::from(u32::MAX) + 7));
        assert!(latency.estimate(at(9)).is_some());
        latency.tidy(at(u64::from(u32::MAX) + 7 + u64::from(STALE)));
        assert_eq!(latency.estimate(at(9)), None);
    }
}
