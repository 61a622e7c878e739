//! The objects of one kind as its reflector knows them, and what becomes of a store when they change.
//!
//! In: objects as they come. Out: [`Change`]s of a store; none where nothing changed.
//!
//! # Design
//! - An object that is as it was keeps its identity, and what came is dropped at once. So a list of everything costs the memory of
//!   one object and of what changed, not of a second world, and a write that changes nothing that we read (a kubelet renews its
//!   Node's conditions every few minutes) is no work for anybody downstream.
//! - The map is a clone of the store's: they share runs and objects.
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Display,
    sync::Arc,
};

use super::{
    object::Received,
    reflector::{Change, Place, Store},
};
use crate::{api::Kind, shared::SharedMap, source::snapshot::Fault};

/// See the module.
pub(super) struct Known<T: Kind> {
    objects: SharedMap<T::Key, Arc<T>>,
    /// Those whose last state could not be read.
    faulty: BTreeSet<T::Key>,
    list: Option<List<T>>,
}

/// A list that is not complete.
struct List<T: Kind> {
    /// What was known, with what the list has changed of it.
    objects: SharedMap<T::Key, Arc<T>>,
    /// The addresses of the objects above that the list has. An object that was known lives until the list is complete, so that
    /// no other one gets its address.
    listed: HashSet<usize>,
    faults: BTreeMap<T::Key, String>,
    /// The highest revision that was met.
    newest: u64,
}

impl<T: Kind> Known<T>
where
    T::Key: Display,
{
    /// Nothing is known.
    pub(super) fn new() -> Self {
        Self { objects: SharedMap::new(), faulty: BTreeSet::new(), list: None }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether a list has begun and is not complete.
    pub(super) fn is_listing(&self) -> bool {
        self.list.is_some()
    }

    /// What comes from now on is all that there is. A list that was under way is forgotten.
    pub(super) fn begin(&mut self) {
        let objects = self.objects.clone();
        self.list = Some(List { objects, listed: HashSet::new(), faults: BTreeMap::new(), newest: 0 });
    }

    /// An object is as follows; what that changes, outside of a list.
    pub(super) fn apply<S: Store>(&mut self, received: Received<T>, place: &Place<T, S>) -> Option<Change<S>> {
        let key = T::key(&received.metadata);
        let at = revision(&received.metadata.resource_version);
        if let Some(list) = &mut self.list {
            list.apply(key, at, received.object);
            return None;
        }
        let (objects, seen) = (place.objects, place.seen);
        let was_faulty = self.faulty.remove(&key);
        match received.object {
            Ok(object) => {
                let is_same = self.objects.get(&key).is_some_and(|known| **known == *object);
                if is_same && !was_faulty && seen.is_none() {
                    return None;
                }
                if !is_same {
                    self.objects.insert(key.clone(), Arc::clone(&object));
                }
                Some(Box::new(move |store| {
                    note(seen, store, at);
                    if was_faulty {
                        forget::<T, S>(store, &key);
                    }
                    if !is_same {
                        objects(store).insert(key, object);
                    }
                }))
            }
            Err(reason) => {
                self.faulty.insert(key.clone());
                Some(Box::new(move |store| {
                    note(seen, store, at);
                    forget::<T, S>(store, &key);
                    store.faults().push(fault::<T>(&key, &reason));
                }))
            }
        }
    }

    /// An object is gone; what that changes, outside of a list.
    pub(super) fn delete<S: Store>(&mut self, received: &Received<T>, place: &Place<T, S>) -> Option<Change<S>> {
        let key = T::key(&received.metadata);
        let at = revision(&received.metadata.resource_version);
        if let Some(list) = &mut self.list {
            list.newest = list.newest.max(at);
            list.objects.remove(&key);
            list.faults.remove(&key);
            return None;
        }
        self.objects.remove(&key);
        self.faulty.remove(&key);
        let (objects, seen) = (place.objects, place.seen);
        Some(Box::new(move |store| {
            note(seen, store, at);
            forget::<T, S>(store, &key);
            objects(store).remove(&key);
        }))
    }

    /// The list is complete: what it does not have is gone.
    pub(super) fn complete<S: Store>(&mut self, place: &Place<T, S>) -> Change<S> {
        let (mut new, mut faults, mut newest) = (SharedMap::new(), BTreeMap::new(), 0);
        if let Some(list) = self.list.take() {
            (new, faults, newest) = (list.objects, list.faults, list.newest);
            new.retain(|_, object| list.listed.contains(&address(object)));
        }
        self.objects = new.clone();
        self.faulty = faults.keys().cloned().collect();
        let (objects, seen) = (place.objects, place.seen);
        Box::new(move |store| {
            note(seen, store, newest);
            let prefix = format!("{} ", T::KIND);
            store.faults().retain(|fault| !fault.origin.starts_with(&prefix));
            store.faults().extend(faults.iter().map(|(key, reason)| fault::<T>(key, reason)));
            *objects(store) = new;
        })
    }

    /// There are none.
    pub(super) fn clear<S: Store>(&mut self, place: &Place<T, S>) -> Change<S> {
        self.list = None;
        self.complete(place)
    }
}

impl<T: Kind> List<T> {
    fn apply(&mut self, key: T::Key, at: u64, object: Result<Arc<T>, String>) {
        self.newest = self.newest.max(at);
        let known = self.objects.get(&key);
        match object {
            Ok(object) => {
                self.faults.remove(&key);
                if let Some(known) = known.filter(|known| ***known == *object) {
                    self.listed.insert(address(known));
                } else {
                    self.listed.insert(address(&object));
                    self.objects.insert(key, object);
                }
            }
            Err(reason) => {
                self.listed.extend(known.map(address));
                self.faults.insert(key, reason);
            }
        }
    }
}

fn address<T>(object: &Arc<T>) -> usize {
    Arc::as_ptr(object).addr()
}

fn note<S>(seen: Option<fn(&mut S, u64)>, store: &mut S, at: u64) {
    if let Some(seen) = seen {
        seen(store, at);
    }
}

fn revision(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn origin<T: Kind>(key: &impl Display) -> String {
    format!("{} {key}", T::KIND)
}

fn forget<T: Kind, S: Store>(store: &mut S, key: &impl Display) {
    let known = origin::<T>(key);
    store.faults().retain(|fault| fault.origin != known);
}

fn fault<T: Kind>(key: &impl Display, reason: &str) -> Fault {
    Fault {
        origin: origin::<T>(key),
        line: None,
        object: None,
        reason: format!("{reason}; its last good state is kept"),
    }
}

#[cfg(test)]
mod tests;
