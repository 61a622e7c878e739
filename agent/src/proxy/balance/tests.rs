//! The choice over simulated time: a seed for what is random, a clock that is handed in, endpoints that take as long as they are told.
use std::collections::{BTreeSet, BinaryHeap};

use super::*;
use crate::{
    model::http::balance::HashKey,
    proxy::{Settings, bounds::Bounds, pool::Way, stats::Counters},
    stable,
};

/// How an endpoint answers: after so many microseconds, with this status; `None` is never.
type Answers = fn(at: u64) -> Option<(u64, u16)>;

fn at(micros: u64) -> Moment {
    Moment::from_bits(micros + 1)
}

fn endpoints(n: usize, balance: Balance) -> Endpoints {
    let settings = Settings { workers: 1, ..Settings::default() };
    let (bounds, counters) = (Arc::new(Bounds::new(&settings)), Counters::new(1));
    let upstream = |i: usize| {
        let port = u16::try_from(i + 1).unwrap();
        let way = Way { addr: SocketAddr::from(([192, 0, 2, 1], port)), tls: None, tells: None };
        Arc::new(Upstream::new(way, &settings, Arc::clone(&bounds), &counters))
    };
    Endpoints::new((0..n).map(upstream).collect(), Arc::default(), Arc::new(balance))
}

/// How many requests each had of those that came every `gap` for `time`. Units: microseconds.
fn run(endpoints: &Endpoints, answers: &[Answers], (gap, time): (u64, u64), began: u64) -> Vec<usize> {
    let stats = Stats::default();
    let mut had = vec![0; answers.len()];
    // What will be answered, the next one first: when, who, when it began, with what.
    let mut open: BinaryHeap<std::cmp::Reverse<(u64, usize, u64, u16)>> = BinaryHeap::new();
    for tick in (0..time / gap).map(|i| began + i * gap) {
        while let Some(std::cmp::Reverse((end, who, begin, status))) =
            open.peek().copied().filter(|next| next.0.0 <= tick)
        {
            open.pop();
            let upstream = &endpoints.upstreams[who];
            upstream.vital.end();
            let outcome = Outcome::Answer(StatusCode::from_u16(status).unwrap());
            endpoints.learn(upstream, outcome, Some(at(end).since(at(begin))), at(end), &stats);
        }
        let picked = endpoints.pick(Wish::default(), &[], at(tick)).unwrap();
        let who = endpoints.upstreams.iter().position(|u| Arc::ptr_eq(u, &picked)).unwrap();
        had[who] += 1;
        picked.vital.begin();
        if let Some((took, status)) = answers[who](tick) {
            open.push(std::cmp::Reverse((tick + took, who, tick, status)));
        }
    }
    for std::cmp::Reverse((_, who, _, _)) in open {
        endpoints.upstreams[who].vital.end();
    }
    had
}

const MS: u64 = 1000;
const SECOND: u64 = 1_000_000;
const FAST: Answers = |_| Some((MS, 200));
const SLOW: Answers = |_| Some((10 * MS, 200));

#[test]
fn an_endpoint_ten_times_as_slow_gets_its_share_and_no_more() {
    fastrand::seed(1);
    // Seldom more than one request at a time: the fast ones do them all, but for one every few seconds, which sees whether it is still slow.
    let idle = run(&endpoints(3, Balance::default()), &[FAST, FAST, SLOW], (MS, 20 * SECOND), 0);
    assert!((3..=200).contains(&idle[2]), "{idle:?}");
    assert!(idle[0].abs_diff(idle[1]) < 1500, "{idle:?}");
    // A hundred at a time: as many requests wait at it as take as long there as those that wait elsewhere, a tenth of them.
    let busy = run(&endpoints(3, Balance::default()), &[FAST, FAST, SLOW], (10, SECOND / 2), 0);
    assert!((50..=2000).contains(&busy[2]), "{busy:?}");
    assert!(busy[0].abs_diff(busy[1]) < 5000, "{busy:?}");
}

#[test]
fn endpoints_that_differ_little_have_equal_parts() {
    fastrand::seed(2);
    let had =
        run(&endpoints(2, Balance::default()), &[|_| Some((150, 200)), |_| Some((290, 200))], (MS, 10 * SECOND), 0);
    assert!(had[0].abs_diff(had[1]) < 600, "{had:?}");
}

#[test]
fn one_that_stalls_gets_next_to_nothing_and_all_of_its_part_when_it_is_well_again() {
    fastrand::seed(3);
    // What comes meanwhile is answered when the stall is over.
    let stalls: Answers =
        |at| Some((if (5 * SECOND..10 * SECOND).contains(&at) { 10 * SECOND - at + MS } else { MS }, 200));
    let endpoints = endpoints(3, Balance::default());
    let before = run(&endpoints, &[FAST, FAST, stalls], (500, 5 * SECOND), 0);
    assert!(before[2] > 2800, "{before:?}");
    let during = run(&endpoints, &[FAST, FAST, stalls], (500, 5 * SECOND), 5 * SECOND);
    assert!(during[2] < 100, "{during:?}");
    run(&endpoints, &[FAST, FAST, stalls], (500, 25 * SECOND), 10 * SECOND);
    let after = run(&endpoints, &[FAST, FAST, stalls], (500, 5 * SECOND), 35 * SECOND);
    assert!(after[2] > 2800, "{after:?}");
}

#[test]
fn one_that_was_slow_is_asked_again_and_never_by_all_at_once() {
    fastrand::seed(4);
    let endpoints = endpoints(2, Balance::default());
    let was: Answers = |at| Some((if at < SECOND { 200 * MS } else { MS }, 200));
    run(&endpoints, &[FAST, was], (MS, 2 * SECOND), 0);
    let after: Vec<usize> =
        (2..30).map(|second| run(&endpoints, &[FAST, was], (MS, SECOND), second * SECOND)[1]).collect();
    assert!(after.iter().all(|had| *had < 650), "{after:?}");
    assert!(*after.last().unwrap() > 350, "{after:?}");
}

#[test]
fn a_new_endpoint_gets_no_more_than_its_part() {
    fastrand::seed(5);
    let old = endpoints(4, Balance::default());
    run(&old, &[SLOW; 4], (500, 2 * SECOND), 0);
    // With as many requests as they have all the time.
    old.upstreams.iter().for_each(|u| u.vital.pending.store(20, Relaxed));
    let upstreams = old.upstreams.iter().cloned().chain(endpoints(5, Balance::default()).upstreams.pop()).collect();
    let with_new = Endpoints::new(upstreams, Arc::default(), Arc::default());
    for _ in 0..200 {
        with_new.pick(Wish::default(), &[], at(2 * SECOND)).unwrap().vital.begin();
    }
    let had: Vec<usize> = with_new.upstreams.iter().map(|u| u.vital.pending()).collect();
    assert!(had[4] <= had[..4].iter().max().unwrap() + 5, "as busy as the others, and no busier: {had:?}");
}

#[test]
fn one_that_fails_at_once_does_not_draw_all_requests() {
    fastrand::seed(6);
    let fails: Answers = |_| Some((50, 500));
    // Busy ones: by their requests alone the failing one, which never has any, would win each time.
    let had = run(&endpoints(3, Balance::default()), &[SLOW, SLOW, fails], (500, 10 * SECOND), 0);
    assert!(had[2] < 200, "{had:?}");
}

#[test]
fn one_that_fails_is_ejected_and_tried_once_after_each_ejection() {
    fastrand::seed(7);
    let fails: Answers = |at| Some((MS, if at < 40 * SECOND { 503 } else { 200 }));
    // By turns: by its latency it would not have five so soon.
    let endpoints = endpoints(3, Balance { balancer: Balancer::RoundRobin, ..Balance::default() });
    let had = run(&endpoints, &[FAST, FAST, fails], (MS, 40 * SECOND), 0);
    // 5, then one after 1, 2, 4, 8, 10 and 10 seconds; some were on their way.
    assert!((8..=14).contains(&had[2]), "{had:?}");
    let after = run(&endpoints, &[FAST, FAST, fails], (MS, 20 * SECOND), 40 * SECOND);
    assert!(after[2] > 1500, "{after:?}");
}

#[test]
fn no_more_are_ejected_than_may_be_and_where_all_fail_all_are_asked() {
    fastrand::seed(8);
    let bad: Answers = |_| Some((MS, 502));
    for (n, most) in [(1, 0), (2, 1), (3, 1), (10, 5)] {
        let all = endpoints(n, Balance { balancer: Balancer::RoundRobin, ..Balance::default() });
        let answers: Vec<Answers> = vec![bad; n];
        let had = run(&all, &answers, (100, SECOND), 0);
        assert_eq!(all.ejected_for_answers(at(SECOND)).count(), most, "{n}: {had:?}");
        assert_eq!(had.iter().sum::<usize>(), 10_000);
    }
    // None can be connected: that has no bound, and all are asked.
    let none = endpoints(4, Balance::default());
    let stats = Stats::default();
    for upstream in &none.upstreams {
        none.learn(upstream, Outcome::Failure(Cause::Unconnected), None, at(0), &stats);
    }
    assert_eq!(stats.ejections.load(Relaxed), 4);
    let picked: BTreeSet<_> = (0..100).map(|_| none.pick(Wish::default(), &[], at(1)).unwrap().addr).collect();
    assert_eq!(picked.len(), 4);
}

#[test]
fn whoever_leaves_during_an_ejection_leaves_no_more_ejected_than_may_be() {
    fastrand::seed(9);
    let bad = |status| Outcome::Answer(StatusCode::from_u16(status).unwrap());
    let (before, stats) = (endpoints(10, Balance::default()), Stats::default());
    for upstream in &before.upstreams[..5] {
        (0..5).for_each(|_| before.learn(upstream, bad(503), None, at(0), &stats));
    }
    assert_eq!(before.ejected_for_answers(at(1)).count(), 5);
    let left = Endpoints::new(before.upstreams[..6].to_vec(), Arc::default(), Arc::default());
    left.trim(at(1));
    assert_eq!(left.ejected_for_answers(at(1)).count(), 3, "half of six");
    let alone = Endpoints::new(before.upstreams[..1].to_vec(), Arc::default(), Arc::default());
    alone.trim(at(1));
    assert_eq!(alone.ejected_for_answers(at(1)).count(), 0);
}

#[test]
fn a_request_never_goes_twice_to_an_endpoint_while_another_is_left() {
    fastrand::seed(10);
    for balancer in [Balancer::LeastRequest, Balancer::RoundRobin] {
        let all = endpoints(5, Balance { balancer, ..Balance::default() });
        let stats = Stats::default();
        all.learn(&all.upstreams[2], Outcome::Failure(Cause::Unconnected), None, at(0), &stats);
        for _ in 0..100 {
            let mut tried = Vec::new();
            while let Some(picked) = all.pick(Wish::default(), &tried, at(1)) {
                assert!(!tried.contains(&picked.addr));
                tried.push(picked.addr);
            }
            assert_eq!(tried.len(), 5);
            assert_eq!(tried[4], all.upstreams[2].addr, "the ejected one comes last");
        }
    }
}

#[test]
fn turns_are_equal_also_where_some_are_ejected() {
    let all = endpoints(4, Balance { balancer: Balancer::RoundRobin, ..Balance::default() });
    let stats = Stats::default();
    let count = |requests: usize| -> Vec<usize> {
        let picked: Vec<_> =
            (0..requests).map(|_| all.pick(Wish::default(), &[], at(1)).unwrap().addr.port()).collect();
        (1..=4).map(|port| picked.iter().filter(|p| **p == port).count()).collect()
    };
    assert_eq!(count(400), [100; 4]);
    all.learn(&all.upstreams[1], Outcome::Failure(Cause::Unconnected), None, at(0), &stats);
    assert_eq!(count(300), [100, 0, 100, 100]);
    all.turn.store(usize::MAX - 1, Relaxed);
    assert_eq!(count(4).iter().sum::<usize>(), 4, "a counter that comes round");
}

#[test]
fn five_thousand_endpoints_half_of_them_ejected_are_picked_evenly_and_cheaply() {
    fastrand::seed(11);
    let all = endpoints(5000, Balance::default());
    let stats = Stats::default();
    for upstream in all.upstreams.iter().step_by(2) {
        all.learn(upstream, Outcome::Failure(Cause::Unconnected), None, at(0), &stats);
    }
    let mut had = BTreeSet::new();
    for _ in 0..20_000 {
        let picked = all.pick(Wish::default(), &[], at(1)).unwrap();
        assert_eq!(picked.addr.port() % 2, 0, "no ejected one");
        picked.vital.begin();
        had.insert(picked.addr);
    }
    assert!(had.len() > 2400, "{}", had.len());
    let none = endpoints(0, Balance::default());
    assert!(none.pick(Wish::default(), &[], at(0)).is_none());
}

#[test]
fn a_key_has_its_endpoint_and_another_while_that_is_ejected() {
    let all = endpoints(5, Balance { balancer: Balancer::ConsistentHash(HashKey::Client), ..Balance::default() });
    let stats = Stats::default();
    let headers = HeaderMap::new();
    let pick = |n: u8| {
        let key = all.key(&headers, IpAddr::from([198, 51, 100, n]));
        all.pick(Wish { key, endpoint: None }, &[], at(1)).unwrap().addr
    };
    let before: Vec<_> = (0..=255).map(pick).collect();
    assert_eq!(before, (0..=255).map(pick).collect::<Vec<_>>());
    let gone = all.upstreams[3].addr;
    all.learn(&all.upstreams[3], Outcome::Failure(Cause::Unconnected), None, at(0), &stats);
    let during: Vec<_> = (0..=255).map(pick).collect();
    assert!(
        before.iter().zip(&during).all(|(before, during)| before == during || *before == gone),
        "no other key moves"
    );
    assert_eq!(during, (0..=255).map(pick).collect::<Vec<_>>(), "and those that do move to one place");
    all.connected(&all.upstreams[3], at(2), &stats);
    assert_eq!(before, (0..=255).map(pick).collect::<Vec<_>>());
}

#[test]
fn keys_are_the_clients_address_a_field_or_a_cookie() {
    let of = |key| endpoints(2, Balance { balancer: Balancer::ConsistentHash(key), ..Balance::default() });
    let headers: HeaderMap = [("x-real-ip", "198.51.100.7"), ("x-user", "anna"), ("cookie", "a=b; user=anna")]
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
        .into_iter()
        .collect();
    let (peer, client) = (IpAddr::from([10, 0, 0, 1]), stable::hash(&[198, 51, 100, 7]));
    assert_eq!(of(HashKey::Client).key(&headers, peer), Some(client));
    assert_eq!(of(HashKey::Client).key(&HeaderMap::new(), IpAddr::from([198, 51, 100, 7])), Some(client));
    let anna = Some(stable::hash(b"anna"));
    let field = || HashKey::Header(http::HeaderName::from_static("x-user"));
    assert_eq!(of(field()).key(&headers, peer), anna);
    assert_eq!(of(HashKey::Cookie("user".into())).key(&headers, peer), anna);
    assert_eq!(of(field()).key(&HeaderMap::new(), peer), None, "as if nobody had asked for it");
    assert_eq!(endpoints(2, Balance::default()).key(&headers, peer), None);
}

#[test]
fn a_session_has_its_endpoint_while_that_is_there_and_well() {
    fastrand::seed(12);
    let all = endpoints(5, Balance::default());
    let stats = Stats::default();
    let wish = Wish { endpoint: Some(all.upstreams[4].addr), key: None };
    for _ in 0..50 {
        assert_eq!(all.pick(wish, &[], at(1)).unwrap().addr, all.upstreams[4].addr);
        assert_ne!(all.pick(wish, &[all.upstreams[4].addr], at(1)).unwrap().addr, all.upstreams[4].addr);
    }
    all.learn(&all.upstreams[4], Outcome::Failure(Cause::Unconnected), None, at(1), &stats);
    assert_ne!(all.pick(wish, &[], at(2)).unwrap().addr, all.upstreams[4].addr);
    let foreign = Wish { endpoint: Some("198.51.100.1:80".parse().unwrap()), key: None };
    assert!(all.has(all.pick(foreign, &[], at(2)).unwrap().addr), "what is none of them is no place to go to");
}

#[test]
fn a_new_endpoint_gets_its_part_little_by_little() {
    const PICKS: usize = 4000;
    for balancer in [Balancer::LeastRequest, Balancer::RoundRobin] {
        fastrand::seed(7);
        let balance = Balance { balancer, slow_start: Some(Duration::from_secs(10)), ..Balance::default() };
        let mut all = endpoints(2, balance);
        for (upstream, born) in all.upstreams.iter_mut().zip([0, 100 * SECOND]) {
            Arc::get_mut(upstream).unwrap().vital.born = at(born);
        }
        let had = |age: u64| {
            let now = at(100 * SECOND + age);
            let picked = |_: &usize| all.pick(Wish::default(), &[], now).unwrap().addr == all.upstreams[1].addr;
            (0..PICKS).filter(picked).count()
        };
        // Half of the requests would be its own. More than five standard deviations on either side.
        for (age, want) in [(0, 120..280), (5 * SECOND, 850..1150), (10 * SECOND, 1800..2200)] {
            let had = had(age);
            assert!(want.contains(&had), "{had} at the age of {age}, want {want:?}");
        }
        // It keeps what is its own by a session, and what nobody else can have.
        let session = Wish { endpoint: Some(all.upstreams[1].addr), key: None };
        assert!((0..100).all(|_| all.pick(session, &[], at(100 * SECOND)).unwrap().addr == all.upstreams[1].addr));
        let tried = [all.upstreams[0].addr];
        assert!((0..100).all(|_| all.pick(Wish::default(), &tried, at(100 * SECOND)).unwrap().addr != tried[0]));
    }
}
