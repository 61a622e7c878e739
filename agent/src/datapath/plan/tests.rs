//! Plans against a model of the maps: after every single operation, not only at the end, the maps must be whole.
use std::collections::BTreeMap;

use proptest::prelude::*;
use sluice_ebpf::{BACKEND_LOCAL, FRONTEND_PROXY, FRONTEND_SOURCES, MAX_SOURCES, TCP};

use super::*;
mod full;

use crate::datapath::{
    maps::Memory,
    rendezvous::{self, Place, Share, Split},
};

fn place(n: u8) -> Place {
    (Addr::v4([10, 244, 1, n]), 8080)
}

fn local(place: Place) -> BackendRow {
    BackendRow { place, flags: BACKEND_LOCAL }
}

fn key(n: u8) -> FrontendKey {
    FrontendKey { vip: Addr::v4([203, 0, 113, n]), port: 80, proto: TCP, family: 4 }
}

/// Rows of frontends with these backends.
fn rows(frontends: &[(u8, &[u8])]) -> Rows {
    let mut rows = Rows::default();
    for (n, backends) in frontends {
        let mut places: Vec<_> = backends.iter().map(|b| place(*b)).collect();
        places.sort_unstable();
        places.dedup();
        let backends: Vec<_> = places.into_iter().map(local).collect();
        rows.backends.extend(&backends);
        let slots = rendezvous::slots(backends.len());
        rows.frontends.insert(key(*n), FrontendRow { backends, slots, ..FrontendRow::default() });
        rows.vips.insert(key(*n).vip, Vip { flags: 1, frontends: 1, ..Vip::default() });
    }
    rows
}

/// Runs the operations one by one, checking after each.
fn run(memory: &mut Memory, ops: &[Op]) {
    for op in ops {
        memory.run(op);
        memory.check();
    }
}

#[test]
fn a_frontend_is_written_after_its_backends_and_its_table() {
    let mut state = State::new(&Observed::default(), Capacity::default());
    let (ops, faults) = state.plan(&rows(&[(1, &[1, 2, 3])]));
    assert!(faults.is_empty(), "{faults:?}");
    let kinds: Vec<_> = ops.iter().map(std::mem::discriminant).collect();
    let expected = [
        Op::PutBackend(0, Backend::default()),
        Op::PutBackend(0, Backend::default()),
        Op::PutBackend(0, Backend::default()),
        Op::ResetCounters(0),
        Op::WriteTable(0, Table::new(Vec::new(), Split::Equal, 0)),
        Op::PutFrontend(key(1), Frontend::default()),
        Op::PutVip(Addr::NONE, Vip::default()),
    ];
    assert_eq!(kinds, expected.iter().map(std::mem::discriminant).collect::<Vec<_>>());
}

#[test]
fn the_same_rows_again_need_no_operation() {
    let mut state = State::new(&Observed::default(), Capacity::default());
    let desired = rows(&[(1, &[1, 2, 3]), (2, &[2, 4])]);
    assert!(!state.plan(&desired).0.is_empty());
    assert_eq!(state.plan(&desired), (vec![], Refused::new()));
}

#[test]
fn a_restart_with_the_same_rows_needs_no_operation() {
    let desired = rows(&[(1, &[1, 2, 3]), (2, &[2, 4]), (3, &[])]);
    let mut memory = Memory::default();
    run(&mut memory, &State::new(&Observed::default(), Capacity::default()).plan(&desired).0);
    let mut restarted = State::new(&memory.observed(), Capacity::default());
    assert_eq!(restarted.plan(&desired), (vec![], Refused::new()));
}

#[test]
fn an_endpoint_that_leaves_costs_one_table_and_one_frontend() {
    let mut state = State::new(&Observed::default(), Capacity::default());
    state.plan(&rows(&[(1, &[1, 2, 3]), (2, &[1])]));
    let (ops, _) = state.plan(&rows(&[(1, &[1, 2]), (2, &[1])]));
    assert!(matches!(ops[..], [Op::WriteTable(..), Op::PutFrontend(..)]), "{ops:?}");
}

#[test]
fn a_backend_outlives_its_last_table_by_two_ticks() {
    let mut state = State::new(&Observed::default(), Capacity::default());
    state.plan(&rows(&[(1, &[1, 2])]));
    state.plan(&rows(&[(1, &[1])]));
    assert_eq!(state.tick(), vec![]);
    assert!(matches!(state.tick()[..], [Op::DeleteBackend(_)]));
    assert_eq!(state.tick(), vec![]);
}

#[test]
fn a_backend_that_returns_in_time_keeps_its_id() {
    let mut state = State::new(&Observed::default(), Capacity::default());
    state.plan(&rows(&[(1, &[1, 2])]));
    state.plan(&rows(&[(1, &[1])]));
    state.tick();
    let (ops, _) = state.plan(&rows(&[(1, &[1, 2])]));
    assert!(!ops.iter().any(|op| matches!(op, Op::PutBackend(..))), "{ops:?}");
    assert_eq!(state.tick(), vec![]);
}

#[test]
fn a_table_of_another_make_is_replaced() {
    let desired = rows(&[(1, &[1, 2])]);
    let mut memory = Memory::default();
    run(&mut memory, &State::new(&Observed::default(), Capacity::default()).plan(&desired).0);
    let mut observed = memory.observed();
    observed.frontends.values_mut().for_each(|(_, slots)| *slots = slots.iter().rev().copied().collect());
    let (ops, _) = State::new(&observed, Capacity::default()).plan(&desired);
    assert!(matches!(ops[..], [Op::WriteTable(..), Op::PutFrontend(..)]), "{ops:?}");
}

/// Splits a frontend's backends by weight: the odd ones get as much as the even ones and the refused together.
fn weigh(desired: &mut Rows, n: u8, refused: u32) {
    let row = desired.frontends.get_mut(&key(n)).unwrap();
    let of = |odd| row.backends.iter().map(|row| row.place).filter(|(addr, _)| addr.last4()[3] % 2 == odd).collect();
    let share = |name, weight, members| Share { seed: Share::seed("default", name, 80), weight, members };
    let refuses = share("c", refused, Vec::new());
    row.split = Split::of([share("a", 10 - refused, of(0)), share("b", 10, of(1)), refuses]);
    row.slots = rendezvous::slots(row.split.sized_for(row.backends.len()));
}

#[test]
fn a_weight_that_changes_costs_one_table_and_one_frontend() {
    let (mut state, mut memory) = (State::new(&Observed::default(), Capacity::default()), Memory::default());
    let mut desired = rows(&[(1, &[1, 2, 3]), (2, &[1])]);
    weigh(&mut desired, 1, 0);
    run(&mut memory, &state.plan(&desired).0);
    weigh(&mut desired, 1, 5);
    let (ops, _) = state.plan(&desired);
    assert!(matches!(ops[..], [Op::WriteTable(..), Op::PutFrontend(..)]), "{ops:?}");
    run(&mut memory, &ops);
    let slots = &memory.observed().frontends[&key(1)].1;
    assert_eq!((slots.iter().filter(|id| **id == 0).count(), slots.len()), (251, 1_004), "5 of 20 are refused");
    assert_eq!(state.plan(&desired), (vec![], Refused::new()));
}

#[test]
fn a_restart_knows_a_table_by_weights_and_writes_it_only_where_the_weights_are_others() {
    let mut desired = rows(&[(1, &[1, 2, 3]), (2, &[1])]);
    weigh(&mut desired, 1, 2);
    let mut memory = Memory::default();
    run(&mut memory, &State::new(&Observed::default(), Capacity::default()).plan(&desired).0);
    let mut restarted = State::new(&memory.observed(), Capacity::default());
    assert_eq!(restarted.plan(&desired), (vec![], Refused::new()));
    assert_eq!(restarted.plan(&desired), (vec![], Refused::new()));
    weigh(&mut desired, 1, 3);
    let (ops, _) = State::new(&memory.observed(), Capacity::default()).plan(&desired);
    assert!(matches!(ops[..], [Op::WriteTable(..), Op::PutFrontend(..)]), "{ops:?}");
}

#[test]
fn a_table_by_weights_that_no_model_has_named_yet_keeps_its_backends() {
    let mut desired = rows(&[(1, &[1, 2, 3])]);
    weigh(&mut desired, 1, 2);
    let mut memory = Memory::default();
    run(&mut memory, &State::new(&Observed::default(), Capacity::default()).plan(&desired).0);
    let mut restarted = State::new(&memory.observed(), Capacity::default());
    restarted.keep_adopted(true);
    run(&mut memory, &restarted.plan(&Rows::default()).0);
    for _ in 0..=KEEP_TICKS {
        run(&mut memory, &restarted.tick());
    }
    assert_eq!((memory.frontends.len(), memory.backends.len()), (1, 3));
}

/// What a change from one to another leaves behind in the map of those who left, as (frontend's port, backend).
fn left(memory: &Memory) -> Vec<(u8, u8)> {
    let of = |seat: &Seat| {
        let frontend = memory.frontends.iter().find(|(_, value)| value.id == seat.frontend).unwrap().0;
        (frontend.vip.last4()[3], memory.backends[&seat.backend].addr.last4()[3])
    };
    memory.left.iter().map(of).collect()
}

#[test]
fn who_leaves_one_frontend_and_stays_in_another_is_remembered_for_as_long_as_a_flow_may_wait() {
    let (mut state, mut memory) = (State::new(&Observed::default(), Capacity::default()), Memory::default());
    let change = |state: &mut State, memory: &mut Memory, desired: &Rows, left: &[(u8, u8)]| {
        let left = left.iter().map(|(frontend, backend)| (key(*frontend), local(place(*backend)))).collect();
        let frontends = desired.frontends.keys().copied().collect();
        let backends = desired.backends.clone();
        run(memory, &state.follow(desired, &Touched { frontends, backends, left, ..Touched::default() }).0);
    };
    let (both, one) = (rows(&[(1, &[1, 2]), (2, &[1, 2])]), rows(&[(1, &[1]), (2, &[1, 2])]));
    change(&mut state, &mut memory, &both, &[]);
    change(&mut state, &mut memory, &one, &[(1, 2)]);
    assert_eq!(left(&memory), [(1, 2)]);
    assert_eq!(State::new(&memory.observed(), Capacity::default()).left.len(), 1, "and found by the next agent");
    change(&mut state, &mut memory, &both, &[]);
    assert_eq!(left(&memory), [], "it is back");
    change(&mut state, &mut memory, &one, &[(1, 2)]);
    for _ in 1..LEFT_TICKS {
        memory.tick();
        run(&mut memory, &state.tick());
        assert_eq!(left(&memory), [(1, 2)]);
    }
    memory.tick();
    run(&mut memory, &state.tick());
    assert_eq!(left(&memory), [], "no flow waits for so long");
    change(&mut state, &mut memory, &both, &[]);
    change(&mut state, &mut memory, &one, &[(1, 2)]);
    run(&mut memory, &state.plan(&rows(&[(2, &[1, 2])])).0);
    assert_eq!(left(&memory), [], "the frontend is gone: its id may be another's next");
}

#[test]
fn ten_thousand_frontends_of_ten_backends_have_whole_tables_also_while_a_thousand_a_second_change() {
    let key = |n: u16| FrontendKey { vip: Addr::v4([203, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]), ..key(0) };
    // Round `r` of frontend `n`: ten endpoints, of which one moves with each round.
    let places = |n: u16, r: u16| {
        let addr = |b: u16| [[0x20; 12].as_slice(), &n.to_be_bytes(), &b.to_be_bytes()].concat().try_into().unwrap();
        let mut rows: Vec<BackendRow> = (r..r + 10).map(|b| local((Addr::v6(addr(b)), 8080))).collect();
        rows.sort_unstable();
        rows
    };
    let mut desired = Rows::default();
    for n in 0..10_000 {
        let backends = places(n, 0);
        desired.backends.extend(&backends);
        desired
            .frontends
            .insert(key(n), FrontendRow { backends, slots: rendezvous::slots(10), ..FrontendRow::default() });
    }
    let mut state = State::new(&Observed::default(), Capacity::default());
    let whole = |ops: &[Op], faults: &Refused| {
        assert!(faults.is_empty(), "{faults:?}");
        let sizes = ops.iter().filter_map(|op| match op {
            Op::PutFrontend(_, frontend) => Some(frontend.table_slots),
            _ => None,
        });
        assert!(sizes.clone().all(|slots| slots == rendezvous::slots(10)));
        sizes.count()
    };
    let (ops, faults) = state.plan(&desired);
    assert_eq!(whole(&ops, &faults), 10_000);
    drop(ops);
    for second in 1..=5 {
        let mut touched = Touched::default();
        for n in 0..1_000 {
            let (old, new) = (places(n, second - 1), places(n, second));
            for place in &old {
                desired.backends.remove(place);
            }
            desired.backends.extend(&new);
            touched.backends.extend(old.into_iter().chain(new.iter().copied()));
            desired
                .frontends
                .insert(key(n), FrontendRow { backends: new, slots: rendezvous::slots(10), ..FrontendRow::default() });
            touched.frontends.insert(key(n));
        }
        let (ops, faults) = state.follow(&desired, &touched);
        assert_eq!(whole(&ops, &faults), 1_000);
        state.tick();
    }
}

#[test]
fn a_proxy_frontend_has_no_table() {
    let mut desired = rows(&[(1, &[])]);
    desired.frontends.values_mut().for_each(|row| row.flags = FRONTEND_PROXY);
    let (ops, _) = State::new(&Observed::default(), Capacity::default()).plan(&desired);
    assert!(!ops.iter().any(|op| matches!(op, Op::WriteTable(..))));
}

/// The list that a number stands for; 0 is no list.
fn list(n: u8) -> Option<Ranges> {
    (n > 0).then(|| (1..n).map(|n| IpNet::new([10, n, 0, 0].into(), 16).unwrap()).collect())
}

/// Makes this the list of a frontend.
fn limit(desired: &mut Rows, n: u8, sources: Option<Ranges>) {
    let row = desired.frontends.get_mut(&key(n)).unwrap();
    row.flags = if sources.is_some() { FRONTEND_SOURCES } else { 0 };
    row.sources = sources;
}

#[test]
fn s96_an_edited_list_is_another_one_and_the_old_one_stays_for_two_ticks() {
    let (mut state, mut memory) = (State::new(&Observed::default(), Capacity::default()), Memory::default());
    let mut desired = rows(&[(1, &[1])]);
    limit(&mut desired, 1, list(3));
    let (ops, _) = state.plan(&desired);
    run(&mut memory, &ops);
    let put = ops.iter().position(|op| matches!(op, Op::PutSources(1, ranges) if ranges.len() == 2));
    let named = ops.iter().position(|op| matches!(op, Op::PutFrontend(_, f) if f.sources == 1));
    assert!(put.is_some() && put < named, "the list comes first: {ops:?}");
    limit(&mut desired, 1, list(2));
    let (ops, _) = state.plan(&desired);
    assert!(
        matches!(&ops[..], [Op::PutSources(2, new), Op::PutFrontend(_, f)] if new.len() == 1 && f.sources == 2),
        "{ops:?}"
    );
    assert_eq!(state.tick(), vec![]);
    assert!(matches!(&state.tick()[..], [Op::DeleteSources(1, old)] if old.len() == 2));
    limit(&mut desired, 1, None);
    let (ops, _) = state.plan(&desired);
    assert!(matches!(ops[..], [Op::PutFrontend(_, Frontend { sources: 0, flags: 0, .. })]), "{ops:?}");
}

#[test]
fn ten_thousand_frontends_with_one_list_cost_one_list() {
    let mut state = State::new(&Observed::default(), Capacity::default());
    let mut desired = Rows::default();
    for n in 0..10_000_u16 {
        let vip = Addr::v4([203, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        let row =
            FrontendRow { flags: FRONTEND_SOURCES | FRONTEND_PROXY, sources: list(200), ..FrontendRow::default() };
        desired.frontends.insert(FrontendKey { vip, ..key(0) }, row);
    }
    let (ops, faults) = state.plan(&desired);
    assert_eq!((ops.iter().filter(|op| matches!(op, Op::PutSources(..))).count(), faults), (1, Refused::new()));
}

#[test]
fn s149_a_list_that_finds_no_room_is_a_fault_by_name_and_harms_no_other() {
    let many: Ranges =
        (0..MAX_SOURCES).map(|n| IpNet::new((0x0a00_0000 + n).to_be_bytes().into(), 32).unwrap()).collect();
    let (mut state, mut memory) = (State::new(&Observed::default(), Capacity::default()), Memory::default());
    let mut desired = rows(&[(1, &[1]), (2, &[2]), (3, &[3])]);
    limit(&mut desired, 1, list(2));
    limit(&mut desired, 2, Some(many));
    let (ops, faults) = state.plan(&desired);
    run(&mut memory, &ops);
    let [(refused, shortage)] = faults.iter().collect::<Vec<_>>()[..] else { panic!("{faults:?}") };
    assert_eq!(*refused, key(2));
    assert_eq!(
        shortage.to_string(),
        "the map SOURCES is full: found 65535 of 65536 source ranges free after the older objects, want 65536"
    );
    assert!(memory.frontends.keys().eq([&key(1), &key(3)]), "nothing of it is there");
    limit(&mut desired, 1, None);
    let (ops, faults) = state.plan(&desired);
    assert!(ops.contains(&Op::AwaitReaders), "the list that was left may still be read: {ops:?}");
    run(&mut memory, &ops);
    assert!(faults.is_empty() && state.has_frontend(&key(2)), "{faults:?}");
}

#[test]
fn a_restart_removes_lists_that_no_frontend_names() {
    let mut desired = rows(&[(1, &[1])]);
    limit(&mut desired, 1, list(3));
    let mut memory = Memory::default();
    run(&mut memory, &State::new(&Observed::default(), Capacity::default()).plan(&desired).0);
    // What an agent leaves that ends between the two writes.
    memory.run(&Op::PutSources(7, list(9).unwrap()));
    let mut restarted = State::new(&memory.observed(), Capacity::default());
    assert_eq!(restarted.plan(&desired), (vec![], Refused::new()), "the list of the frontend is adopted");
    restarted.tick();
    run(&mut memory, &restarted.tick());
    assert!(memory.sources.keys().eq([&1]), "{:?}", memory.sources);
}

fn any_rows() -> impl Strategy<Value = BTreeMap<u8, (Vec<u8>, u8, u8)>> {
    proptest::collection::btree_map(0_u8..6, (proptest::collection::vec(0_u8..12, 0..12), 0_u8..4, 0_u8..5), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn s143_the_maps_are_whole_after_every_operation(history in proptest::collection::vec((any_rows(), 0_u8..4), 1..8), restart in any::<bool>()) {
        let (mut memory, mut state) = (Memory::default(), State::new(&Observed::default(), Capacity::default()));
        for (wanted, ticks) in history {
            let listed: Vec<(u8, &[u8])> = wanted.iter().map(|(n, (b, ..))| (*n, b.as_slice())).collect();
            let mut desired = rows(&listed);
            wanted.iter().for_each(|(n, (_, sources, _))| limit(&mut desired, *n, list(*sources)));
            for (n, (.., refused)) in wanted.iter().filter(|(_, (.., refused))| *refused > 0) {
                weigh(&mut desired, *n, u32::from(*refused) - 1);
            }
            let (ops, faults) = state.plan(&desired);
            prop_assert!(faults.is_empty(), "{faults:?}");
            run(&mut memory, &ops);
            for _ in 0..ticks {
                memory.tick();
                run(&mut memory, &state.tick());
            }
            prop_assert_eq!(memory.frontends.len(), desired.frontends.len());
            prop_assert_eq!(&memory.vips, &desired.vips);
            for (key, row) in &desired.frontends {
                prop_assert_eq!(memory.places(key), row.backends.iter().map(|row| row.place).collect::<Vec<_>>());
                prop_assert_eq!(memory.ranges(key), row.sources.as_ref().map(|ranges| ranges.to_vec()));
            }
            let (again, _) = State::new(&memory.observed(), Capacity::default()).plan(&desired);
            prop_assert!(!again.iter().any(|op| matches!(op, Op::WriteTable(..))), "a restart: {again:?}");
            if restart {
                memory.forget_readers();
                state = State::new(&memory.observed(), Capacity::default());
            }
        }
    }
}
