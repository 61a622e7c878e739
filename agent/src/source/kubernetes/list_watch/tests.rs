//! What is asked of an API server that answers in each of the ways it may, and what is told.
use serde_json::{Value, json};

use super::{
    super::fake::{Answer, Server, bookmark, event, listed, status},
    *,
};
use crate::api::Service;

fn service(name: &str, revision: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "resourceVersion": revision.to_string()}})
}

fn following(server: &Server) -> ListWatch<Service> {
    ListWatch::new(Api::all_with(server.client(), &()), Some("metadata.name=a".to_owned()))
}

/// What is told next, in short.
async fn told(watch: &mut ListWatch<Service>) -> String {
    let name = |received: &Received<Service>| received.metadata.name.clone();
    match watch.next().await {
        Ok(Event::Applied(received)) => format!("+{}", name(&received)),
        Ok(Event::Deleted(received)) => format!("-{}", name(&received)),
        Ok(other) => format!("{other:?}"),
        Err(Failure::Behind(_)) => "Behind".to_owned(),
        Err(Failure::Trouble { .. }) => "Trouble".to_owned(),
        Err(failure) => format!("{failure:?}"),
    }
}

async fn assert_told(watch: &mut ListWatch<Service>, wanted: &[&str]) {
    for (at, wanted) in wanted.iter().enumerate() {
        assert_eq!(told(watch).await, *wanted, "what is told at {at}");
    }
}

/// A list of two, complete at revision 9, and what comes after it.
fn two_and(after: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let both = [event("ADDED", &service("a", 5)), event("ADDED", &service("b", 3)), listed(9)];
    both.into_iter().chain(after).collect()
}

const TWO: [&str; 4] = ["Listing", "+a", "+b", "Listed"];

#[tokio::test]
async fn a_list_is_streamed_and_the_watch_goes_on_where_it_was() {
    let changes = [event("MODIFIED", &service("a", 12)), event("DELETED", &service("b", 14)), bookmark(20)];
    let server = Server::new([Answer::Watch(two_and(changes)), Answer::Watch(vec![event("ADDED", &service("c", 21))])]);
    let mut watch = following(&server);
    assert_told(&mut watch, &TWO).await;
    assert_told(&mut watch, &["+a", "-b", "Ended", "Accepted", "+c"]).await;
    assert_eq!(server.asked_for("resourceVersion"), ["0", "20"]);
    assert_eq!(server.asked_for("sendInitialEvents"), ["true", "-"]);
    assert_eq!(server.asked_for("resourceVersionMatch"), ["NotOlderThan", "-"]);
    assert_eq!(server.asked_for("allowWatchBookmarks"), ["true", "true"]);
    assert_eq!(server.asked_for("fieldSelector"), ["metadata.name%3Da"; 2]);
}

#[tokio::test]
async fn watches_that_begin_together_do_not_end_together() {
    let mut lifetimes = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let server = Server::new([Answer::Watch(vec![])]);
        told(&mut following(&server)).await;
        lifetimes.insert(server.asked_for("timeoutSeconds")[0].parse::<u32>().unwrap());
    }
    assert!(lifetimes.len() > 50, "{} lifetimes of 100 watches", lifetimes.len());
    assert!(lifetimes.iter().all(|lifetime| (300..=600).contains(lifetime)), "{lifetimes:?}");
}

#[tokio::test]
async fn what_the_server_has_forgotten_is_streamed_again_and_not_older_than_what_was_seen() {
    let gone = || status(410, "Expired", "too old resource version", "");
    // Once within a watch, once in the place of one.
    for (after, wanted) in [
        (vec![event("MODIFIED", &service("a", 12)), event("ERROR", &gone())], &["+a", "Expired"][..]),
        (vec![event("MODIFIED", &service("a", 12))], &["+a", "Ended", "Expired"]),
    ] {
        // The second server is behind: it comes to what was seen while it lists.
        let behind = [event("ADDED", &service("a", 5)), event("DELETED", &service("a", 12)), listed(13)];
        let mut answers = vec![Answer::Watch(two_and(after))];
        if wanted.len() == 3 {
            answers.push(Answer::Document(410, gone()));
        }
        answers.push(Answer::Watch(behind.into()));
        let server = Server::new(answers);
        let mut watch = following(&server);
        assert_told(&mut watch, &TWO).await;
        assert_told(&mut watch, wanted).await;
        assert_told(&mut watch, &["Listing", "+a", "-a", "Listed"]).await;
        assert_eq!(server.asked_for("resourceVersion").last().unwrap(), "12");
        assert_eq!(server.asked_for("sendInitialEvents").last().unwrap(), "true");
    }
}

#[tokio::test]
async fn a_server_that_lags_is_waited_for_and_then_the_newest_is_asked_for() {
    let gone = event("ERROR", &status(410, "Expired", "too old", ""));
    let lags = || status(504, "Timeout", "Too large resource version: 9, current: 7", "ResourceVersionTooLarge");
    let server = Server::new([
        Answer::Watch(two_and([gone])),
        Answer::Document(504, lags()),
        Answer::Document(504, lags()),
        Answer::Watch(vec![event("ERROR", &lags())]),
    ]);
    let mut watch = following(&server);
    assert_told(&mut watch, &TWO).await;
    assert_told(&mut watch, &["Expired", "Behind", "Behind", "Listing", "Behind"]).await;
    watch.patience.lag = Duration::ZERO;
    server.say([Answer::Watch(two_and([]))]);
    assert_told(&mut watch, &TWO).await;
    assert_eq!(server.asked_for("resourceVersion"), ["0", "9", "9", "9", ""]);
    // And it is over.
    assert!(watch.behind_since.is_none());
}

#[tokio::test]
async fn a_watch_that_the_server_has_forgotten_goes_on_and_a_list_begins_anew() {
    let server = Server::new([
        Answer::Forgotten(vec![event("ADDED", &service("a", 5))]),
        Answer::Forgotten(two_and([bookmark(17)])),
        Answer::Watch(vec![event("ADDED", &service("c", 18))]),
    ]);
    let mut watch = following(&server);
    watch.patience.list_silence = Duration::from_millis(200);
    assert_told(&mut watch, &["Listing", "+a", "Behind"]).await;
    watch.patience = Patience { silence: Duration::from_millis(200), ..PATIENCE };
    assert_told(&mut watch, &TWO).await;
    assert_told(&mut watch, &["Accepted", "+c"]).await;
    assert_eq!(server.asked_for("resourceVersion"), ["0", "0", "17"]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_in_trouble() {
    let server = Server::new([]);
    let mut watch = following(&server);
    watch.patience.list_silence = Duration::from_millis(50);
    assert_told(&mut watch, &["Trouble"]).await;
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_asked_for_pages_and_again_the_next_time() {
    let refused = || status(422, "Invalid", "sendInitialEvents: Forbidden: not enabled", "");
    let page = |name: &str, revision: u64, next: &str| {
        let metadata = json!({"resourceVersion": revision.to_string(), "continue": next});
        Answer::Document(
            200,
            json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": metadata,
            "items": [service(name, revision)]}),
        )
    };
    let gone = event("ERROR", &status(410, "Expired", "too old", ""));
    let server = Server::new([
        Answer::Document(422, refused()),
        page("a", 7, "more"),
        page("b", 7, ""),
        Answer::Watch(vec![event("ADDED", &service("c", 8)), gone]),
        Answer::Watch(two_and([])),
    ]);
    let mut watch = following(&server);
    assert_told(&mut watch, &TWO).await;
    assert_told(&mut watch, &["Accepted", "+c", "Expired"]).await;
    assert_told(&mut watch, &TWO).await;
    assert_eq!(server.asked_for("resourceVersion"), ["0", "-", "-", "7", "8"]);
    assert_eq!(server.asked_for("continue"), ["-", "-", "more", "-", "-"]);
    assert_eq!(server.asked_for("limit"), ["-", "500", "500", "-", "-"]);
}

#[tokio::test]
async fn a_watch_that_breaks_by_what_it_says_goes_on_a_few_times_and_then_lists() {
    let broken = || Answer::Watch(vec![event("ERROR", &status(500, "InternalError", "etcd", ""))]);
    let server = Server::new([Answer::Watch(two_and([])), broken(), broken(), broken(), Answer::Watch(two_and([]))]);
    let mut watch = following(&server);
    assert_told(&mut watch, &TWO).await;
    assert_told(&mut watch, &["Ended", "Accepted", "Trouble", "Accepted", "Trouble", "Accepted", "Trouble"]).await;
    assert_told(&mut watch, &TWO).await;
    assert_eq!(server.asked_for("resourceVersion"), ["0", "9", "9", "9", "9"]);
}

#[tokio::test]
async fn objects_and_lists_without_a_revision_are_refused() {
    let nameless = json!({"metadata": {"name": "c", "namespace": "shop"}});
    let empty = json!({"kind": "ServiceList", "apiVersion": "v1", "metadata": {}, "items": []});
    let server = Server::new([
        Answer::Watch(two_and([event("ADDED", &nameless)])),
        Answer::Document(400, status(400, "BadRequest", "sendInitialEvents is not known", "")),
        Answer::Document(200, empty),
    ]);
    let mut watch = following(&server);
    assert_told(&mut watch, &TWO).await;
    assert_told(&mut watch, &["Trouble", "Listing", "Trouble"]).await;
}
