//! How well the API server is followed: what readiness and `sluice status` say about the source.
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// The state of every kind that is followed.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// By resource, `services`.
    pub kinds: BTreeMap<String, KindHealth>,
}

/// The state of one kind.
#[derive(Clone, Debug, Default)]
pub struct KindHealth {
    /// It was read whole at least once, or the cluster does not have it.
    pub is_synced: bool,
    /// The cluster does not have it.
    pub is_absent: bool,
    /// Reading it is refused.
    pub is_forbidden: bool,
    /// What is wrong, and since when; what was read before still counts.
    pub trouble: Option<Trouble>,
}

/// Why a kind cannot be followed.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What was met.
    pub reason: String,
    /// When it was met first.
    pub since: Instant,
    /// When it was met last.
    pub last: Instant,
}

/// A trouble that was not met again for so long is over: a watch that goes on is silent.
const OVER: Duration = Duration::from_secs(15);

impl Trouble {
    /// Whether it lasts.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.last.elapsed() < OVER
    }
}

impl Health {
    /// What keeps the node from being ready: kinds that were never read, and those that it may not read.
    #[must_use]
    pub fn blockers(&self) -> Vec<String> {
        let blocking = self.kinds.iter().filter(|(_, k)| !k.is_synced || k.is_forbidden);
        let say = |(resource, kind): (&String, &KindHealth)| match &kind.trouble {
            Some(trouble) => format!("source: {resource}: {}", trouble.reason),
            None => format!("source: {resource}: not read yet"),
        };
        blocking.map(say).collect()
    }

    /// What is wrong although the node goes on with what it has.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let stale = self.kinds.iter().filter(|(_, k)| k.is_synced && !k.is_forbidden);
        let say = |(resource, kind): (&String, &KindHealth)| {
            let Trouble { reason, since, last: _ } = kind.trouble.as_ref().filter(|t| t.is_current())?;
            Some(format!("{resource} are as they were {} s ago: {reason}", since.elapsed().as_secs()))
        };
        stale.filter_map(say).collect()
    }
}
