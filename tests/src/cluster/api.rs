//! Requests to the API server as one identity, without a process each: what tests look at and wait for.
//!
//! Paths are those of the API: `/api/v1/namespaces/default/services/web`. A request that is not answered with 2xx is an
//! error that holds the server's words; [`Api::send`] gives the status to those who expect one.
use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use crate::netns::Namespace;

/// How long a request may take in all, but for watches.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// What a body is, for a PATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// JSON merge patch.
    Merge,
    /// Server-side apply by the field manager `test`, which takes fields over from others.
    Apply,
}

/// The API server, as one identity.
pub struct Api {
    space: Namespace,
    address: SocketAddr,
    // `None` towards a proxy of ours.
    tls: Option<Arc<ClientConfig>>,
    token: Option<String>,
}

impl Api {
    pub(super) fn new(space: Namespace, address: SocketAddr, tls: Arc<ClientConfig>, token: Option<String>) -> Self {
        Self { space, address, tls: Some(tls), token }
    }

    pub(super) fn plain(space: Namespace, address: SocketAddr) -> Self {
        Self { space, address, tls: None, token: None }
    }

    /// Reads.
    ///
    /// # Errors
    /// Not answered with 2xx.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ok(Method::GET, path, None)
    }

    /// The `items` of a list.
    ///
    /// # Errors
    /// Not answered with 2xx, or no list.
    pub fn list(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut list = self.get(path)?;
        let Value::Array(items) = list["items"].take() else { anyhow::bail!("{path} is no list: {list}") };
        Ok(items)
    }

    /// Creates an object in the collection at `path`.
    ///
    /// # Errors
    /// Not answered with 2xx.
    pub fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.ok(Method::POST, path, Some(object))
    }

    /// Replaces the object at `path`.
    ///
    /// # Errors
    /// Not answered with 2xx.
    pub fn replace(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.ok(Method::PUT, path, Some(object))
    }

    /// Patches the object at `path`; may be a subresource, as `.../status`.
    ///
    /// # Errors
    /// Not answered with 2xx.
    pub fn patch(&self, path: &str, patch: Patch, body: &Value) -> anyhow::Result<Value> {
        let (status, answer) = match patch {
            Patch::Merge => self.send(Method::PATCH, path, "application/merge-patch+json", Some(body))?,
            Patch::Apply => {
                let path = format!("{path}?fieldManager=test&force=true");
                self.send(Method::PATCH, &path, "application/apply-patch+yaml", Some(body))?
            }
        };
        anyhow::ensure!(status.is_success(), "PATCH {path}: {status}: {}", said(&answer));
        Ok(answer)
    }

    /// Deletes.
    ///
    /// # Errors
    /// Not answered with 2xx.
    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.ok(Method::DELETE, path, None)
    }

    /// Sends a request; returns its status and its body, which is a string where it is not JSON.
    ///
    /// # Errors
    /// No answer.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        content: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let body = body.map_or_else(Bytes::new, |b| b.to_string().into());
        let request = Request::builder().method(&method).uri(path).header(header::CONTENT_TYPE, content);
        let request = request.body(body).with_context(|| format!("{method} {path}"))?;
        let exchange = async || {
            let answer = self.open(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await.context("read the answer")?.to_bytes();
            anyhow::Ok((status, body))
        };
        let limited = || async { tokio::time::timeout(LIMIT, exchange()).await.context("no answer in time")? };
        let (status, body) = self.space.block_on(limited).with_context(|| format!("{method} {path}"))?;
        let value = serde_json::from_slice(&body);
        Ok((status, value.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()))))
    }

    /// Sends a request on a connection of its own, from whatever namespace, and returns the head of the answer.
    pub(super) async fn open(&self, request: Request<Bytes>) -> anyhow::Result<Response<Incoming>> {
        let mut sender = self.connect().await?;
        Ok(sender.send_request(self.signed(request)?.map(Full::new)).await?)
    }

    /// Runs a future in its namespace, on a thread and a runtime of its own.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, make: impl FnOnce() -> F + Send) -> T {
        self.space.block_on(make)
    }

    /// A connection, for those who send many requests.
    ///
    /// # Errors
    /// It is refused.
    pub async fn connect(&self) -> anyhow::Result<http1::SendRequest<Full<Bytes>>> {
        let stream = self.space.enter(|| TcpStream::connect_timeout(&self.address, CONNECT));
        let stream = stream.with_context(|| format!("connect to the API server at {}", self.address))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let stream = tokio::net::TcpStream::from_std(stream)?;
        match &self.tls {
            None => begin(stream).await,
            Some(tls) => {
                let name = ServerName::IpAddress(self.address.ip().into());
                begin(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.context("TLS")?).await
            }
        }
    }

    /// The request with what every request of this identity has.
    ///
    /// # Errors
    /// The identity's token is no header.
    pub fn signed<T>(&self, mut request: Request<T>) -> anyhow::Result<Request<T>> {
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.address.to_string().parse()?);
        headers.entry(header::ACCEPT).or_insert(header::HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        }
        Ok(request)
    }

    fn ok(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let (status, answer) = self.send(method.clone(), path, "application/json", body)?;
        anyhow::ensure!(status.is_success(), "{method} {path}: {status}: {}", said(&answer));
        Ok(answer)
    }
}

async fn begin<S>(stream: S) -> anyhow::Result<http1::SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("HTTP/1.1")?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The message of a `Status`, or all of it.
fn said(answer: &Value) -> String {
    answer["message"].as_str().map_or_else(|| answer.to_string(), str::to_owned)
}
