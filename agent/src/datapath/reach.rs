//! Which endpoints this node cannot reach: they are left out of its tables, with a reason.
//!
//! In: the backends that the model names, the host's routes and interfaces, tick by tick. Out: those that are left out.
//! Invariant: an endpoint of this node is never left out, and one whose way is not known yet is not.
//!
//! # Design
//! - The kernel is asked for the way to each address, since only it knows its rules and tables; the answer is kept until a route,
//!   an interface or a rule has changed, and for [`KEPT`] ticks at most. So many questions are asked in a tick, the rest in the
//!   next: a change of routes costs the stage some milliseconds, however many endpoints there are.
//! - Out after [`BAD_LOOKS`] looks in a row, a tick apart, and in again after one that is good: a daemon that writes its routes
//!   anew, or a CNI that starts after the agent, moves no flow.
//! - Tables then differ from node to node, as they do with the policy Local: what only this node cannot reach, others serve. A
//!   flow that moves to another announcer finds its endpoint if that node reaches it and had it in the same slot; of the
//!   others a part moves, as when an endpoint is gone. Who announces a VIP does not depend on it.
//! - An open flow is not ended: it goes on when the way is back.
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
};

use super::{
    network::{Head, Link, Network},
    routes::Way,
    sides::SideStatus,
};

/// Questions to the kernel in one tick at most.
const LOOKS: usize = 512;
/// Looks without success after which an endpoint is left out.
const BAD_LOOKS: u32 = 3;
/// Ticks after which an answer is asked for again although nothing has changed.
const KEPT: u32 = 30;

/// An address of endpoints, and whether their slices say that they run on another node.
pub type Place = (IpAddr, bool);

/// Why there is no way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// There is no route.
    Route,
    /// A route of this type says no.
    Refused(&'static str),
    /// The route itself puts packets into others.
    Encapsulated,
    /// By an interface whose packets begin in a way that the programs do not know.
    Kind(String),
    /// By an interface where the programs could not be attached, and why.
    Unattached(String, String),
    /// By the interface of a guest of this node, where the slice says that it is on another.
    Guest(String),
}

impl Lacking {
    /// A sentence for people, without the address.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self {
            Self::Route => "no route leads there".to_owned(),
            Self::Refused(kind) => format!("a route refuses it ({kind})"),
            Self::Encapsulated => {
                "its route encapsulates packets (`ip route ... encap`), want one to a tunnel's interface".to_owned()
            }
            Self::Kind(name) => format!("its route leaves by {name}, which is neither an Ethernet nor an IP interface"),
            Self::Unattached(name, why) => format!("its route leaves by {name}, which cannot be watched: {why}"),
            Self::Guest(name) => {
                format!(
                    "its slice says that it runs on another node, and its route leads to a guest of this one, by {name}"
                )
            }
        }
    }
}

/// What is known of an address.
#[derive(Debug, Default)]
struct Known {
    lacking: Option<Lacking>,
    bad: u32,
    age: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Reach {
    known: BTreeMap<Place, Known>,
    due: VecDeque<Place>,
}

/// The host as far as a way depends on it.
pub struct Surroundings<'a> {
    /// Its interfaces.
    pub links: &'a BTreeMap<String, Link>,
    /// The uplinks' names.
    pub uplinks: &'a BTreeSet<String>,
    /// The side interfaces.
    pub sides: &'a [SideStatus],
    /// Whether any of it, or a route, is another than a tick ago.
    pub changed: bool,
}

impl Reach {
    /// Lets a tick pass. `wanted` are the endpoints that are not of this node.
    pub async fn look(&mut self, network: &Network, around: &Surroundings<'_>, wanted: &BTreeSet<Place>) {
        self.schedule(around.changed, wanted);
        for _ in 0..LOOKS {
            let Some(place) = self.due.pop_front() else { break };
            match network.way(place.0).await {
                Ok(way) => self.learn(place, lacking(way, around, place.1)),
                // What was known last stays.
                Err(error) => tracing::debug!(endpoint = %place.0, %error, "the way to an endpoint"),
            }
        }
    }

    /// Those that are left out.
    #[must_use]
    pub fn left_out(&self) -> BTreeMap<Place, Lacking> {
        let out = self.known.iter().filter(|(_, known)| known.bad >= BAD_LOOKS);
        out.filter_map(|(place, known)| Some((*place, known.lacking.clone()?))).collect()
    }

    /// Decides who is asked for in this tick and, where they are many, in the next.
    fn schedule(&mut self, changed: bool, wanted: &BTreeSet<Place>) {
        self.known.retain(|place, _| wanted.contains(place));
        for place in wanted {
            self.known.entry(*place).or_insert_with(|| Known { age: KEPT, ..Known::default() });
        }
        self.due.retain(|place| wanted.contains(place));
        let waiting: BTreeSet<Place> = self.due.iter().copied().collect();
        for (place, known) in &mut self.known {
            known.age = known.age.saturating_add(1);
            // What is bad is looked at again, to be left out or taken in.
            if (changed || known.age > KEPT || known.lacking.is_some()) && !waiting.contains(place) {
                self.due.push_back(*place);
            }
        }
    }

    fn learn(&mut self, place: Place, lacking: Option<Lacking>) {
        let Some(known) = self.known.get_mut(&place) else { return };
        known.age = 0;
        known.bad = if lacking.is_some() { known.bad.saturating_add(1) } else { 0 };
        known.lacking = lacking;
    }
}

/// What keeps packets from going that way; `remote`: the endpoint is said to be on another node.
fn lacking(way: Way, around: &Surroundings<'_>, remote: bool) -> Option<Lacking> {
    let index = match way {
        Way::Nowhere => return Some(Lacking::Route),
        Way::Refused(kind) => return Some(Lacking::Refused(kind)),
        Way::Encapsulated => return Some(Lacking::Encapsulated),
        Way::Here => return None,
        Way::Out(index) => index,
    };
    // One that is not in the list has come since.
    let link = around.links.values().find(|link| link.index == index)?;
    if link.name == "lo" || around.uplinks.contains(&link.name) {
        return None;
    }
    if link.head == Head::Other {
        return Some(Lacking::Kind(link.name.clone()));
    }
    match around.sides.iter().find(|side| side.name == link.name) {
        Some(SideStatus { fault: Some(why), .. }) => Some(Lacking::Unattached(link.name.clone(), why.clone())),
        Some(_) => None,
        None => remote.then(|| Lacking::Guest(link.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u8) -> Place {
        (IpAddr::from([10, 0, 0, n]), true)
    }

    fn out(reach: &Reach) -> Vec<Place> {
        reach.left_out().into_keys().collect()
    }

    /// A tick in which each address that is due is answered for.
    fn tick(
        reach: &mut Reach,
        changed: bool,
        wanted: &BTreeSet<Place>,
        answer: impl Fn(Place) -> Option<Lacking>,
    ) -> usize {
        reach.schedule(changed, wanted);
        let due = reach.due.drain(..).collect::<Vec<_>>();
        due.iter().for_each(|place| reach.learn(*place, answer(*place)));
        due.len()
    }

    #[test]
    fn an_endpoint_is_left_out_after_some_looks_and_taken_in_after_one() {
        let (mut reach, wanted) = (Reach::default(), BTreeSet::from([place(1), place(2)]));
        let one_is_bad = |p: Place| (p == place(1)).then_some(Lacking::Route);
        for looks in 1..=4 {
            tick(&mut reach, false, &wanted, one_is_bad);
            assert_eq!(out(&reach), if looks < 3 { vec![] } else { vec![place(1)] }, "{looks} looks");
        }
        tick(&mut reach, false, &wanted, |_| None);
        assert!(out(&reach).is_empty());
        // It goes and comes with every tick: nothing is moved.
        for n in 0..20 {
            tick(&mut reach, true, &wanted, |_| (n % 2 == 0).then_some(Lacking::Route));
            assert!(out(&reach).is_empty());
        }
        tick(&mut reach, false, &BTreeSet::new(), one_is_bad);
        assert!(reach.known.is_empty() && reach.due.is_empty());
    }

    #[test]
    fn what_is_known_is_asked_for_when_something_changes_and_now_and_then() {
        let (mut reach, wanted) = (Reach::default(), (1..=9).map(place).collect::<BTreeSet<_>>());
        assert_eq!(tick(&mut reach, false, &wanted, |_| None), 9);
        let asked: usize = (0..KEPT).map(|_| tick(&mut reach, false, &wanted, |_| None)).sum();
        assert_eq!(asked, 0, "nothing has changed");
        assert_eq!(tick(&mut reach, false, &wanted, |_| None), 9, "after a while");
        assert_eq!(tick(&mut reach, true, &wanted, |_| None), 9, "a route has changed");
        // Who still waits is not put in twice.
        reach.schedule(true, &wanted);
        reach.schedule(true, &wanted);
        assert_eq!(reach.due.len(), 9);
    }

    #[test]
    fn a_way_by_each_kind_of_interface() {
        let link = |index: u32, name: &str, head| {
            let (addresses, usable) = (BTreeSet::new(), Vec::new());
            let (mac, carrier, name) = (None, None, name.to_owned());
            Link { index, name, veth: false, bridge: false, head, up: true, mac, carrier, addresses, usable }
        };
        let all = [
            link(1, "eth0", Head::Ethernet),
            link(2, "eth1", Head::Ethernet),
            link(3, "veth1", Head::Ethernet),
            link(4, "ib0", Head::Other),
            link(5, "eth2", Head::Ethernet),
        ];
        let links = all.into_iter().map(|link| (link.name.clone(), link)).collect();
        let side = |name: &str, fault: Option<&str>| SideStatus { name: name.into(), fault: fault.map(str::to_owned) };
        let sides = [side("eth1", None), side("eth2", Some("no"))];
        let uplinks = BTreeSet::from(["eth0".to_owned()]);
        let around = Surroundings { links: &links, uplinks: &uplinks, sides: &sides, changed: false };
        for (way, remote, expected) in [
            (Way::Out(1), true, None),
            (Way::Out(2), true, None),
            (Way::Out(3), false, None),
            (Way::Out(3), true, Some(Lacking::Guest("veth1".into()))),
            (Way::Out(4), false, Some(Lacking::Kind("ib0".into()))),
            (Way::Out(5), true, Some(Lacking::Unattached("eth2".into(), "no".into()))),
            (Way::Out(77), true, None),
            (Way::Here, true, None),
            (Way::Nowhere, true, Some(Lacking::Route)),
            (Way::Refused("prohibit"), false, Some(Lacking::Refused("prohibit"))),
            (Way::Encapsulated, true, Some(Lacking::Encapsulated)),
        ] {
            assert_eq!(lacking(way, &around, remote), expected, "{way:?}, remote {remote}");
        }
    }
}
