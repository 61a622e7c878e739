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
mod attempt;
mod connection;
mod failure;
mod kept;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

pub(super) use self::failure::Failure;
use self::{
    attempt::{Met, Tried, Trying},
    connection::Needs,
    kept::{Kept, into_http2},
};
use super::{
    Shared,
    balance::{Cause, Endpoints, Moment, Outcome, Security, Wish},
    body::RequestBody,
    grpc,
    lease::{Lease, Pending},
    metrics::{Attempts, TryOutcome},
    own::Own,
    proxy_protocol::Source,
    retry::{Retries, Taken},
    stats::add,
    tenant::Tenant,
};
use crate::model::http::{Cluster, Retry, Timeouts, Transport};

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
    /// Whose it is,
    pub(super) source: Source,
    /// and what the client has for itself.
    pub(super) own: &'a Own,
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
    let Order { endpoints: routed, tenant, cluster, source, own, wish, timeouts, retry, is_grpc, attempts } = order;
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
    let (method, needs) = (request.method().clone(), Needs::of(&request, is_grpc));
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
        let mut spare = Kept::default();
        let progress = request.body().progress();
        let own = upstream.tells().then(|| own.of(&upstream, shared.worker, source));
        let way = own.as_ref().unwrap_or(&upstream);
        let trying = Trying {
            shared,
            tenant,
            endpoints,
            upstream: &upstream,
            way,
            cluster,
            most,
            fresh,
            keeps,
            needs,
            began: now,
        };
        let result = within(shared, deadline, trying.run(request, &mut spare, &mut met)).await;
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
                fresh = cluster.transport != Transport::Http2;
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

async fn within<T>(shared: &Shared, deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, Failure> {
    match deadline {
        None => Ok(work.await),
        Some(at) => timeout_at(at, work).await.map_err(|_| {
            add(&shared.stats.timeouts);
            Failure::Timeout
        }),
    }
}
