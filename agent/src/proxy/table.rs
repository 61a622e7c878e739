//! The route table in use: what is read for every request, replaced as a whole.
//!
//! A new table keeps what did not change: indices whose listeners are equal, and every backend address with its
//! connections. Requests hold the table they began with; nothing of it is changed under them.
use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    balance::{Endpoints, Moment},
    bounds::Bounds,
    pool::Upstream,
    router::Site,
    settings::Settings,
    stats::Counters,
    tenant::Tenant,
    tls::{Local, TlsListener},
};
use crate::{
    api::ObjectName,
    model::http::{HttpListener, HttpModel, ServicePort},
};

/// What the proxy knows at one moment.
#[derive(Debug, Default)]
pub(super) struct Table {
    sites: HashMap<SocketAddr, (Arc<Site>, Arc<Tenant>)>,
    /// What the clients of each Gateway share.
    gateways: BTreeMap<ObjectName, Arc<Tenant>>,
    /// What TLS is terminated with, by Gateway and listener.
    tls: BTreeMap<(ObjectName, String), Arc<TlsListener>>,
    /// What tickets are sealed with that no other process takes.
    local: Local,
    clusters: HashMap<ServicePort, Arc<Endpoints>>,
    upstreams: BTreeMap<SocketAddr, Arc<Upstream>>,
}

impl Table {
    /// The table for a model, with what it shares with this one.
    #[must_use]
    pub(super) fn next(
        &self,
        model: &HttpModel,
        settings: &Settings,
        bounds: &Arc<Bounds>,
        counters: &Counters,
    ) -> Self {
        let mut sites = HashMap::with_capacity(model.frontends.len());
        let mut gateways: BTreeMap<ObjectName, Arc<Tenant>> = BTreeMap::new();
        let mut made: Vec<Arc<Site>> = Vec::new();
        let mut tls = BTreeMap::new();
        for (frontend, listeners) in &model.frontends {
            let known = made.iter().find(|site| Arc::ptr_eq(site.listeners(), listeners)).cloned();
            let old = || self.sites.get(frontend).map(|(site, _)| site).filter(|s| s.listeners() == listeners);
            let known = known.or_else(|| old().cloned());
            let site = known.unwrap_or_else(|| {
                let secured = |listener: &HttpListener| self.secured(listener);
                let site = Arc::new(Site::secured(Arc::clone(listeners), secured));
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
        let mut upstreams: BTreeMap<SocketAddr, Arc<Upstream>> = BTreeMap::new();
        let mut upstream = |addr: SocketAddr| {
            let known = || self.upstreams.get(&addr).cloned();
            let new = || Arc::new(Upstream::new(addr, settings, Arc::clone(bounds), counters));
            Arc::clone(upstreams.entry(addr).or_insert_with(|| known().unwrap_or_else(new)))
        };
        let cluster = |service| {
            let retries = self.clusters.get(service).map(|known| Arc::clone(&known.retries)).unwrap_or_default();
            let upstreams = model.addresses(service).into_iter().map(&mut upstream).collect();
            let balance = model.balances.get(service).cloned().unwrap_or_default();
            let endpoints = Endpoints::new(upstreams, retries, balance);
            endpoints.trim(Moment::now());
            Arc::new(endpoints)
        };
        let clusters = model.services.keys().map(|s| (s.clone(), s)).map({
            let mut cluster = cluster;
            move |(key, service)| (key, cluster(service))
        });
        let clusters = clusters.collect();
        Self { sites, gateways, tls, local: self.local.clone(), clusters, upstreams }
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
        for (addr, upstream) in &self.upstreams {
            if !next.upstreams.contains_key(addr) {
                upstream.retire();
            }
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
        let oldest = self.upstreams.values().filter_map(|upstream| Some((upstream.idle_since()?, upstream)));
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
        self.upstreams.values()
    }
}
