//! Removes conntrack entries that must not live on: what the programs cannot see is that a Service or an endpoint is
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
use sluice_ebpf::{
    CT_FIN_BACKEND, CT_FIN_CLIENT, CT_REPLIED, CT_REPLY, CT_REQUEST, CT_RST, CT_TCP_CLOSED_NS, CT_TCP_ESTABLISHED_NS,
    CT_TCP_OPENING_NS, CT_UDP_ONEWAY_NS, CT_UDP_REPLIED_NS, CtEntry, CtKey, FrontendKey, Tuple, UDP, map,
};

use super::{
    maps::{TableError, open},
    rendezvous::Place,
    rows::{frontend_key, ip, place},
};
use crate::model::{Model, Ranges, Target, sources::admits};

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
                Target::Endpoints(endpoints) => {
                    endpoints.backends.iter().chain(&endpoints.draining).map(place).collect()
                }
                Target::Proxy { .. } => BTreeSet::new(),
            };
            Kept { sources: target.sources().cloned(), backends }
        };
        Self { frontends: model.frontends.iter().map(|(f, target)| (frontend_key(f), kept(target))).collect() }
    }
}

/// Walks conntrack once and returns how many entries were removed.
///
/// Cost: about a millisecond per thousand entries, and for the map's empty places; call it off the stage's task.
///
/// # Errors
/// The map cannot be opened.
pub fn sweep(dir: &Path, model: &Model) -> Result<usize, TableError> {
    let mut conntrack: HashMap<MapData, CtKey, CtEntry> = open(dir, map::CONNTRACK)?;
    let now = monotonic_nanoseconds();
    let (mut doomed, wanted) = (Vec::new(), LazyCell::new(|| Wanted::new(model)));
    for row in &conntrack {
        // An entry that vanishes while we walk is what an LRU map does.
        let Ok((key, entry)) = row else { continue };
        if key.dir == CT_REQUEST {
            let reply_key = opposite(&key, &entry);
            let reply = conntrack.get(&reply_key, 0).ok();
            if verdict(&key, &entry, reply.as_ref(), &wanted, now) == Keep::No {
                doomed.extend([key, reply_key]);
            }
        } else if conntrack.get(&opposite(&key, &entry), 0).is_err()
            && now.saturating_sub(entry.seen) > CT_UDP_ONEWAY_NS
        {
            doomed.push(key);
        }
    }
    // A removal fails only where the entry has just been evicted.
    Ok(doomed.iter().filter(|key| conntrack.remove(key).is_ok()).count())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    Yes,
    No,
}

/// Whether a flow stays. Pure.
fn verdict(key: &CtKey, request: &CtEntry, reply: Option<&CtEntry>, wanted: &Wanted, now: u64) -> Keep {
    let frontend = FrontendKey {
        vip: key.tuple.dst,
        port: key.tuple.dst_port,
        proto: key.proto,
        family: if is_v4(&key.tuple) { 4 } else { 6 },
    };
    let answered = reply.map_or(request.created, |r| r.seen);
    let Some(Kept { sources, backends }) = wanted.frontends.get(&frontend) else { return Keep::No };
    if sources.as_ref().is_some_and(|ranges| !admits(ranges, ip(key.tuple.src))) {
        return Keep::No;
    }
    if now.saturating_sub(request.seen.max(answered)) > timeout(key, request) {
        return Keep::No;
    }
    if backends.contains(&(request.to.dst, request.to.dst_port)) {
        return Keep::Yes;
    }
    if key.proto == UDP || request.seen.saturating_sub(answered) > SILENCE_NS { Keep::No } else { Keep::Yes }
}

/// How long a flow may be idle.
fn timeout(key: &CtKey, request: &CtEntry) -> u64 {
    let replied = request.flags & CT_REPLIED != 0;
    let closed = request.flags & CT_RST != 0
        || request.flags & (CT_FIN_CLIENT | CT_FIN_BACKEND) == CT_FIN_CLIENT | CT_FIN_BACKEND;
    match (key.proto, replied) {
        (UDP, true) => CT_UDP_REPLIED_NS,
        (UDP, false) => CT_UDP_ONEWAY_NS,
        _ if closed => CT_TCP_CLOSED_NS,
        (_, true) => CT_TCP_ESTABLISHED_NS,
        (_, false) => CT_TCP_OPENING_NS,
    }
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
    use sluice_ebpf::{Addr, TCP};

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
    fn s124_a_single_datagram_is_forgotten_sooner_than_a_conversation() {
        let (key, mut request, mut reply, wanted) = flow(UDP);
        request.seen = NOW - 60 * SECOND;
        reply.seen = request.seen;
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::Yes);
        request.flags = 0;
        assert_eq!(verdict(&key, &request, Some(&reply), &wanted, NOW), Keep::No);
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
