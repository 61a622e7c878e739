//! The connection that a try goes over: one from the pool, else a new one.
//!
//! # Design
//! Where the endpoint says by ALPN what it speaks, it is offered HTTP/2 and HTTP/1.1 and each connection is used for what came of it. Its
//! last choice says where to look first: with HTTP/2, or before the first choice, one handshake at a time is made for all who wait, and
//! one that ends in HTTP/1.1 is left in the pool; with HTTP/1.1 each makes its own, and one that ends in HTTP/2 joins the others. What
//! needs a certain version says so ([`Needs`]) and gets no other.
use std::{io, sync::Arc, time::Duration};

use http::Request;
use hyper::ext::Protocol;

use super::attempt::Trying;
use crate::{
    model::http::Transport,
    proxy::{
        alpn::Choice,
        balance::Moment,
        bounds::Share,
        lease::{Exclusive, Lease},
        multiplex::Multiplex,
        pool::{ConnectError, Link, Upstream},
        tls::Speaks,
        transport::UpstreamStream,
    },
};

/// How often an endpoint may choose another version than the last time, within one try. Then it cannot be connected.
const CHOICES: usize = 3;

/// How long an endpoint that has chosen HTTP/1.1 is not asked again for the sake of a request that needs HTTP/2.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What a request needs of a connection whose version nobody says in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing.
    Http,
    /// HTTP/2: it is gRPC.
    Http2,
    /// HTTP/1.1, or HTTP/2 where the endpoint takes extended CONNECT: it becomes a WebSocket.
    WebSocket,
}

impl Needs {
    /// What this request needs.
    pub(super) fn of<B>(request: &Request<B>, is_grpc: bool) -> Self {
        if is_grpc {
            Self::Http2
        } else if request.extensions().get::<Protocol>().is_some() {
            Self::WebSocket
        } else {
            Self::Http
        }
    }
}

impl Trying<'_> {
    /// A connection; where no place is left for a new one, that of the connection which was unused for longest.
    pub(super) async fn lease(&self) -> Result<Lease, ConnectError> {
        match self.cluster.transport {
            Transport::Http1 => self.exclusive(self.pooled(self.fresh), Speaks::Http1).await,
            Transport::Http2 => {
                let stream =
                    Multiplex::acquire(self.way, || self.dial(Speaks::Http2), self.shared.worker, self.settings());
                Ok(Lease::Stream(Arc::new(stream.await?)))
            }
            Transport::Negotiated => self.negotiated().await,
        }
    }

    async fn negotiated(&self) -> Result<Lease, ConnectError> {
        let (upstream, worker) = (self.way, self.shared.worker);
        let mut fresh = self.fresh;
        for _ in 0..CHOICES {
            if self.needs == Needs::Http2 && upstream.chosen.is_of_late(Choice::Http1, self.began, ASK_AGAIN) {
                return Err(unspoken());
            }
            if self.needs != Needs::Http2 && upstream.chosen.last() == Some(Choice::Http1) {
                if let Some(pooled) = self.pooled(fresh) {
                    return self.exclusive(Some(pooled), Speaks::Http1).await;
                }
                let share = self.share()?;
                let stream = self.dial(Speaks::Either).await?;
                if !stream.is_http2() {
                    let mut lease = upstream.connect(worker, stream).await?;
                    lease.share = Some(share);
                    return Ok(Lease::Exclusive(lease));
                }
                upstream.chosen.note(Choice::Http2, Moment::now());
                Multiplex::adopt(upstream, stream, worker, self.settings()).await?;
            }
            match Multiplex::acquire(upstream, || self.dial_for_all(), worker, self.settings()).await {
                Ok(stream) if self.needs == Needs::WebSocket && !stream.connection.connects => {
                    drop(stream);
                    return self.exclusive(None, Speaks::Http1).await;
                }
                Ok(stream) => return Ok(Lease::Stream(Arc::new(stream))),
                // It is in the pool.
                Err(ConnectError::Unspoken(_)) if self.needs != Needs::Http2 => fresh = false,
                Err(error) => return Err(error),
            }
        }
        Err(ConnectError::endpoint(io::Error::other("it chooses another version of HTTP each time")))
    }

    /// All of a connection that speaks HTTP/1.1: this one, else a new one.
    async fn exclusive(&self, pooled: Option<Exclusive>, speaks: Speaks) -> Result<Lease, ConnectError> {
        let share = self.share()?;
        let mut lease = match pooled {
            Some(lease) => lease,
            None => self.way.connect(self.shared.worker, self.dial(speaks).await?).await?,
        };
        lease.share = Some(share);
        Ok(Lease::Exclusive(lease))
    }

    /// The Gateway's part of what it may have.
    fn share(&self) -> Result<Share, ConnectError> {
        self.tenant.try_upstream(self.most.gateway).ok_or(ConnectError::Taken(self.most.gateway))
    }

    /// An unused connection that speaks HTTP/1.1, unless it must be a `fresh` one.
    fn pooled(&self, fresh: bool) -> Option<Exclusive> {
        if fresh { None } else { self.way.reuse(self.shared.worker, self.settings().upstream_idle) }
    }

    /// Opens a socket.
    fn dial(
        &self,
        speaks: Speaks,
    ) -> impl Future<Output = Result<UpstreamStream, ConnectError>> + Send + use<> + 'static {
        let (shared, upstream, most) = (Arc::clone(self.shared), Arc::clone(self.way), self.most.endpoint);
        async move {
            let timeout = shared.settings.connect_timeout;
            upstream.dial(shared.worker, timeout, most, speaks, || shared.table.load().evict_idle()).await
        }
    }

    /// Opens one for all who wait for HTTP/2; if the endpoint chooses HTTP/1.1, the connection is left in the pool.
    fn dial_for_all(&self) -> impl Future<Output = Result<UpstreamStream, ConnectError>> + Send + use<> + 'static {
        let (dialled, upstream, worker) = (self.dial(Speaks::Either), Arc::clone(self.way), self.shared.worker);
        async move {
            let stream = dialled.await?;
            if stream.is_http2() {
                upstream.chosen.note(Choice::Http2, Moment::now());
                return Ok(stream);
            }
            upstream.chosen.note(Choice::Http1, Moment::now());
            leave(&upstream, worker, stream).await;
            Err(unspoken())
        }
    }
}

/// Leaves a connection in the pool that speaks HTTP/1.1.
async fn leave(upstream: &Arc<Upstream>, worker: usize, stream: UpstreamStream) {
    if let Ok(Exclusive { sender, driver, trailers, .. }) = upstream.connect(worker, stream).await {
        upstream.put(worker, Link { sender, driver, trailers });
    }
}

fn unspoken() -> ConnectError {
    ConnectError::Unspoken("it chose HTTP/1.1 by ALPN".into())
}
