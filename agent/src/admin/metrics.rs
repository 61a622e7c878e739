//! Every metric with its help text, read from the stages at the moment of the scrape.
use crate::{
    datapath::{maps::TableError, observe},
    telemetry::{Family, Kind, Labels},
};

use super::Stages;

/// All families.
///
/// # Errors
/// A map cannot be read.
pub fn families(stages: &Stages) -> Result<Vec<Family>, TableError> {
    let (applied, model) = (stages.applied.borrow().clone(), stages.models.borrow().clone());
    let one = |value: f64| vec![(Labels::new(), value)];
    let gauge = |name, help, value: f64| Family { name, kind: Kind::Gauge, help, samples: one(value) };
    let mut all = vec![
        gauge(
            "sluice_ready",
            "Whether the node forwards what the objects ask for, 0 or 1",
            bool_value(stages.blockers().is_empty()),
        ),
        gauge("sluice_model_revision", "Revision of the newest model, desired", count(model.rev)),
        gauge("sluice_programmed_revision", "Revision that is in the maps, observed", count(applied.rev)),
        gauge(
            "sluice_programmed_seconds",
            "Time that the last change took to program, in seconds",
            applied.took.as_secs_f64(),
        ),
        gauge("sluice_frontends", "Frontends in the maps, observed", count(applied.frontends as u64)),
        gauge("sluice_backends", "Backends in the maps, observed", count(applied.backends as u64)),
        gauge("sluice_table_chunks", "Chunks of lookup table in use, observed", count(applied.table_chunks.into())),
        gauge(
            "sluice_unprogrammed",
            "Things that could not be programmed, observed",
            count(applied.faults.len() as u64),
        ),
    ];
    let frontends = observe::frontends(&stages.pins)?;
    let mut per_frontend = |name, help, value: fn(&observe::FrontendCount) -> u64| {
        let samples = frontends.iter().map(|(f, c)| (vec![("frontend", f.to_string())], count(value(c)))).collect();
        all.push(Family { name, kind: Kind::Counter, help, samples });
    };
    per_frontend("sluice_frontend_flows", "Flows begun, observed", |c| c.flows);
    per_frontend("sluice_frontend_request_packets", "Packets from clients, observed", |c| c.request_packets);
    per_frontend("sluice_frontend_request_bytes", "Bytes from clients, observed", |c| c.request_bytes);
    per_frontend("sluice_frontend_reply_packets", "Packets from backends, observed", |c| c.reply_packets);
    per_frontend("sluice_frontend_reply_bytes", "Bytes from backends, observed", |c| c.reply_bytes);
    per_frontend("sluice_frontend_dropped_packets", "Packets refused or dropped, observed", |c| c.dropped_packets);
    let reasons = observe::reasons(&stages.pins)?;
    let samples = reasons.into_iter().map(|(name, n)| (vec![("reason", name.to_owned())], count(n))).collect();
    let help = "Packets for owned VIPs that were not forwarded, by reason, observed";
    all.push(Family { name: "sluice_packets", kind: Kind::Counter, help, samples });
    Ok(all)
}

/// A count as a sample; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "the format has no integers; counts beyond 2^53 lose their last digits")]
fn count(n: u64) -> f64 {
    n as f64
}

fn bool_value(b: bool) -> f64 {
    if b { 1.0 } else { 0.0 }
}
