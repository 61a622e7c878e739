//! The API server as a source: lists and watches every kind that the model reads.
//!
//! In: the API server. Out: a [`Snapshot`] once every kind was read whole, then one after each burst of changes, and the
//! [`Health`] of the watches. Every kind has a task of its own ([`reflector`]), and every Secret and ConfigMap that an object refers
//! to ([`named`]); this one owns the snapshot.
//!
//! # Design
//! A snapshot is sent at most every [`COALESCE`]: a burst of a thousand changes costs the stages after this one a few
//! compiles, and a single change does not wait.
mod connect;
mod failure;
mod health;
mod known;
mod leases;
mod list_watch;
mod named;
mod object;
mod pace;
mod reflector;
mod served;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

pub use health::{Health, KindHealth, Need, Trouble};
pub(crate) use leases::{Leases, follow_leases};
pub(crate) use reflector::Step;
use reflector::{Place, What, follow};

use self::{
    named::Named,
    pace::{Agents, Pace},
    served::served,
};
use super::{
    Snapshot,
    snapshot::{NamedKind, Off},
};
use crate::api::{Kind, ObjectName};

/// Time between two snapshots, at least.
const COALESCE: Duration = Duration::from_millis(4);
/// Changes that wait for this task at most; beyond it the watches are read more slowly.
const STEPS: usize = 1024;

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

/// What makes clients for the API server.
#[derive(Clone, Debug)]
pub struct Connector(Config);

impl Connector {
    /// One more client, with connections of its own.
    ///
    /// # Errors
    /// The configuration does not make one.
    pub fn client(&self) -> Result<Client, ClientError> {
        connect::client(self.0.clone()).map_err(ClientError::Client)
    }
}

/// What makes clients for the API server: the one that `kubeconfig` names, else the one of this pod or of `KUBECONFIG`.
///
/// # Errors
/// There is no usable configuration. Whether the server answers is not asked.
pub async fn connector(kubeconfig: Option<PathBuf>) -> Result<Connector, ClientError> {
    let config = match kubeconfig {
        None => Config::infer().await.map_err(ClientError::Unknown)?,
        Some(path) => {
            let read = async {
                let file = Kubeconfig::read_from(&path)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
            };
            read.await.map_err(|source| ClientError::Kubeconfig { path: path.clone(), source })?
        }
    };
    Ok(Connector(config))
}

/// Which Secrets and ConfigMaps the objects of a snapshot refer to.
pub type References = fn(&Snapshot) -> BTreeSet<(NamedKind, ObjectName)>;

/// Sends a [`Snapshot`] whenever something changed, first when every kind was read whole, until `cancel`.
pub async fn watch(
    (client, connector): (Client, Connector),
    references: References,
    out: watch::Sender<Option<Arc<Snapshot>>>,
    health_out: watch::Sender<Health>,
    cancel: CancellationToken,
) {
    let (steps, mut inbox) = mpsc::channel(STEPS);
    let (mut health, mut snapshot) = (Health::default(), Snapshot::default());
    let agents = Agents::default();
    let (served, looks) = served(client.clone(), Pace::new(agents.clone()));
    let mut follows: Vec<BoxFuture<'static, ()>> = vec![Box::pin(looks)];
    macro_rules! follow {
        ($($kind:ty: $field:ident, $need:ident, $feature:literal, $seen:expr;)*) => {$(
            let known = KindHealth::new(<$kind>::KIND, Need::$need, $feature);
            health.kinds.insert(<$kind>::resource(), known);
            let place = Place::<$kind, Snapshot> {
                objects: |s| &mut s.$field,
                seen: $seen,
                namespace: None,
                counts_agents: <$kind>::KIND == crate::api::Node::KIND,
            };
            follows.push(Box::pin(follow(client.clone(), place, agents.clone(), served.clone(), steps.clone())));
        )*};
    }
    // The kinds, where they are kept, and what becomes of a node that cannot read them: see [`Need`].
    follow! {
        crate::api::Service: services, Required, "layer 4", Some(|s, at| s.seen.services = s.seen.services.max(at));
        crate::api::EndpointSlice: slices, Required, "layer 4", None;
        // Nodes differ in whom they let announce, or share addresses, when they do not read the same.
        crate::api::Node: nodes, Required, "who announces", None;
        crate::api::Namespace: namespaces, Required, "which namespaces may use what", None;
        crate::api::GatewayClass: gateway_classes, Expected, "layer 7", None;
        crate::api::Gateway: gateways, Expected, "layer 7", Some(|s, at| s.seen.gateways = s.seen.gateways.max(at));
        crate::api::HttpRoute: http_routes, Expected, "layer 7", None;
        crate::api::GrpcRoute: grpc_routes, Expected, "layer 7", None;
        crate::api::TlsRoute: tls_routes, Expected, "layer 7", None;
        crate::api::TcpRoute: tcp_routes, Expected, "layer 7", None;
        crate::api::UdpRoute: udp_routes, Expected, "layer 7", None;
        crate::api::ListenerSet: listener_sets, Expected, "layer 7", None;
        crate::api::BackendTlsPolicy: backend_tls_policies, Expected, "TLS to backends", None;
        crate::api::BackendTrafficPolicy: backend_traffic_policies, Optional, "budgets of retries", None;
        crate::api::ReferenceGrant: grants, Expected, "references across namespaces", None;
        // Addresses that were given stay without it; new ones come from --pool alone.
        crate::api::AddressPool: pools, Expected, "giving addresses from pools", None;
        crate::api::OpenShiftRoute: openshift_routes, Optional, "a Route for each Service that asks for one", None;
    }
    for (resource, kind) in health.kinds.iter().filter(|(_, kind)| kind.need == Need::Optional) {
        tracing::debug!(kind = resource, feature = kind.feature, "not waited for");
        snapshot.off.insert(resource.clone(), Off::Unread);
    }
    drop((steps, served));
    health_out.send_replace(health.clone());

    // A cluster that starts, or gets the agents everywhere at once, does not ask for everything at one moment.
    let start = async {
        agents.count(client.clone()).await;
        sleep(agents.start()).await;
    };
    tokio::select! {
        () = cancel.cancelled() => return,
        () = start => {}
    }
    // Dropped at the end, and with it every reflector.
    let _reflectors: JoinSet<()> = follows.into_iter().collect();
    let (mut named, mut heard) = Named::new(connector, agents);
    let mut referring = Snapshot::default();
    let mut sent: Option<Instant> = None;
    let mut is_due = false;
    loop {
        let is_known = !health.kinds.values().any(KindHealth::is_awaited);
        if is_due && is_known && !referring.refers_alike(&snapshot) {
            named.follow(&references(&snapshot), &mut snapshot);
            referring = snapshot.clone();
        }
        let ready_at = named.awaited_until().max(sent.map(|at| at + COALESCE));
        let due_at = (is_due && is_known).then(|| ready_at.unwrap_or_else(Instant::now));
        if due_at.is_some_and(|at| at <= Instant::now()) {
            out.send_replace(Some(Arc::new(snapshot.clone())));
            (sent, is_due) = (Some(Instant::now()), false);
            named.sent();
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
            Some(answer) = heard.recv() => {
                is_due |= named.take(answer, &mut snapshot);
                for _ in 0..STEPS {
                    let Ok(answer) = heard.try_recv() else { break };
                    is_due |= named.take(answer, &mut snapshot);
                }
            }
            () = sleep_until(due_at.unwrap_or_else(Instant::now)), if due_at.is_some() => {}
        }
    }
}

/// Does what a reflector says; whether the snapshot changed.
fn take(step: Step<Snapshot>, snapshot: &mut Snapshot, health: &mut Health, out: &watch::Sender<Health>) -> bool {
    let Step { resource, what } = step;
    let Some(kind) = health.kinds.get_mut(&resource) else { return false };
    let state = |kind: &KindHealth| (kind.is_synced, kind.is_absent, kind.is_forbidden, kind.trouble.is_some());
    let was = state(kind);
    let now = std::time::Instant::now();
    let since = kind.trouble.as_ref().filter(|t| t.is_current()).map_or(now, |t| t.since);
    let known = KindHealth::new(kind.kind, kind.need, kind.feature);
    let has_changed = match what {
        What::Change(change) => {
            change(snapshot);
            kind.trouble = None;
            true
        }
        What::Synced(change) => {
            change(snapshot);
            snapshot.off.remove(&resource);
            *kind = KindHealth { is_synced: true, ..known };
            true
        }
        What::Absent(change) => {
            change(snapshot);
            snapshot.off.insert(resource.clone(), Off::Absent);
            let is_new = !kind.is_absent;
            *kind = KindHealth { is_synced: true, is_absent: true, ..known };
            is_new
        }
        What::Forbidden(reason) => {
            let is_new = !kind.is_forbidden;
            if is_new && kind.need == Need::Required {
                tracing::error!(kind = resource, reason, "reading is forbidden");
            } else if is_new {
                tracing::warn!(
                    kind = resource,
                    feature = kind.feature,
                    reason,
                    "reading is forbidden, the feature is off"
                );
            }
            (kind.is_forbidden, kind.trouble) = (true, Some(Trouble { reason, since, last: now }));
            // Others need not go on without what was read before.
            is_new && kind.is_off() && snapshot.off.insert(resource.clone(), Off::Forbidden) != Some(Off::Forbidden)
        }
        What::Trouble(reason) => {
            if !kind.trouble.as_ref().is_some_and(Trouble::is_current) {
                tracing::warn!(kind = resource, reason, "not followed for now, last state kept");
            }
            kind.trouble = Some(Trouble { reason, since, last: now });
            false
        }
        What::Watching => {
            if kind.is_synced && !kind.is_forbidden {
                kind.trouble = None;
            }
            false
        }
    };
    if was != state(kind) {
        if kind.trouble.is_none() {
            tracing::info!(kind = resource, absent = kind.is_absent, "followed");
        }
        out.send_replace(health.clone());
    }
    has_changed
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
