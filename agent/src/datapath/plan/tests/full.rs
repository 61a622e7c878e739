//! Not everything fits: who is refused, who is not, and what is freed before.
use super::*;
use crate::{
    datapath::capacity::{refused, tests::aged},
    model::Age,
};

/// So little that three tables of several backends are all, with one more while they change.
const SMALL: Capacity = Capacity { frontends: 8, backends: 16, chunks: 256, sources: 16 };

/// Rows whose frontend `n` is of an object that was created at second `ages[n]`.
fn rows_by_age(frontends: &[(u8, &[u8])], ages: &[(u8, u8)]) -> Rows {
    let mut desired = rows(frontends);
    for (n, second) in ages {
        desired.frontends.get_mut(&key(*n)).unwrap().age = age(*n, *second);
    }
    desired
}

fn age(n: u8, second: u8) -> Age {
    aged(&format!("2026-11-28T12:00:{second:02}Z"), &format!("web-{n}"))
}

fn names(refused: &Refused) -> Vec<u8> {
    refused.keys().map(|key| key.vip.last4()[3]).collect()
}

#[test]
fn equal_backend_sets_share_a_table_until_one_changes() {
    let (mut state, mut memory) = (State::new(&Observed::default(), SMALL), Memory::default());
    let (ops, none) = state.plan(&rows(&[(1, &[1, 2, 3]), (2, &[1, 2, 3]), (3, &[3, 2, 1])]));
    run(&mut memory, &ops);
    assert_eq!(ops.iter().filter(|op| matches!(op, Op::WriteTable(..))).count(), 1);
    assert_eq!((none, state.tables.used()), (Refused::new(), 64));
    let again = State::new(&memory.observed(), SMALL);
    assert_eq!(again.tables.used(), 64, "a restart finds them shared");
    let (ops, _) = state.plan(&rows(&[(1, &[1, 2]), (2, &[1, 2, 3]), (3, &[3, 2, 1])]));
    assert!(matches!(ops[..], [Op::WriteTable(..), Op::PutFrontend(..)]), "{ops:?}");
    run(&mut memory, &ops);
    assert_eq!(memory.places(&key(2)), [place(1), place(2), place(3)]);
    let (ops, _) = state.plan(&rows(&[(1, &[1, 2, 3]), (2, &[1, 2, 3]), (3, &[3, 2, 1])]));
    assert!(matches!(ops[..], [Op::PutFrontend(..)]), "{ops:?}");
}

#[test]
fn s149_the_youngest_is_refused_by_name_whoever_came_last() {
    let (mut state, mut memory) = (State::new(&Observed::default(), SMALL), Memory::default());
    let ages = [(1, 30), (2, 20), (3, 10)];
    let (ops, none) = state.plan(&rows_by_age(&[(1, &[1, 2]), (2, &[3, 4]), (3, &[5, 6])], &ages));
    run(&mut memory, &ops);
    assert_eq!(none, Refused::new());
    // An older one than all comes last, and one more, the youngest of all.
    let all = rows_by_age(
        &[(1, &[1, 2]), (2, &[3, 4]), (3, &[5, 6]), (4, &[7, 8]), (5, &[9, 10])],
        &[(1, 30), (2, 20), (3, 10), (4, 5), (5, 40)],
    );
    let (ops, refused) = state.plan(&all);
    run(&mut memory, &ops);
    assert_eq!(names(&refused), [1, 5]);
    assert_eq!(
        refused[&key(1)].to_string(),
        "the map TABLES is full: found 32 of 224 chunks of lookup table free after the older objects, want 64"
    );
    let older = |op: &Op| matches!(op, Op::PutFrontend(k, _) | Op::DeleteFrontend(k) if [key(2), key(3)].contains(k));
    assert!(!ops.iter().any(older), "those that are older are untouched: {ops:?}");
    assert!(memory.frontends.keys().eq([&key(2), &key(3), &key(4)]));
    assert_eq!(state.plan(&all), (vec![], refused), "and so it stays");
    // Room again: the next by age has it.
    let mut less = all.clone();
    less.frontends.remove(&key(3));
    less.vips.remove(&key(3).vip);
    let (ops, refused) = state.plan(&less);
    run(&mut memory, &ops);
    assert_eq!(names(&refused), [5]);
}

#[test]
fn a_frontend_whose_backends_find_no_ids_is_refused_whole() {
    let (mut state, mut memory) =
        (State::new(&Observed::default(), Capacity { backends: 3, ..SMALL }), Memory::default());
    let desired = rows_by_age(&[(1, &[1, 2]), (2, &[3, 4])], &[(1, 20), (2, 10)]);
    let (ops, refused) = state.plan(&desired);
    run(&mut memory, &ops);
    assert_eq!(names(&refused), [1]);
    assert_eq!(
        refused[&key(1)].to_string(),
        "the map BACKENDS is full: found 1 of 3 backends free after the older objects, want 2"
    );
    assert_eq!((memory.frontends.len(), memory.places(&key(2))), (1, vec![place(3), place(4)]));
    // The same backends as the older one's cost nothing.
    let (ops, refused) = state.plan(&rows_by_age(&[(1, &[3, 4]), (2, &[3, 4])], &[(1, 20), (2, 10)]));
    run(&mut memory, &ops);
    assert_eq!((names(&refused), memory.frontends.len()), (vec![], 2));
}

#[test]
fn what_waits_for_its_readers_keeps_nobody_out_however_fast_tables_change() {
    let (mut state, mut memory) = (State::new(&Observed::default(), SMALL), Memory::default());
    // No tick in between: two retired tables a round, of which none fits beside the rest.
    for round in 0..50_u8 {
        let (a, b) = (round % 5, round % 7);
        let (ops, refused) = state.plan(&rows(&[(1, &[a, 10]), (2, &[b, 11]), (3, &[a, b, 12])]));
        run(&mut memory, &ops);
        assert_eq!(refused, Refused::new(), "round {round}");
        assert_eq!(memory.places(&key(3)).len(), if a == b { 2 } else { 3 });
    }
}

#[test]
fn a_table_has_the_size_that_the_model_says_whatever_space_there_is_and_whoever_cannot_be_reached() {
    let mut desired = rows(&[(1, &(1..=11).collect::<Vec<u8>>()), (2, &[1, 2])]);
    let slots = |state: &State, n| state.frontends[&key(n)].1.table_slots;
    let row = desired.frontends.get_mut(&key(1)).unwrap();
    row.retain(|row| row.place.0.last4()[3] > 5);
    let mut state = State::new(&Observed::default(), Capacity { chunks: 1_024, ..SMALL });
    assert_eq!(state.plan(&desired).1, Refused::new());
    assert_eq!((slots(&state, 1), slots(&state, 2)), (4_016, 1_004));
    let (_, refused) = State::new(&Observed::default(), SMALL).plan(&desired);
    assert_eq!(names(&refused), [1], "not a smaller one");
}

#[test]
fn twenty_thousand_frontends_of_ten_and_five_hundred_of_a_thousand_fit_and_the_first_beyond_is_refused_by_name() {
    let capacity = Capacity { frontends: 65_536, backends: (1 << 20) - 1, chunks: 1 << 22, sources: 16 };
    let mut desired = Rows::default();
    let mut add = |n: u32, backends: u32| {
        let addr =
            |b: u32| Addr::v6([[0x20; 8].as_slice(), &n.to_be_bytes(), &b.to_be_bytes()].concat().try_into().unwrap());
        let backends: Vec<BackendRow> = (0..backends).map(|b| local((addr(b), 8080))).collect();
        let slots = rendezvous::slots(backends.len());
        desired.backends.extend(&backends);
        let vip = Addr::v4(n.to_be_bytes());
        let age = aged("2026-11-28T12:00:00Z", &format!("web-{n:06}"));
        desired
            .frontends
            .insert(FrontendKey { vip, ..key(0) }, FrontendRow { backends, slots, age, ..FrontendRow::default() });
    };
    (0..20_000).for_each(|n| add(n, 10));
    (20_000..20_500).for_each(|n| add(n, 1_000));
    let mut state = State::new(&Observed::default(), capacity);
    let (ops, refused) = state.plan(&desired);
    assert_eq!((refused, state.frontends.len()), (Refused::new(), 20_500));
    drop(ops);
    // All that is left, and one more.
    let mut add = |n: u32, backends: u32| {
        let of = |b: u32| {
            local((Addr::v6([[0x30; 12].as_slice(), &b.to_be_bytes()].concat().try_into().unwrap()), n as u16))
        };
        let backends: Vec<BackendRow> = (0..backends).map(of).collect();
        let slots = rendezvous::slots(backends.len());
        let age = aged("2026-11-28T12:00:01Z", &format!("web-{n:06}"));
        let vip = Addr::v4(n.to_be_bytes());
        desired
            .frontends
            .insert(FrontendKey { vip, ..key(0) }, FrontendRow { backends, slots, age, ..FrontendRow::default() });
    };
    let fit = ((1 << 22) - 4_096 - 20_000 * 64 - 500 * 4_096) / 4_096;
    (30_000..30_000 + fit + 1).for_each(|n| add(n, 700));
    let (_, refused) = state.plan(&desired);
    let last = FrontendKey { vip: Addr::v4((30_000 + fit).to_be_bytes()), ..key(0) };
    assert!(refused.keys().eq([&last]), "{refused:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn whatever_was_there_before_those_are_refused_that_do_not_fit_by_age(
        history in proptest::collection::vec((any_rows(), proptest::collection::vec(0_u8..4, 6), 0_u8..3), 1..8),
        restart in any::<bool>(),
    ) {
        let capacity = Capacity { frontends: 5, backends: 8, chunks: 600, sources: 6 };
        let (mut memory, mut state) = (Memory::default(), State::new(&Observed::default(), capacity));
        for (wanted, ages, ticks) in history {
            let listed: Vec<(u8, &[u8])> = wanted.iter().map(|(n, (b, ..))| (*n, b.as_slice())).collect();
            let aged: Vec<(u8, u8)> = wanted.keys().map(|n| (*n, ages[usize::from(*n)])).collect();
            let mut desired = rows_by_age(&listed, &aged);
            wanted.iter().for_each(|(n, (_, sources, _))| limit(&mut desired, *n, list(*sources)));
            for (n, (.., refused)) in wanted.iter().filter(|(_, (.., refused))| *refused > 0) {
                weigh(&mut desired, *n, u32::from(*refused) - 1);
            }
            let (ops, out) = state.plan(&desired);
            run(&mut memory, &ops);
            prop_assert_eq!(&out, &refused(&desired, &capacity, &[]));
            for (key, row) in &desired.frontends {
                prop_assert_eq!(memory.frontends.contains_key(key), !out.contains_key(key));
                if !out.contains_key(key) {
                    prop_assert_eq!(memory.places(key), row.backends.iter().map(|row| row.place).collect::<Vec<_>>());
                    prop_assert_eq!(memory.frontends[key].table_slots, row.table_slots());
                }
            }
            prop_assert_eq!(memory.frontends.len() + out.len(), desired.frontends.len());
            for _ in 0..ticks {
                memory.tick();
                run(&mut memory, &state.tick());
            }
            if restart {
                memory.forget_readers();
                state = State::new(&memory.observed(), capacity);
            }
        }
    }
}
