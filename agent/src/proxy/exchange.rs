//! One request: checked, routed, sent upstream, answered.
//!
//! A request keeps the rule it was routed by, whatever the table becomes; only its endpoint is looked up late.
use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};

use super::{
    Shared,
    body::{Flow, RequestBody, ResponseBody},
    framing::{self, End},
    headers,
    hops::{HopFault, Hops},
    io::{Active, Activity},
    request::{self, Arrival, Canonical},
    respond,
    router::Routed,
    socket::Socket,
    stats::add,
    table::Table,
    tunnel,
    unread::Unread,
    upstream::{self, Sent},
};
use crate::model::http::{Action, HttpMatch, HttpRule, RequestHead, Share, ShareTarget};

/// A client's connection, as far as its requests need it.
#[derive(Debug)]
pub(super) struct Connection {
    /// What all connections share.
    pub shared: Arc<Shared>,
    /// The client.
    pub peer: SocketAddr,
    /// The address it dialled.
    pub local: SocketAddr,
    /// What the connection is doing.
    pub activity: Arc<Activity>,
    /// Its socket.
    pub socket: Arc<Socket>,
}

/// Answers one request.
pub(super) async fn serve(connection: Arc<Connection>, request: Request<Incoming>) -> Response<ResponseBody> {
    let stats = &connection.shared.stats;
    let active = Active::new(&connection.activity, stats);
    // Copied only where it is told.
    let head = tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), request.uri().clone()));
    let (parts, body) = request.into_parts();
    let (expects, version) = (parts.headers.contains_key(header::EXPECT), parts.version);
    let mut body = Some(body);
    let mut response = answer(&connection, parts, &mut body).await;
    if let Some(body) = body {
        response = Unread { body, expects, version }.settle(response).await;
    }
    if respond::is_closing(&response) {
        connection.activity.linger();
        // To an HTTP/1.0 client that asks for it hyper says `keep-alive` in answers of HTTP/1.1, beside our `close`.
        *response.version_mut() = version;
    }
    if let Some((method, uri)) = head {
        let (frontend, client, status) = (connection.local, connection.peer, response.status().as_u16());
        tracing::debug!(%frontend, %client, %method, %uri, status, "request answered");
    }
    stats.response(response.status());
    response.map(|body| body.counted(active))
}

/// The answer; `body` is taken where it goes upstream.
async fn answer(connection: &Connection, mut parts: Parts, body: &mut Option<Incoming>) -> Response<ResponseBody> {
    let shared = &connection.shared;
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let arrival = Arrival {
        peer: connection.peer,
        local: connection.local,
        has_body: body.as_ref().is_some_and(|body| !body.is_end_stream()),
        max_fields: shared.settings.max_headers,
    };
    let canonical = match request::canonicalise(&mut parts, arrival) {
        Ok(canonical) => canonical,
        Err(refusal) => {
            add(&shared.stats.refused_requests);
            add(&shared.stats.own_responses);
            return respond::closing(respond::plain(refusal.status, refusal.reason));
        }
    };
    let own = |status, reason: &str| {
        add(&shared.stats.own_responses);
        respond::plain(status, reason)
    };
    let hops = match Hops::of(&parts.headers) {
        Ok(hops) => hops,
        Err(HopFault::Loop) => return own(StatusCode::LOOP_DETECTED, "the request has come by here too often"),
        Err(HopFault::Long) => return own(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "cdn-loop is too long"),
    };
    let table = shared.table.load_full();
    let Some((matches, rule)) = route(&table, connection.local, &canonical, &parts) else {
        return own(StatusCode::NOT_FOUND, "no route matches the request");
    };
    let share = match &rule.action {
        Action::Forward(shares) => match choose(shares) {
            Some(share) => share,
            None => return own(StatusCode::INTERNAL_SERVER_ERROR, "no backend of the route has a weight"),
        },
        Action::Redirect(to) => {
            add(&shared.stats.own_responses);
            let mut response =
                respond::redirect(to, &canonical.host, &parts.uri, &matches.path, connection.local.port());
            rule.response.apply(response.headers_mut());
            return response;
        }
        Action::Refuse(_) => return own(StatusCode::INTERNAL_SERVER_ERROR, "the route cannot be served"),
    };
    let ShareTarget::Service(service) = &share.to else {
        return own(StatusCode::INTERNAL_SERVER_ERROR, "a backend of the route is not valid");
    };
    let version = parts.version;
    request::leave_hop(&mut parts.headers, canonical.trailers, shared.settings.start_traces);
    change(&mut parts, &rule, share, &matches);
    hops.write(&mut parts.headers);
    let websocket = upgrade.filter(|_| canonical.websocket);
    if websocket.is_some() {
        parts.headers.remove(header::TE);
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    let asked = Asked { version, trailers: canonical.trailers, websocket, flow: Flow::default() };
    let body = body.take().map_or_else(RequestBody::empty, |body| {
        RequestBody::new(body, shared.settings.body_timeout, asked.flow.clone())
    });
    let end = framing::frame_request(&mut parts, &body);
    match upstream::send(shared, &table, service, parts, body, rule.timeouts).await {
        Ok(mut sent) => {
            // Asked to switch, a backend may have done so whatever it answers.
            if end == End::Uncertain || asked.websocket.is_some() {
                sent.lease.invalidate();
            }
            finish(connection, sent, asked, share, &rule)
        }
        Err(failure) => {
            let (status, reason) = failure.answer();
            // The request's body may be half read.
            respond::closing(own(status, reason))
        }
    }
}

fn route(
    table: &Table,
    local: SocketAddr,
    canonical: &Canonical,
    parts: &Parts,
) -> Option<(Arc<HttpMatch>, Arc<HttpRule>)> {
    let head = RequestHead {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    match table.site(local)?.route(&canonical.host, &head) {
        Routed::Entry(entry) => Some((Arc::clone(&entry.matches), Arc::clone(&entry.rule))),
        Routed::NoListener | Routed::NoEntry => None,
    }
}

/// By weight, at random; `None` when nobody has one.
fn choose(shares: &[Share]) -> Option<&Share> {
    let total: u64 = shares.iter().map(|s| u64::from(s.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = fastrand::u64(..total);
    shares.iter().find(|share| {
        let weight = u64::from(share.weight);
        let chosen = left < weight;
        left = left.saturating_sub(weight);
        chosen
    })
}

/// Changes the request as the rule and the share want it, and gives it the form of HTTP/1.1.
fn change(parts: &mut Parts, rule: &HttpRule, share: &Share, matches: &HttpMatch) {
    rule.request.apply(&mut parts.headers);
    share.request.apply(&mut parts.headers);
    // A filter may have added one.
    request::join_cookies(&mut parts.headers);
    if let Some(rewrite) = &rule.rewrite {
        if let Some(host) = &rewrite.hostname {
            parts.headers.insert(header::HOST, host.clone());
        }
        if let Some(path) = &rewrite.path {
            let path = respond::changed(path, parts.uri.path(), &matches.path);
            let target = parts.uri.query().map_or_else(|| path.clone(), |q| format!("{path}?{q}"));
            if let Ok(target) = http::uri::PathAndQuery::try_from(target) {
                parts.uri = target.into();
            }
        }
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
}

/// What the form of a response depends on, of the request.
struct Asked {
    version: Version,
    /// The client takes trailers.
    trailers: bool,
    /// The client asked for a WebSocket.
    websocket: Option<OnUpgrade>,
    flow: Flow,
}

/// Brings a response into its form for the client.
fn finish(connection: &Connection, sent: Sent, asked: Asked, share: &Share, rule: &HttpRule) -> Response<ResponseBody> {
    let shared = &connection.shared;
    let Sent { mut response, mut lease, pending, deadline } = sent;
    let change = |headers: &mut HeaderMap| {
        share.response.apply(headers);
        rule.response.apply(headers);
    };
    let broken = |reason| {
        add(&shared.stats.upstream_errors);
        add(&shared.stats.own_responses);
        respond::plain(StatusCode::BAD_GATEWAY, reason)
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let agreed = headers::has_token(response.headers(), &header::UPGRADE, "websocket");
        let Some(client) = asked.websocket.filter(|_| agreed) else {
            return broken("the backend switched protocols unasked");
        };
        let active = Active::new(&connection.activity, &shared.stats);
        let socket = Arc::clone(&connection.socket);
        let mut response = tunnel::open(shared, client, socket, response, (pending, active, lease));
        // As Envoy and HAProxy do; nginx leaves 101 out. What belongs to the connection no filter changes.
        change(response.headers_mut());
        return response;
    }
    match framing::check_response(response.status(), response.headers_mut()) {
        Ok(End::Certain) => {}
        Ok(End::Uncertain) => lease.invalidate(),
        Err(framing::UnknownCoding) => return broken("the backend sent a transfer coding other than chunked"),
    }
    let early = is_early(&response, &asked);
    let declared = headers::declared_trailers(response.headers()).filter(|_| asked.trailers);
    headers::remove_hop_by_hop(response.headers_mut());
    response.headers_mut().extend(declared.map(|names| (header::TRAILER, names)));
    change(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    let length = response.headers().get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse().ok());
    let absent = length.filter(|_| response.status() == StatusCode::NOT_MODIFIED && asked.version != Version::HTTP_2);
    let response = response.map(|body| {
        let body = ResponseBody::upstream(body, Some(lease), pending, deadline).showing(asked.flow);
        match absent {
            Some(length) => body.absent(length),
            None => body,
        }
    });
    if early { respond::closing(response) } else { response }
}

/// Whether a backend has answered before the request was over and will not read the rest: it says so, or it has refused or
/// sent away the request. Then the client's connection ends with the answer, and the answer says it (RFC 9112 part 9.6);
/// it would end all the same. Where the backend reads on, both sides of the exchange flow and the connection stays.
fn is_early(response: &Response<Incoming>, asked: &Asked) -> bool {
    let unread = asked.version != Version::HTTP_2 && !asked.flow.request_is_read();
    unread
        && (response.version() == Version::HTTP_10
            || !response.status().is_success()
            || headers::has_token(response.headers(), &header::CONNECTION, "close"))
}
