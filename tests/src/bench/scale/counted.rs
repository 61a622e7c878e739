//! A client for the API server that counts what passes: requests, watches, and what comes back.
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body::Frame;
use kube::{Client, client::Body};
use tower::Service;

/// What passed, of one client or of several.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Requests that read and end.
    reads: AtomicU64,
    /// Requests that write.
    writes: AtomicU64,
    /// Watches that began.
    watches: AtomicU64,
    /// Events of watches: bookmarks too.
    events: AtomicU64,
    /// Bytes of answers.
    bytes: AtomicU64,
}

/// What passed until a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) watches: u64,
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl Counts {
    /// What has passed until now.
    pub(super) fn now(&self) -> Passed {
        Passed {
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            watches: self.watches.load(Relaxed),
            events: self.events.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }
}

impl Passed {
    /// What has passed since an earlier moment.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            reads: self.reads - earlier.reads,
            writes: self.writes - earlier.writes,
            watches: self.watches - earlier.watches,
            events: self.events - earlier.events,
            bytes: self.bytes - earlier.bytes,
        }
    }

    /// All requests.
    pub(super) fn requests(self) -> u64 {
        self.reads + self.writes + self.watches
    }
}

/// See the module.
pub(super) struct Counted {
    client: Client,
    counts: Arc<Counts>,
}

impl Counted {
    /// A client that passes everything to `client`.
    pub(super) fn client(client: Client, counts: Arc<Counts>) -> Client {
        let namespace = client.default_namespace().to_owned();
        Client::new(Self { client, counts }, namespace)
    }
}

impl Service<Request<Body>> for Counted {
    type Response = Response<Answer>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, counts) = (self.client.clone(), Arc::clone(&self.counts));
        let is_watch = request.uri().query().is_some_and(|q| q.split('&').any(|p| p == "watch=true" || p == "watch=1"));
        let what = match (request.method(), is_watch) {
            (_, true) => &counts.watches,
            (&Method::GET | &Method::HEAD, _) => &counts.reads,
            _ => &counts.writes,
        };
        what.fetch_add(1, Relaxed);
        Box::pin(async move {
            let answer = client.send(request).await?;
            Ok(answer.map(|body| Answer { body, is_watch, counts }))
        })
    }
}

/// The body of an answer, whose bytes are counted, and of a watch the lines: an event each.
pub(super) struct Answer {
    body: Body,
    is_watch: bool,
    counts: Arc<Counts>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.counts.bytes.fetch_add(data.len() as u64, Relaxed);
            if self.is_watch {
                let events = data.iter().filter(|byte| **byte == b'\n').count();
                self.counts.events.fetch_add(events as u64, Relaxed);
            }
        }
        polled
    }
}
