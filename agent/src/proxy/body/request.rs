//! A request's body on its way upstream.
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::{BodyFault, Flow, trailing::Trailing};
use crate::proxy::{
    http1::Trailers,
    lease::Stream,
    mirror::{ClientBody, Copied, Tee},
    pace::Pace,
    replay::{Reader, Tape},
    uptake::Uptake,
};

/// A request's body on its way upstream.
#[derive(Debug)]
pub(in crate::proxy) struct RequestBody {
    from: RequestSource,
    limit: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    response: Flow,
    /// How often the response had moved when the clock was set.
    seen: u64,
    trailing: Trailing,
    /// The stream that it goes into: it is taken for as long as something may be sent.
    stream: Option<Arc<Stream>>,
    /// How it is taken, where its client speaks HTTP/2.
    uptake: Option<Arc<Uptake>>,
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
    pub(in crate::proxy) fn new(inner: Incoming, tee: Option<Tee>, limit: Duration, response: Flow) -> Self {
        let is_end = inner.is_end_stream();
        let from = if is_end {
            RequestSource::Nowhere
        } else {
            RequestSource::Client(ClientBody::new(inner, tee, response.clone()))
        };
        Self::of(from, limit, response)
    }

    /// A body of which nothing has come yet, at any pace and without trailers.
    fn of(from: RequestSource, limit: Duration, response: Flow) -> Self {
        let is_client = matches!(from, RequestSource::Client(_) | RequestSource::Tape(_));
        Self {
            from,
            limit,
            stall: None,
            response,
            seen: 0,
            trailing: Trailing::default(),
            stream: None,
            uptake: if is_client { Uptake::current() } else { None },
            pace: Pace::new(0, limit),
            paced: 0,
        }
    }

    /// It must come with so many bytes a second, on the average of the time within which it must make progress at all;
    /// unless the response moves.
    #[must_use]
    pub(in crate::proxy) fn at_least(mut self, rate: u64) -> Self {
        self.pace = Pace::new(rate, self.limit);
        self
    }

    /// The client takes trailers, so they pass upstream too.
    #[must_use]
    pub(in crate::proxy) fn passing_trailers(mut self, pass: bool) -> Self {
        self.trailing.pass = pass && self.size_hint().exact().is_none();
        self
    }

    /// The body goes over an HTTP/1.1 connection, and its trailers here.
    pub(in crate::proxy) fn trail_in(&mut self, trailers: &Trailers) {
        self.trailing.to = self.trailing.pass.then(|| trailers.clone());
    }

    /// No body.
    #[must_use]
    pub(in crate::proxy) fn empty() -> Self {
        Self::of(RequestSource::Nowhere, Duration::ZERO, Flow::default())
    }

    /// The copy of a body, which ends when that ends, well or not.
    #[must_use]
    pub(in crate::proxy) fn copied(copied: Copied) -> Self {
        Self::of(RequestSource::Copy(copied), Duration::MAX, Flow::default())
    }

    /// Keeps what is read, for [`Self::spare`].
    #[must_use]
    pub(in crate::proxy) fn kept(mut self) -> Self {
        if let RequestSource::Client(inner) = self.from {
            // A tape that nobody has read is whole.
            self.from = Tape::new(inner).read().map_or(RequestSource::Nowhere, RequestSource::Tape);
        }
        self
    }

    /// What keeps this body, where something does.
    #[must_use]
    pub(in crate::proxy) fn spare(&self) -> Option<Spare> {
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
    pub(in crate::proxy) fn progress(&self) -> Option<Flow> {
        (!self.is_end_stream()).then(|| self.response.clone())
    }

    /// Takes the stream for as long as this is sent.
    pub(in crate::proxy) fn hold(&mut self, stream: Arc<Stream>) {
        self.stream = Some(stream);
    }
}

/// A body that can be sent once more.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Spare {
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
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.tape.is_none()
    }

    /// Whether all of it is there.
    #[must_use]
    pub(in crate::proxy) fn is_whole(&self) -> bool {
        self.tape.as_ref().is_none_or(Tape::is_whole)
    }

    /// The body from its start, taken from whoever reads it; `None` when something of it is gone.
    #[must_use]
    pub(in crate::proxy) fn again(&self) -> Option<RequestBody> {
        let Some(tape) = &self.tape else { return Some(RequestBody::empty()) };
        let from = RequestSource::Tape(tape.read()?);
        self.response.rewind();
        let trailing = Trailing { pass: self.passes, ..Trailing::default() };
        let body = RequestBody::of(from, self.limit, self.response.clone());
        Some(RequestBody { trailing, pace: self.pace.again(), ..body })
    }

    /// Keeps no more.
    pub(in crate::proxy) fn commit(&self) {
        if let Some(tape) = &self.tape {
            tape.commit();
        }
    }
}

impl RequestBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let this = self;
        ready!(this.trailing.poll_due(cx));
        match this.from.poll_frame(cx) {
            Poll::Ready(frame) => {
                this.stall = None;
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                if this.pace.is_too_slow(data.map_or(0, Bytes::len), Instant::now()) {
                    let moved = this.response.moved();
                    if std::mem::replace(&mut this.paced, moved) == moved && data.is_some() {
                        return Poll::Ready(Some(Err(BodyFault::Stalled)));
                    }
                }
                if frame.is_none() || this.from.is_end_stream() {
                    this.response.is_read();
                }
                this.trailing.poll_frame(frame, cx)
            }
            Poll::Pending => {
                this.pace.waits(Instant::now());
                let (limit, moved) = (this.limit, this.response.moved());
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
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let frame = self.poll_next(cx);
        if let Some(uptake) = &self.uptake {
            uptake.request_given(matches!(frame, Poll::Ready(Some(Ok(_)))) && !self.is_end_stream());
        }
        frame
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
