//! The layer 7 proxy: [`Model`] -> HTTP served at every VIP and port that is a Gateway's listener.
//!
//! The `sk_lookup` program steers each frontend to one group of listening sockets, of which each [`worker`] has one, and the
//! local address of an accepted connection says which frontend the client dialled. HTTP/1.1 and HTTP/2 come in, in clear text and
//! under TLS, either goes out over pooled connections.
//!
//! ```text
//! worker -> connection (protocol, clocks) -> exchange --+-- request   checks, one form of every head
//!                                                         +-- router    host, path, headers -> rule
//!                                                         +-- upstream  endpoint, connection, tries
//!                                                         +-- body      frames both ways
//! ```
//!
//! # Design
//! - A connection and all its requests stay on the worker that accepted it, a thread with a runtime of its own, and so do the
//!   connections to endpoints that they use. [`Proxy::run`] itself, on the agent's runtime, changes the table and keeps house: however
//!   busy that runtime is, no request waits for it.
//! - The route table is replaced as a whole; a request keeps the rule it was routed by, so no change breaks it.
//! - No body is collected, no queue is unbounded: a frame is read from one side when the other has room for it.
//! - A request that two servers could read differently is refused, never repaired by guessing.
pub mod access_log;
pub mod explain;
pub mod metrics;
pub mod probe;
pub mod stats;

mod alpn;
mod balance;
mod batch;
mod body;
mod bounds;
mod budget;
mod claims;
mod connect;
mod connection;
mod cors;
mod driver;
mod ejections;
mod exchange;
mod filters;
mod forwarded;
mod frames;
mod framing;
mod grpc;
mod headers;
mod held;
mod hops;
mod http1;
mod io;
mod lease;
mod lots;
mod mirror;
mod multiplex;
mod own;
mod pace;
mod pool;
mod pressure;
mod proxy_protocol;
mod release;
mod replay;
mod request;
mod respond;
mod retry;
mod router;
mod seldom;
mod session;
mod settings;
mod socket;
mod stream;
mod table;
mod tenant;
mod tls;
mod transport;
mod tunnel;
mod unread;
mod upstream;
mod uptake;
mod websocket;
mod worker;

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwap;
use socket2::{Domain, SockRef, Type};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use ejections::Ejections;
pub use metrics::Metrics;
pub use pressure::{Bound, Gateways, Pressed};
pub use settings::Settings;
pub use stats::{Counters, Stats};

use self::{balance::Moment, bounds::Bounds, lots::Lots, metrics::Registry, stats::add, table::Table, tls::UnderWay};
use crate::model::{Model, http::HttpModel};

/// How many connections may wait to be accepted. Beyond it the kernel drops SYNs.
const BACKLOG: i32 = 4096;
/// How long the proxy hears out, before it ends, who may have spoken already: handshakes that have begun, connections without a request. A
/// round trip to anywhere. Then an idle connection is closed, and what has begun to say something has its usual time.
const LAST_CALL: Duration = Duration::from_millis(500);
/// How long a request that came while the proxy drained may take beyond that, at least. Then it is cut: nobody serves the addresses
/// meanwhile. Together with [`Settings::drain`] it is within the time that the agent gives its stages.
const CLOSING: Duration = Duration::from_secs(3);
/// How often pools are looked through for connections that were idle too long.
const SWEEP: Duration = Duration::from_secs(1);

/// The proxy before it runs.
#[derive(Debug)]
pub struct Proxy {
    /// One of each worker, all of one address.
    sockets: Vec<TcpListener>,
    workers: Vec<Arc<Shared>>,
    counters: Counters,
    applied: watch::Sender<u64>,
    drain: CancellationToken,
    closing: CancellationToken,
    kill: CancellationToken,
}

/// What the connections of one worker share; all but the counters they share with those of the others.
#[derive(Debug)]
struct Shared {
    /// Which worker.
    worker: usize,
    settings: Arc<Settings>,
    bounds: Arc<Bounds>,
    stats: Arc<Stats>,
    lots: Lots,
    metrics: Arc<Registry>,
    table: Arc<ArcSwap<Table>>,
    /// Handshakes of this worker.
    handshakes: Arc<UnderWay>,
    /// Cancelled when no new request is wanted.
    drain: CancellationToken,
    /// Cancelled when no connection is wanted.
    closing: CancellationToken,
    /// Cancelled when no request is waited for.
    kill: CancellationToken,
    /// Connections that began before the drain,
    tasks: TaskTracker,
    /// and those that began since.
    late: TaskTracker,
}

impl Proxy {
    /// Opens the listening sockets: dual stack, any port. They accept nothing before [`Proxy::run`].
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
        let settings = Settings { workers: settings.workers.max(1), ..settings };
        let first = listen(SocketAddr::from(([0_u16; 8], 0)))?;
        let addr = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..settings.workers {
            sockets.push(listen(addr)?);
        }
        let counters = Counters::new(settings.workers);
        counters.of(0).max_connections.store(settings.max_connections as u64, Relaxed);
        counters.of(0).max_upstream.store(settings.max_upstreams as u64, Relaxed);
        let (bounds, settings) = (Arc::new(Bounds::new(&settings)), Arc::new(settings));
        let metrics = Arc::new(Registry::new(settings.workers, settings.max_series));
        let (drain, closing, kill) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (tasks, late) = (TaskTracker::new(), TaskTracker::new());
        // Of its own: looked at with each request, they are no place for workers to meet.
        let drains: Arc<[CancellationToken]> = (0..settings.workers).map(|_| drain.child_token()).collect();
        let table = Arc::new(ArcSwap::from_pointee(Table::of(Arc::clone(&drains))));
        let shared = |worker| {
            Arc::new(Shared {
                worker,
                settings: Arc::clone(&settings),
                bounds: Arc::clone(&bounds),
                stats: Arc::clone(counters.of(worker)),
                lots: Lots::default(),
                metrics: Arc::clone(&metrics),
                table: Arc::clone(&table),
                handshakes: UnderWay::new(settings.max_handshakes.div_ceil(settings.workers)),
                drain: drains[worker].clone(),
                closing: closing.child_token(),
                kill: kill.child_token(),
                tasks: tasks.clone(),
                late: late.clone(),
            })
        };
        let workers = (0..settings.workers).map(shared).collect();
        Ok(Self { sockets, workers, counters, applied: watch::Sender::new(0), drain, closing, kill })
    }

    /// A socket of the group, for the map that steers frontends to it: the kernel spreads them over the group.
    #[must_use]
    pub fn socket(&self) -> &TcpListener {
        &self.sockets[0]
    }

    /// What is counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }

    /// Which endpoints are passed over.
    #[must_use]
    pub fn ejections(&self) -> Ejections {
        Ejections::of(&self.workers[0].table)
    }

    /// Which bounds Gateways have reached.
    #[must_use]
    pub fn gateways(&self) -> Gateways {
        Gateways::of(&self.workers[0].table)
    }

    /// What is counted by route and by backend.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let shared = &self.workers[0];
        Metrics::of(&shared.metrics, &shared.table, shared.settings.access_log.as_ref())
    }

    /// The revision of the model that requests are routed by now; 0 before the first.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Serves every model from revision 1 on until `cancel`, then lets requests in flight finish within [`Settings::drain`], and goes on
    /// accepting until they have, each answer being the last of its connection. Ends as well when a worker does, which none should.
    pub async fn run(self, mut models: watch::Receiver<Arc<Model>>, cancel: CancellationToken) {
        let Self { sockets, workers, counters, applied, drain, closing, kill } = self;
        // Before the first model nobody knows what is a listener: connections wait in the backlog.
        let first = tokio::select! {
            first = models.wait_for(|model| model.rev > 0) => first.map(|model| Arc::clone(&model)),
            () = cancel.cancelled() => return,
        };
        let Ok(first) = first else { return };
        let shared = Arc::clone(&workers[0]);
        let (mut last, mut is_tidy) = (None, false);
        apply(&shared, &counters, &first, &mut last, &applied);
        let mut serving = JoinSet::new();
        for (worker, socket) in workers.into_iter().zip(sockets) {
            match worker::start(worker, socket) {
                Ok(ended) => drop(serving.spawn(ended)),
                Err(error) => {
                    tracing::error!(%error, "a worker of the proxy cannot start");
                    return;
                }
            }
        }
        let mut sweep = tokio::time::interval(SWEEP);
        let mut open = true;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                Some(_) = serving.join_next() => {
                    // With it are gone its socket and whoever waits in its backlog: a process that starts anew serves them.
                    if !cancel.is_cancelled() {
                        tracing::error!("a worker of the proxy ended");
                        return;
                    }
                }
                changed = models.changed(), if open => match changed {
                    Ok(()) => {
                        let model = Arc::clone(&models.borrow_and_update());
                        apply(&shared, &counters, &model, &mut last, &applied);
                        is_tidy = false;
                    }
                    Err(_) => open = false,
                },
                _ = sweep.tick() => {
                    let (table, now) = (shared.table.load(), Moment::now());
                    for upstream in table.upstreams() {
                        upstream.sweep(shared.settings.upstream_idle, shared.settings.upstream_http2_idle);
                        upstream.vital.tidy(now);
                    }
                    table.clusters().for_each(|endpoints| {
                        endpoints.trim(now);
                        endpoints.budget.iter().for_each(|budget| budget.tick(now));
                    });
                    if let Some(model) = last.as_ref().filter(|_| !is_tidy) {
                        shared.metrics.tidy(model);
                        is_tidy = true;
                    }
                }
            }
        }
        let until = Instant::now() + shared.settings.drain;
        drain.cancel();
        shared.tasks.close();
        let cut = |left: &'static str| {
            let requests = counters.sum(|stats| &stats.active_requests);
            tracing::warn!(requests, left, "requests were cut: the drain took too long");
        };
        // Those that were in flight: until they are over, others are served beside them.
        if tokio::time::timeout_at(until, shared.tasks.wait()).await.is_err() {
            cut("of before the drain");
        }
        closing.cancel();
        shared.late.close();
        // Workers end when they have taken all that has begun before, and it is over too.
        let ends = async { while serving.join_next().await.is_some() {} };
        if tokio::time::timeout_at(until.max(Instant::now() + CLOSING), ends).await.is_err() {
            cut("of the drain");
            kill.cancel();
        }
        while serving.join_next().await.is_some() {}
    }
}

/// A listening socket that shares its address with the other workers'.
fn listen(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Accepted sockets have the same.
    socket::configure(&SockRef::from(&socket))?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Puts a model's table in place, unless it is the one that is there, and says that this revision is served.
fn apply(
    shared: &Shared,
    counters: &Counters,
    model: &Model,
    last: &mut Option<Arc<HttpModel>>,
    applied: &watch::Sender<u64>,
) {
    let http = &model.http;
    if last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, http)) {
        let old = shared.table.load_full();
        let mut parts = 0;
        let next = Arc::new(old.next(http, &shared.settings, &shared.bounds, counters, &mut parts));
        shared.table.store(Arc::clone(&next));
        old.retire(&next);
        add(&shared.stats.tables);
        shared.stats.table_parts.fetch_add(parts, Relaxed);
        *last = Some(Arc::clone(http));
    }
    applied.send_replace(model.rev);
}

/// IPv4 as IPv4, not as IPv6 that contains it, and no scope or flow label.
fn canonical(addr: SocketAddr) -> SocketAddr {
    let ip: IpAddr = addr.ip().to_canonical();
    SocketAddr::new(ip, addr.port())
}
