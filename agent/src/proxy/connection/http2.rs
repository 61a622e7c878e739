//! A client's connection that speaks HTTP/2.
use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use futures_util::future::Either;
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use super::PREFACE;
use crate::proxy::{
    Shared,
    batch::Batch,
    exchange::{self, Connection},
    frames::Frames,
    io::{Activity, ClientStream},
    seldom::beside,
    uptake::Streams,
};

/// How often HTTP/2 connections are asked whether they are alive, and how long they may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How much of a response is kept per HTTP/2 stream while the client does not take it. Units: bytes.
pub(in crate::proxy) const SEND_BUFFER: usize = 64 << 10;
/// How much of requests is taken in over one HTTP/2 connection while the backends do not take it: what a connection may hold in
/// memory, however many streams it has. Units: bytes.
const WINDOW: u32 = 1 << 20;
/// The same over one stream of it.
pub(in crate::proxy) const STREAM_WINDOW: u32 = 256 << 10;

/// Serves it until it ends.
pub(super) async fn serve(shared: &Shared, io: ClientStream, connection: Arc<Connection>) {
    let activity = Arc::clone(&connection.activity);
    let limits = Arc::clone(&connection.tenant.limits);
    let max_head = connection.tenant.max_head(&shared.settings);
    let room = connection.room.clone();
    let spent = Arc::clone(&connection);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(exchange::serve(connection, request).await) }
    });
    let limit = limits.stream_idle.unwrap_or(shared.settings.stream_idle);
    let mut server = conn::http2::Builder::new(Streams { limit, room });
    server
        .timer(TokioTimer::new())
        .max_concurrent_streams(shared.settings.max_streams)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(limits.max_resets.unwrap_or(shared.settings.max_resets))
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let (batch, io) = Batch::new(Frames::new(io, PREFACE.len()));
    let mut serving = pin!(server.serve_connection(TokioIo::new(io), service));
    let ends = async {
        tokio::select! {
            _ = spent.socket.ends() => {}
            () = idle(shared, &activity) => {}
            () = spent.spent() => {}
        }
    };
    let first = beside(pin!(batch.drive(serving.as_mut())), pin!(ends)).await;
    let result = match first {
        Either::Left(result) => result,
        Either::Right(()) => {
            serving.as_mut().graceful_shutdown();
            // GOAWAY is answered by a PING of hyper's own; a client that does not answer is not waited for.
            loop {
                let grace = shared.settings.header_timeout;
                match tokio::time::timeout(grace, batch.drive(serving.as_mut())).await {
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
