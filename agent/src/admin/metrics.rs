//! Every metric with its help text, read from the stages at the moment of the scrape.
use std::sync::atomic::Ordering::Relaxed;

use crate::{
    datapath::{maps::TableError, observe},
    telemetry::{Families, Family, Kind, Labels},
};

use super::{Stages, bounds, certificates, red};

/// All families.
///
/// # Errors
/// A map cannot be read.
pub fn families(stages: &Stages) -> Result<Families, TableError> {
    let applied = stages.applied.borrow().clone();
    let model = stages.models.borrow().clone();
    let one = |value: f64| vec![(Labels::new(), value)];
    let gauge = |name, help, value: f64| Family { name, kind: Kind::Gauge, help, samples: one(value) };
    let compiled = [
        ("everything", model.work.whole),
        ("slices", model.work.services),
        ("route", model.work.routes),
        ("attachment", model.work.attached),
        ("gateway", model.work.gateways),
        ("certificate", model.work.certificates),
        ("policy", model.work.policies),
    ];
    let compiled = compiled.into_iter().map(|(what, n)| (vec![("of", what.to_owned())], count(n)));
    let mut all = vec![
        Family {
            name: "sluice_compiled",
            kind: Kind::Counter,
            help: "What was compiled for the models so far: one changed object should be one more, desired",
            samples: compiled.collect(),
        },
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
    let of_flows = applied.census.occupancy();
    let maps = applied.occupancy().into_iter().chain(of_flows);
    let ratios = maps.map(|of| (vec![("map", of.map.to_owned())], count(of.used) / f64::from(of.capacity)));
    all.push(Family {
        name: "sluice_map_occupancy_ratio",
        kind: Kind::Gauge,
        help: "Part of a map's entries that is in use, 0 to 1, observed",
        samples: ratios.collect(),
    });
    let maps = applied.occupancy().map(|of| of.map);
    let refused = |map: &&'static str| count(applied.refused.get(map).copied().unwrap_or_default() as u64);
    all.push(Family {
        name: "sluice_refused_frontends",
        kind: Kind::Gauge,
        help: "Frontends of the youngest objects that find no place, by the map that is full, observed",
        samples: maps.iter().map(|map| (vec![("map", (*map).to_owned())], refused(map))).collect(),
    });
    all.push(Family {
        name: "sluice_flow_entries",
        kind: Kind::Gauge,
        help: "Entries of flows in each of their maps, two for each flow, at the last walk over them, observed",
        samples: of_flows.map(|of| (vec![("map", of.map.to_owned())], count(of.used))).into(),
    });
    all.push(gauge(
        "sluice_unproved_flows",
        "Flows whose client has not proved that it hears the backend, at the last walk over them, observed",
        count(applied.census.opening_flows),
    ));
    all.push(Family {
        name: "sluice_announcements",
        kind: Kind::Counter,
        help: "Announcements of VIPs sent (gratuitous ARP, unsolicited advertisements), observed",
        samples: one(count(applied.announcements)),
    });
    all.push(gauge(
        "sluice_address_conflicts",
        "VIPs that another host has, so that they are not announced, observed",
        count(applied.conflicts.len() as u64),
    ));
    all.push(gauge(
        "sluice_endpoints_left_out",
        "Endpoints that this node cannot reach and leaves out of its tables, observed",
        count(applied.left_out.len() as u64),
    ));
    all.push(gauge(
        "sluice_announced_vips",
        "VIPs that this node announces, desired",
        count(model.announced.len() as u64),
    ));
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
    let help = "Packets for owned VIPs that were answered here or dropped, by reason, observed";
    all.push(Family { name: "sluice_packets", kind: Kind::Counter, help, samples });
    proxy(stages, &mut all);
    let histograms = red::add(&stages.metrics, &mut all);
    Ok(Families { plain: all, histograms })
}

/// What the proxy counts.
fn proxy(stages: &Stages, all: &mut Vec<Family>) {
    let p = &stages.proxy.total();
    let responses = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(&p.responses);
    all.push(Family {
        name: "sluice_proxy_responses",
        kind: Kind::Counter,
        help: "Responses by status class, observed",
        samples: responses.map(|(class, n)| (vec![("class", class.to_owned())], count(n.load(Relaxed)))).collect(),
    });
    let ejected = stages.ejections.now().len() as u64;
    all.push(Family {
        name: "sluice_proxy_ejected_endpoints",
        kind: Kind::Gauge,
        help: "Endpoints that are passed over now for their failures, observed",
        samples: vec![(Labels::new(), count(ejected))],
    });
    all.push(Family {
        name: "sluice_proxy_gateway_bound_refusals",
        kind: Kind::Counter,
        help: "Connections, requests and streams that a Gateway's own bound has refused or ended, observed",
        samples: bounds::samples(&stages.gateways.pressed()),
    });
    let accepted = stages.proxy.each(|stats| &stats.accepted).into_iter().enumerate();
    all.push(Family {
        name: "sluice_proxy_connections",
        kind: Kind::Counter,
        help: "Connections accepted by each worker, observed",
        samples: accepted.map(|(worker, n)| (vec![("worker", worker.to_string())], count(n))).collect(),
    });
    let model = stages.models.borrow().clone();
    let ends = certificates::all(&model.http).into_iter();
    all.push(Family {
        name: "sluice_certificate_not_after_seconds",
        kind: Kind::Gauge,
        help: "The last second at which a listener's certificate is valid, since 1970",
        samples: ends.map(|(secret, (of, _))| (vec![("secret", secret)], of.not_after as f64)).collect(),
    });
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    for (name, kind, help, value) in [
        (
            "sluice_proxy_unclaimed_connections",
            counter,
            "Connections closed because no listener has their address, observed",
            &p.unclaimed,
        ),
        (
            "sluice_proxy_accept_waits",
            counter,
            "Times that all connections were taken and new ones waited in the backlog, observed",
            &p.accept_waits,
        ),
        (
            "sluice_proxy_gateway_refusals",
            counter,
            "Connections closed because their Gateway had as many as it may have, observed",
            &p.gateway_refusals,
        ),
        (
            "sluice_proxy_stalled_evictions",
            counter,
            "Streams and connections that took nothing for longest, ended when their Gateway held as much as it may, observed",
            &p.stalled_evictions,
        ),
        (
            "sluice_proxy_clients_gone",
            counter,
            "Connections of clients that reset, vanished, or were silent after FIN, observed",
            &p.clients_gone,
        ),
        (
            "sluice_proxy_exhausted",
            counter,
            "Connections not had for want of descriptors, ports or places on this node, observed",
            &p.exhausted,
        ),
        ("sluice_proxy_own_responses", counter, "Responses that the proxy made itself, observed", &p.own_responses),
        (
            "sluice_proxy_refused_requests",
            counter,
            "Requests refused as malformed or unsafe, observed",
            &p.refused_requests,
        ),
        (
            "sluice_proxy_mirrored_requests",
            counter,
            "Copies of requests that were sent to mirrors, observed",
            &p.mirrors,
        ),
        (
            "sluice_proxy_dropped_mirrors",
            counter,
            "Copies of requests that were not made or did not get through, observed",
            &p.dropped_mirrors,
        ),
        (
            "sluice_proxy_ejections",
            counter,
            "Endpoints that were ejected: passed over for a while for their failures, observed",
            &p.ejections,
        ),
        ("sluice_proxy_readmissions", counter, "Ejected endpoints that were well again, observed", &p.readmissions),
        (
            "sluice_proxy_connect_errors",
            counter,
            "Upstream connections that could not be opened, observed",
            &p.connect_errors,
        ),
        (
            "sluice_proxy_upstream_errors",
            counter,
            "Upstream exchanges that broke before a response, observed",
            &p.upstream_errors,
        ),
        ("sluice_proxy_timeouts", counter, "Requests that ran out of time, observed", &p.timeouts),
        ("sluice_proxy_retries", counter, "Tries beyond the first, observed", &p.retries),
        ("sluice_proxy_upstream_connects", counter, "Upstream connections opened, observed", &p.upstream_connects),
        (
            "sluice_proxy_active_connections",
            gauge,
            "Connections of clients that are open, observed",
            &p.active_connections,
        ),
        (
            "sluice_proxy_max_connections",
            gauge,
            "Connections of clients that there may be, desired",
            &p.max_connections,
        ),
        (
            "sluice_proxy_accept_waiting",
            gauge,
            "Workers at which new ones wait because all of them are taken, observed",
            &p.accept_waiting,
        ),
        ("sluice_proxy_upstream_connections", gauge, "Upstream connections that are open, observed", &p.open_upstream),
        (
            "sluice_proxy_max_upstream_connections",
            gauge,
            "Upstream connections that there may be, desired",
            &p.max_upstream,
        ),
        (
            "sluice_proxy_active_requests",
            gauge,
            "Requests whose response is not finished, observed",
            &p.active_requests,
        ),
        (
            "sluice_proxy_idle_upstream_connections",
            gauge,
            "Upstream connections that are open and idle, observed",
            &p.idle_upstream,
        ),
        (
            "sluice_proxy_upstream_tls_failures",
            counter,
            "Endpoints that were connected and with which TLS could not be made as their policy wants it, observed",
            &p.upstream_tls_failures,
        ),
        ("sluice_proxy_tls_handshakes", counter, "TLS handshakes with clients, observed", &p.tls_handshakes),
        (
            "sluice_proxy_tls_resumed",
            counter,
            "TLS handshakes that went on from an earlier session, observed",
            &p.tls_resumed,
        ),
        ("sluice_proxy_tls_failures", counter, "TLS handshakes that failed, observed", &p.tls_failures),
        (
            "sluice_proxy_tls_unknown_names",
            counter,
            "TLS handshakes whose server name no listener has, observed",
            &p.tls_unknown_names,
        ),
        ("sluice_proxy_tls_timeouts", counter, "TLS handshakes that took too long, observed", &p.tls_timeouts),
        (
            "sluice_proxy_tls_evicted",
            counter,
            "TLS handshakes ended because too many were under way, observed",
            &p.tls_evicted,
        ),
        (
            "sluice_proxy_misdirected_requests",
            counter,
            "Requests for another listener than that of their TLS handshake (421), observed",
            &p.misdirected,
        ),
        ("sluice_proxy_tables", counter, "Route tables put in place, observed", &p.tables),
        (
            "sluice_proxy_table_parts",
            counter,
            "Host names whose rules were indexed for a route table, observed; those that have not changed are kept",
            &p.table_parts,
        ),
        ("sluice_proxy_streams", gauge, "Streams of TLSRoutes that are open, observed", &p.streams),
        ("sluice_proxy_tunnels", gauge, "Upgraded connections that are open, observed", &p.tunnels),
    ] {
        all.push(Family { name, kind, help, samples: vec![(Labels::new(), count(value.load(Relaxed)))] });
    }
}

/// A count as a sample; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "the format has no integers; counts beyond 2^53 lose their last digits")]
pub(super) fn count(n: u64) -> f64 {
    n as f64
}

fn bool_value(b: bool) -> f64 {
    if b { 1.0 } else { 0.0 }
}
