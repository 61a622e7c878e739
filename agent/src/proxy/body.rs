//! Bodies on their way through: frame by frame, never collected, with the limits that belong to them.
//!
//! Backpressure is hyper's: a frame is taken from one side when the other side has room for it.
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{
    headers,
    io::Active,
    pool::{Lease, Pending},
};

/// Why a body ended early. The side that reads it sees a cut connection, never a clean end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyFault {
    /// The other side broke off or sent something malformed.
    #[error("the sender broke off")]
    Broken(#[source] hyper::Error),
    /// No progress for too long.
    #[error("no progress")]
    Stalled,
    /// The route's time is up.
    #[error("the route's timeout is over")]
    Timeout,
}

/// A request's body on its way upstream.
#[derive(Debug)]
pub(super) struct RequestBody {
    inner: Option<Incoming>,
    limit: Duration,
    stall: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    /// A body that must make progress within `limit`.
    #[must_use]
    pub(super) fn new(inner: Incoming, limit: Duration) -> Self {
        Self { inner: Some(inner).filter(|b| !b.is_end_stream()), limit, stall: None }
    }

    /// No body.
    #[must_use]
    pub(super) fn empty() -> Self {
        Self { inner: None, limit: Duration::ZERO, stall: None }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.stall = None;
                Poll::Ready(frame.map(|f| f.map(without_forbidden_trailers).map_err(BodyFault::Broken)))
            }
            Poll::Pending => {
                let limit = this.limit;
                let stall = this.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                ready!(stall.as_mut().poll(cx));
                Poll::Ready(Some(Err(BodyFault::Stalled)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

fn without_forbidden_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            headers::clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// A response's body on its way to the client.
#[derive(Debug)]
pub(super) struct ResponseBody {
    source: Source,
    deadline: Option<Pin<Box<Sleep>>>,
    _pending: Option<Pending>,
    _active: Option<Active>,
}

#[derive(Debug)]
enum Source {
    /// The proxy's own.
    Own(Option<Bytes>),
    /// From upstream; the connection goes back to its pool at the end.
    Upstream(Incoming, Option<Lease>),
}

impl ResponseBody {
    /// A body of the proxy's own.
    #[must_use]
    pub(super) fn own(text: impl Into<Bytes>) -> Self {
        let text = Some(text.into()).filter(|t| !t.is_empty());
        Self { source: Source::Own(text), deadline: None, _pending: None, _active: None }
    }

    /// A body from upstream.
    #[must_use]
    pub(super) fn upstream(inner: Incoming, lease: Option<Lease>, pending: Pending, deadline: Option<Instant>) -> Self {
        let mut lease = lease;
        if inner.is_end_stream()
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        Self { source: Source::Upstream(inner, lease), deadline, _pending: Some(pending), _active: None }
    }

    /// Counts the request as active until the body is gone.
    #[must_use]
    pub(super) fn counted(mut self, active: Active) -> Self {
        self._active = Some(active);
        self
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        let (inner, lease) = match &mut this.source {
            Source::Own(text) => return Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Source::Upstream(inner, lease) => (inner, lease),
        };
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            *lease = None;
            return Poll::Ready(Some(Err(BodyFault::Timeout)));
        }
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        if (frame.is_none() || inner.is_end_stream())
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
        Poll::Ready(frame.map(|f| f.map(without_forbidden_trailers).map_err(BodyFault::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(text) => text.is_none(),
            Source::Upstream(inner, _) => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Source::Upstream(inner, _) => inner.size_hint(),
        }
    }
}
