//! Why the API server could not be followed, and what that means.
use std::time::Duration;

use kube::{Error, core::Status};

use crate::api::Kind;

/// The reason of a cause that says that the server has not seen a revision yet. Source: `metav1.CauseTypeResourceVersionTooLarge`.
const TOO_LARGE: &str = "ResourceVersionTooLarge";

/// What is to be done about an error of a list or a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The cluster does not have the kind: it has no objects, and may get it later.
    Absent,
    /// We may not read it: nothing helps but a permission. The message names verb and resource.
    Forbidden(String),
    /// The server does not stream lists: an ordinary list is asked for instead.
    NoStreaming,
    /// Too much was missed: the watch starts over with a list.
    Expired,
    /// The server has not seen yet what was seen already, from another one: it is tried again.
    Behind(String),
    /// The server, or the way to it, is in trouble: it is tried again.
    Trouble {
        /// What was met.
        reason: String,
        /// How long the server wants to be left alone.
        asked: Duration,
    },
}

impl Failure {
    pub(super) fn of<T: Kind>(error: &Error) -> Self {
        match error {
            Error::Api(status) => of_status::<T>(status),
            _ => Self::trouble(chain(error)),
        }
    }

    /// One that says nothing of when to come again.
    pub(super) fn trouble(reason: impl Into<String>) -> Self {
        Self::Trouble { reason: reason.into(), asked: Duration::ZERO }
    }
}

fn of_status<T: Kind>(status: &Status) -> Failure {
    let details = status.details.as_ref();
    let is_behind = || details.is_some_and(|details| details.causes.iter().any(|cause| cause.reason == TOO_LARGE));
    match status.code {
        404 if T::IS_CUSTOM => Failure::Absent,
        401 | 403 => Failure::Forbidden(format!(
            "{}; want the verbs get, list and watch on {}",
            status.message.trim_end_matches('.'),
            T::resource()
        )),
        410 => Failure::Expired,
        400 | 422 if status.message.to_lowercase().contains("sendinitialevents") => Failure::NoStreaming,
        code => {
            let reason = format!("the API server answers {code} {}", status.message);
            if is_behind() {
                return Failure::Behind(reason);
            }
            let asked = details.map_or(0, |details| details.retry_after_seconds);
            Failure::Trouble { reason, asked: Duration::from_secs(asked.into()) }
        }
    }
}

/// The causes without the words that each of them repeats.
fn chain(error: &Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    let (first, last) = (error.to_string(), deepest.to_string());
    if first.contains(&last) { first } else { format!("{first}: {last}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{Gateway, Service};

    fn of<T: Kind>(status: &serde_json::Value) -> Failure {
        Failure::of::<T>(&Error::Api(serde_json::from_value(status.clone()).unwrap()))
    }

    #[test]
    fn a_server_that_lags_is_not_one_that_has_forgotten() {
        let lags = json!({"code": 504, "reason": "Timeout", "message": "Too large resource version: 9, current: 7",
            "details": {"causes": [{"reason": TOO_LARGE, "message": "Too large resource version"}], "retryAfterSeconds": 1}});
        assert!(matches!(of::<Service>(&lags), Failure::Behind(why) if why.contains("504 Too large")));
        // An ordinary timeout, and both words for what is forgotten.
        let slow = of::<Service>(&json!({"code": 504, "reason": "Timeout", "message": "etcd"}));
        assert!(matches!(slow, Failure::Trouble { asked: Duration::ZERO, .. }), "{slow:?}");
        for reason in ["Expired", "Gone"] {
            assert_eq!(of::<Service>(&json!({"code": 410, "reason": reason})), Failure::Expired);
        }
        let busy = of::<Service>(&json!({"code": 429, "message": "busy", "details": {"retryAfterSeconds": 5}}));
        assert!(matches!(busy, Failure::Trouble { asked, .. } if asked == Duration::from_secs(5)), "{busy:?}");
    }

    #[test]
    fn what_is_not_there_is_absent_only_where_the_cluster_need_not_have_it() {
        let missing = json!({"code": 404, "message": "page not found"});
        assert_eq!(of::<Gateway>(&missing), Failure::Absent);
        assert!(matches!(of::<Service>(&missing), Failure::Trouble { .. }));
    }
}
