//! Which backendRef of a rule gets a request: by weight, exactly, and in no order that a client could be in step with.
//!
//! # Design
//! - Each worker draws for each rule from an urn in which every backendRef has as many lots as its weight says, and fills it again
//!   when it is empty: after so many requests the parts are exact, and between that they are nearer to it than chance. Taking turns
//!   would be exact as well, but a page of two requests would then have the same one of them at the same backend for ever.
//! - An urn belongs to a compiled rule. One that changes is compiled anew, and begins with a full urn.
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use foldhash::fast::RandomState;

use super::respond::LocalReply;
use crate::model::http::{HttpRule, Share};

/// How many rules a worker has urns for. Beyond it all are thrown away, and filled again as they are wanted.
const MOST: usize = 16_384;

/// The urns of one worker: nobody else waits for the lock.
#[derive(Debug, Default)]
pub(super) struct Lots(Mutex<HashMap<usize, Vec<u32>, RandomState>>);

impl Lots {
    /// Draws one of a rule's shares.
    ///
    /// # Errors
    /// None of them has a weight.
    pub(super) fn draw<'a>(&self, rule: &HttpRule, shares: &'a [Share]) -> Result<&'a Share, LocalReply> {
        let nobody = LocalReply::misconfigured("no backend of the route has a weight");
        let mut weighted = shares.iter().filter(|share| share.weight > 0);
        match (weighted.next(), weighted.next()) {
            (None, _) => return Err(nobody),
            (Some(only), None) => return Ok(only),
            (Some(_), Some(_)) => {}
        }
        let mut urns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A rule that is gone may have left its urn at this address; then its lots are drawn out, if they fit.
        let key = std::ptr::from_ref(rule).addr();
        if urns.len() >= MOST && !urns.contains_key(&key) {
            urns.clear();
        }
        let left = urns.entry(key).or_default();
        let fits = left.len() == shares.len() && left.iter().zip(shares).all(|(left, share)| *left <= share.weight);
        if !fits || left.iter().all(|left| *left == 0) {
            *left = full(shares);
        }
        let total: u64 = left.iter().map(|left| u64::from(*left)).sum();
        let mut lot = fastrand::u64(..total.max(1));
        let drawn = left.iter_mut().zip(shares).find(|(left, _)| match lot.checked_sub(u64::from(**left)) {
            Some(rest) => {
                lot = rest;
                false
            }
            None => true,
        });
        let (left, share) = drawn.ok_or(nobody)?;
        *left -= 1;
        Ok(share)
    }
}

/// The fewest lots that are divided as the weights are.
fn full(shares: &[Share]) -> Vec<u32> {
    let divisor = shares.iter().map(|share| share.weight).fold(0, gcd).max(1);
    shares.iter().map(|share| share.weight / divisor).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::{
        api::{ObjectName, RouteKind},
        model::http::{Action, ShareTarget, Timeouts},
    };

    fn rule(weights: &[u32]) -> HttpRule {
        let share =
            |weight: &u32| Share { weight: *weight, to: ShareTarget::Invalid(String::new()), filters: Vec::new() };
        HttpRule {
            kind: RouteKind::Http,
            route: ObjectName::new("default", "r"),
            index: 0,
            name: None,
            filters: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            action: Action::Forward(weights.iter().map(share).collect()),
        }
    }

    fn shares(rule: &HttpRule) -> &[Share] {
        let Action::Forward(shares) = &rule.action else { panic!() };
        shares
    }

    /// Which share each of so many requests got.
    fn drawn(lots: &Lots, rule: &HttpRule, n: usize) -> Vec<usize> {
        let shares = shares(rule);
        let one = |_| {
            let drawn = lots.draw(rule, shares).unwrap();
            shares.iter().position(|share| std::ptr::eq(share, drawn)).unwrap()
        };
        (0..n).map(one).collect()
    }

    fn counts(drawn: &[usize], of: usize) -> Vec<usize> {
        (0..of).map(|i| drawn.iter().filter(|share| **share == i).count()).collect()
    }

    #[test]
    fn h100_weights_are_exact_over_as_many_requests_as_they_add_up_to() {
        let lots = Lots::default();
        for (weights, requests, want) in [
            (&[1, 1][..], 2, &[1, 1][..]),
            (&[70, 30, 0], 10, &[7, 3, 0]),
            (&[99, 1], 100, &[99, 1]),
            (&[1_000_000, 500_000], 3, &[2, 1]),
            (&[0, 5, 0], 7, &[0, 7, 0]),
            (&[1; 16], 16, &[1; 16]),
        ] {
            let rule = rule(weights);
            // Each round, and so all of them.
            for _ in 0..50 {
                assert_eq!(counts(&drawn(&lots, &rule, requests), weights.len()), want, "{weights:?}");
            }
        }
    }

    #[test]
    fn every_second_request_of_a_client_gets_what_others_get() {
        let (lots, rule) = (Lots::default(), rule(&[1, 1]));
        let odd: Vec<usize> = drawn(&lots, &rule, 4000).into_iter().step_by(2).collect();
        // 15 standard deviations.
        assert!((600..=1400).contains(&counts(&odd, 2)[0]), "{odd:?}");
    }

    #[test]
    fn rules_have_urns_of_their_own_and_one_that_nobody_wants_costs_nothing() {
        let lots = Lots::default();
        let (a, b) = (rule(&[3, 1]), rule(&[1, 3]));
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        for _ in 0..40 {
            of_a.extend(drawn(&lots, &a, 1));
            of_b.extend(drawn(&lots, &b, 1));
        }
        assert_eq!((counts(&of_a, 2), counts(&of_b, 2)), (vec![30, 10], vec![10, 30]));
        let many: Vec<HttpRule> = (0..MOST + 1).map(|_| rule(&[1, 1])).collect();
        for rule in &many {
            drawn(&lots, rule, 1);
        }
        assert!(lots.0.lock().unwrap().len() <= MOST);
        let nobody = rule(&[0, 0]);
        assert_eq!(lots.draw(&nobody, shares(&nobody)).unwrap_err().status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
