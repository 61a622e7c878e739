//! Trailers that no head declared, over HTTP/1.1.
//!
//! hyper writes the trailers that `Trailer` names in the head, and a sender need not name any (RFC 9110 part 6.6.2). What
//! they are is known at the end, when the head is long gone. So a body that ends with trailers gives them to the stream
//! below instead of hyper, which ends the body with `0 CRLF CRLF`; the stream writes them into that.
//!
//! # Design
//! - Which bytes are that end is certain: a body gives its trailers, then waits until hyper has flushed all that was before,
//!   and only then ends. The next five bytes that hyper writes must be the end. If they are not, which would be a
//!   fault of ours, the connection is cut, and nobody reads trailers as something else.
//! - Only bodies that hyper encodes in chunks may give trailers: those of HTTP/1.1 whose length is not known.
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How hyper ends a chunked body.
const END: &[u8] = b"0\r\n\r\n";

/// What the bodies of a connection and its stream tell each other.
#[derive(Clone, Debug, Default)]
pub(in crate::proxy) struct Trailers(Arc<Mutex<State>>);

#[derive(Debug, Default)]
enum State {
    /// No body waits. -> `Given` by the body.
    #[default]
    None,
    /// A body has given its trailers and waits for what was before to be flushed. -> `Due` by the stream.
    Given(BytesMut, Waker),
    /// It was: the body ends, and the next bytes are the end. -> `None` by the stream.
    Due(BytesMut),
}

impl Trailers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a body's trailers to the stream; [`Trailers::poll_due`] says when the body may end.
    pub(in crate::proxy) fn give(&self, trailers: &HeaderMap, cx: &Context<'_>) {
        let mut lines = BytesMut::from(&END[..3]);
        for (name, value) in trailers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
        lines.extend_from_slice(&END[3..]);
        *self.lock() = State::Given(lines, cx.waker().clone());
    }

    /// Ready when all that was before the trailers is flushed.
    pub(in crate::proxy) fn poll_due(&self, cx: &Context<'_>) -> Poll<()> {
        match &mut *self.lock() {
            State::Given(_, waker) => {
                waker.clone_from(cx.waker());
                Poll::Pending
            }
            State::None | State::Due(_) => Poll::Ready(()),
        }
    }

    fn flushed(&self) {
        let mut state = self.lock();
        *state = match std::mem::take(&mut *state) {
            State::Given(lines, waker) => {
                waker.wake();
                State::Due(lines)
            }
            same @ (State::None | State::Due(_)) => same,
        };
    }

    fn take_due(&self) -> Option<BytesMut> {
        let mut state = self.lock();
        match std::mem::take(&mut *state) {
            State::Due(lines) => Some(lines),
            same @ (State::None | State::Given(..)) => {
                *state = same;
                None
            }
        }
    }
}

/// The stream below hyper.
#[derive(Debug)]
pub(in crate::proxy) struct TrailerWriter<S> {
    stream: S,
    trailers: Trailers,
    /// An end with trailers, as far as it is not written yet.
    left: BytesMut,
}

impl<S> TrailerWriter<S> {
    /// A stream that writes what is given to `trailers`.
    #[must_use]
    pub(in crate::proxy) fn new(stream: S, trailers: Trailers) -> Self {
        Self { stream, trailers, left: BytesMut::new() }
    }
}

impl<S: AsyncWrite + Unpin> TrailerWriter<S> {
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.left.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.left))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.left.advance(n),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrailerWriter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrailerWriter<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_left(cx))?;
        let Some(lines) = this.trailers.take_due() else {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        };
        if !bufs.iter().flat_map(|buf| &**buf).take(END.len()).eq(END) {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        // Not written yet: the next write or flush does that.
        this.left = lines;
        Poll::Ready(Ok(END.len()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_left(cx))?;
        this.trailers.flushed();
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_left(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
