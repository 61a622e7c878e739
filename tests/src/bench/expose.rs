//! From the creation of a Service to the address in its status, as who waits at `kubectl get service` sees it.
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use super::{
    LIMIT,
    cluster::SERVICES,
    figures::{Figures, Times},
};
use crate::cluster::ControlPlane;

/// Services that are created, one after the other.
const SERVICES_CREATED: usize = 40;
/// What the project aims for. Units: milliseconds.
const GOAL: f64 = 2_000.0;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Between two Services, at random in this range of milliseconds: nothing is to be in step with the renewal of a Lease.
const PAUSE_MS: std::ops::Range<u64> = 50..350;

/// Measures, prints, and takes the Services away.
pub(super) fn run(plane: &ControlPlane, figures: &mut Figures) -> anyhow::Result<()> {
    let mut random = fastrand::Rng::with_seed(11);
    let mut times = Vec::new();
    for n in 0..SERVICES_CREATED {
        std::thread::sleep(Duration::from_millis(random.u64(PAUSE_MS)));
        let name = format!("new-{n}");
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]},
        });
        let began = Instant::now();
        plane.api().create(SERVICES, &service)?;
        let path = format!("{SERVICES}/{name}");
        while !plane.api().get(&path)?["status"]["loadBalancer"]["ingress"].is_array() {
            ensure!(began.elapsed() < LIMIT, "{name} has no address after {LIMIT:?}");
            std::thread::sleep(LOOK);
        }
        times.push(began.elapsed());
    }
    for n in 0..SERVICES_CREATED {
        plane.api().delete(&format!("{SERVICES}/new-{n}"))?;
    }
    let times = Times::new(times);
    figures.at_most("a new Service, to the address in its status, p50", times.at(50), None, "ms");
    figures.at_most("a new Service, to the address in its status, slowest", times.at(100), Some(GOAL), "ms");
    Ok(())
}
