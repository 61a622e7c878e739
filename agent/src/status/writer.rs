//! Carries out what the planners want, for as long as this agent leads.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Client,
    core::Status,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::Value;
use tokio::{sync::watch, task::JoinSet, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    CONTROLLER, NOW,
    allowance::Allowance,
    attempt::{Attempt, Effect, Wait},
    due::Due,
    leader,
    looked::Looked,
    plan, told,
    unheard::Unheard,
    version::{self, Bundle},
    view::View,
    write::{Note, Verb, Write},
};
use crate::{
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
/// What is told again within so long is counted, not told anew. Source: the cache of [`Recorder`].
const COUNTED: Duration = Duration::from_secs(360);

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

/// Reports one sentence about one object, however often, as one Event that counts.
///
/// A [`Recorder`] counts by reason and keeps the first sentence, so that another sentence takes another one.
struct EventRecorder {
    note: Note,
    recorder: Recorder,
    last: Instant,
}

/// The stage.
pub struct Writer {
    client: Client,
    reporter: Reporter,
    inputs: Inputs,
    /// Which version of Gateway API there is.
    version: watch::Receiver<Bundle>,
    /// What was reported last about each object for each reason.
    recorders: BTreeMap<(ObjectRef, &'static str), EventRecorder>,
    /// How much more may be reported about each object.
    allowances: BTreeMap<ObjectRef, Allowance>,
    attempts: BTreeMap<ObjectRef, Attempt>,
    revisions: Arc<Revisions>,
    /// The routes that may have to be written.
    due: Due,
    /// What was told last about objects that do not work.
    told: BTreeMap<ObjectRef, String>,
    unheard: Unheard,
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
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node) };
        let (recorders, allowances) = (BTreeMap::new(), BTreeMap::new());
        let (attempts, told) = (BTreeMap::new(), BTreeMap::new());
        let (due, unheard, running, settled) = (Due::default(), Unheard::default(), JoinSet::new(), None);
        let revisions = Arc::default();
        Self {
            client,
            reporter,
            inputs,
            version,
            recorders,
            allowances,
            attempts,
            revisions,
            due,
            told,
            unheard,
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
            // Else each look, which costs what there are objects, would make room for one write.
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
        self.tell(&snapshot, &model);
        let mut retry = (!stale.is_empty()).then(|| Instant::now() + STALE);
        // One that has nothing to write costs a comparison; those that wait for the server are not planned at all.
        let due = self.due.look(&snapshot, &model, AGAIN);
        for plan in plan::all(&snapshot, view, &due) {
            if self.running.len() >= MAX_WRITES {
                return Some(Instant::now() + COALESCE);
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
            match ((plan.write)().filter(|write| !is_idle(write)), &plan.route) {
                (Some(write), _) => self.start(write),
                (None, Some(route)) => self.due.is_well(route),
                (None, None) => {}
            }
        }
        self.attempts.retain(|_, attempt| !attempt.is_over(FORGET, Instant::now()));
        self.recorders.retain(|_, event_recorder| event_recorder.last.elapsed() < COUNTED);
        self.allowances.retain(|_, allowance| !allowance.is_whole(Instant::now()));
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
                for note in write.events {
                    self.publish(&write.object, note);
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

    /// Tells people, once, why an object does not work, or not as they may think.
    fn tell(&mut self, snapshot: &Snapshot, model: &Model) {
        // In a namespace that is being deleted nothing can be made, an Event neither.
        for (object, verdict) in model.verdicts.iter().filter(|(object, _)| snapshot.accepts(&object.object.ns)) {
            let Some(note) = told::warning(object, verdict, snapshot) else {
                self.told.remove(object);
                continue;
            };
            if self.told.get(object) != Some(&note.text) {
                self.told.insert(object.clone(), note.text.clone());
                self.publish(object, note);
            }
        }
        self.told.retain(|object, _| model.verdicts.contains_key(object));
    }

    fn publish(&mut self, object: &ObjectRef, note: Note) {
        let now = Instant::now();
        if !self.allowances.entry(object.clone()).or_insert_with(|| Allowance::new(now)).take(now) {
            tracing::debug!(kind = object.kind, name = %object.object, reason = note.reason, "not told: too many Events");
            return;
        }
        let snapshot = self.inputs.snapshots.borrow().clone();
        let reference = told::reference(object, snapshot.as_deref());
        let about = (object.clone(), note.reason);
        let known = self.recorders.remove(&about).filter(|event_recorder| event_recorder.note == note);
        let recorder = match known {
            Some(event_recorder) => event_recorder.recorder,
            None => Recorder::new(self.client.clone(), self.reporter.clone()),
        };
        let event_recorder = EventRecorder { note: note.clone(), recorder: recorder.clone(), last: Instant::now() };
        self.recorders.insert(about, event_recorder);
        let event = Event {
            type_: if note.is_warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.to_owned(),
            note: Some(note.text.chars().take(1000).collect()),
            action: "Program".to_owned(),
            secondary: None,
        };
        let (unheard, kind) = (self.unheard.clone(), object.kind.clone());
        // Its failure harms nobody: what it says is in the object's condition too.
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &reference).await {
                unheard.log(&kind, &error);
            }
        });
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
