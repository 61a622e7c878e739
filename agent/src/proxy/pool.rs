//! One backend address: its idle connections and how many requests it has.
//!
//! A connection is in exactly one place: with the request that uses it ([`Lease`]) or in the pool of its address. An
//! address that left the model keeps the requests it has and gets its connections closed one by one as they end.
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{
    body::RequestBody,
    settings::Settings,
    stats::{Stats, add, sub},
};

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

/// One backend address.
#[derive(Debug)]
pub(super) struct Upstream {
    /// The address.
    pub addr: SocketAddr,
    pending: AtomicUsize,
    gone: AtomicBool,
    down_until: Mutex<Option<Instant>>,
    idle: Mutex<Vec<Idle>>,
    max_idle: usize,
    stats: Arc<Stats>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

impl Upstream {
    /// An address without connections.
    #[must_use]
    pub(super) fn new(addr: SocketAddr, settings: &Settings, stats: Arc<Stats>) -> Self {
        Self {
            addr,
            pending: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            down_until: Mutex::new(None),
            idle: Mutex::new(Vec::new()),
            max_idle: settings.max_idle_per_endpoint,
            stats,
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
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let before = idle.len();
        idle.retain(|i| i.since.elapsed() < max && !i.sender.is_closed());
        let closed = before - idle.len();
        self.stats.idle_upstream.fetch_sub(closed as u64, Relaxed);
    }

    /// A connection from the pool, the one used last.
    pub(super) fn reuse(self: &Arc<Self>, max_idle: Duration) -> Option<Lease> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(Idle { sender, since }) = idle.pop() {
            sub(&self.stats.idle_upstream);
            if sender.is_ready() && since.elapsed() < max_idle {
                self.set_well();
                return Some(Lease { upstream: Arc::clone(self), sender, reused: true, certain: true });
            }
        }
        None
    }

    /// A new connection.
    ///
    /// # Errors
    /// When it cannot be opened in time.
    pub(super) async fn connect(self: &Arc<Self>, timeout: Duration) -> io::Result<Lease> {
        let opened = tokio::time::timeout(timeout, TcpStream::connect(self.addr)).await;
        let stream = opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).flatten();
        let stream = stream.inspect_err(|_| add(&self.stats.connect_errors))?;
        self.set_well();
        stream.set_nodelay(true)?;
        let handshake = http1::Builder::new().handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        add(&self.stats.upstream_connects);
        // Ends with the last of sender and response body; upgrades take the stream out of it.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::trace!(%error, "upstream connection ended");
            }
        });
        Ok(Lease { upstream: Arc::clone(self), sender, reused: false, certain: true })
    }

    fn put(&self, sender: SendRequest<RequestBody>) {
        if self.gone.load(Relaxed) || sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push(Idle { sender, since: Instant::now() });
            add(&self.stats.idle_upstream);
        }
        drop(idle);
        // Retired meanwhile: what came after the sweep goes too.
        if self.gone.load(Relaxed) {
            self.sweep(Duration::ZERO);
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.sweep(Duration::ZERO);
    }
}

/// The right to use a connection for one request.
#[derive(Debug)]
pub(super) struct Lease {
    upstream: Arc<Upstream>,
    /// The connection.
    pub sender: SendRequest<RequestBody>,
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
        let Self { upstream, mut sender, reused: _, certain } = self;
        if !certain {
            return;
        }
        if sender.is_ready() {
            upstream.put(sender);
        } else if !sender.is_closed() {
            tokio::spawn(async move {
                if let Ok(Ok(())) = tokio::time::timeout(READY_TIMEOUT, sender.ready()).await {
                    upstream.put(sender);
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
