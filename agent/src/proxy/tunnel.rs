//! A connection or a stream that became a WebSocket, or what a CONNECT asked for: bytes both ways, until both sides are done, the client is gone, or nothing
//! moves.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use http::Response;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
};

use super::{
    Shared,
    body::ResponseBody,
    connect::Tunnel,
    io::Active,
    lease::{Lease, Pending},
    socket::Socket,
    stats::{add, sub},
    websocket,
};

/// How much is read at a time. Units: bytes.
const CHUNK: usize = 16 << 10;

/// What a client has asked for that becomes a tunnel.
#[derive(Debug)]
pub(super) enum Handshake {
    /// A WebSocket.
    WebSocket(websocket::Handshake),
    /// CONNECT.
    Connect(Tunnel),
}

impl Handshake {
    /// Says which version the backend was asked over.
    pub(super) fn asked(&mut self, over_http2: bool) {
        match self {
            Self::WebSocket(handshake) => handshake.asked(over_http2),
            Self::Connect(_) => {}
        }
    }

    /// Whether a backend has switched; the client gets other responses as they are.
    ///
    /// # Errors
    /// What is wrong with its answer.
    pub(super) fn switched<B>(&self, response: &Response<B>) -> Result<bool, &'static str> {
        match self {
            Self::WebSocket(handshake) => handshake.switched(response),
            Self::Connect(_) => Tunnel::is_made(response),
        }
    }

    /// Gives the head of the answer its form for the client.
    fn answer<B>(&self, response: &mut Response<B>) {
        match self {
            Self::WebSocket(handshake) => handshake.answer(response),
            Self::Connect(_) => Tunnel::answer(response),
        }
    }

    fn client(self) -> OnUpgrade {
        match self {
            Self::WebSocket(handshake) => handshake.client,
            Self::Connect(tunnel) => tunnel.client,
        }
    }
}

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
    let client = handshake.client();
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
                gone.count(&shared.stats);
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
        // TLS takes bytes that its socket has no room for, and sends them with the next ones, which may never come.
        to.flush().await?;
        progress.moved.fetch_add(n as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, duplex};

    use super::{Progress, one_way};

    /// As TLS does whose socket is full, a side may take bytes and keep them until it is asked to send them.
    #[tokio::test]
    async fn what_came_goes_on_though_nothing_follows() {
        let (mut client, from) = duplex(64);
        let (to, mut upstream) = duplex(64);
        let progress = Progress::default();
        let copied = one_way(from, BufWriter::new(to), &progress);
        let said = async {
            client.write_all(b"hello").await.unwrap();
            let mut got = [0; 5];
            upstream.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"hello");
            drop(client);
            assert_eq!(upstream.read(&mut got).await.unwrap(), 0, "the end goes on as well");
        };
        let both = async { tokio::join!(copied, said).0 };
        let limit = std::time::Duration::from_secs(5);
        tokio::time::timeout(limit, both).await.expect("the bytes stay in the tunnel").unwrap();
    }
}
