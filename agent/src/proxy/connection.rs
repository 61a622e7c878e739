//! One client connection: finds out the protocol, serves requests, drains.
mod http1;
mod http2;

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::Either;
use tokio::sync::Notify;

pub(super) use http2::{SEND_BUFFER, STREAM_WINDOW};

use super::{
    Shared,
    exchange::{Connection, Secure},
    headers::Ends,
    held::Room,
    http1::{Announced, Trailers},
    io::{Activity, ClientStream, HEAD_TIMED_OUT},
    own::Own,
    proxy_protocol::{self, Head, Source},
    request::Scheme,
    seldom::beside,
    socket::Socket,
    stream::{self, Relay},
    tenant::Tenant,
    tls::{self, Secured},
    transport::Transport,
};

/// What an HTTP/2 client says first. Source: RFC 9113 part 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much is read at first: most requests as a whole, which saves the second read. Units: bytes.
const FIRST: usize = 2 << 10;
/// How long a connection that ends with bytes that nobody reads stays open for the client to read the answer, and how many
/// bytes are thrown away meanwhile. Then it is reset. Units: bytes.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 8 << 20);

/// What is known of a connection before its first request.
struct Opened {
    transport: Transport,
    /// What was read already.
    head: Bytes,
    http2: bool,
    tls: Option<Secure>,
    /// Who the client is, where the PROXY protocol says so.
    client: Option<SocketAddr>,
}

/// What a connection begins with.
enum Opening {
    /// A protocol that requests come in.
    Http(Box<Opened>),
    /// Bytes for an endpoint.
    Stream(Box<Relay>),
}

/// Reads the head of the PROXY protocol and makes the TLS handshake where a listener wants them, else finds out the protocol. `None`
/// when there is nobody to serve.
async fn open(
    shared: &Shared,
    tenant: &Tenant,
    socket: &Arc<Socket>,
    peer: SocketAddr,
    local: SocketAddr,
) -> Option<Opening> {
    let site = shared.table.load().site(local).map(Arc::clone)?;
    let client = if tenant.limits.proxy_ports.contains(&local.port()) {
        match tokio::time::timeout(shared.settings.header_timeout, proxied(socket)).await {
            Ok(client) => client?,
            Err(_) => return None,
        }
    } else {
        None
    };
    if site.is_secured() {
        let source = Source { client: client.unwrap_or(peer), local };
        let tls::Handshaken { stream, server_name, http2, version } =
            match tls::accept(shared, socket, &site, source).await? {
                Secured::Http(handshaken) => handshaken,
                Secured::Stream(relay) => return Some(Opening::Stream(Box::new(relay))),
            };
        let transport = Transport::tls(socket, stream);
        let tls = Some(Secure { name: server_name, version });
        return Some(Opening::Http(Box::new(Opened { transport, head: Bytes::new(), http2, tls, client })));
    }
    let head = match tokio::time::timeout(shared.settings.header_timeout, sniff(socket)).await {
        Ok(head) => head?,
        Err(_) => {
            let _ = socket.try_write(HEAD_TIMED_OUT);
            return None;
        }
    };
    let http2 = head.starts_with(PREFACE);
    let transport = Transport::plain(socket);
    Some(Opening::Http(Box::new(Opened { transport, head, http2, tls: None, client })))
}

/// Serves a connection until it ends, its client is gone or, after the drain began, its requests are done.
pub(super) async fn serve(
    shared: Arc<Shared>,
    (tenant, room): (Arc<Tenant>, Room),
    socket: Arc<Socket>,
    peer: SocketAddr,
    local: SocketAddr,
) {
    // Each part in memory of its own, which goes with it: this task is all that an idle connection has.
    let opened = tokio::select! {
        biased;
        opened = Box::pin(open(&shared, &tenant, &socket, peer, local)) => opened,
        () = Box::pin(unspoken(&socket)) => return,
    };
    let Opened { transport, head, http2, tls, client } = match opened {
        Some(Opening::Http(opened)) => *opened,
        Some(Opening::Stream(relay)) => return Box::pin(stream::relay(&shared, &socket, *relay)).await,
        None => return,
    };
    let peer = client.unwrap_or(peer);
    let activity = Arc::new(Activity::default());
    let announced: Arc<Announced> = Arc::default();
    let watched = (!http2).then(|| Arc::clone(&announced));
    let io = ClientStream::new(transport, head, Arc::clone(&activity), watched, &shared.settings, room.clone());
    let connection = Arc::new(Connection {
        shared: Arc::clone(&shared),
        ends: Ends::new(peer, local, if tls.is_some() { Scheme::Https } else { Scheme::Http }),
        tls,
        activity: Arc::clone(&activity),
        socket: Arc::clone(&socket),
        trailers: Trailers::default(),
        announced,
        expiry: tenant.expiry(),
        room,
        own: Own::default(),
        spent: Notify::new(),
        tenant,
    });
    let served = async {
        if http2 {
            Box::pin(http2::serve(&shared, io, connection)).await;
        } else {
            http1::serve(&shared, io, connection).await;
        }
        if activity.lingers() && !http2 {
            Box::pin(socket.linger(LINGER.0, LINGER.1)).await;
        }
    };
    // What is served for it is dropped with the connection: exchanges, their upstream connections, bodies.
    let gone = socket.gone(shared.settings.half_closed_timeout);
    if let Either::Right(gone) = beside(pin!(served), pin!(gone)).await {
        gone.count(&shared.stats);
        tracing::trace!(%peer, ?gone, "client is gone");
    }
}

/// Returns when the proxy or the frontend ends and a client has said nothing, and had its time for that: whoever has begun to speak is
/// heard.
async fn unspoken(socket: &Socket) {
    tokio::time::sleep(socket.ends().await).await;
    if socket.has_moved() {
        std::future::pending::<()>().await;
    }
}

/// Reads the head of the PROXY protocol, and no byte behind it; the client, if it names one. `None` when there is no head.
async fn proxied(socket: &Socket) -> Option<Option<SocketAddr>> {
    let mut bytes = BytesMut::new();
    loop {
        match proxy_protocol::read(&bytes) {
            Head::Whole(_, client) => return Some(client),
            Head::Foreign => return None,
            Head::Partial => {
                let most = proxy_protocol::wants(&bytes);
                if socket.read(&mut (&mut bytes).limit(most)).await.ok()? == 0 {
                    return None;
                }
            }
        }
    }
}

/// Reads until the protocol is certain. `None` when the client leaves without a byte.
async fn sniff(socket: &Socket) -> Option<Bytes> {
    let mut head = BytesMut::with_capacity(FIRST);
    loop {
        let n = socket.read(&mut head).await.ok()?;
        if n == 0 {
            return (!head.is_empty()).then(|| head.freeze());
        }
        let known = head.len().min(PREFACE.len());
        if head[..known] != PREFACE[..known] || known == PREFACE.len() {
            return Some(head.freeze());
        }
    }
}
