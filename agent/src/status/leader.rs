//! One agent of the cluster writes: the one that holds the Lease `sluice-leader`.
//!
//! # Design
//! - The holder stops in good time by its own clock ([`GIVE_UP`] before the Lease ends for the others), and every write
//!   names the revision it is based on: two that believe to lead for a moment cannot overwrite each other.
//! - The others watch the one Lease and ask for nothing while it is renewed. One that has ended, or was given back, is asked for
//!   after a pause at random: the first that takes it is seen by the others before most of them ask. Where the watch cannot be had,
//!   a Lease that is not seen to change is asked for as one that has ended.
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{membership::FIELD_MANAGER, telemetry::chain};

/// The Lease's name.
pub const NAME: &str = "sluice-leader";
/// How long it is valid after it was renewed. Units: seconds.
const DURATION: i32 = 8;
/// Between two renewals, and between two tries that fail.
const RENEW: Duration = Duration::from_secs(2);
/// After its last renewal the holder leads for so long: less than [`DURATION`].
const GIVE_UP: Duration = Duration::from_secs(6);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(2);
/// The pause before a Lease is asked for that nobody holds, at most.
const PAUSE: Duration = Duration::from_secs(1);
/// How long watches last, at least, and what is added to it at random. Units: seconds.
const WATCH: u32 = 300;

/// What this agent knows of the Lease.
struct Seen {
    holder: String,
    renewed: Option<MicroTime>,
    duration: Duration,
    changed: Instant,
}

impl Seen {
    /// Takes note of the Lease as it is now.
    fn take(seen: &mut Option<Self>, spec: &LeaseSpec) {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if seen.as_ref().is_some_and(|s| s.holder == holder && s.renewed == spec.renew_time) {
            return;
        }
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(DURATION)).unwrap_or(0).clamp(1, 60);
        let (holder, duration) = (holder.to_owned(), Duration::from_secs(seconds));
        *seen = Some(Self { holder, renewed: spec.renew_time.clone(), duration, changed: Instant::now() });
    }

    /// From when on nobody holds it.
    fn ends(&self) -> Instant {
        if self.holder.is_empty() { self.changed } else { self.changed + self.duration }
    }
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
    let mut changes = std::pin::pin!(follow(api.clone()));
    let mut seen: Option<Seen> = None;
    let mut renewed: Option<Instant> = None;
    let mut ask_at = Instant::now();
    while !leave.is_cancelled() {
        tokio::select! {
            () = leave.cancelled() => break,
            Some(lease) = changes.next() => {
                let before = seen.as_ref().map(|s| s.changed);
                Seen::take(&mut seen, &lease.spec.unwrap_or_default());
                if let Some(seen) = seen.as_ref().filter(|s| renewed.is_none() && before != Some(s.changed)) {
                    ask_at = seen.ends() + PAUSE.mul_f64(fastrand::f64());
                }
                continue;
            }
            () = sleep_until(ask_at.into()) => {}
        }
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
        ask_at = Instant::now() + RENEW;
        if let Some(seen) = seen.as_ref().filter(|_| renewed.is_none()) {
            ask_at = ask_at.max(seen.ends()) + PAUSE.mul_f64(fastrand::f64());
        }
    }
    if out.send_replace(false)
        && let Ok(Err(error)) = timeout(CALL, give_back(&api, &identity)).await
    {
        tracing::debug!(error = chain(&error), "leader Lease");
    }
}

/// The Lease whenever it changes, for as long as somebody asks; nothing while it cannot be watched.
fn follow(api: Api<Lease>) -> impl Stream<Item = Lease> {
    let lasts = WATCH + fastrand::u32(0..WATCH);
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}")).timeout(lasts);
    watcher(api, config).filter_map(async |event| match event {
        Ok(Event::Apply(lease) | Event::InitApply(lease)) => Some(lease),
        // Nobody holds what is not there.
        Ok(Event::Delete(_)) => Some(Lease::default()),
        Ok(Event::Init | Event::InitDone) => None,
        Err(error) => {
            tracing::debug!(error = chain(&error), "leader Lease is not watched for now");
            sleep(RENEW.mul_f64(1.0 + fastrand::f64())).await;
            None
        }
    })
}

/// Renews or takes the Lease where that is allowed; whether this agent holds it.
async fn step(api: &Api<Lease>, identity: &str, seen: &mut Option<Seen>) -> kube::Result<bool> {
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let lease = Lease { metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() }, spec: None };
        return write(api, lease, identity).await;
    };
    let spec = lease.spec.take().unwrap_or_default();
    let holder = spec.holder_identity.clone().unwrap_or_default();
    Seen::take(seen, &spec);
    let expired = seen.as_ref().is_none_or(|s| s.ends() <= Instant::now());
    if holder == identity || expired {
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
