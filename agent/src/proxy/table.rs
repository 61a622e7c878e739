//! The route table in use: what is read for every request, replaced as a whole.
//!
//! A new table keeps what did not change: indices whose listeners are equal, and every backend address with its
//! connections. Requests hold the table they began with; nothing of it is changed under them.
//!
//! # Design
//! Connections are kept by endpoint and by all that they were made with: in clear text, or under TLS with these parameters and this
//! certificate of the Gateway ([`TlsDigest`]), told who the client is or not. A policy that changes is another key, so no connection outlives what it was made for;
//! one that stays as it is keeps its pool.
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use super::{
    balance::{Endpoints, Moment, Security},
    bounds::{Bounds, Most, Part},
    metrics::BackendSeries,
    pool::{Upstream, Way},
    release::Release,
    router::{Shards, Site},
    settings::Settings,
    stats::Counters,
    tenant::Tenant,
    tls::{Local, TlsDigest, TlsListener, UpstreamTls, backend_digest},
};
use crate::{
    api::ObjectName,
    model::{
        Backend,
        backend_tls::PortTls,
        http::{
            HttpListener, HttpModel, Identity, ServicePort,
            balance::{Balance, ProxyProtocol},
        },
    },
    shared::SharedMap,
};

/// The endpoints of Service ports, as the model has them.
type Services = SharedMap<ServicePort, Arc<Vec<Backend>>>;

/// How they are balanced, where somebody says so.
type Balances = BTreeMap<ServicePort, Arc<Balance>>;

/// What the proxy knows at one moment. A copy shares what is behind its maps.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    sites: HashMap<SocketAddr, (Arc<Site>, Arc<Tenant>, Release)>,
    /// What tells each worker that the proxy ends.
    drains: Arc<[CancellationToken]>,
    /// What the clients of each Gateway share.
    gateways: BTreeMap<ObjectName, Arc<Tenant>>,
    /// What TLS is terminated with, by Gateway and listener.
    tls: BTreeMap<(ObjectName, String), Arc<TlsListener>>,
    /// What tickets are sealed with that no other process takes.
    local: Local,
    /// What `clusters` and `upstreams` were made from.
    services: Services,
    balances: Balances,
    ports: BTreeMap<ServicePort, PortTls>,
    identities: BTreeMap<ObjectName, Identity>,
    /// What TLS with endpoints is made with.
    secured: BTreeMap<TlsDigest, Arc<UpstreamTls>>,
    clusters: Shards<ServicePort, Arc<Endpoints>>,
    /// Those of Gateways that show a certificate.
    identified: BTreeMap<(ObjectName, ServicePort), Arc<Endpoints>>,
    upstreams: SharedMap<UpstreamKey, Used>,
}

/// What connections are kept by.
pub(super) type UpstreamKey = (SocketAddr, Option<TlsDigest>, Option<ProxyProtocol>);

/// The address of an endpoint, and a way to speak to it.
#[derive(Clone, Debug)]
struct Used {
    upstream: Arc<Upstream>,
    /// How often it is among the endpoints of some Service port.
    by: usize,
}

impl Table {
    /// An empty one; `drains` tell each worker that the proxy ends.
    #[must_use]
    pub(super) fn of(drains: Arc<[CancellationToken]>) -> Self {
        Self { drains, ..Self::default() }
    }

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
            let was = self.sites.get(frontend);
            let old = was.map(|(site, _, _)| site);
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
                let name = owner.clone();
                Arc::new(Tenant {
                    name,
                    limits,
                    ..self.gateways.get(owner).map(|t| Tenant::clone(t)).unwrap_or_default()
                })
            });
            // Clients of another Gateway, or of clear text where TLS is spoken now, are no clients of this one.
            let is_same = |(last, of, _): &&(Arc<Site>, Arc<Tenant>, Release)| {
                of.name == *owner && last.is_secured() == site.is_secured()
            };
            let release = was.filter(is_same).map_or_else(|| Release::new(&self.drains), |(_, _, same)| same.clone());
            sites.insert(*frontend, (site, Arc::clone(tenant), release));
        }
        let mut next = Self { sites, gateways, tls, ..self.clone() };
        next.follow(model, |way| Upstream::new(way, settings, Arc::clone(bounds), counters));
        next
    }

    /// Takes over the endpoints of Service ports, and how they are spoken to; of those that were there nothing but their number of
    /// users changes.
    fn follow(&mut self, model: &HttpModel, mut new: impl FnMut(Way) -> Upstream) {
        let told = self.balance(&model.balances);
        let last = std::mem::replace(&mut self.services, model.services.clone());
        let is_same =
            |(_, a): (&ServicePort, &Arc<Vec<Backend>>), (_, b): (&ServicePort, &Arc<Vec<Backend>>)| Arc::ptr_eq(a, b);
        let mut changed: BTreeSet<ServicePort> =
            last.differences(&model.services, is_same).map(|difference| difference.key.clone()).collect();
        changed.extend(self.take_security(model));
        changed.extend(told);
        let mut left: Vec<UpstreamKey> = Vec::new();
        for service in &changed {
            let known = self.clusters.get(service).into_iter();
            let known = known.chain(self.identified.iter().filter(|((_, port), _)| port == service).map(|(_, of)| of));
            left.extend(known.flat_map(|endpoints| &endpoints.upstreams).map(|upstream| upstream.key()));
            self.identified.retain(|(_, port), _| port != service);
            let Some(backends) = model.services.get(service) else {
                self.clusters.remove(service);
                continue;
            };
            let endpoints = self.endpoints(service, (backends, None), &mut new);
            self.clusters.insert(service.clone(), endpoints);
            for (gateway, identity) in model.identities.iter().filter(|(_, of)| of.ports.contains(service)) {
                let endpoints = self.endpoints(service, (backends, Some(identity)), &mut new);
                self.identified.insert((gateway.clone(), service.clone()), endpoints);
            }
        }
        // Afterwards: an address that another Service port has now keeps its connections.
        for key in left {
            match self.upstreams.get_mut(&key) {
                Some(used) if used.by > 1 => used.by -= 1,
                _ => drop(self.upstreams.remove(&key)),
            }
        }
        if !self.secured.is_empty() {
            let used: BTreeSet<TlsDigest> = self.upstreams.keys().filter_map(|(_, digest, _)| *digest).collect();
            self.secured.retain(|digest, _| used.contains(digest));
        }
    }

    /// Takes over which ports are spoken to under TLS and who the Gateways are; the ports that are spoken to in another way now.
    fn take_security(&mut self, model: &HttpModel) -> BTreeSet<ServicePort> {
        let ports = std::mem::replace(&mut self.ports, model.tls.clone());
        let identities = std::mem::replace(&mut self.identities, model.identities.clone());
        let mut changed: BTreeSet<ServicePort> = BTreeSet::new();
        changed.extend(ports.keys().chain(model.tls.keys()).filter(|p| ports.get(*p) != model.tls.get(*p)).cloned());
        for gateway in identities.keys().chain(model.identities.keys()) {
            let (old, new) = (identities.get(gateway), model.identities.get(gateway));
            if old != new {
                changed.extend(old.into_iter().chain(new).flat_map(|identity| identity.ports.iter().cloned()));
            }
        }
        changed
    }

    /// The endpoints of a Service port, as a Gateway speaks to them that has this identity, or none.
    fn endpoints(
        &mut self,
        port: &ServicePort,
        (backends, identity): (&[Backend], Option<&Identity>),
        new: &mut impl FnMut(Way) -> Upstream,
    ) -> Arc<Endpoints> {
        let tls = self.upstream_tls(port, identity);
        let security = match &tls {
            Ok(None) => Security::Clear,
            Ok(Some(_)) => Security::Tls,
            Err(()) => Security::Barred,
        };
        // Where they are barred, TLS that clients have begun with them goes by all the same.
        let tls = tls.ok().flatten();
        let tells = self.balances.get(port).and_then(|balance| balance.proxy_protocol);
        let mut upstream = |backend: &Backend| {
            let addr = SocketAddr::new(backend.addr, backend.port.get());
            let key = (addr, tls.as_ref().map(|tls| tls.digest()), tells);
            if let Some(used) = self.upstreams.get_mut(&key) {
                used.by += 1;
                return Arc::clone(&used.upstream);
            }
            let upstream = Arc::new(new(Way { addr, tls: tls.clone(), tells }));
            self.upstreams.insert(key, Used { upstream: Arc::clone(&upstream), by: 1 });
            upstream
        };
        let upstreams = backends.iter().map(&mut upstream).collect();
        self.balanced(port, upstreams, security)
    }

    /// What TLS with the endpoints of a port is made with; `None` in clear text.
    ///
    /// # Errors
    /// Nobody may speak to them.
    fn upstream_tls(
        &mut self,
        port: &ServicePort,
        identity: Option<&Identity>,
    ) -> Result<Option<Arc<UpstreamTls>>, ()> {
        let Some(of_port) = self.ports.get(port) else { return Ok(None) };
        let tls = of_port.tls.as_ref().map_err(drop)?;
        let certificate = match identity {
            None => None,
            Some(identity) => Some(identity.certificate.as_ref().map_err(drop)?.as_ref()),
        };
        let digest = backend_digest(tls, certificate);
        if let Some(known) = self.secured.get(&digest) {
            return Ok(Some(Arc::clone(known)));
        }
        let made = UpstreamTls::try_new(tls, certificate).map(Arc::new).map_err(|error| {
            tracing::error!(service = %port, policy = %of_port.policy, %error, "TLS cannot be spoken, requests are refused");
        })?;
        self.secured.insert(digest, Arc::clone(&made));
        Ok(Some(made))
    }

    /// Takes over how Service ports are balanced; their endpoints are what they were, but for the ports whose are told something else
    /// of clients now, which are returned.
    fn balance(&mut self, new: &Balances) -> Vec<ServicePort> {
        let last = std::mem::replace(&mut self.balances, new.clone());
        let came = new.iter().filter(|(port, balance)| last.get(*port) != Some(*balance)).map(|(port, _)| port);
        let went = last.keys().filter(|port| !new.contains_key(*port));
        for port in came.chain(went) {
            if let Some(known) = self.clusters.get(port) {
                let (upstreams, security) = (known.upstreams.clone(), known.security);
                let endpoints = self.balanced(port, upstreams, security);
                self.clusters.insert(port.clone(), endpoints);
            }
            let of_port = self.identified.iter().filter(|((_, of), _)| of == port);
            let of_port: Vec<_> = of_port.map(|(key, known)| (key.clone(), Arc::clone(known))).collect();
            for (key, known) in of_port {
                let endpoints = self.balanced(port, known.upstreams.clone(), known.security);
                self.identified.insert(key, endpoints);
            }
        }
        let tells = |all: &Balances, port| all.get(port).and_then(|balance| balance.proxy_protocol);
        let ports = last.keys().chain(new.keys());
        ports.filter(|port| tells(&last, port) != tells(new, port)).cloned().collect()
    }

    /// Endpoints of a Service port, balanced as it says.
    fn balanced(&self, port: &ServicePort, upstreams: Vec<Arc<Upstream>>, security: Security) -> Arc<Endpoints> {
        let known = self.clusters.get(port);
        let retries = known.map(|known| Arc::clone(&known.retries)).unwrap_or_default();
        let counts = known.map(|known| Arc::clone(&known.counts)).unwrap_or_default();
        let budget = known.and_then(|known| known.budget.clone());
        let balance = self.balances.get(port).cloned().unwrap_or_default();
        let mut endpoints = Endpoints::new(upstreams, retries, balance);
        (endpoints.security, endpoints.counts) = (security, counts);
        if let Some(spec) = endpoints.balance.retries
            && let Some(known) = budget.filter(|known| known.is_of(spec))
        {
            endpoints.budget = Some(known);
        }
        endpoints.trim(Moment::now());
        Arc::new(endpoints)
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

    /// Closes the idle connections of addresses that `next` does not have, and tells the clients of frontends that it does not have.
    pub(super) fn retire(&self, next: &Self) {
        for (frontend, (_, _, release)) in &self.sites {
            if !next.sites.get(frontend).is_some_and(|(_, _, now)| now.is(release)) {
                release.begin();
            }
        }
        let is_same =
            |(_, a): (&UpstreamKey, &Used), (_, b): (&UpstreamKey, &Used)| Arc::ptr_eq(&a.upstream, &b.upstream);
        for old in self.upstreams.differences(&next.upstreams, is_same).filter_map(|difference| difference.old) {
            old.upstream.retire();
        }
    }

    /// What is served at an address that clients dial.
    #[must_use]
    pub(super) fn site(&self, frontend: SocketAddr) -> Option<&Arc<Site>> {
        self.sites.get(&frontend).map(|(site, _, _)| site)
    }

    /// The Gateway at an address that clients dial, its part in any case, and what tells its clients when that is gone.
    #[must_use]
    pub(super) fn gateway(&self, frontend: SocketAddr, bounds: &Bounds) -> Option<(&Arc<Tenant>, Part, &Release)> {
        let (_, tenant, release) = self.sites.get(&frontend)?;
        Some((tenant, bounds.of_gateway(self.gateways.len()), release))
    }

    /// A Gateway.
    #[must_use]
    pub(super) fn tenant(&self, gateway: &ObjectName) -> Option<&Arc<Tenant>> {
        self.gateways.get(gateway)
    }

    /// All Gateways.
    pub(super) fn tenants(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.gateways.values()
    }

    /// How many connections to endpoints one of them, and one Gateway, may have.
    #[must_use]
    pub(super) fn most(&self, bounds: &Bounds) -> Most {
        bounds.most(self.upstreams.len(), self.gateways.len())
    }

    /// Closes the connection that was unused for longest, whichever endpoint it leads to.
    pub(super) fn evict_idle(&self) {
        let oldest = self.upstreams().filter_map(|upstream| Some((upstream.idle_since()?, upstream)));
        if let Some(((_, worker), upstream)) = oldest.min_by_key(|(since, _)| *since) {
            upstream.evict_idle(worker);
        }
    }

    /// The backend addresses of a Service port, as this Gateway speaks to them; `None` where no route names it.
    #[must_use]
    pub(super) fn cluster(&self, gateway: &ObjectName, service: &ServicePort) -> Option<&Arc<Endpoints>> {
        if !self.identified.is_empty()
            && let Some(found) = self.identified.get(&(gateway.clone(), service.clone()))
        {
            return Some(found);
        }
        self.clusters.get(service)
    }

    /// The backend addresses of a Service port, however they are spoken to: to every Gateway they are the same.
    #[must_use]
    pub(super) fn any_cluster(&self, service: &ServicePort) -> Option<&Arc<Endpoints>> {
        self.clusters.get(service)
    }

    /// What is counted of every Service port, in their order.
    pub(super) fn backends(&self) -> impl Iterator<Item = (&ServicePort, &BackendSeries)> {
        self.services.keys().filter_map(|port| Some((port, &*self.clusters.get(port)?.counts)))
    }

    /// The endpoints of every Service port, once for each Gateway that shows them a certificate and once for all others.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<Endpoints>> {
        self.clusters.values().chain(self.identified.values())
    }

    /// Every backend address, once for each way that it is spoken to.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values().map(|used| &used.upstream)
    }
}
