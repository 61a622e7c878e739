//! Why the API server could not be followed, and what that means.
use kube::{core::Status, runtime::watcher};

use crate::api::Kind;

/// What is to be done about an error of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The cluster does not have the kind: it has no objects, and may get it later.
    Absent,
    /// We may not read it: nothing helps but a permission. The message names verb and resource.
    Forbidden(String),
    /// The server does not stream lists: an ordinary list is asked for instead.
    NoStreaming,
    /// Too much was missed: the watch starts over with a list, at once.
    Expired,
    /// Anything else: it is tried again.
    Trouble(String),
}

impl Failure {
    pub(super) fn of<T: Kind>(error: &watcher::Error) -> Self {
        match status(error) {
            Some(status) if status.code == 404 && T::IS_CUSTOM => Self::Absent,
            Some(status) if matches!(status.code, 401 | 403) => Self::Forbidden(format!(
                "{}; want the verbs get, list and watch on {}",
                status.message.trim_end_matches('.'),
                T::resource()
            )),
            Some(status) if status.code == 410 => Self::Expired,
            Some(status)
                if matches!(status.code, 400 | 422) && status.message.to_lowercase().contains("sendinitialevents") =>
            {
                Self::NoStreaming
            }
            Some(status) => Self::Trouble(format!("the API server answers {} {}", status.code, status.message)),
            None => Self::Trouble(chain(error)),
        }
    }
}

fn status(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

/// The causes without the words that each of them repeats.
fn chain(error: &watcher::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    let (first, last) = (error.to_string(), deepest.to_string());
    if first.contains(&last) { first } else { format!("{first}: {last}") }
}
