//! Objects that are followed one by one, by name: Secrets and ConfigMaps that others refer to.
//!
//! In: which ones are referred to now, and the API server. Out: changes of a [`Snapshot`]. A watch begins with the first reference
//! and ends with the last; then what was read is forgotten.
//!
//! # Design
//! - Nobody lists Secrets: each watch asks for one name in one namespace, so that only what TLS needs is ever in memory, and a
//!   permission for a few names or namespaces is enough.
//! - A watch is a stream of a connection, and an API server admits some hundred of them. So that five hundred certificates keep no
//!   other kind from being followed, and no status from being written, these watches have connections of their own,
//!   [`PER_CONNECTION`] on each.
//! - What was read stays while the API server is away or has begun to refuse it: a certificate must not go because of that.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::{Api, Client};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{
    ClientError, Connector,
    failure::Failure,
    list_watch::{Event, ListWatch},
    object::Received,
    pace::{Agents, Pace},
};
use crate::{
    api::{ConfigMap, Kind, ObjectName, Secret},
    shared::SharedMap,
    source::snapshot::{NamedKind, Snapshot, Unread},
};

/// Which object: its kind and its name.
pub(super) type Key = (NamedKind, ObjectName);

/// Watches on one connection at most.
const PER_CONNECTION: usize = 64;
/// Answers that wait for the source at most; beyond it the watches are read more slowly.
const ANSWERS: usize = 256;
/// How long the very first snapshot waits for objects that it refers to: what an earlier agent has programmed must not go because the
/// API server is slow.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// How long a later one does. Then the listener says that its certificate is not read yet.
const PATIENCE: Duration = Duration::from_secs(1);

/// What was heard of one object.
pub(super) struct Heard {
    key: Key,
    /// Which watch has heard it: an object may be followed anew.
    watch: u64,
    change: Change,
}

/// Changes a snapshot; says whether it did.
type Change = Box<dyn FnOnce(&mut Snapshot, &ObjectName) -> bool + Send>;

/// A watch.
struct Followed {
    number: u64,
    connection: usize,
    task: AbortHandle,
    /// The snapshot waits for the first answer until then; `None` once there was one.
    awaited: Option<Instant>,
}

/// The watches.
pub(super) struct Named {
    connector: Connector,
    agents: Agents,
    /// Each with the number of its watches.
    connections: Vec<(Client, usize)>,
    followed: BTreeMap<Key, Followed>,
    begun: u64,
    tasks: JoinSet<()>,
    answers: mpsc::Sender<Heard>,
    patience: Duration,
}

impl Named {
    /// No watch yet, and where answers come in.
    pub(super) fn new(connector: Connector, agents: Agents) -> (Self, mpsc::Receiver<Heard>) {
        let (answers, inbox) = mpsc::channel(ANSWERS);
        let named = Self {
            connector,
            agents,
            connections: Vec::new(),
            followed: BTreeMap::new(),
            begun: 0,
            tasks: JoinSet::new(),
            answers,
            patience: FIRST_PATIENCE,
        };
        (named, inbox)
    }

    /// Follows what is wanted and nothing else.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<Key>, snapshot: &mut Snapshot) {
        while self.tasks.try_join_next().is_some() {}
        let left: Vec<Key> = self.followed.keys().filter(|key| !wanted.contains(*key)).cloned().collect();
        for key in left {
            if let Some(Followed { connection, task, .. }) = self.followed.remove(&key) {
                task.abort();
                self.connections[connection].1 -= 1;
            }
            forget(snapshot, &key);
        }
        for key in wanted {
            if self.followed.contains_key(key) {
                continue;
            }
            match self.begin(key) {
                Ok(followed) => {
                    self.followed.insert(key.clone(), followed);
                    snapshot.unread.insert(key.clone(), Unread::Pending);
                }
                Err(error) => {
                    snapshot.unread.insert(key.clone(), Unread::Failing(crate::telemetry::chain(&error)));
                }
            }
        }
    }

    fn begin(&mut self, key: &Key) -> Result<Followed, ClientError> {
        let connection = match self.connections.iter().position(|(_, watches)| *watches < PER_CONNECTION) {
            Some(free) => free,
            None => {
                self.connections.push((self.connector.client()?, 0));
                self.connections.len() - 1
            }
        };
        let (client, watches) = &mut self.connections[connection];
        *watches += 1;
        self.begun += 1;
        let (kind, name) = key.clone();
        let (agents, answers) = (self.agents.clone(), self.answers.clone());
        let out = Out { kind, name, watch: self.begun, agents, answers };
        let client = client.clone();
        let task = match kind {
            NamedKind::Secret => self.tasks.spawn(follow::<Secret>(client, out, |s| &mut s.secrets)),
            NamedKind::ConfigMap => self.tasks.spawn(follow::<ConfigMap>(client, out, |s| &mut s.config_maps)),
        };
        Ok(Followed { number: self.begun, connection, task, awaited: Some(Instant::now() + self.patience) })
    }

    /// Takes note of an answer; whether the snapshot changed.
    pub(super) fn take(&mut self, heard: Heard, snapshot: &mut Snapshot) -> bool {
        let Heard { key, watch, change } = heard;
        let Some(followed) = self.followed.get_mut(&key).filter(|followed| followed.number == watch) else {
            return false;
        };
        followed.awaited = None;
        change(snapshot, &key.1)
    }

    /// Until when the next snapshot waits for objects that it refers to; `None` when it need not.
    pub(super) fn awaited_until(&self) -> Option<Instant> {
        self.followed.values().filter_map(|followed| followed.awaited).max()
    }

    /// A snapshot was sent: the next ones need not be as patient.
    pub(super) fn sent(&mut self) {
        self.patience = PATIENCE;
        self.followed.values_mut().for_each(|followed| followed.awaited = None);
    }
}

fn forget(snapshot: &mut Snapshot, key: &Key) {
    match key.0 {
        NamedKind::Secret => drop(snapshot.secrets.remove(&key.1)),
        NamedKind::ConfigMap => drop(snapshot.config_maps.remove(&key.1)),
    }
    snapshot.unread.remove(key);
}

/// Where a watch's answers go.
struct Out {
    kind: NamedKind,
    name: ObjectName,
    watch: u64,
    agents: Agents,
    answers: mpsc::Sender<Heard>,
}

/// Where objects of a kind are in a snapshot.
type Place<T> = fn(&mut Snapshot) -> &mut SharedMap<ObjectName, Arc<T>>;

impl Out {
    /// Says what became of the object; whether somebody still listens.
    async fn say<T: Kind<Key = ObjectName>>(&self, answer: Answer<T>, place: Place<T>) -> bool {
        let kind = self.kind;
        let change =
            Box::new(move |snapshot: &mut Snapshot, name: &ObjectName| answer.apply(snapshot, kind, name, place));
        let heard = Heard { key: (self.kind, self.name.clone()), watch: self.watch, change };
        self.answers.send(heard).await.is_ok()
    }
}

/// What the API server says of one object.
enum Answer<T> {
    Found(Arc<T>),
    Absent,
    Unread(Unread),
}

impl<T: Kind<Key = ObjectName>> Answer<T> {
    fn apply(self, snapshot: &mut Snapshot, kind: NamedKind, name: &ObjectName, place: Place<T>) -> bool {
        let key = (kind, name.clone());
        match self {
            Self::Found(object) => {
                let was_unread = snapshot.unread.remove(&key).is_some();
                let objects = place(snapshot);
                let is_same = objects.get(name).is_some_and(|known| **known == *object);
                if !is_same {
                    objects.insert(name.clone(), object);
                }
                was_unread || !is_same
            }
            Self::Absent => {
                let was_unread = snapshot.unread.remove(&key).is_some();
                place(snapshot).remove(name).is_some() || was_unread
            }
            // What was read before still counts.
            Self::Unread(_) if place(snapshot).contains_key(name) => false,
            Self::Unread(why) => snapshot.unread.insert(key, why.clone()) != Some(why),
        }
    }
}

/// Follows one object until nobody listens.
async fn follow<T: Kind<Key = ObjectName>>(client: Client, out: Out, place: Place<T>) {
    let api: Api<Received<T>> = Api::namespaced_with(client, &out.name.ns, &());
    let mut watch = ListWatch::new(api, Some(format!("metadata.name={}", out.name.name)));
    let mut pace = Pace::new(out.agents.clone());
    let mut listing = None;
    loop {
        let (answer, wait) = match watch.next().await {
            Ok(Event::Accepted) => (None, None),
            Ok(Event::Listing) => {
                listing = Some(Answer::Absent);
                (None, None)
            }
            Ok(Event::Listed) => {
                pace.reset();
                (listing.take(), None)
            }
            Ok(Event::Applied(received)) => told(&mut listing, found::<T>(received)),
            Ok(Event::Deleted(_)) => told(&mut listing, Answer::Absent),
            Ok(Event::Ended) | Err(Failure::Expired | Failure::NoStreaming) => {
                (None, Some(pace.after_failure(Duration::ZERO)))
            }
            Err(Failure::Forbidden(reason)) => {
                (Some(Answer::Unread(Unread::Forbidden(reason))), Some(pace.after_absence()))
            }
            Err(Failure::Absent) => (Some(Answer::Absent), Some(pace.after_absence())),
            Err(Failure::Behind(reason)) => failing(&out, reason, pace.after_failure(Duration::ZERO)),
            Err(Failure::Trouble { reason, asked }) => failing(&out, reason, pace.after_failure(asked)),
        };
        if let Some(answer) = answer
            && !out.say(answer, place).await
        {
            return;
        }
        if let Some(wait) = wait {
            tokio::time::sleep(wait).await;
        }
    }
}

/// An answer, and the pause after it.
type Told<T> = (Option<Answer<T>>, Option<Duration>);

/// Keeps an answer for the end of the list that it is part of.
fn told<T>(listing: &mut Option<Answer<T>>, answer: Answer<T>) -> Told<T> {
    match listing {
        Some(listed) => {
            *listed = answer;
            (None, None)
        }
        None => (Some(answer), None),
    }
}

fn failing<T>(out: &Out, reason: String, wait: Duration) -> Told<T> {
    tracing::debug!(kind = ?out.kind, name = %out.name, reason, "not followed for now");
    (Some(Answer::Unread(Unread::Failing(reason))), Some(wait))
}

/// An object as it came. What does not read is told without what it holds.
fn found<T: Kind>(received: Received<T>) -> Answer<T> {
    received.object.map_or_else(|_| Answer::Unread(Unread::Failing("it is malformed".to_owned())), Answer::Found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secret(text: &str) -> Arc<Secret> {
        Arc::new(serde_json::from_value(json!({"stringData": {"ca.crt": text}})).unwrap())
    }

    #[test]
    fn what_was_read_stays_while_it_cannot_be_read_and_goes_with_the_object() {
        let (mut snapshot, name) = (Snapshot::default(), ObjectName::new("shop", "cert"));
        let key = (NamedKind::Secret, name.clone());
        let mut hear = |answer: Answer<Secret>| {
            let changed = answer.apply(&mut snapshot, NamedKind::Secret, &name, |s| &mut s.secrets);
            (changed, snapshot.secrets.contains_key(&name), snapshot.unread.get(&key).cloned())
        };
        let refused = || Unread::Forbidden("no".to_owned());
        assert_eq!(hear(Answer::Unread(refused())), (true, false, Some(refused())));
        assert_eq!(hear(Answer::Unread(refused())), (false, false, Some(refused())), "nothing new");
        assert_eq!(hear(Answer::Found(secret("a"))), (true, true, None));
        assert_eq!(hear(Answer::Found(secret("a"))), (false, true, None), "the same");
        assert_eq!(hear(Answer::Found(secret("b"))), (true, true, None));
        assert_eq!(hear(Answer::Unread(refused())), (false, true, None), "the last good state");
        assert_eq!(hear(Answer::Absent), (true, false, None));
        assert_eq!(hear(Answer::Absent), (false, false, None));
    }
}
