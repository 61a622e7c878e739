//! A client's stream with the clocks that hyper lacks: one for a request's head, one for writing. Idleness is watched by
//! `connection/`.
//!
//! hyper's own head timer runs while a connection is idle too, and not at all before the first byte. Here the state is
//! told apart: idle (no request, no byte of one), head (first bytes seen, request not complete), busy (requests in
//! flight). A clock is set where something is waited for and not for each request: a head that came as a whole has none.
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::{
    bounds::Share,
    held::{Room, Stall},
    http1::Announced,
    metrics::Record,
    settings::Settings,
    stats::{Stats, add, sub},
    transport::Transport,
};

/// The answer to a head that took too long; hyper cannot write it, since it has no request to answer.
pub(super) const HEAD_TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What a connection of which the client takes nothing holds at the least: buffers of hyper's for it and for the endpoint. Units: bytes.
const LEAST_UNWRITTEN: usize = 64 << 10;

/// What a connection is doing, shared between its stream and its requests.
#[derive(Debug, Default)]
pub(super) struct Activity {
    in_flight: AtomicUsize,
    begun: AtomicU64,
    lingers: AtomicBool,
    /// The stream has asked for bytes and got none since the last request, and all is written.
    is_quiet: AtomicBool,
    /// Bytes of bodies that hyper was given since everything was written last.
    given: AtomicUsize,
}

impl Activity {
    /// Requests whose response is not finished.
    #[must_use]
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Says that the connection ends with bytes that nobody reads: its close must not overtake the answer.
    pub(super) fn linger(&self) {
        self.lingers.store(true, Relaxed);
    }

    /// Whether it does.
    #[must_use]
    pub(super) fn lingers(&self) -> bool {
        self.lingers.load(Relaxed)
    }

    /// Whether there is no request, no byte of one, and nothing that the client has not taken.
    #[must_use]
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight() == 0 && self.is_quiet.load(Relaxed)
    }

    /// hyper was given so much of a body.
    fn given(&self, bytes: usize) {
        self.given.fetch_add(bytes, Relaxed);
    }

    /// Requests that have begun so far.
    #[must_use]
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }
}

/// A request in flight, until dropped.
#[derive(Debug)]
pub(super) struct Active {
    activity: Arc<Activity>,
    stats: Arc<Stats>,
    /// Its part of what its Gateway may have.
    _share: Option<Share>,
    /// What is told of it when it is over.
    pub(super) record: Record,
}

impl Active {
    /// Counts a request.
    #[must_use]
    pub(super) fn new(activity: &Arc<Activity>, stats: &Arc<Stats>, share: Option<Share>, record: Record) -> Self {
        activity.in_flight.fetch_add(1, Relaxed);
        activity.begun.fetch_add(1, Relaxed);
        add(&stats.active_requests);
        Self { activity: Arc::clone(activity), stats: Arc::clone(stats), _share: share, record }
    }
}

impl Active {
    /// Those of the worker that has it.
    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// hyper was given so much of the response's body.
    pub(super) fn given(&self, bytes: usize) {
        self.activity.given(bytes);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.activity.in_flight.fetch_sub(1, Relaxed);
        sub(&self.stats.active_requests);
    }
}

/// A client's stream.
#[derive(Debug)]
pub(super) struct ClientStream {
    transport: Transport,
    /// What was read to find out the protocol.
    head: Bytes,
    activity: Arc<Activity>,
    /// How many requests had begun when bytes of the next one came, if some have.
    partial: Option<u64>,
    /// Where messages end, of HTTP/1.1; HTTP/2 is watched by its driver, which can say GOAWAY.
    announced: Option<Arc<Announced>>,
    /// Set while a head is waited for that has begun.
    read_clock: Option<Pin<Box<Sleep>>>,
    /// Set while the kernel takes nothing.
    write_stall: Option<Stall>,
    room: Room,
    /// The bytes that the kernel had taken when everything was written last.
    flushed: u64,
    header_timeout: Duration,
    write_timeout: Duration,
}

impl ClientStream {
    /// A stream of which `head` was read already.
    #[must_use]
    pub(super) fn new(
        transport: Transport,
        head: Bytes,
        activity: Arc<Activity>,
        announced: Option<Arc<Announced>>,
        limits: &Settings,
        room: Room,
    ) -> Self {
        Self {
            transport,
            partial: (!head.is_empty()).then_some(0),
            head,
            activity,
            announced,
            read_clock: None,
            write_stall: None,
            room,
            flushed: 0,
            header_timeout: limits.header_timeout,
            write_timeout: limits.write_timeout,
        }
    }

    /// Called when a read must wait: whether a head has been waited for too long.
    fn poll_read_clock(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(announced) = &self.announced else { return Poll::Pending };
        if self.activity.in_flight() > 0 {
            self.read_clock = None;
            return Poll::Pending;
        }
        // What came with the request before is told by the boundary.
        if self.partial != Some(self.activity.begun()) && announced.is_between() {
            (self.partial, self.read_clock) = (None, None);
            self.activity.is_quiet.store(self.write_stall.is_none(), Relaxed);
            return Poll::Pending;
        }
        let limit = self.header_timeout;
        let clock = self.read_clock.get_or_insert_with(|| Box::pin(sleep(limit)));
        std::task::ready!(clock.as_mut().poll(cx));
        // Best effort: a client that slow may not read it either.
        self.transport.write_now(cx, HEAD_TIMED_OUT);
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    /// How long nothing may be taken is bounded, and so is what is in memory meanwhile.
    fn poll_write_clock<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_stall = None;
            return result;
        }
        self.activity.is_quiet.store(false, Relaxed);
        // A record of TLS may take the client several steps: each of them is progress.
        let written = self.transport.socket().written();
        // What TLS and frames add is little; hyper's own buffer is within what is claimed at the least.
        let since_flush = usize::try_from(written.saturating_sub(self.flushed)).unwrap_or(usize::MAX);
        let unwritten = self.activity.given.load(Relaxed).saturating_sub(since_flush);
        let limit = self.write_timeout;
        let stall = self.write_stall.get_or_insert_with(|| Stall::new(&self.room, Some(limit)));
        std::task::ready!(stall.poll(cx, written, unwritten.max(LEAST_UNWRITTEN)));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.head.has_remaining() {
            let n = this.head.remaining().min(buf.remaining());
            buf.put_slice(&this.head.split_to(n));
            if this.head.is_empty() {
                // An empty part of it would keep the whole.
                this.head = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match this.transport.stream().poll_read(cx, buf) {
            Poll::Pending => this.poll_read_clock(cx).map(Err),
            Poll::Ready(result) => {
                let is_idle = this.partial != Some(this.activity.begun());
                if buf.filled().len() > before && is_idle && this.activity.in_flight() == 0 {
                    (this.partial, this.read_clock) = (Some(this.activity.begun()), None);
                    this.activity.is_quiet.store(false, Relaxed);
                }
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = self.transport.stream().poll_write(cx, buf);
        self.poll_write_clock(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = self.transport.stream().poll_write_vectored(cx, bufs);
        self.poll_write_clock(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = self.transport.stream().poll_flush(cx);
        if result.is_ready() {
            self.activity.given.store(0, Relaxed);
            self.flushed = self.transport.socket().written();
        }
        self.poll_write_clock(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = self.transport.stream().poll_shutdown(cx);
        self.poll_write_clock(cx, result)
    }
}
