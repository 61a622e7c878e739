//! What the proxy would do with a request, without sending it: `sluice explain`, `GET /api/v1/explain`.
//!
//! In: a request as people write it, and what the proxy is told ([`HttpModel`]). Out: for each group of listeners that it could
//! come to, which of them has the host, which entries were passed over and why, and what follows. The request goes through
//! the same checks ([`request::canonicalise`]) and the same index ([`Site`]) as a client's. Before there is a request a client of
//! https names a server: that leads to a listener of HTTP, to a TLSRoute, or nowhere ([`tls`]).
mod asked;
mod outcome;
mod tls;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{StatusCode, header, request::Parts};
use serde::{Deserialize, Serialize};

pub use asked::Asked;

use self::{
    outcome::{Known, Outcome},
    tls::Begun,
};
use super::{
    exchange,
    forwarded::Claims,
    grpc,
    headers::Ends,
    hops::Hops,
    http1::Doubt,
    request::{self, Arrival, Canonical, Scheme},
    respond::LocalReply,
    router::{Routed, Site},
    settings::Settings,
};
use crate::model::http::{
    HttpEntry, HttpListener, HttpModel, RequestHead,
    limits::Limits,
    listing::RouteRow,
    matching::Failed,
    query::{Names, Query},
};

/// Entries that are listed as passed over, at most; the others are counted.
const MOST: usize = 100;

/// Who dials, where nobody says it.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What becomes of a request at one group of listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Where clients dial it.
    pub frontends: Vec<SocketAddr>,
    /// The listener that has the host, `namespace/gateway/listener`.
    pub listener: Option<String>,
    /// The host names of that listener, or of all where none has the host.
    pub hostnames: Vec<String>,
    /// What a connection must fulfil before there is a request, in words.
    #[serde(default)]
    pub conditions: Vec<String>,
    /// What was tried before, in order.
    pub passed_over: Vec<PassedOver>,
    /// How many more were.
    pub more: usize,
    /// What holds.
    pub matched: Option<RouteRow>,
    /// The status of the proxy's own answer; `None` where the request goes to a backend.
    pub status: Option<u16>,
    /// Whether the connection ends without any answer.
    #[serde(default)]
    pub ends: bool,
    /// The status of gRPC in that answer, where the request is one of gRPC.
    #[serde(default)]
    pub grpc_status: Option<u16>,
    /// The endpoint that the request goes to first, where it is determined; else `answer` says how it is chosen.
    #[serde(default)]
    pub endpoint: Option<SocketAddr>,
    /// What follows, in words.
    pub answer: String,
}

/// An entry that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    /// The route's kind.
    #[serde(default)]
    pub kind: String,
    /// The route, `namespace/name`.
    pub route: String,
    /// Which of its rules, from 0.
    pub rule: usize,
    /// What must hold, as in [`RouteRow::matches`].
    pub matches: String,
    /// The first thing that does not.
    pub reason: String,
}

/// Explains a request at every group of listeners that it could come to: those at `asked.at`, else those of its port. `ejected`
/// are the endpoints that are passed over now.
///
/// # Errors
/// Nothing listens there; the text says where something does.
pub fn explain(
    model: &HttpModel,
    ejected: &BTreeMap<SocketAddr, String>,
    asked: &Asked,
) -> Result<Vec<Explanation>, String> {
    let is_meant = |frontend: &SocketAddr| match asked.at {
        Some(at) => *frontend == at,
        None => frontend.port() == asked.port && asked.ip.is_none_or(|ip| ip == frontend.ip()),
    };
    let mut groups: Vec<(Vec<SocketAddr>, &Arc<Vec<HttpListener>>)> = Vec::new();
    let dialled = model.frontends.iter().map(|(frontend, listeners)| (model.dialled(*frontend), listeners));
    for (frontend, listeners) in dialled.filter(|(frontend, _)| is_meant(frontend)) {
        match groups.iter_mut().find(|(_, seen)| Arc::ptr_eq(seen, listeners)) {
            Some((frontends, _)) => frontends.push(frontend),
            None => groups.push((vec![frontend], listeners)),
        }
    }
    if groups.is_empty() {
        let known: Vec<_> = model.frontends.keys().take(MOST).map(|at| model.dialled(*at).to_string()).collect();
        let known = if known.is_empty() { "nowhere".to_owned() } else { format!("at {}", known.join(", ")) };
        return Err(format!("no listener is at {}: there are some {known}", asked.place()));
    }
    let known = Known { model, ejected, client: asked.client, is_grpc: grpc::is_grpc(&asked.parts().headers) };
    Ok(groups.into_iter().map(|(frontends, listeners)| at(known, asked, frontends, listeners)).collect())
}

fn at(known: Known<'_>, asked: &Asked, frontends: Vec<SocketAddr>, listeners: &Arc<Vec<HttpListener>>) -> Explanation {
    let mut out = Explanation {
        hostnames: listeners.iter().map(|listener| listener.hostname.to_string()).collect(),
        frontends,
        conditions: Vec::new(),
        listener: None,
        passed_over: Vec::new(),
        more: 0,
        matched: None,
        status: None,
        grpc_status: None,
        ends: false,
        endpoint: None,
        answer: String::new(),
    };
    let (model, is_grpc) = (known.model, known.is_grpc);
    let site = Site::new(Arc::clone(listeners));
    let local = out.frontends[0];
    if listeners.first().is_some_and(|listener| model.is_proxied(&listener.gateway, local.port())) {
        out.conditions.push("connections begin with a head of the PROXY protocol; others are cut off".to_owned());
    }
    let server_name = asked.server_name();
    let shaken = match tls::begun(&site, asked.is_https(), server_name.as_deref()) {
        Begun::Ended(reason) => return out.with(Outcome::ended(reason)),
        Begun::Stream(listener, entry) => return tls::stream(known, out, (listener, entry), server_name.as_deref()),
        Begun::Http(shaken) => shaken,
    };
    let (parts, host, is_tunnel) = match received(known, asked, &site, local) {
        Ok((parts, canonical)) => (parts, canonical.host, canonical.tunnel),
        Err(reply) => return out.refused(reply, is_grpc),
    };
    let host = host.as_str();
    if shaken.is_some() && shaken != site.listener_of(Some(host)) {
        let reply = LocalReply::new(StatusCode::MISDIRECTED_REQUEST, "the connection was made for another host");
        return out.refused(reply, is_grpc);
    }
    let has_host = listeners.iter().filter(|listener| listener.hostname.holds(host));
    let Some(listener) = has_host.min_by(|a, b| a.hostname.by_specificity(&b.hostname)) else {
        let reply = LocalReply::new(StatusCode::NOT_FOUND, "");
        return out.with(Outcome::own(reply, &format!("no listener has the host {host}"), is_grpc));
    };
    out.listener = Some(format!("{}/{}", listener.gateway, listener.name));
    out.hostnames = vec![listener.hostname.to_string()];
    let head = RequestHead {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    let found = match site.route(host, &head) {
        Routed::Entry(entry) => Some(entry),
        Routed::NoListener | Routed::NoEntry => None,
    };
    let tried = listener.entries.iter().take_while(|entry| found.is_none_or(|found| !std::ptr::eq(*entry, found)));
    for entry in tried {
        if out.passed_over.len() < MOST {
            out.passed_over.push(passed_over(entry, host, &head));
        } else {
            out.more += 1;
        }
    }
    let Some(entry) = found else {
        return out.refused(exchange::unrouted(is_tunnel), is_grpc);
    };
    let mut row = model.row(&out.frontends, listener, entry);
    row.note(known.ejected);
    let outcome = known.outcome(&entry.rule, &row.backends, &parts);
    out.matched = Some(row);
    out.with(outcome)
}

/// The request as rules see it: checked, in its one form, with what a trusted proxy says of the client.
///
/// # Errors
/// With what the client is told.
fn received(known: Known<'_>, asked: &Asked, site: &Site, local: SocketAddr) -> Result<(Parts, Canonical), LocalReply> {
    let peer = SocketAddr::new(known.client.unwrap_or(NOBODY), 0);
    let scheme = if site.is_secured() { Scheme::Https } else { Scheme::Http };
    let gateway = site.listeners().first().map(|listener| &listener.gateway);
    let limits = gateway.and_then(|gateway| known.model.limits.get(gateway).cloned()).unwrap_or_default();
    let Limits { length_beside_chunked, underscores, .. } = *limits;
    let (ends, max_fields) = (Ends::new(peer, local, scheme), Settings::default().max_headers);
    let mut parts = asked.parts();
    let framings = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    let doubt = framings.iter().all(|name| parts.headers.contains_key(name)).then_some(Doubt::TwoFramings);
    let arrival = Arrival { ends: &ends, has_body: false, max_fields, doubt, length_beside_chunked, underscores };
    let claims = Claims::of(&parts.headers, peer, &limits.trust);
    let canonical = request::canonicalise(&mut parts, arrival)?;
    if let Some(claims) = claims {
        claims.write(&mut parts.headers);
    }
    Hops::of(&parts.headers)?;
    Ok((parts, canonical))
}

fn passed_over(entry: &HttpEntry, host: &str, head: &RequestHead<'_>) -> PassedOver {
    let reason = if entry.hostname.holds(host) {
        let names: Names = entry.matches.query.iter().map(|q| q.name.as_str()).collect();
        let query = Query::new(head.query, &names);
        entry.matches.failed(head, &query).map_or_else(String::new, |failed: Failed<'_>| failed.to_string())
    } else {
        format!("the host is {host}, want {}", entry.hostname)
    };
    PassedOver {
        kind: entry.rule.kind.name().to_owned(),
        route: entry.rule.route.to_string(),
        rule: entry.rule.index,
        matches: entry.matches.to_string(),
        reason,
    }
}

impl Explanation {
    fn with(self, Outcome { status, grpc_status, endpoint, ends, answer }: Outcome) -> Self {
        Self { status, grpc_status, endpoint, ends, answer, ..self }
    }

    fn refused(self, reply: LocalReply, is_grpc: bool) -> Self {
        self.with(Outcome::own(reply, reply.reason, is_grpc))
    }
}
