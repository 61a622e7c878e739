//! The writes of an HTTP/2 connection, gathered: one system call for all frames that are there.
//!
//! `h2` writes and flushes each DATA frame of 256 bytes or more by itself, so a connection with many short responses pays a system call
//! for each of them, and that is most of what such a response costs. Here what is written is kept, and a flush does nothing: whoever
//! drives the connection has it written when it has nothing more to say for now ([`Batch::drive`]).
//!
//! # Design
//! - Long writes are not copied: they go out at once, behind what is kept.
//! - What is kept is bounded: beyond [`MOST`] a write waits for the peer, as it would without this.
//! - An idle connection keeps no buffer.
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// From which length on a write is not kept. Units: bytes.
const LONG: usize = 8 << 10;
/// How much is kept. Beyond it a write waits until that is written. Units: bytes.
const MOST: usize = 32 << 10;
/// How much room is made at first. Units: bytes.
const FIRST: usize = 4 << 10;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken<E> {
    /// By itself.
    #[error("{0}")]
    Connection(E),
    /// Nothing could be written.
    #[error("{0}")]
    Stream(#[source] io::Error),
}

/// What has the writes of a connection done.
#[derive(Debug)]
pub(super) struct Batch<S>(Arc<Mutex<Out<S>>>);

/// The stream of that connection.
#[derive(Debug)]
pub(super) struct Batched<S>(Arc<Mutex<Out<S>>>);

#[derive(Debug)]
struct Out<S> {
    stream: S,
    kept: Vec<u8>,
    /// How much of that is written.
    written: usize,
}

impl<S> Batch<S> {
    /// A stream whose writes are gathered.
    #[must_use]
    pub(super) fn new(stream: S) -> (Self, Batched<S>) {
        let out = Arc::new(Mutex::new(Out { stream, kept: Vec::new(), written: 0 }));
        (Self(Arc::clone(&out)), Batched(out))
    }
}

impl<S: AsyncWrite + Unpin> Batch<S> {
    /// Drives what writes, and has it written.
    ///
    /// # Errors
    /// Of `connection`, or of the stream.
    pub(super) async fn drive<T, E>(
        &self,
        mut connection: Pin<&mut impl Future<Output = Result<T, E>>>,
    ) -> Result<T, Broken<E>> {
        poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(Broken::Connection));
            }
            match self.poll_written(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(Broken::Stream(error))),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// Writes what is kept.
    fn poll_written(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = lock(&self.0);
        ready!(out.poll_kept(cx))?;
        Pin::new(&mut out.stream).poll_flush(cx)
    }
}

fn lock<S>(out: &Mutex<Out<S>>) -> MutexGuard<'_, Out<S>> {
    out.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: AsyncWrite + Unpin> Out<S> {
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        (self.kept, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if length >= LONG || self.kept.len() + length > MOST {
            ready!(self.poll_kept(cx))?;
        }
        if length >= LONG {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        if self.kept.capacity() == 0 {
            self.kept.reserve(FIRST);
        }
        bufs.iter().for_each(|buf| self.kept.extend_from_slice(buf));
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Batched<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        lock(&self.0).poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = lock(&self.0);
        ready!(out.poll_kept(cx))?;
        Pin::new(&mut out.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What was written, call by call, as far as there is room.
    #[derive(Debug, Default)]
    struct Peer {
        calls: Vec<Vec<u8>>,
        room: usize,
    }

    impl AsyncWrite for Peer {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = buf.len().min(self.room);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.calls.push(buf[..n].to_vec());
            Poll::Ready(Ok(n))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_short_goes_out_in_one_write_and_what_is_long_behind_it() {
        let cx = &mut Context::from_waker(Waker::noop());
        let (batch, mut stream) = Batch::new(Peer { room: usize::MAX, ..Peer::default() });
        for part in [b"one ", b"two ", b"six "] {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert!(lock(&batch.0).stream.calls.is_empty());
        assert!(batch.poll_written(cx).is_ready());
        assert_eq!(lock(&batch.0).stream.calls, [b"one two six "]);
        assert_eq!(lock(&batch.0).kept.capacity(), 0, "an idle connection keeps no buffer");
        stream.write_all(b"short").await.unwrap();
        stream.write_all(&[b'x'; LONG]).await.unwrap();
        assert_eq!(lock(&batch.0).stream.calls[1..], [b"short".to_vec(), vec![b'x'; LONG]]);
        stream.write_all(b"last").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(lock(&batch.0).stream.calls[3], b"last");
    }

    #[test]
    fn a_peer_that_takes_nothing_is_waited_for() {
        let cx = &mut Context::from_waker(Waker::noop());
        let (batch, mut stream) = Batch::new(Peer::default());
        let mut write = || Pin::new(&mut stream).poll_write(&mut Context::from_waker(Waker::noop()), &[b'x'; 1 << 10]);
        for _ in 0..MOST >> 10 {
            assert!(write().is_ready());
        }
        assert!(write().is_pending() && batch.poll_written(cx).is_pending());
        lock(&batch.0).stream.room = 100;
        assert!(write().is_pending());
        lock(&batch.0).stream.room = usize::MAX;
        assert!(write().is_ready() && batch.poll_written(cx).is_ready());
        let written: usize = lock(&batch.0).stream.calls.iter().map(Vec::len).sum();
        assert_eq!(written, MOST + (1 << 10));
    }
}
