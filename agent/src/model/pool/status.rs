//! What `status` of an AddressPool should say.
use std::{collections::BTreeSet, net::IpAddr};

use super::{Pool, Pools, Source};
use crate::{
    api::{
        AddressPool,
        address_pool::{AddressPoolStatus, Announce},
        condition::Condition,
    },
    model::{Model, ObjectRef, verdict::some_of},
};

/// Addresses that a message names at most.
const NAMED: usize = 8;

/// What the status of an AddressPool should say, as the model has it; without times, which the writer adds.
///
/// Conditions: `Ready`, all of it can be given from; `Exhausted`, nothing is free; `Overlapping`, another pool has some
/// of its addresses; `OutOfPool`, objects that are its own hold addresses that no pool has, for it has shrunk or the
/// pool that they came from is gone. Cost: a look at every allocation.
#[must_use]
pub fn pool_status(object: &AddressPool, model: &Model) -> AddressPoolStatus {
    let generation = object.metadata.generation;
    let Some(pool) = model.pools.get(&object.metadata.name) else {
        // Newer than the model.
        return object.status.clone();
    };
    let held = model.wanted.values().flatten().copied().filter(|addr| pool.contains(*addr)).collect::<BTreeSet<_>>();
    let (total, free) = match &pool.source {
        Source::Ranges(ranges) => {
            let total = ranges.iter().fold(0_u128, |sum, range| sum.saturating_add(range.size()));
            let given = held.iter().filter(|addr| ranges.iter().any(|range| range.gives_addr(**addr))).count();
            (total, total.saturating_sub(u128::try_from(given).unwrap_or(u128::MAX)))
        }
        // Each can be shared as long as there are ports.
        Source::Nodes { addrs, .. } => {
            let total = u128::try_from(addrs.len()).unwrap_or(u128::MAX);
            (total, total)
        }
    };
    let condition = |type_: &str, status: bool, reason: &str, message: String| Condition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: Some(generation),
        last_transition_time: None,
    };
    let conditions = vec![
        ready(pool, &condition),
        exhausted(total, free, held.len(), &condition),
        match pool.overlaps.as_slice() {
            [] => condition("Overlapping", false, "Disjoint", "no other pool has its addresses".to_owned()),
            overlaps => condition("Overlapping", true, "SharedWithPool", overlaps.join("; ")),
        },
        match out_of_pool(pool, &model.pools, model).as_slice() {
            [] => condition("OutOfPool", false, "Contained", "every address in use is one of a pool".to_owned()),
            outside => condition("OutOfPool", true, "Kept", kept(outside)),
        },
    ];
    AddressPoolStatus {
        observed_generation: generation,
        total: total.to_string(),
        used: held.len().to_string(),
        free: free.to_string(),
        conditions,
    }
}

fn ready(pool: &Pool, condition: &dyn Fn(&str, bool, &str, String) -> Condition) -> Condition {
    match pool.faults.first() {
        Some((reason, _)) => {
            let sentences = pool.faults.iter().map(|(_, sentence)| sentence.as_str()).collect::<Vec<_>>();
            condition("Ready", false, reason, sentences.join("; "))
        }
        None => {
            let who = match (pool.auto_assign, pool.announce) {
                (true, Announce::Auto) => "addresses are given and announced",
                (true, Announce::None) => "addresses are given and not announced",
                (false, Announce::Auto) => "addresses are given to who asks, and announced",
                (false, Announce::None) => "addresses are given to who asks, and not announced",
            };
            condition("Ready", true, "Ready", who.to_owned())
        }
    }
}

fn exhausted(
    total: u128,
    free: u128,
    used: usize,
    condition: &dyn Fn(&str, bool, &str, String) -> Condition,
) -> Condition {
    match (total, free) {
        (0, _) => condition("Exhausted", true, "Empty", "the pool has no address to give".to_owned()),
        (_, 0) => {
            let text = format!("{used} addresses are in use, all {total} that are given unasked among them");
            condition("Exhausted", true, "NoAddressFree", text)
        }
        _ => condition("Exhausted", false, "AddressesFree", format!("{free} of {total} addresses are free")),
    }
}

/// The addresses that no pool has, of objects that would get theirs from this pool.
fn out_of_pool<'a>(pool: &Pool, pools: &Pools, model: &'a Model) -> Vec<(IpAddr, &'a ObjectRef)> {
    let held = model.wanted.iter().flat_map(|(object, addrs)| addrs.iter().map(move |addr| (*addr, object)));
    held.filter(|(addr, object)| {
        let family = crate::model::endpoints::Family::of(*addr);
        // Labels are not at hand: a pool for some objects alone is passed over.
        let mut open = pools.iter().filter(|p| {
            p.auto_assign
                && p.families().contains(&family)
                && p.excludes(&object.object.ns, &Default::default()).is_none()
        });
        pools.of(*addr).is_none() && open.next().is_some_and(|first| first.name == pool.name)
    })
    .collect()
}

fn kept(outside: &[(IpAddr, &ObjectRef)]) -> String {
    let named = some_of(outside.iter().map(|(addr, object)| format!("{addr} of {object}")), NAMED);
    format!("in no pool, and kept until they are given up: {named}")
}
