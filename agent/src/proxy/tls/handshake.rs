//! One handshake: the ClientHello is read, a listener chosen by it, the rest is the library's.
use std::{io, sync::Arc};

use bytes::BytesMut;
use rustls::server::{Accepted, Acceptor};
use tokio_rustls::server as tokio_server;

use super::{Speaks, TlsListener, client_hello};
use crate::proxy::{
    Shared,
    proxy_protocol::Source,
    router::{SecuredWay, Site},
    socket::{ClientSocket, Socket, SocketStream},
    stats::add,
    stream::{self, Client, Relay},
};

/// How much is read at a time. Units: bytes.
const CHUNK: usize = 4 << 10;
/// How large a ClientHello may be, its records' heads included: with every extension and a post-quantum key share it has some 2 KiB.
/// Beyond it the connection is closed. Units: bytes.
const HELLO: usize = 32 << 10;
/// A fatal alert `unrecognized_name`. Source: RFC 8446 part 5.1 and 6, RFC 6066 part 3.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

/// The stream of a client that speaks TLS.
pub(in crate::proxy) type TlsStream = tokio_server::TlsStream<ClientSocket>;

/// A client whose handshake is done.
pub(in crate::proxy) struct Handshaken {
    /// Its stream.
    pub stream: Box<TlsStream>,
    /// The name that it asked for, lower case.
    pub server_name: Option<Box<str>>,
    /// Whether it speaks HTTP/2.
    pub http2: bool,
    /// The version of TLS.
    pub version: &'static str,
}

/// What a client's ClientHello has led to.
pub(in crate::proxy) enum Secured {
    /// HTTP, under TLS that is terminated here.
    Http(Handshaken),
    /// A stream, for which an endpoint is connected.
    Stream(Relay),
}

/// Makes a handshake, or finds an endpoint for one that is not ours. `None` where there is neither: the client is gone, was refused,
/// or has taken too long.
pub(in crate::proxy) async fn accept(
    shared: &Shared,
    socket: &Arc<Socket>,
    site: &Site,
    source: Source,
) -> Option<Secured> {
    let stats = &shared.stats;
    let (handshake, evicts) = shared.handshakes.begin();
    if evicts {
        add(&stats.tls_evicted);
    }
    let made = tokio::select! {
        made = tokio::time::timeout(shared.settings.handshake_timeout, make(shared, socket, site, source)) => made,
        () = handshake.ended().cancelled() => return None,
    };
    match made {
        Ok(Ok(secured)) => {
            let stream = match &secured {
                Secured::Http(handshaken) => Some(&handshaken.stream),
                Secured::Stream(Relay { client: Client::Tls(stream), endpoint: _ }) => Some(stream),
                Secured::Stream(Relay { client: Client::Raw(..), endpoint: _ }) => None,
            };
            if let Some(stream) = stream {
                add(&stats.tls_handshakes);
                if is_resumed(stream) {
                    add(&stats.tls_resumed);
                }
            }
            Some(secured)
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

fn is_resumed(stream: &TlsStream) -> bool {
    let (_, session) = stream.get_ref();
    session.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
}

async fn make(shared: &Shared, socket: &Arc<Socket>, site: &Site, source: Source) -> io::Result<Secured> {
    let (accepted, records) = hello(socket).await?;
    let server_name: Option<Box<str>> =
        accepted.client_hello().server_name().map(|name| name.trim_end_matches('.').into());
    let Some(way) = site.secured_way(server_name.as_deref()) else {
        add(&shared.stats.tls_unknown_names);
        if !site.has_streams() {
            // The kernel has room for seven bytes, and who does not get them sees the end.
            let _ = socket.try_write(UNRECOGNIZED_NAME);
        }
        let _ = socket.shutdown();
        return Err(io::Error::other("no listener has the server name"));
    };
    let stream = SocketStream(Arc::clone(socket));
    match way {
        SecuredWay::Http(listener) => {
            let stream = Box::new(terminate(listener, accepted, &records, stream)?.await?);
            let http2 = stream.get_ref().1.alpn_protocol() == Some(super::ALPN[0]);
            let version = match stream.get_ref().1.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            };
            Ok(Secured::Http(Handshaken { stream, server_name, http2, version }))
        }
        SecuredWay::Stream { gateway, tls, terminates, shares } => {
            let Some(shares) = shares else { return Err(io::Error::other("no route has the server name")) };
            let speaks = if terminates { Speaks::Stream } else { Speaks::Raw };
            let Some(endpoint) = stream::connect(shared, gateway, shares, (speaks, source)).await else {
                return Err(io::Error::other("no endpoint of the route can be connected"));
            };
            let client = match tls {
                Some(listener) => Client::Tls(Box::new(terminate(listener, accepted, &records, stream)?.await?)),
                None if terminates => return Err(io::Error::other("TLS cannot be terminated")),
                None => Client::Raw(stream, records.freeze()),
            };
            Ok(Secured::Stream(Relay { client, endpoint }))
        }
    }
}

/// The rest of a handshake.
fn terminate(
    listener: &TlsListener,
    accepted: Accepted,
    records: &[u8],
    stream: ClientSocket,
) -> io::Result<tokio_rustls::Accept<ClientSocket>> {
    let config = listener
        .config(client_hello::offers_tls13(records))
        .ok_or_else(|| io::Error::other("the listener has no version of TLS"))?;
    Ok(tokio_rustls::StartHandshake::from_parts(accepted, stream).into_stream(config))
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
