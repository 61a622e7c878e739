//! What a reflector cannot see of its watches: when one is accepted, and that one says nothing although it should.
//!
//! In: the requests of one kind's reflector. Out: the same, answered by the client below; [`What::Watching`] for each watch
//! that the API server has accepted, and an error in the place of a body that was silent for [`PROGRESS`].
use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Frame;
use kube::{Client, client::Body};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep},
};
use tower::Service;

use super::reflector::{Step, WATCH, What};

/// How long a watch may stay silent: a little longer than the server was asked to let it last.
const PROGRESS: Duration = Duration::from_secs(WATCH as u64 + 15);

/// A client that tells how one kind's watches do.
pub(super) struct Watched<S> {
    client: Client,
    resource: String,
    steps: mpsc::Sender<Step<S>>,
}

impl<S: 'static> Watched<S> {
    /// A client that passes everything to `client`.
    pub(super) fn client(client: Client, resource: String, steps: mpsc::Sender<Step<S>>) -> Client {
        let namespace = client.default_namespace().to_owned();
        Client::new(Self { client, resource, steps }, namespace)
    }
}

impl<S: 'static> Service<Request<Body>> for Watched<S> {
    type Response = Response<Progressing<Body>>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, resource, steps) = (self.client.clone(), self.resource.clone(), self.steps.clone());
        let is_watch =
            request.uri().query().is_some_and(|q| q.split('&').any(|p| matches!(p, "watch=true" | "watch=1")));
        Box::pin(async move {
            let answer = client.send(request).await?;
            if is_watch && answer.status().is_success() {
                // Nobody listens when the agent ends.
                let _ = steps.send(Step { resource, what: What::Watching }).await;
            }
            Ok(answer.map(|body| Progressing::new(body, PROGRESS)))
        })
    }
}

/// A body that must not be silent for longer than `limit`.
pub(super) struct Progressing<B> {
    body: B,
    limit: Duration,
    silent: Pin<Box<Sleep>>,
}

impl<B> Progressing<B> {
    fn new(body: B, limit: Duration) -> Self {
        Self { body, limit, silent: Box::pin(sleep(limit)) }
    }
}

impl<B: http_body::Body<Data = Bytes, Error: Into<tower::BoxError>> + Unpin> http_body::Body for Progressing<B> {
    type Data = Bytes;
    type Error = tower::BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let limit = self.limit;
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.silent.as_mut().reset(Instant::now() + limit);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        match self.silent.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                let why = format!("a watch was silent for {} s, want it ended by the server before", limit.as_secs());
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, why).into())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test]
    async fn a_watch_that_is_silent_for_too_long_fails_after_all_that_it_has_said() {
        let said = ["one", "two"].map(|line| Ok::<_, io::Error>(Frame::data(Bytes::from_static(line.as_bytes()))));
        let then_silent = futures_util::stream::iter(said).chain(futures_util::stream::pending());
        let mut body = Progressing::new(StreamBody::new(then_silent), Duration::ZERO);
        for line in ["one", "two"] {
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), line);
        }
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("a watch was silent for 0 s"), "{error}");
    }
}
