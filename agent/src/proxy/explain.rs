//! What the proxy would do with a request, without sending it: `sluice explain`, `GET /api/v1/explain`.
//!
//! In: a request as people write it, and what the proxy is told ([`HttpModel`]). Out: for each group of listeners that it could
//! come to, which of them has the host, which entries were passed over and why, and what follows. The request goes through
//! the same checks ([`request::canonicalise`]) and the same index ([`Site`]) as a client's.
mod asked;

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::StatusCode;
use serde::{Deserialize, Serialize};

pub use asked::Asked;

use super::{
    connect,
    headers::Ends,
    request::{self, Arrival, Scheme},
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
    /// What was tried before, in order.
    pub passed_over: Vec<PassedOver>,
    /// How many more were.
    pub more: usize,
    /// What holds.
    pub matched: Option<RouteRow>,
    /// The status of the proxy's own answer; `None` where the request goes to a backend.
    pub status: Option<u16>,
    /// What follows, in words.
    pub answer: String,
}

/// An entry that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PassedOver {
    /// The HTTPRoute, `namespace/name`.
    pub route: String,
    /// Which of its rules, from 0.
    pub rule: usize,
    /// What must hold, as in [`RouteRow::matches`].
    pub matches: String,
    /// The first thing that does not.
    pub reason: String,
}

/// Explains a request at every group of listeners that it could come to: those at `asked.at`, else those of its port.
///
/// # Errors
/// Nothing listens there; the text says where something does.
pub fn explain(model: &HttpModel, asked: &Asked) -> Result<Vec<Explanation>, String> {
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
    Ok(groups.into_iter().map(|(frontends, listeners)| at(model, asked, frontends, listeners)).collect())
}

fn at(model: &HttpModel, asked: &Asked, frontends: Vec<SocketAddr>, listeners: &Arc<Vec<HttpListener>>) -> Explanation {
    let mut out = Explanation {
        hostnames: listeners.iter().map(|listener| listener.hostname.to_string()).collect(),
        frontends,
        listener: None,
        passed_over: Vec::new(),
        more: 0,
        matched: None,
        status: None,
        answer: String::new(),
    };
    let peer = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let max_fields = Settings::default().max_headers;
    let is_secured = listeners.iter().any(|listener| listener.tls.is_some());
    let scheme = if is_secured { Scheme::Https } else { Scheme::Http };
    let limits =
        listeners.first().and_then(|listener| model.limits.get(&listener.gateway).cloned()).unwrap_or_default();
    let Limits { length_beside_chunked, underscores, .. } = *limits;
    let local = out.frontends[0];
    let ends = Ends::new(peer, local, scheme);
    let arrival = Arrival { ends: &ends, has_body: false, max_fields, doubt: None, length_beside_chunked, underscores };
    let mut parts = asked.parts();
    let canonical = match request::canonicalise(&mut parts, arrival) {
        Ok(canonical) => canonical,
        Err(refusal) => return out.answered(refusal.status, refusal.reason),
    };
    let host = canonical.host.as_str();
    let has_host = listeners.iter().filter(|listener| listener.hostname.holds(host));
    let Some(listener) = has_host.min_by(|a, b| a.hostname.by_specificity(&b.hostname)) else {
        return out.answered(StatusCode::NOT_FOUND, &format!("no listener has the host {host}"));
    };
    out.listener = Some(format!("{}/{}", listener.gateway, listener.name));
    out.hostnames = vec![listener.hostname.to_string()];
    let head = RequestHead {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    let site = Site::new(Arc::clone(listeners));
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
        return if canonical.tunnel {
            out.answered(StatusCode::METHOD_NOT_ALLOWED, connect::UNSERVED)
        } else {
            out.answered(StatusCode::NOT_FOUND, "no route matches the request")
        };
    };
    let row = model.row(&out.frontends, listener, entry);
    (out.status, out.answer) = row.outcome(&entry.rule.action);
    out.matched = Some(row);
    out
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
        route: entry.rule.route.to_string(),
        rule: entry.rule.index,
        matches: entry.matches.to_string(),
        reason,
    }
}

impl Explanation {
    fn answered(mut self, status: StatusCode, reason: &str) -> Self {
        (self.status, self.answer) = (Some(status.as_u16()), format!("{}: {reason}", status.as_u16()));
        self
    }
}
