//! What a listener does, in the order in which it is tried, kept by host name.
//!
//! # Design
//! The entries of one host name are one list behind an `Arc`, and lists are shared from one model to the next: a changed route
//! makes the lists of its own host names anew, and whoever compares two listeners looks into no other ([`Entries::differences`]).
use std::sync::Arc;

use super::{Hostname, HttpEntry};
use crate::shared::{Difference, SharedMap};

/// The entries under one host name, first match wins.
pub type Group = Arc<Vec<HttpEntry>>;

/// The entries of a listener: the most specific host name first, then the most specific match, then age.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    groups: SharedMap<Hostname, Group>,
}

impl Entries {
    /// All entries, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &HttpEntry> + Clone {
        self.groups.values().flat_map(|group| group.iter())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.values().map(|group| group.len()).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The host names with their entries, the most specific first.
    pub fn groups(&self) -> impl Iterator<Item = (&Hostname, &Group)> {
        self.groups.iter()
    }

    /// The entries under a host name; none where there is no such name.
    #[must_use]
    pub fn group(&self, hostname: &Hostname) -> &[HttpEntry] {
        self.groups.get(hostname).map_or(&[], |group| group.as_slice())
    }

    /// Replaces what is under a host name; whether that is different now. What is equal stays the very same.
    pub fn replace(&mut self, hostname: &Hostname, entries: Vec<HttpEntry>) -> bool {
        if entries.is_empty() {
            return self.groups.remove(hostname).is_some();
        }
        let known = self.groups.get(hostname);
        if known.is_some_and(|known| is_same(known, &entries)) {
            return false;
        }
        self.groups.insert(hostname.clone(), Arc::new(entries));
        true
    }

    /// The host names whose entries are not the very same in both.
    pub fn differences<'a>(&'a self, new: &'a Self) -> impl Iterator<Item = Difference<'a, Hostname, Group>> {
        self.groups.differences(&new.groups, |(_, a), (_, b)| Arc::ptr_eq(a, b))
    }

    /// The entry at a place.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&HttpEntry> {
        self.iter().nth(index)
    }
}

impl PartialEq for Entries {
    /// Cost: of what both share, a comparison of pointers.
    fn eq(&self, other: &Self) -> bool {
        self.groups.len() == other.groups.len()
            && self.groups.differences(&other.groups, |(_, a), (_, b)| is_same(a, b)).next().is_none()
    }
}

impl std::ops::Index<usize> for Entries {
    type Output = HttpEntry;

    fn index(&self, index: usize) -> &HttpEntry {
        self.get(index).expect("there are so many entries")
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a HttpEntry;
    type IntoIter = Box<dyn Iterator<Item = &'a HttpEntry> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

/// Whether two lists are equal; rules that are the very same are not looked into.
fn is_same(a: &[HttpEntry], b: &[HttpEntry]) -> bool {
    fn is_one<T: PartialEq>(a: &Arc<T>, b: &Arc<T>) -> bool {
        Arc::ptr_eq(a, b) || a == b
    }
    let is_equal = |(a, b): (&HttpEntry, &HttpEntry)| {
        let HttpEntry { hostname, matches, rule } = a;
        is_one(rule, &b.rule) && is_one(matches, &b.matches) && *hostname == b.hostname
    };
    std::ptr::eq(a, b) || (a.len() == b.len() && a.iter().zip(b).all(is_equal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{ObjectName, RouteKind},
        model::http::{Action, HttpMatch, HttpRule, Timeouts, matching::PathMatch},
    };

    fn entry(hostname: &Hostname, index: usize) -> HttpEntry {
        let path = PathMatch::Prefix(String::new());
        let matches = HttpMatch { path, method: None, headers: Vec::new(), query: Vec::new(), call: None };
        let rule = HttpRule {
            kind: RouteKind::Http,
            route: ObjectName::new("default", "r"),
            index,
            name: None,
            filters: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
            session: None,
            action: Action::Refuse(String::new()),
        };
        HttpEntry { hostname: hostname.clone(), matches: Arc::new(matches), rule: Arc::new(rule) }
    }

    #[test]
    fn only_what_is_different_is_replaced_and_the_most_specific_name_comes_first() {
        let [a, b, any] =
            ["a.example.com", "*.example.com", "*"].map(|t| Hostname::try_new(t).unwrap_or(Hostname::Any));
        let mut entries = Entries::default();
        for (index, hostname) in [&any, &b, &a].into_iter().enumerate() {
            assert!(entries.replace(hostname, vec![entry(hostname, index)]));
        }
        assert!(entries.iter().map(|entry| entry.rule.index).eq([2, 1, 0]));
        let before = entries.clone();
        assert!(!entries.replace(&b, vec![entry(&b, 1)]), "an equal one");
        assert!(entries.replace(&b, vec![entry(&b, 7)]) && entries != before);
        let changed: Vec<_> = before.differences(&entries).map(|difference| difference.key.clone()).collect();
        assert_eq!(changed, std::slice::from_ref(&b));
        assert!(entries.replace(&b, Vec::new()) && !entries.replace(&b, Vec::new()));
        assert_eq!((entries.len(), entries.group(&b).len(), entries[1].rule.index), (2, 0, 0));
    }
}
