//! A client's stream with the clocks that hyper lacks: one for a request's head, one for idleness, one for writing.
//!
//! hyper's own head timer runs while a connection is idle too, and not at all before the first byte. Here the state is
//! told apart: idle (no request, no byte of one), head (first bytes seen, request not complete), busy (requests in
//! flight). Each read that has to wait waits no longer than its state allows.
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
    time::{Instant, Sleep, sleep},
};

use super::{
    bounds::Share,
    settings::Settings,
    stats::{Stats, add, sub},
    transport::Transport,
};

/// The answer to a head that took too long; hyper cannot write it, since it has no request to answer.
pub(super) const HEAD_TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// What a connection is doing, shared between its stream and its requests.
#[derive(Debug, Default)]
pub(super) struct Activity {
    in_flight: AtomicUsize,
    begun: AtomicU64,
    lingers: AtomicBool,
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
}

impl Active {
    /// Counts a request.
    #[must_use]
    pub(super) fn new(activity: &Arc<Activity>, stats: &Arc<Stats>, share: Option<Share>) -> Self {
        activity.in_flight.fetch_add(1, Relaxed);
        activity.begun.fetch_add(1, Relaxed);
        add(&stats.active_requests);
        Self { activity: Arc::clone(activity), stats: Arc::clone(stats), _share: share }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.activity.in_flight.fetch_sub(1, Relaxed);
        sub(&self.stats.active_requests);
    }
}

/// What a read waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Head,
    Busy,
}

/// A client's stream.
#[derive(Debug)]
pub(super) struct ClientStream {
    transport: Transport,
    /// What was read to find out the protocol.
    head: Bytes,
    activity: Arc<Activity>,
    seen: u64,
    state: State,
    /// Whether heads and idleness are watched here; HTTP/2 is watched by its driver, which can say GOAWAY.
    watch_reads: bool,
    read_clock: Pin<Box<Sleep>>,
    write_clock: Option<Pin<Box<Sleep>>>,
    /// The bytes that the kernel had taken when the clock was set.
    written: u64,
    header_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
}

impl ClientStream {
    /// A stream of which `head` was read already.
    #[must_use]
    pub(super) fn new(
        transport: Transport,
        head: Bytes,
        activity: Arc<Activity>,
        watch_reads: bool,
        limits: &Settings,
    ) -> Self {
        Self {
            transport,
            state: if head.is_empty() { State::Idle } else { State::Head },
            head,
            activity,
            seen: 0,
            watch_reads,
            read_clock: Box::pin(sleep(limits.header_timeout)),
            write_clock: None,
            written: 0,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        let limit = if state == State::Head { self.header_timeout } else { self.idle_timeout };
        self.read_clock.as_mut().reset(Instant::now() + limit);
    }

    /// Called when a read must wait: whether it has waited too long.
    fn poll_read_clock(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.activity.in_flight() > 0 {
            self.state = State::Busy;
            return Poll::Pending;
        }
        let begun = self.activity.begun();
        if self.state == State::Busy || self.seen != begun {
            self.seen = begun;
            self.enter(State::Idle);
        }
        std::task::ready!(self.read_clock.as_mut().poll(cx));
        if self.state == State::Head {
            // Best effort: a client that slow may not read it either.
            self.transport.write_now(cx, HEAD_TIMED_OUT);
        }
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }

    fn poll_write_clock<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_clock = None;
            return result;
        }
        let limit = self.write_timeout;
        let written = self.transport.socket().written();
        if self.write_clock.is_none() {
            self.written = written;
        }
        let clock = self.write_clock.get_or_insert_with(|| Box::pin(sleep(limit)));
        std::task::ready!(clock.as_mut().poll(cx));
        if self.written == written {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        // A record of TLS may take the client several steps: each of them is progress.
        self.written = written;
        clock.as_mut().reset(Instant::now() + limit);
        // The clock wakes whoever polls it, and has just rung.
        std::task::ready!(clock.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.head.has_remaining() {
            let n = this.head.remaining().min(buf.remaining());
            buf.put_slice(&this.head.split_to(n));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.transport).poll_read(cx, buf) {
            Poll::Pending if this.watch_reads => this.poll_read_clock(cx).map(Err),
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                let got = buf.filled().len() > before;
                let idle = this.state == State::Idle || this.seen != this.activity.begun();
                if this.watch_reads && got && idle && this.activity.in_flight() == 0 {
                    this.seen = this.activity.begun();
                    this.enter(State::Head);
                }
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.poll_write_clock(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.poll_write_clock(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.transport).poll_flush(cx);
        self.poll_write_clock(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.transport).poll_shutdown(cx);
        self.poll_write_clock(cx, result)
    }
}
