//! What becomes of a request that a rule takes: which backend and endpoint would serve it, or what the proxy answers itself.
//!
//! In: the rule, its row, the request in its one form. Out: a sentence, the proxy's own status where each such request has it, and the
//! endpoint where it is determined: by a key, by a session, or because there is no other. Else the sentence says how it is chosen.
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use http::{StatusCode, request::Parts};

use super::super::{
    balance::{Maglev, key},
    cors::Grant,
    exchange, grpc,
    respond::LocalReply,
    session::Bound,
};
use crate::model::{
    http::{
        Action, HttpModel, HttpRule, ServicePort, Share, ShareTarget,
        balance::{Balancer, HashKey},
        listing::BackendRow,
    },
    stream_route::{StreamEntry, StreamShare, StreamTarget},
};

/// What is known beside the request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// What the proxy is told.
    pub model: &'a HttpModel,
    /// The endpoints that are passed over now.
    pub ejected: &'a BTreeMap<SocketAddr, String>,
    /// Who dials, where that is said.
    pub client: Option<IpAddr>,
    /// Whether the request is one of gRPC.
    pub is_grpc: bool,
}

/// What becomes of a request.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The status of the proxy's own answer, where each such request has it.
    pub status: Option<u16>,
    /// The status of gRPC in that.
    pub grpc_status: Option<u16>,
    /// The one endpoint that the request goes to first.
    pub endpoint: Option<SocketAddr>,
    /// Whether the connection ends without an answer.
    pub ends: bool,
    /// In words.
    pub answer: String,
}

impl Outcome {
    /// An answer of the proxy's own: to clients of gRPC in the form of gRPC.
    pub(super) fn own(reply: LocalReply, reason: &str, is_grpc: bool) -> Self {
        let LocalReply { status, reason: _, closes: _, code } = reply;
        let (status, grpc_status) = match is_grpc {
            true => (StatusCode::OK, Some(code.unwrap_or_else(|| grpc::of(status)) as u16)),
            false => (status, None),
        };
        let answer = match grpc_status {
            Some(grpc) => format!("{} with grpc-status {grpc}: {reason}", status.as_u16()),
            None => format!("{}: {reason}", status.as_u16()),
        };
        Self { status: Some(status.as_u16()), grpc_status, answer, ..Self::default() }
    }

    /// The connection ends, and the client learns no more.
    pub(super) fn ended(answer: String) -> Self {
        Self { ends: true, answer, ..Self::default() }
    }

    /// A response that is the same for clients of gRPC.
    fn plain(status: StatusCode, what: &str) -> Self {
        let status = status.as_u16();
        Self { status: Some(status), answer: format!("{status}: {what}"), ..Self::default() }
    }
}

impl Known<'_> {
    /// What a rule does with a request; `backends` are its shares as people read them.
    pub(super) fn outcome(&self, rule: &HttpRule, backends: &[BackendRow], parts: &Parts) -> Outcome {
        let grant = Grant::of(&rule.filters, &parts.headers);
        if let Some(response) = grant.and_then(|grant| grant.preflight(parts)) {
            return Outcome::plain(response.status(), "the answer to a preflight of CORS");
        }
        let shares = match &rule.action {
            Action::Redirect(to) => return Outcome::plain(to.status, "a redirect"),
            Action::Refuse(why) => return self.misconfigured(why),
            Action::Forward(shares) => shares,
        };
        let bound = rule.session.as_deref().map(|session| Bound::read(session, &parts.headers));
        let has = |port: &_, endpoint| self.model.addresses(port).contains(&endpoint);
        let session = bound.and_then(|bound| bound.share_of(shares, has));
        let rows = || shares.iter().zip(backends);
        if let Some((share, endpoint)) = session
            && let Some((share, row)) = rows().find(|(one, _)| std::ptr::eq(*one, share))
        {
            let found = self.of_share(share, row, parts);
            return match self.ejected.contains_key(&endpoint) || found.status.is_some() {
                true => found,
                false => Outcome {
                    endpoint: Some(endpoint),
                    answer: format!("{} at {endpoint}, which has the session", row.service),
                    ..Outcome::default()
                },
            };
        }
        let found = rows().map(|(share, row)| (share.weight, self.of_share(share, row, parts)));
        weighted(found).unwrap_or_else(|| self.misconfigured("no backend of the route has a weight"))
    }

    /// What becomes of a connection that a TLSRoute has.
    pub(super) fn stream(&self, entry: &StreamEntry, backends: &[BackendRow]) -> Outcome {
        let of_share = |(share, row): (&StreamShare, &BackendRow)| {
            let port = match (&share.to, &row.fault) {
                (_, Some(fault)) | (StreamTarget::Invalid(fault), None) => {
                    return (share.weight, Outcome::ended(format!("the connection ends: {fault}")));
                }
                (StreamTarget::Service(port), None) => port,
            };
            let outcome = match row.ready.is_empty() {
                true => Outcome::ended(format!("the connection ends: {} has no ready endpoint", row.service)),
                false => self.to(port, row, None),
            };
            (share.weight, outcome)
        };
        let found = weighted(entry.shares.iter().zip(backends).map(of_share));
        found.unwrap_or_else(|| Outcome::ended("the connection ends: no backend of the route has a weight".to_owned()))
    }

    fn misconfigured(&self, why: &str) -> Outcome {
        Outcome::own(LocalReply::misconfigured(""), why, self.is_grpc)
    }

    /// What becomes of a request that a share has.
    fn of_share(&self, share: &Share, row: &BackendRow, parts: &Parts) -> Outcome {
        let cluster = match &share.to {
            ShareTarget::Cluster(cluster) => cluster,
            ShareTarget::Invalid(fault) => return self.misconfigured(fault),
        };
        if let Err(reply) = exchange::crosses(cluster.transport, self.is_grpc) {
            return Outcome::own(reply, reply.reason, self.is_grpc);
        }
        if let Some(fault) = &row.fault {
            return self.misconfigured(fault);
        }
        if row.ready.is_empty() {
            let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "");
            return Outcome::own(reply, &format!("{} has no ready endpoint", row.service), self.is_grpc);
        }
        self.to(&cluster.port, row, Some(parts))
    }

    /// What is ready of a Service port, and which of it is chosen.
    fn to(&self, port: &ServicePort, row: &BackendRow, parts: Option<&Parts>) -> Outcome {
        let (endpoint, how) = self.endpoint(port, &row.ready, parts);
        let answer = match endpoint {
            Some(endpoint) => format!("{} at {endpoint}{how}", row.service),
            None => {
                let ready: Vec<_> = row.ready.iter().map(ToString::to_string).collect();
                format!("{} at {}{how}", row.service, ready.join(", "))
            }
        };
        Outcome { endpoint, answer, ..Outcome::default() }
    }

    /// The endpoint, where it is determined, and how one is chosen, where there is a choice.
    fn endpoint(
        &self,
        port: &ServicePort,
        ready: &[SocketAddr],
        parts: Option<&Parts>,
    ) -> (Option<SocketAddr>, String) {
        if let [only] = ready {
            return (Some(*only), String::new());
        }
        let fit = |at: &SocketAddr| !self.ejected.contains_key(at);
        let mut well = ready.iter().filter(|at| fit(at));
        match (well.next(), well.next()) {
            (None, _) => {
                return (None, ", the less busy of two at random: all are ejected, so that all are asked".into());
            }
            (Some(only), None) => return (Some(*only), ", the only one that is not ejected".to_owned()),
            (Some(_), Some(_)) => {}
        }
        let balance = self.model.balances.get(port);
        let chance = ", the less busy of two at random";
        match (balance.map(|balance| &balance.balancer), parts) {
            // A stream has no key.
            (None | Some(Balancer::LeastRequest), _) | (Some(Balancer::ConsistentHash(_)), None) => {
                (None, chance.to_owned())
            }
            (Some(Balancer::RoundRobin), _) => (None, ", one after the other".to_owned()),
            (Some(balancer @ Balancer::ConsistentHash(of)), Some(parts)) => {
                let (of, is_known) = match of {
                    HashKey::Client => ("the client's address".to_owned(), self.client.is_some()),
                    HashKey::Header(name) => (format!("the header {name}"), true),
                    HashKey::Cookie(name) => (format!("the cookie {name}"), true),
                };
                if !is_known {
                    return (None, format!(", by the hash of {of}: --client says it"));
                }
                let peer = self.client.unwrap_or(super::NOBODY);
                let Some(key) = key(balancer, &parts.headers, peer) else {
                    return (None, format!("{chance}: the request has not {of}, by whose hash they are chosen"));
                };
                (of_key(key, ready, fit), format!(", by the hash of {of}"))
            }
        }
    }
}

/// What becomes of what is spread by weight; `None` where nobody has one.
fn weighted(all: impl Iterator<Item = (u32, Outcome)>) -> Option<Outcome> {
    let mut found: Vec<(u32, Outcome)> = all.filter(|(weight, _)| *weight > 0).collect();
    if found.len() < 2 {
        return found.pop().map(|(_, one)| one);
    }
    let all = found.iter().map(|(weight, _)| *weight).fold(0, u32::saturating_add);
    let own = |one: &Outcome| (one.status, one.grpc_status, one.ends);
    let first = found.first().map(|(_, one)| own(one))?;
    let (status, grpc_status, ends) =
        if found.iter().all(|(_, one)| own(one) == first) { first } else { (None, None, false) };
    let words = found.iter().map(|(weight, one)| format!("weight {weight} of {all}: {}", one.answer));
    Some(Outcome { status, grpc_status, ends, endpoint: None, answer: words.collect::<Vec<_>>().join("; ") })
}

/// The first endpoint for a key that is fit, of the very table that the proxy has.
fn of_key(key: u64, ready: &[SocketAddr], fit: impl Fn(&SocketAddr) -> bool) -> Option<SocketAddr> {
    let mut sorted = ready.to_vec();
    sorted.sort_unstable();
    let keys = Maglev::new(sorted.iter().copied())?;
    keys.find(key, &sorted, fit).copied()
}
