//! Who is behind each Service, and since when: what the discovery API answers from.
//!
//! In: [`Snapshot`]s. Out: the [`Directory`], changed in place. It is kept by what changes, never by asking: a snapshot is
//! compared with the one before by the identity of its objects, and only the Services that differ are looked at again. A
//! query for one Service reads its slices alone. Invariant: an instance's last change moves if, and only if, something
//! that the API tells of it changed.
//!
//! # Design
//! Instances are made of the slices when somebody asks; kept are two numbers and a time for each, so that 100,000 of
//! them cost a few megabytes.
mod instance;
#[cfg(test)]
mod tests;
pub mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use instance::instances;
use view::{Counts, Instance, InstanceList, OwnedInstance, OwnedInstances};

use crate::{
    api::{EndpointSlice, ObjectName, Service},
    model::endpoints::SliceIndex,
    shared::Difference,
    source::Snapshot,
};

/// Between two looks at snapshots, at least: comparing whole snapshots must not cost what their changes do not.
const SPACING: Duration = Duration::from_millis(50);

/// Every Service and its slices.
#[derive(Debug)]
pub struct Directory {
    /// When the agent began to watch: part of the version, since the count begins anew with it.
    since: Timestamp,
    /// Counts changes.
    rev: u64,
    /// The time of the last one.
    changed: Timestamp,
    seen: Arc<Snapshot>,
    is_synced: bool,
    slices: SliceIndex,
    services: BTreeMap<ObjectName, Entry>,
}

/// One Service.
#[derive(Debug)]
struct Entry {
    service: Arc<Service>,
    rev: u64,
    changed: Timestamp,
    /// One for each instance, in the order of the first number.
    marks: Vec<Mark>,
}

/// What is remembered of an instance.
#[derive(Clone, Copy, Debug)]
struct Mark {
    who: u64,
    state: u64,
    at: Timestamp,
}

/// What can be asked of all instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this namespace alone.
    pub namespace: Option<String>,
    /// Only those that are ready, or that are not.
    pub ready: Option<bool>,
}

/// Keeps the directory until `cancel`.
pub async fn run(
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    out: watch::Sender<Directory>,
    cancel: CancellationToken,
) {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = snapshot {
            out.send_if_modified(|directory| directory.take(snapshot, Timestamp::now()));
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(SPACING) => {}
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = snapshots.changed() => if changed.is_err() { return },
        }
    }
}

impl Directory {
    /// An empty directory.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            since: now,
            rev: 0,
            changed: now,
            seen: Arc::default(),
            is_synced: false,
            slices: SliceIndex::default(),
            services: BTreeMap::new(),
        }
    }

    /// Takes note of what differs from the snapshot before; whether anything does that is told here.
    pub fn take(&mut self, snapshot: Arc<Snapshot>, now: Timestamp) -> bool {
        let seen = std::mem::replace(&mut self.seen, Arc::clone(&snapshot));
        let mut touched = BTreeSet::new();
        let services = seen.services.differences(&snapshot.services, |(_, a), (_, b)| Arc::ptr_eq(a, b));
        touched.extend(services.map(|difference| difference.key.clone()));
        let slices = seen.slices.differences(&snapshot.slices, |(_, a), (_, b)| Arc::ptr_eq(a, b));
        for Difference { key: name, old, new } in slices {
            if let Some(service) = old.and_then(|slice| slice.service_name()) {
                self.slices.remove(&service, name);
                touched.insert(service);
            }
            if let Some((slice, service)) = new.and_then(|slice| Some((slice, slice.service_name()?))) {
                self.slices.insert(name, slice);
                touched.insert(service);
            }
        }
        let rev = self.rev;
        for name in touched {
            self.renew(&name, snapshot.services.get(&name), now);
        }
        // Even with nothing in it: from here on "unknown" is an answer.
        let is_first = !std::mem::replace(&mut self.is_synced, true);
        is_first || rev != self.rev
    }

    /// Looks at one Service again.
    fn renew(&mut self, name: &ObjectName, service: Option<&Arc<Service>>, now: Timestamp) {
        let Some(service) = service else {
            if self.services.remove(name).is_some() {
                (self.rev, self.changed) = (self.rev + 1, now);
            }
            return;
        };
        let known = self.services.get(name);
        let marks = known.map_or(&[][..], |entry| &entry.marks);
        let found = instances(service, self.slices.of(name));
        let mut fresh: Vec<Mark> = found.iter().map(|i| mark(instance::fingerprint(i), marks, now)).collect();
        fresh.sort_unstable_by_key(|m| m.who);
        let is_same =
            known.is_some() && fresh.iter().map(|m| (m.who, m.state)).eq(marks.iter().map(|m| (m.who, m.state)));
        match known {
            Some(entry) if is_same => {
                let (rev, changed) = (entry.rev, entry.changed);
                self.services.insert(name.clone(), Entry { service: Arc::clone(service), rev, changed, marks: fresh });
            }
            _ => {
                (self.rev, self.changed) = (self.rev + 1, now);
                let entry = Entry { service: Arc::clone(service), rev: self.rev, changed: now, marks: fresh };
                self.services.insert(name.clone(), entry);
            }
        }
    }

    /// Whether a snapshot was seen; before it, nothing is known to be absent.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// The version of one Service's instances, or of all; `None` when the Service is unknown.
    #[must_use]
    pub fn version(&self, service: Option<&ObjectName>) -> Option<String> {
        let rev = match service {
            None => self.rev,
            Some(name) => self.services.get(name)?.rev,
        };
        Some(format!("{}-{rev}", self.since.as_millisecond()))
    }

    /// What is needed to list a Service's instances; to be listed without holding the directory.
    #[must_use]
    pub fn of(&self, name: &ObjectName) -> Option<Listing> {
        let Entry { service, rev: _, changed, marks } = self.services.get(name)?;
        let slices = self.slices.of(name).to_vec();
        Some(Listing { service: Arc::clone(service), slices, changed: *changed, marks: marks.clone() })
    }

    /// The same for every Service of a namespace, or for all, and when any of them last changed.
    #[must_use]
    pub fn all(&self, namespace: Option<&str>) -> (Vec<Listing>, Timestamp) {
        let names = self.services.keys().filter(|name| namespace.is_none_or(|ns| name.ns == ns));
        (names.filter_map(|name| self.of(name)).collect(), self.changed)
    }
}

/// One Service's slices and what is remembered of its instances.
#[derive(Clone, Debug)]
pub struct Listing {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    changed: Timestamp,
    marks: Vec<Mark>,
}

impl Listing {
    /// The instances, each with its last change.
    fn instances(&self) -> Vec<Instance> {
        let mut all = instances(&self.service, &self.slices);
        for instance in &mut all {
            let (who, state) = instance::fingerprint(instance);
            instance.last_change = mark((who, state), &self.marks, self.changed).at.to_string();
        }
        all
    }

    /// `GET /api/v1/services/NAMESPACE/NAME/instances`. The counts are those of all; the filter is for the list.
    #[must_use]
    pub fn list(&self, ready: Option<bool>) -> InstanceList {
        let ObjectName { ns, name } = self.service.metadata.object_name();
        let mut instances = self.instances();
        let counts = count(&instances);
        instances.retain(|i| ready.is_none_or(|wanted| i.ready == wanted));
        InstanceList { namespace: ns, service: name, counts, last_change: self.changed.to_string(), instances }
    }
}

/// `GET /api/v1/instances`.
#[must_use]
pub fn list_all((listings, changed): (Vec<Listing>, Timestamp), filter: &Filter) -> OwnedInstances {
    let mut all = OwnedInstances { counts: Counts::default(), last_change: changed.to_string(), instances: Vec::new() };
    for listing in listings {
        let InstanceList { namespace, service, counts, last_change: _, instances } = listing.list(filter.ready);
        all.counts.add(counts);
        let owned = instances.into_iter().map(|instance| OwnedInstance {
            namespace: namespace.clone(),
            service: service.clone(),
            instance,
        });
        all.instances.extend(owned);
    }
    all
}

fn count(instances: &[Instance]) -> Counts {
    let number = |is: fn(&Instance) -> bool| instances.iter().filter(|i| is(i)).count();
    Counts {
        total: instances.len(),
        ready: number(|i| i.ready),
        not_ready: number(|i| !i.ready),
        terminating: number(|i| i.terminating),
    }
}

/// The mark of an instance: the one that it had, where it is as it was.
fn mark((who, state): (u64, u64), known: &[Mark], now: Timestamp) -> Mark {
    let found = known.binary_search_by_key(&who, |m| m.who).ok().map(|at| known[at]);
    found.filter(|m| m.state == state).unwrap_or(Mark { who, state, at: now })
}
