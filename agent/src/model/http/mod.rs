//! What the proxy must do: frontends, listeners, rules in precedence order, and the backends of each Service port.
//!
//! Written by `model::gateway` and `model::route`, read by `proxy`. Nothing here does I/O; everything is immutable and
//! compares, so that the proxy can keep what did not change. Endpoints live apart from rules: an EndpointSlice that
//! changes leaves every rule as it was.
//!
//! # Design
//! - Which rule a request gets is decided by order alone: the listener with the most specific host name, then its
//!   entries from the first to the last. `proxy::router` answers the same question faster; a property test compares.
//! - Paths are compared in the normal form of [`path::normalise`], on both sides.
pub mod balance;
pub mod claim;
pub mod cluster;
pub mod cors;
pub mod entries;
pub(crate) mod escape;
pub mod filter;
pub mod host;
pub mod limits;
pub mod listing;
pub mod matching;
pub mod path;
pub mod query;
mod retry;
pub mod session;
pub(crate) mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

pub use cluster::{Cluster, Transport};
pub use entries::Entries;
pub use filter::{Filter, HeaderEdits, PathChange, Redirect, Rewrite};
pub use host::Hostname;
pub use matching::{HttpMatch, Pattern, RequestHead};
pub use retry::{Retry, RetryBudget};

use super::{
    Backend, Port, backend_tls::PortTls, certificate::Certificate, stream_route::StreamEntry, tls::Termination,
};
use crate::{
    api::{ObjectName, RouteKind},
    shared::SharedMap,
};

/// The layer 7 part of a [`super::Model`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpModel {
    /// What clients dial -> the listeners there. Addresses that share listeners share the `Arc`.
    pub frontends: BTreeMap<SocketAddr, Arc<Vec<HttpListener>>>,
    /// Those among them that pods of this node are led to -> what they dial instead: a Service's ClusterIP.
    pub mesh: BTreeMap<SocketAddr, SocketAddr>,
    /// The backends of each Service port that some rule names: distinct, in order; empty when none is ready.
    pub services: SharedMap<ServicePort, Arc<Vec<Backend>>>,
    /// How those of them are balanced of which somebody says something.
    pub balances: BTreeMap<ServicePort, Arc<balance::Balance>>,
    /// The ports among them whose endpoints are spoken to under TLS, or not at all.
    pub tls: BTreeMap<ServicePort, PortTls>,
    /// Who the Gateways are, that show a certificate, to the backends of such ports.
    pub identities: BTreeMap<ObjectName, Identity>,
    /// How the Gateways are served that say so.
    pub limits: BTreeMap<ObjectName, Arc<limits::Limits>>,
}

impl HttpModel {
    /// What clients dial, of an address that the proxy serves.
    #[must_use]
    pub fn dialled(&self, at: SocketAddr) -> SocketAddr {
        self.mesh.get(&at).copied().unwrap_or(at)
    }

    /// Whether connections to a Gateway's port begin with a head of the PROXY protocol.
    #[must_use]
    pub fn is_proxied(&self, gateway: &ObjectName, port: u16) -> bool {
        self.limits.get(gateway).is_some_and(|limits| limits.proxy_ports.contains(&port))
    }
}

/// Who a Gateway is to backends that it speaks TLS to.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The certificate that it shows; else why there is none, and then it does not speak to them.
    pub certificate: Result<Arc<Certificate>, String>,
    /// The ports that its routes name and that have a policy.
    pub ports: BTreeSet<ServicePort>,
}

/// One listener of a Gateway. Host names are distinct within a frontend.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpListener {
    /// The Gateway.
    pub gateway: ObjectName,
    /// The listener's name in the Gateway.
    pub name: String,
    /// Which requests are its own; no other listener is asked for them.
    pub hostname: Hostname,
    /// How it terminates TLS; `None` where clients speak clear text, or TLS is passed through.
    pub tls: Option<Arc<Termination>>,
    /// The TLSRoutes, the oldest first, of a listener that passes streams on; `None` of one that serves HTTP.
    pub streams: Option<Arc<Vec<StreamEntry>>>,
    /// What it does, first match wins.
    pub entries: Entries,
}

/// One match of one rule under one host name.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpEntry {
    /// The host name as the route has it.
    pub hostname: Hostname,
    /// What else must hold.
    pub matches: Arc<HttpMatch>,
    /// What is done then.
    pub rule: Arc<HttpRule>,
}

/// What is done with a request.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRule {
    /// Whether it is of a HTTPRoute or of a GRPCRoute.
    pub kind: RouteKind,
    /// The route.
    pub route: ObjectName,
    /// Which of its rules, from 0.
    pub index: usize,
    /// The rule's name, where it has one.
    pub name: Option<String>,
    /// What is changed on the way, in this order.
    pub filters: Vec<Filter>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// What is tried again; `None` where the rule says nothing.
    pub retry: Option<Retry>,
    /// Who has been at an endpoint comes back to it; `None`: to any.
    pub session: Option<Arc<session::Session>>,
    /// Where it goes.
    pub action: Action,
}

impl HttpRule {
    /// The Service ports that requests go to, those of mirrors among them; some may be there twice.
    pub fn services(&self) -> impl Iterator<Item = &ServicePort> {
        let shares = match &self.action {
            Action::Forward(shares) => shares.as_slice(),
            Action::Redirect(_) | Action::Refuse(_) => &[],
        };
        let backends = shares.iter().filter_map(|share| match &share.to {
            ShareTarget::Cluster(cluster) => Some(&cluster.port),
            ShareTarget::Invalid(_) => None,
        });
        let filters = self.filters.iter().chain(shares.iter().flat_map(|share| &share.filters));
        backends.chain(filters.filter_map(Filter::service))
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To one of these, by weight.
    Forward(Vec<Share>),
    /// Back to the client.
    Redirect(Redirect),
    /// Nowhere: 500, because the rule cannot be obeyed. The text says why.
    Refuse(String),
}

/// A part of a rule's requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// The weight; may be 0.
    pub weight: u32,
    /// Who gets it.
    pub to: ShareTarget,
    /// What is changed on the way to this backend, after the rule's filters, and on the way back, before them.
    pub filters: Vec<Filter>,
}

/// Who gets a share.
#[derive(Clone, Debug, PartialEq)]
pub enum ShareTarget {
    /// The backends of a Service port, spoken to in this way: 503 when there are none.
    Cluster(Cluster),
    /// Nobody: 500, because the reference is bad. The text says why.
    Invalid(String),
}

/// A port of a Service. Written `namespace/name:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServicePort {
    /// The Service.
    pub service: ObjectName,
    /// Its port, not the endpoints'.
    pub port: Port,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// How long a request may take; `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's head to the end of the response, over all tries.
    pub request: Option<Duration>,
    /// For one try, likewise to the end of the response.
    pub backend: Option<Duration>,
}
