//! Request -> rule, through an index over a listener's entries.
//!
//! The answer is always that of `model::http`'s order: the listener with the most specific host name, then its first
//! entry that holds. The index only skips entries that cannot hold.
//!
//! # Design
//! - The entries of one host name are one index ([`rules`]). A table for other listeners keeps the index of each host name whose
//!   entries are the very same, and makes the others: [`Site::next`] counts these.
//!
//! Host names and paths are looked up in hash maps, wildcards and prefixes in trees of labels and segments: the cost is
//! linear in the length of the request, bounded by the longest name, path or value that is configured, and does not grow
//! with the number of rules. Regular expressions of one path, header or parameter are looked for together ([`patterns`]). Many
//! rules on one path are found by the header or parameter in which they differ ([`bucket`]). What a client chooses is never looked at again for each rule: `model::http::work` counts it.
mod bucket;
mod hosts;
mod patterns;
mod rules;
mod shards;
mod tree;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(super) use self::shards::Shards;
use self::{hosts::ByHost, rules::Rules};
use super::tls::TlsListener;
use crate::{
    api::ObjectName,
    model::http::{
        Entries, HttpEntry, HttpListener, RequestHead,
        query::{Names, Query},
    },
    model::stream_route::{StreamEntry, StreamShare},
    shared::{Difference, SharedMap},
};

/// The listeners of one frontend.
#[derive(Debug, Default)]
pub(super) struct Site {
    /// What it was made from.
    listeners: Arc<Vec<HttpListener>>,
    /// Which listener has a host.
    by_host: ByHost<usize>,
    /// What each listener does.
    routes: Vec<Arc<Routes>>,
    /// What TLS is terminated with, by listener; empty in clear text.
    tls: Vec<Option<Arc<TlsListener>>>,
    /// The streams of each listener by server name: which of its entries; likewise.
    streams: Vec<Arc<ByHost<usize>>>,
    /// The query parameters that some rule asks for.
    parameters: Arc<Names>,
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
        Self::default().next(listeners, |_| None, &mut 0)
    }

    /// The same for other listeners, with what TLS is terminated with at those listeners that do. Host names whose entries are the
    /// very same are not indexed again; the others are counted in `parts`.
    #[must_use]
    pub(super) fn next(
        &self,
        listeners: Arc<Vec<HttpListener>>,
        tls: impl FnMut(&HttpListener) -> Option<Arc<TlsListener>>,
        parts: &mut u64,
    ) -> Self {
        let is_secured = listeners.iter().any(|listener| listener.tls.is_some() || listener.streams.is_some());
        let tls = if is_secured { listeners.iter().map(tls).collect() } else { Vec::new() };
        let known = |at: usize, listener: &HttpListener| {
            // Mostly they are where they were.
            let is_same = |known: &&HttpListener| known.gateway == listener.gateway && known.name == listener.name;
            let there = self.listeners.get(at).filter(is_same).map(|_| at);
            there.or_else(|| self.listeners.iter().position(|known| is_same(&known)))
        };
        let known: Vec<Option<usize>> =
            listeners.iter().enumerate().map(|(at, listener)| known(at, listener)).collect();
        let none = Entries::default();
        let routes = |(listener, known): (&HttpListener, &Option<usize>)| match known {
            Some(at) => Routes::next(&self.routes[*at], &self.listeners[*at].entries, &listener.entries, parts),
            None => Routes::next(&Arc::default(), &none, &listener.entries, parts),
        };
        let routes: Vec<Arc<Routes>> = listeners.iter().zip(&known).map(routes).collect();
        let streams = |(listener, known): (&HttpListener, &Option<usize>)| {
            let same = known.filter(|at| is_one(self.listeners[*at].streams.as_ref(), listener.streams.as_ref()));
            same.and_then(|at| self.streams.get(at).cloned()).unwrap_or_else(|| Arc::new(by_server_name(listener)))
        };
        let streams = if is_secured { listeners.iter().zip(&known).map(streams).collect() } else { Vec::new() };
        let mut by_host = ByHost::default();
        listeners.iter().enumerate().for_each(|(index, listener)| by_host.insert(&listener.hostname, index));
        let is_asked_alike = routes.len() == self.routes.len()
            && routes.iter().zip(&self.routes).all(|(new, old)| new.asked.is_one(&old.asked));
        let parameters = if is_asked_alike {
            Arc::clone(&self.parameters)
        } else {
            Arc::new(routes.iter().flat_map(|routes| routes.asked.keys()).map(|name| &**name).collect())
        };
        Self { listeners, by_host, routes, tls, streams, parameters }
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
        if self.listeners[index].streams.is_none() {
            return Some(SecuredWay::Http(tls?));
        }
        let shares = self.stream_of(index, server_name).map(|entry| &entry.shares);
        let terminates = self.listeners[index].tls.is_some();
        let gateway = &self.listeners[index].gateway;
        Some(SecuredWay::Stream { gateway, tls, terminates, shares })
    }

    /// The TLSRoute that a server name has at a listener; `None` where there is none.
    #[must_use]
    pub(super) fn stream_of(&self, listener: usize, server_name: Option<&str>) -> Option<&StreamEntry> {
        let by_name = self.streams.get(listener)?;
        let entry = match server_name {
            Some(name) => by_name.most_specific_first(name).next(),
            None => by_name.any(),
        };
        self.listeners.get(listener)?.streams.as_ref()?.get(*entry?)
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
        let listener = match host {
            Some(host) => self.by_host.most_specific_first(host).next(),
            None => self.by_host.any(),
        };
        listener.copied()
    }

    /// What it was made from.
    #[must_use]
    pub(super) fn listeners(&self) -> &Arc<Vec<HttpListener>> {
        &self.listeners
    }

    /// Finds the rule for a request to a canonical host.
    #[must_use]
    pub(super) fn route(&self, host: &str, request: &RequestHead<'_>) -> Routed<'_> {
        let Some(listener) = self.by_host.most_specific_first(host).next() else { return Routed::NoListener };
        let query = Query::new(request.query, &self.parameters);
        let mut by_host = self.routes[*listener].by_host.most_specific_first(host);
        by_host.find_map(|rules| rules.find(request, &query)).map_or(Routed::NoEntry, Routed::Entry)
    }
}

/// What is done with a client that speaks TLS.
#[derive(Debug)]
pub(super) enum SecuredWay<'a> {
    /// HTTP under TLS that is terminated with this.
    Http(&'a Arc<TlsListener>),
    /// The bytes go to an endpoint.
    Stream {
        /// The Gateway.
        gateway: &'a ObjectName,
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
            if by_name.get(hostname).is_none() {
                by_name.insert(hostname, index);
            }
        }
    }
    by_name
}

/// Whether two listeners have the very same streams.
fn is_one(a: Option<&Arc<Vec<StreamEntry>>>, b: Option<&Arc<Vec<StreamEntry>>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// One listener's entries by host name.
#[derive(Clone, Debug, Default)]
struct Routes {
    by_host: ByHost<Arc<Rules>>,
    /// The query parameters that some entry asks for, and under how many host names.
    asked: SharedMap<Box<str>, usize>,
}

impl Routes {
    /// Those of other entries; the very same where these are. Cost: that of the host names whose entries are others.
    fn next(known: &Arc<Self>, old: &Entries, new: &Entries, parts: &mut u64) -> Arc<Self> {
        let mut next = Arc::clone(known);
        for Difference { key: hostname, old, new } in old.differences(new) {
            let routes = Arc::make_mut(&mut next);
            if let Some(entries) = new {
                *parts += 1;
                routes.by_host.insert(hostname, Arc::new(Rules::new(entries)));
                routes.ask(entries);
            } else {
                routes.by_host.remove(hostname);
            }
            old.into_iter().for_each(|entries| routes.ask_no_longer(entries));
        }
        next
    }

    fn ask(&mut self, entries: &[HttpEntry]) {
        for name in parameters(entries) {
            match self.asked.get_mut(name) {
                Some(count) => *count += 1,
                None => drop(self.asked.insert(name.into(), 1)),
            }
        }
    }

    fn ask_no_longer(&mut self, entries: &[HttpEntry]) {
        for name in parameters(entries) {
            match self.asked.get_mut(name) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.asked.remove(name)),
            }
        }
    }
}

/// The query parameters that entries ask for, as often as they do.
fn parameters(entries: &[HttpEntry]) -> impl Iterator<Item = &str> {
    entries.iter().flat_map(|entry| &entry.matches.query).map(|query| query.name.as_str())
}
