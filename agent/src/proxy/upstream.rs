//! A request that has its route -> a response from one of the endpoints.
//!
//! # Design
//! - Each try picks its endpoint from the table of that moment: none is chosen that has left the model. Where that table
//!   does not know the Service port any more, since the route that named it is gone, the one it was routed by holds.
//! - What is tried again, and only this: an endpoint that could not be connected (nothing was sent); a pooled
//!   connection that took nothing; a pooled connection that closed before it answered, for an idempotent request
//!   without body. Never a request that a fresh connection has taken.
//! - An endpoint that could not be connected is passed over for a while, unless all are like that. Then one request at a
//!   time sees whether it can be; should it not, that request goes on to one with which nothing is wrong. So however
//!   many are dead while nobody says so, a request meets one of them that was known to be.
use std::{net::SocketAddr, sync::Arc};

use http::{Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::{
    Shared,
    body::{BodyFault, RequestBody},
    pool::{ConnectError, Health, Lease, Pending, Upstream},
    stats::add,
    table::Table,
};
use crate::model::http::{ServicePort, Timeouts};

/// Why there is no response from upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The Service port has no endpoint.
    NoEndpoint,
    /// No endpoint could be connected.
    Unreachable,
    /// This process has no descriptor, port or place left for another connection, or the endpoints have their part.
    Exhausted,
    /// The endpoint broke off, or what it said is no response.
    Broken,
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
            Self::Exhausted => (StatusCode::SERVICE_UNAVAILABLE, "the proxy can open no further connection"),
            Self::Broken => (StatusCode::BAD_GATEWAY, "the backend broke off or sent no valid response"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "the backend did not answer in time"),
            Self::ClientBroken => (StatusCode::BAD_REQUEST, "the request's body is malformed or incomplete"),
            Self::ClientStalled => (StatusCode::REQUEST_TIMEOUT, "the request's body made no progress"),
        }
    }

    /// Whose fault it is that a request did not get through.
    fn of(error: &hyper::Error) -> Self {
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            match cause.downcast_ref::<BodyFault>() {
                Some(BodyFault::Broken(_)) => return Self::ClientBroken,
                Some(BodyFault::Stalled) => return Self::ClientStalled,
                Some(BodyFault::Timeout) => return Self::Timeout,
                Some(BodyFault::CopyCut) => return Self::Broken,
                None => source = cause.source(),
            }
        }
        Self::Broken
    }
}

/// A response that is on its way.
pub(super) struct Sent {
    /// The response; its body is still to come.
    pub(super) response: Response<Incoming>,
    /// The connection it comes over.
    pub(super) lease: Lease,
    /// Counts the request towards its endpoint.
    pub(super) pending: Pending,
    /// When the body must have come.
    pub(super) deadline: Option<Instant>,
}

/// Sends a request to an endpoint of a Service port, to another one where that is safe.
///
/// # Errors
/// When there is no response.
pub(super) async fn send(
    shared: &Shared,
    routed: &Table,
    service: &ServicePort,
    parts: Parts,
    body: RequestBody,
    timeouts: Timeouts,
) -> Result<Sent, Failure> {
    let settings = &shared.settings;
    let overall = timeouts.request.map(|t| Instant::now() + t);
    let repeatable = http_body::Body::is_end_stream(&body) && parts.method.is_idempotent();
    let mut request = Request::from_parts(parts, body);
    let mut tried: Vec<SocketAddr> = Vec::new();
    let (mut fresh, mut full) = (false, false);
    loop {
        let table = shared.table.load();
        let cluster = table.cluster(service).or_else(|| routed.cluster(service)).unwrap_or_default();
        let Some(upstream) = pick(cluster, &tried) else {
            return Err(match (tried.is_empty(), full) {
                (true, _) => Failure::NoEndpoint,
                (false, true) => Failure::Exhausted,
                (false, false) => Failure::Unreachable,
            });
        };
        let most = table.per_endpoint(&shared.bounds);
        drop(table);
        let deadline = [overall, timeouts.backend.map(|t| Instant::now() + t)].into_iter().flatten().min();
        let pending = Pending::new(&upstream);
        let pooled = if fresh { None } else { upstream.reuse(shared.worker, settings.upstream_idle) };
        let mut lease = match pooled {
            Some(lease) => lease,
            None => match within(shared, deadline, connect(shared, &upstream, most)).await? {
                Ok(lease) => lease,
                Err(ConnectError::Exhausted(error)) => {
                    add(&shared.stats.exhausted);
                    tracing::debug!(backend = %upstream.addr, %service, %error, "no connection can be opened");
                    return Err(Failure::Exhausted);
                }
                Err(error) => {
                    tracing::debug!(backend = %upstream.addr, %service, %error, "endpoint could not be connected");
                    if let ConnectError::Full(_) = error {
                        full = true;
                        add(&shared.stats.exhausted);
                    } else {
                        upstream.set_down();
                    }
                    tried.push(upstream.addr);
                    if tried.len() >= settings.max_tries {
                        return Err(if full { Failure::Exhausted } else { Failure::Unreachable });
                    }
                    add(&shared.stats.retries);
                    continue;
                }
            },
        };
        request.body_mut().trail_in(&lease.trailers);
        let spare = (lease.reused && repeatable).then(|| copy(&request));
        let mut error = match within(shared, deadline, lease.sender.try_send_request(request)).await? {
            Ok(response) => return Ok(Sent { response, lease, pending, deadline }),
            Err(error) => error,
        };
        let untouched = error.take_message();
        let error = error.into_error();
        let failure = Failure::of(&error);
        let again = untouched.or_else(|| spare.filter(|_| failure == Failure::Broken && !error.is_parse()));
        let Some(again) = again.filter(|_| lease.reused) else {
            if failure == Failure::Broken {
                add(&shared.stats.upstream_errors);
                tracing::debug!(backend = %upstream.addr, %service, %error, "no response from endpoint");
            }
            return Err(failure);
        };
        request = again;
        fresh = true;
        add(&shared.stats.retries);
    }
}

/// A new connection; where no place is left for one, that of the connection which was unused for longest.
async fn connect(shared: &Shared, upstream: &Arc<Upstream>, most: usize) -> Result<Lease, ConnectError> {
    upstream.connect(shared.worker, shared.settings.connect_timeout, most, || shared.table.load().evict_idle()).await
}

/// A copy of a request without body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
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

/// The less busy of two endpoints chosen at random, among those that were not tried in vain, lately or for this request.
fn pick(cluster: &[Arc<Upstream>], tried: &[SocketAddr]) -> Option<Arc<Upstream>> {
    let fit = |u: &&Arc<Upstream>| match u.health() {
        Health::Well => !tried.contains(&u.addr),
        Health::Suspect => tried.is_empty(),
        Health::Down => false,
    };
    if let Some(two) = two_of(cluster.len())
        && let (Some(first), Some(second)) = two.map(|i| cluster.get(i).filter(fit)).into()
    {
        return Some(chosen(first, second));
    }
    // Some are out of the question: rare, so the list is made only now. When all are, any that was not tried will do.
    let mut left: Vec<&Arc<Upstream>> = cluster.iter().filter(fit).collect();
    if left.is_empty() {
        left = cluster.iter().filter(|u| !tried.contains(&u.addr)).collect();
    }
    let [first, second] = two_of(left.len())?;
    Some(chosen(left[first], left[second]))
}

/// The less busy one; others pass it over until it is known what becomes of one that is suspect.
fn chosen(a: &Arc<Upstream>, b: &Arc<Upstream>) -> Arc<Upstream> {
    let chosen = less_busy(a, b);
    if chosen.health() == Health::Suspect {
        chosen.set_down();
    }
    Arc::clone(chosen)
}

fn less_busy<'a>(a: &'a Arc<Upstream>, b: &'a Arc<Upstream>) -> &'a Arc<Upstream> {
    if b.pending() < a.pending() { b } else { a }
}

/// Two different numbers below `n`; the same one twice when there is only one, `None` when there is none.
fn two_of(n: usize) -> Option<[usize; 2]> {
    match n {
        0 => None,
        1 => Some([0, 0]),
        _ => {
            let first = fastrand::usize(..n);
            Some([first, (first + fastrand::usize(1..n)) % n])
        }
    }
}
