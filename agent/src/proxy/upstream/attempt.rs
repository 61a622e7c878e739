//! One try: a connection to the endpoint that was picked, the request over it, and what the balancer learns of it.
use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, ext::Protocol};

use super::{
    Failure,
    connection::Needs,
    kept::{Kept, into_http2},
};
use crate::{
    model::http::{Cluster, Transport},
    proxy::{
        Shared,
        balance::{Cause, Endpoints, Moment, Outcome},
        body::{Flow, RequestBody},
        bounds::Most,
        lease::Lease,
        pool::{ConnectError, Upstream},
        settings::Settings,
        stats::add,
        tenant::Tenant,
    },
};

/// What became of a try, where that is not the answer.
pub(super) enum Tried {
    /// No connection: nothing was sent.
    Unconnected(Request<RequestBody>),
    /// A connection that was there before took nothing, or closed: as if it had not been there.
    Stale(Request<RequestBody>),
    /// Sent and lost, or refused.
    Failed(Failure),
}

/// What kept endpoints from being connected.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Met {
    /// One has as many connections as it may have.
    full: bool,
    /// With one TLS was not made.
    untrusted: bool,
    /// One does not speak what the request needs, and then this is said.
    unspoken: Option<Failure>,
}

impl Met {
    /// What is said when all was tried.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self { unspoken: Some(failure), .. } => failure,
            Self { full: true, .. } => Failure::Exhausted,
            Self { untrusted: true, .. } => Failure::Untrusted,
            Self { full: false, untrusted: false, unspoken: None } => Failure::Unreachable,
        }
    }
}

/// One try.
pub(super) struct Trying<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) tenant: &'a Tenant,
    /// Those of the cluster,
    pub(super) endpoints: &'a Endpoints,
    /// and the one that has it.
    pub(super) upstream: &'a Arc<Upstream>,
    /// whose connections are these: the same one, or as the client has it,
    pub(super) way: &'a Arc<Upstream>,
    pub(super) cluster: &'a Cluster,
    /// How many connections may be open.
    pub(super) most: Most,
    /// Over a connection of its own.
    pub(super) fresh: bool,
    /// The request may have to be sent again, whatever it is.
    pub(super) keeps: bool,
    pub(super) needs: Needs,
    pub(super) began: Moment,
}

impl Trying<'_> {
    pub(super) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Tells the balancer what became of it. `progress` is that of the request's body: while the client sends, the endpoint is not slow.
    ///
    /// `limit` is the route's where the time was up. A try is late if the endpoint had half of it at least: a client can ask for
    /// less (`grpc-timeout`), or send until the last moment.
    /// The moment at which it was learnt.
    pub(super) fn learn(&self, outcome: Outcome, progress: Option<&Flow>, limit: Option<Duration>) -> Moment {
        let now = Moment::now();
        let sent = progress.map_or(Some(self.began), |flow| flow.read_at().map(|at| at.max(self.began)));
        let took = sent.map(|sent| now.since(sent));
        let is_known = match outcome {
            Outcome::Failure(Cause::Late) => limit.is_some_and(|limit| took.is_some_and(|took| took >= limit / 2)),
            Outcome::Failure(_) | Outcome::Answer(_) => true,
        };
        if is_known {
            self.endpoints.learn(self.upstream, outcome, took, now, &self.shared.stats);
        }
        now
    }

    /// Tells the balancer that it could not be connected.
    fn unconnected(&self, cause: Cause) {
        self.learn(Outcome::Failure(cause), None, None);
        let counts = self.endpoints.counts.of(&self.shared.metrics, self.shared.worker);
        counts.iter().for_each(|counts| counts.unconnected());
    }

    /// Makes the try.
    ///
    /// # Errors
    /// It brought no response.
    pub(super) async fn run(
        &self,
        mut request: Request<RequestBody>,
        spare: &mut Kept,
        met: &mut Met,
    ) -> Result<(Response<Incoming>, Lease), Tried> {
        let (shared, upstream, cluster) = (self.shared, self.upstream, self.cluster);
        let mut lease = match self.lease().await {
            Ok(lease) => lease,
            Err(error) => {
                tracing::debug!(backend = %upstream.addr, %cluster, %error, "endpoint could not be connected");
                match error {
                    ConnectError::Exhausted(_) => {
                        add(&shared.stats.exhausted);
                        return Err(Tried::Failed(Failure::Exhausted));
                    }
                    ConnectError::Taken(_) => {
                        add(&shared.stats.exhausted);
                        return Err(Tried::Failed(Failure::Taken));
                    }
                    ConnectError::Full(_) => {
                        met.full = true;
                        add(&shared.stats.exhausted);
                    }
                    ConnectError::Unspoken(_) if cluster.transport == Transport::Negotiated => {
                        let websocket = self.needs == Needs::WebSocket;
                        met.unspoken = Some(if websocket { Failure::NoWebSocket } else { Failure::NoHttp2 });
                    }
                    ConnectError::Untrusted(_) | ConnectError::Unspoken(_) => {
                        met.untrusted = true;
                        self.unconnected(Cause::Untrusted);
                    }
                    ConnectError::Endpoint(_) => self.unconnected(Cause::Unconnected),
                }
                return Err(Tried::Unconnected(request));
            }
        };
        self.endpoints.connected(upstream, self.began, &shared.stats);
        let turns = cluster.transport == Transport::Negotiated && lease.is_stream();
        if turns {
            request = request.map(RequestBody::kept);
        }
        *spare = Kept::of(&request, self.keeps || turns);
        if turns {
            let (mut parts, body) = request.into_parts();
            if !into_http2(&mut parts, true) {
                return Err(Tried::Failed(Failure::Broken));
            }
            request = Request::from_parts(parts, body);
        }
        if let Lease::Stream(stream) = &lease
            && request.extensions().get::<Protocol>().is_some()
            && !stream.connection.connects
        {
            return Err(Tried::Failed(Failure::NoWebSocket));
        }
        let mut error = match lease.send(request).await {
            Ok(response) => {
                if let Lease::Stream(stream) = &lease {
                    stream.connection.note_answer();
                }
                return Ok((response, lease));
            }
            Err(error) => error,
        };
        let untouched = error.take_message().map(|request| if turns { spare.restore(request) } else { request });
        let error = error.into_error();
        let failure = Failure::of(&error);
        if let Lease::Stream(stream) = &lease
            && (failure == Failure::Refused || untouched.is_some())
        {
            let is_leaving = untouched.is_some() || has_left(&error);
            stream.upstream.multiplex(shared.worker).refused(&stream.connection, is_leaving);
        }
        if lease.is_reused() {
            let lost = || spare.bodiless().filter(|_| failure == Failure::Broken && !error.is_parse());
            let had_others = match &lease {
                Lease::Exclusive(_) => true,
                Lease::Stream(stream) => stream.connection.has_answered() && has_closed(&error),
            };
            let lost = || if had_others { lost() } else { None };
            if let Some(again) = untouched.or_else(lost) {
                return Err(Tried::Stale(again));
            }
        }
        if failure == Failure::Broken {
            add(&shared.stats.upstream_errors);
            tracing::debug!(backend = %upstream.addr, %cluster, %error, "no response from endpoint");
        }
        Err(Tried::Failed(failure))
    }
}

/// Whether a connection of HTTP/2 closed without a word.
fn has_closed(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}

/// Whether the endpoint said GOAWAY.
fn has_left(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    source.is_some_and(h2::Error::is_go_away)
}
