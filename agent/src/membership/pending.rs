//! The objects whose status waits for what nodes report.
//!
//! In: one snapshot after the other, whose objects say what the leader has written so far. Out: whether a report would let it
//! write more. Pure.
//!
//! # Design
//! A report that nobody waits for goes along with the next renewal of the Lease. Were it written for each change, one
//! Service that anybody changes would have every node of the cluster write.
use std::{collections::BTreeMap, net::IpAddr};

use super::{Report, Revisions, revisions::number};
use crate::{
    api::{Gateway, Kind, Service},
    model::{ObjectRef, ipam},
    source::Snapshot,
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pending {
    revisions: Revisions,
    /// Shape: at most one per Service and Gateway.
    waiting: BTreeMap<ObjectRef, Waiting>,
}

/// What the leader waits for, to write to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    /// The revision that nodes must have seen.
    revision: u64,
    /// Its addresses.
    pub(super) addrs: Vec<IpAddr>,
    /// They are to be let go of; else they are to be shown.
    pub(super) is_leaving: bool,
}

impl Pending {
    /// Takes over a snapshot. Cost: that of what differs.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        for object in self.revisions.follow(snapshot) {
            let service = snapshot.services.get(&object.object).filter(|_| object.kind == Service::KIND);
            let gateway = snapshot.gateways.get(&object.object).filter(|_| object.kind == Gateway::KIND);
            let waiting = match (service, gateway) {
                (Some(service), _) => of_service(service),
                (_, Some(gateway)) => of_gateway(gateway, self.revisions.of(&object, &gateway.metadata)),
                (None, None) => None,
            };
            match waiting {
                Some(waiting) => drop(self.waiting.insert(object, waiting)),
                None => drop(self.waiting.remove(&object)),
            }
        }
    }

    /// What the leader may write once it knows `new`, and may not by the report that it has.
    pub(super) fn released<'a>(
        &'a self,
        written: &'a Report,
        new: &'a Report,
    ) -> impl Iterator<Item = (&'a ObjectRef, &'a Waiting)> + 'a {
        let does = |report: &Report, object: &ObjectRef, waiting: &Waiting| match waiting.is_leaving {
            true => report.is_past(object, waiting.revision),
            false => report.has_programmed(object, waiting.revision),
        };
        let waiting = self.waiting.iter();
        waiting.filter(move |(object, waiting)| !does(written, object, waiting) && does(new, object, waiting))
    }
}

/// As [`crate::status::service`] goes on from what is on the object. That it is not ours any more, or refused, may be another
/// object's doing, so that its newest revision counts.
fn of_service(service: &Service) -> Option<Waiting> {
    let metadata = &service.metadata;
    let addrs = ipam::written(metadata);
    let is_marked = metadata.finalizers.iter().any(|finalizer| finalizer == ipam::FINALIZER);
    if addrs.is_empty() || !is_marked {
        return None;
    }
    let revision = number(metadata);
    if metadata.deletion_timestamp.is_some() || service.spec.type_ != "LoadBalancer" {
        return Some(Waiting { revision, addrs, is_leaving: true });
    }
    let shown = &service.status.load_balancer.ingress;
    let is_shown = |addr: &IpAddr| shown.iter().any(|entry| entry.ip.parse() == Ok(*addr));
    (!addrs.iter().all(is_shown)).then_some(Waiting { revision, addrs, is_leaving: false })
}

/// As the status of Gateways is planned: it says what the nodes do with the newest generation.
fn of_gateway(gateway: &Gateway, revision: u64) -> Option<Waiting> {
    let metadata = &gateway.metadata;
    let addrs = ipam::written(metadata);
    if addrs.is_empty() || metadata.deletion_timestamp.is_some() {
        return None;
    }
    let shown = &gateway.status.addresses;
    let is_shown = |addr: &IpAddr| shown.iter().any(|a| a.value.as_ref().is_some_and(|v| v.parse() == Ok(*addr)));
    let programmed = gateway.status.conditions.iter().find(|condition| condition.type_ == "Programmed");
    let generation = Some(metadata.generation).filter(|generation| *generation > 0);
    let is_told = programmed.is_some_and(|c| c.status == "True" && c.observed_generation == generation);
    (!is_told || !addrs.iter().all(is_shown)).then_some(Waiting { revision, addrs, is_leaving: false })
}
