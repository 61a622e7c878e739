//! An HTTP client in a namespace: HTTP/1.1 and h2c with prior knowledge, one request per connection or many.
use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{namespace::Namespace, serve::http::Seen};

/// How long a request may take in all.
const LIMIT: Duration = Duration::from_secs(20);

/// What the connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    H2c,
}

/// A response, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// What the pod has seen.
    ///
    /// # Panics
    /// The body is not a pod's.
    #[must_use]
    pub fn seen(&self) -> Seen {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("not a pod's answer ({e}): {} {:?}", self.status, self.body))
    }
}

/// A GET request for a host.
///
/// # Panics
/// `path` or `host` is not what HTTP allows.
#[must_use]
pub fn get(host: &str, path: &str) -> Request<Bytes> {
    Request::get(path).header("host", host).body(Bytes::new()).expect("a valid request")
}

/// The same request with one more header.
///
/// # Panics
/// `name` or `value` is not what HTTP allows.
#[must_use]
pub fn with(mut request: Request<Bytes>, name: &'static str, value: &str) -> Request<Bytes> {
    request.headers_mut().append(name, value.parse().expect("a valid header value"));
    request
}

/// Sends one request from `space` on a connection of its own.
///
/// # Errors
/// No connection, no answer, or no whole answer.
pub fn send(space: &Namespace, to: SocketAddr, protocol: Protocol, request: Request<Bytes>) -> anyhow::Result<Reply> {
    let mut replies = send_all(space, to, protocol, vec![request])?;
    replies.pop().context("no reply")
}

/// Sends requests from `space` one after the other on one connection.
///
/// # Errors
/// As [`send`]; the first failure ends it.
pub fn send_all(
    space: &Namespace,
    to: SocketAddr,
    protocol: Protocol,
    requests: Vec<Request<Bytes>>,
) -> anyhow::Result<Vec<Reply>> {
    space.block_on(|| async {
        let mut connection = Connection::open(to, protocol).await?;
        let mut replies = Vec::new();
        for request in requests {
            replies.push(connection.send(request).await?);
        }
        Ok(replies)
    })
}

/// An open connection, on the runtime that has opened it.
pub enum Connection {
    /// HTTP/1.1.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// HTTP/2.
    H2c(http2::SendRequest<Full<Bytes>>, SocketAddr),
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers, or not in this protocol.
    pub async fn open(to: SocketAddr, protocol: Protocol) -> anyhow::Result<Self> {
        let stream = tokio::time::timeout(LIMIT, TcpStream::connect(to)).await.context("connect: timeout")?;
        let stream = stream.with_context(|| format!("connect to {to}"))?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        Ok(match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await.context("HTTP/1.1")?;
                tokio::spawn(connection);
                Self::Http1(sender)
            }
            Protocol::H2c => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.context("HTTP/2")?;
                tokio::spawn(connection);
                Self::H2c(sender, to)
            }
        })
    }

    /// Sends a request and reads its answer to the end.
    ///
    /// # Errors
    /// No whole answer in time.
    pub async fn send(&mut self, request: Request<Bytes>) -> anyhow::Result<Reply> {
        let (mut head, body) = request.into_parts();
        let whole = async {
            let answer = match self {
                Self::Http1(sender) => {
                    sender.ready().await?;
                    sender.send_request(Request::from_parts(head, Full::new(body))).await?
                }
                Self::H2c(sender, to) => {
                    // HTTP/2 carries the host in its own field.
                    let host = head.headers.remove("host");
                    let host = host.and_then(|h| h.to_str().map(str::to_owned).ok()).unwrap_or_else(|| to.to_string());
                    let path = head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
                    head.uri = format!("http://{host}{path}").parse().context("the request's address")?;
                    sender.send_request(Request::from_parts(head, Full::new(body))).await?
                }
            };
            let (head, body) = answer.into_parts();
            let body = body.collect().await.context("read the body")?.to_bytes();
            Ok(Reply { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(LIMIT, whole).await.context("no whole answer in time")?
    }
}
