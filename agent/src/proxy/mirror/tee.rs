//! One body, read by two: by the endpoint that answers, and by copies that must keep up.
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::proxy::body::Flow;

/// How much of a body may wait for its copy to be taken. Beyond it the copy is cut. Units: bytes, with what a frame takes.
pub(super) const CAP: usize = 64 << 10;
/// What a frame takes beside its data. Units: bytes.
const OVERHEAD: usize = 128;

/// A request's body as the client sends it, copied to mirrors where there are some.
#[derive(Debug)]
pub(in crate::proxy) struct ClientBody {
    inner: Incoming,
    tee: Option<Tee>,
    /// Who is told how much has come.
    flow: Flow,
}

impl ClientBody {
    /// A body, and where it goes as well.
    pub(in crate::proxy) fn new(inner: Incoming, tee: Option<Tee>, flow: Flow) -> Self {
        Self { inner, tee, flow }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if let Some(Ok(data)) = frame.as_ref().map(|frame| frame.as_ref().map(Frame::data_ref)) {
            this.flow.comes(data.map_or(0, Bytes::len));
        }
        if let Some(tee) = &mut this.tee {
            match &frame {
                Some(Ok(frame)) => tee.frame(frame),
                // Dropped, it cuts the copies as this is cut.
                Some(Err(_)) => this.tee = None,
                None => tee.end(),
            }
            if this.inner.is_end_stream()
                && let Some(tee) = &mut this.tee
            {
                tee.end();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Where the frames of a body go as well. Dropped before [`Tee::end`], it cuts the copies.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Tee(Vec<Sink>);

#[derive(Debug)]
struct Sink {
    /// Bounded by what waits in it.
    pieces: mpsc::UnboundedSender<Piece>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Piece {
    /// And what it takes.
    Frame(Frame<Bytes>, usize),
    /// The body ended well.
    End,
}

impl Tee {
    /// One copy more, of a body of this size.
    pub(super) fn copy(&mut self, size: SizeHint) -> Copied {
        let (sender, pieces) = mpsc::unbounded_channel();
        let waiting = Arc::<AtomicUsize>::default();
        self.0.push(Sink { pieces: sender, waiting: Arc::clone(&waiting) });
        Copied { pieces, waiting, left: size.exact() }
    }

    /// Whether nobody gets a copy.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Copies a frame to whoever has kept up. A frame is a part of a larger buffer, which a copy must not hold: so the data is
    /// copied.
    pub(in crate::proxy) fn frame(&mut self, frame: &Frame<Bytes>) {
        let length = frame.data_ref().map_or(0, Bytes::len)
            + frame.trailers_ref().map_or(0, |trailers| trailers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum());
        let cost = length + OVERHEAD;
        let data = frame.data_ref().filter(|_| !self.0.is_empty()).map(|data| Bytes::copy_from_slice(data));
        self.0.retain(|sink| {
            let copy = match (&data, frame.trailers_ref()) {
                (Some(data), _) => Frame::data(data.clone()),
                (None, Some(trailers)) => Frame::trailers(trailers.clone()),
                (None, None) => return true,
            };
            let fits = sink.waiting.load(Relaxed) + cost <= CAP;
            if fits {
                sink.waiting.fetch_add(cost, Relaxed);
            }
            fits && sink.pieces.send(Piece::Frame(copy, cost)).is_ok()
        });
    }

    /// The body ended well.
    pub(in crate::proxy) fn end(&mut self) {
        for sink in self.0.drain(..) {
            let _nobody_listens = sink.pieces.send(Piece::End);
        }
    }
}

/// A copy of a body, as far as it has come.
#[derive(Debug)]
pub(in crate::proxy) struct Copied {
    pieces: mpsc::UnboundedReceiver<Piece>,
    waiting: Arc<AtomicUsize>,
    /// How much is still to come, where that is known. Units: bytes.
    left: Option<u64>,
}

/// The copy was cut: it did not keep up, or the body itself did not end well.
#[derive(Debug)]
pub(in crate::proxy) struct Cut;

impl Copied {
    /// The next frame; `None` at the end.
    pub(in crate::proxy) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.pieces).poll_recv(cx)) {
            Some(Piece::Frame(frame, cost)) => {
                self.waiting.fetch_sub(cost, Relaxed);
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.left = self.left.map(|left| left.saturating_sub(length));
                Some(Ok(frame))
            }
            Some(Piece::End) => None,
            None => Some(Err(Cut)),
        })
    }

    /// How much is still to come.
    pub(in crate::proxy) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
