//! The right to use a connection to an endpoint for one request, and the count of the requests that it has.
use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body::{Body as _, Frame};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1::SendRequest, http2},
};

use super::{
    balance::{Cause, Endpoints, Moment, Outcome},
    body::RequestBody,
    bounds::Share,
    driver::Driver,
    http1::Trailers,
    metrics::{BackendCounts, TryOutcome},
    multiplex::Connection,
    pool::{Link, Upstream},
    stats::Stats,
};

/// How long a connection may take to become ready after its response has ended; it waits for the request's body.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer that lasts so long is a stream.
const STREAM: Duration = Duration::from_secs(10);

/// The right to use a connection for one request.
#[derive(Debug)]
pub(super) enum Lease {
    /// All of an HTTP/1.1 connection. Dropped, it closes the connection.
    Exclusive(Exclusive),
    /// A stream of an HTTP/2 connection. Dropped, it leaves the others alone.
    Stream(Arc<Stream>),
}

impl Lease {
    /// Whether the connection served requests before: the other side may close it at any moment.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::Exclusive(lease) => lease.reused,
            Self::Stream(_) => true,
        }
    }

    /// Whether it is a stream of HTTP/2.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// Sends a request and waits for the response's head.
    ///
    /// # Errors
    /// With the request, where nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Exclusive(lease) => {
                request.body_mut().trail_in(&lease.trailers);
                let leaves = request.headers().contains_key(header::UPGRADE) || request.method() == Method::CONNECT;
                if !request.body().is_end_stream() || leaves {
                    lease.driver.detach();
                }
                let Exclusive { sender, driver, .. } = lease;
                let mut sent = pin!(tokio::task::unconstrained(sender.try_send_request(request)));
                poll_fn(|cx| driver.poll_for(cx, |cx| sent.as_mut().poll(cx))).await
            }
            Self::Stream(stream) => {
                request.body_mut().hold(Arc::clone(stream));
                let mut sender: http2::SendRequest<RequestBody> = stream.connection.sender();
                sender.try_send_request(request).await
            }
        }
    }

    /// Polls a response's body, and with it what brings it.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self {
            Self::Exclusive(lease) => lease.driver.poll_for(cx, |cx| Pin::new(&mut *body).poll_frame(cx)),
            Self::Stream(_) => Pin::new(body).poll_frame(cx),
        }
    }

    /// Closes the connection after this exchange: the backend may see its end elsewhere. Of a stream both know the end.
    pub(super) fn invalidate(&mut self) {
        if let Self::Exclusive(lease) = self {
            lease.certain = false;
        }
    }

    /// Gives the connection back after a response that was read to its end.
    pub(super) fn give_back(self) {
        if let Self::Exclusive(lease) = self {
            lease.give_back();
        }
    }
}

/// A stream of a connection that others use too, until dropped: by the response's body and by the request's.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) upstream: Arc<Upstream>,
    pub(super) worker: usize,
    pub(super) connection: Arc<Connection>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.upstream.multiplex(self.worker).release(&self.connection);
    }
}

/// All of a connection.
#[derive(Debug)]
pub(super) struct Exclusive {
    pub(super) upstream: Arc<Upstream>,
    /// Whose pool it goes back to.
    pub(super) worker: usize,
    /// The connection.
    pub(super) sender: SendRequest<RequestBody>,
    pub(super) driver: Driver,
    /// Where the trailers of requests are written.
    pub(super) trailers: Trailers,
    /// It served requests before.
    pub(super) reused: bool,
    /// Its part of what the Gateway may have, while it is used.
    pub(super) share: Option<Share>,
    /// Both sides agree where this exchange ends. The next one must not share a connection with one of which they may not.
    pub(super) certain: bool,
}

impl Exclusive {
    fn give_back(self) {
        let Self { upstream, worker, mut sender, mut driver, trailers, reused: _, share: _, certain } = self;
        if !certain {
            return;
        }
        driver.look();
        if sender.is_ready() {
            upstream.put(worker, Link { sender, driver, trailers });
        } else if !sender.is_closed() {
            driver.detach();
            tokio::spawn(async move {
                match tokio::time::timeout(READY_TIMEOUT, sender.ready()).await {
                    Ok(Ok(())) => upstream.put(worker, Link { sender, driver, trailers }),
                    Ok(Err(_)) => {}
                    // The endpoint answered long before it had the whole body, which it may still want.
                    Err(_) => drop((sender.ready().await, driver)),
                }
            });
        }
    }
}

/// Counts a request towards its upstream until dropped.
#[derive(Debug)]
pub(super) struct Pending {
    upstream: Arc<Upstream>,
    /// Where its outcome is counted; nowhere once it is.
    counts: Option<Arc<BackendCounts>>,
    /// Who wants to know how the answer ends that began well, and since when it comes.
    judge: Option<(Arc<Endpoints>, Moment)>,
}

impl Pending {
    /// Counts one more.
    #[must_use]
    pub(super) fn new(upstream: &Arc<Upstream>) -> Self {
        upstream.vital.begin();
        Self { upstream: Arc::clone(upstream), counts: None, judge: None }
    }

    /// Counts its outcome here: dropped before there is one, it was aborted.
    #[must_use]
    pub(super) fn counted(mut self, counts: Option<Arc<BackendCounts>>) -> Self {
        self.counts = counts;
        self
    }

    /// An answer has begun well that one of these gives.
    pub(super) fn begins_well(&mut self, endpoints: Arc<Endpoints>, now: Moment) {
        self.judge = Some((endpoints, now));
    }

    /// It has come as a whole, or as far as anybody looks at it.
    pub(super) fn ends_well(&mut self) {
        if self.judge.take().is_some() {
            Endpoints::whole(&self.upstream);
        }
    }

    /// It has not, and that is the endpoint's failure; unless it has lasted so long that it is a stream, which may end as it likes.
    pub(super) fn fails(&mut self, cause: Cause, stats: &Stats) {
        let now = Moment::now();
        if let Some((endpoints, _)) = self.judge.take().filter(|(_, since)| now.since(*since) < STREAM) {
            endpoints.learn(&self.upstream, Outcome::Failure(cause), None, now, stats);
        }
    }

    /// Has an outcome, and a response after so long; `None` where no endpoint has had it.
    pub(super) fn settle(&mut self, outcome: Option<TryOutcome>, took: Option<Duration>) {
        if let (Some(counts), Some(outcome)) = (self.counts.take(), outcome) {
            counts.count(outcome, took);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.settle(Some(TryOutcome::Aborted), None);
        self.upstream.vital.end();
    }
}
