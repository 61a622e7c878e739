//! One agent of the cluster writes: the one that holds the Lease `sluice-leader`.
//!
//! # Design
//! The holder stops in good time by its own clock ([`GIVE_UP`] before the Lease ends for the others), and every write
//! names the revision it is based on: two that believe to lead for a moment cannot overwrite each other.
use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{membership::FIELD_MANAGER, telemetry::chain};

/// The Lease's name.
pub const NAME: &str = "sluice-leader";
/// How long it is valid after it was renewed. Units: seconds.
const DURATION: i32 = 8;
/// Between two renewals, and between two looks at another's Lease.
const RENEW: Duration = Duration::from_secs(2);
/// After its last renewal the holder leads for so long: less than [`DURATION`].
const GIVE_UP: Duration = Duration::from_secs(6);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(2);

/// What this agent knows of the Lease.
struct Seen {
    holder: String,
    renewed: Option<MicroTime>,
    duration: Duration,
    changed: Instant,
}

/// Tries to lead until `leave`; says in `out` whether it does. Gives the Lease back at the end.
pub(super) async fn campaign(
    client: Client,
    namespace: String,
    identity: String,
    out: watch::Sender<bool>,
    leave: CancellationToken,
) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let mut seen: Option<Seen> = None;
    let mut renewed: Option<Instant> = None;
    while !leave.is_cancelled() {
        let began = Instant::now();
        match timeout(CALL, step(&api, &identity, &mut seen)).await {
            Ok(Ok(true)) => renewed = Some(began),
            Ok(Ok(false)) => renewed = None,
            Ok(Err(error)) => tracing::debug!(error = chain(&error), "leader Lease"),
            Err(_) => tracing::debug!(elapsed = ?CALL, "leader Lease"),
        }
        let leads = renewed.is_some_and(|at| at.elapsed() < GIVE_UP);
        let has_changed = out.send_if_modified(|known| std::mem::replace(known, leads) != leads);
        if has_changed {
            tracing::info!(leads, "leader");
        }
        tokio::select! {
            () = leave.cancelled() => {}
            () = tokio::time::sleep(RENEW) => {}
        }
    }
    if out.send_replace(false)
        && let Ok(Err(error)) = timeout(CALL, give_back(&api, &identity)).await
    {
        tracing::debug!(error = chain(&error), "leader Lease");
    }
}

/// Renews or takes the Lease where that is allowed; whether this agent holds it.
async fn step(api: &Api<Lease>, identity: &str, seen: &mut Option<Seen>) -> kube::Result<bool> {
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let lease = Lease { metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() }, spec: None };
        return write(api, lease, identity).await;
    };
    let spec = lease.spec.take().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    if seen.as_ref().is_none_or(|s| s.holder != holder || s.renewed != spec.renew_time) {
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(DURATION)).unwrap_or(0).clamp(1, 60);
        let duration = Duration::from_secs(seconds);
        *seen =
            Some(Seen { holder: holder.clone(), renewed: spec.renew_time.clone(), duration, changed: Instant::now() });
    }
    let expired = seen.as_ref().is_none_or(|s| s.changed.elapsed() > s.duration);
    if holder == identity || holder.is_empty() || expired {
        lease.spec = Some(spec);
        return write(api, lease, identity).await;
    }
    Ok(false)
}

/// Writes the Lease as ours; `false` when another was quicker.
async fn write(api: &Api<Lease>, mut lease: Lease, identity: &str) -> kube::Result<bool> {
    let now = MicroTime(Timestamp::now());
    let old = lease.spec.take().unwrap_or_default();
    let is_ours = old.holder_identity.as_deref() == Some(identity);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(DURATION),
        acquire_time: if is_ours { old.acquire_time } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(!is_ours)),
        ..LeaseSpec::default()
    });
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let written = match lease.metadata.resource_version {
        None => api.create(&params, &lease).await,
        Some(_) => api.replace(NAME, &params, &lease).await,
    };
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn give_back(api: &Api<Lease>, identity: &str) -> kube::Result<()> {
    let Some(mut lease) = api.get_opt(NAME).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(identity)) else {
        return Ok(());
    };
    spec.holder_identity = Some(String::new());
    api.replace(NAME, &PostParams::default(), &lease).await.map(drop)
}
