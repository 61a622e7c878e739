//! Records Events about objects, however many: one that says the same again counts, and what is too much is left out.
//!
//! In: notes about objects. Out: Events, [`MAX_EVENTS`] of them under way. What they say is in conditions and in the log too, so
//! that the failure of one harms nobody.
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::Semaphore;

use super::{CONTROLLER, allowance::Allowance, told, unheard::Unheard, write::Note};
use crate::{model::ObjectRef, source::Snapshot};

/// What is told again within so long is counted, not told anew. Source: the cache of [`Recorder`].
const COUNTED: Duration = Duration::from_secs(360);
/// Events under way at most: the API server has other things to do.
pub(super) const MAX_EVENTS: usize = 8;
/// Events that wait for their turn at most; what comes when so many do is not told.
const MAX_WAITING: usize = 4_096;

/// Reports one sentence about one object, however often, as one Event that counts.
///
/// A [`Recorder`] counts by reason and keeps the first sentence, so that another sentence takes another one.
struct EventRecorder {
    note: Note,
    recorder: Recorder,
    last: Instant,
}

/// See the module.
pub(super) struct Events {
    client: Client,
    reporter: Reporter,
    /// What was reported last about each object for each reason.
    recorders: BTreeMap<(ObjectRef, &'static str), EventRecorder>,
    /// How much more may be reported about each object.
    allowances: BTreeMap<ObjectRef, Allowance>,
    unheard: Unheard,
    /// For those under way, and for those that wait as well.
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

impl Events {
    pub(super) fn new(client: Client, node: String) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node) };
        let (turns, places) = (Arc::new(Semaphore::new(MAX_EVENTS)), Arc::new(Semaphore::new(MAX_WAITING)));
        let (recorders, allowances) = (BTreeMap::new(), BTreeMap::new());
        Self { client, reporter, recorders, allowances, unheard: Unheard::default(), turns, places }
    }

    /// Tells something about an object, which `snapshot` may have.
    pub(super) fn publish(&mut self, object: &ObjectRef, note: Note, snapshot: Option<&Snapshot>) {
        let now = Instant::now();
        if !self.allowances.entry(object.clone()).or_insert_with(|| Allowance::new(now)).take(now) {
            tracing::debug!(kind = object.kind, name = %object.object, reason = note.reason, "not told: too many Events");
            return;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::debug!(kind = object.kind, name = %object.object, reason = note.reason, "not told: too many wait");
            return;
        };
        let reference = told::reference(object, snapshot);
        let about = (object.clone(), note.reason);
        let known = self.recorders.remove(&about).filter(|event_recorder| event_recorder.note == note);
        let recorder = match known {
            Some(event_recorder) => event_recorder.recorder,
            None => Recorder::new(self.client.clone(), self.reporter.clone()),
        };
        let event_recorder = EventRecorder { note: note.clone(), recorder: recorder.clone(), last: now };
        self.recorders.insert(about, event_recorder);
        let event = Event {
            type_: if note.is_warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.to_owned(),
            note: Some(note.text.chars().take(1000).collect()),
            action: "Program".to_owned(),
            secondary: None,
        };
        let (unheard, kind, turns) = (self.unheard.clone(), object.kind.clone(), Arc::clone(&self.turns));
        tokio::spawn(async move {
            let _turn = turns.acquire().await;
            if let Err(error) = recorder.publish(&event, &reference).await {
                unheard.log(&kind, &error);
            }
            drop(place);
        });
    }

    /// Forgets what makes no difference any more.
    pub(super) fn forget(&mut self) {
        let now = Instant::now();
        self.recorders.retain(|_, event_recorder| event_recorder.last.elapsed() < COUNTED);
        self.allowances.retain(|_, allowance| !allowance.is_whole(now));
    }
}
