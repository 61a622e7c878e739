//! A response's body on its way to the client.
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{BodyFault, Flow, trailing::Trailing};
use crate::proxy::{
    balance::Cause,
    grpc,
    http1::Trailers,
    io::Active,
    lease::{Lease, Pending},
    metrics::Cut,
    uptake::Uptake,
};

/// A response's body on its way to the client.
#[derive(Debug)]
pub(in crate::proxy) struct ResponseBody {
    source: Source,
    flow: Flow,
    deadline: Option<Pin<Box<Sleep>>>,
    trailing: Trailing,
    /// It comes over HTTP/2, where END_STREAM alone is the end.
    is_stream: bool,
    /// When its time is up it ends with a status of gRPC.
    is_grpc: bool,
    uptake: Option<Arc<Uptake>>,
    /// Why it ends, when what came before has had its chance to be written.
    fault: Option<BodyFault>,
    pending: Option<Pending>,
    /// The endpoint was asked for more and has nothing yet.
    is_due: bool,
    active: Option<Active>,
}

#[derive(Debug)]
enum Source {
    /// The proxy's own.
    Own(Option<Bytes>),
    /// From upstream; the connection goes back to its pool at the end.
    Upstream(Incoming, Option<Lease>),
    /// None, where the head says how long it would be.
    Absent(u64),
}

impl ResponseBody {
    /// A body of the proxy's own.
    #[must_use]
    pub(in crate::proxy) fn own(text: impl Into<Bytes>) -> Self {
        let text = Some(text.into()).filter(|t| !t.is_empty());
        Self {
            source: Source::Own(text),
            flow: Flow::default(),
            deadline: None,
            trailing: Trailing::default(),
            is_stream: false,
            is_grpc: false,
            uptake: None,
            fault: None,
            pending: None,
            is_due: false,
            active: None,
        }
    }

    /// A body from upstream.
    #[must_use]
    pub(in crate::proxy) fn upstream(
        inner: Incoming,
        lease: Option<Lease>,
        pending: Pending,
        deadline: Option<Instant>,
    ) -> Self {
        let (mut lease, mut pending) = (lease, pending);
        let is_stream = matches!(lease, Some(Lease::Stream(_)));
        if inner.is_end_stream() {
            pending.ends_well();
            lease.take().into_iter().for_each(Lease::give_back);
        }
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let (source, flow) = (Source::Upstream(inner, lease), Flow::default());
        let trailing = Trailing::default();
        Self {
            source,
            flow,
            deadline,
            trailing,
            is_stream,
            is_grpc: false,
            uptake: None,
            fault: None,
            pending: Some(pending),
            is_due: false,
            active: None,
        }
    }

    /// Shows the request's body that the response moves.
    #[must_use]
    pub(in crate::proxy) fn showing(mut self, flow: Flow) -> Self {
        self.flow = flow;
        self
    }

    /// Ends it with a status of gRPC when its time is up.
    #[must_use]
    pub(in crate::proxy) fn grpc(mut self, is_grpc: bool) -> Self {
        self.is_grpc = is_grpc;
        self
    }

    /// No body, but the length that it would have: for 304 over HTTP/1.1, where hyper writes `Content-Length` only if the
    /// body says the same, and sends nothing of it. nginx, HAProxy and Envoy pass the field (RFC 9110 part 8.6).
    #[must_use]
    pub(in crate::proxy) fn absent(mut self, length: u64) -> Self {
        self.source = Source::Absent(length);
        self
    }

    /// The body goes to the client in chunks, and its trailers here.
    #[must_use]
    pub(in crate::proxy) fn trailing_in(mut self, trailers: Trailers) -> Self {
        self.trailing.to = Some(trailers).filter(|_| self.size_hint().exact().is_none());
        self
    }

    /// Counts the request as active until the body is gone.
    #[must_use]
    pub(in crate::proxy) fn counted(mut self, active: Active) -> Self {
        let mut active = active;
        let is_own = !matches!(self.source, Source::Upstream(..));
        if is_own || active.record.is_bodiless() || self.is_end_stream() {
            active.record.ends();
        }
        self.active = Some(active);
        self.uptake = Uptake::current();
        // A client whose window is shut from the start has hyper ask for nothing at all.
        self.uptake.iter().filter(|_| !self.is_end_stream()).for_each(|uptake| uptake.response_given(true));
        self
    }
}

impl ResponseBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self;
        ready!(this.trailing.poll_due(cx));
        if let Some(fault) = this.fault.take() {
            return Poll::Ready(Some(this.ending(fault)));
        }
        let (inner, lease) = match &mut this.source {
            Source::Own(text) => return Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Source::Absent(_) => return Poll::Ready(None),
            Source::Upstream(inner, lease) => (inner, lease),
        };
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            *lease = None;
            // A client that takes its time is not the endpoint's failure, nor is one that asks for little (`grpc-timeout`).
            let cause = Some(Cause::Late).filter(|_| this.is_due && !this.is_grpc);
            this.cut(Cut::Timeout, cause);
            return Poll::Ready(Some(this.ending(BodyFault::Timeout)));
        }
        let frame = match lease {
            Some(lease) => lease.poll_frame(cx, inner),
            None => Pin::new(&mut *inner).poll_frame(cx),
        };
        this.is_due = frame.is_pending();
        let frame = ready!(frame);
        this.flow.moves();
        let is_end = inner.is_end_stream();
        let is_over = this.is_grpc && grpc::is_over(this.deadline.as_ref().map(|deadline| deadline.deadline()));
        let broken = if is_over { (Cut::Timeout, None) } else { (Cut::Backend, Some(Cause::Broken)) };
        match &frame {
            Some(Ok(frame)) => {
                // Whoever knows the length reads no further.
                let is_last = is_end || inner.size_hint().exact() == Some(0);
                this.gives(frame, is_last);
            }
            Some(Err(_)) => this.cut(broken.0, broken.1),
            // To hyper a reset with NO_ERROR ends a body well, wherever it comes.
            None if this.is_stream && !is_end => this.cut(broken.0, broken.1),
            None => this.ends(),
        }
        let Source::Upstream(_, lease) = &mut this.source else { return Poll::Ready(None) };
        match frame {
            Some(Err(error)) => {
                // hyper throws away what it has not written when a body fails, and head, data and end may have come at once.
                this.fault = Some(if is_over { BodyFault::Timeout } else { BodyFault::Broken(error) });
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None if this.is_stream && !is_end => {
                *lease = None;
                Poll::Ready(Some(this.ending(if is_over { BodyFault::Timeout } else { BodyFault::Cut })))
            }
            frame => {
                if frame.is_none() || is_end {
                    lease.take().into_iter().for_each(Lease::give_back);
                }
                this.trailing.poll_frame(frame.map(|frame| frame.map_err(BodyFault::Broken)), cx)
            }
        }
    }

    /// A part of the body goes to the client.
    fn gives(&mut self, frame: &Frame<Bytes>, is_last: bool) {
        if let Some(active) = &mut self.active {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            active.record.gives(bytes);
            active.given(bytes);
            frame.trailers_ref().into_iter().for_each(|trailers| active.record.read_status(trailers));
        }
        if is_last {
            self.ends();
        }
    }

    /// It has come as a whole.
    fn ends(&mut self) {
        self.active.iter_mut().for_each(|active| active.record.ends());
        self.pending.iter_mut().for_each(Pending::ends_well);
    }

    /// It has not; `cause` where that is the endpoint's failure.
    fn cut(&mut self, cut: Cut, cause: Option<Cause>) {
        let Some(active) = &mut self.active else { return };
        active.record.cut(cut);
        if let (Some(pending), Some(cause)) = (&mut self.pending, cause) {
            pending.fails(cause, active.stats());
        }
    }

    /// What says so to the client: in gRPC a status, which clients may try again by.
    fn ending(&mut self, fault: BodyFault) -> Result<Frame<Bytes>, BodyFault> {
        let Some(trailers) = grpc::ending(&fault).filter(|_| self.is_grpc) else { return Err(fault) };
        self.source = Source::Own(None);
        self.active.iter_mut().for_each(|active| active.record.read_status(&trailers));
        Ok(Frame::trailers(trailers))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = self.poll_next(cx);
        if let Some(uptake) = &self.uptake {
            uptake.response_given(matches!(frame, Poll::Ready(Some(Ok(_)))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(text) => text.is_none(),
            Source::Absent(_) => false,
            Source::Upstream(inner, _) => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Source::Absent(length) => SizeHint::with_exact(*length),
            Source::Upstream(inner, _) => inner.size_hint(),
        }
    }
}
