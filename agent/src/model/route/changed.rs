//! Which routes must be looked at again, from one snapshot to the next.
//!
//! A route's rules depend on its object, on the Services that they were looked up in and, where a reference leads to another
//! namespace, on the ReferenceGrants. What its parents answer depends on its object, the listeners of the Gateways that they lead to,
//! the ListenerSets and, where namespaces are chosen by their labels, these. A kind that counts for rules in another way has its line in
//! [`Routes::changed`].
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Routes;
use crate::{
    api::{Kind, ObjectName, Route},
    model::{listener, quiet, report::RouteKey},
    shared::{Difference, SharedMap},
    source::Snapshot,
};

/// What of a route must be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::model) enum Change {
    /// Where it is attached.
    Parents,
    /// All of it.
    Rules,
}

/// What has changed since the last compile.
#[derive(Debug, Default)]
pub(in crate::model) struct Changed {
    /// Routes that came, went, or are to be made anew.
    pub(in crate::model) routes: BTreeMap<RouteKey, Change>,
    /// Gateways that came or went, or have other listeners.
    pub(in crate::model) gateways: BTreeSet<ObjectName>,
}

impl Changed {
    fn add(&mut self, key: RouteKey, change: Change) {
        let known = self.routes.entry(key).or_insert(change);
        *known = change.max(*known);
    }

    fn add_kind<T: Route>(&mut self, last: &SharedMap<ObjectName, Arc<T>>, new: &SharedMap<ObjectName, Arc<T>>) {
        for name in differing(last, new) {
            self.add((T::ROUTE, name.clone()), Change::Rules);
        }
    }
}

impl Routes {
    /// The routes whose own objects are others, or what their rules refer to.
    pub(in crate::model) fn changed(&self, last: &Snapshot, new: &Snapshot) -> Changed {
        let mut changed = Changed::default();
        changed.add_kind(&last.http_routes, &new.http_routes);
        changed.add_kind(&last.grpc_routes, &new.grpc_routes);
        changed.add_kind(&last.tls_routes, &new.tls_routes);
        changed.add_kind(&last.tcp_routes, &new.tcp_routes);
        changed.add_kind(&last.udp_routes, &new.udp_routes);
        for service in differing(&last.services, &new.services) {
            for key in self.referrers.get(service).into_iter().flatten() {
                changed.add(key.clone(), Change::Rules);
            }
        }
        // What a port may be spoken to in depends on whether it has a policy.
        for policy in differing(&last.backend_tls_policies, &new.backend_tls_policies) {
            let both = [last, new].into_iter().filter_map(|snapshot| snapshot.backend_tls_policies.get(policy));
            for target in both.flat_map(|found| &found.spec.target_refs) {
                let service = ObjectName::new(&policy.ns, &target.name);
                for key in self.referrers.get(&service).into_iter().flatten() {
                    changed.add(key.clone(), Change::Rules);
                }
            }
        }
        if !quiet::all(&last.grants, &new.grants) {
            for (key, _) in self.known.iter().filter(|(_, known)| known.references.crosses) {
                changed.add(key.clone(), Change::Rules);
            }
        }
        changed
    }

    /// Adds the routes whose parents may answer something else, and the Gateways among `of_ours` and others that came or went.
    pub(in crate::model) fn add_parents(
        &self,
        changed: &mut Changed,
        (last, new): (&Snapshot, &Snapshot),
        of_ours: BTreeSet<ObjectName>,
    ) {
        changed.gateways = of_ours;
        let gateways = last.gateways.differences(&new.gateways, |(_, a), (_, b)| Arc::ptr_eq(a, b));
        let came_or_went = gateways.filter(|gateway| gateway.old.is_none() || gateway.new.is_none());
        changed.gateways.extend(came_or_went.map(|gateway| gateway.key.clone()));
        let asks_all = !quiet::all(&last.listener_sets, &new.listener_sets)
            || (listener::uses_namespaces(new) && !quiet::all(&last.namespaces, &new.namespaces));
        let is_asked = |gateways: &[ObjectName]| asks_all || gateways.iter().any(|of| changed.gateways.contains(of));
        let asked = self.known.iter().filter(|(_, known)| is_asked(&known.gateways));
        let keys: Vec<RouteKey> = asked.map(|(key, _)| key.clone()).collect();
        keys.into_iter().for_each(|key| changed.add(key, Change::Parents));
    }
}

/// The objects that came, went or changed in what counts.
fn differing<'a, T: Kind>(
    last: &'a SharedMap<T::Key, Arc<T>>,
    new: &'a SharedMap<T::Key, Arc<T>>,
) -> impl Iterator<Item = &'a T::Key> {
    let differences = last.differences(new, |(_, a), (_, b)| Arc::ptr_eq(a, b));
    let counts = |Difference { key: _, old, new }: &Difference<'_, T::Key, Arc<T>>| match (old, new) {
        (Some(old), Some(new)) => !old.is_quiet(new),
        _ => true,
    };
    differences.filter(counts).map(|difference| difference.key)
}
