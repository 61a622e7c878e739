//! Connections that the proxy does not look into: TLS passed through, TLS terminated to TCP.
//!
//! In: a client's connection whose ClientHello was read, and the shares of the TLSRoute that it chose. Out: its bytes at an
//! endpoint, and those of the endpoint at the client, until both sides have said all, the client is gone, or nothing moves.
//!
//! # Design
//! - The endpoint is connected before the client hears anything: where there is none, the client sees the end of the connection in
//!   the place of a ServerHello, and never an alert, which would be the word of a server that it has not asked for.
//! - Each side is read when the other has room; one side's end is passed on, and the other may go on (half-close).
//! - Bytes are copied, and not spliced in the kernel by a socket map (`BPF_SK_SKB_STREAM_VERDICT`, `bpf_sk_redirect_map`). What is
//!   redirected leaves the receive buffer of the socket that it came to before the other one has taken it, which opens the window of
//!   the sender again: who sends fast to an endpoint that does not read fills the kernel's memory without bound (3 GiB in seconds on
//!   Linux 6.18, where we stopped). `tests/tests/packets/splice.rs` is the proof, and fails on the first kernel that has a bound.
use std::{io, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::{
    Shared,
    balance::{Cause, Moment, Outcome, Security, Wish},
    bounds::Share,
    lease::Pending,
    pool::ConnectError,
    proxy_protocol::Source,
    socket::{ClientSocket, Socket},
    stats::{add, sub},
    tls::{Speaks, TlsStream},
    transport::UpstreamStream,
    tunnel,
};
use crate::{
    api::ObjectName,
    model::stream_route::{StreamShare, StreamTarget},
};

/// A client's side.
pub(super) enum Client {
    /// Its bytes as they are; the first ones were read already.
    Raw(ClientSocket, Bytes),
    /// What is under its TLS.
    Tls(Box<TlsStream>),
}

/// A connection to an endpoint, and that it is counted there.
pub(super) struct Endpoint {
    stream: UpstreamStream,
    pending: Pending,
    /// Its part of what the Gateway may have.
    share: Share,
}

/// A client and the endpoint that it gets.
pub(super) struct Relay {
    /// The client.
    pub client: Client,
    /// The endpoint.
    pub endpoint: Endpoint,
}

/// Connects an endpoint of these shares; `None` where there is none. What a client says after its own TLS has ended (`speaks`) goes on
/// under TLS where the endpoint's policy wants it.
pub(super) async fn connect(
    shared: &Shared,
    gateway: &ObjectName,
    shares: &[StreamShare],
    (speaks, source): (Speaks, Source),
) -> Option<Endpoint> {
    let share = choose(shares)?;
    let StreamTarget::Service(service) = &share.to else { return None };
    let settings = &shared.settings;
    let mut tried: Vec<SocketAddr> = Vec::new();
    while tried.len() < settings.max_tries {
        let table = shared.table.load();
        let (endpoints, now) = (Arc::clone(table.cluster(gateway, service)?), Moment::now());
        if endpoints.security == Security::Barred && speaks != Speaks::Raw {
            tracing::debug!(%service, "the TLS policy of the Service cannot be obeyed");
            return None;
        }
        let upstream = endpoints.pick(Wish::default(), &tried, now)?;
        let most = table.most(&shared.bounds);
        let Some(share) = table.tenant(gateway)?.try_upstream(most.gateway) else {
            add(&shared.stats.exhausted);
            return None;
        };
        drop(table);
        let pending = Pending::new(&upstream);
        let evict = || shared.table.load().evict_idle();
        let own = upstream.tells().then(|| Arc::new(upstream.of_client(shared.worker, source)));
        let way = own.as_ref().unwrap_or(&upstream);
        match way.dial(shared.worker, settings.connect_timeout, most.endpoint, speaks, evict).await {
            Ok(stream) => {
                endpoints.connected(&upstream, now, &shared.stats);
                return Some(Endpoint { stream, pending, share });
            }
            Err(error) => {
                tracing::debug!(backend = %upstream.addr, %service, %error, "endpoint could not be connected");
                let fail = |cause| {
                    endpoints.learn(&upstream, Outcome::Failure(cause), None, Moment::now(), &shared.stats);
                };
                match error {
                    ConnectError::Exhausted(_) | ConnectError::Taken(_) => {
                        add(&shared.stats.exhausted);
                        return None;
                    }
                    ConnectError::Full(_) => add(&shared.stats.exhausted),
                    ConnectError::Endpoint(_) => fail(Cause::Unconnected),
                    ConnectError::Untrusted(_) | ConnectError::Unspoken(_) => fail(Cause::Untrusted),
                }
                tried.push(upstream.addr);
                add(&shared.stats.retries);
            }
        }
    }
    None
}

/// By weight, at random; `None` when nobody has one.
fn choose(shares: &[StreamShare]) -> Option<&StreamShare> {
    let total: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = fastrand::u64(..total);
    shares.iter().find(|share| {
        let weight = u64::from(share.weight);
        let is_chosen = left < weight;
        left = left.saturating_sub(weight);
        is_chosen
    })
}

/// Relays until the end.
pub(super) async fn relay(shared: &Arc<Shared>, socket: &Socket, relay: Relay) {
    let Relay { client, endpoint: Endpoint { mut stream, pending: _pending, share: _share } } = relay;
    add(&shared.stats.streams);
    let copied = async {
        match client {
            Client::Raw(client, head) => {
                let write = stream.write_all(&head);
                let limit = shared.settings.write_timeout;
                tokio::time::timeout(limit, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                tunnel::copy(shared, client, stream).await
            }
            Client::Tls(client) => tunnel::copy(shared, *client, stream).await,
        }
    };
    tokio::select! {
        result = copied => {
            if let Err(error) = result {
                tracing::trace!(%error, "stream ended");
            }
        }
        gone = socket.gone(shared.settings.half_closed_timeout) => {
            gone.count(&shared.stats);
            tracing::trace!(?gone, "client is gone");
        }
    }
    sub(&shared.stats.streams);
}
