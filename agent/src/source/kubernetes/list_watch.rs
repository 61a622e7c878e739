//! One kind at the API server: listed once, then watched for as long as somebody asks.
//!
//! In: the server's answers. Out: [`Event`]s, and a [`Failure`] for each attempt that failed; the next attempt begins when the next
//! event is asked for, so that who asks decides on the pause.
//!
//! # Design
//! - A list is streamed: it begins a watch with all objects that there are, one by one, from the server's memory. The first one may
//!   be as old as the server likes. A later one, after the server has forgotten too much (410), must not be older than what was
//!   seen: what a server that lags calls the present would undo what happened since. It is waited for; after [`LAG`] the newest
//!   state there is is asked for instead, for a store that was restored from a backup never comes to that revision again.
//! - A server that does not stream lists is asked for pages, of the newest state.
//! - A watch lasts a random time ([`LIFETIMES`]), so that those of all agents that began together do not end together. It goes on
//!   where it was.
//! - A server may forget a watch, and a proxy before it may keep the connection alive nevertheless. Servers say about once a minute
//!   up to where a watch that has nothing to tell is complete (bookmarks), so that one that was silent for [`SILENCE`] is begun
//!   anew, where it was. A server that does not say so costs a request in that time.
use std::{collections::VecDeque, ops::RangeInclusive, time::Duration};

use futures_util::{StreamExt, stream::BoxStream};
use kube::{
    Api, Error,
    api::{ListParams, WatchParams},
    core::WatchEvent,
};
use tokio::time::{Instant, timeout};

use super::{failure::Failure, object::Received};
use crate::api::Kind;

/// How long a watch lasts. Units: seconds.
const LIFETIMES: RangeInclusive<u32> = 300..=600;
/// How long a watch may be silent.
const SILENCE: Duration = Duration::from_secs(150);
/// How long a list may be silent, or the answer to a request.
const LIST_SILENCE: Duration = Duration::from_secs(30);
/// How long a state that is not older than what was seen is waited for.
const LAG: Duration = Duration::from_secs(60);
/// What is waited for, outside of tests.
const PATIENCE: Patience = Patience { silence: SILENCE, list_silence: LIST_SILENCE, lag: LAG };
/// A watch that ends so much before its time was ended by something else.
const EARLY: Duration = Duration::from_secs(15);
/// Objects in one page at most.
const PAGE: u32 = 500;
/// Watches in a row that were accepted and broke by what they said; then the kind is listed anew.
const BROKEN: u32 = 3;

/// What the API server says.
#[derive(Debug)]
pub(super) enum Event<T> {
    /// It has accepted a watch: what it has to say will come.
    Accepted,
    /// A list begins: until it is complete, what comes is all that there is.
    Listing,
    /// An object is as follows.
    Applied(Received<T>),
    /// An object is gone.
    Deleted(Received<T>),
    /// What came since the list began is all that there is.
    Listed,
    /// A watch ended before its time.
    Ended,
}

type Stream<T> = BoxStream<'static, Result<WatchEvent<Received<T>>, Error>>;

/// What is under way.
enum State<T> {
    /// Nothing: a list is next.
    List,
    /// A list in pages: what is left of one, and where the next begins.
    Pages { left: VecDeque<Received<T>>, next: Option<String> },
    /// A streamed list.
    Streamed(Watch<T>),
    /// Nothing: a watch is next, from where the last one was.
    Resume,
    /// A watch.
    Watching(Watch<T>),
}

/// A watch that the server has accepted.
struct Watch<T> {
    stream: Stream<T>,
    /// When the server will end it.
    until: Instant,
}

/// See [`SILENCE`], [`LIST_SILENCE`] and [`LAG`].
#[derive(Clone, Copy, Debug)]
struct Patience {
    silence: Duration,
    list_silence: Duration,
    lag: Duration,
}

/// See the module.
pub(super) struct ListWatch<T: Kind> {
    api: Api<Received<T>>,
    fields: Option<String>,
    state: State<T>,
    /// The revision up to which everything was told; empty before the first list was complete.
    seen: String,
    /// Since when no server was found that has seen it too.
    behind_since: Option<Instant>,
    broken: u32,
    patience: Patience,
}

impl<T: Kind> ListWatch<T> {
    /// Nothing is asked for yet. The field selector as the API has it.
    pub(super) fn new(api: Api<Received<T>>, fields: Option<String>) -> Self {
        let (state, seen) = (State::List, String::new());
        Self { api, fields, state, seen, behind_since: None, broken: 0, patience: PATIENCE }
    }

    /// What the server says next.
    ///
    /// # Errors
    /// It could not be asked, or says something else. The next call tries again.
    pub(super) async fn next(&mut self) -> Result<Event<T>, Failure> {
        loop {
            // Whatever is cancelled or fails in the middle of a list begins anew.
            let event = match std::mem::replace(&mut self.state, State::List) {
                State::List => self.list().await?,
                State::Pages { left, next } => self.page(left, next).await?,
                State::Streamed(watch) => self.streamed(watch).await?,
                State::Resume => self.resume().await?,
                State::Watching(watch) => self.watching(watch).await?,
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    async fn list(&mut self) -> Result<Option<Event<T>>, Failure> {
        let from = if self.seen.is_empty() {
            "0".to_owned()
        } else if self.has_lagged() {
            // The newest.
            String::new()
        } else {
            self.seen.clone()
        };
        match self.begin(from, true).await {
            Ok(watch) => {
                self.state = State::Streamed(watch);
                Ok(Some(Event::Listing))
            }
            Err(Failure::NoStreaming) => {
                self.state = State::Pages { left: VecDeque::new(), next: Some(String::new()) };
                Ok(Some(Event::Listing))
            }
            Err(failure) => Err(self.noted(failure)),
        }
    }

    async fn page(
        &mut self,
        mut left: VecDeque<Received<T>>,
        next: Option<String>,
    ) -> Result<Option<Event<T>>, Failure> {
        if let Some(received) = left.pop_front() {
            self.state = State::Pages { left, next };
            return Ok(Some(Event::Applied(received)));
        }
        let Some(token) = next else {
            (self.state, self.behind_since) = (State::Resume, None);
            return Ok(Some(Event::Listed));
        };
        let params = ListParams {
            field_selector: self.fields.clone(),
            limit: Some(PAGE),
            continue_token: Some(token).filter(|token| !token.is_empty()),
            ..ListParams::default()
        };
        let list = in_time(self.patience.list_silence, self.api.list(&params)).await?;
        let list = list.map_err(|error| Failure::of::<T>(&error))?;
        let next = list.metadata.continue_.filter(|token| !token.is_empty());
        match list.metadata.resource_version.filter(|revision| !revision.is_empty()) {
            Some(revision) => self.seen = revision,
            None if next.is_none() => return Err(Failure::trouble("the API server sent a list without a revision")),
            None => {}
        }
        self.state = State::Pages { left: list.items.into(), next };
        Ok(None)
    }

    async fn streamed(&mut self, mut watch: Watch<T>) -> Result<Option<Event<T>>, Failure> {
        let Ok(said) = timeout(self.patience.list_silence, watch.stream.next()).await else {
            let wanted = if self.seen.is_empty() { "its state" } else { &self.seen };
            let silence = self.patience.list_silence.as_secs();
            let reason = format!("the API server was silent for {silence} s in a list, want objects up to {wanted}");
            return Err(self.noted(Failure::Behind(reason)));
        };
        let event = match said {
            None => return Ok(Some(Event::Ended)),
            Some(Err(error)) => return Err(self.noted(Failure::of::<T>(&error))),
            Some(Ok(WatchEvent::Error(status))) => return Err(self.noted(Failure::of::<T>(&Error::Api(status)))),
            Some(Ok(WatchEvent::Added(received) | WatchEvent::Modified(received))) => Some(Event::Applied(received)),
            // The server began with a state that is older than what was asked for, and goes on to that.
            Some(Ok(WatchEvent::Deleted(received))) => Some(Event::Deleted(received)),
            Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                if bookmark.metadata.annotations.contains_key("k8s.io/initial-events-end") {
                    (self.seen, self.behind_since) = (bookmark.metadata.resource_version, None);
                    (self.state, self.broken) = (State::Watching(watch), 0);
                    return Ok(Some(Event::Listed));
                }
                None
            }
        };
        self.state = State::Streamed(watch);
        Ok(event)
    }

    async fn resume(&mut self) -> Result<Option<Event<T>>, Failure> {
        match self.begin(self.seen.clone(), false).await {
            Ok(watch) => {
                self.state = State::Watching(watch);
                Ok(Some(Event::Accepted))
            }
            Err(failure) => Err(self.failed(failure)),
        }
    }

    async fn watching(&mut self, mut watch: Watch<T>) -> Result<Option<Event<T>>, Failure> {
        let Ok(said) = timeout(self.patience.silence, watch.stream.next()).await else {
            tracing::debug!(
                kind = T::KIND,
                silent = self.patience.silence.as_secs(),
                "a watch says nothing, it is begun anew"
            );
            self.state = State::Resume;
            return Ok(None);
        };
        let (event, revision) = match said {
            None => {
                self.state = State::Resume;
                return Ok((Instant::now() + EARLY < watch.until).then_some(Event::Ended));
            }
            Some(Err(error)) => {
                if matches!(error, Error::SerdeError(_)) {
                    self.broken += 1;
                }
                return Err(self.failed(Failure::of::<T>(&error)));
            }
            Some(Ok(WatchEvent::Error(status))) => {
                self.broken += 1;
                return Err(self.failed(Failure::of::<T>(&Error::Api(status))));
            }
            Some(Ok(WatchEvent::Bookmark(bookmark))) => (None, bookmark.metadata.resource_version),
            Some(Ok(WatchEvent::Added(received) | WatchEvent::Modified(received))) => {
                let revision = received.metadata.resource_version.clone();
                (Some(Event::Applied(received)), revision)
            }
            Some(Ok(WatchEvent::Deleted(received))) => {
                let revision = received.metadata.resource_version.clone();
                (Some(Event::Deleted(received)), revision)
            }
        };
        if revision.is_empty() {
            return Err(Failure::trouble("the API server sent an object without a revision"));
        }
        (self.seen, self.broken) = (revision, 0);
        self.state = State::Watching(watch);
        Ok(event)
    }

    /// Asks for a watch.
    async fn begin(&mut self, from: String, lists: bool) -> Result<Watch<T>, Failure> {
        let lifetime = fastrand::u32(LIFETIMES);
        let params = WatchParams {
            field_selector: self.fields.clone(),
            timeout: Some(lifetime),
            bookmarks: true,
            send_initial_events: lists,
            ..WatchParams::default()
        };
        let until = Instant::now() + Duration::from_secs(lifetime.into());
        let stream = in_time(self.patience.list_silence, self.api.watch(&params, &from)).await?;
        let stream = stream.map_err(|error| Failure::of::<T>(&error))?.boxed();
        Ok(Watch { stream, until })
    }

    /// A failure outside of a list: what comes after it.
    fn failed(&mut self, failure: Failure) -> Failure {
        let goes_on = match failure {
            // After a permission is given back, that it was read must be said once more.
            Failure::Expired | Failure::Absent | Failure::Forbidden(_) | Failure::NoStreaming => false,
            Failure::Behind(_) | Failure::Trouble { .. } => self.broken < BROKEN,
        };
        let failure = self.noted(failure);
        self.state = if goes_on && !self.has_lagged() { State::Resume } else { State::List };
        self.broken = if goes_on { self.broken } else { 0 };
        failure
    }

    /// Whether no server was found in time that has seen what was seen.
    fn has_lagged(&self) -> bool {
        self.behind_since.is_some_and(|since| since.elapsed() >= self.patience.lag)
    }

    /// Takes note of a server that lags.
    fn noted(&mut self, failure: Failure) -> Failure {
        if matches!(failure, Failure::Behind(_)) {
            self.behind_since.get_or_insert_with(Instant::now);
        }
        failure
    }
}

/// An answer that must come in time.
async fn in_time<F: Future>(within: Duration, answer: F) -> Result<F::Output, Failure> {
    let late = |_| Failure::trouble(format!("the API server has not answered within {} s", within.as_secs()));
    timeout(within, answer).await.map_err(late)
}

#[cfg(test)]
mod tests;
