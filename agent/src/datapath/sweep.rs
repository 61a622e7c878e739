//! Removes entries of flows that must not live on, and counts what is there: what the programs cannot see is that a Service or an endpoint is
//! gone.
//!
//! In: the model, which says what frontends are wanted and what backends each of them has. Invariant: a flow of a wanted
//! frontend, from where clients may come, to a backend of that frontend is never touched before its timeout. What other
//! frontends have says nothing about it.
//!
//! # Design
//! A TCP flow to an endpoint that left its slice goes on for as long as that endpoint answers, as with kube-proxy. Once
//! its client speaks for [`SILENCE_NS`] without an answer the flow is dropped: its next packet goes to a live backend,
//! which resets it, so that the client learns in seconds what it would otherwise wait minutes for. A UDP flow has no
//! end, so it moves at once.
//!
//! A flow whose client may come no longer is cut, which kube-proxy leaves undone: whoever narrows the ranges wants it gone.
//! Its next packet finds no entry, may make none, and is dropped.
use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aya::maps::{HashMap, MapData};
use sluice_ebpf::{CT_REPLY, CT_REQUEST, CT_UDP_ONEWAY_NS, CtEntry, CtKey, FrontendKey, Tuple, UDP, flow, map};

use super::{
    census::Count,
    maps::{TableError, open},
    rendezvous::Place,
    rows::{frontend_key, ip, place},
};
use crate::{
    arrows::Census,
    model::{Model, Ranges, Target, sources::admits},
};

/// How long a client may speak to an endpoint that left without an answer, before its flow is dropped.
const SILENCE_NS: u64 = 5_000_000_000;

/// What flows may stay.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    frontends: BTreeMap<FrontendKey, Kept>,
}

/// What flows of one frontend may stay.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// From where clients may come.
    sources: Option<Ranges>,
    /// Where new flows go, and where those that there are may go on.
    backends: BTreeSet<Place>,
}

impl Wanted {
    /// What this model holds.
    #[must_use]
    pub fn new(model: &Model) -> Self {
        let kept = |target: &Target| {
            let backends = match target {
                Target::Endpoints(endpoints) => endpoints.backends().chain(endpoints.draining()).map(place).collect(),
                Target::Proxy { .. } => BTreeSet::new(),
            };
            Kept { sources: target.sources().cloned(), backends }
        };
        Self { frontends: model.frontends.iter().map(|(f, target)| (frontend_key(f), kept(target))).collect() }
    }
}

/// Walks both maps of flows once; returns how many entries were removed, and what is there.
///
/// Cost: about a millisecond per thousand entries, and for the maps' empty places; call it off the stage's task.
///
/// # Errors
/// A map cannot be opened.
pub fn sweep(dir: &Path, model: &Model) -> Result<(usize, Census), TableError> {
    let (mut removed, mut count) = (0, Count::default());
    let wanted = LazyCell::new(|| Wanted::new(model));
    for name in [map::CONNTRACK, map::OPENING] {
        let mut flows: HashMap<MapData, CtKey, CtEntry> = open(dir, name)?;
        let now = monotonic_nanoseconds();
        let mut doomed = Vec::new();
        for row in &flows {
            // An entry that vanishes while we walk is what an LRU map does.
            let Ok((key, entry)) = row else { continue };
            count.add(name, &key, &entry);
            let other_key = opposite(&key, &entry);
            let other = flows.get(&other_key, 0).ok().filter(|other| flow::is_reverse(&other.to, &key.tuple));
            if key.dir == CT_REQUEST {
                if verdict(&key, &entry, other.as_ref(), &wanted, now) == Keep::No {
                    doomed.push((key, entry));
                    doomed.extend(other.map(|other| (other_key, other)));
                }
            } else if other.is_none() && now.saturating_sub(entry.seen) > CT_UDP_ONEWAY_NS {
                doomed.push((key, entry));
            }
        }
        removed += remove(&mut flows, &doomed);
    }
    Ok((removed, count.finish(model)))
}

/// Removes entries that were judged, and returns how many there were. A client may have begun another flow from the same port
/// since the walk came by, be it a fraction of a second ago: that is left alone.
pub(super) fn remove(flows: &mut HashMap<MapData, CtKey, CtEntry>, doomed: &[(CtKey, CtEntry)]) -> usize {
    let is_there = |flows: &HashMap<MapData, CtKey, CtEntry>, key: &CtKey, judged: &CtEntry| {
        flows.get(key, 0).is_ok_and(|now| is_same_flow(&now, judged))
    };
    // It fails only where the entry has just been evicted, or promoted.
    doomed.iter().filter(|(key, judged)| is_there(flows, key, judged) && flows.remove(key).is_ok()).count()
}

/// Whether two entries of one key are of one flow.
fn is_same_flow(a: &CtEntry, b: &CtEntry) -> bool {
    a.created == b.created && a.to == b.to
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

/// Whether a flow stays. Pure.
fn verdict(key: &CtKey, request: &CtEntry, reply: Option<&CtEntry>, wanted: &Wanted, now: u64) -> Keep {
    let answered = reply.map_or(request.created, |r| r.seen);
    let Some(Kept { sources, backends }) = wanted.frontends.get(&frontend_of(key)) else { return Keep::No };
    if sources.as_ref().is_some_and(|ranges| !admits(ranges, ip(key.tuple.src))) {
        return Keep::No;
    }
    if now.saturating_sub(request.seen.max(answered)) > flow::timeout(key.proto, request.flags) {
        return Keep::No;
    }
    if backends.contains(&(request.to.dst, request.to.dst_port)) {
        return Keep::Yes;
    }
    if key.proto == UDP || request.seen.saturating_sub(answered) > SILENCE_NS { Keep::No } else { Keep::Yes }
}

/// The frontend that a client's packets go to.
pub(super) fn frontend_of(key: &CtKey) -> FrontendKey {
    let (vip, port) = (key.tuple.dst, key.tuple.dst_port);
    FrontendKey { vip, port, proto: key.proto, family: if is_v4(&key.tuple) { 4 } else { 6 } }
}

/// The key of the other direction.
#[must_use]
pub fn opposite(key: &CtKey, entry: &CtEntry) -> CtKey {
    let to = &entry.to;
    CtKey {
        tuple: Tuple { src: to.dst, dst: to.src, src_port: to.dst_port, dst_port: to.src_port },
        proto: key.proto,
        dir: if key.dir == CT_REQUEST { CT_REPLY } else { CT_REQUEST },
        pad: [0; 2],
    }
}

fn is_v4(tuple: &Tuple) -> bool {
    tuple.dst.octets[..12] == sluice_ebpf::Addr::v4([0; 4]).octets[..12]
}

/// Nanoseconds on the clock that the programs read.
#[must_use]
pub fn monotonic_nanoseconds() -> u64 {
    // `bpf_ktime_get_coarse_ns` is the monotonic clock.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |t| u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use sluice_ebpf::{Addr, CT_FIN_BACKEND, CT_FIN_CLIENT, CT_OPENING, CT_REPLIED, CT_RST, TCP};

    use super::*;

    const NOW: u64 = 10_000_000_000_000;
    const SECOND: u64 = 1_000_000_000;

    fn flow(proto: u8) -> (CtKey, CtEntry, CtEntry, Wanted) {
        let (client, vip, pod) = (Addr::v4([198, 51, 100, 9]), Addr::v4([203, 0, 113, 1]), Addr::v4([10, 244, 1, 2]));
        let tuple = Tuple { src: client, dst: vip, src_port: 40_000, dst_port: 80 };
        let key = CtKey { tuple, proto, dir: CT_REQUEST, pad: [0; 2] };
        let to = Tuple { src: client, dst: pod, src_port: 40_000, dst_port: 8080 };
        let seen = NOW - SECOND;
        let request = CtEntry { seen, created: seen, to, flags: CT_REPLIED, ..CtEntry::default() };
        let reply = CtEntry { seen, ..CtEntry::default() };
        // Another frontend has the backend too, whatever becomes of this one.
        let kept = Kept { sources: None, backends: BTreeSet::from([(pod, 8080)]) };
        let at = |port| (FrontendKey { vip, port, proto, family: 4 }, kept.clone());
        let wanted = Wanted { frontends: BTreeMap::from([at(80), at(81)]) };
        (key, request, reply, wanted)
    }

    /// The backend leaves the flow's frontend, and stays one of the other.
    fn leave(wanted: &mut Wanted) {
        wanted.frontends.iter_mut().filter(|(key, _)| key.port == 80).for_each(|(_, kept)| kept.backends.clear());
    }

    #[test]
    fn a_flow_that_is_wanted_stays() {
        let (key, request, reply, wanted) = flow(TCP);
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::Yes);
    }

    #[test]
    fn s114_a_tcp_flow_to_an_endpoint_that_left_but_answers_stays() {
        let (key, request, reply, mut wanted) = flow(TCP);
        leave(&mut wanted);
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::Yes);
    }

    #[test]
    fn s114_a_tcp_flow_to_an_endpoint_that_left_and_is_silent_goes() {
        let (key, request, mut reply, mut wanted) = flow(TCP);
        leave(&mut wanted);
        reply.seen = request.seen - SILENCE_NS - 1;
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::No);
    }

    #[test]
    fn s125_a_udp_flow_to_an_endpoint_that_left_goes_at_once() {
        let (key, request, reply, mut wanted) = flow(UDP);
        leave(&mut wanted);
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::No);
    }

    #[test]
    fn s17_a_flow_of_a_frontend_that_is_gone_goes() {
        let (key, request, reply, mut wanted) = flow(TCP);
        wanted.frontends.retain(|key, _| key.port != 80);
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::No);
    }

    #[test]
    fn s96_a_flow_whose_client_may_come_no_longer_goes_and_the_others_stay() {
        for proto in [TCP, UDP] {
            let (key, request, reply, mut wanted) = flow(proto);
            for (ranges, keep) in [
                (vec!["198.51.100.0/24"], Keep::Yes),
                (vec!["192.0.2.0/24", "198.51.100.9/32"], Keep::Yes),
                (vec!["198.51.100.0/29", "198.51.100.16/28"], Keep::No),
                (vec![], Keep::No),
            ] {
                let list = ranges.iter().map(|range| range.parse().unwrap()).collect();
                wanted.frontends.values_mut().for_each(|kept| kept.sources = Some(Ranges::clone(&list)));
                assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), keep, "{ranges:?}");
            }
        }
    }

    #[test]
    fn s122_an_established_flow_survives_two_idle_hours() {
        let (key, mut request, mut reply, wanted) = flow(TCP);
        request.seen = NOW - 7_200 * SECOND;
        reply.seen = request.seen;
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::Yes);
        request.flags |= CT_FIN_CLIENT | CT_FIN_BACKEND;
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::No);
    }

    #[test]
    fn f6_a_tcp_flow_that_is_not_proved_is_forgotten_in_seconds_though_it_was_answered() {
        let (key, mut request, mut reply, wanted) = flow(TCP);
        request.flags |= CT_OPENING;
        for (idle, keep) in [(9, Keep::Yes), (11, Keep::No)] {
            request.seen = NOW - idle * SECOND;
            reply.seen = request.seen;
            assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), keep, "{idle} s");
        }
    }

    #[test]
    fn s124_a_single_datagram_is_forgotten_sooner_than_a_conversation() {
        let (key, mut request, mut reply, wanted) = flow(UDP);
        request.seen = NOW - 60 * SECOND;
        reply.seen = request.seen;
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::Yes);
        request.flags = 0;
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::No);
    }

    #[test]
    fn a_flow_that_began_since_from_the_same_port_is_another() {
        let (_, judged, ..) = flow(TCP);
        assert!(is_same_flow(&CtEntry { seen: NOW, flags: CT_RST, ..judged }, &judged), "it was only used");
        assert!(!is_same_flow(&CtEntry { created: NOW, ..judged }, &judged));
        let to = Tuple { dst: Addr::v4([10, 244, 1, 3]), ..judged.to };
        assert!(!is_same_flow(&CtEntry { to, ..judged }, &judged));
    }

    #[test]
    fn the_opposite_of_the_opposite_is_the_key() {
        let (key, request, _, _) = flow(TCP);
        let there = opposite(&key, &request);
        let t = key.tuple;
        let back =
            CtEntry { to: Tuple { src: t.dst, dst: t.src, src_port: t.dst_port, dst_port: t.src_port }, ..request };
        assert_eq!(opposite(&there, &back), key);
    }
}
