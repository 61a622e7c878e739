//! HTTP/1.1: answers with what it has seen, as JSON. Request headers make it behave in other ways.
//!
//! - `x-test-delay-ms: N` waits before the answer,
//! - `x-test-status: N` answers with that status,
//! - `x-test-body: N` answers with N bytes of `x` in place of JSON,
//! - `x-test-abort: 1` closes the connection without an answer.
use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::Identity;

/// What a pod says about a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The pod that answers.
    pub pod: String,
    /// Its version.
    pub version: String,
    /// The request's method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// `HTTP/1.1` and so on.
    pub protocol: String,
    /// Its headers; several values of one name in their order.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Bytes in its body.
    pub body: usize,
    /// Who has connected.
    pub peer: String,
}

/// Serves until dropped.
pub async fn serve(listener: TcpListener, identity: Identity) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let (identity, peer) = (identity.clone(), peer.ip().to_canonical().to_string());
        let service = service_fn(move |request| answer(request, identity.clone(), peer.clone()));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // A connection that ends early is the client's business, or asked for by `x-test-abort`.
        tokio::spawn(async move { drop(connection.await) });
    }
}

/// The request asked for the connection to be closed.
#[derive(Debug)]
struct Aborted;

impl std::fmt::Display for Aborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("aborted as asked")
    }
}

impl std::error::Error for Aborted {}

impl From<Infallible> for Aborted {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

async fn answer(request: Request<Incoming>, who: Identity, peer: String) -> Result<Response<Full<Bytes>>, Aborted> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_or(0, |b| b.to_bytes().len());
    if let Some(delay) = number(&head.headers, "x-test-delay-ms") {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    if head.headers.contains_key("x-test-abort") {
        return Err(Aborted);
    }
    let mut headers = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.as_str().to_owned()).or_default().push(value);
    }
    let seen = Seen {
        pod: who.pod,
        version: who.version,
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        protocol: format!("{:?}", head.version),
        headers,
        body,
        peer,
    };
    let body = match number(&head.headers, "x-test-body") {
        Some(len) => vec![b'x'; usize::try_from(len).unwrap_or(0)],
        None => serde_json::to_vec(&seen).expect("strings and numbers are JSON"),
    };
    let status = number(&head.headers, "x-test-status").and_then(|n| u16::try_from(n).ok()).unwrap_or(200);
    let answer = Response::builder().status(status).header("content-type", "application/json");
    Ok(answer.body(Full::new(body.into())).expect("the status is a number that HTTP has"))
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
