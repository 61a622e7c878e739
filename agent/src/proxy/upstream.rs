//! A request that has its route -> a response from one of the endpoints.
//!
//! # Design
//! - Each try picks its endpoint from the table of that moment: none is chosen that has left the model, and none twice while
//!   another is left. Where that table does not know the Service port any more, since the route that named it is gone, the one it
//!   was routed by holds.
//! - What is tried again at once, since nobody has seen it: a pooled connection that took nothing; a pooled connection that closed
//!   before it answered, for an idempotent request without body. All else is in [`super::retry`].
//! - A stream that was refused, or that is behind the last one of a GOAWAY, was not processed: it goes to another connection.
//! - Never sent again: a request that a fresh connection has taken and lost.
use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, Uri, Version, header, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::{
    Shared,
    balance::{Cause, Endpoints, Moment, Outcome, Security, Wish},
    body::{BodyFault, Flow, RequestBody, Spare},
    bounds::Most,
    grpc,
    lease::{Lease, Pending},
    metrics::{Attempts, TryOutcome},
    multiplex::Multiplex,
    pool::{ConnectError, Upstream},
    retry::{Retries, Taken},
    stats::add,
    tenant::Tenant,
    tls::Speaks,
};
use crate::model::http::{Cluster, Retry, Timeouts, Transport};

/// Why there is no response from upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The Service port has no endpoint.
    NoEndpoint,
    /// No endpoint could be connected.
    Unreachable,
    /// Endpoints could be connected, and with none was TLS made as their policy wants it.
    Untrusted,
    /// Nobody may speak to the endpoints: their policy cannot be obeyed.
    Barred,
    /// This process has no descriptor, port or place left for another connection, or the endpoints have their part.
    Exhausted,
    /// The Gateway has its part of them.
    Taken,
    /// The endpoint broke off, or what it said is no response.
    Broken,
    /// The endpoint takes no request.
    Refused,
    /// The backend has as many retries as it shall have to bear.
    OverBudget,
    /// The endpoint speaks HTTP/2 without extended CONNECT.
    NoWebSocket,
    /// The route's time is up.
    Timeout,
    /// The client's body broke off.
    ClientBroken,
    /// The client's body made no progress.
    ClientStalled,
}

impl Failure {
    /// What the client gets.
    pub(super) fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::NoEndpoint => (StatusCode::SERVICE_UNAVAILABLE, "the backend has no ready endpoint"),
            Self::Unreachable => (StatusCode::SERVICE_UNAVAILABLE, "no endpoint of the backend could be connected"),
            Self::Untrusted => {
                (StatusCode::BAD_GATEWAY, "no endpoint of the backend could be trusted: TLS with it failed")
            }
            Self::Barred => (StatusCode::INTERNAL_SERVER_ERROR, "the TLS policy of the backend cannot be obeyed"),
            Self::Exhausted => (StatusCode::SERVICE_UNAVAILABLE, "the proxy can open no further connection"),
            Self::Taken => {
                (StatusCode::SERVICE_UNAVAILABLE, "the Gateway has as many connections to backends as it may have")
            }
            Self::Broken => (StatusCode::BAD_GATEWAY, "the backend broke off or sent no valid response"),
            Self::Refused => (StatusCode::SERVICE_UNAVAILABLE, "the backend takes no further request"),
            Self::OverBudget => (StatusCode::SERVICE_UNAVAILABLE, "the backend's budget of retries is used up"),
            Self::NoWebSocket => (StatusCode::NOT_IMPLEMENTED, "the backend takes no WebSocket over HTTP/2"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the backend did not answer in time"),
            Self::ClientBroken => (StatusCode::BAD_REQUEST, "the request's body is malformed or incomplete"),
            Self::ClientStalled => (StatusCode::REQUEST_TIMEOUT, "the request's body made no progress"),
        }
    }

    /// What a gRPC client gets, where the status does not say it.
    pub(super) fn code(self) -> Option<grpc::Code> {
        matches!(self, Self::Exhausted | Self::Taken).then_some(grpc::Code::ResourceExhausted)
    }

    /// What it is to the endpoint that was tried; `None` where that has had nothing of it.
    fn outcome(self) -> Option<TryOutcome> {
        match self {
            Self::Broken => Some(TryOutcome::Broken),
            Self::Refused => Some(TryOutcome::Refused),
            Self::Timeout => Some(TryOutcome::Timeout),
            Self::ClientBroken | Self::ClientStalled => Some(TryOutcome::Aborted),
            Self::NoEndpoint
            | Self::Unreachable
            | Self::Untrusted
            | Self::Barred
            | Self::Exhausted
            | Self::Taken
            | Self::OverBudget
            | Self::NoWebSocket => None,
        }
    }

    /// Whose fault it is that a request did not get through.
    fn of(error: &hyper::Error) -> Self {
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if cause.downcast_ref::<h2::Error>().is_some_and(is_unprocessed) {
                return Self::Refused;
            }
            match cause.downcast_ref::<BodyFault>() {
                Some(BodyFault::Broken(_) | BodyFault::Malformed) => return Self::ClientBroken,
                Some(BodyFault::Stalled) => return Self::ClientStalled,
                Some(BodyFault::Timeout) => return Self::Timeout,
                Some(BodyFault::CopyCut | BodyFault::Superseded | BodyFault::Cut) => return Self::Broken,
                None => source = cause.source(),
            }
        }
        Self::Broken
    }
}

/// Whether the endpoint says that it did nothing with a request. Source: RFC 9113 parts 6.8 and 8.7.
fn is_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

/// A response that is on its way.
pub(super) struct Sent {
    /// The response; its body is still to come.
    pub(super) response: Response<Incoming>,
    /// Where it comes from.
    pub(super) endpoint: SocketAddr,
    /// The connection it comes over.
    pub(super) lease: Lease,
    /// Counts the request towards its endpoint.
    pub(super) pending: Pending,
    /// When the body must have come.
    pub(super) deadline: Option<Instant>,
}

/// What is asked for, beside the request.
pub(super) struct Order<'a> {
    /// The endpoints of the cluster in the table that the request was routed by.
    pub(super) endpoints: Option<&'a Arc<Endpoints>>,
    /// The Gateway.
    pub(super) tenant: &'a Arc<Tenant>,
    /// Who gets it.
    pub(super) cluster: &'a Cluster,
    /// Which of its endpoints it would like.
    pub(super) wish: Wish,
    /// The rule's.
    pub(super) timeouts: Timeouts,
    /// The rule's.
    pub(super) retry: Option<&'a Retry>,
    /// The request is gRPC.
    pub(super) is_grpc: bool,
    /// What became of it, for those who look at it later.
    pub(super) attempts: &'a mut Attempts,
}

/// What became of a try, where that is not the answer.
enum Tried {
    /// No connection: nothing was sent.
    Unconnected(Request<RequestBody>),
    /// A connection that was there before took nothing, or closed: as if it had not been there.
    Stale(Request<RequestBody>),
    /// Sent and lost, or refused.
    Failed(Failure),
}

/// Sends a request to an endpoint of a cluster, and again where the rule or common sense wants it.
///
/// # Errors
/// When there is no response.
pub(super) async fn send(
    shared: &Arc<Shared>,
    order: Order<'_>,
    mut parts: Parts,
    body: RequestBody,
) -> Result<Sent, Failure> {
    let Order { endpoints: routed, tenant, cluster, wish, timeouts, retry, is_grpc, attempts } = order;
    let settings = &shared.settings;
    let begun = Instant::now();
    let limit = [timeouts.request, grpc::timeout(&parts.headers).filter(|_| is_grpc)].into_iter().flatten().min();
    let overall = limit.map(|limit| begun + limit);
    let unprocessed = u32::try_from(settings.max_tries).unwrap_or(u32::MAX).saturating_sub(1);
    let mut retries = Retries::new(retry, unprocessed);
    let is_secured = routed.is_some_and(|endpoints| endpoints.security == Security::Tls);
    if cluster.transport == Transport::Http2 && !into_http2(&mut parts, is_secured) {
        return Err(Failure::Broken);
    }
    let keeps = retries.is_asked() || cluster.transport == Transport::Http2;
    let mut request = Request::from_parts(parts, if keeps { body.kept() } else { body });
    let method = request.method().clone();
    let (mut tried, mut unconnected): (Vec<SocketAddr>, Vec<SocketAddr>) = (Vec::new(), Vec::new());
    let (mut fresh, mut met, mut moved, mut is_counted) = (false, Met::default(), 0, false);
    loop {
        let table = shared.table.load();
        let endpoints = table.cluster(&tenant.name, &cluster.port).or(routed).cloned();
        let most = table.most(&shared.bounds);
        drop(table);
        if endpoints.as_ref().is_some_and(|endpoints| endpoints.security == Security::Barred) {
            return Err(Failure::Barred);
        }
        let began = Instant::now();
        let now = Moment::of(began);
        // One that took nothing so far; else one that can be connected; else, where the rule wants more tries, any.
        let again =
            |endpoints: &Endpoints| endpoints.pick(wish, if retries.is_asked() { &[] } else { &unconnected }, now);
        let picked =
            endpoints.as_ref().and_then(|found| Some((found, found.pick(wish, &tried, now).or_else(|| again(found))?)));
        let Some((endpoints, upstream)) = picked else {
            return Err(if unconnected.is_empty() { Failure::NoEndpoint } else { met.failure() });
        };
        let choice = &endpoints.upstreams;
        if !std::mem::replace(&mut is_counted, true) {
            endpoints.budget.iter().for_each(|budget| budget.request(shared.worker));
        }
        let deadline = [overall, timeouts.backend.map(|t| began + t)].into_iter().flatten().min();
        if let Some(at) = overall.filter(|_| is_grpc) {
            grpc::set_timeout(request.headers_mut(), at.saturating_duration_since(Instant::now()));
        }
        let counts = endpoints.counts.of(&shared.metrics, shared.worker);
        let mut pending = Pending::new(&upstream).counted(counts.clone());
        attempts.endpoint = Some(upstream.addr);
        let spare = Kept::of(&request, keeps);
        let progress = request.body().progress();
        let trying = Trying { shared, tenant, endpoints, upstream: &upstream, cluster, most, fresh, began: now };
        let result = within(shared, deadline, trying.run(request, &spare, &mut met)).await;
        let (tried_now, pause) = match result {
            Ok(Ok((response, lease))) => {
                let status = if is_grpc && grpc::is_unavailable(response.headers()) {
                    StatusCode::SERVICE_UNAVAILABLE
                } else {
                    response.status()
                };
                let now = trying.learn(Outcome::Answer(status), progress.as_ref(), None);
                pending.settle(Some(TryOutcome::Answer(response.status())), Some(now.since(trying.began)));
                let again = retries.wants(response.status(), response.headers(), is_grpc);
                match again.filter(|_| spare.is_whole()).map(|pause| (pause, retries.take(endpoints))) {
                    Some((_, Taken::OverBudget)) => return Err(Failure::OverBudget),
                    None | Some((_, Taken::No)) => {
                        spare.commit();
                        if !endpoints.is_failure(status) {
                            pending.begins_well(Arc::clone(endpoints), now);
                        }
                        return Ok(Sent { response, endpoint: upstream.addr, lease, pending, deadline });
                    }
                    Some((pause, Taken::Yes)) => {
                        if http_body::Body::is_end_stream(response.body()) {
                            lease.give_back();
                        }
                        (None, retries.pause(pause))
                    }
                }
            }
            Ok(Err(Tried::Stale(again))) if moved < settings.max_tries => {
                moved += 1;
                pending.settle(None, None);
                request = again;
                fresh = cluster.transport == Transport::Http1;
                add(&shared.stats.retries);
                continue;
            }
            Ok(Err(Tried::Stale(_))) => {
                pending.settle(Some(TryOutcome::Refused), None);
                return Err(Failure::Refused);
            }
            Ok(Err(Tried::Unconnected(again))) => {
                pending.settle(None, None);
                tried.push(upstream.addr);
                unconnected.push(upstream.addr);
                if !retries.take_free() {
                    return Err(met.failure());
                }
                let is_left = choice.iter().any(|upstream| !tried.contains(&upstream.addr));
                (Some(again), if is_left || retry.is_none() { Duration::ZERO } else { retries.pause(Duration::ZERO) })
            }
            Ok(Err(Tried::Failed(Failure::Refused))) if spare.is_whole() => {
                pending.settle(Some(TryOutcome::Refused), None);
                match retries.take(endpoints) {
                    Taken::Yes => (None, Duration::ZERO),
                    Taken::No => return Err(Failure::Refused),
                    Taken::OverBudget => return Err(Failure::OverBudget),
                }
            }
            Ok(Err(Tried::Failed(Failure::Broken))) if is_grpc && grpc::is_over(deadline) => {
                pending.settle(Failure::Timeout.outcome(), None);
                return Err(Failure::Timeout);
            }
            Ok(Err(Tried::Failed(failure))) => {
                pending.settle(failure.outcome(), None);
                if failure == Failure::Broken {
                    trying.learn(Outcome::Failure(Cause::Broken), progress.as_ref(), None);
                }
                return Err(failure);
            }
            Err(failure) => {
                pending.settle(failure.outcome(), None);
                let limit = [timeouts.request, timeouts.backend].into_iter().flatten().min();
                trying.learn(Outcome::Failure(Cause::Late), progress.as_ref(), limit);
                let is_over = overall.is_some_and(|at| at <= Instant::now());
                let may = !is_over && spare.is_whole() && retries.wants_after_timeout(&method);
                match if may { retries.take(endpoints) } else { Taken::No } {
                    Taken::Yes => (None, retries.pause(Duration::ZERO)),
                    Taken::No => return Err(failure),
                    Taken::OverBudget => return Err(Failure::OverBudget),
                }
            }
        };
        drop(pending);
        add(&shared.stats.retries);
        attempts.retries += 1;
        counts.iter().for_each(|counts| counts.retried());
        if !tried.contains(&upstream.addr) {
            tried.push(upstream.addr);
        }
        // All had their turn, so it begins anew.
        if choice.iter().all(|upstream| tried.contains(&upstream.addr)) {
            tried.clear();
            tried.extend(unconnected.iter().filter(|_| !retries.is_asked()));
        }
        request = match tried_now.or_else(|| spare.again()) {
            Some(request) => request,
            None => return Err(Failure::Broken),
        };
        if !pause.is_zero() {
            within(shared, overall, tokio::time::sleep(pause)).await?;
        }
    }
}

/// What kept endpoints from being connected.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    /// One has as many connections as it may have.
    full: bool,
    /// With one TLS was not made.
    untrusted: bool,
}

impl Met {
    /// What is said when all was tried.
    fn failure(self) -> Failure {
        match self {
            Self { full: true, .. } => Failure::Exhausted,
            Self { untrusted: true, .. } => Failure::Untrusted,
            Self { full: false, untrusted: false } => Failure::Unreachable,
        }
    }
}

/// One try.
struct Trying<'a> {
    shared: &'a Arc<Shared>,
    tenant: &'a Tenant,
    /// Those of the cluster,
    endpoints: &'a Endpoints,
    /// and the one that has it.
    upstream: &'a Arc<Upstream>,
    cluster: &'a Cluster,
    /// How many connections may be open.
    most: Most,
    /// Over a connection of its own.
    fresh: bool,
    began: Moment,
}

impl Trying<'_> {
    /// Tells the balancer what became of it. `progress` is that of the request's body: while the client sends, the endpoint is not slow.
    ///
    /// `limit` is the route's where the time was up. A try is late if the endpoint had half of it at least: a client can ask for
    /// less (`grpc-timeout`), or send until the last moment.
    /// The moment at which it was learnt.
    fn learn(&self, outcome: Outcome, progress: Option<&Flow>, limit: Option<Duration>) -> Moment {
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

    async fn run(
        &self,
        request: Request<RequestBody>,
        spare: &Kept,
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
                    ConnectError::Untrusted(_) => {
                        met.untrusted = true;
                        self.unconnected(Cause::Untrusted);
                    }
                    ConnectError::Endpoint(_) => self.unconnected(Cause::Unconnected),
                }
                return Err(Tried::Unconnected(request));
            }
        };
        self.endpoints.connected(upstream, self.began, &shared.stats);
        if let Lease::Stream(stream) = &lease
            && request.method() == Method::CONNECT
            && !stream.connection.connects
        {
            return Err(Tried::Failed(Failure::NoWebSocket));
        }
        let mut error = match lease.send(request).await {
            Ok(response) => return Ok((response, lease)),
            Err(error) => error,
        };
        let untouched = error.take_message();
        let error = error.into_error();
        let failure = Failure::of(&error);
        if let Lease::Stream(stream) = &lease
            && (failure == Failure::Refused || untouched.is_some())
        {
            let is_leaving = untouched.is_some() || has_left(&error);
            upstream.multiplex(shared.worker).refused(&stream.connection, is_leaving);
        }
        if lease.is_reused() {
            let lost = || spare.bodiless().filter(|_| failure == Failure::Broken && !error.is_parse());
            let lost = || if matches!(lease, Lease::Exclusive(_)) { lost() } else { None };
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

    /// A connection: one from the pool, else a new one; where no place is left for one, that of the connection which was unused
    /// for longest.
    async fn lease(&self) -> Result<Lease, ConnectError> {
        let Self { shared, tenant, endpoints: _, upstream, cluster, most, fresh, began: _ } = *self;
        let (worker, settings) = (shared.worker, &shared.settings);
        let speaks = match cluster.transport {
            Transport::Http1 => Speaks::Http1,
            Transport::Http2 => Speaks::Http2,
        };
        let dial = || {
            let (shared, upstream) = (Arc::clone(shared), Arc::clone(upstream));
            async move {
                let timeout = shared.settings.connect_timeout;
                upstream.dial(shared.worker, timeout, most.endpoint, speaks, || shared.table.load().evict_idle()).await
            }
        };
        match cluster.transport {
            Transport::Http1 => {
                let share = tenant.try_upstream(most.gateway).ok_or(ConnectError::Taken(most.gateway))?;
                let pooled = if fresh { None } else { upstream.reuse(worker, settings.upstream_idle) };
                let mut lease = match pooled {
                    Some(lease) => lease,
                    None => upstream.connect(worker, dial().await?).await?,
                };
                lease.share = Some(share);
                Ok(Lease::Exclusive(lease))
            }
            Transport::Http2 => {
                let stream = Multiplex::acquire(upstream, dial, worker, settings).await?;
                Ok(Lease::Stream(Arc::new(stream)))
            }
        }
    }
}

/// Whether the endpoint said GOAWAY.
fn has_left(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    source.is_some_and(h2::Error::is_go_away)
}

/// What is left of a request when a connection has taken it.
struct Kept {
    /// Its head.
    head: Option<Request<()>>,
    body: Option<Spare>,
}

impl Kept {
    /// What is needed to send this again: `always`, or where it is idempotent and has no body.
    fn of(request: &Request<RequestBody>, always: bool) -> Self {
        let is_cheap = http_body::Body::is_end_stream(request.body()) && request.method().is_idempotent();
        if !always && !is_cheap {
            return Self { head: None, body: None };
        }
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        *head.version_mut() = request.version();
        head.headers_mut().clone_from(request.headers());
        head.extensions_mut().clone_from(request.extensions());
        Self { head: Some(head), body: request.body().spare() }
    }

    fn is_whole(&self) -> bool {
        self.head.is_some() && self.body.as_ref().is_some_and(Spare::is_whole)
    }

    /// The request, from its start.
    fn again(self) -> Option<Request<RequestBody>> {
        let (body, head) = (self.body?.again()?, self.head?);
        Some(head.map(|()| body))
    }

    /// Likewise, if it is idempotent and has no body.
    fn bodiless(&self) -> Option<Request<RequestBody>> {
        let head = self.head.clone().filter(|head| head.method().is_idempotent())?;
        let is_empty = self.body.as_ref().is_some_and(Spare::is_empty);
        is_empty.then(|| head.map(|()| RequestBody::empty()))
    }

    fn commit(&self) {
        if let Some(body) = &self.body {
            body.commit();
        }
    }
}

/// Gives a head the form of HTTP/2: a full target, no field of the connection. `false` where the host is no authority.
fn into_http2(parts: &mut Parts, is_secured: bool) -> bool {
    parts.version = Version::HTTP_2;
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        parts.headers.remove(name);
    }
    let Some(host) = parts.headers.remove(header::HOST) else { return false };
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let uri = Uri::builder()
        .scheme(if is_secured { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(target)
        .build();
    match uri {
        Ok(uri) => parts.uri = uri,
        Err(_) => return false,
    }
    true
}

async fn within<T>(shared: &Shared, deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, Failure> {
    match deadline {
        None => Ok(work.await),
        Some(at) => timeout_at(at, work).await.map_err(|_| {
            add(&shared.stats.timeouts);
            Failure::Timeout
        }),
    }
}
