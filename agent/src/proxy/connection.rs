//! One client connection: finds out the protocol, serves requests, drains.
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Notify, time::Instant};

use super::{
    Shared,
    exchange::{self, Connection, ServerName},
    frames::Frames,
    http1::{RequestLines, SLACK, TrailerWriter, Trailers},
    io::{Activity, ClientStream, HEAD_TIMED_OUT},
    proxy_protocol::{self, Head},
    socket::Socket,
    stats::add,
    stream::{self, Relay},
    tenant::Tenant,
    tls::{self, Secured},
    transport::Transport,
    uptake::Streams,
};

/// What an HTTP/2 client says first. Source: RFC 9113 part 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a connection that ends with bytes that nobody reads stays open for the client to read the answer, and how many
/// bytes are thrown away meanwhile. Then it is reset. Units: bytes.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 8 << 20);
/// How often HTTP/2 connections are asked whether they are alive, and how long they may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How much of a response is kept per HTTP/2 stream while the client does not take it. Units: bytes.
const SEND_BUFFER: usize = 64 << 10;
/// How much of requests is taken in over one HTTP/2 connection, and over one stream of it, while the backends do not take it: what
/// a connection may hold in memory, however many streams it has. Units: bytes.
const WINDOWS: (u32, u32) = (1 << 20, 256 << 10);

/// What is known of a connection before its first request.
struct Opened {
    transport: Transport,
    /// What was read already.
    head: Bytes,
    http2: bool,
    tls: Option<ServerName>,
    /// Who the client is, where the PROXY protocol says so.
    client: Option<SocketAddr>,
}

/// What a connection begins with.
enum Opening {
    /// A protocol that requests come in.
    Http(Opened),
    /// Bytes for an endpoint.
    Stream(Relay),
}

/// Reads the head of the PROXY protocol and makes the TLS handshake where a listener wants them, else finds out the protocol. `None`
/// when there is nobody to serve.
async fn open(shared: &Shared, tenant: &Tenant, socket: &Arc<Socket>, local: SocketAddr) -> Option<Opening> {
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
        let tls::Handshaken { stream, server_name, http2 } = match tls::accept(shared, socket, &site).await? {
            Secured::Http(handshaken) => handshaken,
            Secured::Stream(relay) => return Some(Opening::Stream(relay)),
        };
        let transport = Transport::Tls(Arc::clone(socket), stream);
        let tls = Some(ServerName(server_name));
        return Some(Opening::Http(Opened { transport, head: Bytes::new(), http2, tls, client }));
    }
    let head = match tokio::time::timeout(shared.settings.header_timeout, sniff(socket)).await {
        Ok(head) => head?,
        Err(_) => {
            let _ = socket.try_write(HEAD_TIMED_OUT);
            return None;
        }
    };
    let http2 = head.starts_with(PREFACE);
    Some(Opening::Http(Opened { transport: Transport::Plain(Arc::clone(socket)), head, http2, tls: None, client }))
}

/// Serves a connection until it ends, its client is gone or, after the drain began, its requests are done.
pub(super) async fn serve(
    shared: Arc<Shared>,
    tenant: Arc<Tenant>,
    socket: Arc<Socket>,
    peer: SocketAddr,
    local: SocketAddr,
) {
    let opened = tokio::select! {
        opened = open(&shared, &tenant, &socket, local) => opened,
        () = shared.drain.cancelled() => return,
    };
    let Opened { transport, head, http2, tls, client } = match opened {
        Some(Opening::Http(opened)) => opened,
        Some(Opening::Stream(relay)) => return stream::relay(&shared, &socket, relay).await,
        None => return,
    };
    let peer = client.unwrap_or(peer);
    let activity = Arc::new(Activity::default());
    let io = ClientStream::new(transport, head, Arc::clone(&activity), !http2, &shared.settings);
    let connection = Arc::new(Connection {
        shared: Arc::clone(&shared),
        peer,
        local,
        tls,
        activity: Arc::clone(&activity),
        socket: Arc::clone(&socket),
        trailers: Trailers::default(),
        announced: Arc::default(),
        expiry: tenant.expiry(),
        spent: Notify::new(),
        tenant,
    });
    let served = async {
        if http2 {
            serve_http2(&shared, io, connection).await;
        } else {
            serve_http1(&shared, io, connection).await;
        }
        if activity.lingers() && !http2 {
            socket.linger(LINGER.0, LINGER.1).await;
        }
    };
    tokio::select! {
        () = served => {}
        // What is served for it is dropped with the connection: exchanges, their upstream connections, bodies.
        gone = socket.gone(shared.settings.half_closed_timeout) => {
            add(&shared.stats.clients_gone);
            tracing::trace!(%peer, ?gone, "client is gone");
        }
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
    let mut head = BytesMut::with_capacity(PREFACE.len());
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

async fn serve_http1(shared: &Shared, io: ClientStream, connection: Arc<Connection>) {
    let max_head = connection.tenant.max_head(&shared.settings);
    let io = RequestLines::new(io, Arc::clone(&connection.announced), max_head);
    let io = TrailerWriter::new(io, connection.trailers.clone());
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        if let Some(doubt) = connection.announced.announce(&request) {
            request.extensions_mut().insert(doubt);
        }
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(exchange::serve(connection, request).await) }
    });
    let mut server = conn::http1::Builder::new();
    server
        .half_close(true)
        .header_read_timeout(None)
        .timer(TokioTimer::new())
        .max_headers(shared.settings.max_headers)
        .max_buf_size(max_head + SLACK);
    let serving = server.serve_connection(TokioIo::new(io), service).with_upgrades();
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = shared.drain.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "client connection ended");
    }
}

async fn serve_http2(shared: &Shared, io: ClientStream, connection: Arc<Connection>) {
    let activity = Arc::clone(&connection.activity);
    let limits = Arc::clone(&connection.tenant.limits);
    let max_head = connection.tenant.max_head(&shared.settings);
    let spent = Arc::clone(&connection);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(exchange::serve(connection, request).await) }
    });
    let mut server =
        conn::http2::Builder::new(Streams { limit: limits.stream_idle.unwrap_or(shared.settings.stream_idle) });
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(shared.settings.max_streams)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.max_resets.unwrap_or(shared.settings.max_resets))
        .initial_connection_window_size(WINDOWS.0)
        .initial_stream_window_size(WINDOWS.1)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let io = Frames::new(io, PREFACE.len());
    let serving = server.serve_connection(TokioIo::new(io), service);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = async {
            tokio::select! {
                () = shared.drain.cancelled() => {}
                () = idle(shared, &activity) => {}
                () = spent.spent() => {}
            }
        } => {
            serving.as_mut().graceful_shutdown();
            // GOAWAY is answered by a PING of hyper's own; a client that does not answer is not waited for.
            loop {
                let grace = shared.settings.header_timeout;
                match tokio::time::timeout(grace, &mut serving).await {
                    Ok(result) => break result,
                    Err(_) if activity.in_flight() == 0 => return,
                    Err(_) => {}
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "client connection ended");
    }
}

/// Returns when a connection had no request for the idle timeout.
async fn idle(shared: &Shared, activity: &Activity) {
    let limit = shared.settings.idle_timeout;
    let mut seen = activity.begun();
    let mut since = Instant::now();
    let mut tick = tokio::time::interval((limit / 8).max(Duration::from_millis(10)));
    loop {
        tick.tick().await;
        if activity.in_flight() > 0 || activity.begun() != seen {
            seen = activity.begun();
            since = Instant::now();
        } else if since.elapsed() >= limit {
            return;
        }
    }
}
