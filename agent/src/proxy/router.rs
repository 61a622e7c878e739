//! Request -> rule, through an index over a listener's entries.
//!
//! The answer is always that of `model::http`'s order: the listener with the most specific host name, then its first
//! entry that holds. The index only skips entries that cannot hold.
//!
//! # Design
//! Host names and paths are looked up in hash maps, wildcards and prefixes in trees of labels and segments: the cost is
//! linear in the length of the request, bounded by the longest name, path or value that is configured, and does not grow
//! with the number of rules. Regular expressions of the path are looked for together ([`patterns`]); those of a header or
//! a parameter one by one, for each rule that is not excluded by its path or method. Many rules on one path that differ in an exact header (sandboxes, canaries) are found by that
//! header's value. What a client chooses is never looked at again for each rule: `model::http::work` counts it.
mod patterns;
mod tree;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, HeaderName};

use self::{patterns::Patterns, tree::Tree};
use super::tls::TlsListener;
use crate::{
    api::ObjectName,
    model::http::{
        Hostname, HttpEntry, HttpListener, RequestHead,
        matching::{PathMatch, ValueMatch, is_grpc, joined},
        query::{Names, Query},
        work::work,
    },
    model::stream_route::StreamShare,
};

/// From how many entries on a bucket is split by header value.
const SPLIT_AT: usize = 8;

/// The listeners of one frontend.
#[derive(Debug)]
pub(super) struct Site {
    /// What it was made from.
    listeners: Arc<Vec<HttpListener>>,
    by_host: ByHost<Routes>,
    /// What TLS is terminated with, by listener; empty in clear text.
    tls: Vec<Option<Arc<TlsListener>>>,
    /// The streams of each listener by server name: which of its entries; likewise.
    streams: Vec<ByHost<usize>>,
    /// The query parameters that some rule asks for.
    parameters: Names,
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
        Self::secured(listeners, |_| None)
    }

    /// The same, with what TLS is terminated with at those listeners that do.
    #[must_use]
    pub(super) fn secured(
        listeners: Arc<Vec<HttpListener>>,
        tls: impl FnMut(&HttpListener) -> Option<Arc<TlsListener>>,
    ) -> Self {
        let is_secured = listeners.iter().any(|listener| listener.tls.is_some() || listener.streams.is_some());
        let tls = if is_secured { listeners.iter().map(tls).collect() } else { Vec::new() };
        let streams = if is_secured { listeners.iter().map(by_server_name).collect() } else { Vec::new() };
        let mut by_host = ByHost::default();
        for (index, listener) in listeners.iter().enumerate() {
            *by_host.slot(&listener.hostname) = Some(Routes::new(index, &listener.entries));
        }
        let matches = listeners.iter().flat_map(|listener| &listener.entries).map(|entry| &entry.matches);
        let parameters = matches.flat_map(|matches| &matches.query).map(|q| q.name.as_str()).collect();
        Self { listeners, by_host, tls, streams, parameters }
    }

    /// Whether clients speak TLS here.
    #[must_use]
    pub(super) fn is_secured(&self) -> bool {
        !self.tls.is_empty()
    }

    /// What is done with a client that asks for this server name; `None` where no listener has it.
    #[must_use]
    pub(super) fn secured_way(&self, server_name: Option<&str>) -> Option<SecuredWay<'_>> {
        let index = self.listener_of(server_name)?;
        let tls = self.tls.get(index)?.as_ref();
        let Some(streams) = &self.listeners[index].streams else { return Some(SecuredWay::Http(tls?)) };
        let by_name = &self.streams[index];
        let entry = match server_name {
            Some(name) => by_name.most_specific_first(name).next(),
            None => by_name.any.as_ref(),
        };
        let terminates = self.listeners[index].tls.is_some();
        Some(SecuredWay::Stream { tls, terminates, shares: entry.map(|entry| &streams[*entry].shares) })
    }

    /// Whether some listener passes streams on: who is refused here must not hear it from us.
    #[must_use]
    pub(super) fn has_streams(&self) -> bool {
        self.listeners.iter().any(|listener| listener.streams.is_some())
    }

    /// What TLS is terminated with, by Gateway and listener.
    pub(super) fn secured_listeners(&self) -> impl Iterator<Item = ((ObjectName, String), Arc<TlsListener>)> {
        let with_name = |(listener, tls): (&HttpListener, &Option<Arc<TlsListener>>)| {
            Some(((listener.gateway.clone(), listener.name.clone()), Arc::clone(tls.as_ref()?)))
        };
        self.listeners.iter().zip(&self.tls).filter_map(with_name)
    }

    /// Which listener has a host; without one, which has all.
    #[must_use]
    pub(super) fn listener_of(&self, host: Option<&str>) -> Option<usize> {
        let routes = match host {
            Some(host) => self.by_host.most_specific_first(host).next(),
            None => self.by_host.any.as_ref(),
        };
        routes.map(|routes| routes.listener)
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
        let query = Query::new(request.query, &self.parameters);
        let asked = Asked { entries, request, query: &query };
        let is_call = routes.has_calls && is_grpc(request.headers);
        let found = routes.by_host.most_specific_first(host).find_map(|rules| rules.find(asked, is_call));
        found.map_or(Routed::NoEntry, |i| Routed::Entry(&entries[i]))
    }
}

/// What is done with a client that speaks TLS.
#[derive(Debug)]
pub(super) enum SecuredWay<'a> {
    /// HTTP under TLS that is terminated with this.
    Http(&'a Arc<TlsListener>),
    /// The bytes go to an endpoint.
    Stream {
        /// What TLS is terminated with.
        tls: Option<&'a Arc<TlsListener>>,
        /// Whether it is; else it is passed through.
        terminates: bool,
        /// Whose endpoints; `None` where no route has the name.
        shares: Option<&'a Arc<Vec<StreamShare>>>,
    },
}

/// The entries of a listener's streams by name; of two routes with one name the older one's.
fn by_server_name(listener: &HttpListener) -> ByHost<usize> {
    let mut by_name = ByHost::default();
    for (index, entry) in listener.streams.iter().flat_map(|streams| streams.iter()).enumerate() {
        for hostname in &entry.hostnames {
            by_name.slot(hostname).get_or_insert(index);
        }
    }
    by_name
}

/// A request and the entries that it is compared with.
#[derive(Clone, Copy)]
struct Asked<'a> {
    entries: &'a [HttpEntry],
    request: &'a RequestHead<'a>,
    query: &'a Query<'a>,
}

impl Asked<'_> {
    /// The first of these entries that holds beside its path.
    fn first(self, list: &[usize]) -> Option<usize> {
        list.iter().copied().find(|&i| self.entries[i].matches.holds_beside_path(self.request, self.query))
    }
}

/// Something per host name.
#[derive(Debug)]
struct ByHost<T> {
    exact: HashMap<String, Option<T>>,
    /// By labels, from the last one.
    below: Tree<T>,
    any: Option<T>,
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), below: Tree::default(), any: None }
    }
}

impl<T> ByHost<T> {
    fn slot(&mut self, hostname: &Hostname) -> &mut Option<T> {
        match hostname {
            Hostname::Exact(name) => self.exact.entry(name.clone()).or_default(),
            Hostname::Below(parent) => self.below.slot(parent.rsplit('.')),
            Hostname::Any => &mut self.any,
        }
    }

    fn most_specific_first<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a T> {
        work(host.len());
        let exact = self.exact.get(host).and_then(Option::as_ref);
        exact.into_iter().chain(self.below.longest_first(parent_labels(host))).chain(&self.any)
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.exact.values_mut().flatten().chain(self.below.values_mut()).chain(&mut self.any)
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

/// One listener's entries by host name.
#[derive(Debug)]
struct Routes {
    listener: usize,
    /// Some entry is for calls of gRPC alone.
    has_calls: bool,
    by_host: ByHost<Rules>,
}

impl Routes {
    fn new(listener: usize, entries: &[HttpEntry]) -> Self {
        let mut by_host: ByHost<Rules> = ByHost::default();
        for (index, entry) in entries.iter().enumerate() {
            by_host.slot(&entry.hostname).get_or_insert_default().add(index, entry);
        }
        for paths in by_host.values_mut().flat_map(|rules| [&mut rules.calls, &mut rules.requests]) {
            paths.compile(entries);
            for bucket in paths.exact.values_mut().chain(paths.prefix.values_mut()) {
                bucket.split(entries);
            }
        }
        let has_calls = entries.iter().any(|entry| entry.matches.call.is_some());
        Self { listener, has_calls, by_host }
    }
}

/// One host name's entries: those for calls of gRPC come first.
#[derive(Debug, Default)]
struct Rules {
    calls: Paths,
    requests: Paths,
}

impl Rules {
    fn add(&mut self, index: usize, entry: &HttpEntry) {
        let paths = if entry.matches.call.is_some() { &mut self.calls } else { &mut self.requests };
        paths.add(index, entry);
    }

    fn find(&self, asked: Asked<'_>, is_call: bool) -> Option<usize> {
        let call = is_call.then(|| self.calls.least(asked)).flatten();
        call.or_else(|| self.requests.find(asked))
    }
}

/// One host name's entries by path. Indices are into the listener's entries, ascending.
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
    fn find(&self, asked: Asked<'_>) -> Option<usize> {
        self.exact(asked).or_else(|| self.pattern(asked)).or_else(|| self.prefix(asked))
    }

    /// The first entry that holds, in the order of calls, which goes by service and method.
    fn least(&self, asked: Asked<'_>) -> Option<usize> {
        [self.exact(asked), self.pattern(asked), self.prefix(asked)].into_iter().flatten().min()
    }

    fn exact(&self, asked: Asked<'_>) -> Option<usize> {
        let path = asked.request.path;
        let exact = (path.len() <= self.longest_exact).then(|| {
            work(path.len());
            self.exact.get(path)
        });
        exact.flatten().and_then(|bucket| bucket.find(asked))
    }

    fn pattern(&self, asked: Asked<'_>) -> Option<usize> {
        let holds = |i: &usize| asked.entries[*i].matches.holds_beside_path(asked.request, asked.query);
        self.regex.holding(asked.request.path).find(holds)
    }

    fn prefix(&self, asked: Asked<'_>) -> Option<usize> {
        // One byte more than the longest prefix: a segment that is cut there is no segment of any.
        let beginning = asked.request.path.get(..self.longest_prefix + 1).unwrap_or(asked.request.path);
        self.prefix.longest_first(segments(beginning)).find_map(|bucket| bucket.find(asked))
    }
}

/// The segments of a path; none of the empty prefix.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}

/// Entries with the same host name and path.
#[derive(Debug, Default)]
struct Bucket {
    plain: Vec<usize>,
    by_header: HashMap<HeaderName, ByValue>,
}

/// Entries by the exact value that they want of one header.
#[derive(Debug, Default)]
struct ByValue {
    values: HashMap<Box<[u8]>, Vec<usize>>,
    /// The longest value; a longer one is not hashed. Units: bytes.
    longest: usize,
}

impl ByValue {
    /// The entries that want what a request has; several values count as one, joined.
    fn find(&self, headers: &HeaderMap, name: &HeaderName) -> Option<&Vec<usize>> {
        let mut length = 0;
        for (i, value) in headers.get_all(name).iter().enumerate() {
            work(0);
            length += value.len() + i.min(1);
        }
        if length > self.longest || !headers.contains_key(name) {
            return None;
        }
        work(length);
        self.values.get(joined(headers, name).as_ref())
    }
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
                    let by_value = self.by_header.entry(name.clone()).or_default();
                    by_value.longest = by_value.longest.max(value.len());
                    by_value.values.entry(value.as_bytes().into()).or_default().push(index);
                }
                None => self.plain.push(index),
            }
        }
    }

    fn find(&self, asked: Asked<'_>) -> Option<usize> {
        let headers = asked.request.headers;
        let by_header = self.by_header.iter().filter_map(|(name, by_value)| by_value.find(headers, name));
        let found = by_header.filter_map(|list| asked.first(list));
        found.chain(asked.first(&self.plain)).min()
    }
}
