//! From which revision on an object is what it is to the nodes: a status, which the leader writes, is nothing that they program.
//!
//! In: one snapshot after the other. Out: the objects that differ, and for each the revision that nodes must have seen.
//!
//! # Design
//! Were it the newest revision, each write of a status would have to be seen, programmed and reported by the nodes before the
//! next one. What is not known (this process has just begun, or has missed what changed) is the newest revision, which is
//! later, never earlier.
use std::{collections::BTreeMap, sync::Arc};

use crate::{
    api::{Gateway, Kind, ObjectMeta, ObjectName, Service},
    model::ObjectRef,
    shared::{Difference, SharedMap},
    source::Snapshot,
};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Revisions {
    services: SharedMap<ObjectName, Arc<Service>>,
    gateways: SharedMap<ObjectName, Arc<Gateway>>,
    /// Of the objects whose last change was one of status alone, the revision before these.
    ///
    /// Shape: at most one per Service and Gateway that had a status written since this process began.
    since: BTreeMap<ObjectRef, u64>,
}

impl Revisions {
    /// Takes over a snapshot; the objects that are others, or gone. Cost: that of what differs.
    pub fn follow(&mut self, snapshot: &Snapshot) -> Vec<ObjectRef> {
        let mut changed = Vec::new();
        let services = std::mem::replace(&mut self.services, snapshot.services.clone());
        differ(&services, &snapshot.services, &mut self.since, &mut changed);
        let gateways = std::mem::replace(&mut self.gateways, snapshot.gateways.clone());
        differ(&gateways, &snapshot.gateways, &mut self.since, &mut changed);
        changed
    }

    /// The revision that a node must have seen to serve this object as it is; 0 for none.
    #[must_use]
    pub fn of(&self, object: &ObjectRef, metadata: &ObjectMeta) -> u64 {
        self.since.get(object).copied().unwrap_or_else(|| number(metadata))
    }
}

/// The revision of an object as the API server counts them; 0 where it has none.
pub(crate) fn number(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.parse().unwrap_or_default()
}

fn differ<T: Kind>(
    old: &SharedMap<ObjectName, Arc<T>>,
    new: &SharedMap<ObjectName, Arc<T>>,
    since: &mut BTreeMap<ObjectRef, u64>,
    changed: &mut Vec<ObjectRef>,
) {
    for Difference { key, old, new } in old.differences(new, |(_, a), (_, b)| Arc::ptr_eq(a, b)) {
        let object = ObjectRef::new(T::KIND, key.clone());
        match (old, new) {
            (Some(old), Some(new)) if old.is_quiet(new) => {
                since.entry(object.clone()).or_insert_with(|| number(old.metadata()));
            }
            _ => drop(since.remove(&object)),
        }
        changed.push(object);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::fixture;

    #[test]
    fn a_status_is_nothing_that_nodes_must_see() {
        let mut revisions = Revisions::default();
        let (mut snapshot, object) =
            (Snapshot::default(), ObjectRef::new("Service", ObjectName::new("default", "web")));
        for (revision, uid, port, status, want) in [
            (5, "a", 80, "", 5),
            (6, "a", 80, "192.0.2.1", 5),
            (9, "a", 80, "192.0.2.2", 5),
            (12, "a", 81, "192.0.2.2", 12),
            (13, "a", 81, "", 12),
            (20, "b", 81, "", 20),
        ] {
            let service = json!({"kind": "Service",
                "metadata": {"name": "web", "uid": uid, "resourceVersion": revision.to_string()},
                "spec": {"type": "LoadBalancer", "ports": [{"port": port}]},
                "status": {"loadBalancer": {"ingress": [{"ip": status}]}}});
            fixture::add(&mut snapshot, &service).unwrap();
            assert_eq!(revisions.follow(&snapshot), std::slice::from_ref(&object));
            assert_eq!(revisions.of(&object, &snapshot.services[&object.object].metadata), want, "revision {revision}");
        }
        assert!(revisions.follow(&snapshot).is_empty());
        snapshot.services.clear();
        assert_eq!(revisions.follow(&snapshot), [object]);
        assert!(revisions.since.is_empty());
    }
}
