//! Opening a connection to an endpoint: a place for it, TCP, who the client is where the endpoint wants to be told, TLS where it has a policy.
use std::{
    io,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::Upstream;
use crate::{
    descriptors::is_exhausted,
    proxy::{
        bounds::Share,
        socket::{self, Held, Socket, SocketStream},
        stats::{Counted, add},
        tls::{Speaks, TlsFault},
        transport::UpstreamStream,
    },
};

/// How often, and how many times, it is looked whether a connection is closed that has to make room.
const CLOSING: (Duration, u32) = (Duration::from_millis(1), 50);
/// How often it is said of one endpoint that TLS fails.
const WARN: Duration = Duration::from_secs(60);

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::proxy) enum ConnectError {
    /// The endpoint cannot be connected: its failure, another may do.
    #[error("{0}")]
    Endpoint(#[source] Arc<io::Error>),
    /// No TLS with it as its policy wants it: another may do. A sentence about the endpoint.
    #[error("no TLS: {0}")]
    Untrusted(Arc<str>),
    /// No TLS with it, since it does not speak the version of HTTP that is wanted: another may. A sentence about the endpoint.
    #[error("no connection: {0}")]
    Unspoken(Arc<str>),
    /// The endpoint has as many connections as it may have.
    #[error("it has {0} connections, as many as it may have")]
    Full(usize),
    /// The Gateway has as many connections as it may have.
    #[error("the Gateway uses {0} connections to endpoints, as many as it may")]
    Taken(usize),
    /// This process or host has no descriptor, port or place left: nothing is known about the endpoint.
    #[error("no descriptor, port or place is left: {0}")]
    Exhausted(#[source] Arc<io::Error>),
}

impl ConnectError {
    /// The endpoint's failure.
    pub(in crate::proxy) fn endpoint(error: io::Error) -> Self {
        Self::Endpoint(Arc::new(error))
    }

    /// This host's.
    fn exhausted(error: io::Error) -> Self {
        Self::Exhausted(Arc::new(error))
    }
}

impl Upstream {
    /// A new socket, on the worker that asks, under TLS where that is wanted; both are made within `timeout`. `most`: how many this
    /// endpoint may have; `evict`: called when no place is left for any.
    ///
    /// # Errors
    /// When it cannot be opened in time, with what kept it from being opened.
    pub(in crate::proxy) async fn dial(
        &self,
        worker: usize,
        timeout: Duration,
        most: usize,
        speaks: Speaks,
        evict: impl FnOnce(),
    ) -> Result<UpstreamStream, ConnectError> {
        let stats = &self.pool(worker).stats;
        let share = match self.open.try_share(most) {
            Some(share) => share,
            None => self.share_of_clients(most, timeout).await.ok_or(ConnectError::Full(most))?,
        };
        let place = match self.bounds.try_upstream() {
            Some(place) => place,
            None => {
                evict();
                let waited = tokio::time::timeout(timeout, self.bounds.upstream()).await;
                waited.map_err(|_| ConnectError::exhausted(io::ErrorKind::TimedOut.into()))?
            }
        };
        let deadline = tokio::time::Instant::now() + timeout;
        let opened = tokio::time::timeout_at(deadline, TcpStream::connect(self.addr)).await;
        let mut stream = opened.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).flatten().map_err(|error| {
            add(&stats.connect_errors);
            if is_exhausted(&error) { ConnectError::exhausted(error) } else { ConnectError::endpoint(error) }
        })?;
        socket::configure(&SockRef::from(&stream)).map_err(ConnectError::endpoint)?;
        if let Some(version) = self.tells {
            // Of nobody's connection nothing could be said.
            let source = self.source.ok_or_else(|| ConnectError::endpoint(io::ErrorKind::NotConnected.into()))?;
            let head = source.head(version);
            let written = tokio::time::timeout_at(deadline, stream.write_all(&head)).await;
            written.map_err(|_| io::ErrorKind::TimedOut.into()).flatten().map_err(ConnectError::endpoint)?;
        }
        let counted = Counted::new(stats, |stats| &stats.open_upstream);
        let stream = SocketStream(Socket::new(stream, Held { place, share, counted }));
        let Some(tls) = self.tls.as_ref().filter(|_| speaks != Speaks::Raw) else {
            return Ok(UpstreamStream::Plain(stream));
        };
        let made = tokio::time::timeout_at(deadline, tls.connect(speaks, stream)).await;
        let late = || TlsFault::Untrusted(format!("the handshake was not done {timeout:?} after the first packet"));
        made.unwrap_or_else(|_| Err(late())).map(UpstreamStream::Tls).map_err(|fault| {
            add(&stats.connect_errors);
            add(&stats.upstream_tls_failures);
            let (TlsFault::Unspoken(why) | TlsFault::Untrusted(why)) = &fault;
            self.warn(why);
            match fault {
                TlsFault::Unspoken(why) => ConnectError::Unspoken(why.into()),
                TlsFault::Untrusted(why) => ConnectError::Untrusted(why.into()),
            }
        })
    }

    /// A place among those that the endpoint may have, of clients that do not use theirs; `None` where all are used.
    async fn share_of_clients(&self, most: usize, timeout: Duration) -> Option<Share> {
        self.source?;
        let begun = Instant::now();
        while begun.elapsed() < timeout {
            let idle = self.owned.all().into_iter().filter_map(|own| Some((own.idle_since()?.0, own)));
            let (_, own) = idle.min_by_key(|(since, _)| *since)?;
            own.evict_idle(0);
            // Its task, where it has one, closes it.
            for _ in 0..CLOSING.1 {
                if let Some(share) = self.open.try_share(most) {
                    return Some(share);
                }
                tokio::time::sleep(CLOSING.0).await;
            }
        }
        None
    }

    /// Says why TLS fails, now and then: it may be each request.
    fn warn(&self, why: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN) {
            *warned = Some(Instant::now());
            tracing::warn!(backend = %self.addr, reason = why, "no TLS with an endpoint, requests for it fail");
        }
    }
}
