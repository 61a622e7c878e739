use super::*;
use proptest::prelude::*;

fn any_tuple() -> impl Strategy<Value = Tuple> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>())
        .prop_map(|(src, dst, src_port, dst_port)| Tuple { src: Addr::v6(src), dst: Addr::v6(dst), src_port, dst_port })
}

#[test]
fn an_entry_leads_to_its_backend_and_to_no_other_that_has_its_id() {
    let backend = Backend { addr: Addr::v4([10, 244, 0, 5]), port: 8080, flags: BACKEND_LOCAL };
    let to = Tuple { dst: backend.addr, dst_port: backend.port, src_port: 33000, ..Tuple::default() };
    let entry = CtEntry { to, backend: 1, ..CtEntry::default() };
    assert!(leads_to(&entry, &backend));
    assert!(leads_to(&entry, &Backend { flags: BACKEND_REMOTE, ..backend }), "wherever it is said to run");
    assert!(!leads_to(&entry, &Backend { port: 8081, ..backend }));
    assert!(!leads_to(&entry, &Backend { addr: Addr::v4([10, 244, 0, 6]), ..backend }));
}

proptest! {
    #[test]
    fn reversed_twice_is_the_same(t in any_tuple()) {
        prop_assert_eq!(reversed(&reversed(&t)), t);
        prop_assert_eq!((reversed(&t).src, reversed(&t).dst_port), (t.dst, t.src_port));
    }

    #[test]
    fn a_position_lies_in_the_table(hash: u32, slots in 1u32..100_000, first in 0u32..1000) {
        let f = Frontend { table_slots: slots, table_chunk: first, ..Default::default() };
        let (chunk, index) = table_position(&f, hash).expect("the table is not empty");
        prop_assert!(index < CHUNK_SLOTS);
        prop_assert_eq!((chunk - first) * CHUNK_SLOTS + index, hash % slots);
    }

    #[test]
    fn source_ports_stay_in_the_range_and_those_of_a_small_one_do_not_repeat(first in 1u16.., size in 0u16..1_500, hash: u32) {
        let last = first.saturating_add(size);
        let s = Settings { snat_first: first, snat_last: last, reject_rate: 0, ..Settings::default() };
        let ports: std::collections::HashSet<_> =
            (0..PORT_PROBES).map(|i| source_port(&s, hash, i).expect("the range is not empty")).collect();
        prop_assert!(ports.iter().all(|p| (first..=last).contains(p)));
        let all = usize::from(last - first + 1);
        if all <= 1_000 {
            prop_assert_eq!(ports.len(), all.min(PORT_PROBES as usize));
        } else {
            prop_assert!(ports.len() > PORT_PROBES as usize * 3 / 4, "{} of {}", ports.len(), PORT_PROBES);
        }
    }

    #[test]
    fn a_reset_fits_what_it_answers(flags: u8, seq: u32, ack: u32, len in 0u32..65_536) {
        match reset_for(flags, seq, ack, len) {
            None => prop_assert!(flags & tcp::RST != 0),
            // In the window of the sender, whatever it has sent.
            Some((s, 0, tcp::RST)) => prop_assert!(flags & tcp::ACK != 0 && s == ack),
            Some((s, a, f)) => {
                let counted = len + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
                prop_assert_eq!((s, a, f), (0, seq.wrapping_add(counted), tcp::RST | tcp::ACK));
            }
        }
    }

    #[test]
    fn a_bucket_never_gives_more_than_its_rate(rate in 1u32..10_000, steps in prop::collection::vec(0u64..400_000_000, 1..200)) {
        let (mut bucket, mut now, mut given) = (Bucket::default(), 1_000_000_000_000u64, 0u64);
        let start = now;
        for step in steps {
            now += step;
            given += u64::from(take_token(&mut bucket, now, rate));
        }
        // A full bucket at the start, and what flowed in since.
        let most = u64::from(rate) + (now - start) * u64::from(rate) / 1_000_000_000;
        prop_assert!(given <= most, "{} of {}", given, most);
    }
}

#[test]
fn a_bucket_gives_its_whole_rate_at_a_coarse_clock() {
    // 250 ticks in a second, a rate that leaves a fraction of a token in each.
    let (mut bucket, rate) = (Bucket::default(), 300);
    let mut now = 5_000_000_000;
    while take_token(&mut bucket, now, rate) {}
    let mut given = 0;
    for _ in 0..250 {
        now += 4_000_000;
        while take_token(&mut bucket, now, rate) {
            given += 1;
        }
    }
    assert!((299..=300).contains(&given), "{given} of 300");
}

#[test]
fn a_rate_of_nothing_gives_nothing() {
    assert!(!take_token(&mut Bucket { filled: 0, tokens: 5 }, 10_000_000_000, 0));
}

#[test]
fn an_empty_table_has_no_position() {
    assert_eq!(table_position(&Frontend::default(), 7), None);
}

#[test]
fn an_empty_range_has_no_port() {
    for (first, last) in [(0, 0), (0, 100), (50, 49)] {
        assert_eq!(
            source_port(&Settings { snat_first: first, snat_last: last, reject_rate: 0, ..Settings::default() }, 1, 0),
            None
        );
    }
}

/// The hash decides which node finds which backend: another value breaks the flows of a rolling upgrade.
#[test]
fn the_hash_never_changes() {
    let t = Tuple { src: Addr::v4([198, 51, 100, 7]), dst: Addr::v4([192, 0, 2, 200]), src_port: 33000, dst_port: 80 };
    assert_eq!((hash(&t, TCP), hash(&t, UDP), hash_client(&t.src)), (HASH_TCP, HASH_UDP, HASH_CLIENT));
}

const HASH_TCP: u32 = 41_724_434;
const HASH_UDP: u32 = 2_942_082_019;
const HASH_CLIENT: u32 = 3_660_100_699;

#[test]
fn the_hash_spreads_what_clients_send() {
    for slots in [2u32, 3, 7, 61, 101] {
        for step in [1usize, 2] {
            let mut hits = vec![0u32; slots as usize];
            for i in 0..20_000 {
                let t = Tuple {
                    src: Addr::v4([10, 1, (i >> 14) as u8, 2]),
                    dst: Addr::v4([192, 0, 2, 10]),
                    src_port: (32_768 + i * step) as u16,
                    dst_port: 80,
                };
                hits[(hash(&t, TCP) % slots) as usize] += 1;
            }
            let fair = 20_000.0 / f64::from(slots);
            let worst = hits.iter().map(|h| (f64::from(*h) - fair).abs() / fair).fold(0.0, f64::max);
            assert!(worst < 0.30, "{slots} slots, ports by {step}: {worst}");
        }
    }
}

#[test]
fn closed_means_reset_or_ended_by_both() {
    for (flags, want) in [
        (0, false),
        (CT_REPLIED | CT_SNAT, false),
        (CT_FIN_CLIENT, false),
        (CT_FIN_BACKEND, false),
        (CT_FIN_CLIENT | CT_FIN_BACKEND, true),
        (CT_RST, true),
    ] {
        assert_eq!(closed(flags), want, "{flags:#x}");
    }
}

#[test]
fn flags_become_state() {
    assert_eq!(state_bits(tcp::SYN, CT_REQUEST), 0);
    assert_eq!(state_bits(tcp::FIN | tcp::ACK, CT_REQUEST), CT_FIN_CLIENT);
    assert_eq!(state_bits(tcp::FIN, CT_REPLY), CT_FIN_BACKEND | CT_REPLIED);
    assert_eq!(state_bits(tcp::RST, CT_REQUEST), CT_RST);
    assert_eq!(state_bits(0, CT_REPLY), CT_REPLIED);
}

#[test]
fn a_client_that_speaks_after_an_answer_has_more_than_a_question() {
    assert_eq!(dialogue_bits(UDP, CT_REQUEST, CT_OPENING), 0, "it repeats its question");
    assert_eq!(dialogue_bits(UDP, CT_REPLY, CT_OPENING | CT_REPLIED), 0, "a second answer");
    assert_eq!(dialogue_bits(UDP, CT_REQUEST, CT_OPENING | CT_REPLIED), CT_DIALOGUE);
    assert_eq!(dialogue_bits(TCP, CT_REQUEST, CT_REPLIED), 0);
    let seconds = [CT_UDP_ONEWAY_NS, CT_UDP_ANSWERED_NS, CT_UDP_REPLIED_NS].map(|ns| ns / 1_000_000_000);
    assert_eq!(seconds, [30, 10, 180]);
}

#[test]
fn timeouts_follow_the_state() {
    assert_eq!(timeout(TCP, 0), CT_TCP_OPENING_NS);
    assert_eq!(timeout(TCP, CT_REPLIED), CT_TCP_ESTABLISHED_NS);
    assert_eq!(timeout(TCP, CT_REPLIED | CT_RST), CT_TCP_CLOSED_NS);
    for flags in [0, CT_REPLIED, CT_RST, CT_REPLIED | CT_FIN_CLIENT | CT_FIN_BACKEND] {
        assert_eq!(timeout(TCP, flags | CT_OPENING), CT_TCP_OPENING_NS, "an answer proves nothing");
    }
    assert_eq!(timeout(UDP, CT_OPENING), CT_UDP_ONEWAY_NS);
    assert_eq!(timeout(UDP, CT_REPLIED | CT_OPENING), CT_UDP_ANSWERED_NS);
    assert_eq!(timeout(UDP, CT_REPLIED | CT_OPENING | CT_DIALOGUE), CT_UDP_REPLIED_NS);
    assert_eq!(timeout(UDP, 0), CT_UDP_ONEWAY_NS);
    assert_eq!(timeout(UDP, CT_REPLIED), CT_UDP_REPLIED_NS);
    assert!(expired(UDP, 0, 1000, 1001 + CT_UDP_ONEWAY_NS));
    assert!(!expired(UDP, 0, 1000, 1000 + CT_UDP_ONEWAY_NS));
    assert!(!expired(UDP, 0, 2000, 1000), "the clock of another CPU may be ahead");
}

#[test]
fn a_hop_written_by_two_at_once_is_not_followed() {
    let hop = |n: u16| {
        let (ifindex, macs) = (u32::from(n), [0x0002, n, 0x0100, 0x0002, 0, n]);
        checked(Hop { until: 1000 + u64::from(n), ifindex, ingress: 7, macs, mtu: 1500, check: 0 })
    };
    for (a, b) in (2..40).flat_map(|a| (a + 1..40).map(move |b| (a, b))) {
        let (one, two): ([u64; 4], [u64; 4]) = (bytemuck::cast(hop(a)), bytemuck::cast(hop(b)));
        assert!(is_fresh(&hop(a), 999, 7, 1500) && is_fresh(&hop(b), 999, 7, 1500));
        // Words are written whole: every mixture of some of one with some of the other.
        for mixture in 1..15 {
            let torn: [u64; 4] = std::array::from_fn(|i| if mixture & 1 << i == 0 { one[i] } else { two[i] });
            assert!(!is_fresh(&bytemuck::cast(torn), 999, 7, 1500), "{a} and {b}: {mixture:04b}");
        }
    }
}

#[test]
fn a_hop_fits_until_it_ends() {
    let hop = checked(Hop { until: 2 * HOP_NS, ifindex: 3, ingress: 7, macs: [1, 2, 3, 4, 5, 6], mtu: 1500, check: 0 });
    let at = |now| is_fresh(&hop, now, 7, 1500);
    assert!(at(HOP_NS) && at(2 * HOP_NS - 1));
    assert!(!at(HOP_NS - 1), "none ends later");
    assert!(!at(2 * HOP_NS) && !at(u64::MAX) && !at(0));
    assert!(!is_fresh(&hop, HOP_NS, 8, 1500) && !is_fresh(&hop, HOP_NS, 7, 1501));
    assert!(!is_fresh(&Hop::default(), 0, 0, 0) && !is_fresh(&Hop::default(), 1, 0, 0));
}

#[test]
fn clients_have_unicast_addresses() {
    let v4 = |o| is_martian(&Addr::v4(o), false);
    for o in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [239, 1, 1, 1], [255, 255, 255, 255]] {
        assert!(v4(o), "{o:?}");
    }
    for o in [[1, 1, 1, 1], [10, 0, 0, 1], [126, 0, 0, 1], [128, 0, 0, 1], [223, 255, 255, 255], [169, 254, 1, 1]] {
        assert!(!v4(o), "{o:?}");
    }
    let v6 = |a: &str| is_martian(&Addr::v6(a.parse::<std::net::Ipv6Addr>().expect("an address").octets()), true);
    for a in ["::", "::1", "ff02::1"] {
        assert!(v6(a), "{a}");
    }
    for a in ["2001:db8::1", "fe80::1", "::2", "1::"] {
        assert!(!v6(a), "{a}");
    }
}

#[test]
fn a_port_is_lost_later_the_less_it_is_waited_for() {
    const NOW: u64 = 1 << 50;
    let entry = |flags, idle| CtEntry { flags: flags | CT_OPENING, seen: NOW - idle, ..CtEntry::default() };
    let at = |flags, idle| {
        let lost = |wanted: &u32| may_lose_port(TCP, &entry(flags, idle), *wanted, NOW);
        [want::FREE, want::IDLE, want::ANY].into_iter().find(lost)
    };
    assert_eq!(at(0, CT_TCP_OPENING_NS + 1), Some(want::FREE), "it has expired");
    assert_eq!((at(0, WAITING_NS + 1), at(CT_RST, 0)), (Some(want::IDLE), Some(want::IDLE)));
    assert_eq!(at(CT_REPLIED, WAITING_NS), Some(want::ANY), "any, before a flow is refused");
}

/// How many of `flows` new flows find no port where so many of a thousand are taken.
fn refused(taken: u32, flows: u32) -> u32 {
    let s = Settings { snat_first: 10_000, snat_last: 29_999, ..Settings::default() };
    // Which ports are taken says a hash that has nothing to do with that of the flows.
    let is_free = |port: u16| avalanche(u32::from(port) ^ 0x6a09_e667) % 1_000 >= taken;
    let finds = |flow: u32| {
        let hash = avalanche(flow ^ 0xbb67_ae85);
        (0..PORT_PROBES).any(|attempt| source_port(&s, hash, attempt).is_some_and(is_free))
    };
    (0..flows).filter(|flow| !finds(*flow)).count() as u32
}

#[test]
fn with_95_percent_of_the_ports_taken_a_new_flow_finds_one() {
    // 0.95^192 is 5.3e-5, and of the 20,000 ports chance has left some more or fewer free.
    assert!(refused(950, 100_000) <= 12, "{}", refused(950, 100_000));
    assert_eq!(refused(900, 100_000), 0, "0.9^192 is 1.6e-9");
    // 0.99^192 is 0.145.
    assert!((1_000..1_900).contains(&refused(990, 10_000)), "{}", refused(990, 10_000));
}

#[test]
fn a_share_is_of_one_window() {
    let mut share = Share::default();
    let at = |window: u64| window << WINDOW_BITS;
    assert!((0..OPENING_SHARE).all(|_| take_share(&mut share, at(5))));
    assert!(!take_share(&mut share, at(6) - 1));
    release_share(&mut share, at(6));
    assert!(!take_share(&mut share, at(5)), "what was counted before is not taken back");
    release_share(&mut share, at(5));
    assert!(take_share(&mut share, at(5)) && !take_share(&mut share, at(5)));
    assert!(take_share(&mut share, at(6)));
    assert_eq!(share, Share { window: 6, flows: 1 });
    release_share(&mut share, at(6));
    release_share(&mut share, at(6));
    assert_eq!(share.flows, 0);
    // The counter of windows wraps after 146 years.
    assert!(take_share(&mut share, u64::MAX));
}
