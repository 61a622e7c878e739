//! Tells the neighbours which VIPs are here: joins the groups that IPv6 neighbours ask, and sends gratuitous ARP and
//! unsolicited advertisements when a VIP comes to this node or an interface gets its carrier (back).
//!
//! In: the VIPs' rows and the uplinks. Out: frames, by the program `sluice_announce`, and memberships. Questions are
//! answered by the programs, without this task. Invariant: nothing is told about a VIP before it is programmed.
//!
//! # Design
//! - A frame goes out by running a TC program on it that sends a copy: that takes the capabilities that the datapath has
//!   anyway, a packet socket would take NET_RAW too.
//! - Each VIP is told [`ROUNDS`] times on each uplink, since a frame may be lost. All VIPs together are paced: [`BATCH`]
//!   of them, then [`PAUSE`]. A VIP that comes anew while it waits begins again and waits but once.
//! - Membership in the solicited-node groups is asked of the kernel by sockets ([`groups`](super::groups)).
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::Duration,
};

use sluice_ebpf::{Addr, VIP_ANNOUNCE, VIP_HOST, neighbour};
use tokio::time::Instant;

use super::{
    groups::Groups,
    load::Programs,
    rows::{Rows, addr, ip},
    sweep::monotonic_nanoseconds,
};
use crate::arrows::Validity;

/// How often a VIP is announced on each uplink.
pub const ROUNDS: u32 = 3;
/// Between two announcements of one VIP.
pub const GAP: Duration = Duration::from_secs(1);
/// VIPs that are announced at once.
pub const BATCH: usize = 32;
/// After that many.
pub const PAUSE: Duration = Duration::from_millis(10);

impl Validity {
    /// The end on the clock that the programs read, where it was `before`. Units: nanoseconds.
    #[must_use]
    pub fn nanoseconds(self, before: u64) -> u64 {
        let end = match self {
            Self::Always => return u64::MAX,
            Self::Before => return before,
            Self::Until(end) | Self::Blind { until: end, .. } => end,
        };
        let left = end.saturating_duration_since(std::time::Instant::now());
        let left = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        if left == 0 { 0 } else { monotonic_nanoseconds().saturating_add(left).min(u64::MAX - 1) }
    }

    /// Since when it counts what another host says, on the clock that the programs read; 0: not at all. Units: nanoseconds.
    #[must_use]
    pub fn blind_since(self) -> u64 {
        let Self::Blind { since, .. } = self else { return 0 };
        let ago = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        monotonic_nanoseconds().saturating_sub(ago).max(1)
    }

    /// Whether nothing is told of one's own accord.
    fn is_silent(self) -> bool {
        match self {
            Self::Always => false,
            Self::Until(end) => end <= std::time::Instant::now(),
            // It might take a VIP back from a node that knows more.
            Self::Blind { .. } | Self::Before => true,
        }
    }
}

/// An interface on which VIPs are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// How often its carrier has come up; `None` while it has none.
    pub carrier: Option<u32>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Announcer {
    vips: BTreeSet<IpAddr>,
    ports: BTreeMap<u32, Port>,
    schedule: Schedule,
    groups: Groups,
    validity: Validity,
    /// The memberships are not those that are wanted.
    unjoined: bool,
    fault: Option<String>,
    sent: u64,
}

impl Announcer {
    /// Knows no VIP yet.
    #[must_use]
    pub fn new(validity: Validity) -> Self {
        Self { validity, ..Self::default() }
    }

    /// Takes over the VIPs among `touched`, as they are programmed now.
    pub fn follow<'a>(&mut self, rows: &Rows, touched: impl IntoIterator<Item = &'a Addr>) {
        for addr in touched {
            let flags = rows.vips.get(addr).map_or(0, |vip| vip.flags);
            let vip = ip(*addr);
            // Of the host's own address the host tells its neighbours.
            if flags & (VIP_ANNOUNCE | VIP_HOST) == VIP_ANNOUNCE {
                if self.vips.insert(vip) {
                    self.unjoined |= vip.is_ipv6();
                    let now = Instant::now();
                    self.up().for_each(|port| self.schedule.start(now, (port, vip)));
                }
            } else if self.vips.remove(&vip) {
                self.unjoined |= vip.is_ipv6();
                self.ports.keys().for_each(|port| self.schedule.stop((*port, vip)));
            }
        }
        self.join();
    }

    /// Takes over all VIPs, as they are programmed now.
    pub fn follow_all(&mut self, rows: &Rows) {
        let gone: Vec<Addr> = self.vips.iter().map(|vip| addr(*vip)).filter(|a| !rows.vips.contains_key(a)).collect();
        self.follow(rows, rows.vips.keys().chain(&gone));
    }

    /// Takes over the uplinks, by index. One that is new, has its carrier back or another address tells everything.
    pub fn follow_ports(&mut self, ports: BTreeMap<u32, Port>) {
        let known: BTreeSet<u32> = self.ports.keys().copied().collect();
        self.unjoined |= !known.iter().eq(ports.keys());
        let now = Instant::now();
        for (index, old) in &self.ports {
            if ports.get(index).is_none_or(|new| new.carrier.is_none() || new != old) {
                self.vips.iter().for_each(|vip| self.schedule.stop((*index, *vip)));
            }
        }
        for (index, new) in ports.iter().filter(|(_, port)| port.carrier.is_some()) {
            if self.ports.get(index) != Some(new) {
                self.vips.iter().for_each(|vip| self.schedule.start(now, (*index, *vip)));
            }
        }
        self.ports = ports;
        self.join();
    }

    /// Takes over for how long VIPs may be announced. What was silent begins anew: another node may have told otherwise.
    pub fn follow_validity(&mut self, validity: Validity) {
        let was_silent = std::mem::replace(&mut self.validity, validity).is_silent();
        if was_silent && !validity.is_silent() {
            let now = Instant::now();
            for port in self.up() {
                self.vips.iter().for_each(|vip| self.schedule.start(now, (port, *vip)));
            }
        }
    }

    /// Announcements sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns when the next batch may go; at no time when there is none.
    pub async fn due(&self) -> Option<()> {
        tokio::time::sleep_until(self.schedule.next()?).await;
        Some(())
    }

    /// Sends a batch.
    pub fn send(&mut self, programs: &Programs) {
        let mut fault = None;
        let batch = self.schedule.take(Instant::now());
        if self.validity.is_silent() {
            return;
        }
        for (index, vip) in batch {
            let Some(port) = self.ports.get(&index) else { continue };
            match tell(programs, index, port.mac, vip) {
                Ok(()) => self.sent += 1,
                Err(error) => fault = Some(format!("announce {vip} on interface {index}: {error}")),
            }
        }
        self.report(fault);
    }

    fn up(&self) -> impl Iterator<Item = u32> + use<> {
        let up = self.ports.iter().filter(|(_, port)| port.carrier.is_some());
        up.map(|(index, _)| *index).collect::<Vec<_>>().into_iter()
    }

    /// Brings the memberships in step.
    fn join(&mut self) {
        if !self.unjoined {
            return;
        }
        let groups = self.vips.iter().filter_map(|vip| match vip {
            IpAddr::V6(vip) => Some(neighbour::solicited_group(&Addr::v6(vip.octets())).octets.into()),
            IpAddr::V4(_) => None,
        });
        let groups: BTreeSet<_> = groups.collect();
        let wanted = self.ports.keys().flat_map(|port| groups.iter().map(|group| (*port, *group)));
        let joined = self.groups.sync(&wanted.collect());
        self.unjoined = joined.is_err();
        if let Err(error) = joined {
            self.report(Some(error.to_string()));
        }
    }

    /// Logs what went wrong, once for each thing that does.
    fn report(&mut self, fault: Option<String>) {
        if let Some(reason) = &fault
            && self.fault != fault
        {
            tracing::warn!(reason, "announcement");
        }
        self.fault = fault;
    }
}

/// Tells everybody on an interface that a VIP is at `mac`.
fn tell(programs: &Programs, port: u32, mac: [u8; 6], vip: IpAddr) -> io::Result<()> {
    let mac = neighbour::mac(mac);
    match vip {
        IpAddr::V4(vip) => {
            programs.send(port, &neighbour::gratuitous_arp(mac, vip.octets(), false))?;
            programs.send(port, &neighbour::gratuitous_arp(mac, vip.octets(), true))
        }
        IpAddr::V6(vip) => programs.send(port, &neighbour::unsolicited_advertisement(mac, vip.octets())),
    }
}

/// A VIP on an interface.
type Announcement = (u32, IpAddr);

/// What is to be sent and when. Holds each announcement once.
#[derive(Debug, Default)]
struct Schedule {
    due: BTreeSet<(Instant, Announcement)>,
    /// When each is due, and how often it will go.
    rounds: BTreeMap<Announcement, (Instant, u32)>,
    /// Nothing goes before.
    rest_until: Option<Instant>,
}

impl Schedule {
    /// Begins the rounds of an announcement, anew if it is under way.
    fn start(&mut self, now: Instant, what: Announcement) {
        self.stop(what);
        self.due.insert((now, what));
        self.rounds.insert(what, (now, ROUNDS));
    }

    fn stop(&mut self, what: Announcement) {
        if let Some((when, _)) = self.rounds.remove(&what) {
            self.due.remove(&(when, what));
        }
    }

    /// When the next batch may go.
    fn next(&self) -> Option<Instant> {
        let (due, _) = self.due.first()?;
        Some(self.rest_until.map_or(*due, |rest| rest.max(*due)))
    }

    /// The next batch.
    fn take(&mut self, now: Instant) -> Vec<Announcement> {
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some((due, what)) = self.due.first().copied()
            && due <= now
        {
            self.due.pop_first();
            batch.push(what);
            match self.rounds.remove(&what) {
                Some((_, left)) if left > 1 => {
                    self.due.insert((now + GAP, what));
                    self.rounds.insert(what, (now + GAP, left - 1));
                }
                _ => {}
            }
        }
        self.rest_until = Some(now + PAUSE);
        batch
    }
}

#[cfg(test)]
mod tests {
    use sluice_ebpf::Vip;

    use super::*;

    fn vip(n: u8) -> IpAddr {
        [192, 0, 2, n].into()
    }

    #[test]
    fn each_is_sent_three_times_a_second_apart() {
        let (mut schedule, began) = (Schedule::default(), Instant::now());
        schedule.start(began, (1, vip(1)));
        let mut sent = Vec::new();
        while let Some(at) = schedule.next() {
            sent.extend(schedule.take(at).into_iter().map(|what| (at - began, what)));
        }
        assert_eq!(sent, [0, 1, 2].map(|s| (Duration::from_secs(s), (1, vip(1)))));
    }

    #[test]
    fn many_are_paced_and_none_is_forgotten() {
        let (mut schedule, began) = (Schedule::default(), Instant::now());
        let all: BTreeSet<Announcement> = (0..=255).flat_map(|n| [(1, vip(n)), (2, vip(n))]).collect();
        all.iter().for_each(|what| schedule.start(began, *what));
        let (mut counts, mut last): (BTreeMap<_, u32>, _) = (BTreeMap::new(), None);
        while let Some(at) = schedule.next() {
            let batch = schedule.take(at);
            assert!(!batch.is_empty() && batch.len() <= BATCH, "{}", batch.len());
            assert!(last.is_none_or(|last| at >= last + PAUSE), "two batches without a pause");
            last = Some(at);
            batch.into_iter().for_each(|what| *counts.entry(what).or_default() += 1);
        }
        assert!(counts.values().all(|n| *n == ROUNDS) && counts.keys().eq(&all));
    }

    #[test]
    fn what_comes_again_begins_again_and_what_goes_is_not_sent() {
        let (mut schedule, began) = (Schedule::default(), Instant::now());
        for _ in 0..10 {
            schedule.start(began, (1, vip(1)));
            schedule.start(began, (1, vip(2)));
        }
        schedule.stop((1, vip(2)));
        assert_eq!(schedule.take(began), [(1, vip(1))]);
        schedule.start(began, (1, vip(1)));
        assert_eq!((schedule.due.len(), schedule.rounds[&(1, vip(1))].1), (1, ROUNDS));
        schedule.stop((1, vip(1)));
        assert_eq!(schedule.next(), None);
    }

    fn rows(flags: u32) -> (Rows, Addr) {
        let addr = Addr::v4([192, 0, 2, 1]);
        (Rows { vips: [(addr, Vip { flags, frontends: 1, ..Vip::default() })].into(), ..Rows::default() }, addr)
    }

    /// What waits to be sent after a VIP with these flags met these interfaces.
    fn waiting(flags: u32, ports: &[(u32, Option<u32>)]) -> (Announcer, Vec<Announcement>) {
        let mut announcer = Announcer::default();
        let (rows, addr) = rows(flags);
        announcer.follow(&rows, [&addr]);
        announcer.follow_ports(ports.iter().map(|(index, carrier)| (*index, port(*carrier))).collect());
        let batch = announcer.schedule.rounds.keys().copied().collect();
        (announcer, batch)
    }

    fn port(carrier: Option<u32>) -> Port {
        Port { mac: [2, 0, 0, 0, 1, 1], carrier }
    }

    #[test]
    fn only_what_is_announced_is_told_and_only_where_there_is_a_carrier() {
        let ports = [(1, Some(1)), (2, None), (3, Some(1))];
        assert_eq!(waiting(VIP_ANNOUNCE, &ports).1, [(1, vip(1)), (3, vip(1))]);
        assert_eq!(waiting(0, &ports).1, []);
        assert_eq!(waiting(VIP_ANNOUNCE | VIP_HOST, &ports).1, []);
    }

    #[test]
    fn what_was_silent_and_is_prolonged_is_told_again() {
        let (mut announcer, _) = waiting(VIP_ANNOUNCE, &[(1, Some(1)), (2, None)]);
        announcer.schedule = Schedule::default();
        let now = std::time::Instant::now();
        let hour = Duration::from_secs(3_600);
        announcer.follow_validity(Validity::Until(now + hour));
        announcer.follow_validity(Validity::Until(now + hour * 2));
        assert_eq!(announcer.schedule.next(), None, "it was never over");
        announcer.follow_validity(Validity::Until(now));
        assert_eq!(announcer.schedule.next(), None, "it is over");
        announcer.follow_validity(Validity::Until(now + hour));
        assert!(announcer.schedule.rounds.keys().eq(&[(1, vip(1))]));
    }

    #[test]
    fn the_end_is_on_the_clock_of_the_programs() {
        let now = std::time::Instant::now();
        assert_eq!((Validity::Always.nanoseconds(7), Validity::Until(now).nanoseconds(7)), (u64::MAX, 0));
        assert_eq!(Validity::Before.nanoseconds(7), 7);
        let (before, end) = (monotonic_nanoseconds(), Validity::Until(now + Duration::from_secs(60)).nanoseconds(7));
        assert!((before + 59_000_000_000..=before + 60_000_000_000).contains(&end), "{before} {end}");
    }

    #[test]
    fn a_carrier_that_comes_back_tells_everything_again() {
        let (mut announcer, _) = waiting(VIP_ANNOUNCE, &[(1, Some(1))]);
        announcer.schedule = Schedule::default();
        announcer.follow_ports([(1, port(Some(1)))].into());
        assert_eq!(announcer.schedule.next(), None, "nothing happened");
        // It may have been away between two looks.
        for carrier in [Some(2), None, Some(3)] {
            announcer.follow_ports([(1, port(carrier))].into());
            assert_eq!(announcer.schedule.next().is_some(), carrier.is_some(), "{carrier:?}");
        }
        announcer.follow(&rows(0).0, [&rows(0).1]);
        assert_eq!(announcer.schedule.next(), None, "another node announces it now");
    }
}
