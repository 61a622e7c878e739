//! The HTTP/2 connections of one worker to one endpoint, each for many requests.
//!
//! # Design
//! - A connection is handed out when the endpoint's SETTINGS have come, and never for more streams than they allow: a request
//!   beyond them would wait behind others, however long those take.
//! - One connection is opened at a time, for all who wait. When three quarters of the streams are taken the next one is opened,
//!   before anybody has to wait for it.
//! - An endpoint that refuses a stream although it allowed it is believed: this connection gets no more than it had.
//! - A connection that takes no new stream (GOAWAY, the endpoint left the model, unused for too long) is out of the pool; the
//!   streams that it has hold it until they end, and then it closes.
use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, oneshot, watch},
};

use super::{
    body::RequestBody,
    lease::Stream,
    pool::{ConnectError, Upstream},
    settings::Settings,
    stats::{Stats, add, sub},
    transport::UpstreamStream,
};

/// Streams of one connection at a time, whatever the endpoint allows.
const MOST_STREAMS: usize = 100;
/// How much of a response an endpoint may send ahead of its client. Units: bytes.
///
/// The connection's window is that of all its streams: one client that reads nothing then holds up none of the others, as it
/// would where a few full streams fill the connection's.
pub(super) const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MOST_STREAMS as u32;
/// How much of a request is kept per stream while the endpoint does not take it. Units: bytes.
pub(super) const SEND_BUFFER: usize = 64 << 10;
/// How often a connection with requests is asked whether its endpoint lives, and how long the answer may take. TCP asks more
/// often; this finds a process that hangs. Servers of gRPC close a connection that asks more often than each 5 minutes.
const PING: (Duration, Duration) = (Duration::from_secs(310), Duration::from_secs(20));
/// How long no second connection is opened ahead of need after one could not be.
const AHEAD_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of the connection that is being opened.
type Opening = watch::Receiver<Option<Result<Arc<Connection>, ConnectError>>>;

/// The connections of one worker to one endpoint.
#[derive(Debug)]
pub(super) struct Multiplex {
    state: Mutex<State>,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct State {
    open: Vec<Entry>,
    opening: Option<Opening>,
    ahead_after: Option<Instant>,
    retired: bool,
}

#[derive(Debug)]
struct Entry {
    connection: Arc<Connection>,
    /// Streams that it has.
    active: usize,
    /// Since when it has none, or had.
    since: Instant,
    /// How many it may have, where it refused one.
    cap: usize,
}

impl Entry {
    fn room(&self) -> usize {
        self.limit().saturating_sub(self.active)
    }

    fn limit(&self) -> usize {
        self.connection.limit.load(Relaxed).min(self.cap)
    }
}

/// A connection that takes requests as streams.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
    /// How many streams the endpoint allows; 0 before it has said.
    limit: Arc<AtomicUsize>,
    /// The endpoint takes extended CONNECT (RFC 8441).
    pub(super) connects: bool,
    answered: AtomicBool,
}

impl Connection {
    /// What requests go into.
    pub(super) fn sender(&self) -> SendRequest<RequestBody> {
        self.sender.clone()
    }

    /// Notes that a response came over it.
    pub(super) fn note_answer(&self) {
        if !self.has_answered() {
            self.answered.store(true, Relaxed);
        }
    }

    /// Whether a response has come over it.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }
}

impl Multiplex {
    /// No connection.
    #[must_use]
    pub(super) fn new(stats: Arc<Stats>) -> Self {
        Self { state: Mutex::default(), stats }
    }

    /// A stream of a connection that has room for it. `dial` opens a socket.
    ///
    /// # Errors
    /// None has room and no other can be opened.
    pub(super) async fn acquire<D>(
        owner: &Arc<Upstream>,
        dial: impl Fn() -> D,
        worker: usize,
        settings: &Settings,
    ) -> Result<Stream, ConnectError>
    where
        D: Future<Output = Result<UpstreamStream, ConnectError>> + Send + 'static,
    {
        let open = || {
            let (outcome, opening) = watch::channel(None);
            let (dial, owner) = (dial(), Arc::clone(owner));
            let (max_head, timeout) = (settings.max_head, settings.connect_timeout);
            tokio::spawn(async move {
                let opened = match dial.await {
                    Ok(stream) => handshake(stream, max_head, timeout).await,
                    Err(error) => Err(error),
                };
                owner.multiplex(worker).opened(opened.as_ref().ok());
                outcome.send_replace(Some(opened));
            });
            opening
        };
        let pool = owner.multiplex(worker);
        let stream = |connection| Stream { upstream: Arc::clone(owner), worker, connection };
        loop {
            let mut opening = {
                let state = &mut *pool.lock();
                if let Some(found) = pool.take(state) {
                    if state.wants_more() {
                        state.opening = Some(open());
                    }
                    return Ok(stream(found));
                }
                state.opening.get_or_insert_with(open).clone()
            };
            let outcome = opening.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            match outcome {
                // Out of the pool when the endpoint was retired meanwhile: good for whoever waited for it.
                Some(Ok(connection)) if pool.lock().retired => return Ok(stream(connection)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(ConnectError::endpoint(io::ErrorKind::Interrupted.into())),
            }
        }
    }

    /// The least busy connection that has room, with one stream more.
    fn take(&self, state: &mut State) -> Option<Arc<Connection>> {
        self.clean(state, |entry| entry.connection.sender.is_closed());
        let fit = state.open.iter_mut().filter(|entry| entry.room() > 0);
        let entry = fit.min_by_key(|entry| entry.active)?;
        if entry.active == 0 {
            sub(&self.stats.idle_upstream);
        }
        entry.active += 1;
        Some(Arc::clone(&entry.connection))
    }

    fn opened(&self, connection: Option<&Arc<Connection>>) {
        let state = &mut *self.lock();
        state.opening = None;
        match connection {
            None => state.ahead_after = Some(Instant::now() + AHEAD_PAUSE),
            Some(connection) => self.join(state, connection),
        }
    }

    /// Takes in a connection over a socket whose endpoint has chosen HTTP/2 unasked.
    ///
    /// # Errors
    /// It broke.
    pub(super) async fn adopt(
        owner: &Arc<Upstream>,
        stream: UpstreamStream,
        worker: usize,
        settings: &Settings,
    ) -> Result<(), ConnectError> {
        let connection = handshake(stream, settings.max_head, settings.connect_timeout).await?;
        let pool = owner.multiplex(worker);
        pool.join(&mut pool.lock(), &connection);
        Ok(())
    }

    fn join(&self, state: &mut State, connection: &Arc<Connection>) {
        if state.retired {
            return;
        }
        add(&self.stats.upstream_connects);
        add(&self.stats.idle_upstream);
        let connection = Arc::clone(connection);
        state.open.push(Entry { connection, active: 0, since: Instant::now(), cap: MOST_STREAMS });
    }

    /// One stream of a connection has ended.
    pub(super) fn release(&self, connection: &Arc<Connection>) {
        let state = &mut *self.lock();
        let Some(entry) = state.open.iter_mut().find(|entry| Arc::ptr_eq(&entry.connection, connection)) else {
            return;
        };
        entry.active = entry.active.saturating_sub(1);
        if entry.active == 0 {
            entry.since = Instant::now();
            add(&self.stats.idle_upstream);
        }
    }

    /// The endpoint did not take a stream of this connection: no more than it has then; none where it had no other.
    pub(super) fn refused(&self, connection: &Arc<Connection>, is_leaving: bool) {
        let state = &mut *self.lock();
        for entry in state.open.iter_mut().filter(|entry| Arc::ptr_eq(&entry.connection, connection)) {
            // The stream that was refused is counted.
            entry.cap = if is_leaving { 0 } else { entry.active.saturating_sub(1) };
        }
        self.clean(state, |entry| entry.cap == 0);
    }

    /// Closes connections without streams for so long, and forgets those that the other side has closed.
    pub(super) fn sweep(&self, max: Duration) {
        let state = &mut *self.lock();
        self.clean(state, |entry| {
            entry.connection.sender.is_closed() || (entry.active == 0 && entry.since.elapsed() >= max)
        });
    }

    /// Hands out no more streams; those that there are go on.
    pub(super) fn retire(&self) {
        let state = &mut *self.lock();
        state.retired = true;
        self.clean(state, |_| true);
    }

    /// Since when the connection that was unused for longest is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.lock().open.iter().filter(|entry| entry.active == 0).map(|entry| entry.since).min()
    }

    /// Closes that one.
    pub(super) fn evict_idle(&self) {
        let state = &mut *self.lock();
        let oldest = state.open.iter().filter(|entry| entry.active == 0).map(|entry| entry.since).min();
        self.clean(state, |entry| entry.active == 0 && Some(entry.since) == oldest);
    }

    fn clean(&self, state: &mut State, is_out: impl Fn(&Entry) -> bool) {
        state.open.retain(|entry| {
            let out = is_out(entry);
            if out && entry.active == 0 {
                sub(&self.stats.idle_upstream);
            }
            !out
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether three quarters of the streams are taken and nothing is done about it.
    fn wants_more(&self) -> bool {
        let (active, limit) = self.open.iter().fold((0, 0), |(a, l), entry| (a + entry.active, l + entry.limit()));
        let is_paused = self.ahead_after.is_some_and(|after| after > Instant::now());
        self.opening.is_none() && !is_paused && active < limit && active >= limit - limit / 4
    }
}

/// Greets an endpoint, and waits for what it allows.
async fn handshake(
    stream: UpstreamStream,
    max_head: usize,
    timeout: Duration,
) -> Result<Arc<Connection>, ConnectError> {
    let came = Arc::new(Notify::new());
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // None before SETTINGS: so it is seen that they came.
        .initial_max_send_streams(0)
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let stream = Watched { stream, came: Some(Arc::clone(&came)) };
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|e| ConnectError::endpoint(io::Error::other(e)))?;
    let limit = Arc::new(AtomicUsize::new(0));
    let (settled_out, settled) = oneshot::channel();
    tokio::spawn(drive(connection, Arc::clone(&limit), came, settled_out));
    match tokio::time::timeout(timeout, settled).await {
        Ok(Ok(connects)) => Ok(Arc::new(Connection { sender, limit, connects, answered: AtomicBool::new(false) })),
        Ok(Err(_)) => Err(ConnectError::endpoint(io::Error::other("it does not speak HTTP/2"))),
        Err(_) => Err(ConnectError::endpoint(io::ErrorKind::TimedOut.into())),
    }
}

/// Moves requests into a connection until it closes, and keeps track of what the endpoint allows.
async fn drive(
    mut connection: http2::Connection<TokioIo<Watched>, RequestBody, TokioExecutor>,
    limit: Arc<AtomicUsize>,
    came: Arc<Notify>,
    settled: oneshot::Sender<bool>,
) {
    // The task that reads has seen what came before this one runs: both are of one thread.
    while connection.current_max_send_streams() == 0 {
        tokio::select! {
            ended = &mut connection => return log(ended),
            () = came.notified() => {}
        }
    }
    limit.store(connection.current_max_send_streams(), Relaxed);
    drop(came);
    let _ = settled.send(connection.is_extended_connect_protocol_enabled());
    log(std::future::poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        limit.store(connection.current_max_send_streams(), Relaxed);
        ended
    })
    .await);
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::trace!(%error, "upstream connection ended");
    }
}

/// A stream that says when bytes came.
#[derive(Debug)]
struct Watched {
    stream: UpstreamStream,
    came: Option<Arc<Notify>>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(came) = &self.came {
            came.notify_one();
            // Nobody listens any more.
            if Arc::strong_count(came) == 1 {
                self.came = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
