//! What the proxy does with one request.
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{
    Fault, State,
    answer::{self, Body},
    call::{Call, Verb, parameter},
    watch::{self, Ends},
};

/// Answers a request. An error closes the connection.
pub(super) async fn forward(state: Arc<State>, request: Request<Incoming>) -> anyhow::Result<Response<Body>> {
    let call = Call::of(&request);
    let ends = Ends::of(&state);
    let decision = state.decide(&call);
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.context("read the request")?.to_bytes();
    // The connection is not the client's; and the answer is read here, so it must be JSON.
    for name in [header::CONNECTION, header::ACCEPT_ENCODING] {
        head.headers.remove(name);
    }
    if !head.headers.get(header::ACCEPT).is_some_and(|a| a.as_bytes().starts_with(b"application/json")) {
        head.headers.insert(header::ACCEPT, header::HeaderValue::from_static("application/json"));
    }
    let mut request = Request::from_parts(head, body);
    match decision {
        None => {}
        Some((Fault::Delay(time), _)) => tokio::time::sleep(time).await,
        Some((Fault::Status(code), _)) => return Ok(answer::refusal(code)),
        Some((Fault::Cut, _)) => anyhow::bail!("cut, as asked"),
        Some((Fault::Expired, _)) if call.verb == Verb::Watch => {
            return Ok(watch::saying(answer::event("ERROR", &answer::status(StatusCode::GONE))));
        }
        Some((Fault::Expired, _)) => return Ok(answer::refusal(StatusCode::GONE.as_u16())),
        Some((Fault::Stale, version)) if call.verb == Verb::Watch => {
            return watch::held(state, request, call, ends, &version).await;
        }
        Some((Fault::Stale, version)) if call.verb == Verb::List => {
            *request.uri_mut() = stale_list(request.uri(), &version)?;
        }
        Some((Fault::Stale, _)) => {}
    }
    if call.verb == Verb::Watch {
        watch::through(&state, request, call, ends).await
    } else {
        ask(&state, request).await
    }
}

/// The API server's answer, as it comes; 502 where there is none.
pub(super) async fn ask(state: &State, request: Request<Bytes>) -> anyhow::Result<Response<Body>> {
    match state.upstream.open(request).await {
        Ok(answer) => Ok(answer.map(answer::passed)),
        Err(_) => Ok(answer::refusal(StatusCode::BAD_GATEWAY.as_u16())),
    }
}

/// The same list as it was at `version`. The next page of a list that was begun so says that by itself.
pub(super) fn stale_list(uri: &Uri, version: &str) -> anyhow::Result<Uri> {
    if parameter(uri.query(), "continue").is_some_and(|v| !v.is_empty()) {
        return Ok(uri.clone());
    }
    let ours = ["resourceVersion=", "resourceVersionMatch=", "sendInitialEvents=", "watch=", "allowWatchBookmarks="];
    let query = uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
    let mut query: Vec<String> = query.filter(|p| !ours.iter().any(|o| p.starts_with(o))).map(str::to_owned).collect();
    query.push(format!("resourceVersion={version}"));
    query.push("resourceVersionMatch=Exact".to_owned());
    format!("{}?{}", uri.path(), query.join("&")).parse().context("the address of a stale list")
}
