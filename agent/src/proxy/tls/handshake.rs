//! One handshake: the ClientHello is read, a listener chosen by it, the rest is the library's.
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server as tokio_server;

use super::client_hello;
use crate::proxy::{Shared, router::Site, socket::Socket, stats::add};

/// How much is read at a time. Units: bytes.
const CHUNK: usize = 4 << 10;
/// How large a ClientHello may be, its records' heads included: with every extension and a post-quantum key share it has some 2 KiB.
/// Beyond it the connection is closed. Units: bytes.
const HELLO: usize = 32 << 10;
/// A fatal alert `unrecognized_name`. Source: RFC 8446 part 5.1 and 6, RFC 6066 part 3.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// The stream of a client that speaks TLS.
pub(in crate::proxy) type TlsStream = tokio_server::TlsStream<SocketStream>;

/// A client whose handshake is done.
pub(in crate::proxy) struct Handshaken {
    /// Its stream.
    pub stream: Box<TlsStream>,
    /// The name that it asked for, lower case.
    pub server_name: Option<Box<str>>,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
}

/// Makes a handshake. `None` where there is none: the client is gone, was refused, or has taken too long.
pub(in crate::proxy) async fn accept(shared: &Shared, socket: &Arc<Socket>, site: &Site) -> Option<Handshaken> {
    let stats = &shared.stats;
    let (handshake, evicts) = shared.handshakes.begin();
    if evicts {
        add(&stats.tls_evicted);
    }
    let made = tokio::select! {
        made = tokio::time::timeout(shared.settings.handshake_timeout, make(shared, socket, site)) => made,
        () = handshake.evicted() => return None,
    };
    match made {
        Ok(Ok(handshaken)) => {
            add(&stats.tls_handshakes);
            if is_resumed(&handshaken) {
                add(&stats.tls_resumed);
            }
            Some(handshaken)
        }
        Ok(Err(error)) => {
            add(&stats.tls_failures);
            tracing::trace!(%error, "no TLS handshake");
            None
        }
        Err(_) => {
            add(&stats.tls_timeouts);
            None
        }
    }
}

fn is_resumed(handshaken: &Handshaken) -> bool {
    let (_, session) = handshaken.stream.get_ref();
    session.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
}

async fn make(shared: &Shared, socket: &Arc<Socket>, site: &Site) -> io::Result<Handshaken> {
    let (accepted, records) = hello(socket).await?;
    let offers_tls13 = client_hello::offers_tls13(&records);
    drop(records);
    let hello = accepted.client_hello();
    let server_name = hello.server_name().map(|name| name.trim_end_matches('.').into());
    let Some(listener) = site.tls_listener(server_name.as_deref()) else {
        add(&shared.stats.tls_unknown_names);
        // The kernel has room for seven bytes, and who does not get them sees the end.
        let _ = socket.try_write(UNRECOGNIZED_NAME);
        let _ = socket.shutdown();
        return Err(io::Error::other("no listener has the server name"));
    };
    let config = listener.config(offers_tls13).ok_or_else(|| io::Error::other("the listener has no version of TLS"))?;
    let stream = tokio_rustls::StartHandshake::from_parts(accepted, SocketStream(Arc::clone(socket)));
    let stream = stream.into_stream(config).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(super::ALPN[0]);
    Ok(Handshaken { stream: Box::new(stream), server_name, http2 })
}

/// Reads the ClientHello; also as it came, in records.
///
/// # Errors
/// The client has gone, or what it sends is none; then it was told.
async fn hello(socket: &Socket) -> io::Result<(Accepted, BytesMut)> {
    let mut acceptor = Acceptor::default();
    let mut records = BytesMut::new();
    loop {
        records.reserve(CHUNK);
        let before = records.len();
        if socket.read(&mut records).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if records.len() > HELLO {
            return Err(io::Error::other("the ClientHello is too large"));
        }
        let mut left = &records[before..];
        while !left.is_empty() {
            acceptor.read_tls(&mut left)?;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((accepted, records)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut bytes = Vec::new();
                let _ = alert.write_all(&mut bytes);
                let _ = socket.try_write(&bytes);
                let _ = socket.shutdown();
                return Err(io::Error::other(error));
            }
        }
    }
}

/// A socket as the library wants it.
#[derive(Debug)]
pub(in crate::proxy) struct SocketStream(Arc<Socket>);

impl AsyncRead for SocketStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for SocketStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown())
    }
}
