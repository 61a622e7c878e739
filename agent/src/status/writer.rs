//! Carries out what the planners want, for as long as this agent leads.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{Client, core::Status};
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    NOW,
    attempt::{Attempt, Effect, Wait},
    due::Due,
    events::Events,
    leader,
    looked::Looked,
    moves::Moves,
    objects::Objects,
    plan, told,
    version::{self, Bundle},
    view::View,
    write::{Verb, Write},
};
use crate::{
    api::{Kind, Node, ObjectName},
    config::route_hosts::RouteHosts,
    membership::{Members, Revisions},
    model::{Model, ObjectRef},
    source::{Snapshot, kubernetes::Health},
    telemetry::chain,
};

/// Between two looks at everything, at least: bursts coalesce.
const COALESCE: Duration = Duration::from_millis(20);
/// Writes under way at most; the others wait for the next look.
const MAX_WRITES: usize = 32;
/// How long one write may take.
const WRITE: Duration = Duration::from_secs(10);
/// After so long a write's effect is in the snapshot, or it had none.
const FORGET: Duration = Duration::from_secs(600);
/// What was found to need nothing is looked at again after so long.
const AGAIN: Duration = Duration::from_secs(25);
/// Where kinds are not followed, they are asked for again after so long whether they are.
const STALE: Duration = Duration::from_millis(500);

/// The ends of the arrows that the stage reads.
#[derive(Clone)]
pub struct Inputs {
    /// What the API says.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The newest model.
    pub models: watch::Receiver<Arc<Model>>,
    /// The nodes that live.
    pub members: watch::Receiver<Arc<Members>>,
    /// How well the API server is followed.
    pub health: watch::Receiver<Health>,
    /// Who may ask for which host names.
    pub route_hosts: Arc<RouteHosts>,
}

/// The stage.
pub struct Writer {
    client: Client,
    inputs: Inputs,
    /// Which version of Gateway API there is.
    version: watch::Receiver<Bundle>,
    events: Events,
    attempts: BTreeMap<ObjectRef, Attempt>,
    revisions: Arc<Revisions>,
    /// The routes that may have to be written.
    due: Due,
    /// The Services and Gateways.
    objects: Objects,
    /// How many objects were planned since this agent leads.
    planned: u64,
    moves: Moves,
    /// What was told last about objects that do not work.
    told: BTreeMap<ObjectRef, String>,
    running: JoinSet<(Write, Result<Effect, kube::Error>)>,
    /// What was looked at last, and when, if nothing was left to do then.
    settled: Option<(Looked, Instant)>,
}

/// Leads when it can, and then writes, until `leave`.
pub async fn run(client: Client, namespace: String, node: String, inputs: Inputs, leave: CancellationToken) {
    let (leads_out, mut leads) = watch::channel(false);
    let campaign = tokio::spawn(leader::campaign(client.clone(), namespace, node.clone(), leads_out, leave.clone()));
    let (version_out, version) = watch::channel(Bundle::default());
    // It ends with this stage.
    let mut asking = JoinSet::new();
    asking.spawn(version::follow(client.clone(), leads.clone(), version_out));
    let mut lost = leads.clone();
    loop {
        let led = tokio::select! {
            () = leave.cancelled() => break,
            led = leads.wait_for(|leads| *leads) => led.is_ok(),
        };
        if !led {
            break;
        }
        // A new writer knows nothing: what was under way when this one last led is judged by the snapshot.
        let mut writer = Writer::new(client.clone(), node.clone(), inputs.clone(), version.clone());
        tokio::select! {
            () = leave.cancelled() => break,
            _ = lost.wait_for(|leads| !*leads) => {}
            () = writer.write() => break,
        }
    }
    // It gives the Lease back.
    let _ = campaign.await;
}

impl Writer {
    fn new(client: Client, node: String, inputs: Inputs, version: watch::Receiver<Bundle>) -> Self {
        let events = Events::new(client.clone(), node);
        let (attempts, told) = (BTreeMap::new(), BTreeMap::new());
        let (due, objects, moves) = (Due::default(), Objects::default(), Moves::default());
        let (revisions, running, settled, planned) = (Arc::default(), JoinSet::new(), None, 0);
        Self {
            client,
            inputs,
            version,
            events,
            attempts,
            revisions,
            due,
            objects,
            planned,
            moves,
            told,
            running,
            settled,
        }
    }

    /// Looks at everything whenever something changed; ends with the stages that it reads.
    async fn write(&mut self) {
        loop {
            let retry = self.look();
            let looked = Instant::now();
            let retry = retry.unwrap_or(looked + Duration::from_secs(30));
            tokio::select! {
                Some(done) = self.running.join_next() => self.note(done),
                changed = async { tokio::select! {
                    changed = self.inputs.snapshots.changed() => changed,
                    changed = self.inputs.models.changed() => changed,
                    changed = self.inputs.members.changed() => changed,
                    Ok(()) = self.version.changed() => {
                        self.settled = None;
                        Ok(())
                    }
                } } => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep_until(retry.into()) => {}
            }
            tokio::time::sleep(COALESCE.saturating_sub(looked.elapsed())).await;
            // Else each look would make room for one write.
            while let Some(done) = self.running.try_join_next() {
                self.note(done);
            }
        }
    }

    /// Starts what is to be written; when to look again although nothing changes.
    fn look(&mut self) -> Option<Instant> {
        let snapshot = self.inputs.snapshots.borrow_and_update().clone()?;
        // What was read may be old: somebody else may know better by now.
        let Some(stale) = self.inputs.health.borrow().stale() else { return Some(Instant::now() + STALE) };
        let model = self.inputs.models.borrow_and_update().clone();
        let members = self.inputs.members.borrow_and_update().clone();
        // The model of an older snapshot would be told what it already wrote.
        if model.seen != snapshot.seen {
            return Some(Instant::now() + COALESCE);
        }
        let looked = Looked::new(&snapshot, &model, &members);
        if stale.is_empty()
            && let Some((last, at)) = &self.settled
            && last.is_same(&looked)
            && at.elapsed() < AGAIN
        {
            return None;
        }
        self.settled = None;
        let (route_hosts, bundle) = (Arc::clone(&self.inputs.route_hosts), self.version.borrow().clone());
        // Every change must be seen, to be told from those of a status alone.
        Arc::make_mut(&mut self.revisions).follow(&snapshot);
        let revisions = Arc::clone(&self.revisions);
        let view = View {
            model: &model,
            members: &members,
            revisions: &revisions,
            route_hosts: &route_hosts,
            bundle: &bundle,
        };
        for (node, note) in self.moves.look(&model.announcers) {
            self.events.publish(&ObjectRef::new(Node::KIND, ObjectName::new("", node)), note, Some(&snapshot));
        }
        let mut objects = std::mem::take(&mut self.objects);
        let changed = objects.look(&snapshot, &view, &members, AGAIN);
        self.tell(&snapshot, &model, &changed);
        let mut retry = (!stale.is_empty()).then(|| Instant::now() + STALE);
        // One that has nothing to write costs a comparison; those that wait for the server are not planned at all.
        let due = self.due.look(&snapshot, &model, AGAIN);
        let (mut well, mut is_full) = (Vec::new(), false);
        for plan in plan::all(&snapshot, view, (&due, objects.due())) {
            is_full = self.running.len() >= MAX_WRITES;
            if is_full {
                break;
            }
            if stale.contains(plan.object.kind.as_str()) {
                continue;
            }
            match self.wait(&plan.object, &plan.revision) {
                Wait::No => {}
                Wait::ForTheServer => continue,
                Wait::Until(at) => {
                    retry = Some(retry.map_or(at, |known: Instant| known.min(at)));
                    continue;
                }
            }
            let is_idle =
                |write: &Write| self.attempts.get(&write.object).is_some_and(|attempt| attempt.is_idle(write));
            self.planned += 1;
            match ((plan.write)().filter(|write| !is_idle(write)), &plan.route) {
                (Some(write), _) => self.start(write),
                (None, Some(route)) => self.due.is_well(route),
                (None, None) => well.push(plan.object),
            }
        }
        well.iter().for_each(|object| objects.is_well(object, &snapshot, &view));
        self.objects = objects;
        if is_full {
            return Some(Instant::now() + COALESCE);
        }
        self.attempts.retain(|_, attempt| !attempt.is_over(FORGET, Instant::now()));
        self.events.forget();
        if retry.is_none() && self.running.is_empty() {
            self.settled = Some((looked, Instant::now()));
        }
        retry
    }

    fn wait(&mut self, object: &ObjectRef, revision: &str) -> Wait {
        // A name may come back: what was created may be deleted by others and is created again.
        if self.attempts.get(object).is_some_and(|attempt| attempt.is_seen(revision)) {
            self.attempts.remove(object);
        }
        self.attempts.get(object).map_or(Wait::No, |attempt| attempt.wait(revision, Instant::now()))
    }

    fn start(&mut self, write: Write) {
        let now = Instant::now();
        self.attempts.entry(write.object.clone()).or_insert_with(|| Attempt::new(now)).begin(&write, now);
        let client = self.client.clone();
        self.running.spawn(async move {
            let result = send(client, &write).await;
            (write, result)
        });
    }

    fn note(&mut self, done: Result<(Write, Result<Effect, kube::Error>), tokio::task::JoinError>) {
        self.settled = None;
        let Ok((write, result)) = done else { return };
        let Some(attempt) = self.attempts.get_mut(&write.object) else { return };
        match result {
            Ok(effect) => {
                attempt.succeed(&write, effect, Instant::now());
                tracing::debug!(kind = write.object.kind, name = %write.object.object, path = write.path, "written");
                let snapshot = self.inputs.snapshots.borrow().clone();
                for note in write.events {
                    self.events.publish(&write.object, note, snapshot.as_deref());
                }
            }
            // Changed or gone meanwhile: the next snapshot says what is to be done.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) || is_terminating(&status) => {
                attempt.conflict(Instant::now());
            }
            Err(error) => {
                attempt.fail(Instant::now());
                tracing::warn!(
                    kind = write.object.kind, name = %write.object.object, path = write.path, error = chain(&error),
                    "not written, tried again"
                );
            }
        }
    }

    /// Tells people, once, why an object does not work, or not as they may think, of those that have changed.
    fn tell(&mut self, snapshot: &Snapshot, model: &Model, changed: &BTreeSet<ObjectRef>) {
        // In a namespace that is being deleted nothing can be made, an Event neither.
        for object in changed.iter().filter(|object| snapshot.accepts(&object.object.ns)) {
            let verdict = model.verdicts.get(object);
            let Some(note) = verdict.and_then(|verdict| told::warning(object, verdict, snapshot)) else {
                self.told.remove(object);
                continue;
            };
            if self.told.get(object) != Some(&note.text) {
                self.told.insert(object.clone(), note.text.clone());
                self.events.publish(object, note, Some(snapshot));
            }
        }
    }
}

async fn send(client: Client, write: &Write) -> Result<Effect, kube::Error> {
    let mut body = write.body.clone();
    stamp(&mut body, &jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    let uri = format!("{}?fieldManager={}", write.path, crate::membership::FIELD_MANAGER);
    let (request, content) = match write.verb {
        Verb::Patch => (http::Request::patch(uri), "application/merge-patch+json"),
        Verb::Create => (http::Request::post(uri), "application/json"),
        Verb::Delete => (http::Request::delete(&write.path), "application/json"),
    };
    let request = request
        .header(http::header::CONTENT_TYPE, content)
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    let sent = tokio::time::timeout(WRITE, client.request::<Value>(request)).await;
    let answer = sent.map_err(|elapsed| kube::Error::Service(Box::new(elapsed)))??;
    let is_same = write.verb == Verb::Patch && answer["metadata"]["resourceVersion"] == write.revision.as_str();
    Ok(if is_same { Effect::None } else { Effect::Changed })
}

/// Whether a write was refused because the namespace is being deleted. Source: the admission plugin `NamespaceLifecycle`.
pub(super) fn is_terminating(status: &Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.any(|cause| cause.reason == "NamespaceTerminating")
}

/// Puts the time where a condition has changed.
fn stamp(value: &mut Value, now: &str) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "lastTransitionTime" && value == NOW {
                    *value = now.into();
                } else {
                    stamp(value, now);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|v| stamp(v, now)),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
