//! One kind of object, followed for as long as the agent runs.
//!
//! In: the API server's list and watch ([`super::list_watch`]). Out: [`Step`]s that change a store. A list replaces what was there,
//! objects that are as they were keep their identity ([`super::known`]), and what the list does not have is gone.
//!
//! # Design
//! What was read stays while the API server is away, for minutes or hours. That a watch's peer has vanished is noticed by the
//! connection ([`super::connect`]).
use std::{
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{Api, Client};
use tokio::sync::mpsc;

use super::{
    failure::Failure,
    known::Known,
    list_watch::{Event, ListWatch},
    object::Received,
    pace::{Agents, Pace},
    served::Served,
};
use crate::{
    api::Kind,
    shared::SharedMap,
    source::snapshot::{Fault, Snapshot},
};

/// A kind that was there is gone when the API server has said so for as long: one that has just started may not know it
/// yet, and what is programmed must not go for that.
const ABSENCE: Duration = Duration::from_secs(10);
/// A watch that lasted as long was a good one, though it ended before its time.
const GOOD: Duration = Duration::from_secs(10);

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

/// Where a kind's objects are in a store.
pub(super) struct Place<T: Kind, S> {
    /// The objects.
    pub(super) objects: fn(&mut S) -> &mut SharedMap<T::Key, Arc<T>>,
    /// Takes note of a revision up to which the kind was followed; where that is wanted, a write that changes nothing else is a
    /// change too.
    pub(super) seen: Option<fn(&mut S, u64)>,
    /// The namespace that is read; all without one.
    pub(super) namespace: Option<String>,
    /// Whether there is one object for each agent.
    pub(super) counts_agents: bool,
}

/// Follows a kind until nobody listens.
pub(super) async fn follow<T: Kind, S: Store>(
    client: Client,
    place: Place<T, S>,
    agents: Agents,
    served: Served,
    steps: mpsc::Sender<Step<S>>,
) where
    T::Key: Display,
{
    let api: Api<Received<T>> = match &place.namespace {
        Some(ns) => Api::namespaced_with(client, ns, &()),
        None => Api::all_with(client, &()),
    };
    let mut watch = ListWatch::new(api, None);
    let mut known = Known::<T>::new();
    let mut pace = Pace::new(agents.clone());
    let (mut is_known, mut absent_since, mut began) = (false, None::<Instant>, Instant::now());
    loop {
        let mut is_absent = false;
        let (what, wait) = match watch.next().await {
            Ok(Event::Listing) => {
                known.begin();
                (None, None)
            }
            Ok(Event::Listed) => {
                pace.reset();
                (is_known, absent_since, began) = (true, None, Instant::now());
                (Some(What::Synced(known.complete(&place))), None)
            }
            Ok(Event::Accepted) => {
                began = Instant::now();
                (Some(What::Watching), None)
            }
            Ok(Event::Applied(received)) => {
                if !known.is_listing() {
                    pace.reset();
                }
                (known.apply(received, &place).map(What::Change), None)
            }
            Ok(Event::Deleted(received)) => (known.delete(&received, &place).map(What::Change), None),
            Ok(Event::Ended) => {
                if !known.is_listing() && began.elapsed() >= GOOD {
                    pace.reset();
                }
                (None, Some(pace.after_failure(Duration::ZERO)))
            }
            Err(Failure::Absent) if is_known && absent_since.get_or_insert_with(Instant::now).elapsed() < ABSENCE => {
                let reason = format!("the API server does not know {}", T::resource());
                (Some(What::Trouble(reason)), Some(pace.after_failure(Duration::ZERO)))
            }
            Err(Failure::Absent) => {
                (is_known, is_absent) = (false, true);
                (Some(What::Absent(known.clear(&place))), None)
            }
            Err(Failure::Forbidden(reason)) => (Some(What::Forbidden(reason)), Some(pace.after_absence())),
            // It begins anew with a list; a server that expires that too is not asked without end.
            Err(Failure::Expired | Failure::NoStreaming) => (None, Some(pace.after_failure(Duration::ZERO))),
            Err(Failure::Behind(reason)) => (Some(What::Trouble(reason)), Some(pace.after_failure(Duration::ZERO))),
            Err(Failure::Trouble { reason, asked }) => (Some(What::Trouble(reason)), Some(pace.after_failure(asked))),
        };
        if place.counts_agents && !known.is_listing() {
            agents.set(known.len());
        }
        if let Some(what) = what
            && steps.send(Step { resource: T::resource(), what }).await.is_err()
        {
            return;
        }
        if is_absent {
            served.wait::<T>().await;
        } else if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests;
