//! The route table in use: what is read for every request, replaced as a whole.
//!
//! A new table keeps what did not change: indices whose listeners are equal, and every backend address with its
//! connections. Requests hold the table they began with; nothing of it is changed under them.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    balance::{Endpoints, Moment},
    bounds::Bounds,
    pool::Upstream,
    router::{Shards, Site},
    settings::Settings,
    stats::Counters,
    tenant::Tenant,
    tls::{Local, TlsListener},
};
use crate::{
    api::ObjectName,
    model::{
        Backend,
        http::{HttpListener, HttpModel, ServicePort, balance::Balance},
    },
    shared::{Difference, SharedMap},
};

/// The endpoints of Service ports, as the model has them.
type Services = SharedMap<ServicePort, Arc<Vec<Backend>>>;

/// How they are balanced, where somebody says so.
type Balances = BTreeMap<ServicePort, Arc<Balance>>;

/// What the proxy knows at one moment. A copy shares what is behind its maps.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    sites: HashMap<SocketAddr, (Arc<Site>, Arc<Tenant>)>,
    /// What the clients of each Gateway share.
    gateways: BTreeMap<ObjectName, Arc<Tenant>>,
    /// What TLS is terminated with, by Gateway and listener.
    tls: BTreeMap<(ObjectName, String), Arc<TlsListener>>,
    /// What tickets are sealed with that no other process takes.
    local: Local,
    /// What `clusters` and `upstreams` were made from.
    services: Services,
    balances: Balances,
    clusters: Shards<ServicePort, Arc<Endpoints>>,
    upstreams: SharedMap<SocketAddr, Used>,
}

/// The address of an endpoint.
#[derive(Clone, Debug)]
struct Used {
    upstream: Arc<Upstream>,
    /// How often it is among the endpoints of some Service port.
    by: usize,
}

impl Table {
    /// The table for a model, with what it shares with this one. The host names whose entries were indexed for it are counted in
    /// `parts`.
    ///
    /// Cost: that of what has changed, and of the listeners.
    #[must_use]
    pub(super) fn next(
        &self,
        model: &HttpModel,
        settings: &Settings,
        bounds: &Arc<Bounds>,
        counters: &Counters,
        parts: &mut u64,
    ) -> Self {
        let mut sites = HashMap::with_capacity(model.frontends.len());
        let mut gateways: BTreeMap<ObjectName, Arc<Tenant>> = BTreeMap::new();
        let mut made: Vec<Arc<Site>> = Vec::new();
        let mut tls = BTreeMap::new();
        for (frontend, listeners) in &model.frontends {
            let known = made.iter().find(|site| Arc::ptr_eq(site.listeners(), listeners)).cloned();
            let old = self.sites.get(frontend).map(|(site, _)| site);
            let known = known.or_else(|| old.filter(|site| site.listeners() == listeners).cloned());
            let site = known.unwrap_or_else(|| {
                let secured = |listener: &HttpListener| self.secured(listener);
                let (nothing, listeners) = (Site::default(), Arc::clone(listeners));
                let site = old.map_or(&nothing, |site| site.as_ref()).next(listeners, secured, parts);
                let site = Arc::new(site);
                made.push(Arc::clone(&site));
                site
            });
            // The listeners of a frontend are one Gateway's.
            tls.extend(site.secured_listeners());
            let Some(owner) = listeners.first().map(|listener| &listener.gateway) else { continue };
            let tenant = gateways.entry(owner.clone()).or_insert_with(|| {
                let limits = model.limits.get(owner).cloned().unwrap_or_default();
                Arc::new(Tenant { limits, ..self.gateways.get(owner).map(|t| Tenant::clone(t)).unwrap_or_default() })
            });
            sites.insert(*frontend, (site, Arc::clone(tenant)));
        }
        let mut next = Self { sites, gateways, tls, ..self.clone() };
        next.follow(model, |addr| Upstream::new(addr, settings, Arc::clone(bounds), counters));
        next
    }

    /// Takes over the endpoints of Service ports; of those that were there nothing but their number of users changes.
    fn follow(&mut self, model: &HttpModel, mut new: impl FnMut(SocketAddr) -> Upstream) {
        self.balance(&model.balances);
        let services = &model.services;
        let last = std::mem::replace(&mut self.services, services.clone());
        let is_same =
            |(_, a): (&ServicePort, &Arc<Vec<Backend>>), (_, b): (&ServicePort, &Arc<Vec<Backend>>)| Arc::ptr_eq(a, b);
        let address = |backend: &Backend| SocketAddr::new(backend.addr, backend.port.get());
        let mut left = Vec::new();
        for Difference { key: service, old, new: backends } in last.differences(services, is_same) {
            left.extend(old.into_iter().flat_map(|backends| backends.iter().map(address)));
            let Some(backends) = backends else {
                self.clusters.remove(service);
                continue;
            };
            let mut upstream = |addr: SocketAddr| {
                if let Some(used) = self.upstreams.get_mut(&addr) {
                    used.by += 1;
                    return Arc::clone(&used.upstream);
                }
                let upstream = Arc::new(new(addr));
                self.upstreams.insert(addr, Used { upstream: Arc::clone(&upstream), by: 1 });
                upstream
            };
            let upstreams = backends.iter().map(address).map(&mut upstream).collect();
            self.put(service, upstreams);
        }
        // Afterwards: an address that another Service port has now keeps its connections.
        for addr in left {
            match self.upstreams.get_mut(&addr) {
                Some(used) if used.by > 1 => used.by -= 1,
                _ => drop(self.upstreams.remove(&addr)),
            }
        }
    }

    /// Takes over how Service ports are balanced; their endpoints are what they were.
    fn balance(&mut self, new: &Balances) {
        let last = std::mem::replace(&mut self.balances, new.clone());
        let came = new.iter().filter(|(port, balance)| last.get(*port) != Some(*balance)).map(|(port, _)| port);
        let went = last.keys().filter(|port| !new.contains_key(*port));
        for port in came.chain(went) {
            if let Some(known) = self.clusters.get(port) {
                let upstreams = known.upstreams.clone();
                self.put(port, upstreams);
            }
        }
    }

    /// Puts endpoints of a Service port in place.
    fn put(&mut self, port: &ServicePort, upstreams: Vec<Arc<Upstream>>) {
        let retries = self.clusters.get(port).map(|known| Arc::clone(&known.retries)).unwrap_or_default();
        let balance = self.balances.get(port).cloned().unwrap_or_default();
        let endpoints = Endpoints::new(upstreams, retries, balance);
        endpoints.trim(Moment::now());
        self.clusters.insert(port.clone(), Arc::new(endpoints));
    }

    /// What TLS is terminated with at a listener: the same as before while that is equal.
    fn secured(&self, listener: &HttpListener) -> Option<Arc<TlsListener>> {
        let termination = listener.tls.as_ref()?;
        let known = self.tls.get(&(listener.gateway.clone(), listener.name.clone()));
        if let Some(known) = known.filter(|known| known.is_of(termination)) {
            return Some(Arc::clone(known));
        }
        match TlsListener::try_new(listener, termination, &self.local) {
            Ok(made) => Some(Arc::new(made)),
            Err(error) => {
                let HttpListener { gateway, name, .. } = listener;
                tracing::error!(%gateway, listener = name, %error, "TLS cannot be terminated, handshakes are refused");
                None
            }
        }
    }

    /// Closes the idle connections of addresses that `next` does not have.
    pub(super) fn retire(&self, next: &Self) {
        let is_same =
            |(_, a): (&SocketAddr, &Used), (_, b): (&SocketAddr, &Used)| Arc::ptr_eq(&a.upstream, &b.upstream);
        for old in self.upstreams.differences(&next.upstreams, is_same).filter_map(|difference| difference.old) {
            old.upstream.retire();
        }
    }

    /// What is served at an address that clients dial.
    #[must_use]
    pub(super) fn site(&self, frontend: SocketAddr) -> Option<&Arc<Site>> {
        self.sites.get(&frontend).map(|(site, _)| site)
    }

    /// The Gateway at an address that clients dial, and how many connections its clients may have in any case.
    #[must_use]
    pub(super) fn gateway(&self, frontend: SocketAddr, bounds: &Bounds) -> Option<(&Arc<Tenant>, usize)> {
        let (_, tenant) = self.sites.get(&frontend)?;
        Some((tenant, bounds.per_gateway(self.gateways.len())))
    }

    /// How many connections one endpoint may have.
    #[must_use]
    pub(super) fn per_endpoint(&self, bounds: &Bounds) -> usize {
        bounds.per_endpoint(self.upstreams.len())
    }

    /// Closes the connection that was unused for longest, whichever endpoint it leads to.
    pub(super) fn evict_idle(&self) {
        let oldest = self.upstreams().filter_map(|upstream| Some((upstream.idle_since()?, upstream)));
        if let Some(((_, worker), upstream)) = oldest.min_by_key(|(since, _)| *since) {
            upstream.evict_idle(worker);
        }
    }

    /// The backend addresses of a Service port; `None` where no route names it.
    #[must_use]
    pub(super) fn cluster(&self, service: &ServicePort) -> Option<&Arc<Endpoints>> {
        self.clusters.get(service)
    }

    /// The endpoints of every Service port.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<Endpoints>> {
        self.clusters.values()
    }

    /// Every backend address.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values().map(|used| &used.upstream)
    }
}
