//! The entries of one host name, found by path, then by what else they want.
use std::collections::HashMap;

use super::{bucket::Bucket, patterns::Patterns, tree::Tree};
use crate::model::http::{
    HttpEntry, RequestHead,
    entries::Group,
    matching::{PathMatch, is_grpc},
    query::Query,
    work::work,
};

/// A request and the entries that it is compared with.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a, 'q> {
    entries: &'a [HttpEntry],
    pub(super) request: &'a RequestHead<'a>,
    pub(super) query: &'a Query<'q>,
}

impl Asked<'_, '_> {
    /// The first of these entries that holds beside its path.
    pub(super) fn first(self, mut list: impl Iterator<Item = usize>) -> Option<usize> {
        list.find(|&i| self.entries[i].matches.holds_beside_path(self.request, self.query))
    }
}

/// One host name's entries: those for calls of gRPC come first.
#[derive(Debug)]
pub(super) struct Rules {
    /// What it was made from.
    entries: Group,
    /// Some entry is for calls of gRPC alone.
    has_calls: bool,
    calls: Paths,
    requests: Paths,
}

impl Rules {
    /// Indexes the entries of a host name. Cost: proportional to their number.
    pub(super) fn new(entries: &Group) -> Self {
        let has_calls = entries.iter().any(|entry| entry.matches.call.is_some());
        let (calls, requests) = (Paths::default(), Paths::default());
        let mut rules = Self { entries: Group::clone(entries), has_calls, calls, requests };
        entries.iter().enumerate().for_each(|(index, entry)| rules.add(index, entry));
        for paths in [&mut rules.calls, &mut rules.requests] {
            paths.compile(entries);
            paths.prefix.shrink();
            for bucket in paths.exact.values_mut().chain(paths.prefix.values_mut()) {
                bucket.split(entries);
            }
        }
        rules
    }

    fn add(&mut self, index: usize, entry: &HttpEntry) {
        let paths = if entry.matches.call.is_some() { &mut self.calls } else { &mut self.requests };
        paths.add(index, entry);
    }

    /// The entries for all paths that are tried one by one.
    #[cfg(test)]
    pub(super) fn listed_at_root(&mut self) -> Vec<usize> {
        self.requests.prefix.get([]).map(|bucket| bucket.plain.clone()).unwrap_or_default()
    }

    /// The first entry that holds.
    pub(super) fn find(&self, request: &RequestHead<'_>, query: &Query<'_>) -> Option<&HttpEntry> {
        let asked = Asked { entries: &self.entries, request, query };
        let is_call = self.has_calls && is_grpc(request.headers);
        let call = is_call.then(|| self.calls.least(asked)).flatten();
        call.or_else(|| self.requests.find(asked)).map(|index| &self.entries[index])
    }
}

/// One host name's entries by path. Indices are into the host name's entries, ascending.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<String, Bucket>,
    /// The longest exact path; a longer one is not hashed. Units: bytes.
    longest_exact: usize,
    regex: Patterns,
    /// Those whose patterns are not compiled yet.
    with_regex: Vec<usize>,
    /// By segments.
    prefix: Tree<Bucket>,
    /// The longest prefix; what is behind it is not looked at. Units: bytes.
    longest_prefix: usize,
}

impl Paths {
    fn add(&mut self, index: usize, entry: &HttpEntry) {
        match &entry.matches.path {
            PathMatch::Exact(path) => {
                self.longest_exact = self.longest_exact.max(path.len());
                self.exact.entry(path.clone()).or_default().plain.push(index);
            }
            PathMatch::Regex(_) => self.with_regex.push(index),
            PathMatch::Prefix(prefix) => {
                self.longest_prefix = self.longest_prefix.max(prefix.len());
                self.prefix.slot(segments(prefix)).get_or_insert_default().plain.push(index);
            }
        }
    }

    /// Compiles the patterns of the entries that were added.
    fn compile(&mut self, entries: &[HttpEntry]) {
        let pattern = |index: usize| match &entries[index].matches.path {
            PathMatch::Regex(pattern) => Some((index, pattern)),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
        };
        let patterns: Vec<_> = std::mem::take(&mut self.with_regex).into_iter().filter_map(pattern).collect();
        self.regex = Patterns::new(&patterns);
    }

    /// The first entry that holds, in the order of requests: exact paths, patterns, prefixes.
    fn find(&self, asked: Asked<'_, '_>) -> Option<usize> {
        self.exact(asked).or_else(|| self.pattern(asked)).or_else(|| self.prefix(asked))
    }

    /// The first entry that holds, in the order of calls, which goes by service and method.
    fn least(&self, asked: Asked<'_, '_>) -> Option<usize> {
        [self.exact(asked), self.pattern(asked), self.prefix(asked)].into_iter().flatten().min()
    }

    fn exact(&self, asked: Asked<'_, '_>) -> Option<usize> {
        let path = asked.request.path;
        let exact = (path.len() <= self.longest_exact).then(|| {
            work(path.len());
            self.exact.get(path)
        });
        exact.flatten().and_then(|bucket| bucket.find(asked))
    }

    fn pattern(&self, asked: Asked<'_, '_>) -> Option<usize> {
        let holds = |i: &usize| asked.entries[*i].matches.holds_beside_path(asked.request, asked.query);
        self.regex.holding(asked.request.path).find(holds)
    }

    fn prefix(&self, asked: Asked<'_, '_>) -> Option<usize> {
        // One byte more than the longest prefix: a segment that is cut there is no segment of any.
        let beginning = asked.request.path.get(..self.longest_prefix + 1).unwrap_or(asked.request.path);
        self.prefix.longest_first(segments(beginning)).find_map(|bucket| bucket.find(asked))
    }
}

/// The segments of a path; none of the empty prefix.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}
