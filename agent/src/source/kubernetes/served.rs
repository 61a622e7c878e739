//! Which kinds the API server serves: one look for all that the cluster does not have.
//!
//! In: kinds that were not found. Out: word for each when it is served. While none is missing, nothing is asked.
//!
//! # Design
//! A cluster without Gateway API lacks a dozen kinds. Asked for one by one, each every few seconds, they cost more than everything
//! else together. The server lists what it serves (aggregated discovery) and says in a word that nothing has changed since (ETag).
//! Where it lists groups alone, a kind counts as served when its group is; where it does not answer, when it was asked: who waits
//! asks for the kind himself then, at the pace of the looks.
use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kube::{Client, client::Body};
use serde::Deserialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout},
};

use super::pace::Pace;
use crate::api::Kind;

/// Kinds that wait at most; there are fewer.
const WAITING: usize = 64;
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(10);
/// The longest list of what is served. Units: bytes.
const LONGEST: usize = 32 << 20;
/// What is preferred, and what any server has.
const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

/// A kind that was not found.
struct Missing {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    /// Told when it is served; dropped by who does not wait any more.
    served: oneshot::Sender<()>,
}

/// Where one waits for a kind.
#[derive(Clone)]
pub(super) struct Served(mpsc::Sender<Missing>);

impl Served {
    /// Waits until a later look finds the kind.
    pub(super) async fn wait<T: Kind>(&self) {
        let (served, is_served) = oneshot::channel();
        let missing = Missing { group: T::GROUP, version: T::VERSION, plural: T::PLURAL, served };
        // Nobody looks any more: the agent ends.
        if self.0.send(missing).await.is_err() || is_served.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Where kinds are waited for, and the task that looks for them; it ends with the last of the former.
pub(super) fn served(client: Client, pace: Pace) -> (Served, impl Future<Output = ()> + Send + 'static) {
    let (missing, inbox) = mpsc::channel(WAITING);
    (Served(missing), look_for(client, pace, inbox))
}

async fn look_for(client: Client, mut pace: Pace, mut inbox: mpsc::Receiver<Missing>) {
    let mut missing: Vec<Missing> = Vec::new();
    let (mut etag, mut due) = (None::<String>, Instant::now());
    loop {
        tokio::select! {
            biased;
            more = inbox.recv() => {
                let Some(more) = more else { return };
                if missing.is_empty() {
                    pace.reset();
                    due = Instant::now() + pace.after_absence();
                }
                // What is listed was not compared with it yet.
                etag = None;
                missing.push(more);
            }
            () = sleep_until(due), if !missing.is_empty() => {
                let found: Vec<Missing> = match timeout(LOOK, look(&client, etag.as_ref())).await {
                    Ok(Look::Listed(listed, tag)) => {
                        etag = tag;
                        missing.extract_if(.., |kind| listed.has(kind)).collect()
                    }
                    Ok(Look::Untold) => std::mem::take(&mut missing),
                    Ok(Look::Same | Look::Failed) | Err(_) => Vec::new(),
                };
                if !found.is_empty() {
                    // Definitions come in bundles: the others are looked for sooner.
                    pace.reset();
                }
                for kind in found {
                    // Who does not wait any more need not know.
                    let _ = kind.served.send(());
                }
                missing.retain(|kind| !kind.served.is_closed());
                due = Instant::now() + pace.after_absence();
            }
        }
    }
}

/// What a look has shown.
enum Look {
    /// This is served; the tag of this list.
    Listed(Listed, Option<String>),
    /// What was listed last.
    Same,
    /// The server does not say.
    Untold,
    /// Nothing: it is tried again.
    Failed,
}

async fn look(client: &Client, etag: Option<&String>) -> Look {
    let mut request = Request::get("/apis").header(header::ACCEPT, ACCEPT);
    if let Some(etag) = etag {
        request = request.header(header::IF_NONE_MATCH, etag);
    }
    let Ok(request) = request.body(Body::empty()) else { return Look::Untold };
    let Ok(answer) = client.send(request).await else { return Look::Failed };
    match answer.status() {
        StatusCode::NOT_MODIFIED => Look::Same,
        StatusCode::OK => {
            let tag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            let Ok(text) = Limited::new(answer.into_body(), LONGEST).collect().await else { return Look::Failed };
            serde_json::from_slice(&text.to_bytes()).map_or(Look::Untold, |listed| Look::Listed(listed, tag))
        }
        StatusCode::TOO_MANY_REQUESTS => Look::Failed,
        status if status.is_server_error() => Look::Failed,
        _ => Look::Untold,
    }
}

/// An `APIGroupDiscoveryList`, or an `APIGroupList`. Source: `apidiscovery.k8s.io/v2` and `meta/v1`.
#[derive(Debug, Deserialize)]
struct Listed {
    #[serde(default, alias = "groups")]
    items: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    #[serde(default)]
    metadata: GroupMeta,
    /// Of an `APIGroupList`.
    #[serde(default)]
    name: String,
    #[serde(default)]
    versions: Vec<Version>,
}

#[derive(Debug, Default, Deserialize)]
struct GroupMeta {
    #[serde(default)]
    name: String,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: String,
    /// `None` in an `APIGroupList`.
    resources: Option<Vec<Resource>>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    #[serde(default)]
    resource: String,
}

impl Listed {
    fn has(&self, kind: &Missing) -> bool {
        let of_group = |group: &&Group| group.metadata.name == kind.group || group.name == kind.group;
        let has = |version: &Version| {
            let resources = version.resources.as_ref();
            version.version == kind.version
                && resources.is_none_or(|all| all.iter().any(|listed| listed.resource == kind.plural))
        };
        self.items.iter().filter(of_group).any(|group| group.versions.iter().any(has))
    }
}

#[cfg(test)]
mod tests;
