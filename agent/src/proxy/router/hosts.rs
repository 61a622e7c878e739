//! Something per host name, of which a copy with another value under one name shares the rest.
use std::{collections::BTreeMap, sync::Arc};

use super::{shards::Shards, tree::Tree};
use crate::model::http::{Hostname, work::work};

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct ByHost<T> {
    exact: Shards<Arc<str>, T>,
    below: Arc<Below<T>>,
    any: Option<T>,
}

/// The wildcards.
#[derive(Clone, Debug)]
struct Below<T> {
    values: BTreeMap<Arc<str>, T>,
    /// By labels, from the last one.
    tree: Tree<T>,
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        let below = Below { values: BTreeMap::new(), tree: Tree::default() };
        Self { exact: Shards::default(), below: Arc::new(below), any: None }
    }
}

impl<T: Clone> ByHost<T> {
    /// Sets the value of a name.
    ///
    /// Cost: of a copy, that of some names; of a wildcard, that of all wildcards.
    pub(super) fn insert(&mut self, hostname: &Hostname, value: T) {
        match hostname {
            Hostname::Exact(name) => self.exact.insert(Arc::clone(name), value),
            Hostname::Below(parent) => {
                let Below { values, tree } = Arc::make_mut(&mut self.below);
                *tree.slot(parent.rsplit('.')) = Some(value.clone());
                values.insert(Arc::clone(parent), value);
            }
            Hostname::Any => self.any = Some(value),
        }
    }

    /// Removes a name. Cost: as [`Self::insert`].
    pub(super) fn remove(&mut self, hostname: &Hostname) {
        match hostname {
            Hostname::Exact(name) => self.exact.remove(&**name),
            Hostname::Below(parent) => {
                let Below { values, tree } = Arc::make_mut(&mut self.below);
                values.remove(parent);
                // Anew: a tree that names were only taken from would grow with each that has ever been there.
                *tree = Tree::default();
                for (parent, value) in values {
                    *tree.slot(parent.rsplit('.')) = Some(value.clone());
                }
            }
            Hostname::Any => self.any = None,
        }
    }

    /// The value of a name that is written just so.
    pub(super) fn get(&self, hostname: &Hostname) -> Option<&T> {
        match hostname {
            Hostname::Exact(name) => self.exact.get(&**name),
            Hostname::Below(parent) => self.below.values.get(parent),
            Hostname::Any => self.any.as_ref(),
        }
    }
}

impl<T> ByHost<T> {
    /// The value of every host.
    pub(super) fn any(&self) -> Option<&T> {
        self.any.as_ref()
    }

    /// The values of all names that hold a host.
    pub(super) fn most_specific_first(&self, host: &str) -> impl Iterator<Item = &T> {
        work(host.len());
        self.exact.get(host).into_iter().chain(self.below.tree.longest_first(parent_labels(host))).chain(&self.any)
    }
}

/// The labels that a name has below its first one, from the last: a wildcard stands for one label at least.
fn parent_labels(host: &str) -> impl Iterator<Item = &str> {
    let mut end = host.len();
    host.rmatch_indices('.').take_while(|(dot, _)| *dot > 0).map(move |(dot, _)| {
        let label = &host[dot + 1..end];
        end = dot;
        label
    })
}
