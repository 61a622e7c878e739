//! An ordered map whose clones share what they have in common: what is handed from stage to stage at every change.
//!
//! # Design
//! Sorted runs of [`CHUNK`] entries at most, each in an `Arc`. A clone copies one pointer per run, a change copies one
//! run, and two maps of one origin are compared without looking into the runs that they share. So a change of one of
//! 10,000 objects costs microseconds, where cloning a `BTreeMap` and walking both costs milliseconds.
#[cfg(test)]
mod tests;

use std::{borrow::Borrow, cmp::Ordering, fmt, ops::Index, slice, sync::Arc};

/// Entries of one run at most.
const CHUNK: usize = 32;

/// See the module.
pub struct SharedMap<K, V> {
    /// Each sorted and not empty, and all of one less than all of the next.
    chunks: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

/// A key whose values are not the same.
pub struct Difference<'a, K, V> {
    /// The key.
    pub key: &'a K,
    /// Its value before.
    pub old: Option<&'a V>,
    /// Its value after.
    pub new: Option<&'a V>,
}

impl<K, V> SharedMap<K, V> {
    /// An empty map.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// The entries in the order of their keys.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { chunks: self.chunks.iter(), rest: [].iter() }
    }

    /// The keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key).ok()?;
        Some(&self.chunks[chunk][at].1)
    }

    /// Whether a key is there.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// What differs between two maps, in the order of the keys; what they share is not asked about. `is_same` gets the key
    /// and the value of each.
    ///
    /// Cost: of what is shared, one comparison of pointers per run.
    pub fn differences<'a>(
        &'a self,
        new: &'a Self,
        is_same: impl Fn((&K, &V), (&K, &V)) -> bool,
    ) -> impl Iterator<Item = Difference<'a, K, V>> {
        let (mut before, mut after) = (Cursor::new(self), Cursor::new(new));
        std::iter::from_fn(move || {
            loop {
                if before.is_at_start_of_same(&after) {
                    (before, after) = (before.next_chunk(), after.next_chunk());
                    continue;
                }
                let (old, new) = (before.get(), after.get());
                let order = match (old, new) {
                    (None, None) => return None,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some((a, _)), Some((b, _))) => a.cmp(b),
                };
                let (old, new) = (old.filter(|_| order.is_le()), new.filter(|_| order.is_ge()));
                if old.is_some() {
                    before = before.next();
                }
                if new.is_some() {
                    after = after.next();
                }
                match (old, new) {
                    (Some((a, x)), Some((b, y))) if is_same((a, x), (b, y)) => {}
                    (Some((key, old)), new) => {
                        return Some(Difference { key, old: Some(old), new: new.map(|(_, new)| new) });
                    }
                    (None, Some((key, new))) => return Some(Difference { key, old: None, new: Some(new) }),
                    (None, None) => return None,
                }
            }
        })
    }

    /// Whether two maps are one: a clone of the other, and neither has changed since.
    #[must_use]
    pub fn is_one(&self, other: &Self) -> bool {
        self.len == other.len
            && self.chunks.len() == other.chunks.len()
            && self.chunks.iter().zip(&other.chunks).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Whether two maps have the very same values under the same keys.
    ///
    /// Cost: as [`Self::differences`].
    #[must_use]
    pub fn is_same<T>(&self, other: &Self) -> bool
    where
        V: Borrow<Arc<T>>,
    {
        self.len == other.len
            && self.differences(other, |(_, a), (_, b)| Arc::ptr_eq(a.borrow(), b.borrow())).next().is_none()
    }

    /// The run and the place in it where a key is, or where it belongs.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<(usize, usize), (usize, usize)>
    where
        K: Borrow<Q>,
    {
        // The last run that does not begin after it.
        let begins = |chunk: &Arc<Vec<(K, V)>>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        let chunk = self.chunks.partition_point(begins).saturating_sub(1);
        let Some(entries) = self.chunks.get(chunk) else { return Err((0, 0)) };
        match entries.binary_search_by(|(known, _)| known.borrow().cmp(key)) {
            Ok(at) => Ok((chunk, at)),
            Err(at) => Err((chunk, at)),
        }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key).ok()?;
        Some(&mut Arc::make_mut(&mut self.chunks[chunk])[at].1)
    }

    /// The values in the order of their keys, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.chunks.iter_mut().flat_map(|chunk| Arc::make_mut(chunk).iter_mut().map(|(_, value)| value))
    }

    /// Sets the value of a key; returns the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, at) = match self.find(&key) {
            Ok((chunk, at)) => {
                let known = &mut Arc::make_mut(&mut self.chunks[chunk])[at].1;
                return Some(std::mem::replace(known, value));
            }
            Err(place) => place,
        };
        self.len += 1;
        let Some(entries) = self.chunks.get_mut(chunk) else {
            self.chunks.push(Arc::new(vec![(key, value)]));
            return None;
        };
        let entries = Arc::make_mut(entries);
        entries.insert(at, (key, value));
        if entries.len() > CHUNK {
            // What comes in order leaves full runs behind.
            let keep = if at + 1 == entries.len() { CHUNK } else { CHUNK / 2 };
            let rest = entries.split_off(keep);
            self.chunks.insert(chunk + 1, Arc::new(rest));
        }
        None
    }

    /// Removes a key; returns the value that it had.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key).ok()?;
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        let (_, value) = entries.remove(at);
        let left = entries.len();
        self.len -= 1;
        let next = self.chunks.get(chunk + 1).map(|next| next.len());
        if left == 0 {
            self.chunks.remove(chunk);
        } else if let Some(next) = next
            && left + next <= CHUNK / 2
        {
            let next = Arc::unwrap_or_clone(self.chunks.remove(chunk + 1));
            Arc::make_mut(&mut self.chunks[chunk]).extend(next);
        }
        Some(value)
    }

    /// Keeps the entries for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        for chunk in &mut self.chunks {
            let kept: Vec<bool> = chunk.iter().map(|(key, value)| keep(key, value)).collect();
            if kept.contains(&false) {
                let mut kept = kept.into_iter();
                Arc::make_mut(chunk).retain(|_| kept.next().unwrap_or(true));
            }
        }
        self.chunks.retain(|chunk| !chunk.is_empty());
        self.len = self.chunks.iter().map(|chunk| chunk.len()).sum();
    }
}

/// A place in a map.
struct Cursor<'a, K, V> {
    map: &'a SharedMap<K, V>,
    chunk: usize,
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(map: &'a SharedMap<K, V>) -> Self {
        Self { map, chunk: 0, at: 0 }
    }

    fn get(&self) -> Option<(&'a K, &'a V)> {
        self.map.chunks.get(self.chunk).map(|entries| (&entries[self.at].0, &entries[self.at].1))
    }

    fn next(&self) -> Self {
        let is_last = self.map.chunks.get(self.chunk).is_some_and(|entries| self.at + 1 == entries.len());
        if is_last { self.next_chunk() } else { Self { map: self.map, chunk: self.chunk, at: self.at + 1 } }
    }

    fn next_chunk(&self) -> Self {
        Self { map: self.map, chunk: self.chunk + 1, at: 0 }
    }

    /// Whether both stand before the very same run.
    fn is_at_start_of_same(&self, other: &Self) -> bool {
        let chunk = |c: &Self| c.map.chunks.get(c.chunk);
        self.at == 0 && other.at == 0 && chunk(self).zip(chunk(other)).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// The entries of a [`SharedMap`].
pub struct Iter<'a, K, V> {
    chunks: slice::Iter<'a, Arc<Vec<(K, V)>>>,
    rest: slice::Iter<'a, (K, V)>,
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), rest: self.rest.clone() }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.rest.next() {
                return Some((key, value));
            }
            self.rest = self.chunks.next()?.iter();
        }
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K: Clone, V: Clone> IntoIterator for SharedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::iter::FlatMap<
        std::vec::IntoIter<Arc<Vec<(K, V)>>>,
        std::vec::IntoIter<(K, V)>,
        fn(Arc<Vec<(K, V)>>) -> std::vec::IntoIter<(K, V)>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.chunks.into_iter().flat_map(|chunk| Arc::unwrap_or_clone(chunk).into_iter())
    }
}

// Derived, they would want more of keys and values than they need.
impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    /// Cost: as [`SharedMap::differences`].
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other, |(_, a), (_, b)| a == b).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    /// Of entries with one key the last one is taken.
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut entries: Vec<(K, V)> = entries.into_iter().collect();
        // Stable, so that the last of equal keys is the last.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut chunks: Vec<Vec<(K, V)>> = Vec::new();
        let mut len = 0;
        for (key, value) in entries {
            match chunks.last_mut() {
                Some(chunk) if chunk.last().is_some_and(|(last, _)| *last == key) => {
                    chunk.pop();
                    chunk.push((key, value));
                    continue;
                }
                Some(chunk) if chunk.len() < CHUNK => chunk.push((key, value)),
                _ => {
                    let mut chunk = Vec::with_capacity(CHUNK);
                    chunk.push((key, value));
                    chunks.push(chunk);
                }
            }
            len += 1;
        }
        Self { chunks: chunks.into_iter().map(Arc::new).collect(), len }
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, entries: T) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the key is in the map")
    }
}
