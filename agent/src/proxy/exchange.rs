//! One request: checked, routed, sent upstream, answered.
//!
//! A request keeps the rule it was routed by, whatever the table becomes; only its endpoint is looked up late.
use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::{
    body::{Body as _, Incoming},
    upgrade::OnUpgrade,
};
use tokio::{sync::Notify, time::Instant};

use super::{
    Shared,
    balance::Wish,
    body::{Flow, RequestBody, ResponseBody},
    connect::{self, Tunnel},
    cors::Grant,
    filters,
    forwarded::Claims,
    framing::{self, End},
    grpc,
    headers::{self, Ends},
    held::Room,
    hops::Hops,
    http1::{Announced, Doubt, Trailers},
    io::{Active, Activity},
    metrics::Record,
    mirror::{self, Tee},
    own::Own,
    request::{self, Arrival, Canonical},
    respond::{self, LocalReply},
    router,
    session::Bound,
    socket::Socket,
    stats::add,
    table::Table,
    tenant::Tenant,
    tunnel::{self, Handshake},
    unread::Unread,
    upstream::{self, Order, Sent},
    websocket,
};
use crate::model::http::{Action, HttpEntry, HttpMatch, HttpRule, Redirect, RequestHead, ShareTarget, Transport};

/// A client's connection, as far as its requests need it.
#[derive(Debug)]
pub(super) struct Connection {
    /// What all connections share.
    pub shared: Arc<Shared>,
    /// Who speaks with whom.
    pub ends: Ends,
    /// What its TLS handshake was; `None` in clear text.
    pub tls: Option<Secure>,
    /// What the connection is doing.
    pub activity: Arc<Activity>,
    /// Its socket.
    pub socket: Arc<Socket>,
    /// Where the trailers of responses are written, if it speaks HTTP/1.1.
    pub trailers: Trailers,
    /// What the stream below hyper is told, if it speaks HTTP/1.1.
    pub announced: Arc<Announced>,
    /// The Gateway.
    pub tenant: Arc<Tenant>,
    /// What it may hold in memory.
    pub room: Room,
    /// When it gets too old.
    pub expiry: Option<Instant>,
    /// What it has of endpoints for itself.
    pub own: Own,
    /// Told when the last request has begun that it may have.
    pub spent: Notify,
}

impl Connection {
    /// Whether it may have no further request.
    fn is_spent(&self) -> bool {
        let most = self.tenant.limits.requests_per_connection;
        self.socket.is_ending()
            || most.is_some_and(|most| self.activity.begun() >= most)
            || self.expiry.is_some_and(|at| at <= Instant::now())
    }

    /// Returns when it may have no further request.
    pub(super) async fn spent(&self) {
        let old = async {
            match self.expiry {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { () = old => {}, () = self.spent.notified() => {} }
    }
}

/// A TLS handshake that was made.
#[derive(Debug)]
pub(super) struct Secure {
    /// The server name that the client asked for, if it did.
    pub name: Option<Box<str>>,
    /// The version of TLS.
    pub version: &'static str,
}

/// Answers one request.
pub(super) async fn serve(connection: Arc<Connection>, request: Request<Incoming>) -> Response<ResponseBody> {
    let stats = &connection.shared.stats;
    let share = connection.tenant.try_request();
    let is_full = share.is_none();
    let mut record = Record::begin(request.method());
    record.line = connection.shared.settings.access_log.as_ref().and_then(|log| log.begin(&connection, &request));
    let mut active = Active::new(&connection.activity, stats, share, record);
    // Copied only where it is told.
    let head = tracing::enabled!(tracing::Level::DEBUG).then(|| (request.method().clone(), request.uri().clone()));
    let (parts, body) = request.into_parts();
    let (expects, version) = (parts.headers.contains_key(header::EXPECT), parts.version);
    let connects = parts.method == Method::CONNECT && version != Version::HTTP_2;
    let mut body = Some(body);
    active.record.is_grpc = grpc::is_grpc(&parts.headers);
    let answer = if is_full {
        let full = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "the Gateway has as many requests as it may have");
        Err(LocalReply { code: Some(grpc::Code::ResourceExhausted), ..full })
    } else {
        routed(&connection, parts, &mut body, &mut active.record).await
    };
    let mut response = answer.unwrap_or_else(|reply| local(&connection, reply, &mut active.record));
    if active.record.counts.is_none() {
        let shared = &connection.shared;
        active.record.counts = shared.metrics.unrouted(shared.worker, &connection.tenant);
    }
    if let Some(body) = body {
        response = Unread { body, expects, version }.settle(response).await;
    }
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS || (connects && response.status().is_success());
    if connects && !switches {
        // What follows may be meant for the tunnel.
        response = respond::closing(response);
    }
    if connection.is_spent() && !switches {
        connection.spent.notify_one();
        response = respond::closing(response);
    }
    // Its end is that of the connection: a promise of the next request's would not be kept (RFC 9112 part 9.3).
    if version == Version::HTTP_10 && response.body().size_hint().exact().is_none() {
        response = respond::closing(response);
    }
    if respond::is_closing(&response) {
        connection.activity.linger();
        // To an HTTP/1.0 client that asks for it hyper says `keep-alive` in answers of HTTP/1.1, beside our `close`.
        *response.version_mut() = version;
    }
    if let Some((method, uri)) = head {
        let (frontend, client, status) = (connection.ends.local, connection.ends.peer, response.status().as_u16());
        tracing::debug!(%frontend, %client, %method, %uri, status, "request answered");
    }
    stats.response(response.status());
    active.record.status = Some(response.status().as_u16());
    active.record.read_status(response.headers());
    response.map(|body| body.counted(active))
}

/// An answer of the proxy's own, in the form that the client reads.
fn local(connection: &Connection, reply: LocalReply, record: &mut Record) -> Response<ResponseBody> {
    add(&connection.shared.stats.own_responses);
    record.reason = Some(reply.reason);
    if record.is_grpc { grpc::reply(reply) } else { reply.response() }
}

/// Finds the rule for a request and does what it says; `body` is taken where it goes upstream.
///
/// # Errors
/// With what the client is told, where there is none.
async fn routed(
    connection: &Connection,
    mut parts: Parts,
    body: &mut Option<Incoming>,
    record: &mut Record,
) -> Result<Response<ResponseBody>, LocalReply> {
    let shared = &connection.shared;
    let canonical = canonical(connection, &mut parts, body.as_ref())?;
    record.line.iter_mut().for_each(|line| line.client(&parts.headers));
    let hops = Hops::of(&parts.headers)?;
    let table = shared.table.load_full();
    if is_misdirected(&table, connection, &canonical.host) {
        add(&shared.stats.misdirected);
        return Err(LocalReply::new(StatusCode::MISDIRECTED_REQUEST, "the connection was made for another host"));
    }
    let entry = route(&table, connection.ends.local, &canonical, &parts)?;
    let rule = &*entry.rule;
    record.counts = shared.metrics.of_rule(shared.worker, &connection.tenant, &entry.rule);
    if let Some(line) = &mut record.line {
        line.routed(&entry.rule, table.site(connection.ends.local), &canonical.host);
    }
    let grant = Grant::of(&rule.filters, &parts.headers);
    if let Some(response) = grant.as_ref().and_then(|grant| grant.preflight(&parts)) {
        add(&shared.stats.own_responses);
        record.reason = Some("a preflight of CORS");
        return Ok(response);
    }
    let routed = Routed { table: &table, canonical, hops, matches: &entry.matches, rule, record: &mut *record };
    Ok(match forward(connection, parts, body, routed, grant.as_ref()).await {
        Ok(response) => response,
        Err(reply) => {
            let mut response = local(connection, reply, record);
            // Pages read what went wrong only if they may.
            grant.iter().for_each(|grant| grant.apply(response.headers_mut()));
            response
        }
    })
}

/// A request with its rule.
struct Routed<'a> {
    table: &'a Arc<Table>,
    canonical: Canonical,
    hops: Hops,
    matches: &'a HttpMatch,
    rule: &'a HttpRule,
    record: &'a mut Record,
}

/// Does what a rule says, step by step.
///
/// # Errors
/// With what the client is told, where the request goes no further.
async fn forward(
    connection: &Connection,
    mut parts: Parts,
    body: &mut Option<Incoming>,
    routed: Routed<'_>,
    grant: Option<&Grant<'_>>,
) -> Result<Response<ResponseBody>, LocalReply> {
    let shared = &connection.shared;
    let bound = routed.rule.session.as_deref().map(|session| Bound::read(session, &parts.headers));
    let (share, endpoint) = match &routed.rule.action {
        Action::Forward(shares) => match bound.as_ref().and_then(|bound| bound.share(routed.table, shares)) {
            Some((share, endpoint)) => (share, Some(endpoint)),
            None => (shared.lots.draw(routed.rule, shares)?, None),
        },
        Action::Redirect(to) => {
            routed.record.reason = Some("redirected by the route");
            return Ok(redirect(connection, to, &parts, &routed, grant));
        }
        Action::Refuse(_) => return Err(LocalReply::misconfigured("the route cannot be served")),
    };
    let ShareTarget::Cluster(cluster) = &share.to else {
        return Err(LocalReply::misconfigured("a backend of the route is not valid"));
    };
    let Routed { table, canonical, hops, matches, rule, record } = routed;
    let is_grpc = record.is_grpc;
    crosses(cluster.transport, is_grpc)?;
    let tenant = &connection.tenant;
    let endpoints = table.cluster(&tenant.name, &cluster.port);
    let key = endpoints.and_then(|all| all.key(&parts.headers, connection.ends.peer.ip()));
    let wish = Wish { endpoint, key };
    let (version, upgrade) = (parts.version, parts.extensions.remove::<OnUpgrade>());
    request::leave_hop(&mut parts.headers, canonical.trailers, shared.settings.start_traces);
    record.line.iter_mut().for_each(|line| line.request_id(&parts.headers));
    let mut copies = filters::change_request(&mut parts, &rule.filters, &share.filters, &matches.path);
    copies.iter_mut().for_each(|copy| hops.clone().write(&mut copy.parts().headers));
    hops.write(&mut parts.headers);
    let client = upgrade.filter(|_| canonical.websocket || canonical.tunnel);
    copies.retain(|_| client.is_none());
    upstream_form(&mut parts);
    let handshake = match client {
        None => None,
        Some(client) if canonical.tunnel => {
            let tunnel = Tunnel::begin(client, &canonical.authority, &mut parts);
            Some(Handshake::Connect(tunnel.map_err(LocalReply::misconfigured)?))
        }
        Some(client) => Some(Handshake::WebSocket(websocket::Handshake::begin(client, version, &mut parts))),
    };
    let mut asked = Asked { version, trailers: canonical.trailers, handshake, is_grpc, flow: Flow::of(body.as_ref()) };
    record.flow = asked.flow.clone();
    let source = connection.ends.source();
    let body = body.take();
    let tee = mirror::send(shared, (table, tenant, source), copies, (body.as_ref(), asked.trailers), rule.timeouts);
    let body = upstream_body(connection, body, tee, &asked);
    let end = framing::frame_request(&mut parts, &body);
    let (timeouts, retry) = (rule.timeouts, rule.retry.as_ref());
    let attempts = &mut record.attempts;
    let own = &connection.own;
    let order = Order { endpoints, tenant, cluster, source, own, wish, timeouts, retry, is_grpc, attempts };
    let mut sent = upstream::send(shared, order, parts, body).await?;
    if let Some(handshake) = &mut asked.handshake {
        handshake.asked(sent.lease.is_stream());
    }
    // Asked to switch, a backend may have done so whatever it answers.
    if end == End::Uncertain || asked.handshake.is_some() {
        sent.lease.invalidate();
    }
    let served = (&cluster.port, sent.endpoint);
    finish(connection, sent, asked, record, |headers| {
        filters::change_response(headers, &share.filters, None);
        filters::change_response(headers, &rule.filters, grant);
        if let Some(bound) = &bound {
            bound.write(headers, served, connection.tls.is_some());
        }
    })
}

/// Brings a request's head into its one form.
fn canonical(connection: &Connection, parts: &mut Parts, body: Option<&Incoming>) -> Result<Canonical, LocalReply> {
    let arrival = Arrival {
        ends: &connection.ends,
        has_body: body.is_some_and(|body| !body.is_end_stream()),
        max_fields: connection.shared.settings.max_headers,
        doubt: parts.extensions.remove::<Doubt>(),
        length_beside_chunked: connection.tenant.limits.length_beside_chunked,
        underscores: connection.tenant.limits.underscores,
    };
    let claims = Claims::of(&parts.headers, connection.ends.peer, &connection.tenant.limits.trust);
    let canonical = request::canonicalise(parts, arrival).map_err(|refusal| {
        add(&connection.shared.stats.refused_requests);
        LocalReply::from(refusal)
    })?;
    if let Some(claims) = claims {
        claims.write(&mut parts.headers);
    }
    Ok(canonical)
}

/// Whether a request is for another listener than the one whose certificate the client has seen. Clients use a connection for
/// every name that its certificate has (RFC 9113 part 9.1.1), and other listeners may ask for more of their clients.
fn is_misdirected(table: &Table, connection: &Connection, host: &str) -> bool {
    let (Some(Secure { name, version: _ }), Some(site)) = (&connection.tls, table.site(connection.ends.local)) else {
        return false;
    };
    site.listener_of(name.as_deref()) != site.listener_of(Some(host))
}

fn route<'a>(
    table: &'a Table,
    local: SocketAddr,
    canonical: &Canonical,
    parts: &Parts,
) -> Result<&'a HttpEntry, LocalReply> {
    let head = RequestHead {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query(),
        headers: &parts.headers,
    };
    match table.site(local).map(|site| site.route(&canonical.host, &head)) {
        Some(router::Routed::Entry(entry)) => Ok(entry),
        Some(router::Routed::NoEntry) => Err(unrouted(canonical.tunnel)),
        Some(router::Routed::NoListener) | None => Err(unrouted(false)),
    }
}

/// What a client is told whose request no rule has; `tunnel`: at a listener that has its host it asks for a tunnel.
pub(super) fn unrouted(tunnel: bool) -> LocalReply {
    if tunnel {
        return LocalReply::new(StatusCode::METHOD_NOT_ALLOWED, connect::UNSERVED);
    }
    LocalReply::new(StatusCode::NOT_FOUND, "no route matches the request")
}

/// Sends the client elsewhere, as the rule wants it.
fn redirect(
    connection: &Connection,
    to: &Redirect,
    parts: &Parts,
    routed: &Routed<'_>,
    grant: Option<&Grant<'_>>,
) -> Response<ResponseBody> {
    add(&connection.shared.stats.own_responses);
    let (host, listener) = (&routed.canonical.host, (connection.ends.scheme, connection.ends.local.port()));
    let mut response = respond::redirect(to, host, &parts.uri, &routed.matches.path, listener);
    filters::change_response(response.headers_mut(), &routed.rule.filters, grant);
    response
}

/// Whether a request has a form for a backend that is spoken to like this.
///
/// # Errors
/// With what the client is told.
pub(super) fn crosses(transport: Transport, is_grpc: bool) -> Result<(), LocalReply> {
    let unserved = |reason| Err(LocalReply::new(StatusCode::NOT_IMPLEMENTED, reason));
    match transport {
        // Its trailers would be lost, and with them the status of every call (checklist H99).
        Transport::Http1 if is_grpc => unserved(
            "gRPC needs a backend of HTTP/2, and this one is spoken to in HTTP/1.1: \
             its Service port wants appProtocol kubernetes.io/h2c",
        ),
        Transport::Http1 | Transport::Http2 | Transport::Negotiated => Ok(()),
    }
}

/// Gives a request the form in which it goes upstream: that of HTTP/1.1.
pub(super) fn upstream_form(parts: &mut Parts) {
    // A filter may have added one.
    request::join_cookies(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
}

/// The request's body as it goes upstream.
fn upstream_body(connection: &Connection, body: Option<Incoming>, tee: Option<Tee>, asked: &Asked) -> RequestBody {
    let settings = &connection.shared.settings;
    let rate = connection.tenant.limits.min_body_rate.unwrap_or(settings.min_body_rate);
    body.map_or_else(RequestBody::empty, |body| {
        let body = RequestBody::new(body, tee, settings.body_timeout, asked.flow.clone());
        body.passing_trailers(asked.trailers).at_least(rate)
    })
}

/// What the form of a response depends on, of the request.
struct Asked {
    version: Version,
    /// The client takes trailers.
    trailers: bool,
    /// The client asked for a WebSocket or a tunnel.
    handshake: Option<Handshake>,
    /// It is gRPC.
    is_grpc: bool,
    flow: Flow,
}

/// Brings a response into its form for the client. `change` is what the filters do to its head.
///
/// # Errors
/// What the backend sent is no response to this request.
fn finish(
    connection: &Connection,
    sent: Sent,
    mut asked: Asked,
    record: &mut Record,
    change: impl FnOnce(&mut HeaderMap),
) -> Result<Response<ResponseBody>, LocalReply> {
    let shared = &connection.shared;
    let Sent { mut response, endpoint: _, mut lease, mut pending, deadline } = sent;
    let broken = |reason| {
        add(&shared.stats.upstream_errors);
        Err(LocalReply::new(StatusCode::BAD_GATEWAY, reason))
    };
    if response.version() == Version::HTTP_2 && headers::has_padding(response.headers()) {
        return broken("the backend sent a field value that begins or ends with white space");
    }
    let switched = match asked.handshake.as_ref().map(|handshake| handshake.switched(&response)).transpose() {
        Ok(switched) => switched.unwrap_or(false),
        Err(reason) => return broken(reason),
    };
    if let Some(handshake) = asked.handshake.take_if(|_| switched) {
        let share = connection.tenant.requests.try_share(usize::MAX);
        let status = match handshake {
            Handshake::WebSocket(_) if asked.version == Version::HTTP_2 => StatusCode::OK,
            Handshake::WebSocket(_) => StatusCode::SWITCHING_PROTOCOLS,
            Handshake::Connect(_) => response.status(),
        };
        let tunnel = record.take_tunnel(status.as_u16());
        let active = Active::new(&connection.activity, &shared.stats, share, tunnel);
        connection.announced.switch();
        pending.ends_well();
        let socket = Arc::clone(&connection.socket);
        let mut response = tunnel::open(shared, handshake, socket, response, (pending, active, lease));
        // As Envoy and HAProxy do; nginx leaves 101 out. What belongs to the connection no filter changes.
        change(response.headers_mut());
        return Ok(response);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return broken("the backend switched protocols unasked");
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
    // hyper encodes such a body in chunks; HTTP/2 has frames for trailers.
    let in_chunks = asked.version == Version::HTTP_11 && !response.headers().contains_key(header::CONTENT_LENGTH);
    let response = response.map(|body| {
        let mut body =
            ResponseBody::upstream(body, Some(lease), pending, deadline).showing(asked.flow).grpc(asked.is_grpc);
        if asked.trailers && in_chunks {
            body = body.trailing_in(connection.trailers.clone());
        }
        match absent {
            Some(length) => body.absent(length),
            None => body,
        }
    });
    Ok(if early { respond::closing(response) } else { response })
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
