//! The discovery API: `/api/v1/services/NAMESPACE/NAME/instances` and `/api/v1/instances`.
//!
//! Every answer carries its version as an `ETag`; with `If-None-Match` the answer to an unchanged list is 304, and with
//! `wait=SECONDS` besides it is given when the list changes, or 304 at the end of that time. So a client follows a Service
//! without asking again and again.
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};

use super::server::{ok, problem};
use crate::{
    api::ObjectName,
    discovery::{self, Directory, Filter},
};

/// Requests that wait for a change at most: the others must find a connection.
pub const WAITERS: usize = 32;
/// How long a request may wait. Units: seconds.
const LONGEST_WAIT: u64 = 300;

/// Answers from the directory.
#[derive(Clone, Debug)]
pub struct Discovery {
    directory: watch::Receiver<Directory>,
    waiters: Arc<Semaphore>,
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Query {
    /// The Service; `None` for all.
    service: Option<ObjectName>,
    filter: Filter,
    wait: Duration,
}

impl Query {
    /// Reads path and query; `None` for a path that is not of this API.
    ///
    /// # Errors
    /// A parameter is not known, or its value is not.
    #[must_use]
    pub fn parse(path: &str, query: &str) -> Option<Result<Self, String>> {
        let service = match path {
            "/api/v1/instances" => None,
            _ => {
                let (ns, name) = path.strip_prefix("/api/v1/services/")?.strip_suffix("/instances")?.split_once('/')?;
                Some(ObjectName::new(ns, name))
            }
        };
        let mut found = Self { service, filter: Filter::default(), wait: Duration::ZERO };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if let Err(reason) = found.set(pair) {
                return Some(Err(reason));
            }
        }
        Some(Ok(found))
    }

    fn set(&mut self, pair: &str) -> Result<(), String> {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("namespace", ns) if self.service.is_none() => self.filter.namespace = Some(ns.to_owned()),
            ("ready", "true") => self.filter.ready = Some(true),
            ("ready", "false") => self.filter.ready = Some(false),
            ("ready", other) => return Err(format!("ready {other:?}: want true or false")),
            ("wait", seconds) => {
                let seconds = seconds.parse().ok().filter(|s| *s <= LONGEST_WAIT);
                let seconds = seconds.ok_or_else(|| format!("wait: want seconds, {LONGEST_WAIT} at most"))?;
                self.wait = Duration::from_secs(seconds);
            }
            (other, _) => return Err(format!("parameter {other:?} is not known here")),
        }
        Ok(())
    }
}

impl Discovery {
    /// From the stage's output; a request that waits takes one of `waiters`.
    #[must_use]
    pub fn new(directory: watch::Receiver<Directory>, waiters: Arc<Semaphore>) -> Self {
        Self { directory, waiters }
    }

    /// Answers, at once or when there is something to say.
    pub async fn answer(&self, query: Query, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let mut directory = self.directory.clone();
        let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let until = Instant::now() + query.wait;
        let _waiter = if query.wait.is_zero() || known.is_empty() {
            None
        } else {
            match self.waiters.clone().try_acquire_owned() {
                Ok(slot) => Some(slot),
                Err(_) => return problem(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait already"),
            }
        };
        loop {
            let (version, is_synced) = {
                let now = directory.borrow_and_update();
                (now.version(query.service.as_ref()), now.is_synced())
            };
            if !is_synced {
                return problem(StatusCode::SERVICE_UNAVAILABLE, "the objects are not read yet");
            }
            let Some(version) = version.map(|v| format!("\"{v}\"")) else { return unknown(&query) };
            if !matches(known, &version) {
                return self.list(query, version).await;
            }
            let changed = timeout_at(until, directory.changed()).await;
            // The time is over, or the agent ends.
            if !matches!(changed, Ok(Ok(()))) {
                return unchanged(&version);
            }
        }
    }

    async fn list(&self, query: Query, version: String) -> Response<Full<Bytes>> {
        let directory = self.directory.clone();
        // Making 100,000 instances of their slices takes a while.
        let made = tokio::task::spawn_blocking(move || match &query.service {
            Some(name) => {
                let listing = directory.borrow().of(name);
                listing.map_or_else(|| unknown(&query), |listing| ok(listing.list(query.filter.ready)))
            }
            None => {
                let listings = directory.borrow().all(query.filter.namespace.as_deref());
                ok(discovery::list_all(listings, &query.filter))
            }
        });
        match made.await {
            Ok(response) => tagged(response, &version),
            Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

/// Whether one of the versions that a client has is this one. Weak ones too: the same version is the same list.
fn matches(known: &str, version: &str) -> bool {
    known.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == version || tag == "*")
}

fn unknown(query: &Query) -> Response<Full<Bytes>> {
    let name = query.service.as_ref().map(ToString::to_string).unwrap_or_default();
    problem(StatusCode::NOT_FOUND, &format!("no Service {name} is known to this node"))
}

fn unchanged(version: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    tagged(response, version)
}

fn tagged(mut response: Response<Full<Bytes>>, version: &str) -> Response<Full<Bytes>> {
    if let Ok(tag) = HeaderValue::from_str(version) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str, query: &str) -> Option<Result<Query, String>> {
        Query::parse(path, query)
    }

    #[test]
    fn paths_and_parameters_are_read() {
        let one = parse("/api/v1/services/default/web/instances", "ready=true&wait=30").unwrap().unwrap();
        assert_eq!(one.service, Some(ObjectName::new("default", "web")));
        assert_eq!((one.filter.ready, one.wait), (Some(true), Duration::from_secs(30)));
        let all = parse("/api/v1/instances", "namespace=shop&ready=false").unwrap().unwrap();
        assert_eq!(all.filter, Filter { namespace: Some("shop".to_owned()), ready: Some(false) });
        for path in ["/api/v1/services", "/api/v1/services/web/instances", "/api/v1/services/default/web"] {
            assert!(parse(path, "").is_none(), "{path}");
        }
    }

    #[test]
    fn a_parameter_that_would_be_ignored_is_refused() {
        let refused = |path, query| parse(path, query).unwrap().unwrap_err();
        assert!(refused("/api/v1/instances", "ready=maybe").contains("want true or false"));
        assert!(refused("/api/v1/instances", "wait=301").contains("300 at most"));
        assert!(refused("/api/v1/instances", "node=a").contains("\"node\" is not known"));
        assert!(refused("/api/v1/services/a/b/instances", "namespace=c").contains("\"namespace\" is not known"));
    }

    #[test]
    fn a_version_is_compared_as_http_says() {
        assert!(matches("\"1-2\"", "\"1-2\"") && matches("\"1-1\", W/\"1-2\"", "\"1-2\"") && matches("*", "\"1-2\""));
        assert!(!matches("", "\"1-2\"") && !matches("\"1-3\"", "\"1-2\""));
    }
}
