//! Request -> rule, through an index over a listener's entries.
//!
//! The answer is always that of `model::http`'s order: the listener with the most specific host name, then its first
//! entry that holds. The index only skips entries that cannot hold.
//!
//! # Design
//! Host names and paths are looked up in hash maps, wildcards and prefixes by shortening the request's own name or path:
//! the cost grows with the length of the request, not with the number of rules. Many rules on one path that differ in
//! an exact header (sandboxes, canaries) are found by that header's value.
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use http::{HeaderName, HeaderValue};

use crate::model::http::{
    Hostname, HttpEntry, HttpListener, RequestHead,
    matching::{PathMatch, ValueMatch},
};

/// From how many entries on a bucket is split by header value.
const SPLIT_AT: usize = 8;

/// The listeners of one frontend.
#[derive(Debug)]
pub(super) struct Site {
    /// What it was made from.
    listeners: Arc<Vec<HttpListener>>,
    by_host: ByHost<Routes>,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Routed<'a> {
    /// This entry holds.
    Entry(&'a HttpEntry),
    /// No listener has the host.
    NoListener,
    /// The listener has no entry that holds.
    NoEntry,
}

impl Site {
    /// Indexes the listeners of a frontend. Cost: proportional to the number of entries.
    #[must_use]
    pub(super) fn new(listeners: Arc<Vec<HttpListener>>) -> Self {
        let mut by_host = ByHost::default();
        for (index, listener) in listeners.iter().enumerate() {
            *by_host.slot(&listener.hostname) = Some(Routes::new(index, &listener.entries));
        }
        Self { listeners, by_host }
    }

    /// What it was made from.
    #[must_use]
    pub(super) fn listeners(&self) -> &Arc<Vec<HttpListener>> {
        &self.listeners
    }

    /// Finds the rule for a request to a canonical host.
    #[must_use]
    pub(super) fn route(&self, host: &str, request: &RequestHead<'_>) -> Routed<'_> {
        let Some(routes) = self.by_host.most_specific_first(host).next() else { return Routed::NoListener };
        let entries = &self.listeners[routes.listener].entries;
        let found = routes.by_host.most_specific_first(host).find_map(|paths| paths.find(entries, request));
        found.map_or(Routed::NoEntry, |i| Routed::Entry(&entries[i]))
    }
}

/// Something per host name.
#[derive(Debug)]
struct ByHost<T> {
    exact: HashMap<String, Option<T>>,
    below: HashMap<String, Option<T>>,
    any: Option<T>,
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: HashMap::new(), any: None }
    }
}

impl<T> ByHost<T> {
    fn slot(&mut self, hostname: &Hostname) -> &mut Option<T> {
        match hostname {
            Hostname::Exact(name) => self.exact.entry(name.clone()).or_default(),
            Hostname::Below(parent) => self.below.entry(parent.clone()).or_default(),
            Hostname::Any => &mut self.any,
        }
    }

    fn most_specific_first<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a T> {
        let parents = (!self.below.is_empty()).then(|| {
            let first = host.split_once('.').map(|(_, parent)| parent);
            std::iter::successors(first, |name| name.split_once('.').map(|(_, parent)| parent))
        });
        let below = parents.into_iter().flatten().filter_map(|parent| self.below.get(parent)?.as_ref());
        self.exact.get(host).and_then(Option::as_ref).into_iter().chain(below).chain(&self.any)
    }
}

/// One listener's entries by host name.
#[derive(Debug)]
struct Routes {
    listener: usize,
    by_host: ByHost<Paths>,
}

impl Routes {
    fn new(listener: usize, entries: &[HttpEntry]) -> Self {
        let mut by_host: ByHost<Paths> = ByHost::default();
        for (index, entry) in entries.iter().enumerate() {
            by_host.slot(&entry.hostname).get_or_insert_default().add(index, entry);
        }
        for paths in by_host.exact.values_mut().chain(by_host.below.values_mut()).flatten().chain(&mut by_host.any) {
            for bucket in paths.exact.values_mut().chain(paths.prefix.values_mut()) {
                bucket.split(entries);
            }
        }
        Self { listener, by_host }
    }
}

/// One host name's entries by path. Indices are into the listener's entries, ascending.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Bucket>,
    regex: Vec<usize>,
    prefix: HashMap<String, Bucket>,
}

impl Paths {
    fn add(&mut self, index: usize, entry: &HttpEntry) {
        match &entry.matches.path {
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default().plain.push(index),
            PathMatch::Regex(_) => self.regex.push(index),
            PathMatch::Prefix(prefix) => self.prefix.entry(prefix.clone()).or_default().plain.push(index),
        }
    }

    fn find(&self, entries: &[HttpEntry], request: &RequestHead<'_>) -> Option<usize> {
        let exact = self.exact.get(request.path).and_then(|bucket| bucket.find(entries, request));
        let regex = || self.regex.iter().copied().find(|&i| entries[i].matches.holds(request));
        exact.or_else(regex).or_else(|| {
            let path = request.path;
            // The path itself, then what is before each of its slashes from the right; the last one is the root.
            std::iter::once(path)
                .chain(path.rmatch_indices('/').map(|(at, _)| &path[..at]))
                .find_map(|prefix| self.prefix.get(prefix)?.find(entries, request))
        })
    }
}

/// Entries with the same host name and path.
#[derive(Debug, Default)]
struct Bucket {
    plain: Vec<usize>,
    by_header: HashMap<HeaderName, HashMap<HeaderValue, Vec<usize>>>,
}

impl Bucket {
    /// Moves entries that want an exact header from the list to the map, when the list is long.
    fn split(&mut self, entries: &[HttpEntry]) {
        if self.plain.len() < SPLIT_AT {
            return;
        }
        for index in std::mem::take(&mut self.plain) {
            let exact = entries[index].matches.headers.iter().find_map(|h| match &h.value {
                ValueMatch::Exact(value) => Some((&h.name, value)),
                ValueMatch::Regex(_) => None,
            });
            match exact {
                Some((name, value)) => {
                    let values = self.by_header.entry(name.clone()).or_default();
                    values.entry(value.clone()).or_default().push(index);
                }
                None => self.plain.push(index),
            }
        }
    }

    fn find(&self, entries: &[HttpEntry], request: &RequestHead<'_>) -> Option<usize> {
        let first = |list: &[usize]| list.iter().copied().find(|&i| entries[i].matches.holds_beside_path(request));
        let mut best = first(&self.plain);
        for (name, values) in &self.by_header {
            let mut given = request.headers.get_all(name).iter();
            let found = match (given.next(), given.next()) {
                (None, _) => None,
                (Some(value), None) => values.get(value).and_then(|list| first(list)),
                // Several values count as one, joined; rare enough to look at each entry.
                (Some(_), Some(_)) => values.values().filter_map(|list| first(list)).min(),
            };
            best = match (best, found) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        best
    }
}
