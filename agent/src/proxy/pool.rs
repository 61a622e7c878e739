//! One backend address, in clear text or under TLS with certain parameters: its idle connections and how many requests it has.
//!
//! An HTTP/1.1 connection is in exactly one place: with the request that uses it ([`Exclusive`]) or in the pool of its address and
//! worker. Those of HTTP/2 are in [`Multiplex`]. An address that left the model keeps the requests it has and gets its
//! connections closed one by one as they end.
//!
//! # Design
//! What is known of an endpoint (requests, connections, health) is one for all workers, and atomic. Its idle connections are
//! each worker's own: what moves a connection's bytes ([`Driver`]) runs where its requests do.
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
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{
    alpn::Chosen,
    balance::{Moment, Vital},
    body::RequestBody,
    bounds::{Bounds, Load},
    driver::Driver,
    http1::{TrailerWriter, Trailers},
    lease::Exclusive,
    multiplex::Multiplex,
    settings::Settings,
    socket::{self, Held, Socket, SocketStream},
    stats::{Counted, Counters, Stats, add, sub},
    table::UpstreamKey,
    tls::{Speaks, TlsFault, UpstreamTls},
    transport::UpstreamStream,
};

use crate::descriptors::is_exhausted;

/// How often it is said of one endpoint that TLS fails.
const WARN: Duration = Duration::from_secs(60);

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The endpoint cannot be connected: its failure, another may do.
    #[error("{0}")]
    Endpoint(#[source] Arc<io::Error>),
    /// No TLS with it as its policy wants it: another may do. A sentence about the endpoint.
    #[error("no TLS: {0}")]
    Untrusted(Arc<str>),
    /// No TLS with it, since it does not speak the version of HTTP that is wanted: another may. A sentence about the endpoint.
    #[error("no connection: {0}")]
    Unspoken(Arc<str>),
    /// The endpoint has as many connections as it may have.
    #[error("it has {0} connections, as many as it may have")]
    Full(usize),
    /// The Gateway has as many connections as it may have.
    #[error("the Gateway uses {0} connections to endpoints, as many as it may")]
    Taken(usize),
    /// This process or host has no descriptor, port or place left: nothing is known about the endpoint.
    #[error("no descriptor, port or place is left: {0}")]
    Exhausted(#[source] Arc<io::Error>),
}

impl ConnectError {
    /// The endpoint's failure.
    pub(super) fn endpoint(error: io::Error) -> Self {
        Self::Endpoint(Arc::new(error))
    }

    /// This host's.
    fn exhausted(error: io::Error) -> Self {
        Self::Exhausted(Arc::new(error))
    }
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
    /// Its requests, its latency, its health, as far as it is spoken to like this.
    pub vital: Vital,
    /// What it has chosen by ALPN, where it had the choice.
    pub chosen: Chosen,
    /// Its connections, used and unused.
    open: Arc<Load>,
    /// When it was said last that TLS fails.
    warned: Mutex<Option<Instant>>,
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
        (addr, tls): (SocketAddr, Option<Arc<UpstreamTls>>),
        settings: &Settings,
        bounds: Arc<Bounds>,
        counters: &Counters,
    ) -> Self {
        let pool = |worker| {
            let stats = Arc::clone(counters.of(worker));
            Pool { idle: Mutex::default(), http2: Multiplex::new(Arc::clone(&stats)), stats }
        };
        Self {
            addr,
            tls,
            vital: Vital::new(Moment::now()),
            chosen: Chosen::default(),
            open: Arc::default(),
            warned: Mutex::new(None),
            gone: AtomicBool::new(false),
            pools: (0..settings.workers).map(pool).collect(),
            max_idle: settings.max_idle_per_endpoint.div_ceil(settings.workers),
            max_headers: settings.max_response_headers,
            bounds,
        }
    }

    /// What it is kept by.
    pub(super) fn key(&self) -> UpstreamKey {
        (self.addr, self.tls.as_ref().map(|tls| tls.digest()))
    }

    /// The HTTP/2 connections of a worker.
    pub(super) fn multiplex(&self, worker: usize) -> &Multiplex {
        &self.pools[worker].http2
    }

    /// Closes idle connections and keeps no more: the address left the model.
    pub(super) fn retire(&self) {
        self.gone.store(true, Relaxed);
        self.sweep(Duration::ZERO, Duration::ZERO);
        for pool in &self.pools {
            pool.http2.retire();
        }
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
    }

    /// A connection from the worker's pool, the one used last.
    pub(super) fn reuse(self: &Arc<Self>, worker: usize, max_idle: Duration) -> Option<Exclusive> {
        let pool = &self.pools[worker];
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
        self.pools.iter().enumerate().filter_map(oldest).min()
    }

    /// Closes the one of that worker that was unused for longest.
    pub(super) fn evict_idle(&self, worker: usize) {
        let pool = &self.pools[worker];
        if pool.http2.idle_since().is_some_and(|since| Some(since) == pool.oldest()) {
            return pool.http2.evict_idle();
        }
        let mut idle = pool.lock();
        if !idle.is_empty() {
            idle.remove(0);
            sub(&pool.stats.idle_upstream);
        }
    }

    /// A new socket, on the worker that asks, under TLS where that is wanted; both are made within `timeout`. `most`: how many this
    /// endpoint may have; `evict`: called when no place is left for any.
    ///
    /// # Errors
    /// When it cannot be opened in time, with what kept it from being opened.
    pub(super) async fn dial(
        &self,
        worker: usize,
        timeout: Duration,
        most: usize,
        speaks: Speaks,
        evict: impl FnOnce(),
    ) -> Result<UpstreamStream, ConnectError> {
        let stats = &self.pools[worker].stats;
        let Some(share) = self.open.try_share(most) else { return Err(ConnectError::Full(most)) };
        let place = match self.bounds.try_upstream() {
            Some(place) => place,
            None => {
                evict();
                let waited = tokio::time::timeout(timeout, self.bounds.upstream()).await;
                waited.map_err(|_| ConnectError::exhausted(io::ErrorKind::TimedOut.into()))?
            }
        };
        let deadline = tokio::time::Instant::now() + timeout;
        let opened = tokio::time::timeout_at(deadline, TcpStream::connect(self.addr)).await;
        let stream = opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).flatten().map_err(|error| {
            add(&stats.connect_errors);
            if is_exhausted(&error) { ConnectError::exhausted(error) } else { ConnectError::endpoint(error) }
        })?;
        socket::configure(&SockRef::from(&stream)).map_err(ConnectError::endpoint)?;
        let counted = Counted::new(stats, |stats| &stats.open_upstream);
        let stream = SocketStream(Socket::new(stream, Held { place, share, counted }));
        let Some(tls) = self.tls.as_ref().filter(|_| speaks != Speaks::Raw) else {
            return Ok(UpstreamStream::Plain(stream));
        };
        let made = tokio::time::timeout_at(deadline, tls.connect(speaks, stream)).await;
        let late = || TlsFault::Untrusted(format!("the handshake was not done {timeout:?} after the first packet"));
        made.unwrap_or_else(|_| Err(late())).map(UpstreamStream::Tls).map_err(|fault| {
            add(&stats.connect_errors);
            add(&stats.upstream_tls_failures);
            let (TlsFault::Unspoken(why) | TlsFault::Untrusted(why)) = &fault;
            self.warn(why);
            match fault {
                TlsFault::Unspoken(why) => ConnectError::Unspoken(why.into()),
                TlsFault::Untrusted(why) => ConnectError::Untrusted(why.into()),
            }
        })
    }

    /// Says why TLS fails, now and then: it may be each request.
    fn warn(&self, why: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN) {
            *warned = Some(Instant::now());
            tracing::warn!(backend = %self.addr, reason = why, "no TLS with an endpoint, requests for it fail");
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
        add(&self.pools[worker].stats.upstream_connects);
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
        let pool = &self.pools[worker];
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
