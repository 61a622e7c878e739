//! Mirrors: copies of requests that go to another Service as well, and whose responses nobody gets.
//!
//! In: the heads that filters copied on the way, and the request's body, which goes through a [`Tee`]. A copy is sent by a task
//! of its own over the same pools as all requests.
//!
//! # Design
//! - Nothing waits for a mirror: what it cannot take is dropped, and the copy is cut, never the request. So its memory is bounded
//!   ([`tee::CAP`] for each copy, [`MOST`] copies), and it answers for nothing.
//! - The copy is what the request was where the filter stands in the list: filters before it have changed it, those behind it have
//!   not. It keeps its `Host`; Envoy appends `-shadow` to it, which no virtual host of a backend expects.
//! - An upgrade is not copied: two servers would speak to one client.
mod tee;

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use http::{StatusCode, request::Parts};
use http_body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

pub(super) use self::tee::{ClientBody, Copied, Tee};
use super::{
    Shared,
    balance::Wish,
    body::{RequestBody, ResponseBody},
    exchange::upstream_form,
    framing::{self, End},
    metrics::Attempts,
    own::Own,
    proxy_protocol::Source,
    stats::{Counted, add},
    table::Table,
    tenant::Tenant,
    upstream::{self, Failure, Order},
};
use crate::model::http::{Cluster, Timeouts, filter::Mirror};

/// How many copies of one worker may be on their way. Beyond it none is made, and that is counted.
const MOST: u64 = 256;
/// How long a copy may take, its response included, where the rule has no timeout.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How much of a response is read for the sake of the connection. Beyond it the connection closes. Units: bytes.
const MOST_RESPONSE: u64 = 256 << 10;

/// The head of a copy.
#[derive(Debug)]
pub(super) struct Copy {
    /// Who gets it.
    to: Cluster,
    /// As it was where the filter stands.
    parts: Parts,
}

impl Copy {
    /// A copy of a request's head, if it is the mirror's turn.
    #[must_use]
    pub(super) fn of(parts: &Parts, mirror: &Mirror) -> Option<Self> {
        if fastrand::u32(..mirror.denominator) >= mirror.numerator {
            return None;
        }
        let (mut copy, ()) = http::Request::new(()).into_parts();
        copy.method.clone_from(&parts.method);
        copy.uri.clone_from(&parts.uri);
        copy.headers.clone_from(&parts.headers);
        Some(Self { to: mirror.to.clone(), parts: copy })
    }

    /// The head, for what filters do not change.
    pub(super) fn parts(&mut self) -> &mut Parts {
        &mut self.parts
    }
}

/// Sends copies off; what goes into their bodies is to be read through the tee. `trailers` as for the request itself.
pub(super) fn send(
    shared: &Arc<Shared>,
    (table, tenant, source): (&Arc<Table>, &Arc<Tenant>, Source),
    copies: Vec<Copy>,
    (body, trailers): (Option<&Incoming>, bool),
    timeouts: Timeouts,
) -> Option<Tee> {
    let body = body.filter(|body| !body.is_end_stream());
    let mut tee = Tee::default();
    for Copy { to, mut parts } in copies {
        if shared.stats.active_mirrors.load(Relaxed) >= MOST {
            add(&shared.stats.dropped_mirrors);
            continue;
        }
        let counted = Counted::new(&shared.stats, |stats| &stats.active_mirrors);
        let body = body.map_or_else(RequestBody::empty, |body| {
            RequestBody::copied(tee.copy(body.size_hint())).passing_trailers(trailers)
        });
        upstream_form(&mut parts);
        let end = framing::frame_request(&mut parts, &body);
        let (table, owned, tenant) = (Arc::clone(table), Arc::clone(shared), Arc::clone(tenant));
        let limit = timeouts.request.unwrap_or(TIMEOUT);
        add(&shared.stats.mirrors);
        shared.tasks.spawn(async move {
            let _counted = counted;
            let exchange =
                tokio::time::timeout(limit, exchange(&owned, (&table, &tenant, source), &to, (parts, body), end));
            if let Err(failure) = exchange.await.unwrap_or(Err(Failure::Timeout)) {
                add(&owned.stats.dropped_mirrors);
                tracing::debug!(cluster = %to, reason = failure.answer().1, "mirror failed");
            }
        });
    }
    Some(tee).filter(|tee| !tee.is_empty())
}

/// Sends one copy and throws its response away.
async fn exchange(
    shared: &Arc<Shared>,
    (table, tenant, source): (&Table, &Arc<Tenant>, Source),
    to: &Cluster,
    (parts, body): (Parts, RequestBody),
    end: End,
) -> Result<(), Failure> {
    let (timeouts, retry) = (Timeouts::default(), None);
    let (wish, attempts) = (Wish::default(), &mut Attempts::default());
    let endpoints = table.cluster(&tenant.name, &to.port);
    let own = &Own::default();
    let order = Order { endpoints, tenant, cluster: to, source, own, wish, timeouts, retry, is_grpc: false, attempts };
    let mut sent = upstream::send(shared, order, parts, body).await?;
    let status = sent.response.status();
    let checked = framing::check_response(status, sent.response.headers_mut());
    if end == End::Uncertain || checked != Ok(End::Certain) || status == StatusCode::SWITCHING_PROTOCOLS {
        sent.lease.invalidate();
    }
    let mut body = ResponseBody::upstream(sent.response.into_body(), Some(sent.lease), sent.pending, sent.deadline);
    let mut left = MOST_RESPONSE;
    while let Some(Ok(frame)) = body.frame().await {
        match left.checked_sub(frame.data_ref().map_or(0, |data| data.len() as u64)) {
            Some(rest) => left = rest,
            None => break,
        }
    }
    Ok(())
}
