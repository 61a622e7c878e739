//! What is attached to each listener: its entries by host name, its streams, how many routes.
//!
//! # Design
//! The entries of a host name are put in order from those that are there, without those of the routes that were made anew, and
//! theirs. Equal lists stay the very same, so that the proxy indexes no list twice.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::known::{Compiled, Known};
use crate::{
    api::ObjectName,
    model::{
        gateway::Listeners,
        http::{Entries, Hostname, HttpEntry},
        listener::Served,
        mesh,
        report::RouteKey,
        stream_route::StreamEntry,
    },
};

/// What is attached to a listener.
#[derive(Clone, Debug, Default)]
pub(in crate::model) struct Held {
    /// The listener's name among all of its Gateway.
    name: String,
    /// Its host name, where it is served.
    open: Option<Hostname>,
    /// How many routes.
    pub(in crate::model) attached: usize,
    /// The entries of the HTTPRoutes and GRPCRoutes, where it is served.
    pub(in crate::model) entries: Entries,
    /// The TLSRoutes, TCPRoutes or UDPRoutes, oldest first, where it is served.
    pub(in crate::model) streams: Arc<Vec<StreamEntry>>,
}

/// Where something is to be put in order.
#[derive(Debug, Default)]
pub(super) struct Affected {
    /// The routes that were, or are, attached there.
    routes: BTreeSet<RouteKey>,
    /// Gateway and listener -> host names.
    at: BTreeMap<(ObjectName, usize), BTreeSet<Hostname>>,
}

impl Affected {
    /// Adds the places where a route is attached.
    pub(super) fn add(&mut self, key: &RouteKey, known: &Known) {
        self.routes.insert(key.clone());
        for at in &known.listeners {
            let hostnames = mesh::hostnames(&at.0, &known.hostnames);
            self.at.entry(at.clone()).or_default().extend(hostnames.iter().cloned());
        }
    }
}

/// What is held by the listeners of each Gateway, in their order.
#[derive(Debug, Default)]
pub(super) struct AllHeld {
    by_gateway: BTreeMap<ObjectName, Vec<Held>>,
}

impl AllHeld {
    /// What the listeners of a Gateway hold.
    pub(super) fn of(&self, gateway: &ObjectName) -> &[Held] {
        self.by_gateway.get(gateway).map_or(&[], Vec::as_slice)
    }

    /// Begins anew with Gateways whose listeners are others. What was held under a name is compared with what comes; returns
    /// where that is.
    pub(super) fn begin(&mut self, listeners: &Listeners, gateways: &BTreeSet<ObjectName>) -> Affected {
        let mut affected = Affected::default();
        for gateway in gateways {
            let mut before = self.by_gateway.remove(gateway).unwrap_or_default();
            let Some(all) = listeners.get(gateway) else { continue };
            let begin = |(index, served): (usize, &Served)| {
                let name = served.full_name();
                let known = before.iter_mut().find(|held| held.name == name);
                let entries = known.map(|held| std::mem::take(&mut held.entries)).unwrap_or_default();
                let hostnames = entries.groups().map(|(hostname, _)| hostname.clone()).collect();
                affected.at.insert((gateway.clone(), index), hostnames);
                let open = served.open().ok().map(|open| open.hostname.clone());
                Held { name, open, attached: 0, entries, streams: Arc::default() }
            };
            let all: Vec<Held> = all.iter().enumerate().map(begin).collect();
            self.by_gateway.insert(gateway.clone(), all);
        }
        affected
    }

    /// Counts a route where it is attached, at `but` these Gateways.
    pub(super) fn count(&mut self, known: &Known, but: &BTreeSet<ObjectName>, count: impl Fn(usize) -> usize) {
        for (gateway, index) in known.listeners.iter().filter(|(gateway, _)| !but.contains(gateway)) {
            if let Some(held) = self.by_gateway.get_mut(gateway).and_then(|all| all.get_mut(*index)) {
                held.attached = count(held.attached);
            }
        }
    }

    /// Puts in order what is affected; returns the listeners that were looked at.
    pub(super) fn put_in_order(
        &mut self,
        affected: &Affected,
        known: &BTreeMap<RouteKey, Known>,
    ) -> BTreeSet<(ObjectName, usize)> {
        let mut new: BTreeMap<(&ObjectName, usize), Vec<(&RouteKey, &Known)>> = BTreeMap::new();
        for (key, known) in affected.routes.iter().filter_map(|key| Some((key, known.get(key)?))) {
            for (gateway, index) in &known.listeners {
                new.entry((gateway, *index)).or_default().push((key, known));
            }
        }
        for (at, hostnames) in &affected.at {
            let (gateway, index) = at;
            let Some(held) = self.by_gateway.get_mut(gateway).and_then(|all| all.get_mut(*index)) else { continue };
            let new = new.get(&(gateway, *index)).map_or(&[][..], Vec::as_slice);
            held.put_streams(&affected.routes, new, known);
            held.put_entries((gateway, hostnames), &affected.routes, new, known);
        }
        affected.at.keys().cloned().collect()
    }
}

impl Held {
    /// Replaces the entries of these routes under these host names.
    fn put_entries(
        &mut self,
        (gateway, hostnames): (&ObjectName, &BTreeSet<Hostname>),
        gone: &BTreeSet<RouteKey>,
        new: &[(&RouteKey, &Known)],
        known: &BTreeMap<RouteKey, Known>,
    ) {
        let Some(open) = self.open.clone() else { return };
        let mut by_host: BTreeMap<&Hostname, Vec<(&RouteKey, &Known)>> = BTreeMap::new();
        for (key, known) in new {
            let of_route = mesh::hostnames(gateway, &known.hostnames);
            for hostname in of_route.iter().filter(|hostname| hostname.intersects(&open)) {
                by_host.entry(hostname).or_default().push((*key, *known));
            }
        }
        for hostname in hostnames {
            let of_host = by_host.get(hostname).map_or(&[][..], Vec::as_slice);
            let mut entries: Vec<(Place<'_>, HttpEntry)> = Vec::new();
            for entry in self.entries.group(hostname) {
                let key = (entry.rule.kind, entry.rule.route.clone());
                if let Some((key, known)) = known.get_key_value(&key).filter(|(key, _)| !gone.contains(*key)) {
                    entries.push((Place::of(key, known), entry.clone()));
                }
            }
            for (key, known) in of_host {
                let Compiled::Rules(rules, _) = &known.compiled else { continue };
                for rule in rules.iter() {
                    entries.extend(rule.matches.iter().map(|matches| {
                        let (hostname, matches) = (hostname.clone(), Arc::clone(matches));
                        (Place::of(key, known), HttpEntry { hostname, matches, rule: Arc::clone(&rule.rule) })
                    }));
                }
            }
            // Stable: the matches of a rule that are equally specific stay in their order.
            entries.sort_by(|(a_place, a), (b_place, b)| {
                let by_rank = a.matches.rank().cmp(&b.matches.rank());
                by_rank.then_with(|| a_place.cmp(b_place)).then_with(|| a.rule.index.cmp(&b.rule.index))
            });
            self.entries.replace(hostname, entries.into_iter().map(|(_, entry)| entry).collect());
        }
    }

    /// Replaces the streams of these routes.
    fn put_streams(
        &mut self,
        gone: &BTreeSet<RouteKey>,
        new: &[(&RouteKey, &Known)],
        known: &BTreeMap<RouteKey, Known>,
    ) {
        let Some(open) = &self.open else { return };
        let mut streams: Vec<(Place<'_>, StreamEntry)> = Vec::new();
        for entry in self.streams.iter() {
            let key = (entry.kind, entry.route.clone());
            if let Some((key, known)) = known.get_key_value(&key).filter(|(key, _)| !gone.contains(*key)) {
                streams.push((Place::of(key, known), entry.clone()));
            }
        }
        for (key, known) in new {
            let Compiled::Shares(shares, ..) = &known.compiled else { continue };
            let hostnames = known.hostnames.iter().filter(|hostname| hostname.intersects(open)).cloned().collect();
            let entry = StreamEntry { kind: key.0, route: key.1.clone(), hostnames, shares: Arc::clone(shares) };
            streams.push((Place::of(key, known), entry));
        }
        streams.sort_by(|(a, _), (b, _)| a.cmp(b));
        if !streams.iter().map(|(_, entry)| entry).eq(self.streams.iter()) {
            self.streams = Arc::new(streams.into_iter().map(|(_, entry)| entry).collect());
        }
    }
}

/// Which of two routes comes first where nothing else decides: by kind, the oldest, then by name. What has no age is older than
/// everything.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    kind: crate::api::RouteKind,
    age: Option<&'a str>,
    name: &'a ObjectName,
}

impl<'a> Place<'a> {
    fn of(key: &'a RouteKey, known: &'a Known) -> Self {
        Self { kind: key.0, age: known.age.as_deref(), name: &key.1 }
    }
}
