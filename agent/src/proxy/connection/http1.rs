//! A client's connection that speaks HTTP/1.1.
//!
//! # Design
//! - hyper has the connection only while there are requests. Its two buffers and what it keeps for a request take some 40 KiB, and most
//!   connections of an edge are idle: when nothing has come for a while, and nothing is owed to the client, the stream is taken back
//!   and what hyper had is dropped. The next byte gives the stream to a new one. Of what hyper knew, nothing matters between two messages.
//! - Whether a connection is between two messages say those who know: [`RequestLines`] where a message begins, [`ClientStream`] what
//!   came and what is not written yet, [`super::super::io::Activity`] whether a request is in flight.
use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::Either};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::proxy::{
    Shared,
    exchange::{self, Connection},
    http1::{RequestLines, SLACK, TrailerWriter},
    io::ClientStream,
    seldom::beside,
};

/// How long a connection is left to hyper without a request, at least; twice as long at most.
const REST: Duration = Duration::from_millis(500);

/// How many fields of a head hyper takes if it is told nothing. Told a number, it makes room for so many one by one for each request.
const HYPERS_HEADERS: usize = 100;

/// Serves it until it ends.
pub(super) async fn serve(shared: &Shared, io: ClientStream, connection: Arc<Connection>) {
    let max_head = connection.tenant.max_head(&shared.settings);
    let io = RequestLines::new(io, Arc::clone(&connection.announced), max_head);
    let mut stream = Box::new(TrailerWriter::new(io, connection.trailers.clone()));
    let limit = shared.settings.idle_timeout;
    let pause = REST.min(limit / 8).max(Duration::from_millis(1));
    let home = Home::default();
    loop {
        let is_idle = Box::pin(requests(shared, home.lend(stream), &connection, pause)).await;
        // Whoever it was handed on to still has it, where the connection has switched to another protocol.
        let Some(back) = home.take().filter(|_| is_idle) else { return };
        stream = back;
        tokio::select! {
            biased;
            readable = connection.socket.readable() => if readable.is_err() { return },
            last = connection.socket.ends() => {
                if Box::pin(tokio::time::timeout(last, connection.socket.readable())).await.is_err() {
                    break;
                }
            }
            () = tokio::time::sleep(limit.saturating_sub(pause)) => break,
        }
    }
    // The last word of TLS; nobody waits for a client that does not take it.
    let _ = stream.shutdown().now_or_never();
}

/// Serves requests until the connection ends, or `true`, has none for a while.
async fn requests(shared: &Shared, stream: Lent, connection: &Arc<Connection>, pause: Duration) -> bool {
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        if let Some(doubt) = connection.announced.announce(&request) {
            request.extensions_mut().insert(doubt);
        }
        let connection = Arc::clone(connection);
        async move { Ok::<_, Infallible>(exchange::serve(connection, request).await) }
    });
    let mut server = conn::http1::Builder::new();
    server
        .half_close(true)
        .header_read_timeout(None)
        .timer(TokioTimer::new())
        .max_buf_size(connection.tenant.max_head(&shared.settings) + SLACK);
    if shared.settings.max_headers != HYPERS_HEADERS {
        server.max_headers(shared.settings.max_headers);
    }
    let serving = server.serve_connection(TokioIo::new(stream), service).with_upgrades();
    let mut serving = pin!(serving);
    let ends = async {
        tokio::select! {
            last = connection.socket.ends() => Some(last),
            () = idle(connection, pause) => None,
        }
    };
    let first = beside(serving.as_mut(), pin!(ends)).await;
    let result = match first {
        Either::Left(result) => result,
        Either::Right(None) => return true,
        Either::Right(Some(last)) => {
            // Told at once, hyper would close what it has read no byte of, and with it a request that is on its way.
            match tokio::time::timeout(last, serving.as_mut()).await {
                Ok(result) => result,
                Err(_) => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::trace!(%error, "client connection ended");
    }
    false
}

/// Returns when a connection had no request, and no byte of one, for so long, or twice as long at most.
async fn idle(connection: &Connection, pause: Duration) {
    let is_idle = || connection.activity.is_idle() && connection.announced.is_between();
    let mut seen = None;
    loop {
        tokio::time::sleep(pause).await;
        let begun = is_idle().then(|| connection.activity.begun());
        if begun.is_some() && begun == seen {
            return;
        }
        seen = begun;
    }
}

type Stream = TrailerWriter<RequestLines<ClientStream>>;

/// Where a stream comes back to.
#[derive(Debug, Default)]
struct Home(Arc<Mutex<Option<Box<Stream>>>>);

impl Home {
    fn lend(&self, stream: Box<Stream>) -> Lent {
        Lent { stream: Some(stream), home: Arc::clone(&self.0) }
    }

    fn take(&self) -> Option<Box<Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stream that comes back when this is dropped.
#[derive(Debug)]
struct Lent {
    /// There until then.
    stream: Option<Box<Stream>>,
    home: Arc<Mutex<Option<Box<Stream>>>>,
}

impl Lent {
    fn stream(&mut self) -> Pin<&mut Stream> {
        Pin::new(self.stream.as_mut().expect("it is taken by drop alone"))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl AsyncRead for Lent {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
