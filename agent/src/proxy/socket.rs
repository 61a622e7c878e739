//! A TCP connection with the place that it takes among the bounded number, and word of its peer's end.
//!
//! hyper reads a connection only while it wants bytes from it. Within a message of which everything has come it does not, so a
//! client that resets is not noticed before something is written to it, which for a quiet stream is never. Here the end is
//! taken from the kernel's readiness, beside whoever reads: [`Socket::gone`].
//!
//! # Design
//! - The socket is shared, and whoever holds it holds its place: stream, watch, tunnel. The descriptor and the place
//!   are given back together.
//! - FIN alone is not the end: the peer has said all and may still listen (checklist H41). It cannot be told
//!   from a peer that has closed both sides until something is written to it, so silence after FIN is bounded.
//! - A peer that vanishes without FIN or RST is found by TCP itself: keepalive while nothing is to be sent,
//!   `TCP_USER_TIMEOUT` otherwise. Accepted sockets have those of the listening one.
use std::{
    borrow::Borrow,
    io,
    pin::Pin,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use super::{
    bounds::{Place, Share},
    release::Ending,
    stats::{Counted, Stats, add},
};

/// How long nothing may come from a peer before it is asked whether it is there, and how often it is asked.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(15));
/// How long a peer may leave bytes or questions without answer, or its window shut. Then the kernel gives the connection up.
///
/// Not below `Settings::write_timeout`: with this option set, Linux counts a window that is shut as well, though its peer
/// answers. Source: tcp(7), `tcp_probe_timer` in net/ipv4/tcp_timer.c.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Has the kernel find out whether the peer is alive, and no byte wait for others.
///
/// # Errors
/// The kernel refuses.
pub(super) fn configure(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE.0).with_interval(KEEPALIVE.1))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// What a socket holds on to until it is closed.
#[derive(Debug)]
#[expect(dead_code, reason = "held")]
pub(super) struct Held {
    /// That it is counted as open.
    pub counted: Counted,
    /// Its part of what its Gateway or its endpoint may have.
    pub share: Share,
    /// Its place among all. The last to be dropped: who waits for it, on another worker, then finds the part free as well.
    pub place: Place,
}

/// A connection. The descriptor is closed, and the place free, when the last that shares it drops it.
#[derive(Debug)]
pub(super) struct Socket {
    // First, so that it is closed before its place is given away.
    stream: TcpStream,
    moved: AtomicU64,
    written: AtomicU64,
    /// Of a client's connection.
    ending: Option<Ending>,
    _held: Held,
}

/// How a peer went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gone {
    /// It reset the connection, or the kernel gave it up.
    Reset,
    /// It sent FIN, and then nothing moved for too long.
    Silent,
    /// It is there still: its frontend is gone, and so is the time to say goodbye.
    Released,
}

impl Gone {
    /// Counts a client that is gone; not one that was left by us.
    pub(super) fn count(self, stats: &Stats) {
        if self != Self::Released {
            add(&stats.clients_gone);
        }
    }
}

impl Socket {
    /// A connection that holds this.
    #[must_use]
    pub(super) fn new(stream: TcpStream, held: Held) -> Self {
        Self { stream, moved: AtomicU64::new(0), written: AtomicU64::new(0), ending: None, _held: held }
    }

    /// The same of a client, which is told by this.
    #[must_use]
    pub(super) fn ending_by(self, ending: Ending) -> Self {
        Self { ending: Some(ending), ..self }
    }

    /// Whether no further request is wanted from a client.
    #[must_use]
    pub(super) fn is_ending(&self) -> bool {
        self.ending.as_ref().is_some_and(Ending::has_begun)
    }

    /// Returns when no further request is wanted from a client: how long what is on its way is waited for.
    pub(super) async fn ends(&self) -> Duration {
        match &self.ending {
            Some(ending) => {
                ending.begun().await;
                ending.last_call()
            }
            None => std::future::pending().await,
        }
    }

    /// Returns when the peer is gone for good; after FIN, when no byte has moved in either direction for `half_closed`. So it does when
    /// a client's frontend is gone, after the time that it has then.
    pub(super) async fn gone(&self, half_closed: Duration) -> Gone {
        let released = async {
            match &self.ending {
                Some(ending) => ending.over().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            gone = self.left(half_closed) => gone,
            () = released => Gone::Released,
        }
    }

    async fn left(&self, half_closed: Duration) -> Gone {
        // PRIORITY stands for "closed for reading" here, without "readable": no socket of ours asks for urgent data.
        match self.stream.ready(Interest::PRIORITY | Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => {}
            Ok(_) | Err(_) => return Gone::Reset,
        }
        loop {
            let before = self.moved.load(Relaxed);
            if tokio::time::timeout(half_closed, self.stream.ready(Interest::ERROR)).await.is_ok() {
                return Gone::Reset;
            }
            if self.moved.load(Relaxed) == before {
                return Gone::Silent;
            }
        }
    }

    /// Returns when there are bytes, or the end.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.stream.readable().await
    }

    /// Waits for bytes; 0 at the end.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn read(&self, into: &mut (impl bytes::BufMut + Send)) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.stream.try_read_buf(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return self.count(result),
            }
        }
    }

    /// Says the last word and throws away what still comes, until the peer has closed too or the bounds are met.
    pub(super) async fn linger(&self, limit: Duration, most: usize) {
        let read = async {
            let (mut left, mut chunk) = (most, bytes::BytesMut::with_capacity(16 << 10));
            while let Ok(n) = self.read(&mut chunk).await
                && n > 0
                && n <= left
            {
                left -= n;
                chunk.clear();
            }
        };
        if self.shutdown().is_ok() {
            let _ = tokio::time::timeout(limit, read).await;
        }
    }

    /// Writes what the kernel takes at once.
    ///
    /// # Errors
    /// It takes nothing, or the connection broke.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.count_written(self.stream.try_write(bytes))
    }

    /// Whether a byte has come or gone.
    pub(super) fn has_moved(&self) -> bool {
        self.moved.load(Relaxed) > 0
    }

    /// How many bytes the kernel has taken.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.read_now(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(self.count(result).map(drop)),
            }
        }
    }

    /// Reads once. A short read has emptied the socket: the readiness seen before it is over, which saves the next
    /// read a system call. What comes meanwhile is another readiness and stays.
    fn read_now(&self, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        let room = buf.remaining();
        let mut short = None;
        let result = self.stream.try_io(Interest::READABLE, || match self.stream.try_read_buf(buf) {
            Ok(n) if 0 < n && n < room => {
                short = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            result => result,
        });
        short.map_or(result, Ok)
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            // One piece goes by send(2), which costs the kernel less than writev(2).
            let written = match bufs {
                [one] => self.stream.try_write(one),
                many => self.stream.try_write_vectored(many),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(self.count_written(result)),
            }
        }
    }

    pub(super) fn shutdown(&self) -> io::Result<()> {
        match SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    fn count_written(&self, result: io::Result<usize>) -> io::Result<usize> {
        if let Ok(n) = result {
            self.written.fetch_add(n as u64, Relaxed);
        }
        self.count(result)
    }

    fn count(&self, result: io::Result<usize>) -> io::Result<usize> {
        if let Ok(n) = result {
            self.moved.fetch_add(n as u64, Relaxed);
        }
        result
    }
}

/// A socket as libraries want it: owned, or shared with whoever watches it.
#[derive(Debug)]
pub(super) struct SocketStream<S>(pub(super) S);

/// The stream of a client, below TLS.
pub(super) type ClientSocket = SocketStream<Arc<Socket>>;

impl<S: Borrow<Socket> + Unpin> AsyncRead for SocketStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.borrow().poll_read(cx, buf)
    }
}

impl<S: Borrow<Socket> + Unpin> AsyncWrite for SocketStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow().poll_write(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow().shutdown())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_find_dead_peers_as_the_listening_one_does() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        configure(&SockRef::from(&listener)).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let accepted = SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap() && accepted.tcp_nodelay().unwrap());
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE.0);
        assert_eq!(accepted.tcp_keepalive_interval().unwrap(), KEEPALIVE.1);
        assert_eq!(accepted.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }
}
