//! One client connection: finds out the protocol, serves requests, drains.
use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::Instant;

use super::{
    Shared,
    exchange::{self, Connection, ServerName},
    http1::{Announced, RequestLines, SLACK, TrailerWriter, Trailers},
    io::{Activity, ClientStream, HEAD_TIMED_OUT},
    socket::Socket,
    stats::add,
    stream::{self, Relay},
    tls::{self, Secured},
    transport::Transport,
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

/// What is known of a connection before its first request.
struct Opened {
    transport: Transport,
    /// What was read already.
    head: Bytes,
    http2: bool,
    tls: Option<ServerName>,
}

/// What a connection begins with.
enum Opening {
    /// A protocol that requests come in.
    Http(Opened),
    /// Bytes for an endpoint.
    Stream(Relay),
}

/// Makes the TLS handshake where a listener wants one, else finds out the protocol. `None` when there is nobody to serve.
async fn open(shared: &Shared, socket: &Arc<Socket>, local: SocketAddr) -> Option<Opening> {
    let site = shared.table.load().site(local).map(Arc::clone)?;
    if site.is_secured() {
        let tls::Handshaken { stream, server_name, http2 } = match tls::accept(shared, socket, &site).await? {
            Secured::Http(handshaken) => handshaken,
            Secured::Stream(relay) => return Some(Opening::Stream(relay)),
        };
        let transport = Transport::Tls(Arc::clone(socket), stream);
        let tls = Some(ServerName(server_name));
        return Some(Opening::Http(Opened { transport, head: Bytes::new(), http2, tls }));
    }
    let head = match tokio::time::timeout(shared.settings.header_timeout, sniff(socket)).await {
        Ok(head) => head?,
        Err(_) => {
            let _ = socket.try_write(HEAD_TIMED_OUT);
            return None;
        }
    };
    let http2 = head.starts_with(PREFACE);
    Some(Opening::Http(Opened { transport: Transport::Plain(Arc::clone(socket)), head, http2, tls: None }))
}

/// Serves a connection until it ends, its client is gone or, after the drain began, its requests are done.
pub(super) async fn serve(shared: Arc<Shared>, socket: Arc<Socket>, peer: SocketAddr, local: SocketAddr) {
    let opened = tokio::select! {
        opened = open(&shared, &socket, local) => opened,
        () = shared.drain.cancelled() => return,
    };
    let Opened { transport, head, http2, tls } = match opened {
        Some(Opening::Http(opened)) => opened,
        Some(Opening::Stream(relay)) => return stream::relay(&shared, &socket, relay).await,
        None => return,
    };
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
    let announced = Arc::new(Announced::default());
    let io = RequestLines::new(io, Arc::clone(&announced), shared.settings.max_head);
    let io = TrailerWriter::new(io, connection.trailers.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        announced.announce(&request);
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(exchange::serve(connection, request).await) }
    });
    let mut server = conn::http1::Builder::new();
    server
        .half_close(true)
        .header_read_timeout(None)
        .timer(TokioTimer::new())
        .max_headers(shared.settings.max_headers)
        .max_buf_size(shared.settings.max_head + SLACK);
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
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(exchange::serve(connection, request).await) }
    });
    let mut server = conn::http2::Builder::new(TokioExecutor::new());
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(shared.settings.max_streams)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(shared.settings.max_head).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let serving = server.serve_connection(TokioIo::new(io), service);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = &mut serving => result,
        () = async { tokio::select! { () = shared.drain.cancelled() => {}, () = idle(shared, &activity) => {} } } => {
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
