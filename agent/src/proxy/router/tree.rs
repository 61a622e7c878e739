//! A map whose keys are sequences of segments, such as paths and host names.
//!
//! All keys that a sequence begins with are found in one walk. Each segment is hashed once and none behind the longest
//! key that fits: the cost is linear in the sequence and bounded by the deepest key, whatever the sequence is.
use std::collections::HashMap;

use crate::model::http::work::work;

/// A value per key. The nodes are in one list, so that no key is too deep to be walked, or dropped.
#[derive(Clone, Debug)]
pub(super) struct Tree<T> {
    nodes: Vec<Node<T>>,
}

#[derive(Clone, Debug)]
struct Node<T> {
    parent: Option<usize>,
    children: HashMap<Box<str>, usize>,
    /// The longest segment of a child; a longer one is not hashed. Units: bytes.
    longest: usize,
    value: Option<T>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

impl<T> Tree<T> {
    /// The place of a key's value.
    pub(super) fn slot<'s>(&mut self, key: impl IntoIterator<Item = &'s str>) -> &mut Option<T> {
        if self.nodes.is_empty() {
            self.add(None);
        }
        let mut at = 0;
        for segment in key {
            at = match self.nodes[at].children.get(segment) {
                Some(&child) => child,
                None => {
                    let child = self.add(Some(at));
                    let node = &mut self.nodes[at];
                    node.children.insert(segment.into(), child);
                    node.longest = node.longest.max(segment.len());
                    child
                }
            };
        }
        &mut self.nodes[at].value
    }

    fn add(&mut self, parent: Option<usize>) -> usize {
        self.nodes.push(Node { parent, children: HashMap::new(), longest: 0, value: None });
        self.nodes.len() - 1
    }

    /// The values of all keys that a sequence begins with, the longest key first.
    pub(super) fn longest_first<'s>(&self, sequence: impl IntoIterator<Item = &'s str>) -> impl Iterator<Item = &T> {
        let mut deepest = self.nodes.first().map(|_| 0);
        let mut segments = sequence.into_iter();
        while let Some(node) = deepest.map(|at| &self.nodes[at])
            && !node.children.is_empty()
            && let Some(segment) = segments.next()
        {
            // Found by its separator, then hashed.
            work(2 * segment.len());
            let child = (segment.len() <= node.longest).then(|| node.children.get(segment)).flatten();
            let Some(&child) = child else { break };
            deepest = Some(child);
        }
        std::iter::successors(deepest, |&at| self.nodes[at].parent).filter_map(|at| {
            work(0);
            self.nodes[at].value.as_ref()
        })
    }

    /// Gives back the room for keys that did not come.
    pub(super) fn shrink(&mut self) {
        self.nodes.shrink_to_fit();
    }

    /// Every value.
    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.nodes.iter_mut().filter_map(|node| node.value.as_mut())
    }

    /// The value of a key.
    #[cfg(test)]
    pub(super) fn get<'s>(&mut self, key: impl IntoIterator<Item = &'s str>) -> Option<&T> {
        self.slot(key).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(keys: &[&str]) -> Tree<String> {
        let mut tree = Tree::default();
        for key in keys {
            let segments = if key.is_empty() { Vec::new() } else { key.split('/').collect() };
            *tree.slot(segments) = Some((*key).to_owned());
        }
        tree
    }

    #[test]
    fn keys_are_found_from_the_longest_to_the_shortest() {
        let keys = ["", "a", "a/b/c", "a/b/c/d", "a/x", "a//b"];
        for (sequence, want) in [
            ("a/b/c/e", &["a/b/c", "a", ""][..]),
            ("a/b", &["a", ""]),
            ("a//b/", &["a//b", "a", ""]),
            ("ab", &[""]),
            ("", &[""]),
        ] {
            let tree = tree(&keys);
            let found: Vec<_> = tree.longest_first(sequence.split('/')).collect();
            assert_eq!(found, want, "{sequence:?}");
        }
        assert_eq!(tree(&[]).longest_first(["a"]).count(), 0);
        assert_eq!(tree(&["a/b"]).longest_first(["a"]).count(), 0);
    }

    #[test]
    fn a_key_of_many_segments_is_walked_and_dropped() {
        let deep = "a/".repeat(100_000);
        let tree = tree(&[&deep]);
        assert_eq!(tree.longest_first(deep.split('/')).count(), 1);
    }
}
