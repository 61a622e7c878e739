//! One backend address, in clear text or under TLS with certain parameters: its idle connections and how many requests it has.
//!
//! An HTTP/1.1 connection is in exactly one place: with the request that uses it ([`Exclusive`]) or in the pool of its address and
//! worker. Those of HTTP/2 are in [`Multiplex`]. An address that left the model keeps the requests it has and gets its
//! connections closed one by one as they end.
//!
//! # Design
//! What is known of an endpoint (requests, connections, health) is one for all workers, and atomic. Its idle connections are
//! each worker's own: what moves a connection's bytes ([`Driver`]) runs where its requests do.
mod dial;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

pub(super) use self::dial::ConnectError;
use super::{
    alpn::Chosen,
    balance::{Moment, Vital},
    body::RequestBody,
    bounds::{Bounds, Load},
    driver::Driver,
    http1::{TrailerWriter, Trailers},
    lease::Exclusive,
    multiplex::Multiplex,
    own::Owned,
    proxy_protocol::Source,
    settings::Settings,
    stats::{Counters, Stats, add, sub},
    table::UpstreamKey,
    tls::UpstreamTls,
    transport::UpstreamStream,
};

use crate::model::http::balance::ProxyProtocol;

/// An address, and how it is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The address.
    pub addr: SocketAddr,
    /// The parameters of TLS; `None` in clear text.
    pub tls: Option<Arc<UpstreamTls>>,
    /// In what it is told first who the client is, if it wants to be.
    pub tells: Option<ProxyProtocol>,
}

/// One backend address and how it is spoken to: in clear text, or under TLS with these parameters.
///
/// # Design
/// Health is of both: an endpoint whose certificate one policy does not take is as well as any for another.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The address.
    pub addr: SocketAddr,
    tls: Option<Arc<UpstreamTls>>,
    tells: Option<ProxyProtocol>,
    /// Whose connections these are, where they are one client's ([`super::own`]). Their pool is the only one, and nothing is known here.
    source: Option<Source>,
    /// What clients have for themselves; each of these knows the others.
    pub owned: Arc<Owned>,
    /// Its requests, its latency, its health, as far as it is spoken to like this.
    pub vital: Vital,
    /// What it has chosen by ALPN, where it had the choice.
    pub chosen: Arc<Chosen>,
    /// Its connections, used and unused.
    open: Arc<Load>,
    /// When it was said last that TLS fails.
    warned: Arc<Mutex<Option<Instant>>>,
    gone: AtomicBool,
    /// By worker.
    pools: Box<[Pool]>,
    max_idle: usize,
    max_headers: usize,
    bounds: Arc<Bounds>,
}

/// The idle connections that one worker has, the one used last at the end. Locked by others for housekeeping alone.
#[derive(Debug)]
#[repr(align(128))]
struct Pool {
    idle: Mutex<Vec<Idle>>,
    http2: Multiplex,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
}

/// A connection: the end that requests go into, and what moves its bytes.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) driver: Driver,
    pub(super) trailers: Trailers,
}

impl Upstream {
    /// An address without connections.
    #[must_use]
    pub(super) fn new(
        Way { addr, tls, tells }: Way,
        settings: &Settings,
        bounds: Arc<Bounds>,
        counters: &Counters,
    ) -> Self {
        Self {
            addr,
            tls,
            tells,
            source: None,
            owned: Arc::default(),
            vital: Vital::new(Moment::now()),
            chosen: Arc::default(),
            open: Arc::default(),
            warned: Arc::default(),
            gone: AtomicBool::new(false),
            pools: (0..settings.workers).map(|worker| Pool::new(counters.of(worker))).collect(),
            max_idle: settings.max_idle_per_endpoint.div_ceil(settings.workers),
            max_headers: settings.max_response_headers,
            bounds,
        }
    }

    /// The same address for one client, on one worker: with a pool of its own.
    #[must_use]
    pub(super) fn of_client(&self, worker: usize, source: Source) -> Self {
        Self {
            addr: self.addr,
            tls: self.tls.clone(),
            tells: self.tells,
            source: Some(source),
            owned: Arc::clone(&self.owned),
            vital: Vital::new(Moment::now()),
            chosen: Arc::clone(&self.chosen),
            open: Arc::clone(&self.open),
            warned: Arc::clone(&self.warned),
            gone: AtomicBool::new(false),
            pools: Box::new([Pool::new(&self.pools[worker].stats)]),
            max_idle: self.max_idle,
            max_headers: self.max_headers,
            bounds: Arc::clone(&self.bounds),
        }
    }

    /// Whether it is told who its clients are: then each has connections of its own.
    pub(super) fn tells(&self) -> bool {
        self.tells.is_some()
    }

    /// Whether the address has left the model.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Relaxed)
    }

    /// What clients have of it for themselves.
    fn of_clients(&self) -> Vec<Arc<Self>> {
        if self.source.is_some() { Vec::new() } else { self.owned.all() }
    }

    fn pool(&self, worker: usize) -> &Pool {
        &self.pools[if self.source.is_some() { 0 } else { worker }]
    }

    /// What it is kept by.
    pub(super) fn key(&self) -> UpstreamKey {
        (self.addr, self.tls.as_ref().map(|tls| tls.digest()), self.tells)
    }

    /// The HTTP/2 connections of a worker.
    pub(super) fn multiplex(&self, worker: usize) -> &Multiplex {
        &self.pool(worker).http2
    }

    /// Closes idle connections and keeps no more: the address left the model.
    pub(super) fn retire(&self) {
        self.gone.store(true, Relaxed);
        self.sweep(Duration::ZERO, Duration::ZERO);
        for pool in &self.pools {
            pool.http2.retire();
        }
        self.of_clients().iter().for_each(|own| own.retire());
    }

    /// Closes connections that were idle for so long, those of HTTP/2 for `http2`, or that the other side closed.
    pub(super) fn sweep(&self, max: Duration, http2: Duration) {
        for pool in &self.pools {
            pool.http2.sweep(http2);
            let mut idle = pool.lock();
            let before = idle.len();
            idle.retain_mut(|i| {
                i.link.driver.look();
                i.since.elapsed() < max && !i.link.sender.is_closed()
            });
            let closed = before - idle.len();
            pool.stats.idle_upstream.fetch_sub(closed as u64, Relaxed);
        }
        self.of_clients().iter().for_each(|own| own.sweep(max, http2));
    }

    /// A connection from the worker's pool, the one used last.
    pub(super) fn reuse(self: &Arc<Self>, worker: usize, max_idle: Duration) -> Option<Exclusive> {
        let pool = self.pool(worker);
        let mut idle = pool.lock();
        while let Some(Idle { mut link, since }) = idle.pop() {
            sub(&pool.stats.idle_upstream);
            link.driver.look();
            if link.sender.is_ready() && since.elapsed() < max_idle {
                let Link { sender, driver, trailers } = link;
                let upstream = Arc::clone(self);
                return Some(Exclusive {
                    upstream,
                    worker,
                    sender,
                    driver,
                    trailers,
                    reused: true,
                    share: None,
                    certain: true,
                });
            }
        }
        None
    }

    /// The pool with the connection that was unused for longest, and since when; `None` where there is none.
    #[must_use]
    pub(super) fn idle_since(&self) -> Option<(Instant, usize)> {
        let oldest = |(worker, pool): (usize, &Pool)| Some((pool.oldest()?, worker));
        let own = self.of_clients().into_iter().filter_map(|own| own.idle_since());
        self.pools.iter().enumerate().filter_map(oldest).chain(own).min()
    }

    /// Closes the one of that worker, or of a client, that was unused for longest.
    pub(super) fn evict_idle(&self, worker: usize) {
        let pool = self.pool(worker);
        let of_clients = self.of_clients().into_iter().filter_map(|own| Some((own.idle_since()?.0, own)));
        if let Some((since, own)) = of_clients.min_by_key(|(since, _)| *since)
            && pool.oldest().is_none_or(|oldest| since < oldest)
        {
            return own.evict_idle(worker);
        }
        if pool.http2.idle_since().is_some_and(|since| Some(since) == pool.oldest()) {
            return pool.http2.evict_idle();
        }
        let mut idle = pool.lock();
        if !idle.is_empty() {
            idle.remove(0);
            sub(&pool.stats.idle_upstream);
        }
    }

    /// A new HTTP/1.1 connection over a socket of [`Self::dial`].
    ///
    /// # Errors
    /// It broke.
    pub(super) async fn connect(
        self: &Arc<Self>,
        worker: usize,
        stream: UpstreamStream,
    ) -> Result<Exclusive, ConnectError> {
        let trailers = Trailers::default();
        let stream = TrailerWriter::new(stream, trailers.clone());
        let handshake = http1::Builder::new().max_headers(self.max_headers).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|e| ConnectError::endpoint(io::Error::other(e)))?;
        add(&self.pool(worker).stats.upstream_connects);
        let driver = Driver::Held(Box::new(connection));
        let upstream = Arc::clone(self);
        Ok(Exclusive { upstream, worker, sender, driver, trailers, reused: false, share: None, certain: true })
    }

    /// Keeps an unused connection.
    pub(super) fn put(&self, worker: usize, link: Link) {
        // Unused, it would keep a place that somebody waits for.
        if self.gone.load(Relaxed) || link.sender.is_closed() || self.bounds.upstreams_are_wanted() {
            return;
        }
        let pool = self.pool(worker);
        let mut idle = pool.lock();
        if idle.len() < self.max_idle {
            idle.push(Idle { link, since: Instant::now() });
            add(&pool.stats.idle_upstream);
        }
        drop(idle);
        // Retired meanwhile: what came after the sweep goes too.
        if self.gone.load(Relaxed) {
            self.retire();
        }
    }
}

impl Pool {
    /// An empty one of the worker that counts here.
    fn new(stats: &Arc<Stats>) -> Self {
        let (idle, http2) = (Mutex::default(), Multiplex::new(Arc::clone(stats)));
        Self { idle, http2, stats: Arc::clone(stats) }
    }

    /// Since when the connection that was unused for longest is.
    fn oldest(&self) -> Option<Instant> {
        let first = self.lock().first().map(|idle| idle.since);
        [first, self.http2.idle_since()].into_iter().flatten().min()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.retire();
    }
}
