//! Asks, before a VIP is announced for the first time, whether another host has the address.
//!
//! In: the VIPs that this node is to announce, the uplinks. Out: frames (an ARP probe, or the solicitation of duplicate
//! address detection), which VIPs may be announced, which are another host's. What is heard meanwhile the programs write
//! into the map `HEARD`, for VIPs with the flag `VIP_PROBE`. Invariant: a VIP that was not asked for, or was answered for,
//! is not announced; everything else about it is programmed.
//!
//! # Design
//! - [`PROBES`] questions, [`GAP`] apart, and [`WAIT`] for an answer to the last. RFC 5227 spreads them over four to seven
//!   seconds, for hosts that wake up and bridges that learn; a Service would wait for that each time that one is made.
//! - An address that is announced already is not asked for, or its announcer would answer: one that the maps announce when
//!   the agent starts, one that a node before this one announces, one that the object's status shows.
//! - Another host that asks for the same address meanwhile counts as one that has it: both would find it free (RFC 5227,
//!   section 2.1.1). Other nodes do not count, which have agreed with this one on who asks.
//! - A conflict is looked at again every [`AGAIN`]: when the other host has gone the address is announced.
//!
//! Source: RFC 5227, section 2.1; RFC 4862, section 5.4.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use sluice_ebpf::{Heard, neighbour};
use tokio::time::Instant;

use super::{announce::Port, sweep::monotonic_nanoseconds};
use crate::{arrows::Holder, mac::Mac};

/// Questions for one VIP on each uplink.
pub const PROBES: u32 = 3;
/// Between two of them.
pub const GAP: Duration = Duration::from_millis(300);
/// How long an answer to the last one is waited for.
pub const WAIT: Duration = Duration::from_millis(600);
/// Between two looks at an address that another host has.
pub const AGAIN: Duration = Duration::from_secs(10);
/// VIPs that are asked for at once; the others wait for the next turn.
pub const BATCH: usize = 64;
/// Between two turns.
pub const PAUSE: Duration = Duration::from_millis(20);

/// A frame for an uplink, by its index.
pub type Question = (u32, Vec<u8>);

/// See the module.
#[derive(Debug, Default)]
pub struct Prober {
    /// The VIPs that are to be announced.
    vips: BTreeMap<IpAddr, State>,
    /// The uplinks that have a carrier; `None` before they were looked at.
    ports: Option<BTreeMap<u32, Port>>,
    rest_until: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It may be announced.
    Free,
    /// So many questions were sent since `began`, on the clock of the programs.
    Asking { sent: u32, next: Instant, began: u64, known: Option<Holder> },
    /// Another host has it, until that is looked at again.
    Taken { by: Holder, again: Instant },
}

impl Prober {
    /// Takes over the VIPs that are to be announced; of those that come anew the ones that `is_known` names are not asked
    /// for. Returns those whose state is another.
    pub fn follow(&mut self, vips: &BTreeSet<IpAddr>, is_known: impl Fn(&IpAddr) -> bool) -> BTreeSet<IpAddr> {
        let mut changed: BTreeSet<IpAddr> = self.vips.keys().filter(|vip| !vips.contains(vip)).copied().collect();
        self.vips.retain(|vip, _| vips.contains(vip));
        for vip in vips {
            if self.vips.contains_key(vip) {
                continue;
            }
            changed.insert(*vip);
            self.vips.insert(*vip, if is_known(vip) { State::Free } else { State::asking(None) });
        }
        changed
    }

    /// Takes over the uplinks.
    pub fn follow_ports(&mut self, ports: &BTreeMap<u32, Port>) {
        let up = ports.iter().filter(|(_, port)| port.carrier.is_some());
        // Without any uplink that has neighbours there is nobody to ask.
        self.ports = Some(up.map(|(index, port)| (*index, *port)).collect())
            .filter(|up: &BTreeMap<_, _>| ports.is_empty() || !up.is_empty());
    }

    /// Whether a VIP may be announced.
    #[must_use]
    pub fn is_free(&self, vip: &IpAddr) -> bool {
        self.vips.get(vip) == Some(&State::Free)
    }

    /// Whether the programs are to listen for who has a VIP.
    #[must_use]
    pub fn is_asking(&self, vip: &IpAddr) -> bool {
        matches!(self.vips.get(vip), Some(State::Asking { .. }))
    }

    /// The VIPs that are not announced yet, or not at all.
    pub fn unannounced(&self) -> impl Iterator<Item = IpAddr> {
        self.vips.iter().filter(|(_, state)| **state != State::Free).map(|(vip, _)| *vip)
    }

    /// The VIPs that another host has, as far as is known.
    #[must_use]
    pub fn conflicts(&self) -> BTreeMap<IpAddr, Holder> {
        let holder = |(vip, state): (&IpAddr, &State)| match state {
            State::Taken { by, .. } | State::Asking { known: Some(by), .. } => Some((*vip, by.clone())),
            State::Free | State::Asking { known: None, .. } => None,
        };
        self.vips.iter().filter_map(holder).collect()
    }

    /// Returns when something is to be done; at no time when nothing is.
    pub async fn due(&self) -> Option<()> {
        self.ports.as_ref()?;
        let when = self.vips.values().filter_map(State::due).min()?;
        tokio::time::sleep_until(self.rest_until.map_or(when, |rest| rest.max(when))).await;
        Some(())
    }

    /// Goes on: the frames to send, and the VIPs whose state is another. `heard` says who has claimed a VIP last.
    pub fn step(
        &mut self,
        now: Instant,
        heard: impl Fn(&IpAddr) -> Option<Heard>,
    ) -> (Vec<Question>, BTreeSet<IpAddr>) {
        let (mut questions, mut changed) = (Vec::new(), BTreeSet::new());
        let Some(ports) = &self.ports else { return (questions, changed) };
        let due = self.vips.iter_mut().filter(|(_, state)| state.due().is_some_and(|when| when <= now));
        for (vip, state) in due.take(BATCH) {
            let before = state.clone();
            match state {
                State::Free => {}
                State::Taken { by, .. } => *state = State::asking(Some(by.clone())),
                State::Asking { sent, next, began, known: _ } => {
                    let claim = heard(vip).filter(|claim| *sent > 0 && claim.at >= *began);
                    if let Some(claim) = claim {
                        *state = State::Taken { by: Holder { mac: Mac(claim.mac).to_string() }, again: now + AGAIN };
                    } else if *sent >= PROBES || ports.is_empty() {
                        *state = State::Free;
                    } else {
                        questions.extend(ports.iter().map(|(index, port)| (*index, question(*vip, port.mac))));
                        if *sent == 0 {
                            *began = monotonic_nanoseconds();
                        }
                        *sent += 1;
                        *next = now + if *sent == PROBES { WAIT } else { GAP };
                    }
                }
            }
            if std::mem::discriminant(&before) != std::mem::discriminant(state) {
                changed.insert(*vip);
            }
        }
        self.rest_until = Some(now + PAUSE);
        (questions, changed)
    }
}

impl State {
    fn asking(known: Option<Holder>) -> Self {
        Self::Asking { sent: 0, next: Instant::now(), began: 0, known }
    }

    fn due(&self) -> Option<Instant> {
        match self {
            Self::Free => None,
            Self::Asking { next, .. } => Some(*next),
            Self::Taken { again, .. } => Some(*again),
        }
    }
}

fn question(vip: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    let mac = neighbour::mac(mac);
    match vip {
        IpAddr::V4(vip) => neighbour::arp_probe(mac, vip.octets()).to_vec(),
        IpAddr::V6(vip) => neighbour::duplicate_solicitation(mac, vip.octets()).to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn prober(known: bool) -> Prober {
        let mut prober = Prober::default();
        assert_eq!(prober.follow(&[VIP].into(), |_| known), [VIP].into());
        prober.follow_ports(&[(7, Port { mac: [2, 0, 0, 0, 1, 1], carrier: Some(1) })].into());
        prober
    }

    /// Goes on until nothing is due or `limit` has passed; how many frames went, and after how long the VIP was free.
    fn run(prober: &mut Prober, limit: Duration, heard: impl Fn() -> Option<Heard>) -> (usize, Option<Duration>) {
        let (began, mut frames) = (Instant::now(), 0);
        let mut now = began;
        while let Some(when) = prober.vips.values().filter_map(State::due).min() {
            now = now.max(when);
            if now - began > limit {
                return (frames, None);
            }
            frames += prober.step(now, |_| heard()).0.len();
        }
        (frames, Some(now - began))
    }

    #[test]
    fn an_address_that_nobody_answers_for_is_free_after_three_questions() {
        let mut asked = prober(false);
        assert!(asked.is_asking(&VIP) && !asked.is_free(&VIP));
        let (frames, took) = run(&mut asked, Duration::from_secs(60), || None);
        assert_eq!((frames, took), (3, Some(GAP * 2 + WAIT)));
        assert!(asked.is_free(&VIP) && asked.conflicts().is_empty());
    }

    #[test]
    fn one_that_was_announced_before_is_not_asked_for() {
        let mut known = prober(true);
        assert!(known.is_free(&VIP));
        assert_eq!(run(&mut known, Duration::from_secs(60), || None).0, 0);
    }

    #[test]
    fn one_that_another_host_has_is_taken_until_that_host_is_gone() {
        let mut prober = prober(false);
        let claim = || Some(Heard { at: u64::MAX, mac: [2, 0, 0, 0, 0, 9], pad: [0; 2] });
        assert_eq!(run(&mut prober, Duration::from_secs(3), claim), (1, None));
        let holder = Holder { mac: "02:00:00:00:00:09".to_owned() };
        assert_eq!(prober.conflicts(), [(VIP, holder)].into());
        assert!(prober.unannounced().eq([VIP]));
        // What was heard before it was asked again is of no interest.
        let old = || Some(Heard { at: 0, mac: [2, 0, 0, 0, 0, 9], pad: [0; 2] });
        assert!(run(&mut prober, Duration::from_secs(60), old).1.is_some());
        assert!(prober.is_free(&VIP) && prober.conflicts().is_empty());
    }

    #[test]
    fn without_a_carrier_nothing_is_asked_and_nothing_is_free() {
        let mut prober = prober(false);
        prober.follow_ports(&[(7, Port { mac: [2, 0, 0, 0, 1, 1], carrier: None })].into());
        let (questions, changed) = prober.step(Instant::now() + WAIT, |_| None);
        assert!(questions.is_empty() && changed.is_empty() && !prober.is_free(&VIP));
        // No uplink has neighbours: nobody can be asked.
        prober.follow_ports(&BTreeMap::new());
        prober.step(Instant::now() + WAIT, |_| None);
        assert!(prober.is_free(&VIP));
    }
}
