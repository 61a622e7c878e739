//! Events that the API server does not take.
//!
//! What they say stands in conditions too, so that one that is lost is a debug line. But where the rules forbid them, none is
//! ever seen, and whoever looks for one must learn why: that is a warning, once for each kind of object.
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::writer::is_terminating;
use crate::telemetry::chain;

/// The kinds of which Events were refused.
#[derive(Clone, Debug, Default)]
pub(super) struct Unheard(Arc<Mutex<BTreeSet<String>>>);

impl Unheard {
    /// Takes note that an Event about an object of a kind was not written.
    pub(super) fn log(&self, kind: &str, error: &kube::Error) {
        if self.is_news(kind, error) {
            tracing::warn!(
                kind,
                error = chain(error),
                "Events may not be written, want create and patch of events in events.k8s.io"
            );
        } else {
            tracing::debug!(kind, error = chain(error), "event");
        }
    }

    /// Whether the rules forbid it, for the first time.
    fn is_news(&self, kind: &str, error: &kube::Error) -> bool {
        // A namespace that is being deleted takes none, whatever the rules are.
        matches!(error, kube::Error::Api(status) if status.code == 403 && !is_terminating(status))
            && self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(kind.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(code: u16, cause: Option<&str>) -> kube::Error {
        let causes = cause.map_or_else(Vec::new, |reason| vec![json!({"reason": reason, "message": "", "field": ""})]);
        let status = json!({"code": code, "reason": "No", "details": {"causes": causes}});
        kube::Error::Api(Box::new(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn rules_that_forbid_events_are_told_of_once_for_each_kind() {
        let unheard = Unheard::default();
        assert!(!unheard.is_news("Service", &error(500, None)));
        assert!(!unheard.is_news("Service", &error(403, Some("NamespaceTerminating"))));
        let found =
            ["Service", "Service", "Node", "Service"].map(|kind| unheard.clone().is_news(kind, &error(403, None)));
        assert_eq!(found, [true, false, true, false]);
    }
}
