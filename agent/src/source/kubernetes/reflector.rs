//! One kind of object, followed for as long as the agent runs.
//!
//! In: the API server's list and watch. Out: [`Step`]s that change a snapshot. A list replaces what was there, objects
//! that are as they were keep their identity, and what the list does not have is gone.
//!
//! # Design
//! - What was read stays while the API server is away, for minutes or hours.
//! - A watch is renewed every [`WATCH`]. That its peer has vanished is noticed much sooner, by the connection
//!   ([`super::connect`]); that the server has forgotten it, by [`super::watched`].
use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use kube::{
    Api, Client,
    runtime::watcher::{self, Event, watcher},
};
use tokio::sync::mpsc;

use super::{failure::Failure, object::Received, watched::Watched};
use crate::{
    api::Kind,
    shared::SharedMap,
    source::snapshot::{Fault, Snapshot},
};

/// How long one watch lasts. Units: seconds.
pub(super) const WATCH: u32 = 120;
/// The first pause after an error; each further one is twice as long.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause after an error.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The pause before a kind is asked for again that the cluster does not have, or that we may not read.
pub(super) const ABSENT_PAUSE: Duration = Duration::from_secs(3);

/// A kind that was there is gone when the API server has said so for as long: one that has just started may not know it
/// yet, and what is programmed must not go for that.
const ABSENCE: Duration = Duration::from_secs(10);

/// What reflectors fill.
pub(super) trait Store: 'static {
    /// What could not be read.
    fn faults(&mut self) -> &mut Vec<Fault>;
}

impl Store for Snapshot {
    fn faults(&mut self) -> &mut Vec<Fault> {
        &mut self.faults
    }
}

/// Changes one kind's part of a store.
pub(crate) type Change<S> = Box<dyn FnOnce(&mut S) + Send>;

/// What one kind's reflector tells.
pub(crate) struct Step<S> {
    /// Its resource.
    pub(super) resource: String,
    /// What happened.
    pub(super) what: What<S>,
}

/// What happened to a kind.
pub(crate) enum What<S> {
    /// An object changed.
    Change(Change<S>),
    /// The whole kind was read; the change replaces it.
    Synced(Change<S>),
    /// The cluster does not have the kind; the change empties it.
    Absent(Change<S>),
    /// It may not be read.
    Forbidden(String),
    /// It cannot be followed for now.
    Trouble(String),
    /// The API server has accepted a watch: what it has to say will come.
    Watching,
}

/// An object of a list; no more of it is kept until the list ends.
struct Listed<T> {
    revision: u64,
    object: Result<Arc<T>, String>,
}

/// Where a kind's objects are in a store.
pub(super) struct Place<T: Kind, S> {
    /// The objects.
    pub(super) objects: fn(&mut S) -> &mut SharedMap<T::Key, Arc<T>>,
    /// Takes note of a revision up to which the kind was followed.
    pub(super) seen: fn(&mut S, u64),
    /// The namespace that is read; all without one.
    pub(super) namespace: Option<String>,
}

/// Follows a kind until nobody listens.
pub(super) async fn follow<T: Kind, S: Store>(client: Client, place: Place<T, S>, steps: mpsc::Sender<Step<S>>)
where
    T::Key: Display,
{
    let client = Watched::client(client, T::resource(), steps.clone());
    let api: Api<Received<T>> = match &place.namespace {
        Some(ns) => Api::namespaced_with(client, ns, &()),
        None => Api::all_with(client, &()),
    };
    let mut streaming = true;
    let mut pause = FIRST_PAUSE;
    let (mut is_known, mut absent_since) = (false, None::<Instant>);
    'start: loop {
        let mut events = watcher(api.clone(), config(streaming)).boxed();
        let mut list = BTreeMap::new();
        while let Some(event) = events.next().await {
            let what = match event {
                Ok(Event::Init) => {
                    list = BTreeMap::new();
                    continue;
                }
                Ok(Event::InitApply(received)) => {
                    let Received { metadata, object, .. } = received;
                    list.insert(T::key(&metadata), Listed { revision: revision(&metadata.resource_version), object });
                    continue;
                }
                Ok(Event::InitDone) => {
                    (pause, is_known, absent_since) = (FIRST_PAUSE, true, None);
                    What::Synced(replace(std::mem::take(&mut list), &place))
                }
                Ok(Event::Apply(received)) => {
                    pause = FIRST_PAUSE;
                    What::Change(apply(received, &place))
                }
                Ok(Event::Delete(received)) => {
                    pause = FIRST_PAUSE;
                    What::Change(delete(&received, &place))
                }
                Err(error) => match Failure::of::<T>(&error) {
                    Failure::Absent
                        if is_known && absent_since.get_or_insert_with(Instant::now).elapsed() < ABSENCE =>
                    {
                        What::Trouble(format!("the API server does not know {}", T::resource()))
                    }
                    Failure::Absent => {
                        is_known = false;
                        What::Absent(replace(BTreeMap::new(), &place))
                    }
                    Failure::Forbidden(reason) => What::Forbidden(reason),
                    Failure::NoStreaming => {
                        streaming = false;
                        continue 'start;
                    }
                    // The watch begins anew with a list; a server that expires that too is not asked without end. It is
                    // a list of the newest state: a streamed one may be older than what was seen before, from a server
                    // that lags behind the one that was asked then.
                    Failure::Expired => {
                        tokio::time::sleep(jittered(FIRST_PAUSE)).await;
                        streaming &= !is_known;
                        continue 'start;
                    }
                    Failure::Trouble(reason) => What::Trouble(reason),
                },
            };
            let wait = match &what {
                What::Change(_) | What::Synced(_) | What::Watching => None,
                What::Absent(_) | What::Forbidden(_) => Some(ABSENT_PAUSE),
                What::Trouble(_) => {
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    Some(wait)
                }
            };
            if steps.send(Step { resource: T::resource(), what }).await.is_err() {
                return;
            }
            if let Some(wait) = wait {
                tokio::time::sleep(jittered(wait)).await;
            }
        }
    }
}

fn config(streaming: bool) -> watcher::Config {
    let config = watcher::Config::default().timeout(WATCH);
    if streaming { config.streaming_lists() } else { config }
}

/// From half to one and a half times as long: agents that lost the server together must not come back together.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

fn revision(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn origin<T: Kind>(key: &impl Display) -> String {
    format!("{} {key}", T::KIND)
}

fn fault<T: Kind>(key: &impl Display, reason: &str) -> Fault {
    Fault {
        origin: origin::<T>(key),
        line: None,
        object: None,
        reason: format!("{reason}; its last good state is kept"),
    }
}

fn replace<T: Kind, S: Store>(list: BTreeMap<T::Key, Listed<T>>, place: &Place<T, S>) -> Change<S>
where
    T::Key: Display,
{
    let (objects, seen) = (place.objects, place.seen);
    Box::new(move |store| {
        let prefix = format!("{} ", T::KIND);
        store.faults().retain(|fault| !fault.origin.starts_with(&prefix));
        let newest = list.values().map(|listed| listed.revision).max();
        seen(store, newest.unwrap_or(0));
        let mut faults = Vec::new();
        let old = std::mem::take(objects(store));
        let mut new = SharedMap::new();
        for (key, listed) in list {
            let known = old.get(&key);
            let object = match listed.object {
                // The same object stays the very same: nothing downstream has to look at it.
                Ok(object) => known.filter(|known| ***known == *object).cloned().unwrap_or(object),
                Err(reason) => {
                    faults.push(fault::<T>(&key, &reason));
                    let Some(known) = known else { continue };
                    Arc::clone(known)
                }
            };
            new.insert(key, object);
        }
        *objects(store) = new;
        store.faults().extend(faults);
    })
}

fn apply<T: Kind, S: Store>(received: Received<T>, place: &Place<T, S>) -> Change<S>
where
    T::Key: Display,
{
    let (objects, seen) = (place.objects, place.seen);
    Box::new(move |store| {
        let key = T::key(&received.metadata);
        seen(store, revision(&received.metadata.resource_version));
        let known = origin::<T>(&key);
        store.faults().retain(|fault| fault.origin != known);
        match received.object {
            Ok(object) => {
                let known = objects(store).get(&key);
                if known.is_none_or(|known| **known != *object) {
                    objects(store).insert(key, object);
                }
            }
            Err(reason) => store.faults().push(fault::<T>(&key, &reason)),
        }
    })
}

fn delete<T: Kind, S: Store>(received: &Received<T>, place: &Place<T, S>) -> Change<S>
where
    T::Key: Display,
{
    let (objects, seen) = (place.objects, place.seen);
    let key = T::key(&received.metadata);
    let at = revision(&received.metadata.resource_version);
    Box::new(move |store| {
        seen(store, at);
        let known = origin::<T>(&key);
        store.faults().retain(|fault| fault.origin != known);
        objects(store).remove(&key);
    })
}
