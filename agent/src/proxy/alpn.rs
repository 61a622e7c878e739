//! What an endpoint chose by ALPN the last time that it was offered HTTP/2 and HTTP/1.1: where the next request asks first.
//!
//! It is no promise: an endpoint that was started anew may choose another one. So each connection is used for what was agreed upon with
//! it, and what is written here only saves handshakes.
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::balance::Moment;

/// A version of HTTP that both sides know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// HTTP/1.1: it said so, or nothing.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The last choice, for all workers. Units: twice the moment, and 1 where it was HTTP/2; 0 before the first.
#[derive(Debug, Default)]
pub(super) struct Chosen(AtomicU64);

impl Chosen {
    /// The last one; `None` before the first.
    pub(super) fn last(&self) -> Option<Choice> {
        match self.0.load(Relaxed) {
            0 => None,
            bits if bits & 1 == 1 => Some(Choice::Http2),
            _ => Some(Choice::Http1),
        }
    }

    /// It has chosen.
    pub(super) fn note(&self, choice: Choice, now: Moment) {
        self.0.store(now.to_bits() << 1 | u64::from(choice == Choice::Http2), Relaxed);
    }

    /// Whether it has chosen that within this time.
    pub(super) fn is_of_late(&self, choice: Choice, now: Moment, within: Duration) -> bool {
        let at = Moment::from_bits(self.0.load(Relaxed) >> 1);
        self.last() == Some(choice) && now.since(at) < within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_choice_counts() {
        let (chosen, second) = (Chosen::default(), Duration::from_secs(1));
        let at = |seconds: u64| Moment::from_bits(1 + seconds * 1_000_000);
        assert_eq!(chosen.last(), None);
        assert!(!chosen.is_of_late(Choice::Http1, at(0), second));
        chosen.note(Choice::Http1, at(10));
        assert_eq!(chosen.last(), Some(Choice::Http1));
        assert!(chosen.is_of_late(Choice::Http1, at(10), second) && !chosen.is_of_late(Choice::Http2, at(10), second));
        assert!(!chosen.is_of_late(Choice::Http1, at(11), second));
        chosen.note(Choice::Http2, at(11));
        assert_eq!(chosen.last(), Some(Choice::Http2));
    }
}
