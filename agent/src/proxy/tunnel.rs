//! A connection or a stream that became a WebSocket: bytes both ways, until both sides are done, the client is gone, or nothing
//! moves.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use http::Response;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
};

use super::{
    Shared,
    body::ResponseBody,
    io::Active,
    lease::{Lease, Pending},
    socket::Socket,
    stats::{add, sub},
    websocket::Handshake,
};

/// How much is read at a time. Units: bytes.
const CHUNK: usize = 16 << 10;

/// Passes on that the backend has switched and copies both ways once both sides have switched.
///
/// What is `held` until the end counts the tunnel as a request, of the endpoint and of the client's connection; a
/// connection without request would be closed as idle.
pub(super) fn open(
    shared: &Arc<Shared>,
    handshake: Handshake,
    socket: Arc<Socket>,
    mut response: Response<Incoming>,
    held: (Pending, Active, Lease),
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(&mut response);
    handshake.answer(&mut response);
    let client = handshake.client;
    let (shared, tasks) = (Arc::clone(shared), shared.tasks.clone());
    tasks.spawn(async move {
        let _held = held;
        add(&shared.stats.tunnels);
        let copied = async {
            let (client, upstream) =
                futures_util::future::try_join(client, upstream).await.map_err(io::Error::other)?;
            copy(&shared, TokioIo::new(client), TokioIo::new(upstream)).await
        };
        tokio::select! {
            result = copied => {
                if let Err(error) = result {
                    tracing::trace!(%error, "tunnel ended");
                }
            }
            // Bytes for an endpoint that takes none keep the client from being read.
            gone = socket.gone(shared.settings.half_closed_timeout) => {
                add(&shared.stats.clients_gone);
                tracing::trace!(?gone, "client is gone");
            }
        }
        sub(&shared.stats.tunnels);
    });
    response.map(|_| ResponseBody::own(""))
}

/// Copies both ways until both sides have said all, or nothing moves for too long.
pub(super) async fn copy<A, B>(shared: &Shared, client: A, upstream: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let progress = Progress::default();
    let (client_read, client_write) = tokio::io::split(client);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let both = futures_util::future::try_join(
        one_way(client_read, upstream_write, &progress),
        one_way(upstream_read, client_write, &progress),
    );
    let idle = async {
        loop {
            let before = progress.moved.load(Relaxed);
            let settings = &shared.settings;
            let half_closed = progress.half_closed.load(Relaxed);
            let limit = if half_closed { settings.half_closed_timeout } else { settings.tunnel_idle };
            tokio::select! {
                () = tokio::time::sleep(limit) => if progress.moved.load(Relaxed) == before {
                    return;
                },
                // The shorter limit holds from now on.
                () = progress.changed.notified() => {}
            }
        }
    };
    tokio::select! {
        result = both => result.map(drop),
        () = idle => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// What became of a tunnel so far.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes, both ways.
    moved: AtomicU64,
    /// One side has said all it has to say.
    half_closed: AtomicBool,
    /// Told of that.
    changed: Notify,
}

/// Copies until the end, then closes the other side for writing.
async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    progress: &Progress,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = from.read(&mut chunk).await?;
        if n == 0 {
            progress.half_closed.store(true, Relaxed);
            progress.changed.notify_one();
            return to.shutdown().await;
        }
        to.write_all(&chunk[..n]).await?;
        progress.moved.fetch_add(n as u64, Relaxed);
    }
}
