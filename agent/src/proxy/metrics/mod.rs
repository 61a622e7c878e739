//! What is counted by route and by backend: requests, errors and durations, as Prometheus and its dashboards want them.
//!
//! In: each request, when it is over ([`Record`]), and each of its tries. Out: at a scrape, the counts of each rule that had requests and
//! of each Service port that had tries.
//!
//! # Design
//! - A worker counts for itself, with plain loads and stores on cache lines of its own: it is one thread, and nobody else writes there.
//!   A scrape adds up what the workers have.
//! - A rule's counts are found by the address of the compiled rule in a map of the worker, behind a lock that nobody else takes but
//!   once a second at most, after the routes have changed. They belong to the rule's name and number: one that is compiled anew
//!   goes on counting.
//! - Series are bounded: what names them is configuration and never what a client sends, they begin with the first request, there are at
//!   most [`Settings::max_series`] of routes and as many of backends, and what is beyond is counted in one more. They end with what
//!   they are about.
//! - Memory: some 0.8 KiB for each rule that had requests, and 0.4 KiB for each Service port, for each worker.
//!
//! [`Settings::max_series`]: super::Settings::max_series
mod backend;
mod histogram;
mod record;
mod route;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use foldhash::fast::RandomState;

pub(super) use self::{
    backend::{BackendCounts, BackendSeries, TryOutcome},
    record::{Attempts, Cut, Record},
    route::RouteCounts,
};
pub use self::{
    backend::{BackendMetrics, OUTCOMES},
    histogram::Distribution,
    route::{CLASSES, CUTS, GRPC_CODES, METHODS, RouteMetrics, Subject},
};
use super::{
    access_log::{AccessLog, LogCounts},
    bounds::Load,
    table::Table,
    tenant::Tenant,
};
use crate::{
    api::{ObjectName, RouteKind},
    model::http::{HttpModel, HttpRule, ServicePort},
};

/// Adds to a counter that one thread alone writes.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// Something of which each worker has its own, from when it first wants it.
#[derive(Debug)]
struct PerWorker<T>(Box<[OnceLock<Arc<T>>]>);

impl<T: Default> PerWorker<T> {
    fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| OnceLock::new()).collect())
    }

    fn of(&self, worker: usize) -> Arc<T> {
        Arc::clone(self.0[worker].get_or_init(Arc::default))
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|slot| Some(slot.get()?.as_ref()))
    }
}

/// Counts of rules, by the addresses of Gateway and rule.
type Known = HashMap<(usize, usize), Found, RandomState>;

/// The rules that a worker has met, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Met(Mutex<Known>);

impl Met {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where requests are counted. While this is held no other has the address.
#[derive(Debug)]
struct Found {
    gateway: Weak<Load>,
    rule: Weak<HttpRule>,
    counts: Arc<RouteCounts>,
}

/// All that is counted.
#[derive(Debug)]
pub(super) struct Registry {
    /// How many series of routes there may be, and how many of backends; 0: none is kept.
    most: usize,
    workers: usize,
    met: Box<[Met]>,
    routes: Mutex<BTreeMap<Subject, Arc<PerWorker<RouteCounts>>>>,
    /// The series of backends.
    backends: Arc<Load>,
    other_backends: PerWorker<BackendCounts>,
}

impl Registry {
    /// Nothing counted so far.
    #[must_use]
    pub(super) fn new(workers: usize, most: usize) -> Self {
        Self {
            most,
            workers,
            met: (0..workers).map(|_| Met::default()).collect(),
            routes: Mutex::default(),
            backends: Arc::default(),
            other_backends: PerWorker::new(workers),
        }
    }

    /// Where a worker counts the requests of a rule.
    pub(super) fn of_rule(&self, worker: usize, tenant: &Tenant, rule: &Arc<HttpRule>) -> Option<Arc<RouteCounts>> {
        let subject = || Subject::Rule {
            gateway: tenant.name.clone(),
            kind: rule.kind,
            route: rule.route.clone(),
            rule: rule.index,
        };
        self.find(worker, tenant, Some(rule), subject)
    }

    /// Where it counts those that have none.
    pub(super) fn unrouted(&self, worker: usize, tenant: &Tenant) -> Option<Arc<RouteCounts>> {
        self.find(worker, tenant, None, || Subject::Unrouted(tenant.name.clone()))
    }

    fn find(
        &self,
        worker: usize,
        tenant: &Tenant,
        rule: Option<&Arc<HttpRule>>,
        subject: impl FnOnce() -> Subject,
    ) -> Option<Arc<RouteCounts>> {
        if self.most == 0 {
            return None;
        }
        // What outlives the tables of a Gateway stands for it.
        let gateway = &tenant.requests;
        let key = (Arc::as_ptr(gateway).addr(), rule.map_or(0, |rule| Arc::as_ptr(rule).addr()));
        if let Some(found) = self.met[worker].lock().get(&key) {
            return Some(Arc::clone(&found.counts));
        }
        let counts = self.admit(subject()).of(worker);
        let found = Found {
            gateway: Arc::downgrade(gateway),
            rule: rule.map_or_else(Weak::new, Arc::downgrade),
            counts: Arc::clone(&counts),
        };
        self.met[worker].lock().insert(key, found);
        Some(counts)
    }

    /// The series of a subject, or the one of all others where there are as many as there may be.
    fn admit(&self, subject: Subject) -> Arc<PerWorker<RouteCounts>> {
        let mut routes = self.routes();
        let own = routes.len() - usize::from(routes.contains_key(&Subject::Other));
        let is_full = own >= self.most && !routes.contains_key(&subject);
        let subject = if is_full { Subject::Other } else { subject };
        Arc::clone(routes.entry(subject).or_insert_with(|| Arc::new(PerWorker::new(self.workers))))
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<Subject, Arc<PerWorker<RouteCounts>>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the series of what a model has no longer; called when it has changed, once a second at most.
    ///
    /// Cost: linear in the entries of the model's listeners and in the series.
    pub(super) fn tidy<'a>(&self, model: &'a HttpModel) {
        if self.routes().is_empty() {
            return;
        }
        let mut gateways: HashSet<&'a ObjectName> = HashSet::new();
        let mut rules: HashSet<(&'a ObjectName, RouteKind, &'a ObjectName, usize)> = HashSet::new();
        for listener in model.frontends.values().flat_map(|listeners| listeners.iter()) {
            gateways.insert(&listener.gateway);
            let of = |rule: &'a HttpRule| (&listener.gateway, rule.kind, &rule.route, rule.index);
            rules.extend(listener.entries.iter().map(|entry| of(&entry.rule)));
        }
        let mut routes = self.routes();
        let before = routes.len();
        routes.retain(|subject, _| match subject {
            Subject::Rule { gateway, kind, route, rule } => rules.contains(&(gateway, *kind, route, *rule)),
            Subject::Unrouted(gateway) => gateways.contains(gateway),
            Subject::Other => true,
        });
        let is_less = routes.len() < before;
        drop(routes);
        for met in &self.met {
            // What comes back may be compiled as it was, and then it has a series that begins anew.
            met.lock().retain(|(_, rule), found| {
                !is_less && found.gateway.strong_count() > 0 && (*rule == 0 || found.rule.strong_count() > 0)
            });
        }
    }
}

/// What is counted, whenever somebody looks.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    table: Arc<ArcSwap<Table>>,
    log: Option<Arc<LogCounts>>,
}

impl Metrics {
    /// What these count.
    pub(super) fn of(registry: &Arc<Registry>, table: &Arc<ArcSwap<Table>>, log: Option<&AccessLog>) -> Self {
        let log = log.map(|log| Arc::clone(log.counts()));
        Self { registry: Arc::clone(registry), table: Arc::clone(table), log }
    }

    /// What became of the lines of the access log, where there is one.
    #[must_use]
    pub fn log(&self) -> Option<&LogCounts> {
        self.log.as_deref()
    }

    /// Those of the routes, in order.
    #[must_use]
    pub fn routes(&self) -> Vec<(Subject, RouteMetrics)> {
        // Taken first: a worker that meets a new rule must not wait for all to be added up.
        let all: Vec<_> =
            self.registry.routes().iter().map(|(subject, of)| (subject.clone(), Arc::clone(of))).collect();
        let sum = |of: Arc<PerWorker<RouteCounts>>| {
            let mut sum = RouteMetrics::default();
            of.all().for_each(|counts| sum.add(counts));
            sum
        };
        all.into_iter().map(|(subject, of)| (subject, sum(of))).collect()
    }

    /// Those of the Service ports, in order; at the end those of all for which there was no place.
    #[must_use]
    pub fn backends(&self) -> Vec<(Option<ServicePort>, BackendMetrics)> {
        let table = self.table.load();
        let own = table.backends().filter_map(|(port, backend)| Some((Some(port.clone()), backend.read()?)));
        let other = BackendMetrics::of(&self.registry.other_backends);
        own.chain((other != BackendMetrics::default()).then_some((None, other))).collect()
    }
}
