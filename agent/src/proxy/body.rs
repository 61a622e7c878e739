//! Bodies on their way through: frame by frame, never collected, with the limits that belong to them.
//!
//! Backpressure is hyper's: a frame is taken from one side when the other side has room for it.
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{
    balance::Moment,
    grpc, headers,
    http1::Trailers,
    io::Active,
    lease::{Lease, Pending, Stream},
    mirror::{ClientBody, Copied, Tee},
    pace::Pace,
    replay::{Reader, Tape},
    uptake::Uptake,
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
    /// A mirror did not keep up with the body that it gets a copy of, or that one did not end well.
    #[error("the copy was cut")]
    CopyCut,
    /// The try that this is for was given up.
    #[error("the body is read by another try")]
    Superseded,
    /// The stream was reset without error before its end.
    #[error("the stream was reset before its end")]
    Cut,
}

/// What the bodies of an exchange know of each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Flow(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    /// How often the response has moved, for the request's body to see: the sides of an exchange may take turns for hours,
    /// and a client that listens need not speak. Envoy's idle timeout of a stream is for both directions likewise.
    moved: AtomicU64,
    /// When nothing of the request was still to come; 0 before. Source: [`Moment::to_bits`].
    read_at: AtomicU64,
}

impl Flow {
    /// Whether the client has sent all of its request's body, and the backend was given it.
    #[must_use]
    pub(super) fn request_is_read(&self) -> bool {
        self.0.read_at.load(Relaxed) != 0
    }

    /// When that was so.
    #[must_use]
    pub(super) fn read_at(&self) -> Option<Moment> {
        Some(self.0.read_at.load(Relaxed)).filter(|at| *at != 0).map(Moment::from_bits)
    }
}

/// A request's body on its way upstream.
#[derive(Debug)]
pub(super) struct RequestBody {
    from: RequestSource,
    limit: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    response: Flow,
    /// How often the response had moved when the clock was set.
    seen: u64,
    trailing: Trailing,
    /// The stream that it goes into: it is taken for as long as something may be sent.
    stream: Option<Arc<Stream>>,
    pace: Pace,
    /// How often the response had moved when the pace was last too slow.
    paced: u64,
}

#[derive(Debug)]
enum RequestSource {
    Nowhere,
    Client(ClientBody),
    /// Kept while it may have to be sent again.
    Tape(Reader),
    /// For a mirror.
    Copy(Copied),
}

impl RequestSource {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self {
            Self::Nowhere => Poll::Ready(None),
            Self::Client(inner) => {
                Pin::new(inner).poll_frame(cx).map(|frame| frame.map(|f| f.map_err(BodyFault::Broken)))
            }
            Self::Tape(reader) => reader.poll_frame(cx),
            Self::Copy(copied) => copied.poll_frame(cx).map(|frame| frame.map(|f| f.map_err(|_| BodyFault::CopyCut))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nowhere => true,
            Self::Client(inner) => inner.is_end_stream(),
            Self::Tape(reader) => reader.is_end_stream(),
            Self::Copy(_) => false,
        }
    }
}

impl RequestBody {
    /// A body that must make progress within `limit`, unless the response does, copied to mirrors where there are some.
    #[must_use]
    pub(super) fn new(inner: Incoming, tee: Option<Tee>, limit: Duration, response: Flow) -> Self {
        let is_end = inner.is_end_stream();
        response.0.read_at.store(u64::from(is_end), Relaxed);
        let from = if is_end { RequestSource::Nowhere } else { RequestSource::Client(ClientBody::new(inner, tee)) };
        Self {
            from,
            limit,
            stall: None,
            response,
            seen: 0,
            trailing: Trailing::default(),
            stream: None,
            pace: Pace::new(0, limit),
            paced: 0,
        }
    }

    /// It must come with so many bytes a second, on the average of the time within which it must make progress at all;
    /// unless the response moves.
    #[must_use]
    pub(super) fn at_least(mut self, rate: u64) -> Self {
        self.pace = Pace::new(rate, self.limit);
        self
    }

    /// The client takes trailers, so they pass upstream too.
    #[must_use]
    pub(super) fn passing_trailers(mut self, pass: bool) -> Self {
        self.trailing.pass = pass && self.size_hint().exact().is_none();
        self
    }

    /// The body goes over an HTTP/1.1 connection, and its trailers here.
    pub(super) fn trail_in(&mut self, trailers: &Trailers) {
        self.trailing.to = self.trailing.pass.then(|| trailers.clone());
    }

    /// No body.
    #[must_use]
    pub(super) fn empty() -> Self {
        let (from, response, trailing) = (RequestSource::Nowhere, Flow::default(), Trailing::default());
        Self {
            from,
            limit: Duration::ZERO,
            stall: None,
            response,
            seen: 0,
            trailing,
            stream: None,
            pace: Pace::new(0, Duration::ZERO),
            paced: 0,
        }
    }

    /// The copy of a body, which ends when that ends, well or not.
    #[must_use]
    pub(super) fn copied(copied: Copied) -> Self {
        let (from, response, trailing) = (RequestSource::Copy(copied), Flow::default(), Trailing::default());
        Self {
            from,
            limit: Duration::MAX,
            stall: None,
            response,
            seen: 0,
            trailing,
            stream: None,
            pace: Pace::new(0, Duration::MAX),
            paced: 0,
        }
    }

    /// Keeps what is read, for [`Self::spare`].
    #[must_use]
    pub(super) fn kept(mut self) -> Self {
        if let RequestSource::Client(inner) = self.from {
            // A tape that nobody has read is whole.
            self.from = Tape::new(inner).read().map_or(RequestSource::Nowhere, RequestSource::Tape);
        }
        self
    }

    /// What keeps this body, where something does.
    #[must_use]
    pub(super) fn spare(&self) -> Option<Spare> {
        let tape = match &self.from {
            RequestSource::Nowhere => None,
            RequestSource::Client(_) | RequestSource::Copy(_) => return None,
            RequestSource::Tape(reader) => Some(reader.tape().clone()),
        };
        Some(Spare {
            tape,
            limit: self.limit,
            response: self.response.clone(),
            passes: self.trailing.pass,
            pace: self.pace.again(),
        })
    }

    /// What says when all of it was sent; `None` where there is nothing of it.
    #[must_use]
    pub(super) fn progress(&self) -> Option<Flow> {
        (!self.is_end_stream()).then(|| self.response.clone())
    }

    /// Takes the stream for as long as this is sent.
    pub(super) fn hold(&mut self, stream: Arc<Stream>) {
        self.stream = Some(stream);
    }
}

/// A body that can be sent once more.
#[derive(Clone, Debug)]
pub(super) struct Spare {
    tape: Option<Tape>,
    limit: Duration,
    response: Flow,
    /// Its trailers pass.
    passes: bool,
    pace: Pace,
}

impl Spare {
    /// Whether there is nothing of it.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.tape.is_none()
    }

    /// Whether all of it is there.
    #[must_use]
    pub(super) fn is_whole(&self) -> bool {
        self.tape.as_ref().is_none_or(Tape::is_whole)
    }

    /// The body from its start, taken from whoever reads it; `None` when something of it is gone.
    #[must_use]
    pub(super) fn again(&self) -> Option<RequestBody> {
        let Some(tape) = &self.tape else { return Some(RequestBody::empty()) };
        let from = RequestSource::Tape(tape.read()?);
        let (limit, response) = (self.limit, self.response.clone());
        response.0.read_at.store(0, Relaxed);
        let trailing = Trailing { pass: self.passes, ..Trailing::default() };
        Some(RequestBody {
            from,
            limit,
            stall: None,
            response,
            seen: 0,
            trailing,
            stream: None,
            pace: self.pace.again(),
            paced: 0,
        })
    }

    /// Keeps no more.
    pub(super) fn commit(&self) {
        if let Some(tape) = &self.tape {
            tape.commit();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = &mut *self;
        ready!(this.trailing.poll_due(cx));
        match this.from.poll_frame(cx) {
            Poll::Ready(frame) => {
                this.stall = None;
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                if this.pace.is_too_slow(data.map_or(0, Bytes::len), Instant::now()) {
                    let moved = this.response.0.moved.load(Relaxed);
                    if std::mem::replace(&mut this.paced, moved) == moved && data.is_some() {
                        return Poll::Ready(Some(Err(BodyFault::Stalled)));
                    }
                }
                if frame.is_none() || this.from.is_end_stream() {
                    this.response.0.read_at.store(Moment::now().to_bits(), Relaxed);
                }
                this.trailing.poll_frame(frame, cx)
            }
            Poll::Pending => {
                this.pace.waits(Instant::now());
                let (limit, moved) = (this.limit, this.response.0.moved.load(Relaxed));
                let stall = this.stall.get_or_insert_with(|| {
                    this.seen = moved;
                    Box::pin(tokio::time::sleep(limit))
                });
                while stall.as_mut().poll(cx).is_ready() {
                    if moved == this.seen {
                        return Poll::Ready(Some(Err(BodyFault::Stalled)));
                    }
                    this.seen = moved;
                    stall.as_mut().reset(Instant::now() + limit);
                }
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.from.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            RequestSource::Nowhere => SizeHint::with_exact(0),
            RequestSource::Client(inner) => inner.size_hint(),
            RequestSource::Copy(copied) => copied.size_hint(),
            RequestSource::Tape(reader) => reader.size_hint(),
        }
    }
}

/// What becomes of a body's trailers.
#[derive(Debug, Default)]
struct Trailing {
    /// They pass, whichever the version of HTTP.
    pass: bool,
    /// Where they are written, for HTTP/1.1; without it hyper gets them.
    to: Option<Trailers>,
    /// They were given, and the body ends when what was before is flushed.
    given: bool,
}

impl Trailing {
    /// Pending while the end of the body must wait.
    fn poll_due(&self, cx: &Context<'_>) -> Poll<()> {
        match &self.to {
            Some(to) if self.given => to.poll_due(cx),
            _ => Poll::Ready(()),
        }
    }

    /// What hyper gets of a frame.
    fn poll_frame(
        &mut self,
        frame: Option<Result<Frame<Bytes>, BodyFault>>,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = match frame {
            Some(Ok(frame)) => without_forbidden_trailers(frame),
            Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
            None => return Poll::Ready(None),
        };
        match (&self.to, frame.trailers_ref()) {
            (Some(_), Some(none)) if none.is_empty() => Poll::Ready(None),
            (Some(to), Some(trailers)) => {
                to.give(trailers, cx);
                self.given = true;
                Poll::Pending
            }
            _ => Poll::Ready(Some(Ok(frame))),
        }
    }
}

/// Pseudo headers in trailers of HTTP/2 do not come here: `h2` parses them into a field of the frame and drops that where it
/// hands trailers on (0.4.20: `Recv::recv_trailers`, `Headers::into_fields`), without an error, an event or a setting.
/// Envoy and HAProxy reset the stream (RFC 9113 part 8.1.1); to see what `h2` drops, one would have to decode HPACK below
/// it a second time, from the first frame of each connection on. So this is a limit, and a safe one: whoever sends them
/// gets an answer instead of a reset, and nothing of them crosses.
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
    flow: Flow,
    deadline: Option<Pin<Box<Sleep>>>,
    trailing: Trailing,
    /// It comes over HTTP/2, where END_STREAM alone is the end.
    is_stream: bool,
    /// When its time is up it ends with a status of gRPC.
    is_grpc: bool,
    uptake: Option<Arc<Uptake>>,
    _pending: Option<Pending>,
    _active: Option<Active>,
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
    pub(super) fn own(text: impl Into<Bytes>) -> Self {
        let text = Some(text.into()).filter(|t| !t.is_empty());
        Self {
            source: Source::Own(text),
            flow: Flow::default(),
            deadline: None,
            trailing: Trailing::default(),
            is_stream: false,
            is_grpc: false,
            uptake: None,
            _pending: None,
            _active: None,
        }
    }

    /// A body from upstream.
    #[must_use]
    pub(super) fn upstream(inner: Incoming, lease: Option<Lease>, pending: Pending, deadline: Option<Instant>) -> Self {
        let mut lease = lease;
        let is_stream = matches!(lease, Some(Lease::Stream(_)));
        if inner.is_end_stream()
            && let Some(lease) = lease.take()
        {
            lease.give_back();
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
            _pending: Some(pending),
            _active: None,
        }
    }

    /// Shows the request's body that the response moves.
    #[must_use]
    pub(super) fn showing(mut self, flow: Flow) -> Self {
        self.flow = flow;
        self
    }

    /// Ends it with a status of gRPC when its time is up.
    #[must_use]
    pub(super) fn grpc(mut self, is_grpc: bool) -> Self {
        self.is_grpc = is_grpc;
        self
    }

    /// No body, but the length that it would have: for 304 over HTTP/1.1, where hyper writes `Content-Length` only if the
    /// body says the same, and sends nothing of it. nginx, HAProxy and Envoy pass the field (RFC 9110 part 8.6).
    #[must_use]
    pub(super) fn absent(mut self, length: u64) -> Self {
        self.source = Source::Absent(length);
        self
    }

    /// The body goes to the client in chunks, and its trailers here.
    #[must_use]
    pub(super) fn trailing_in(mut self, trailers: Trailers) -> Self {
        self.trailing.to = Some(trailers).filter(|_| self.size_hint().exact().is_none());
        self
    }

    /// Counts the request as active until the body is gone.
    #[must_use]
    pub(super) fn counted(mut self, active: Active) -> Self {
        self._active = Some(active);
        self.uptake = Uptake::current();
        self
    }
}

impl ResponseBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self;
        ready!(this.trailing.poll_due(cx));
        let (inner, lease) = match &mut this.source {
            Source::Own(text) => return Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            Source::Absent(_) => return Poll::Ready(None),
            Source::Upstream(inner, lease) => (inner, lease),
        };
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            *lease = None;
            if this.is_grpc {
                this.source = Source::Own(None);
                return Poll::Ready(Some(Ok(Frame::trailers(grpc::deadline_trailers()))));
            }
            return Poll::Ready(Some(Err(BodyFault::Timeout)));
        }
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        this.flow.0.moved.fetch_add(1, Relaxed);
        // To hyper a reset with NO_ERROR ends a body well, wherever it comes.
        if frame.is_none() && this.is_stream && !inner.is_end_stream() {
            *lease = None;
            return Poll::Ready(Some(Err(BodyFault::Cut)));
        }
        if (frame.is_none() || inner.is_end_stream())
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
        this.trailing.poll_frame(frame.map(|f| f.map_err(BodyFault::Broken)), cx)
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = self.poll_next(cx);
        if let Some(uptake) = &self.uptake {
            uptake.given(matches!(frame, Poll::Ready(Some(Ok(_)))));
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
