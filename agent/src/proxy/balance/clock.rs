//! Moments as numbers, so that they fit into atomics.
use std::{sync::LazyLock, time::Duration};

use tokio::time::Instant;

static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment of this process. Units: microseconds since shortly after its start; 0 is never [`Moment::now`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::proxy) struct Moment(pub(super) u64);

impl Moment {
    /// This one.
    #[must_use]
    pub(in crate::proxy) fn now() -> Self {
        Self::of(Instant::now())
    }

    /// One that somebody has looked at already.
    #[must_use]
    pub(in crate::proxy) fn of(instant: Instant) -> Self {
        let began = *BEGAN;
        Self(micros(instant.saturating_duration_since(began)) + 1)
    }

    /// One that was kept as a number.
    #[must_use]
    pub(in crate::proxy) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As a number, which is not 0.
    #[must_use]
    pub(in crate::proxy) fn to_bits(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it was not.
    #[must_use]
    pub(in crate::proxy) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// So much later.
    #[must_use]
    pub(super) fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(micros(wait)))
    }

    /// Units: milliseconds, modulo 2^32.
    pub(super) fn millis(self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 is meant")]
        let millis = (self.0 / 1000) as u32;
        millis
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}
