//! What a compile remembers for the next one, so that an event costs what it touches.
//!
//! In: a snapshot and the node. Out: the model that [`super::compile`] makes of them; a property test compares. What is
//! equal to what the last model held is the very same `Arc`, so that the stages after this one may compare pointers.
//!
//! # Design
//! - Objects are compared by pointer alone: a snapshot shares those that did not change with the one before.
//! - When nothing but EndpointSlices changed, no address and no frontend comes or goes: the Services of these slices are
//!   compiled anew within the last model. Any other change compiles everything, with the targets of Services that are as
//!   they were.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Model, Node, endpoints::SliceIndex, gateway, ipam, route, service};
use crate::{api::ObjectName, source::Snapshot};

/// See the module. A new one remembers nothing.
#[derive(Debug, Default)]
pub struct Memo {
    snapshot: Arc<Snapshot>,
    /// `None` before the first model.
    node: Option<Node>,
    slices: SliceIndex,
    targets: service::Targets,
    model: Arc<Model>,
}

impl Memo {
    /// As [`super::compile`]; models are counted from 1.
    pub fn compile(&mut self, snapshot: &Arc<Snapshot>, node: &Node) -> Arc<Model> {
        let touched = self.index(snapshot);
        let last = &self.snapshot;
        let only_slices = self.node.as_ref() == Some(node)
            && same(&last.services, &snapshot.services)
            && same(&last.gateways, &snapshot.gateways)
            && same(&last.http_routes, &snapshot.http_routes);
        let mut model = if only_slices {
            self.follow_slices(snapshot, node, &touched)
        } else {
            self.compile_all(snapshot, node, &touched)
        };
        model.rev = self.model.rev + 1;
        model.seen = snapshot.seen;
        model.partial = !snapshot.faults.is_empty();
        self.model = Arc::new(model);
        // An equal node with another map of addresses is compared by that pointer the next time.
        self.node = Some(node.clone());
        self.snapshot = Arc::clone(snapshot);
        Arc::clone(&self.model)
    }

    /// Brings the index of slices up to date; the Services that had or have a slice that changed.
    fn index(&mut self, snapshot: &Snapshot) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        for Difference { key, old, new } in changed(&self.snapshot.slices, &snapshot.slices) {
            for service in [old, new].into_iter().flatten().filter_map(|slice| slice.service_name()) {
                self.slices.remove(&service, key);
                touched.insert(service);
            }
            if let Some(slice) = new {
                self.slices.insert(key, slice);
            }
        }
        touched
    }

    /// The last model with the endpoints of these Services as they are now.
    fn follow_slices(&mut self, snapshot: &Snapshot, node: &Node, touched: &BTreeSet<ObjectName>) -> Model {
        let mut model = Model::clone(&self.model);
        let mut compiler = service::Compiler::new(&self.slices, node, touched, &mut self.targets, &model);
        for service in touched.iter().filter_map(|name| snapshot.services.get(name)) {
            compiler.add(service, &mut model);
        }
        let stale = model.http.services.keys().filter(|port| touched.contains(&port.service));
        let mut fresh = Vec::new();
        for port in stale {
            let backends = route::backends(snapshot, &self.slices, node, port);
            if model.http.services.get(port) != Some(&backends) {
                fresh.push((port.clone(), backends));
            }
        }
        if !fresh.is_empty() {
            Arc::make_mut(&mut model.http).services.extend(fresh);
        }
        model
    }

    fn compile_all(&mut self, snapshot: &Snapshot, node: &Node, touched: &BTreeSet<ObjectName>) -> Model {
        let mut claims = service::claims(snapshot);
        claims.extend(gateway::claims(snapshot));
        let (allocations, refusals) = ipam::assign(&claims, node);
        let mut model = Model {
            allocations: keep(&self.model.allocations, Arc::new(allocations)),
            verdicts: Arc::new(refusals.into_iter().collect()),
            ..Model::default()
        };
        let is_same_node = self.node.as_ref().is_some_and(|last| last.name == node.name && last.zone == node.zone);
        if !is_same_node {
            self.targets.distrust();
        }
        let mut compiler = service::Compiler::new(&self.slices, node, touched, &mut self.targets, &model);
        for service in service::by_age(snapshot) {
            compiler.add(service, &mut model);
        }
        self.targets.retain(&model);
        gateway::compile(snapshot, &self.slices, node, &mut model);
        model.http = keep(&self.model.http, model.http);
        model.verdicts = keep(&self.model.verdicts, model.verdicts);
        model
    }
}

/// The old one of two that are equal.
fn keep<T: PartialEq>(old: &Arc<T>, new: Arc<T>) -> Arc<T> {
    if **old == *new { Arc::clone(old) } else { new }
}

/// A key whose values are not the same.
pub(crate) struct Difference<'a, K, V> {
    pub(crate) key: &'a K,
    pub(crate) old: Option<&'a V>,
    pub(crate) new: Option<&'a V>,
}

/// The objects that are not the very same in both. Cost: a comparison of two pointers for each that is.
fn changed<'a, V>(
    old: &'a BTreeMap<ObjectName, Arc<V>>,
    new: &'a BTreeMap<ObjectName, Arc<V>>,
) -> impl Iterator<Item = Difference<'a, ObjectName, Arc<V>>> {
    // One object has one name: that need not be compared.
    differences(old, new, |(_, a), (_, b)| Arc::ptr_eq(a, b))
}

fn same<V>(old: &BTreeMap<ObjectName, Arc<V>>, new: &BTreeMap<ObjectName, Arc<V>>) -> bool {
    changed(old, new).next().is_none()
}

/// Walks two maps side by side and yields, in order, what `is_same` does not find the same.
pub(crate) fn differences<'a, K: Ord, V>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
    is_same: impl Fn((&K, &V), (&K, &V)) -> bool,
) -> impl Iterator<Item = Difference<'a, K, V>> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(a), Some(b)) if is_same(*a, *b) => {
                    old.next();
                    new.next();
                    continue;
                }
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let key = before.or(after)?.0;
            return Some(Difference { key, old: before.map(|(_, v)| v), new: after.map(|(_, v)| v) });
        }
    })
}
