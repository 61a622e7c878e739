//! Which pods live, and since when: what decides whether a request may fail.
//!
//! A pod is noted as dying before it is killed, and as living after it serves, so that a request is held against it only
//! when it has served from the request's beginning to its end.
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::Lab;

/// Who lives.
#[derive(Debug, Default)]
pub struct Lives(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Each pod with the time since when it serves; `None` while it does not.
    since: BTreeMap<String, Option<Instant>>,
    /// How many are being killed.
    dying: usize,
    /// When the last one was dead.
    died: Option<Instant>,
}

impl Lives {
    /// Every pod of a lab, serving.
    #[must_use]
    pub fn of(lab: &Lab) -> Self {
        let since = lab.pods.iter().map(|pod| (pod.name.clone(), Some(Instant::now()))).collect();
        Self(Mutex::new(State { since, ..State::default() }))
    }

    /// Kills the servers of a pod.
    pub fn kill(&self, lab: &mut Lab, pod: &str) {
        let mut state = self.state();
        state.since.insert(pod.to_owned(), None);
        state.dying += 1;
        drop(state);
        lab.pod_mut(pod).kill();
        let mut state = self.state();
        state.dying -= 1;
        state.died = Some(Instant::now());
    }

    /// Starts them again.
    ///
    /// # Panics
    /// A port is taken.
    pub fn revive(&self, lab: &mut Lab, pod: &str) {
        lab.pod_mut(pod).revive().expect("it serves again");
        self.state().since.insert(pod.to_owned(), Some(Instant::now()));
    }

    /// Whether a pod has served since then, without a break.
    #[must_use]
    pub fn has_served_since(&self, pod: &str, then: Instant) -> bool {
        self.state().since.get(pod).copied().flatten().is_some_and(|since| since <= then)
    }

    /// Whether a pod is being killed, or was since then.
    #[must_use]
    pub fn has_any_died_since(&self, then: Instant) -> bool {
        let state = self.state();
        state.dying > 0 || state.died.is_some_and(|died| died >= then)
    }

    /// Those that live.
    #[must_use]
    pub fn alive(&self) -> Vec<String> {
        let state = self.state();
        state.since.iter().filter(|(_, since)| since.is_some()).map(|(pod, _)| pod.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
