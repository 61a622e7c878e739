//! What is kept of a request so that it can be sent again, and the form that it has for HTTP/2.
use http::{Method, Request, Uri, Version, header, request::Parts};
use hyper::ext::Protocol;

use crate::proxy::{
    body::{RequestBody, Spare},
    websocket,
};

/// What is left of a request when a connection has taken it.
#[derive(Default)]
pub(super) struct Kept {
    /// Its head.
    head: Option<Request<()>>,
    body: Option<Spare>,
}

impl Kept {
    /// What is needed to send this again: `always`, or where it is idempotent and has no body.
    pub(super) fn of(request: &Request<RequestBody>, always: bool) -> Self {
        let is_cheap = http_body::Body::is_end_stream(request.body()) && request.method().is_idempotent();
        if !always && !is_cheap {
            return Self::default();
        }
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        *head.version_mut() = request.version();
        head.headers_mut().clone_from(request.headers());
        head.extensions_mut().clone_from(request.extensions());
        Self { head: Some(head), body: request.body().spare() }
    }

    /// Whether all of it is there.
    pub(super) fn is_whole(&self) -> bool {
        self.head.is_some() && self.body.as_ref().is_some_and(Spare::is_whole)
    }

    /// The request, from its start.
    pub(super) fn again(self) -> Option<Request<RequestBody>> {
        let (body, head) = (self.body?.again()?, self.head?);
        Some(head.map(|()| body))
    }

    /// Likewise, if it is idempotent and has no body.
    pub(super) fn bodiless(&self) -> Option<Request<RequestBody>> {
        let head = self.head.clone().filter(|head| head.method().is_idempotent())?;
        let is_empty = self.body.as_ref().is_some_and(Spare::is_empty);
        is_empty.then(|| head.map(|()| RequestBody::empty()))
    }

    /// A request that a connection did not take, with the head that it had before it got the form for that connection.
    pub(super) fn restore(&self, untouched: Request<RequestBody>) -> Request<RequestBody> {
        match &self.head {
            Some(head) => head.clone().map(|()| untouched.into_body()),
            None => untouched,
        }
    }

    /// Nobody sends it again: its body need not be kept any longer.
    pub(super) fn commit(&self) {
        if let Some(body) = &self.body {
            body.commit();
        }
    }
}

/// Gives a head the form of HTTP/2: a full target, no field of the connection. `false` where the host is no authority.
pub(super) fn into_http2(parts: &mut Parts, is_secured: bool) -> bool {
    parts.version = Version::HTTP_2;
    websocket::connect(parts);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        parts.headers.remove(name);
    }
    let Some(host) = parts.headers.remove(header::HOST) else { return false };
    if parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_none() {
        // Its target is the authority already, and nothing else.
        return parts.uri.authority().is_some();
    }
    let target = parts.uri.path_and_query().cloned().unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let uri = Uri::builder()
        .scheme(if is_secured { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(target)
        .build();
    match uri {
        Ok(uri) => parts.uri = uri,
        Err(_) => return false,
    }
    true
}
