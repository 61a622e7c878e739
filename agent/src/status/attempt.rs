//! The last write to an object, and when the next one may follow.
use std::time::{Duration, Instant};

use super::write::Write;

/// The first pause after a write that was refused; each further one is twice as long. Source: upstream's service
/// controller, whose first pause is 5 s; a conflict is none of the object's fault and need not wait.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause. Source: the same.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long the effect of a write may take to be seen; after it the next one is planned from what is there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was created and is not seen for so long was deleted at once, or its name is taken.
const RECREATE: Duration = Duration::from_secs(10);

/// The last write to an object.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The revision it was based on, empty for what was created: while the snapshot still has that, its effect is not seen
    /// yet.
    revision: String,
    is_under_way: bool,
    failures: u32,
    not_before: Instant,
    /// When it began or ended.
    touched: Instant,
    /// The write itself, where the API server took it and nothing changed: the object is as it was, and another write may
    /// follow on the same revision.
    without_effect: Option<Write>,
}

/// What became of a write that the API server took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The object is another one now, and will be seen.
    Changed,
    /// It is as it was.
    None,
}

/// Whether an object must be left alone for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It need not.
    No,
    /// Its last write is under way, or not seen yet.
    ForTheServer,
    /// The server has refused it.
    Until(Instant),
}

impl Attempt {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            revision: String::new(),
            is_under_way: false,
            failures: 0,
            not_before: now,
            touched: now,
            without_effect: None,
        }
    }

    /// Whether its effect is in the snapshot, which has the object at this revision: it has served its purpose.
    pub(super) fn is_seen(&self, revision: &str) -> bool {
        !self.is_under_way && self.failures == 0 && self.revision != revision
    }

    /// Whether the object must be left alone, which the snapshot has at this revision.
    pub(super) fn wait(&self, revision: &str, now: Instant) -> Wait {
        let is_same = self.revision == revision;
        let patience = if self.revision.is_empty() { RECREATE } else { PATIENCE };
        if self.is_under_way {
            return Wait::ForTheServer;
        }
        match self.failures {
            // One that was changed meanwhile may be accepted now.
            1.. if is_same && self.not_before > now => Wait::Until(self.not_before),
            0 if is_same && self.without_effect.is_none() && now < self.touched + patience => Wait::ForTheServer,
            _ => Wait::No,
        }
    }

    /// Whether the object would be as it is after this write.
    pub(super) fn is_idle(&self, write: &Write) -> bool {
        self.without_effect.as_ref().is_some_and(|known| (&known.path, &known.body) == (&write.path, &write.body))
    }

    /// Whether nothing hangs on it any more, so long after it was touched.
    pub(super) fn is_over(&self, after: Duration, now: Instant) -> bool {
        !self.is_under_way && now > self.touched + after
    }

    pub(super) fn begin(&mut self, write: &Write, now: Instant) {
        if self.revision != write.revision {
            self.failures = 0;
        }
        self.revision.clone_from(&write.revision);
        (self.is_under_way, self.touched, self.without_effect) = (true, now, None);
    }

    pub(super) fn succeed(&mut self, write: &Write, effect: Effect, now: Instant) {
        (self.is_under_way, self.touched, self.failures) = (false, now, 0);
        self.without_effect = Some(write.clone()).filter(|_| effect == Effect::None);
    }

    /// The object was changed, or is gone: the next snapshot says what is to be done.
    pub(super) fn conflict(&mut self, now: Instant) {
        (self.is_under_way, self.touched, self.failures) = (false, now, 0);
    }

    pub(super) fn fail(&mut self, now: Instant) {
        (self.is_under_way, self.touched) = (false, now);
        self.failures = self.failures.saturating_add(1);
        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.failures - 1)).min(LONGEST_PAUSE);
        self.not_before = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{ObjectMeta, Service};

    fn write(revision: &str) -> Write {
        let metadata = ObjectMeta { name: "web".into(), resource_version: revision.into(), ..ObjectMeta::default() };
        Write::new::<Service>(&metadata, Some("status"), json!({}))
    }

    #[test]
    fn the_next_write_waits_until_the_last_one_is_seen() {
        let now = Instant::now();
        let mut attempt = Attempt::new(now);
        assert_eq!(attempt.wait("1", now), Wait::No);
        attempt.begin(&write("1"), now);
        assert_eq!((attempt.wait("1", now), attempt.wait("2", now)), (Wait::ForTheServer, Wait::ForTheServer));
        attempt.succeed(&write("1"), Effect::Changed, now);
        assert_eq!((attempt.wait("1", now), attempt.wait("2", now)), (Wait::ForTheServer, Wait::No));
        assert!(attempt.is_seen("2") && !attempt.is_seen("1"));
        assert_eq!(attempt.wait("1", now + PATIENCE), Wait::No, "not for ever");
        attempt.begin(&write("2"), now);
        attempt.conflict(now);
        assert_eq!((attempt.wait("2", now), attempt.wait("3", now)), (Wait::ForTheServer, Wait::No));
    }

    #[test]
    fn a_write_without_effect_is_not_made_again_and_keeps_no_other_from_being_made() {
        let now = Instant::now();
        let mut attempt = Attempt::new(now);
        attempt.begin(&write("1"), now);
        attempt.succeed(&write("1"), Effect::None, now);
        assert_eq!(attempt.wait("1", now), Wait::No);
        let mut other = write("1");
        other.body["status"] = json!({});
        assert!(attempt.is_idle(&write("1")) && !attempt.is_idle(&other));
    }

    #[test]
    fn s88_pauses_grow_to_five_minutes_and_end_when_the_object_changes() {
        let now = Instant::now();
        let mut attempt = Attempt::new(now);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            attempt.begin(&write("1"), now);
            attempt.fail(now);
            let Wait::Until(at) = attempt.wait("1", now) else { panic!("it does not wait") };
            pauses.push(at - now);
            assert_eq!((attempt.wait("1", at), attempt.wait("2", now)), (Wait::No, Wait::No));
        }
        assert_eq!((pauses[0], pauses[1], pauses[19]), (FIRST_PAUSE, FIRST_PAUSE * 2, LONGEST_PAUSE));
        assert!(pauses.is_sorted());
        attempt.begin(&write("2"), now);
        attempt.fail(now);
        assert_eq!(attempt.wait("2", now), Wait::Until(now + FIRST_PAUSE), "another revision begins anew");
    }
}
