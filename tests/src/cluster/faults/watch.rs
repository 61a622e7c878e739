//! Watches: forwarded piece by piece, so that they can be ended, or held while the proxy is stale.
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc, watch as signal,
};

use super::{
    State,
    answer::{self, Body},
    call::{Call, Calls, parameter},
    forward::{ask, stale_list},
};

/// Pieces of a watch that wait for the client; then the API server waits.
const PIECES: usize = 16;

/// What ends a watch, or a fault. Taken before it is decided what happens to a call, so that nothing falls between.
pub(super) struct Ends {
    closing: broadcast::Receiver<Calls>,
    cleared: signal::Receiver<u64>,
}

impl Ends {
    pub(super) fn of(state: &State) -> Self {
        Self { closing: state.closing.subscribe(), cleared: state.cleared.subscribe() }
    }

    /// Waits until watches are closed that have this call among them.
    async fn closed(&mut self, call: &Call) {
        loop {
            match self.closing.recv().await {
                Ok(calls) if !calls.has(call) => {}
                Ok(_) | Err(RecvError::Lagged(_)) => return,
                // The proxy is ending, and this with it.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// Forwards a watch until either side or the test ends it.
pub(super) async fn through(
    state: &State,
    request: Request<Bytes>,
    call: Call,
    ends: Ends,
) -> anyhow::Result<Response<Body>> {
    let Ok(upstream) = state.upstream.open(request).await else {
        return Ok(answer::refusal(StatusCode::BAD_GATEWAY.as_u16()));
    };
    if upstream.status() != StatusCode::OK {
        return Ok(upstream.map(answer::passed));
    }
    let (client, answer) = begin();
    tokio::spawn(pump(upstream.into_body(), call, ends, client));
    Ok(answer)
}

/// A watch of a server that stands still at `version`: it begins with the state of then, where that is asked for, and
/// goes on when the faults are cleared.
pub(super) async fn held(
    state: Arc<State>,
    mut request: Request<Bytes>,
    call: Call,
    mut ends: Ends,
    version: &str,
) -> anyhow::Result<Response<Body>> {
    let mut first = Vec::new();
    if parameter(request.uri().query(), "sendInitialEvents") == Some("true") {
        let mut list = Request::get(stale_list(request.uri(), version)?).body(Bytes::new())?;
        list.headers_mut().clone_from(request.headers());
        let list = ask(&state, list).await?;
        if list.status() != StatusCode::OK {
            return Ok(list);
        }
        let list = list.into_body().collect().await.context("read a stale list")?.to_bytes();
        first = initial_events(&serde_json::from_slice(&list).context("a stale list")?);
        // It goes on from there, with no state at its beginning.
        let path = request.uri().path();
        let rest = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={version}");
        *request.uri_mut() = rest.parse().context("the address of a watch")?;
    }
    let (client, answer) = begin();
    tokio::spawn(async move {
        for event in first {
            if client.send(event).await.is_err() {
                return;
            }
        }
        let Ends { cleared, .. } = &mut ends;
        let mut cleared = cleared.clone();
        tokio::select! {
            _ = cleared.changed() => {}
            () = ends.closed(&call) => return,
            () = client.closed() => return,
        }
        // A server that refuses now, as with 410, ends it; the client asks again.
        if let Ok(upstream) = state.upstream.open(request).await
            && upstream.status() == StatusCode::OK
        {
            pump(upstream.into_body(), call, ends, client).await;
        }
    });
    Ok(answer)
}

/// A watch that says one thing and ends.
pub(super) fn saying(event: Bytes) -> Response<Body> {
    let (client, answer) = begin();
    // There is room for the first piece.
    let _ = client.try_send(event);
    answer
}

/// Passes on what comes until one of them ends it.
async fn pump(mut upstream: Incoming, call: Call, mut ends: Ends, client: mpsc::Sender<Bytes>) {
    let closed = ends.closed(&call);
    tokio::pin!(closed);
    loop {
        tokio::select! {
            () = &mut closed => return,
            () = client.closed() => return,
            frame = upstream.frame() => match frame {
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() && client.send(piece).await.is_err() {
                        return;
                    }
                }
                Some(Err(_)) | None => return,
            },
        }
    }
}

/// The head of a watch, and where its pieces go; it ends in order when that is dropped.
fn begin() -> (mpsc::Sender<Bytes>, Response<Body>) {
    let (client, pieces) = mpsc::channel(PIECES);
    let frames = stream::unfold(pieces, async |mut pieces: mpsc::Receiver<Bytes>| {
        let piece = pieces.recv().await?;
        Some((anyhow::Ok(Frame::data(piece)), pieces))
    });
    let mut answer = Response::new(StreamBody::new(frames).boxed_unsync());
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    (client, answer)
}

/// A list as a watch tells it that sends the state first: an event for each object, and a bookmark that ends them.
fn initial_events(list: &Value) -> Vec<Bytes> {
    let kind = list["kind"].as_str().unwrap_or_default().trim_end_matches("List");
    let typed = |object: &Value| {
        let mut object = object.clone();
        object["kind"] = json!(kind);
        object["apiVersion"] = list["apiVersion"].clone();
        object
    };
    let items = list["items"].as_array().into_iter().flatten().map(|item| answer::event("ADDED", &typed(item)));
    let end = json!({
        "metadata": {
            "resourceVersion": list["metadata"]["resourceVersion"],
            "annotations": { "k8s.io/initial-events-end": "true" },
        },
    });
    items.chain([answer::event("BOOKMARK", &typed(&end))]).collect()
}
