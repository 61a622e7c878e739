//! HTTP/1.1 on a Unix socket, and the health and metrics part of it on TCP where asked.
use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
};

use super::{
    Stages,
    discovery::{Discovery, Query},
    flows::FlowQuery,
    metrics,
    slots::{HEAD_TIMEOUT, Most, Slot, Slots},
    view, why,
};
use crate::{proxy::explain::Asked, telemetry::exposition};

/// The media type of the metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// Connections to the Unix socket, and to health and metrics.
const CONNECTIONS: Most = Most { all: 64, of_peer: 16 };
/// Connections to the discovery API, whose clients wait for changes.
const FOLLOWERS: Most = Most { all: 64, of_peer: 48 };
/// Connections to health alone.
const PROBES: Most = Most { all: 16, of_peer: 16 };

/// Which paths a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// All of them: whoever may open the socket may read everything.
    Everything,
    /// Health.
    Health,
    /// Health and metrics.
    Public,
    /// Those, and the instances of Services.
    Discovery,
}

/// Binds the Unix socket, replacing one that nobody serves. Only root may connect.
///
/// # Errors
/// Another agent serves the socket, or it cannot be made.
pub async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if UnixStream::connect(path).await.is_ok() {
        let text = format!("admin socket {} is served by another process", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    let named = |e: io::Error| io::Error::new(e.kind(), format!("admin socket {}: {e}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(named)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path).map_err(named)?,
        Ok(_) => return Err(named(io::Error::other("is a file that is no socket; want a path that is free"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(named(e)),
    }
    let listener = UnixListener::bind(path).map_err(named)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(named)?;
    Ok(listener)
}

/// Binds a TCP address that `flag` asks for.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind_tcp(flag: &str, addr: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| io::Error::new(e.kind(), format!("{flag} {addr}: {e}")))
}

/// Serves the Unix socket until dropped.
pub async fn serve_unix(listener: UnixListener, stages: Arc<Stages>) {
    let slots = Slots::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connection(stream, stages.clone(), Scope::Everything, slots.admit(None)),
            Err(error) => pause(&error).await,
        }
    }
}

/// Serves health and metrics on TCP until dropped.
pub async fn serve_tcp(listener: TcpListener, stages: Arc<Stages>) {
    accept(listener, stages, Scope::Public, CONNECTIONS).await;
}

/// Serves health alone on TCP until dropped.
pub async fn serve_health(listener: TcpListener, stages: Arc<Stages>) {
    accept(listener, stages, Scope::Health, PROBES).await;
}

/// Serves the discovery API on TCP until dropped.
pub async fn serve_discovery(listener: TcpListener, stages: Arc<Stages>) {
    accept(listener, stages, Scope::Discovery, FOLLOWERS).await;
}

async fn accept(listener: TcpListener, stages: Arc<Stages>, scope: Scope, most: Most) {
    let slots = Slots::new(most);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => connection(stream, stages.clone(), scope, slots.admit(Some(peer.ip()))),
            Err(error) => pause(&error).await,
        }
    }
}

/// An accept fails when descriptors run out; spinning would not free any.
async fn pause(error: &io::Error) {
    tracing::warn!(%error, "admin: accept");
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
}

/// Serves one request of a connection, unless there was no slot for it.
fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    stages: Arc<Stages>,
    scope: Scope,
    slot: Option<Slot>,
) {
    let Some(slot) = slot else { return };
    tokio::spawn(async move {
        let slot = &slot;
        let service = service_fn(move |request: Request<Incoming>| {
            let stages = stages.clone();
            slot.begin();
            async move {
                let response = respond(&request, stages, scope).await;
                slot.answered();
                Ok::<_, Infallible>(response)
            }
        });
        let mut builder = http1::Builder::new();
        // One request a connection: an idle one must not hold a slot.
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
        tokio::select! {
            // A client that goes away in the middle is its own affair.
            _ = builder.serve_connection(TokioIo::new(stream), service) => {}
            () = slot.over() => {}
        }
    });
}

async fn respond(request: &Request<Incoming>, stages: Arc<Stages>, scope: Scope) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = problem(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD: the admin API changes nothing");
        refused.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    if matches!(scope, Scope::Everything | Scope::Discovery)
        && let Some(query) = Query::parse(&path, &query)
    {
        return match query {
            Ok(query) => {
                Discovery::new(stages.directory.clone(), stages.waiters.clone()).answer(query, request.headers()).await
            }
            Err(reason) => problem(StatusCode::BAD_REQUEST, &reason),
        };
    }
    // Maps are read by system calls, up to some hundred thousand of them for flows.
    let answer = tokio::task::spawn_blocking(move || answer(&path, &query, &stages, scope)).await;
    answer.unwrap_or_else(|e| problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()))
}

fn answer(path: &str, query: &str, stages: &Stages, scope: Scope) -> Response<Full<Bytes>> {
    match path {
        "/livez" => text(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => {
            let blockers = stages.blockers();
            let status = if blockers.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, TEXT, if blockers.is_empty() { "ok\n".to_owned() } else { blockers.join("\n") + "\n" })
        }
        _ if scope == Scope::Health => not_found(path),
        "/metrics" => match metrics::families(stages).map(exposition) {
            Ok(Ok(body)) => text(StatusCode::OK, OPEN_METRICS, body),
            Ok(Err(e)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
            Err(e) => problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string()),
        },
        _ if scope != Scope::Everything => not_found(path),
        "/api/v1/status" => json(stages.status()),
        "/api/v1/services" => json(stages.services()),
        "/api/v1/backends" => ok(stages.backends()),
        "/api/v1/routes" => ok(stages.routes()),
        "/api/v1/explain" => match Asked::parse(query).and_then(|asked| stages.explain(&asked)) {
            Ok(found) => ok(found),
            Err(reason) => problem(StatusCode::BAD_REQUEST, &reason),
        },
        "/api/v1/flows" => match FlowQuery::parse(query) {
            Ok(query) => json(stages.flows(&query)),
            Err(reason) => problem(StatusCode::BAD_REQUEST, &reason),
        },
        _ => match path.strip_prefix("/api/v1/objects/").and_then(|rest| rest.split_once('/')) {
            Some((kind, name)) => match why::object(stages, kind, name) {
                Ok(object) => ok(object),
                Err(reason) => problem(StatusCode::NOT_FOUND, &reason),
            },
            None => not_found(path),
        },
    }
}

fn json<T: Serialize, E: ToString>(value: Result<T, E>) -> Response<Full<Bytes>> {
    match value.map_err(|e| e.to_string()).and_then(|v| serde_json::to_string(&v).map_err(|e| e.to_string())) {
        Ok(body) => text(StatusCode::OK, JSON, body),
        Err(reason) => problem(StatusCode::INTERNAL_SERVER_ERROR, &reason),
    }
}

pub(super) fn ok(value: impl Serialize) -> Response<Full<Bytes>> {
    json(Ok::<_, Infallible>(value))
}

fn not_found(path: &str) -> Response<Full<Bytes>> {
    problem(StatusCode::NOT_FOUND, &format!("no such path: {path}"))
}

pub(super) fn problem(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    let body = serde_json::to_string(&view::Problem { error: reason.to_owned() }).unwrap_or_default();
    text(status, JSON, body)
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}
