//! The Services and Gateways whose status is not known to be as it should be: a queue by object, fed by what differs from look
//! to look.
//!
//! In: snapshots, models, what the nodes report. Out: the objects to be planned, and those whose verdict may have to be told.
//! With 10,000 Services a look at each costs more than what has changed, and each write of one is such a look.
//!
//! # Design
//! - What is found to need nothing is left alone until what it was planned from is another, as far as that can be told: the
//!   object, its verdict, its addresses, what stands before or behind it, what a node says of it. All are planned again now and
//!   then all the same.
//! - What waits for nodes is not planned until they have programmed it: with each Lease that is read, one comparison.
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{openshift, service, view::View};
use crate::{
    api::{Gateway, Kind, ObjectName, OpenShiftRoute, Service},
    membership::Members,
    model::{Allocations, Model, ObjectRef, Verdict, chain::Chains, memo, report::GatewayReports},
    shared::SharedMap,
    source::{Snapshot, snapshot::Off},
};

/// See the module.
#[derive(Default)]
pub(super) struct Objects {
    /// To be planned.
    due: BTreeSet<ObjectRef>,
    /// Those that wait for nodes.
    waiting: BTreeSet<ObjectRef>,
    last: Last,
    /// When all were due.
    all_at: Option<Instant>,
}

/// What was seen at the last look.
#[derive(Clone, Default)]
struct Last {
    services: SharedMap<ObjectName, Arc<Service>>,
    gateways: SharedMap<ObjectName, Arc<Gateway>>,
    routes: SharedMap<ObjectName, Arc<OpenShiftRoute>>,
    verdicts: SharedMap<ObjectRef, Verdict>,
    wanted: Arc<Allocations>,
    allocations: Arc<Allocations>,
    announcers: Arc<BTreeMap<IpAddr, String>>,
    chains: Arc<Chains>,
    reports: Arc<GatewayReports>,
    members: Arc<Members>,
    off: BTreeMap<String, Off>,
}

impl Last {
    fn of(snapshot: &Snapshot, model: &Model, members: &Arc<Members>) -> Self {
        Self {
            services: snapshot.services.clone(),
            gateways: snapshot.gateways.clone(),
            routes: snapshot.openshift_routes.clone(),
            verdicts: model.verdicts.clone(),
            wanted: Arc::clone(&model.wanted),
            allocations: Arc::clone(&model.allocations),
            announcers: Arc::clone(&model.announcers),
            chains: Arc::clone(&model.chains),
            reports: Arc::clone(&model.gateways),
            members: Arc::clone(members),
            off: snapshot.off.clone(),
        }
    }
}

impl Objects {
    /// Takes over what has changed; all are due when none was looked at for `again`. The objects of any kind that differ, or
    /// whose verdict does. Cost: that of what differs, and a comparison for each that waits for nodes.
    pub(super) fn look(
        &mut self,
        snapshot: &Snapshot,
        view: &View<'_>,
        members: &Arc<Members>,
        again: Duration,
    ) -> BTreeSet<ObjectRef> {
        // A kind that comes or goes is a feature of many objects.
        if self.all_at.is_none_or(|at| at.elapsed() >= again) || self.last.off != snapshot.off {
            *self = Self { all_at: Some(Instant::now()), ..Self::default() };
        }
        let new = Last::of(snapshot, view.model, members);
        let old = std::mem::replace(&mut self.last, new.clone());
        let mut changed: BTreeSet<ObjectRef> =
            old.verdicts.differences(&new.verdicts, |(_, a), (_, b)| a == b).map(|d| d.key.clone()).collect();
        let services = old.services.differences(&new.services, |(_, a), (_, b)| Arc::ptr_eq(a, b));
        changed.extend(services.map(|d| ObjectRef::new(Service::KIND, d.key.clone())));
        let gateways = old.gateways.differences(&new.gateways, |(_, a), (_, b)| Arc::ptr_eq(a, b));
        changed.extend(gateways.map(|d| ObjectRef::new(Gateway::KIND, d.key.clone())));
        self.due.extend(changed.iter().cloned());
        for (old, new) in [(&old.wanted, &new.wanted), (&old.allocations, &new.allocations)] {
            self.due.extend(differences(old, new).cloned());
        }
        let of = |kind: &'static str| move |name: &ObjectName| ObjectRef::new(kind, name.clone());
        self.due.extend(differences(&old.chains, &new.chains).map(of(Service::KIND)));
        self.due.extend(differences(&old.reports, &new.reports).map(of(Gateway::KIND)));
        for route in old.routes.differences(&new.routes, |(_, a), (_, b)| Arc::ptr_eq(a, b)) {
            self.due.extend(openshift::service_of(route.key).map(|name| ObjectRef::new(Service::KIND, name)));
        }
        if !Arc::ptr_eq(&old.members, &new.members) {
            self.due.extend(spoken_of(&old.members, &new.members, &new.wanted));
        }
        // They are as they were, or due by now.
        if !Arc::ptr_eq(&old.members, &new.members) || !Arc::ptr_eq(&old.announcers, &new.announcers) {
            let free = self.waiting.extract_if(.., |object| !waits(object, snapshot, view));
            self.due.extend(free);
        }
        self.due.retain(|object| is_there(object, snapshot));
        self.waiting.retain(|object| is_there(object, snapshot));
        changed
    }

    /// To be planned.
    pub(super) fn due(&self) -> &BTreeSet<ObjectRef> {
        &self.due
    }

    /// Nothing is to be written to this one, as things are.
    pub(super) fn is_well(&mut self, object: &ObjectRef, snapshot: &Snapshot, view: &View<'_>) {
        if self.due.remove(object) && waits(object, snapshot, view) {
            self.waiting.insert(object.clone());
        } else {
            self.waiting.remove(object);
        }
    }
}

fn is_there(object: &ObjectRef, snapshot: &Snapshot) -> bool {
    match object.kind.as_str() {
        Service::KIND => snapshot.services.contains_key(&object.object),
        Gateway::KIND => snapshot.gateways.contains_key(&object.object),
        _ => false,
    }
}

/// Whether an object waits for what nodes will report.
fn waits(object: &ObjectRef, snapshot: &Snapshot, view: &View<'_>) -> bool {
    let wanted = view.model.wanted.get(object).map(Vec::as_slice).unwrap_or_default();
    let service = snapshot.services.get(&object.object).filter(|_| object.kind == Service::KIND);
    let gateway = snapshot.gateways.get(&object.object).filter(|_| object.kind == Gateway::KIND);
    match (service, gateway) {
        (Some(service), _) if wanted.is_empty() => service::waits_for_release(service, view),
        (Some(service), _) => !view.is_programmed(object, &service.metadata, wanted),
        (_, Some(gateway)) => !wanted.is_empty() && !view.is_programmed(object, &gateway.metadata, wanted),
        (None, None) => false,
    }
}

/// The keys whose values are not the same in both.
fn differences<'a, K: Ord, V: PartialEq>(
    old: &'a Arc<BTreeMap<K, V>>,
    new: &'a Arc<BTreeMap<K, V>>,
) -> impl Iterator<Item = &'a K> {
    let are_others = (!Arc::ptr_eq(old, new)).then(|| memo::differences(old, new, |(_, a), (_, b)| a == b));
    are_others.into_iter().flatten().map(|difference| difference.key)
}

/// The objects of which a node says something, or did: that another host has an address, that an endpoint is out of reach.
fn spoken_of(old: &Members, new: &Members, wanted: &Allocations) -> BTreeSet<ObjectRef> {
    let said = |members: &Members| {
        let of = members.alive.iter().filter(|(_, r)| !r.lacking.is_empty() || !r.conflicts.is_empty());
        of.map(|(node, r)| (node.clone(), (r.lacking.clone(), r.conflicts.clone()))).collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (said(old), said(new));
    // How many live makes a difference to what is said.
    if before == after && (after.is_empty() || old.alive.len() == new.alive.len()) {
        return BTreeSet::new();
    }
    let all = || before.values().chain(after.values());
    let lacking =
        all().flat_map(|(lacking, _)| lacking.keys()).filter_map(|name| ObjectRef::try_from(name.clone()).ok());
    let addrs: BTreeSet<&IpAddr> = all().flat_map(|(_, conflicts)| conflicts.keys()).collect();
    let contested = wanted.iter().filter(|(_, has)| !addrs.is_empty() && has.iter().any(|addr| addrs.contains(addr)));
    lacking.chain(contested.map(|(object, _)| object.clone())).collect()
}

#[cfg(test)]
mod tests;
