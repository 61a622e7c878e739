//! One backend address: its idle connections and how many requests it has.
//!
//! A connection is in exactly one place: with the request that uses it ([`Lease`]) or in the pool of its address and worker. An
//! address that left the model keeps the requests it has and gets its connections closed one by one as they end.
//!
//! # Design
//! What is known of an endpoint (requests, connections, health) is one for all workers, and atomic. Its idle connections are
//! each worker's own: the task that moves a connection's bytes runs where its requests do.
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::{net::TcpStream, task::AbortHandle};

use super::{
    body::RequestBody,
    bounds::{Bounds, Load},
    http1::{TrailerWriter, Trailers},
    settings::Settings,
    socket::{self, Held, Socket, UpstreamStream},
    stats::{Counted, Counters, Stats, add, sub},
};

use crate::descriptors::is_exhausted;

/// How long an endpoint that could not be connected is passed over.
const DOWN: Duration = Duration::from_secs(2);

/// What is known about whether an endpoint can be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Nothing is wrong with it.
    Well,
    /// It could not be connected lately.
    Down,
    /// It could not be connected some time ago, and nobody has succeeded since.
    Suspect,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The endpoint cannot be connected: its failure, another may do.
    #[error("{0}")]
    Endpoint(#[source] io::Error),
    /// The endpoint has as many connections as it may have.
    #[error("it has {0} connections, as many as it may have")]
    Full(usize),
    /// This process or host has no descriptor, port or place left: nothing is known about the endpoint.
    #[error("no descriptor, port or place is left: {0}")]
    Exhausted(#[source] io::Error),
}

/// One backend address.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The address.
    pub addr: SocketAddr,
    pending: AtomicUsize,
    /// Its connections, used and unused.
    open: Arc<Load>,
    gone: AtomicBool,
    down_until: Mutex<Option<Instant>>,
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
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
}

/// A connection: the end that requests go into, and what moves its bytes.
#[derive(Debug)]
struct Link {
    sender: SendRequest<RequestBody>,
    driver: Driver,
    trailers: Trailers,
}

/// The task that moves a connection's bytes; it ends when this is dropped, and the socket is closed.
///
/// Left to itself it would go on while an endpoint takes no byte of a request whose client is gone.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upstream {
    /// An address without connections.
    #[must_use]
    pub(super) fn new(addr: SocketAddr, settings: &Settings, bounds: Arc<Bounds>, counters: &Counters) -> Self {
        let pool = |worker| Pool { idle: Mutex::default(), stats: Arc::clone(counters.of(worker)) };
        Self {
            addr,
            pending: AtomicUsize::new(0),
            open: Arc::default(),
            gone: AtomicBool::new(false),
            down_until: Mutex::new(None),
            pools: (0..settings.workers).map(pool).collect(),
            max_idle: settings.max_idle_per_endpoint.div_ceil(settings.workers),
            max_headers: settings.max_response_headers,
            bounds,
        }
    }

    /// Requests that it has now.
    #[must_use]
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Relaxed)
    }

    /// Passed over for [`DOWN`] from now on: it could not be connected, or somebody is about to see whether it can.
    pub(super) fn set_down(&self) {
        *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + DOWN);
    }

    fn set_well(&self) {
        *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What the last connections tell.
    #[must_use]
    pub(super) fn health(&self) -> Health {
        match *self.down_until.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Health::Well,
            Some(until) if until > Instant::now() => Health::Down,
            Some(_) => Health::Suspect,
        }
    }

    /// Closes idle connections and keeps no more: the address left the model.
    pub(super) fn retire(&self) {
        self.gone.store(true, Relaxed);
        self.sweep(Duration::ZERO);
    }

    /// Closes connections that were idle for so long, or that the other side closed.
    pub(super) fn sweep(&self, max: Duration) {
        for pool in &self.pools {
            let mut idle = pool.lock();
            let before = idle.len();
            idle.retain(|i| i.since.elapsed() < max && !i.link.sender.is_closed());
            let closed = before - idle.len();
            pool.stats.idle_upstream.fetch_sub(closed as u64, Relaxed);
        }
    }

    /// A connection from the worker's pool, the one used last.
    pub(super) fn reuse(self: &Arc<Self>, worker: usize, max_idle: Duration) -> Option<Lease> {
        let pool = &self.pools[worker];
        let mut idle = pool.lock();
        while let Some(Idle { link, since }) = idle.pop() {
            sub(&pool.stats.idle_upstream);
            if link.sender.is_ready() && since.elapsed() < max_idle {
                self.set_well();
                let Link { sender, driver, trailers } = link;
                let upstream = Arc::clone(self);
                return Some(Lease { upstream, worker, sender, driver, trailers, reused: true, certain: true });
            }
        }
        None
    }

    /// The pool with the connection that was unused for longest, and since when; `None` where there is none.
    #[must_use]
    pub(super) fn idle_since(&self) -> Option<(Instant, usize)> {
        let oldest = |(worker, pool): (usize, &Pool)| Some((pool.lock().first()?.since, worker));
        self.pools.iter().enumerate().filter_map(oldest).min()
    }

    /// Closes the one of that worker that was unused for longest.
    pub(super) fn evict_idle(&self, worker: usize) {
        let mut idle = self.pools[worker].lock();
        if !idle.is_empty() {
            idle.remove(0);
            sub(&self.pools[worker].stats.idle_upstream);
        }
    }

    /// A new connection, on the worker that asks. `most`: how many this endpoint may have; `evict`: called when no place is left
    /// for any.
    ///
    /// # Errors
    /// When it cannot be opened in time, with what kept it from being opened.
    pub(super) async fn connect(
        self: &Arc<Self>,
        worker: usize,
        timeout: Duration,
        most: usize,
        evict: impl FnOnce(),
    ) -> Result<Lease, ConnectError> {
        let stats = &self.pools[worker].stats;
        let Some(share) = self.open.try_share(most) else { return Err(ConnectError::Full(most)) };
        let place = match self.bounds.try_upstream() {
            Some(place) => place,
            None => {
                evict();
                let waited = tokio::time::timeout(timeout, self.bounds.upstream()).await;
                waited.map_err(|_| ConnectError::Exhausted(io::ErrorKind::TimedOut.into()))?
            }
        };
        let opened = tokio::time::timeout(timeout, TcpStream::connect(self.addr)).await;
        let stream = opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).flatten().map_err(|error| {
            add(&stats.connect_errors);
            if is_exhausted(&error) { ConnectError::Exhausted(error) } else { ConnectError::Endpoint(error) }
        })?;
        self.set_well();
        socket::configure(&SockRef::from(&stream)).map_err(ConnectError::Endpoint)?;
        let counted = Counted::new(stats, |stats| &stats.open_upstream);
        let trailers = Trailers::default();
        let stream = UpstreamStream(Socket::new(stream, Held { place, share, counted }));
        let stream = TrailerWriter::new(stream, trailers.clone());
        let handshake = http1::Builder::new().max_headers(self.max_headers).handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|e| ConnectError::Endpoint(io::Error::other(e)))?;
        add(&stats.upstream_connects);
        // An upgrade takes the stream out of it, and ends it.
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::trace!(%error, "upstream connection ended");
            }
        });
        let driver = Driver(driver.abort_handle());
        Ok(Lease { upstream: Arc::clone(self), worker, sender, driver, trailers, reused: false, certain: true })
    }

    fn put(&self, worker: usize, link: Link) {
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
            self.sweep(Duration::ZERO);
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.sweep(Duration::ZERO);
    }
}

/// The right to use a connection for one request. Dropped, it closes the connection.
#[derive(Debug)]
pub(super) struct Lease {
    upstream: Arc<Upstream>,
    /// Whose pool it goes back to.
    worker: usize,
    /// The connection.
    pub sender: SendRequest<RequestBody>,
    driver: Driver,
    /// Where the trailers of requests are written.
    pub trailers: Trailers,
    /// It served requests before: the other side may close it at any moment.
    pub reused: bool,
    /// Both sides agree where this exchange ends. The next one must not share a connection with one of which they may not.
    certain: bool,
}

/// How long a connection may take to become ready after its response has ended; it waits for the request's body.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

impl Lease {
    /// Closes the connection after this exchange: the backend may see its end elsewhere.
    pub(super) fn invalidate(&mut self) {
        self.certain = false;
    }

    /// Gives the connection back after a response that was read to its end.
    pub(super) fn give_back(self) {
        let Self { upstream, worker, mut sender, driver, trailers, reused: _, certain } = self;
        if !certain {
            return;
        }
        if sender.is_ready() {
            upstream.put(worker, Link { sender, driver, trailers });
        } else if !sender.is_closed() {
            tokio::spawn(async move {
                match tokio::time::timeout(READY_TIMEOUT, sender.ready()).await {
                    Ok(Ok(())) => upstream.put(worker, Link { sender, driver, trailers }),
                    Ok(Err(_)) => {}
                    // The endpoint answered long before it had the whole body, which it may still want.
                    Err(_) => drop((sender.ready().await, driver)),
                }
            });
        }
    }
}

/// Counts a request towards its upstream until dropped.
#[derive(Debug)]
pub(super) struct Pending(Arc<Upstream>);

impl Pending {
    /// Counts one more.
    #[must_use]
    pub(super) fn new(upstream: &Arc<Upstream>) -> Self {
        upstream.pending.fetch_add(1, Relaxed);
        Self(Arc::clone(upstream))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Relaxed);
    }
}
