//! Answers of the admin API as tables for people.
use std::{collections::BTreeSet, fmt::Write};

use comfy_table::{Cell, Table, presets::NOTHING};

use crate::{
    admin::view,
    model::http::listing::{BackendRow, RouteRow},
};

/// A table without lines: columns two spaces apart, as kubectl prints them.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row);
    }
    let columns = table.column_iter_mut();
    columns.for_each(|c| _ = c.set_padding((0, 2)));
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Or a sentence, where there is no row.
fn or_none(rows: usize, none: &str, table: String) -> String {
    if rows == 0 { none.to_owned() } else { table }
}

/// `sluice status`.
#[must_use]
pub fn status(s: &view::Status) -> String {
    let mut out = String::new();
    let readiness = if s.ready { "ready".to_owned() } else { format!("NOT READY: {}", s.blockers.join("; ")) };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "node {}  sluice {}  up {}  {readiness}", s.node, s.version, duration(s.uptime_seconds));
    let behind =
        if s.model_rev == s.programmed_rev { String::new() } else { format!(" (model is at {})", s.model_rev) };
    let _ = writeln!(
        out,
        "programmed: revision {}{behind} in {:.1} ms, {} frontends, {} backends, {} of {} table chunks",
        s.programmed_rev,
        f64::from(u32::try_from(s.programmed_in_us).unwrap_or(u32::MAX)) / 1000.0,
        s.frontends,
        s.backends,
        s.table_chunks.0,
        s.table_chunks.1
    );
    let _ = writeln!(out, "maps: {}", s.pins);
    let uplinks = s
        .uplinks
        .iter()
        .map(|u| vec![u.name.clone(), u.programs.clone(), u.addresses.join(","), u.note.clone().unwrap_or_default()]);
    let _ = writeln!(out, "\n{}", table(&["INTERFACE", "PROGRAMS", "ADDRESSES", "NOTE"], uplinks));
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = writeln!(out, "\n{title}\n  {}", lines.join("\n  "));
        }
    };
    section(
        "files that could not be read (their last good objects stay):",
        s.faults.iter().map(|f| format!("{}: {}", f.origin, f.reason)).collect(),
    );
    section("objects that do not work:", s.problems.iter().map(problem).collect());
    section("objects that work, but:", s.remarks.iter().map(problem).collect());
    section("settings of this host:", s.host.clone());
    section("VIPs that are bound on this host:", s.bound.clone());
    section("maps that are nearly full:", s.nearly_full.clone());
    section("limits that are reached:", s.limits.clone());
    section("not programmed:", s.unprogrammed.clone());
    section("packets answered here or dropped:", s.reasons.iter().map(|(name, n)| format!("{name}: {n}")).collect());
    out.trim_end().to_owned()
}

fn problem(o: &view::Object) -> String {
    format!("{} {}: {} ({}): {}", o.kind, o.name, o.outcome, o.reason, o.messages.join("; "))
}

/// `sluice services`.
#[must_use]
pub fn services(services: &[view::Service]) -> String {
    let rows = services.iter().map(|s| {
        vec![
            s.object.kind.clone(),
            s.object.name.clone(),
            list(&s.addresses, "<pending>"),
            announced(s),
            list(&s.ports, "-"),
            clients(&s.sources),
            s.backends.map_or_else(|| if is_proxied(s) { "proxy" } else { "-" }.to_owned(), |n| n.to_string()),
            s.flows.to_string(),
            bytes(s.bytes),
            s.dropped.to_string(),
            s.object.reason.clone(),
        ]
    });
    let header = [
        "KIND",
        "NAME",
        "ADDRESSES",
        "ANNOUNCED",
        "PORTS",
        "CLIENTS",
        "BACKENDS",
        "FLOWS",
        "BYTES",
        "DROPPED",
        "STATE",
    ];
    or_none(services.len(), "no Service of type LoadBalancer and no Gateway is ours", table(&header, rows))
}

/// From where clients may come, as far as a table has room.
fn clients(sources: &[String]) -> String {
    const SHOWN: usize = 3;
    match sources.len() {
        0 => "all".to_owned(),
        n if n > SHOWN => format!("{} and {} more", sources[..SHOWN].join(","), n - SHOWN),
        _ => sources.join(","),
    }
}

/// A Gateway, or a Service whose ports have frontends without backends: it stands before one.
fn is_proxied(service: &view::Service) -> bool {
    service.object.kind == "Gateway" || !service.ports.is_empty()
}

/// The nodes that announce a Service's addresses; where the node stands alone, whether it does.
fn announced(s: &view::Service) -> String {
    if !s.announcers.is_empty() {
        let nodes: BTreeSet<&str> = s.announcers.values().map(String::as_str).collect();
        return nodes.into_iter().collect::<Vec<_>>().join(",");
    }
    match s.announced.len() {
        0 if s.addresses.is_empty() => "-".to_owned(),
        0 => "no".to_owned(),
        n if n == s.addresses.len() => "yes".to_owned(),
        _ => s.announced.join(","),
    }
}

/// `sluice backends`.
#[must_use]
pub fn backends(backends: &[view::Backend]) -> String {
    let rows = backends
        .iter()
        .map(|b| vec![b.frontend.clone(), b.service.clone(), b.backend.clone(), b.locality.clone(), b.state.clone()]);
    let header = ["FRONTEND", "SERVICE", "BACKEND", "WHERE", "STATE"];
    or_none(backends.len(), "no frontend has a backend", table(&header, rows))
}

/// `sluice routes`.
#[must_use]
pub fn routes(routes: &[RouteRow]) -> String {
    let rows = routes.iter().map(|r| {
        vec![
            r.frontends.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            format!("{}/{}", r.gateway, r.listener),
            r.hostname.clone(),
            r.matches.clone(),
            format!("{}#{}", r.route, r.rule),
            list(&r.actions, "-"),
            r.backends.iter().map(share).collect::<Vec<_>>().join(", "),
        ]
    });
    let header = ["FRONTENDS", "LISTENER", "HOST", "MATCH", "ROUTE", "ACTIONS", "BACKENDS (WEIGHT, READY)"];
    or_none(routes.len(), "no route is attached to a Gateway that is ours", table(&header, rows))
}

fn share(b: &BackendRow) -> String {
    match &b.fault {
        Some(fault) => format!("{} ({}, 500: {fault})", b.service, b.weight),
        None => format!("{} ({}, {})", b.service, b.weight, b.ready.len()),
    }
}

/// `sluice flows`.
#[must_use]
pub fn flows(flows: &view::Flows) -> String {
    let rows = flows.flows.iter().map(|f| {
        vec![
            f.proto.clone(),
            f.client.clone(),
            f.frontend.clone(),
            f.backend.clone(),
            f.snat.clone().unwrap_or_else(|| "-".to_owned()),
            f.state.clone(),
            duration(f.idle_seconds),
            duration(f.age_seconds),
        ]
    });
    let header = ["PROTO", "CLIENT", "FRONTEND", "BACKEND", "SOURCE SEEN", "STATE", "IDLE", "AGE"];
    let shown = or_none(flows.total, "no flow is tracked", table(&header, rows));
    if flows.flows.len() < flows.total {
        format!("{shown}\n{} of {} flows", flows.flows.len(), flows.total)
    } else {
        shown
    }
}

/// `sluice why`.
#[must_use]
pub fn object(o: &view::Object) -> String {
    let head = format!("{} {}: {} ({})", o.kind, o.name, o.outcome, o.reason);
    o.messages.iter().fold(head, |text, message| format!("{text}\n  {message}"))
}

fn list(values: &[String], none: &str) -> String {
    if values.is_empty() { none.to_owned() } else { values.join(",") }
}

/// As kubectl writes ages: `42s`, `5m3s`, `7h12m`, `3d4h`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| n >= *size) {
        Some((unit, size)) => format!("{}.{} {unit}", n / size, n % size * 10 / size),
        None => format!("{n} B"),
    }
}

/// `sluice instances NAMESPACE/NAME`.
#[must_use]
pub fn instances(list: &view::InstanceList) -> String {
    let header = ["ID", "ADDRESSES", "PORTS", "STATE", "NODE", "ZONE", "TARGET", "LAST CHANGE"];
    let rows = table(&header, list.instances.iter().map(instance));
    format!("{}\n{}", or_none(list.instances.len(), "no instances", rows), counts(list.counts, &list.last_change))
}

/// `sluice instances`.
#[must_use]
pub fn all_instances(all: &view::OwnedInstances) -> String {
    let header = ["SERVICE", "ID", "ADDRESSES", "PORTS", "STATE", "NODE", "ZONE", "TARGET", "LAST CHANGE"];
    let row = |owned: &view::OwnedInstance| {
        let mut cells = vec![format!("{}/{}", owned.namespace, owned.service)];
        cells.extend(instance(&owned.instance));
        cells
    };
    let rows = table(&header, all.instances.iter().map(row));
    format!("{}\n{}", or_none(all.instances.len(), "no instances", rows), counts(all.counts, &all.last_change))
}

fn instance(i: &view::Instance) -> Vec<String> {
    let port = |(name, p): (&String, &view::InstancePort)| {
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        format!("{name}{}/{}", p.port, p.protocol)
    };
    let mut state = vec![if i.ready { "ready" } else { "not ready" }];
    if i.terminating {
        state.push(if i.serving { "terminating, serving" } else { "terminating" });
    }
    vec![
        i.id.clone(),
        i.addresses.join(","),
        i.ports.iter().map(port).collect::<Vec<_>>().join(","),
        state.join(", "),
        i.node.clone().unwrap_or_default(),
        i.zone.clone().unwrap_or_default(),
        i.target_ref.as_ref().map(|t| format!("{}/{}", t.kind, t.name)).unwrap_or_default(),
        i.last_change.clone(),
    ]
}

fn counts(c: view::Counts, last_change: &str) -> String {
    format!(
        "{} in all: {} ready, {} not ready, {} terminating; last change {last_change}",
        c.total, c.ready, c.not_ready, c.terminating
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_read_as_kubectl_writes_them() {
        assert_eq!([0, 59, 61, 3_661, 90_000].map(duration), ["0s", "59s", "1m1s", "1h1m", "1d1h"]);
        assert_eq!([0, 1023, 1536, 5 << 20].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5.0 MiB"]);
    }

    #[test]
    fn a_table_has_no_trailing_blanks_and_an_empty_one_is_a_sentence() {
        let text = table(&["A", "LONG NAME"], [vec!["x".to_owned(), String::new()]]);
        assert!(text.lines().all(|l| l == l.trim_end()), "{text:?}");
        assert_eq!(backends(&[]), "no frontend has a backend");
    }
}
