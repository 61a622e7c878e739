//! What a list and single changes make of a store, and how many objects live meanwhile.
use std::{
    cell::Cell,
    sync::{Arc, Weak},
};

use serde::{Deserialize, Deserializer};
use serde_json::json;

use super::*;
use crate::{
    api::{Node, ObjectMeta, ObjectName, Service},
    source::Snapshot,
};

fn services() -> Place<Service, Snapshot> {
    Place {
        objects: |s| &mut s.services,
        seen: Some(|s, at| s.seen.services = s.seen.services.max(at)),
        namespace: None,
        counts_agents: false,
    }
}

fn service(name: &str, revision: u64, port: &serde_json::Value) -> Received<Service> {
    let metadata = json!({"name": name, "namespace": "shop", "resourceVersion": revision.to_string()});
    serde_json::from_value(json!({"metadata": metadata, "spec": {"ports": [{"port": port}]}})).unwrap()
}

fn names(store: &Snapshot) -> Vec<&str> {
    store.services.keys().map(|key| key.name.as_str()).collect()
}

fn list(known: &mut Known<Service>, objects: Vec<Received<Service>>, store: &mut Snapshot) {
    known.begin();
    for object in objects {
        assert!(known.apply(object, &services()).is_none(), "a list is told at its end");
    }
    known.complete(&services())(store);
}

#[test]
fn a_list_keeps_what_is_as_it_was_and_drops_what_it_does_not_have() {
    let (mut known, mut store) = (Known::new(), Snapshot::default());
    let at = |revision| vec![service("a", 1, &80.into()), service("b", revision, &80.into())];
    list(&mut known, [at(2), vec![service("c", 3, &80.into())]].concat(), &mut store);
    assert_eq!((names(&store), store.seen.services), (vec!["a", "b", "c"], 3));
    let before = store.clone();
    list(&mut known, [at(7), vec![service("d", 5, &80.into())]].concat(), &mut store);
    assert_eq!((names(&store), store.seen.services), (vec!["a", "b", "d"], 7));
    let same = |name: &str| {
        let key = ObjectName::new("shop", name);
        Arc::ptr_eq(&before.services[&key], &store.services[&key])
    };
    assert_eq!((same("a"), same("b")), (true, false));
    // What a list took back again, and one that breaks off, leave nothing.
    known.begin();
    assert!(known.apply(service("e", 8, &80.into()), &services()).is_none());
    known.begin();
    assert!(known.apply(service("f", 9, &80.into()), &services()).is_none());
    assert!(known.delete(&service("f", 10, &80.into()), &services()).is_none());
    known.complete(&services())(&mut store);
    assert!(store.services.is_empty() && store.seen.services == 10 && known.len() == 0);
}

#[test]
fn what_cannot_be_read_keeps_its_last_good_state_and_is_a_fault_until_it_can() {
    let (mut known, mut store) = (Known::new(), Snapshot::default());
    list(&mut known, vec![service("a", 1, &80.into())], &mut store);
    let good = Arc::clone(&store.services[&ObjectName::new("shop", "a")]);
    for in_list in [true, false] {
        let bad = || service("a", 2, &"eighty".into());
        if in_list {
            list(&mut known, vec![bad(), service("b", 2, &"http".into())], &mut store);
        } else {
            known.apply(bad(), &services()).unwrap()(&mut store);
        }
        assert!(Arc::ptr_eq(&good, &store.services[&ObjectName::new("shop", "a")]), "in a list: {in_list}");
        assert_eq!(names(&store), ["a"]);
        let origins: Vec<_> = store.faults.iter().map(|fault| fault.origin.as_str()).collect();
        assert!(origins.contains(&"Service shop/a"), "{origins:?}");
    }
    known.apply(service("a", 1, &80.into()), &services()).unwrap()(&mut store);
    known.delete(&service("b", 3, &80.into()), &services()).unwrap()(&mut store);
    assert!(store.faults.is_empty(), "{:?}", store.faults);
    assert!(Arc::ptr_eq(&good, &store.services[&ObjectName::new("shop", "a")]), "the very same");
}

#[test]
fn a_heartbeat_of_a_kubelet_is_no_change() {
    let node = |ready: &str, time: &str| -> Received<Node> {
        let condition = json!({"type": "Ready", "status": ready, "lastHeartbeatTime": time, "reason": time});
        let images = json!([{"names": [time], "sizeBytes": 1}]);
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "resourceVersion": time, "managedFields": [{"time": time}]},
            "status": {"conditions": [condition], "images": images, "allocatable": {"cpu": time}},
        }))
        .unwrap()
    };
    let place = Place::<Node, Snapshot> { objects: |s| &mut s.nodes, seen: None, namespace: None, counts_agents: true };
    let mut known = Known::new();
    assert!(known.apply(node("True", "1"), &place).is_some());
    let changes = (2..5000).filter(|time| known.apply(node("True", &time.to_string()), &place).is_some()).count();
    assert_eq!(changes, 0);
    assert!(known.apply(node("False", "5000"), &place).is_some());
}

thread_local! {
    static LIVE: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Counts how many of it live, and how many did at most.
#[derive(Debug, PartialEq)]
struct Counted(ObjectMeta);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let read = Service::deserialize(deserializer)?;
        let (live, most) = LIVE.get();
        LIVE.set((live + 1, most.max(live + 1)));
        Ok(Self(read.metadata))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (live, most) = LIVE.get();
        LIVE.set((live - 1, most));
    }
}

impl Kind for Counted {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Counted";
    const PLURAL: &'static str = "counted";
    const IS_CUSTOM: bool = false;
    const IS_NAMESPACED: bool = true;
    const KEEPS_REVISION: bool = true;
    type Key = ObjectName;

    fn metadata(&self) -> &ObjectMeta {
        &self.0
    }

    fn is_quiet(&self, new: &Self) -> bool {
        self == new
    }

    fn key(metadata: &ObjectMeta) -> ObjectName {
        metadata.object_name()
    }
}

#[derive(Default)]
struct World {
    objects: SharedMap<ObjectName, Arc<Counted>>,
    faults: Vec<Fault>,
}

impl Store for World {
    fn faults(&mut self) -> &mut Vec<Fault> {
        &mut self.faults
    }
}

#[test]
fn a_list_of_everything_costs_one_object_and_what_changed() {
    const ALL: usize = 10_000;
    const CHANGED: usize = 10;
    let place = Place::<Counted, World> {
        objects: |world| &mut world.objects,
        seen: None,
        namespace: None,
        counts_agents: false,
    };
    let (mut known, mut world) = (Known::<Counted>::new(), World::default());
    let mut read = |changed: usize, world: &mut World| {
        LIVE.set((LIVE.get().0, 0));
        known.begin();
        for number in 0..ALL {
            let revision = if number < changed { 2 } else { 1 };
            let metadata =
                json!({"name": number.to_string(), "namespace": "shop", "resourceVersion": revision.to_string()});
            let received = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
            assert!(known.apply(received, &place).is_none());
        }
        known.complete(&place)(world);
        LIVE.get()
    };
    assert_eq!(read(0, &mut world), (ALL, ALL));
    let before: Vec<Weak<Counted>> = world.objects.values().map(Arc::downgrade).collect();
    assert_eq!(read(CHANGED, &mut world), (ALL, ALL + CHANGED + 1), "live at the end, and at most");
    assert_eq!(before.iter().filter(|object| object.upgrade().is_none()).count(), CHANGED);
    // And the two maps are one: neither has a run of its own.
    assert!(known.objects.is_one(&world.objects));
}
