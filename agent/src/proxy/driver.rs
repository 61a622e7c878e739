//! What moves the bytes of an HTTP/1.1 connection to an endpoint: whoever waits for its response, or a task of its own.
//!
//! # Design
//! - A request without body leaves in one write, and its response is looked for by one task: that drives the connection itself. A task
//!   of its own would be woken for each request and for each response, and wake the other in its turn.
//! - A body may still be on its way while nobody takes the response, because the client does not, and a connection that switches to
//!   another protocol is taken apart by its driver: those get a task, and keep it.
//! - In a pool nobody drives it. It is looked at by the sweep, and before it is used again: then it is seen whether it has ended.
//! - What waits for a connection that it drives itself is polled without waker: it has no news but by [`Driver::poll`], and each piece
//!   of news would have the task run once more.
use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use hyper::client::conn::http1::Connection;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use super::{body::RequestBody, http1::TrailerWriter, transport::UpstreamStream};

/// A connection as hyper moves it.
pub(super) type Http1 = Connection<TokioIo<TrailerWriter<UpstreamStream>>, RequestBody>;

/// What moves a connection's bytes. Dropped, it closes the connection: left to itself it would go on while an endpoint takes no byte
/// of a request whose client is gone.
#[derive(Debug)]
pub(super) enum Driver {
    /// Whoever has this. -> `Task` by [`Self::detach`], `Ended` by [`Self::poll`].
    Held(Box<Http1>),
    /// A task.
    Task(#[expect(dead_code, reason = "held")] Task),
    /// The connection has ended.
    Ended,
}

impl Driver {
    /// Moves what can be moved now.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if let Self::Held(connection) = self
            && let Poll::Ready(ended) = Pin::new(&mut **connection).poll(cx)
        {
            log(ended);
            // What waits for it hears of that only now.
            *self = Self::Ended;
        }
    }

    /// The same, for nobody who waits.
    pub(super) fn look(&mut self) {
        self.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Polls what waits for the connection, and the connection where that is wanted for it. What waits must not count on a budget of
    /// the runtime's.
    pub(super) fn poll_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut waits: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let Self::Held(_) = self else { return waits(cx) };
        let quiet = &mut Context::from_waker(Waker::noop());
        if let Poll::Ready(there) = waits(quiet) {
            return Poll::Ready(there);
        }
        self.poll(cx);
        if matches!(self, Self::Held(_)) { waits(quiet) } else { waits(cx) }
    }

    /// Gives the connection a task of its own.
    pub(super) fn detach(&mut self) {
        if matches!(self, Self::Held(_))
            && let Self::Held(connection) = std::mem::replace(self, Self::Ended)
        {
            // An upgrade takes the stream out of it, and ends it.
            let task = tokio::spawn(async move { log(connection.with_upgrades().await) });
            *self = Self::Task(Task(task.abort_handle()));
        }
    }
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::trace!(%error, "upstream connection ended");
    }
}
