//! The API server as a source: lists and watches every kind that the model reads.
//!
//! In: the API server. Out: a [`Snapshot`] once every kind was read whole, then one after each burst of changes, and the
//! [`Health`] of the watches. Every kind has a task of its own ([`reflector`]); this one owns the snapshot.
//!
//! # Design
//! A snapshot is sent at most every [`COALESCE`]: a burst of a thousand changes costs the stages after this one a few
//! compiles, and a single change does not wait.
mod failure;
mod health;
mod leases;
mod object;
mod reflector;

use std::{path::PathBuf, sync::Arc, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use health::{Health, KindHealth, Trouble};
pub(crate) use leases::{Leases, follow_leases};
pub(crate) use reflector::Step;
use reflector::{Place, What, follow};

use super::Snapshot;
use crate::api::Kind;

/// Time between two snapshots, at least.
const COALESCE: Duration = Duration::from_millis(4);
/// Changes that wait for this task at most; beyond it the watches are read more slowly.
const STEPS: usize = 1024;
/// How long a connection may take to be opened.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a watch may stay silent: a little longer than the server lets it last.
const SILENCE: Duration = Duration::from_secs(150);

/// Why there is no client for the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file that `--kubeconfig` names.
    #[error("--kubeconfig {} cannot be used", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// Neither in a pod nor told where the server is.
    #[error(
        "no API server is known; want --manifests DIR, --kubeconfig FILE, or to run in a pod with a ServiceAccount"
    )]
    Unknown(#[source] kube::config::InferConfigError),
    /// The configuration was read and does not make a client.
    #[error("the API server cannot be spoken to as configured")]
    Client(#[source] kube::Error),
}

/// A client for the API server: the one that `kubeconfig` names, else the one of this pod or of `KUBECONFIG`.
///
/// # Errors
/// There is no usable configuration. Whether the server answers is not asked.
pub async fn client(kubeconfig: Option<PathBuf>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        None => Config::infer().await.map_err(ClientError::Unknown)?,
        Some(path) => {
            let read = async {
                let file = Kubeconfig::read_from(&path)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
            };
            read.await.map_err(|source| ClientError::Kubeconfig { path: path.clone(), source })?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    Client::try_from(config).map_err(ClientError::Client)
}

/// Sends a [`Snapshot`] whenever something changed, first when every kind was read whole, until `cancel`.
pub async fn watch(
    client: Client,
    out: watch::Sender<Option<Arc<Snapshot>>>,
    health_out: watch::Sender<Health>,
    cancel: CancellationToken,
) {
    let (steps, mut inbox) = mpsc::channel(STEPS);
    let mut health = Health::default();
    // Dropped at the end, and with it every reflector.
    let mut reflectors = JoinSet::new();
    macro_rules! follow {
        ($($kind:ty: $field:ident, $seen:expr;)*) => {$(
            health.kinds.insert(<$kind>::resource(), KindHealth::default());
            let place = Place::<$kind, Snapshot> { objects: |s| &mut s.$field, seen: $seen, namespace: None };
            reflectors.spawn(follow(client.clone(), place, steps.clone()));
        )*};
    }
    follow! {
        crate::api::Service: services, |s, at| s.seen.services = s.seen.services.max(at);
        crate::api::EndpointSlice: slices, |_, _| ();
        crate::api::GatewayClass: gateway_classes, |_, _| ();
        crate::api::Gateway: gateways, |s, at| s.seen.gateways = s.seen.gateways.max(at);
        crate::api::HttpRoute: http_routes, |_, _| ();
        crate::api::AddressPool: pools, |_, _| ();
        crate::api::Namespace: namespaces, |_, _| ();
        crate::api::Node: nodes, |_, _| ();
        crate::api::OpenShiftRoute: openshift_routes, |_, _| ();
    }
    drop(steps);
    health_out.send_replace(health.clone());

    let mut snapshot = Snapshot::default();
    let mut sent: Option<Instant> = None;
    let mut is_due = false;
    loop {
        let is_synced = health.kinds.values().all(|kind| kind.is_synced);
        let due_at = (is_due && is_synced).then(|| sent.map_or_else(Instant::now, |at| at + COALESCE));
        if due_at.is_some_and(|at| at <= Instant::now()) {
            out.send_replace(Some(Arc::new(snapshot.clone())));
            (sent, is_due) = (Some(Instant::now()), false);
            continue;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            step = inbox.recv() => {
                let Some(step) = step else { return };
                is_due |= take(step, &mut snapshot, &mut health, &health_out);
                // What waits already goes with it, within bounds: the snapshot must not wait for the end of a stream.
                for _ in 0..STEPS {
                    let Ok(step) = inbox.try_recv() else { break };
                    is_due |= take(step, &mut snapshot, &mut health, &health_out);
                }
            }
            () = sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {}
        }
    }
}

/// Does what a reflector says; whether the snapshot changed.
fn take(step: Step<Snapshot>, snapshot: &mut Snapshot, health: &mut Health, out: &watch::Sender<Health>) -> bool {
    let kind = health.kinds.entry(step.resource.clone()).or_default();
    let was = (kind.is_synced, kind.is_absent, kind.is_forbidden, kind.trouble.is_some());
    let now = std::time::Instant::now();
    let since = kind.trouble.as_ref().filter(|t| t.is_current()).map_or(now, |t| t.since);
    let mut has_changed = true;
    match step.what {
        What::Change(change) => {
            change(snapshot);
            kind.trouble = None;
        }
        What::Synced(change) => {
            change(snapshot);
            snapshot.absent.remove(&step.resource);
            *kind = KindHealth { is_synced: true, ..KindHealth::default() };
        }
        What::Absent(change) => {
            change(snapshot);
            snapshot.absent.insert(step.resource.clone());
            has_changed = !kind.is_absent;
            *kind = KindHealth { is_synced: true, is_absent: true, ..KindHealth::default() };
        }
        What::Forbidden(reason) => {
            if !kind.is_forbidden {
                tracing::error!(kind = step.resource, reason, "reading is forbidden");
            }
            (kind.is_forbidden, kind.trouble) = (true, Some(Trouble { reason, since, last: now }));
            has_changed = false;
        }
        What::Trouble(reason) => {
            if !kind.trouble.as_ref().is_some_and(Trouble::is_current) {
                tracing::warn!(kind = step.resource, reason, "not followed for now, last state kept");
            }
            kind.trouble = Some(Trouble { reason, since, last: now });
            has_changed = false;
        }
    }
    if was != (kind.is_synced, kind.is_absent, kind.is_forbidden, kind.trouble.is_some()) {
        if kind.trouble.is_none() {
            tracing::info!(kind = step.resource, absent = kind.is_absent, "followed");
        }
        out.send_replace(health.clone());
    }
    has_changed
}
