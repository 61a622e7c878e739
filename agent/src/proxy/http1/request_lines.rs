//! A client's stream whose request lines hyper can read.
//!
//! The `http` crate takes `<`, `>` and `"` in no query, `<`, `>` and the backtick in no path, and hyper answers 400 without
//! asking anybody. nginx, HAProxy and Envoy take such targets and send them on as they are. Here they are escaped before
//! hyper reads them, which is what they mean (URL Standard, path and query state): servers that read RFC 3986 to the letter
//! get a target that they can read, and rules see what a client that escapes would have sent.
//!
//! # Design
//! - Only targets that begin with `/`, and what is before a fragment. An absolute target has an authority, where nothing is
//!   to be escaped; only proxies of clients get those.
//! - hyper is given one message at a time ([`super::boundary`]); what else was read is held, at most one read of hyper's.
//! - Bytes are read into hyper's own buffer and copied only where something is escaped, or held.
//! - The limit of a head counts what the client sent: hyper's own is higher by [`SLACK`]. Beyond the limit hyper is fed
//!   until it sees its own limit met, and answers 431 in its turn.
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::boundary::{Announced, Fields, Part};
use crate::model::http::escape;

/// How many bytes of a head are escaped. A request line with more of them is left as it is, and refused by hyper.
const MOST_ESCAPES: usize = 1024;

/// How much longer than what the client sent a head may be for hyper. Units: bytes.
pub(in crate::proxy) const SLACK: usize = 2 * MOST_ESCAPES + 1;

/// The stream of a client that speaks HTTP/1.1.
#[derive(Debug)]
pub(in crate::proxy) struct RequestLines<S> {
    stream: S,
    announced: Arc<Announced>,
    part: Part,
    /// What hyper gets next.
    ready: BytesMut,
    /// What was read behind it, as it came.
    held: BytesMut,
    /// How long the head is so far, as the client sent it.
    head: usize,
    max_head: usize,
    escapes: usize,
    fields: Fields,
}

impl<S> RequestLines<S> {
    /// The stream of a connection that begins here. `max_head`: how long a head may be, in bytes.
    #[must_use]
    pub(in crate::proxy) fn new(stream: S, announced: Arc<Announced>, max_head: usize) -> Self {
        let (ready, held, fields) = (BytesMut::new(), BytesMut::new(), Fields::default());
        Self { stream, announced, part: Part::Start, ready, held, head: 0, max_head, escapes: 0, fields }
    }

    /// How many of these bytes hyper gets as they are.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        if self.part == Part::Foreign {
            return bytes.len();
        }
        let in_head = self.part.is_head();
        let room = if in_head { self.max_head.saturating_sub(self.head) } else { bytes.len() };
        let passed = self.part.pass(&bytes[..room.min(bytes.len())], &mut self.fields);
        if in_head {
            self.head += passed;
        }
        match self.part {
            Part::HeadEnd => self.announced.found(self.fields),
            Part::Foreign => self.announced.lose(),
            _ => {}
        }
        passed
    }

    /// Makes ready what is held, to the next boundary.
    fn escape_held(&mut self) {
        while !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            let passed = self.pass(&held);
            self.held = held;
            self.ready.unsplit(self.held.split_to(passed));
            match self.held.first() {
                Some(&byte) if self.part.escapes(byte) => {
                    if self.escapes == MOST_ESCAPES {
                        self.part = Part::Foreign;
                        self.announced.lose();
                        continue;
                    }
                    self.escapes += 1;
                    self.head += 1;
                    self.ready.extend_from_slice(&escape::encode(byte));
                    self.held.advance(1);
                }
                _ => return,
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RequestLines<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.ready.is_empty() {
                let n = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready.split_to(n));
                return Poll::Ready(Ok(()));
            }
            if this.announced.is_switched() {
                this.part = Part::Foreign;
            } else if this.part == Part::HeadEnd {
                this.part = this.part.asked(&this.announced);
                (this.head, this.escapes, this.fields) = (0, 0, Fields::default());
                if this.part == Part::Foreign {
                    this.announced.lose();
                }
            }
            if this.part.is_head() && this.head >= this.max_head {
                let room = buf.remaining();
                buf.put_bytes(b'a', room);
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                this.escape_held();
                continue;
            }
            let before = buf.filled().len();
            // Here nothing is held, and what was ready hyper has.
            this.announced.set_between(this.part == Part::Start);
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let read = &buf.filled()[before..];
            let passed = this.pass(read);
            this.held.extend_from_slice(&read[passed..]);
            let end = read.is_empty();
            buf.set_filled(before + passed);
            if end || passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestLines<S> {
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
mod tests;
