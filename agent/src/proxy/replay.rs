//! A request's body that can be sent once more: what was read of it is kept while it may have to be, up to [`MOST`].
//!
//! One reader at a time has the tape. Who takes it over begins at its start, and the one before reads an error from then on:
//! a try that was given up must not take frames from the one that follows. When a response is passed on, nothing more is kept.
use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{body::BodyFault, mirror::ClientBody};

/// How much of a body is kept. Beyond it the request is sent once. As Linkerd has it. Units: bytes.
const MOST: usize = 64 << 10;
/// What a frame counts at least: a body of one-byte frames must not keep more memory than another. Units: bytes.
const FRAME: usize = 256;

/// The body and what is kept of it.
#[derive(Clone, Debug)]
pub(super) struct Tape(Arc<Mutex<Reel>>);

#[derive(Debug)]
struct Reel {
    inner: ClientBody,
    /// From the first on, as long as `keeps`; what is left of them after that.
    kept: Vec<Kept>,
    /// Which of `kept` is next.
    at: usize,
    size: usize,
    keeps: bool,
    /// Whose it is.
    reader: u64,
}

#[derive(Clone, Debug)]
enum Kept {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// The right to read a tape, until the next takes it.
#[derive(Debug)]
pub(super) struct Reader {
    tape: Tape,
    id: u64,
}

impl Tape {
    /// Keeps what is read of this body.
    #[must_use]
    pub(super) fn new(inner: ClientBody) -> Self {
        let reel = Reel { inner, kept: Vec::new(), at: 0, size: 0, keeps: true, reader: 0 };
        Self(Arc::new(Mutex::new(reel)))
    }

    /// The tape from its start; `None` when something of it is gone.
    #[must_use]
    pub(super) fn read(&self) -> Option<Reader> {
        let mut reel = self.lock();
        if !reel.keeps {
            return None;
        }
        reel.reader += 1;
        reel.at = 0;
        Some(Reader { tape: self.clone(), id: reel.reader })
    }

    /// Whether [`Self::read`] would have it.
    #[must_use]
    pub(super) fn is_whole(&self) -> bool {
        self.lock().keeps
    }

    /// Keeps no more: a response is passed on.
    pub(super) fn commit(&self) {
        self.lock().keeps = false;
    }

    fn lock(&self) -> MutexGuard<'_, Reel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reel {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let (kept, size) = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => (Kept::Data(data.clone()), data.len()),
            (None, Some(trailers)) => {
                let size = trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
                (Kept::Trailers(trailers.clone()), size)
            }
            (None, None) => return,
        };
        self.size += size.max(FRAME);
        if self.size > MOST {
            self.keeps = false;
            self.forget();
        } else {
            self.kept.push(kept);
            self.at += 1;
        }
    }

    fn forget(&mut self) {
        self.kept = Vec::new();
        self.at = 0;
    }
}

impl Reader {
    /// The next frame; an error when another reads the tape.
    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let reel = &mut *self.tape.lock();
        if reel.reader != self.id {
            return Poll::Ready(Some(Err(BodyFault::Superseded)));
        }
        if let Some(kept) = reel.kept.get(reel.at).cloned() {
            reel.at += 1;
            return Poll::Ready(Some(Ok(match kept {
                Kept::Data(data) => Frame::data(data),
                Kept::Trailers(trailers) => Frame::trailers(trailers),
            })));
        }
        if !reel.keeps {
            reel.forget();
        }
        let frame = ready!(Pin::new(&mut reel.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && reel.keeps
        {
            reel.keep(frame);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyFault::Broken)))
    }

    /// Whether nothing is left.
    pub(super) fn is_end_stream(&self) -> bool {
        let reel = self.tape.lock();
        reel.at >= reel.kept.len() && reel.inner.is_end_stream()
    }

    /// How much is left.
    pub(super) fn size_hint(&self) -> SizeHint {
        let reel = self.tape.lock();
        let data = |kept: &Kept| match kept {
            Kept::Data(data) => data.len() as u64,
            Kept::Trailers(_) => 0,
        };
        let kept: u64 = reel.kept.iter().skip(reel.at).map(data).sum();
        reel.inner.size_hint().exact().map_or_else(SizeHint::default, |left| SizeHint::with_exact(kept + left))
    }

    /// The tape.
    pub(super) fn tape(&self) -> &Tape {
        &self.tape
    }
}
