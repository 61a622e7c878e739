//! How well the API server is followed: what readiness and `sluice status` say about the source, and which kinds the
//! leader may write by.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// What becomes of a node that cannot read a kind. Which kind has which stands in one table, in [`super::watch()`].
///
/// # Design
/// Readiness stops a rollout and keeps the programs from being attached, so only what forwarding depends on may hold it up.
/// What differs between the last two is an answer that does not come: layer 7 that an earlier agent has programmed must
/// not go because the API server is slow, so its kinds are waited for; a kind for one feature is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing is programmed before it was read, and a node that may not read it is not ready.
    Required,
    /// Nothing is programmed before the API server has said what there is: the objects, that the cluster does not have the
    /// kind, or that it may not be read. In both latter cases the feature is off.
    Expected,
    /// Never waited for: without it one feature is off.
    Optional,
}

/// The state of every kind that is followed.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// By resource, `services`.
    pub kinds: BTreeMap<String, KindHealth>,
}

/// The state of one kind.
#[derive(Clone, Debug)]
pub struct KindHealth {
    /// Its name, `Service`.
    pub kind: &'static str,
    /// What becomes of a node that cannot read it.
    pub need: Need,
    /// What is off without it.
    pub feature: &'static str,
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

impl KindHealth {
    /// A kind of which nothing is known yet.
    #[must_use]
    pub fn new(kind: &'static str, need: Need, feature: &'static str) -> Self {
        Self { kind, need, feature, is_synced: false, is_absent: false, is_forbidden: false, trouble: None }
    }

    /// Whether nothing may be programmed before more is known about it.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        match self.need {
            Need::Required => !self.is_synced,
            Need::Expected => !self.is_synced && !self.is_forbidden,
            Need::Optional => false,
        }
    }

    /// Whether its feature is off because the kind may not be read.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.is_forbidden && self.need != Need::Required
    }

    /// What is wrong now.
    fn current(&self) -> Option<&Trouble> {
        self.trouble.as_ref().filter(|trouble| trouble.is_current())
    }
}

impl Health {
    /// What keeps the node from being ready.
    #[must_use]
    pub fn blockers(&self) -> Vec<String> {
        let is_refused = |kind: &KindHealth| kind.is_forbidden && kind.need == Need::Required;
        let blocking = self.kinds.iter().filter(|(_, kind)| kind.is_awaited() || is_refused(kind));
        let say = |(resource, kind): (&String, &KindHealth)| match &kind.trouble {
            Some(trouble) => format!("source: {resource}: {}", trouble.reason),
            None => format!("source: {resource}: not read yet"),
        };
        blocking.map(say).collect()
    }

    /// What is wrong although the node goes on with what it has.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let say = |(resource, kind): (&String, &KindHealth)| {
            if kind.is_off() {
                let reason = kind.trouble.as_ref().map_or("reading it is forbidden", |t| t.reason.as_str());
                return Some(format!("{} is off: {resource}: {reason}", kind.feature));
            }
            if kind.is_awaited() || kind.is_forbidden {
                return None;
            }
            let Trouble { reason, since, last: _ } = kind.current()?;
            Some(if kind.is_synced {
                format!("{resource} are as they were {} s ago: {reason}", since.elapsed().as_secs())
            } else {
                format!("{} is off: {resource} are not read: {reason}", kind.feature)
            })
        };
        self.kinds.iter().filter_map(say).collect()
    }

    /// The kinds that are not followed now, `Service`: what is known of them may be old. `None` where one of them is needed
    /// for every decision.
    #[must_use]
    pub fn stale(&self) -> Option<BTreeSet<&'static str>> {
        let stale: Vec<&KindHealth> = self.kinds.values().filter(|kind| kind.current().is_some()).collect();
        let is_needed = stale.iter().any(|kind| kind.need == Need::Required);
        (!is_needed).then(|| stale.iter().map(|kind| kind.kind).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(reason: &str) -> Option<Trouble> {
        let now = Instant::now();
        Some(Trouble { reason: reason.to_owned(), since: now, last: now })
    }

    fn health(kinds: Vec<KindHealth>) -> Health {
        Health { kinds: kinds.into_iter().map(|kind| (kind.kind.to_lowercase(), kind)).collect() }
    }

    /// D2 of issue 8.
    #[test]
    fn a_kind_blocks_as_its_need_says() {
        let of = |need| KindHealth::new("Kind", need, "a feature");
        for (need, unread, forbidden, failing) in [
            (Need::Required, true, true, true),
            (Need::Expected, true, false, true),
            (Need::Optional, false, false, false),
        ] {
            assert_eq!(of(need).is_awaited(), unread, "{need:?}, unread");
            let refused = KindHealth { is_forbidden: true, trouble: trouble("no"), ..of(need) };
            assert_eq!(!health(vec![refused.clone()]).blockers().is_empty(), forbidden, "{need:?}, forbidden");
            assert_eq!(refused.is_awaited(), forbidden, "{need:?}: the first snapshot waits as readiness does");
            let failing_now = KindHealth { trouble: trouble("503"), ..of(need) };
            assert_eq!(!health(vec![failing_now]).blockers().is_empty(), failing, "{need:?}, failing");
            let synced = KindHealth { is_synced: true, trouble: trouble("503"), ..of(need) };
            assert!(health(vec![synced]).blockers().is_empty(), "{need:?}: what was read counts");
        }
    }

    #[test]
    fn a_feature_that_is_off_says_so() {
        let refused = KindHealth {
            is_forbidden: true,
            trouble: trouble("routes is forbidden"),
            ..KindHealth::new("Route", Need::Optional, "a Route for each Service")
        };
        let failing =
            KindHealth { trouble: trouble("503"), ..KindHealth::new("Other", Need::Optional, "something else") };
        assert_eq!(
            health(vec![refused, failing]).remarks(),
            [
                "something else is off: other are not read: 503",
                "a Route for each Service is off: route: routes is forbidden"
            ]
        );
    }

    /// E2 of issue 8.
    #[test]
    fn who_may_write_by_what_is_stale() {
        let of = |kind, need, trouble| KindHealth { is_synced: true, trouble, ..KindHealth::new(kind, need, "f") };
        let fresh = of("Service", Need::Required, None);
        let gateways = of("Gateway", Need::Expected, trouble("cut"));
        let old = trouble("cut").map(|t| Trouble { last: t.last.checked_sub(OVER).unwrap(), ..t });
        assert_eq!(health(vec![fresh.clone(), gateways]).stale(), Some(BTreeSet::from(["Gateway"])));
        assert_eq!(health(vec![of("Service", Need::Required, trouble("cut"))]).stale(), None);
        assert_eq!(health(vec![fresh, of("Gateway", Need::Expected, old)]).stale(), Some(BTreeSet::new()));
    }
}
