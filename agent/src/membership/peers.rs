//! Which nodes live, from their Leases and a clock that is handed in.
//!
//! # Design
//! - The times in a Lease are by its holder's clock and only compared for change: a node lives while its Lease was seen
//!   to change within the Lease's own duration.
//! - Nobody is taken for dead by a node that sees nothing: while its own Lease is not seen to change either, every
//!   judgement stands as it was, and afterwards everybody has a full duration again. So nothing moves while the API server
//!   is away, nor when it returns.
//! - When the API server goes, our own Lease was seen last a little before or after those of the others. A node is dead only
//!   when ours was still renewed for [`MISSED`] after its own was.
//! - An observer has no Lease. It sees something while it sees any Lease change; the last node that lives is not missed.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::Report;
use crate::{api::Lease, mac::Mac, shared::SharedMap};

/// The prefix of the names of the nodes' Leases.
pub const PREFIX: &str = "sluice-node-";
/// How long a Lease is believed at most, whatever it says.
const LONGEST: Duration = Duration::from_secs(120);
/// While our own Lease was not seen to change for so long, we see nothing. Less than a Lease's duration, so that we know
/// it before we would take others for dead.
const BLIND: Duration = Duration::from_millis(2_500);

/// For how long our own Lease must have been renewed after another's: two of its renewals, of which none came, and time for
/// calls that take long. Less than a Lease's duration, so that a node lives hardly longer for it.
const MISSED: Duration = Duration::from_millis(2_500);

/// What is known about one node.
#[derive(Clone, Debug)]
struct Peer {
    renew_time: String,
    changed: Instant,
    duration: Duration,
    report: Report,
    is_alive: bool,
    /// It does not answer on the network, and its Lease has not changed since.
    is_silent: bool,
}

/// The nodes that were seen.
#[derive(Debug)]
pub(super) struct Peers {
    /// This node; `None` for an observer, which is none.
    own: Option<String>,
    peers: BTreeMap<String, Peer>,
    is_blind: bool,
    born: Instant,
}

/// The nodes that live, with what they report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// By name of the node.
    pub alive: BTreeMap<String, Report>,
    /// Whether the Leases are being seen at all.
    pub is_blind: bool,
}

impl Peers {
    /// As seen from the node `own`, or from an observer, which has no Lease.
    pub(super) fn new(own: Option<&str>) -> Self {
        Self { own: own.map(str::to_owned), peers: BTreeMap::new(), is_blind: true, born: Instant::now() }
    }

    /// When that Lease changed last which shows that Leases are seen at all: our own, or for an observer any.
    fn proof(&self) -> Option<Instant> {
        match &self.own {
            Some(own) => self.peers.get(own).map(|own| own.changed),
            None => self.peers.values().map(|peer| peer.changed).max(),
        }
    }

    fn is_own(&self, name: &str) -> bool {
        self.own.as_deref() == Some(name)
    }

    /// Takes note of all Leases there are.
    pub(super) fn observe(&mut self, leases: &SharedMap<String, Arc<Lease>>, now: Instant) {
        let node = |name: &str| name.strip_prefix(PREFIX).map(str::to_owned);
        self.peers.retain(|name, _| leases.contains_key(&format!("{PREFIX}{name}")));
        for (name, lease) in leases.iter().filter_map(|(name, lease)| Some((node(name)?, lease))) {
            let seconds = u64::try_from(lease.spec.lease_duration_seconds).unwrap_or(0);
            let duration = Duration::from_secs(seconds).min(LONGEST);
            let report = Report::of(lease).unwrap_or_default();
            let known = self.peers.get_mut(&name);
            match known {
                Some(peer) if peer.renew_time == lease.spec.renew_time => {
                    (peer.duration, peer.report) = (duration, report);
                }
                _ => {
                    let renew_time = lease.spec.renew_time.clone();
                    let peer = Peer { renew_time, changed: now, duration, report, is_alive: true, is_silent: false };
                    self.peers.insert(name, peer);
                }
            }
        }
    }

    /// Who lives now.
    pub(super) fn members(&mut self, now: Instant) -> Members {
        let was_blind = self.is_blind;
        self.is_blind = self.blind_since(now).is_some();
        let own = self.proof();
        if !self.is_blind {
            for peer in self.peers.values_mut() {
                if was_blind && peer.is_alive {
                    peer.changed = now;
                }
                let is_missed =
                    own.is_some_and(|own| own.saturating_duration_since(peer.changed) >= MISSED.min(peer.duration));
                let has_time = now.duration_since(peer.changed) <= peer.duration || (peer.is_alive && !is_missed);
                peer.is_alive = has_time && !peer.is_silent;
            }
        }
        let alive = self.peers.iter().filter(|(_, peer)| peer.is_alive);
        Members { alive: alive.map(|(name, p)| (name.clone(), p.report.clone())).collect(), is_blind: self.is_blind }
    }

    /// The other nodes whose agents have ended on purpose and are expected back, with their addresses.
    pub(super) fn leaving(&self) -> Vec<(String, IpAddr)> {
        let others = self.peers.iter().filter(|(name, p)| !self.is_own(name) && p.is_alive && p.report.leaving);
        others.filter_map(|(name, p)| Some((name.clone(), p.report.address?))).collect()
    }

    /// The Ethernet addresses of the other nodes, whether they live or not; `None` while nothing was ever seen.
    pub(super) fn macs(&self) -> Option<BTreeSet<Mac>> {
        let others = self.peers.iter().filter(|(name, _)| !self.is_own(name));
        let macs = others.flat_map(|(_, peer)| peer.report.macs.iter().copied()).collect();
        (!self.peers.is_empty()).then_some(macs)
    }

    /// A node does not answer on the network: it lives no longer, until its Lease is renewed.
    pub(super) fn silence(&mut self, node: &str) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.is_silent = true;
        }
    }

    /// Since when nothing may have been seen, while nothing is.
    pub(super) fn blind_since(&self, now: Instant) -> Option<Instant> {
        match self.proof() {
            None => Some(self.born),
            Some(changed) => (now.duration_since(changed) > BLIND).then_some(changed),
        }
    }

    /// When, after `now`, [`Self::members`] may say something else although no Lease changes.
    pub(super) fn next_change(&self, now: Instant) -> Option<Instant> {
        let others = self.peers.iter().filter(|(name, p)| p.is_alive && !self.is_own(name));
        let expiries = others.map(|(_, p)| p.changed + p.duration);
        expiries.chain(self.proof().map(|at| at + BLIND)).filter(|at| *at >= now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ObjectMeta, lease::LeaseSpec};

    fn leases(of: &[(&str, u64)]) -> SharedMap<String, Arc<Lease>> {
        let lease = |(node, renewed): &(&str, u64)| {
            let name = format!("{PREFIX}{node}");
            let spec = LeaseSpec {
                holder_identity: (*node).to_owned(),
                lease_duration_seconds: 3,
                renew_time: renewed.to_string(),
            };
            (name.clone(), Arc::new(Lease { metadata: ObjectMeta { name, ..ObjectMeta::default() }, spec }))
        };
        of.iter().map(lease).collect()
    }

    fn alive(peers: &mut Peers, at: Instant) -> Vec<String> {
        peers.members(at).alive.into_keys().collect()
    }

    #[test]
    fn a_node_that_stops_renewing_is_dead_after_its_duration() {
        let (mut peers, start) = (Peers::new(Some("a")), Instant::now());
        let second = |n: u64| start + Duration::from_millis(1_000 * n);
        for n in 0..=3 {
            peers.observe(&leases(&[("a", n), ("b", 0)]), second(n));
            assert_eq!(alive(&mut peers, second(n)), ["a", "b"]);
        }
        peers.observe(&leases(&[("a", 4), ("b", 0)]), second(4));
        assert_eq!(alive(&mut peers, second(4)), ["a"]);
        peers.observe(&leases(&[("a", 5), ("b", 1)]), second(5));
        assert_eq!(alive(&mut peers, second(5)), ["a", "b"], "it is back");
    }

    #[test]
    fn an_observer_misses_who_stops_renewing_and_judges_nobody_while_it_sees_nothing() {
        let (mut peers, start) = (Peers::new(None), Instant::now());
        let second = |n: u64| start + Duration::from_millis(1_000 * n);
        assert!(peers.members(start).is_blind, "nothing was seen yet");
        for n in 0..=3 {
            peers.observe(&leases(&[("a", n), ("b", 0)]), second(n));
            assert_eq!(alive(&mut peers, second(n)), ["a", "b"]);
        }
        peers.observe(&leases(&[("a", 4), ("b", 0)]), second(4));
        assert_eq!(alive(&mut peers, second(4)), ["a"]);
        let later = peers.members(second(60));
        assert!(later.is_blind && later.alive.contains_key("a"), "the API server is away, or everybody is: {later:?}");
        peers.observe(&leases(&[("a", 5), ("b", 1)]), second(61));
        assert_eq!(alive(&mut peers, second(61)), ["a", "b"]);
    }

    #[test]
    fn a_node_that_leaves_and_is_silent_is_dead_until_its_lease_changes() {
        let (mut peers, now) = (Peers::new(Some("a")), Instant::now());
        let with = |renewed: u64, report: &str| {
            let mut all = leases(&[("a", 0), ("b", renewed)]);
            let mut lease = Lease::clone(&all[&format!("{PREFIX}b")]);
            lease.metadata.annotations.insert(super::super::report::REPORT.to_owned(), report.to_owned());
            all.insert(format!("{PREFIX}b"), Arc::new(lease));
            all
        };
        let at: IpAddr = [192, 0, 2, 2].into();
        peers.observe(&with(0, r#"{"address": "192.0.2.2"}"#), now);
        assert_eq!((alive(&mut peers, now).len(), peers.leaving()), (2, vec![]));
        peers.observe(&with(1, r#"{"leaving": true, "address": "192.0.2.2"}"#), now);
        assert_eq!((alive(&mut peers, now).len(), peers.leaving()), (2, vec![("b".to_owned(), at)]));
        peers.silence("b");
        assert_eq!((alive(&mut peers, now), peers.leaving()), (vec!["a".to_owned()], vec![]));
        peers.observe(&with(1, r#"{"leaving": true, "address": "192.0.2.2"}"#), now);
        assert_eq!(alive(&mut peers, now), ["a"], "nothing was heard of it");
        peers.observe(&with(2, r#"{"address": "192.0.2.2"}"#), now);
        assert_eq!(alive(&mut peers, now), ["a", "b"], "it is back");
    }

    #[test]
    fn f8_the_others_are_known_by_their_ethernet_addresses_dead_or_alive() {
        let (mut peers, now) = (Peers::new(Some("a")), Instant::now());
        assert_eq!(peers.macs(), None, "nobody was ever seen");
        let mut all = leases(&[("a", 0), ("b", 0)]);
        for (name, mac) in [("a", "02:00:00:00:00:0a"), ("b", "02:00:00:00:00:0b")] {
            let mut lease = Lease::clone(&all[&format!("{PREFIX}{name}")]);
            let report = format!(r#"{{"macs": ["{mac}"]}}"#);
            lease.metadata.annotations.insert(super::super::report::REPORT.to_owned(), report);
            all.insert(format!("{PREFIX}{name}"), Arc::new(lease));
        }
        peers.observe(&all, now);
        let other = Some(BTreeSet::from([Mac([2, 0, 0, 0, 0, 0xb])]));
        assert_eq!(peers.macs(), other);
        peers.silence("b");
        peers.members(now + Duration::from_secs(600));
        assert_eq!(peers.macs(), other, "it may come back");
        peers.observe(&leases(&[("a", 1)]), now);
        assert_eq!(peers.macs(), Some(BTreeSet::new()), "its node was removed");
    }

    #[test]
    fn nobody_dies_while_we_see_nothing_nor_right_after() {
        let (mut peers, start) = (Peers::new(Some("a")), Instant::now());
        peers.observe(&leases(&[("a", 0), ("b", 0)]), start);
        assert_eq!(alive(&mut peers, start), ["a", "b"]);
        let later = start + Duration::from_secs(600);
        assert_eq!(alive(&mut peers, later), ["a", "b"], "the API server is away");
        peers.observe(&leases(&[("a", 1), ("b", 0)]), later);
        assert_eq!(alive(&mut peers, later), ["a", "b"], "it is back, and our Lease was renewed first");
        peers.observe(&leases(&[("a", 5), ("b", 0)]), later + Duration::from_secs(2));
        peers.members(later + Duration::from_secs(2));
        peers.observe(&leases(&[("a", 6), ("b", 0)]), later + Duration::from_secs(4));
        assert_eq!(alive(&mut peers, later + Duration::from_secs(4)), ["a"], "now the other one is dead");
    }

    #[test]
    fn nobody_dies_whenever_the_api_server_goes() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for phase in (0..1_000).step_by(50) {
            let mut peers = Peers::new(Some("a"));
            for n in 0..=3 {
                peers.observe(&leases(&[("a", n), ("b", n)]), at(1_000 * n));
                // The last that is seen is our own renewal, up to a second after that of the other.
                peers.observe(&leases(&[("a", n + 1), ("b", n)]), at(1_000 * n + phase));
                peers.members(at(1_000 * n + phase));
            }
            for ms in (4_000..12_000).step_by(100) {
                assert_eq!(alive(&mut peers, at(ms)), ["a", "b"], "{phase} ms apart, after {ms} ms");
            }
        }
    }

    #[test]
    fn foreign_leases_and_nonsense_are_no_nodes() {
        let mut peers = Peers::new(Some("a"));
        let mut all = leases(&[("a", 0)]);
        all.insert("sluice-leader".to_owned(), Arc::new(Lease::default()));
        let mut odd = Lease::default();
        odd.spec.lease_duration_seconds = -7;
        odd.metadata.annotations.insert(super::super::report::REPORT.to_owned(), "{nonsense".to_owned());
        all.insert(format!("{PREFIX}odd"), Arc::new(odd));
        let now = Instant::now();
        peers.observe(&all, now);
        peers.members(now);
        assert_eq!(alive(&mut peers, now + Duration::from_millis(1)), ["a"]);
    }
}
