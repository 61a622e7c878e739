//! How long a watch waits before it asks the API server again.
//!
//! In: how often it has failed, and how many agents ask the same server. Out: pauses, none of which two agents share.
//!
//! # Design
//! What makes one agent ask again makes all of them ask at the same moment: a server that restarts, a balancer before it, a
//! compacted store. Jitter of a pause that suits three nodes does not help a server that loses 5,000 of them, so that each pause
//! has a part that grows with the number of nodes. The first attempt after a failure comes within 200 ms on three nodes, and
//! over 25 s on 5,000: the server sees about 200 agents a second at any size.
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use kube::{Api, Client, api::ListParams};
use tokio::time::timeout;

use super::object::Received;
use crate::api::Node;

/// The first pause after an error; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause after an error.
const LONGEST: Duration = Duration::from_secs(5);
/// The first pause before a kind is looked for again that the cluster does not have, or that we may not read; each further one is
/// longer by half.
const FIRST_ABSENT: Duration = Duration::from_secs(3);
/// The longest such pause.
const LONGEST_ABSENT: Duration = Duration::from_secs(30);
/// What one node adds to the time over which all of them come back.
const PER_NODE: Duration = Duration::from_millis(5);
/// The longest time over which they do.
const LONGEST_SPREAD: Duration = Duration::from_secs(30);
/// What one node adds to the time over which agents that start together begin to read. Shorter than [`PER_NODE`]: layer 7 waits.
const START_PER_NODE: Duration = Duration::from_millis(2);
/// The longest such time.
const LONGEST_START: Duration = Duration::from_secs(10);
/// How long the server may take to say how many nodes there are; then an agent begins as if it were alone.
const COUNTED: Duration = Duration::from_secs(2);
/// The longest pause that a server may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// How many agents ask the same API server: the nodes that are known, or their Leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Agents(Arc<AtomicUsize>);

impl Agents {
    /// Takes note of their number.
    pub(super) fn set(&self, number: usize) {
        self.0.store(number, Ordering::Relaxed);
    }

    /// Asks the server how many nodes there are, before any is read. Cost: one object's name.
    pub(super) async fn count(&self, client: Client) {
        let nodes: Api<Received<Node>> = Api::all_with(client, &());
        let Ok(Ok(one)) = timeout(COUNTED, nodes.list_metadata(&ListParams::default().limit(1))).await else { return };
        let more = usize::try_from(one.metadata.remaining_item_count.unwrap_or(0)).unwrap_or(0);
        self.set(one.items.len() + more);
    }

    /// The time over which they come back after something that met them all.
    fn spread(&self) -> Duration {
        over(self.0.load(Ordering::Relaxed), PER_NODE, LONGEST_SPREAD)
    }

    /// When this one begins to read, of all that start together.
    pub(super) fn start(&self) -> Duration {
        over(self.0.load(Ordering::Relaxed), START_PER_NODE, LONGEST_START).mul_f64(fastrand::f64())
    }
}

fn over(nodes: usize, each: Duration, longest: Duration) -> Duration {
    each.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX)).min(longest)
}

/// The pauses of one watch.
#[derive(Debug)]
pub(super) struct Pace {
    agents: Agents,
    /// The first pause after a failure, and after an absence.
    first: (Duration, Duration),
    after_failure: Duration,
    after_absence: Duration,
}

impl Pace {
    /// Nothing has failed yet.
    pub(super) fn new(agents: Agents) -> Self {
        Self { agents, first: (FIRST, FIRST_ABSENT), after_failure: FIRST, after_absence: FIRST_ABSENT }
    }

    /// Without pauses that a test would wait for.
    #[cfg(test)]
    pub(super) fn hurried(agents: Agents) -> Self {
        let first = (Duration::from_millis(1), Duration::from_millis(1));
        Self { agents, first, after_failure: first.0, after_absence: first.1 }
    }

    /// It went well: the next pause is the shortest again.
    pub(super) fn reset(&mut self) {
        (self.after_failure, self.after_absence) = self.first;
    }

    /// The pause after a failure; at least `asked`, where the server has asked for a pause.
    pub(super) fn after_failure(&mut self, asked: Duration) -> Duration {
        let base = self.after_failure;
        self.after_failure = (base * 2).min(LONGEST);
        self.jittered(base) + asked.min(LONGEST_ASKED)
    }

    /// The pause after the server said that there is no such kind, or that it may not be read.
    pub(super) fn after_absence(&mut self) -> Duration {
        let base = self.after_absence;
        self.after_absence = (base + base / 2).min(LONGEST_ABSENT);
        self.jittered(base)
    }

    /// From half to one and a half times as long, and somewhere in the time over which all agents come back.
    fn jittered(&self, pause: Duration) -> Duration {
        pause.mul_f64(0.5 + fastrand::f64()) + self.agents.spread().mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::fake::{Answer, Server, status},
        *,
    };

    fn pauses(nodes: usize, mut one: impl FnMut(&Agents) -> Duration) -> Vec<Duration> {
        let agents = Agents::default();
        agents.set(nodes);
        let mut pauses: Vec<Duration> = (0..1000).map(|_| one(&agents)).collect();
        pauses.sort_unstable();
        pauses
    }

    #[test]
    fn the_first_pause_is_short_on_three_nodes_and_spread_over_tens_of_seconds_on_5000() {
        let first = |agents: &Agents| Pace::new(agents.clone()).after_failure(Duration::ZERO);
        let three = pauses(3, first);
        assert!(
            three[0] >= FIRST / 2 && three[999] <= Duration::from_millis(165),
            "{:?} to {:?}",
            three[0],
            three[999]
        );
        let many = pauses(5000, first);
        for second in 0..25 {
            let in_it = many.iter().filter(|pause| pause.as_secs() == second).count();
            assert!((10..80).contains(&in_it), "{in_it} of 1000 agents come back in second {second}, want about 40");
        }
        let more = pauses(1_000_000_000_000, first);
        assert!(more[999] <= LONGEST_SPREAD + 2 * FIRST, "{:?}", more[999]);
    }

    #[test]
    fn a_start_is_spread_as_the_number_of_nodes_says() {
        assert!(pauses(3, Agents::start)[999] <= Duration::from_millis(6));
        let many = pauses(5000, Agents::start);
        assert!(many[100] < LONGEST_START / 5 && many[900] > LONGEST_START / 5 * 4, "{:?} {:?}", many[100], many[900]);
        assert!(many[999] <= LONGEST_START);
    }

    #[tokio::test]
    async fn the_server_is_asked_how_many_nodes_there_are_and_an_answer_is_not_needed() {
        let item = json!({"metadata": {"name": "a"}});
        let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": [item],
            "metadata": {"resourceVersion": "7", "continue": "more", "remainingItemCount": 4999}});
        let server =
            Server::new([Answer::Document(200, list), Answer::Document(403, status(403, "Forbidden", "no", ""))]);
        let agents = Agents::default();
        agents.count(server.client()).await;
        assert_eq!(agents.0.load(Ordering::Relaxed), 5000);
        assert_eq!(server.asked_for("limit"), ["1"]);
        agents.count(server.client()).await;
        assert_eq!(agents.0.load(Ordering::Relaxed), 5000, "what was known stays");
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_when_it_goes_well() {
        let mut pace = Pace::new(Agents::default());
        let within = |pause: Duration, base: Duration| pause >= base / 2 && pause <= base * 3 / 2;
        for base in [100, 200, 400, 800, 1600, 3200, 5000, 5000].map(Duration::from_millis) {
            assert!(within(pace.after_failure(Duration::ZERO), base), "{base:?}");
        }
        for base in [3000, 4500, 6750].map(Duration::from_millis) {
            assert!(within(pace.after_absence(), base), "{base:?}");
        }
        for _ in 0..20 {
            pace.after_absence();
        }
        assert!(within(pace.after_absence(), LONGEST_ABSENT));
        pace.reset();
        assert!(within(pace.after_failure(Duration::ZERO), FIRST) && within(pace.after_absence(), FIRST_ABSENT));
        let asked = pace.after_failure(Duration::from_secs(3));
        assert!(asked >= Duration::from_secs(3) && asked < Duration::from_secs(4), "{asked:?}");
        assert!(pace.after_failure(Duration::from_secs(1_000_000)) < LONGEST_ASKED + LONGEST, "a bound");
    }
}
