//! The layer 7 proxy: [`Model`] -> HTTP served at every VIP and port that is a Gateway's listener.
//!
//! One listening socket takes them all: the `sk_lookup` program steers each frontend to it, and the local address of an
//! accepted connection says which frontend the client dialled. HTTP/1.1 and HTTP/2 with prior knowledge come in,
//! HTTP/1.1 goes out over pooled connections.
//!
//! ```text
//! listener -> connection (protocol, clocks) -> exchange --+-- request   checks, one form of every head
//!                                                         +-- router    host, path, headers -> rule
//!                                                         +-- upstream  endpoint, connection, tries
//!                                                         +-- body      frames both ways
//! ```
//!
//! # Design
//! - The route table is replaced as a whole; a request keeps the rule it was routed by, so no change breaks it.
//! - No body is collected, no queue is unbounded: a frame is read from one side when the other has room for it.
//! - A request that two servers could read differently is refused, never repaired by guessing.
pub mod probe;
pub mod stats;

mod body;
mod bounds;
mod connection;
mod exchange;
mod framing;
mod headers;
mod hops;
mod io;
mod pool;
mod request;
mod respond;
mod router;
mod settings;
mod socket;
mod table;
mod tunnel;
mod unread;
mod upstream;

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwap;
use socket2::{Domain, SockRef, Type};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use settings::Settings;
pub use stats::Stats;

use self::{
    bounds::Bounds,
    socket::{Held, Socket},
    stats::{Counted, add},
    table::Table,
};
use crate::{
    descriptors::is_exhausted,
    model::{Model, http::HttpModel},
};

/// How many connections may wait to be accepted. Beyond it the kernel drops SYNs.
const BACKLOG: i32 = 4096;
/// How often pools are looked through for connections that were idle too long.
const SWEEP: Duration = Duration::from_secs(1);
/// How long accepting pauses when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The proxy before it runs.
#[derive(Debug)]
pub struct Proxy {
    socket: TcpListener,
    shared: Arc<Shared>,
    applied: watch::Sender<u64>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    bounds: Arc<Bounds>,
    stats: Arc<Stats>,
    table: ArcSwap<Table>,
    /// Cancelled when no new request is wanted.
    drain: CancellationToken,
    /// Cancelled when no request is waited for.
    kill: CancellationToken,
    tasks: TaskTracker,
}

impl Proxy {
    /// Opens the listening socket: dual stack, any port. It accepts nothing before [`Proxy::run`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bind() -> std::io::Result<Self> {
        Self::bind_with(Settings::default())
    }

    /// [`Proxy::bind`] with other limits.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bind_with(settings: Settings) -> std::io::Result<Self> {
        let socket = socket2::Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Accepted sockets have the same.
        socket::configure(&SockRef::from(&socket))?;
        socket.bind(&SocketAddr::from(([0_u16; 8], 0)).into())?;
        socket.listen(BACKLOG)?;
        let stats = Arc::new(Stats::default());
        stats.max_connections.store(settings.max_connections as u64, Relaxed);
        stats.max_upstream.store(settings.max_upstreams as u64, Relaxed);
        let shared = Arc::new(Shared {
            bounds: Arc::new(Bounds::new(&settings)),
            settings,
            stats,
            table: ArcSwap::default(),
            drain: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        Ok(Self { socket: socket.into(), shared, applied: watch::Sender::new(0) })
    }

    /// The listening socket, for the map that steers frontends to it.
    #[must_use]
    pub fn socket(&self) -> &TcpListener {
        &self.socket
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.shared.stats)
    }

    /// The revision of the model that requests are routed by now; 0 before the first.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Serves every model from revision 1 on until `cancel`, then lets requests in flight finish within [`Settings::drain`].
    pub async fn run(self, mut models: watch::Receiver<Arc<Model>>, cancel: CancellationToken) {
        let Self { socket, shared, applied } = self;
        let listener = match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "the proxy's socket cannot be watched");
                return;
            }
        };
        // Before the first model nobody knows what is a listener: connections wait in the backlog.
        let first = tokio::select! {
            first = models.wait_for(|model| model.rev > 0) => first.map(|model| Arc::clone(&model)),
            () = cancel.cancelled() => return,
        };
        let Ok(first) = first else { return };
        let mut last = None;
        apply(&shared, &first, &mut last, &applied);
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared), cancel.clone()));
        let mut sweep = tokio::time::interval(SWEEP);
        let mut open = true;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                changed = models.changed(), if open => match changed {
                    Ok(()) => {
                        let model = Arc::clone(&models.borrow_and_update());
                        apply(&shared, &model, &mut last, &applied);
                    }
                    Err(_) => open = false,
                },
                _ = sweep.tick() => {
                    for upstream in shared.table.load().upstreams() {
                        upstream.sweep(shared.settings.upstream_idle);
                    }
                }
            }
        }
        let _ = accepting.await;
        shared.drain.cancel();
        shared.tasks.close();
        if tokio::time::timeout(shared.settings.drain, shared.tasks.wait()).await.is_err() {
            let left = shared.stats.active_requests.load(Relaxed);
            tracing::warn!(requests = left, "requests were cut: the drain took too long");
            shared.kill.cancel();
            shared.tasks.wait().await;
        }
    }
}

/// Puts a model's table in place, unless it is the one that is there, and says that this revision is served.
fn apply(shared: &Arc<Shared>, model: &Model, last: &mut Option<Arc<HttpModel>>, applied: &watch::Sender<u64>) {
    let http = &model.http;
    if last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, http)) {
        let old = shared.table.load_full();
        let next = Arc::new(old.next(http, &shared.settings, &shared.bounds, &shared.stats));
        shared.table.store(Arc::clone(&next));
        old.retire(&next);
        add(&shared.stats.tables);
        *last = Some(Arc::clone(http));
    }
    applied.send_replace(model.rev);
}

/// Accepts until `cancel`; the socket closes with it.
async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>, cancel: CancellationToken) {
    loop {
        let accepted = async {
            let place = shared.bounds.client(&shared.stats).await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = accepted => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                if is_exhausted(&error) {
                    add(&shared.stats.exhausted);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        add(&shared.stats.accepted);
        let Ok(local) = stream.local_addr() else { continue };
        let (peer, local) = (canonical(peer), canonical(local));
        let share = match shared.table.load().gateway(local, &shared.bounds) {
            None => {
                add(&shared.stats.unclaimed);
                continue;
            }
            Some((load, most)) => load.try_share(most),
        };
        let Some(share) = share else {
            add(&shared.stats.gateway_refusals);
            continue;
        };
        let counted = Counted::new(&shared.stats, |stats| &stats.active_connections);
        let socket = Arc::new(Socket::new(stream, Held { place, share, counted }));
        let served = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            tokio::select! {
                () = connection::serve(Arc::clone(&served), socket, peer, local) => {}
                () = served.kill.cancelled() => {}
            }
        });
    }
}

/// IPv4 as IPv4, not as IPv6 that contains it, and no scope or flow label.
fn canonical(addr: SocketAddr) -> SocketAddr {
    let ip: IpAddr = addr.ip().to_canonical();
    SocketAddr::new(ip, addr.port())
}
