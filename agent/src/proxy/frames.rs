//! The frames of an HTTP/2 connection, counted below `h2`.
//!
//! `h2` bounds what costs memory: streams, resets, continuations, empty DATA. It answers PING and SETTINGS, and reads PRIORITY and
//! frames of kinds that it does not know, for as long as a client sends them. These are counted here, and whoever sends more
//! than anybody needs is closed.
//!
//! # Design
//! - A bucket, filled with time: a gRPC client that measures its path sends a PING for each round trip for some seconds, one that
//!   asks whether we are alive one in a while.
//! - Lengths and kinds are in clear text in the head of each frame; nothing else is looked at, and the bytes pass as they are.
//!
//! Source: RFC 9113 part 4.1 and 10.5; CVE-2019-9512, 9515.
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// How many such frames a client may send at once. Beyond it the connection is closed.
const BURST: u64 = 10_000;
/// How many more it may send each second.
const RATE: u64 = 100;
/// How long the head of a frame is. Units: bytes.
const HEAD: usize = 9;

/// Whether frames of a kind are counted: all but DATA, HEADERS, RST_STREAM, PUSH_PROMISE, GOAWAY, WINDOW_UPDATE and CONTINUATION,
/// which `h2` bounds or streams need.
fn is_counted(kind: u8) -> bool {
    !matches!(kind, 0 | 1 | 3 | 5 | 7 | 8 | 9)
}

/// The stream of a client that speaks HTTP/2.
#[derive(Debug)]
pub(super) struct Frames<S> {
    stream: S,
    /// Bytes before the next head: the rest of the preface at first, then of payloads.
    skip: usize,
    head: [u8; HEAD],
    /// How much of it is there.
    have: usize,
    left: u64,
    filled: Instant,
}

impl<S> Frames<S> {
    /// A stream that begins with a preface of so many bytes.
    #[must_use]
    pub(super) fn new(stream: S, preface: usize) -> Self {
        Self { stream, skip: preface, head: [0; HEAD], have: 0, left: BURST, filled: Instant::now() }
    }

    /// Looks at bytes that came. Cost: a step for each frame.
    ///
    /// # Errors
    /// There are too many frames of the kinds that are counted.
    fn look(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have < HEAD {
                return Ok(());
            }
            let [a, b, c, kind, ..] = self.head;
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            self.have = 0;
            if is_counted(kind) {
                self.take_one()?;
            }
        }
    }

    fn take_one(&mut self) -> io::Result<()> {
        if self.left == 0 {
            let seconds = self.filled.elapsed().as_secs();
            self.left = seconds.saturating_mul(RATE).min(BURST);
            self.filled = Instant::now();
        }
        self.left = self.left.checked_sub(1).ok_or(io::ErrorKind::InvalidData)?;
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        Poll::Ready(this.look(&buf.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(kind: u8, count: u64, payload: usize) -> Vec<u8> {
        let length = u8::try_from(payload).unwrap();
        let one = [&[0, 0, length, kind, 0, 0, 0, 0, 0][..], &vec![6; payload]].concat();
        one.repeat(usize::try_from(count).unwrap())
    }

    #[test]
    fn frames_of_counted_kinds_have_a_bound_however_they_are_cut() {
        for cut in [1, 8, 17, 4096] {
            for (kind, count, fits) in [
                (6, BURST, true),
                (6, BURST + 1, false),
                (4, BURST + 1, false),
                (2, BURST + 1, false),
                (77, BURST + 1, false),
            ] {
                let mut stream = Frames::new((), 3);
                let bytes = [b"PRI".to_vec(), frames(0, 100, 200), frames(kind, count, 8)].concat();
                assert_eq!(bytes.chunks(cut).all(|chunk| stream.look(chunk).is_ok()), fits, "{kind} {count} {cut}");
            }
        }
        for kind in [0, 1, 3, 8, 9] {
            assert!(Frames::new((), 0).look(&frames(kind, 2 * BURST, 0)).is_ok(), "{kind}");
        }
    }

    #[test]
    fn the_bucket_is_filled_with_time() {
        let mut stream = Frames::new((), 0);
        stream.look(&frames(6, BURST, 8)).unwrap();
        stream.filled = stream.filled.checked_sub(std::time::Duration::from_secs(2)).unwrap();
        assert!(stream.look(&frames(6, 2 * RATE, 8)).is_ok() && stream.look(&frames(6, 1, 8)).is_err());
    }
}
