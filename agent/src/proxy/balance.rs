//! Which endpoint gets a request.
//!
//! # Design
//! - Of two chosen at random the less busy one: close to the best of all, without a look at each.
//! - An endpoint that could not be connected is passed over for a while, unless all are like that. Then one request at a
//!   time sees whether it can be; should it not, that request goes on to one with which nothing is wrong. So however
//!   many are dead while nobody says so, a request meets one of them that was known to be.
use std::{net::SocketAddr, sync::Arc};

use super::pool::{Health, Upstream};

/// The less busy of two endpoints chosen at random, among those that were not tried in vain, lately or for this request.
pub(super) fn pick(cluster: &[Arc<Upstream>], tried: &[SocketAddr]) -> Option<Arc<Upstream>> {
    let fit = |u: &&Arc<Upstream>| match u.health() {
        Health::Well => !tried.contains(&u.addr),
        Health::Suspect => tried.is_empty(),
        Health::Down => false,
    };
    if let Some(two) = two_of(cluster.len())
        && let (Some(first), Some(second)) = two.map(|i| cluster.get(i).filter(fit)).into()
    {
        return Some(chosen(first, second));
    }
    // Some are out of the question: rare, so the list is made only now. When all are, any that was not tried will do.
    let mut left: Vec<&Arc<Upstream>> = cluster.iter().filter(fit).collect();
    if left.is_empty() {
        left = cluster.iter().filter(|u| !tried.contains(&u.addr)).collect();
    }
    let [first, second] = two_of(left.len())?;
    Some(chosen(left[first], left[second]))
}

/// The less busy one; others pass it over until it is known what becomes of one that is suspect.
fn chosen(a: &Arc<Upstream>, b: &Arc<Upstream>) -> Arc<Upstream> {
    let chosen = less_busy(a, b);
    if chosen.health() == Health::Suspect {
        chosen.set_down();
    }
    Arc::clone(chosen)
}

fn less_busy<'a>(a: &'a Arc<Upstream>, b: &'a Arc<Upstream>) -> &'a Arc<Upstream> {
    if b.pending() < a.pending() { b } else { a }
}

/// Two different numbers below `n`; the same one twice when there is only one, `None` when there is none.
fn two_of(n: usize) -> Option<[usize; 2]> {
    match n {
        0 => None,
        1 => Some([0, 0]),
        _ => {
            let first = fastrand::usize(..n);
            Some([first, (first + fastrand::usize(1..n)) % n])
        }
    }
}
