//! Which endpoints this node cannot reach: they are left out of its tables, with a reason.
//!
//! In: the backends that the model names, the host's routes and interfaces, tick by tick. Out: those that are left out.
//! Invariant: an endpoint of this node is never left out, and one whose way is not known yet is not.
//!
//! # Design
//! - The kernel is asked for the way to each address, since only it knows its rules and tables; the answer is kept until a route,
//!   an interface or a rule has changed. So many questions are asked in a tick, the rest in the next: a change of routes costs the
//!   stage some milliseconds, however many endpoints there are. A tick without a change costs what has no way, and [`PATROL`]
//!   questions, in turn, should a change have been missed.
//! - Out after [`BAD_LOOKS`] looks in a row, a tick apart, and in again after one that is good: a daemon that writes its routes
//!   anew, or a CNI that starts after the agent, moves no flow.
//! - Tables then differ from node to node, as they do with the policy Local: what only this node cannot reach, others serve. A
//!   flow that moves to another announcer finds its endpoint if that node reaches it and had it in the same slot; of the
//!   others a part moves, as when an endpoint is gone. Who announces a VIP does not depend on it.
//! - An open flow is not ended: it goes on when the way is back.
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    ops::Bound,
};

use crate::{
    arrows::SideStatus,
    host::network::{Head, Link, Network, routes::Way},
};

/// Questions to the kernel in one tick at most.
const LOOKS: usize = 512;
/// Looks without success after which an endpoint is left out.
const BAD_LOOKS: u32 = 3;
/// Addresses that are asked for in a tick although nothing has changed.
const PATROL: usize = 16;

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
    /// It is in [`Reach::due`].
    waits: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Reach {
    known: BTreeMap<Place, Known>,
    /// Those without a way.
    bad: BTreeSet<Place>,
    /// Those that are asked for next. One that waits no more has gone meanwhile, and may have come again.
    due: VecDeque<Place>,
    /// Where the last patrol ended.
    patrolled: Option<Place>,
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
    /// Lets a tick pass. `moved` are the endpoints not of this node that have come or gone since the last, and whether they are there.
    pub async fn look(&mut self, network: &Network, around: &Surroundings<'_>, moved: &[(Place, bool)]) {
        self.schedule(around.changed, moved);
        for _ in 0..LOOKS {
            let Some(place) = self.next() else { break };
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
        let known = self.bad.iter().filter_map(|place| Some((place, self.known.get(place)?)));
        let out = known.filter(|(_, known)| known.bad >= BAD_LOOKS);
        out.filter_map(|(place, known)| Some((*place, known.lacking.clone()?))).collect()
    }

    /// Decides who is asked for in this tick and, where they are many, in the next.
    fn schedule(&mut self, changed: bool, moved: &[(Place, bool)]) {
        let mut ask = Vec::new();
        for (place, is_there) in moved {
            if *is_there {
                self.known.entry(*place).or_default();
                ask.push(*place);
            } else {
                self.known.remove(place);
                self.bad.remove(place);
            }
        }
        if changed {
            ask.extend(self.known.keys());
        }
        // What is bad is looked at again, to be left out or taken in.
        ask.extend(&self.bad);
        let after = self.patrolled.map_or(Bound::Unbounded, Bound::Excluded);
        let patrol: Vec<Place> =
            self.known.range((after, Bound::Unbounded)).map(|(place, _)| *place).take(PATROL).collect();
        // From the start again after the last.
        self.patrolled = patrol.last().copied().filter(|_| patrol.len() == PATROL);
        ask.extend(patrol);
        for place in ask {
            if let Some(known) = self.known.get_mut(&place)
                && !std::mem::replace(&mut known.waits, true)
            {
                self.due.push_back(place);
            }
        }
    }

    fn next(&mut self) -> Option<Place> {
        loop {
            let place = self.due.pop_front()?;
            if let Some(known) = self.known.get_mut(&place)
                && std::mem::take(&mut known.waits)
            {
                return Some(place);
            }
        }
    }

    fn learn(&mut self, place: Place, lacking: Option<Lacking>) {
        let Some(known) = self.known.get_mut(&place) else { return };
        if lacking.is_some() {
            known.bad = known.bad.saturating_add(1);
            self.bad.insert(place);
        } else {
            known.bad = 0;
            self.bad.remove(&place);
        }
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

    /// A tick in which each address that is due is answered for; how many were.
    fn tick(
        reach: &mut Reach,
        changed: bool,
        moved: &[(Place, bool)],
        answer: impl Fn(Place) -> Option<Lacking>,
    ) -> usize {
        reach.schedule(changed, moved);
        let mut asked = 0;
        while let Some(place) = reach.next() {
            reach.learn(place, answer(place));
            asked += 1;
        }
        asked
    }

    #[test]
    fn an_endpoint_is_left_out_after_some_looks_and_taken_in_after_one() {
        let mut reach = Reach::default();
        let one_is_bad = |p: Place| (p == place(1)).then_some(Lacking::Route);
        for looks in 1..=4 {
            let moved: &[_] = if looks == 1 { &[(place(1), true), (place(2), true)] } else { &[] };
            tick(&mut reach, false, moved, one_is_bad);
            assert_eq!(out(&reach), if looks < 3 { vec![] } else { vec![place(1)] }, "{looks} looks");
        }
        tick(&mut reach, false, &[], |_| None);
        assert!(out(&reach).is_empty());
        // It goes and comes with every tick: nothing is moved.
        for n in 0..20 {
            tick(&mut reach, true, &[], |_| (n % 2 == 0).then_some(Lacking::Route));
            assert!(out(&reach).is_empty());
        }
        for _ in 0..3 {
            tick(&mut reach, false, &[], one_is_bad);
        }
        assert_eq!(out(&reach), [place(1)]);
        tick(&mut reach, false, &[(place(1), false), (place(2), false)], one_is_bad);
        assert!(reach.known.is_empty() && reach.bad.is_empty() && reach.due.is_empty() && out(&reach).is_empty());
        // It is another one that comes again.
        tick(&mut reach, false, &[(place(1), true)], one_is_bad);
        assert!(out(&reach).is_empty());
    }

    #[test]
    fn a_tick_without_a_change_costs_the_same_however_many_there_are() {
        let mut reach = Reach::default();
        let all: Vec<(Place, bool)> = (0..100).map(|n| (place(n), true)).collect();
        assert_eq!(tick(&mut reach, false, &all, |_| None), 100);
        // In turn, so that after some ticks each was asked for again.
        let asked = std::cell::RefCell::new(BTreeSet::new());
        for _ in 0..7 {
            let note = |p: Place| {
                asked.borrow_mut().insert(p);
                None
            };
            assert!(tick(&mut reach, false, &[], note) <= PATROL);
        }
        assert_eq!(asked.borrow().len(), 100);
        assert_eq!(tick(&mut reach, true, &[], |_| None), 100, "a route has changed");
        // Who still waits is not put in twice, and who has gone is not asked for.
        reach.schedule(true, &[]);
        reach.schedule(true, &[(place(7), false)]);
        let mut left = 0;
        while reach.next().is_some() {
            left += 1;
        }
        assert_eq!(left, 99);
    }

    #[test]
    fn a_way_by_each_kind_of_interface() {
        let link = |index: u32, name: &str, head| {
            let (addresses, usable) = (BTreeSet::new(), Vec::new());
            let (mac, carrier, name) = (None, None, name.to_owned());
            Link {
                index,
                name,
                veth: false,
                guest: false,
                master: None,
                bridge: false,
                head,
                up: true,
                mac,
                carrier,
                addresses,
                usable,
            }
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
