//! Layer 7: where a header leads, and how the rest is split.
use std::collections::BTreeMap;

use anyhow::ensure;
use bytes::Bytes;
use http::Request;

use super::{stage::Stage, story::Story};
use crate::netns::{
    addr,
    http::{self as client, Protocol, Reply},
};

/// Requests of the proof that a header decides.
const WITH_HEADER: usize = 100;
/// Requests of the proof of the weights.
const WITHOUT: usize = 1000;
/// Requests on one connection.
const PER_CONNECTION: usize = 50;

/// Tells the chapters on layer 7.
pub(super) fn tell(story: &mut Story, stage: &Stage) {
    story.chapter("a header leads to alice's sandbox", |tell| {
        let request = client::with(client::get("shop.example", "/basket"), "x-sandbox", "alice");
        let replies = ask(stage, &request, WITH_HEADER)?;
        let versions = versions(&replies)?;
        tell.say(format!("GET http://shop.example/basket with X-Sandbox: alice, at {}", stage.front()?));
        let seen = replies[0].seen();
        tell.say(format!("the pod saw X-Forwarded-For: {:?}", seen.headers.get("x-forwarded-for")));
        ensure!(versions.keys().eq(["alice"]), "other versions answered too: {versions:?}");
        let from = seen.headers.get("x-forwarded-for").and_then(|v| v.first());
        ensure!(from == Some(&addr::CLIENT_V4.to_string()), "X-Forwarded-For is {from:?}");
        Ok(format!("{WITH_HEADER} of {WITH_HEADER} requests answered by version alice"))
    });
    story.chapter("without it: 90 to 10", |tell| {
        let replies = ask(stage, &client::get("shop.example", "/basket"), WITHOUT)?;
        let versions = versions(&replies)?;
        let mut pods = BTreeMap::<String, usize>::new();
        replies.iter().for_each(|r| *pods.entry(r.seen().pod).or_default() += 1);
        tell.say(format!("{WITHOUT} requests: {versions:?}"));
        tell.say(format!("by pod: {pods:?}"));
        ensure!(versions.keys().eq(["v1", "v2"]), "unexpected versions: {versions:?}");
        // Four standard deviations around 100.
        ensure!((62..=138).contains(&versions["v2"]), "not 90 to 10: {versions:?}");
        Ok(format!("v1 {}, v2 {} of {WITHOUT}", versions["v1"], versions["v2"]))
    });
    story.chapter("a host that no route names", |tell| {
        let reply = client::send(&stage.lab.client, stage.front()?, Protocol::H2c, client::get("other.example", "/"))?;
        tell.say(format!("GET http://other.example/ over h2c: {}", reply.status));
        ensure!(reply.status == 404, "wanted 404, got {}", reply.status);
        Ok("404, over HTTP/2 as well".to_owned())
    });
}

/// Sends a request `n` times, over a few connections.
fn ask(stage: &Stage, request: &Request<Bytes>, n: usize) -> anyhow::Result<Vec<Reply>> {
    let mut replies = Vec::with_capacity(n);
    while replies.len() < n {
        let batch = vec![request.clone(); PER_CONNECTION.min(n - replies.len())];
        replies.extend(client::send_all(&stage.lab.client, stage.front()?, Protocol::Http1, batch)?);
    }
    Ok(replies)
}

/// Answers by the version that gave them.
fn versions(replies: &[Reply]) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut versions = BTreeMap::new();
    for reply in replies {
        ensure!(reply.status == 200, "status {}: {:?}", reply.status, reply.body);
        *versions.entry(reply.seen().version).or_default() += 1;
    }
    Ok(versions)
}
