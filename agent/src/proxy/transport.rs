//! The bytes of a connection, a client's or an endpoint's, in clear text or under TLS.
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    socket::{ClientSocket, Socket, SocketStream},
    tls::{BackendStream, HTTP2, TlsStream},
};

/// A stream in clear text, or one under TLS.
#[derive(Debug)]
pub(super) enum MaybeTls<P, T> {
    /// Its bytes as they are.
    Plain(P),
    /// Under TLS.
    Tls(Box<T>),
}

/// The stream of a connection to an endpoint.
pub(super) type UpstreamStream = MaybeTls<SocketStream<Socket>, BackendStream>;

impl UpstreamStream {
    /// Whether the endpoint has chosen HTTP/2 by ALPN.
    pub(super) fn is_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(HTTP2),
        }
    }
}

/// How a client's bytes are read and written: its stream, and the socket underneath.
#[derive(Debug)]
pub(super) struct Transport {
    socket: Arc<Socket>,
    stream: MaybeTls<ClientSocket, TlsStream>,
}

impl Transport {
    /// As they are.
    pub(super) fn plain(socket: &Arc<Socket>) -> Self {
        Self { socket: Arc::clone(socket), stream: MaybeTls::Plain(SocketStream(Arc::clone(socket))) }
    }

    /// Under TLS, over that socket.
    pub(super) fn tls(socket: &Arc<Socket>, stream: Box<TlsStream>) -> Self {
        Self { socket: Arc::clone(socket), stream: MaybeTls::Tls(stream) }
    }

    /// The socket underneath.
    pub(super) fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// What is read and written.
    pub(super) fn stream(&mut self) -> Pin<&mut MaybeTls<ClientSocket, TlsStream>> {
        Pin::new(&mut self.stream)
    }

    /// Writes what can be written at once; the rest is lost.
    pub(super) fn write_now(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        match &mut self.stream {
            MaybeTls::Plain(_) => drop(self.socket.try_write(bytes)),
            MaybeTls::Tls(stream) => {
                let _ = Pin::new(&mut **stream).poll_write(cx, bytes);
                let _ = Pin::new(&mut **stream).poll_flush(cx);
            }
        }
    }
}

impl<P: AsyncRead + Unpin, T: AsyncRead + Unpin> AsyncRead for MaybeTls<P, T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
        }
    }
}

impl<P: AsyncWrite + Unpin, T: AsyncWrite + Unpin> AsyncWrite for MaybeTls<P, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
