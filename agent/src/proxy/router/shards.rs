//! A hash map in parts, whose copies share the parts that have not changed: what is looked up for every request and replaced entry by
//! entry.
//!
//! # Design
//! A change copies one part, which has some tens of entries however many there are, and one pointer for each part. A
//! [`crate::shared::SharedMap`] does likewise and keeps an order, but compares keys where this one hashes them twice: of 5,000 host
//! names that is a dozen strings in as many places of memory, for each request.
use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
};

use crate::stable::{BASIS, fnv1a};

/// Entries of a part, on the average, at most; beyond it there are twice as many parts.
const PART: usize = 32;

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Shards<K, V> {
    /// None, or a power of two.
    parts: Vec<Arc<HashMap<K, V>>>,
    len: usize,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self { parts: Vec::new(), len: 0 }
    }
}

impl<K, V> Shards<K, V> {
    /// Every value, in no order.
    pub(in crate::proxy) fn values(&self) -> impl Iterator<Item = &V> {
        self.parts.iter().flat_map(|part| part.values())
    }
}

impl<K: Hash + Eq, V> Shards<K, V> {
    /// The value of a key.
    pub(in crate::proxy) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.parts.get(self.part(key))?.get(key)
    }

    /// In which part a key is, or would be.
    fn part<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        let mut hasher = Fnv(BASIS);
        key.hash(&mut hasher);
        let hash = hasher.finish();
        // The lower half has less of the last bytes than the upper one.
        (hash ^ (hash >> 32)) as usize & self.parts.len().saturating_sub(1)
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Shards<K, V> {
    /// Sets the value of a key.
    pub(in crate::proxy) fn insert(&mut self, key: K, value: V) {
        if self.len >= PART * self.parts.len() {
            self.grow();
        }
        let part = self.part(&key);
        if Arc::make_mut(&mut self.parts[part]).insert(key, value).is_none() {
            self.len += 1;
        }
    }

    /// Removes a key.
    pub(in crate::proxy) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        if self.get(key).is_none() {
            return;
        }
        let part = self.part(key);
        Arc::make_mut(&mut self.parts[part]).remove(key);
        self.len -= 1;
        if self.len == 0 {
            self.parts.clear();
        }
    }

    fn grow(&mut self) {
        let count = (2 * self.parts.len()).max(1);
        let old = std::mem::replace(&mut self.parts, vec![Arc::default(); count]);
        for (key, value) in old.into_iter().flat_map(Arc::unwrap_or_clone) {
            let part = self.part(&key);
            Arc::make_mut(&mut self.parts[part]).insert(key, value);
        }
    }
}

/// FNV-1a: short keys, and nobody is harmed by one part that is larger than others. Within a part the standard hash decides.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = fnv1a(self.0, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_shares_all_parts_but_those_that_change() {
        let mut map: Shards<String, usize> = Shards::default();
        assert_eq!(map.get("0"), None);
        (0..5_000).for_each(|n| map.insert(n.to_string(), n));
        assert!((0..5_000).all(|n| map.get(n.to_string().as_str()) == Some(&n)) && map.get("5000").is_none());
        let largest = map.parts.iter().map(|part| part.len()).max();
        assert!(largest < Some(3 * PART), "{largest:?}");
        let mut copy = map.clone();
        copy.insert("17".to_owned(), 0);
        copy.remove("no such key");
        let shared = map.parts.iter().zip(&copy.parts).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
        assert_eq!((shared, map.get("17"), copy.get("17")), (map.parts.len() - 1, Some(&17), Some(&0)));
        (0..5_000).for_each(|n| copy.remove(n.to_string().as_str()));
        assert_eq!((copy.len, copy.parts.len(), map.len), (0, 0, 5_000));
    }
}
