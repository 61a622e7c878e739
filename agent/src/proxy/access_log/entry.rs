//! One line before it has its form.
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use http::{HeaderValue, StatusCode, Version};

use super::Line;
use crate::{
    api::{ObjectName, RouteKind},
    proxy::metrics::{Attempts, Cut, GRPC_CODES},
};

/// How much of a target is logged. Beyond it it is cut, and ends with dots. Units: bytes.
const TARGET: usize = 4096;
/// How much of another field. Units: bytes.
const FIELD: usize = 512;
/// What stands for the rest.
const CUT: &[u8] = b"...";
/// The status of a request whose client left before there was one, as in nginx.
const CLIENT_LEFT: u16 = 499;
/// Statuses of gRPC that are a server's failures. Source: OpenTelemetry's semantic conventions for gRPC, of spans of servers.
const GRPC_FAILURES: [u8; 6] = [2, 4, 12, 13, 14, 15];

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct Outcome {
    /// `None`: the client left before there was one.
    pub status: Option<u16>,
    /// That of gRPC.
    pub grpc: Option<u8>,
    /// Who cut the response, if anybody.
    pub cut: Option<Cut>,
    /// Why the proxy answered itself, if it did.
    pub reason: Option<&'static str>,
    /// Of its bodies. Units: bytes.
    pub received: u64,
    pub sent: u64,
    pub took: Duration,
    /// Where it was sent.
    pub attempts: Attempts,
}

impl Outcome {
    /// Whether it failed, and not for what the client asked.
    pub(super) fn is_error(&self) -> bool {
        let is_grpc_failure = self.grpc.is_some_and(|code| GRPC_FAILURES.contains(&code));
        self.cut.is_some() || is_grpc_failure || self.status.is_none_or(|status| status >= 500)
    }

    fn reason(&self) -> Option<&'static str> {
        let cut = self.cut.map(|cut| match cut {
            Cut::Client => "the client left before the end of the response",
            Cut::Backend => "the backend broke off its response",
            Cut::Timeout => "the route's timeout was over before the end of the response",
        });
        let left = self.status.is_none().then_some("the client left before the response");
        self.reason.or(left).or(cut)
    }
}

/// See the module. Each text is bounded.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) at: SystemTime,
    pub(super) client: Vec<u8>,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) method: String,
    pub(super) scheme: &'static str,
    pub(super) authority: Option<Vec<u8>>,
    pub(super) target: Vec<u8>,
    pub(super) protocol: &'static str,
    pub(super) status: u16,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) took: Duration,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) retries: u32,
    pub(super) gateway: ObjectName,
    pub(super) listener: Option<Box<str>>,
    pub(super) rule: Option<(RouteKind, ObjectName, usize)>,
    pub(super) request_id: Option<Vec<u8>>,
    pub(super) user_agent: Option<Vec<u8>>,
    pub(super) referer: Option<Vec<u8>>,
    pub(super) tls: Option<(&'static str, Option<Vec<u8>>)>,
    pub(super) grpc: Option<&'static str>,
    pub(super) reason: Option<&'static str>,
}

impl Default for Entry {
    fn default() -> Self {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            at: SystemTime::UNIX_EPOCH,
            client: Vec::new(),
            peer: nobody,
            local: nobody,
            method: String::new(),
            scheme: "http",
            authority: None,
            target: Vec::new(),
            protocol: "HTTP/1.1",
            status: StatusCode::OK.as_u16(),
            received: 0,
            sent: 0,
            took: Duration::ZERO,
            endpoint: None,
            retries: 0,
            gateway: ObjectName::default(),
            listener: None,
            rule: None,
            request_id: None,
            user_agent: None,
            referer: None,
            tls: None,
            grpc: None,
            reason: None,
        }
    }
}

impl Entry {
    /// What was noted, with what became of it; with the queries of targets or without.
    pub(super) fn of(line: Line, outcome: Outcome, keeps_query: bool) -> Self {
        let Line {
            is_sampled: _,
            connection,
            at,
            method,
            target,
            version,
            authority,
            client,
            user_agent,
            referer,
            request_id,
            rule,
            listener,
        } = line;
        let field = |value: Option<HeaderValue>| value.map(|value| bounded(value.as_bytes(), FIELD));
        let path = if keeps_query { target.path_and_query().map_or("", |all| all.as_str()) } else { target.path() };
        let peer = connection.ends.peer;
        let authority = field(authority).or_else(|| Some(bounded(target.authority()?.as_str().as_bytes(), FIELD)));
        Self {
            at,
            client: field(client).unwrap_or_else(|| peer.ip().to_string().into_bytes()),
            peer,
            local: connection.ends.local,
            method: String::from_utf8_lossy(&bounded(method.as_str().as_bytes(), FIELD)).into_owned(),
            scheme: connection.ends.scheme.as_str(),
            authority,
            target: bounded(path.as_bytes(), TARGET),
            protocol: match version {
                Version::HTTP_10 => "HTTP/1.0",
                Version::HTTP_2 => "HTTP/2.0",
                _ => "HTTP/1.1",
            },
            status: outcome.status.unwrap_or(CLIENT_LEFT),
            received: outcome.received,
            sent: outcome.sent,
            took: outcome.took,
            endpoint: outcome.attempts.endpoint,
            retries: outcome.attempts.retries,
            gateway: connection.tenant.name.clone(),
            listener,
            rule: rule.map(|rule| (rule.kind, rule.route.clone(), rule.index)),
            request_id: field(request_id),
            user_agent: field(user_agent),
            referer: field(referer.map(|value| without_query(value, keeps_query))),
            tls: connection
                .tls
                .as_ref()
                .map(|tls| (tls.version, tls.name.as_ref().map(|n| bounded(n.as_bytes(), FIELD)))),
            grpc: outcome.grpc.map(|code| GRPC_CODES[usize::from(code)]),
            reason: outcome.reason(),
        }
    }
}

/// At most so much of a text.
fn bounded(text: &[u8], most: usize) -> Vec<u8> {
    if text.len() <= most { text.to_vec() } else { [&text[..most], CUT].concat() }
}

/// A URL without its query, unless that is logged: what is a secret in a target is one in the page that leads to it.
fn without_query(url: HeaderValue, keeps: bool) -> HeaderValue {
    let bytes = url.as_bytes();
    match bytes.iter().position(|byte| matches!(byte, b'?' | b'#')) {
        Some(at) if !keeps => HeaderValue::from_bytes(&bytes[..at]).unwrap_or(url),
        _ => url,
    }
}
