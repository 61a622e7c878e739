//! Answers of the admin API as tables for people.
#[cfg(test)]
mod tests;
mod wrap;

use std::{collections::BTreeSet, fmt::Write};

use comfy_table::{Cell, Table, presets::NOTHING};
use sluice_ebpf::Reason;

use crate::{
    admin::view,
    discovery,
    model::http::listing::{BackendRow, RouteRow},
    proxy::explain::{Explanation, PassedOver},
};

/// Which columns of a table are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Those that fit a terminal.
    Main,
    /// All.
    All,
}

/// A table without lines: columns two spaces apart, as kubectl prints them. On a terminal, or where `COLUMNS` says how
/// wide one is, cells wrap by column; for a reader that is a program each row is one line.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let asked = std::env::var("COLUMNS").ok().and_then(|n| n.parse::<u16>().ok()).filter(|n| *n > 0);
    let terminal = || terminal_size::terminal_size_of(std::io::stdout()).map(|(terminal_size::Width(n), _)| n);
    table_of(header, rows, asked.or_else(terminal))
}

/// The same in so many columns; without, as wide as it is.
fn table_of(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>, width: Option<u16>) -> String {
    if let Some(width) = width {
        // Lists may be broken after a comma.
        let breakable = |cell: String| cell.replace(", ", ",").replace(',', ", ");
        let head = header.iter().map(ToString::to_string).collect::<Vec<_>>();
        let rows = rows.into_iter().map(|row| row.into_iter().map(breakable).collect());
        return wrap::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>(), width.into());
    }
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
        "programmed: revision {}{behind} in {:.1} ms, {}, {}, {} of {} table chunks",
        s.programmed_rev,
        f64::from(u32::try_from(s.programmed_in_us).unwrap_or(u32::MAX)) / 1000.0,
        number_of(s.frontends, "frontend"),
        number_of(s.backends, "backend"),
        s.table_chunks.0,
        s.table_chunks.1
    );
    let _ = writeln!(out, "maps: {}", s.pins);
    let uplinks =
        s.uplinks.iter().chain(&s.sides).map(|u| {
            vec![u.name.clone(), u.programs.clone(), u.addresses.join(","), u.note.clone().unwrap_or_default()]
        });
    let _ = writeln!(out, "\n{}", table(&["INTERFACE", "PROGRAMS", "ADDRESSES", "NOTE"], uplinks));
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = writeln!(out, "\n{title}\n  {}", lines.join("\n  "));
        }
    };
    section(
        "manifests that could not be read (their last good objects stay, but for Services that are closed):",
        s.faults.iter().map(|f| format!("{}: {}", f.origin, f.reason)).collect(),
    );
    section("not read from the API server:", s.unread.clone());
    let of_outcome = |outcome: &str| s.problems.iter().filter(|o| o.outcome == outcome).map(problem).collect();
    section("objects that do not work:", of_outcome("refused"));
    section("objects of which a part does not work:", of_outcome("partial"));
    section("objects that work, but:", s.remarks.iter().map(problem).collect());
    section("settings of this host:", s.host.clone());
    section("VIPs that another host has:", s.conflicts.clone());
    section("endpoints that are left out:", s.left_out.clone());
    section("VIPs that are bound on this host:", s.bound.clone());
    section("maps that are nearly full:", s.nearly_full.clone());
    section("limits that are reached:", s.limits.clone());
    section("not programmed:", s.unprogrammed.clone());
    let packets = |fate: Fate| {
        s.reasons.iter().filter(|(name, _)| fate_of(name) == fate).map(|(name, n)| format!("{name}: {n}")).collect()
    };
    section("packets answered here:", packets(Fate::Answered));
    section("packets passed on:", packets(Fate::Passed));
    section("packets refused or dropped:", packets(Fate::Lost));
    out.trim_end().to_owned()
}

/// What became of the packets that a reason counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// They were answered as they should be.
    Answered,
    /// They went on.
    Passed,
    /// They were dropped, or refused with an answer that says so.
    Lost,
}

fn fate_of(reason: &str) -> Fate {
    match Reason::ALL.into_iter().find(|known| known.name() == reason) {
        Some(Reason::ArpAnswered | Reason::NdAnswered | Reason::EchoReplied) => Fate::Answered,
        Some(Reason::Relayed | Reason::AnnouncedElsewhere) => Fate::Passed,
        Some(_) | None => Fate::Lost,
    }
}

fn problem(o: &view::Object) -> String {
    format!("{} {}: {} ({}): {}", o.kind, o.name, o.outcome, o.reason, o.messages.join("; "))
}

/// `sluice services`.
#[must_use]
pub fn services(services: &[view::Service], columns: Columns) -> String {
    let rows = services.iter().map(|s| {
        vec![
            s.object.kind.clone(),
            s.object.name.clone(),
            list(&s.addresses, "<pending>"),
            announced(s),
            list(&s.ports, "-"),
            clients(&s.sources),
            counted(s),
            s.flows.map_or_else(unknown, |n| n.to_string()),
            s.bytes.map_or_else(unknown, bytes),
            s.dropped.to_string(),
            state(&s.object),
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
    // What most look for; `-o wide` has the rest.
    const MAIN: [usize; 7] = [0, 1, 2, 4, 6, 7, 10];
    let none = "no Service of type LoadBalancer and no Gateway is ours";
    let shown = match columns {
        Columns::All => table(&header, rows),
        Columns::Main => table(
            &MAIN.map(|column| header[column]),
            rows.map(|row| {
                row.into_iter().enumerate().filter(|(i, _)| MAIN.contains(i)).map(|(_, cell)| cell).collect()
            }),
        ),
    };
    or_none(services.len(), none, shown)
}

fn unknown() -> String {
    "-".to_owned()
}

/// The backends of a Service: of each family where it has both, for a pod with two addresses is one pod.
fn counted(s: &view::Service) -> String {
    match (s.backends, s.backend_families) {
        (None, _) => if is_proxied(s) { "proxy" } else { "-" }.to_owned(),
        (Some(_), Some(view::Families { ipv4, ipv6 })) if ipv4 > 0 && ipv6 > 0 => format!("{ipv4} IPv4, {ipv6} IPv6"),
        (Some(n), _) => n.to_string(),
    }
}

/// `Accepted`; where not all of it works, what does not.
fn state(o: &view::Object) -> String {
    if o.outcome == "accepted" { o.reason.clone() } else { format!("{} ({})", o.outcome, o.reason) }
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
    let is_weighted = backends.iter().any(|b| b.weight.is_some());
    let rows = backends.iter().map(|b| {
        let weight = b.weight.map_or_else(|| "-".to_owned(), |weight| weight.to_string());
        let weight = is_weighted.then_some(weight);
        let (frontend, service) = (b.frontend.clone(), b.service.clone());
        let rest = [b.backend.clone(), b.locality.clone(), b.state.clone()];
        [frontend, service].into_iter().chain(weight).chain(rest).collect::<Vec<_>>()
    });
    let weight = is_weighted.then_some("WEIGHT");
    let header: Vec<&str> =
        ["FRONTEND", "SERVICE"].into_iter().chain(weight).chain(["BACKEND", "WHERE", "STATE"]).collect();
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
            route(r),
            list(&r.actions, "-"),
            r.backends.iter().map(|backend| share(r, backend)).collect::<Vec<_>>().join(", "),
        ]
    });
    let header = ["FRONTENDS", "LISTENER", "HOST", "MATCH", "ROUTE", "ACTIONS", "BACKENDS (WEIGHT, READY)"];
    or_none(routes.len(), "no route is attached to a Gateway that is ours", table(&header, rows))
}

/// `1 frontend`, `2 frontends`.
fn number_of(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The rule; the kind of what is no HTTPRoute.
fn route(r: &RouteRow) -> String {
    match r.kind.as_str() {
        "" | "HTTPRoute" => r.place(),
        kind => format!("{kind} {}", r.place()),
    }
}

fn share(r: &RouteRow, b: &BackendRow) -> String {
    match &b.fault {
        Some(fault) if r.kind == "TLSRoute" => format!("{} ({}, refused: {fault})", b.service, b.weight),
        Some(fault) => format!("{} ({}, 500: {fault})", b.service, b.weight),
        None if b.ejected.is_empty() => format!("{} ({}, {})", b.service, b.weight, b.ready.len()),
        None => format!("{} ({}, {}, {} ejected)", b.service, b.weight, b.ready.len(), b.ejected.len()),
    }
}

/// `sluice explain`.
#[must_use]
pub fn explanations(all: &[Explanation]) -> String {
    all.iter().map(explanation).collect::<Vec<_>>().join("\n\n")
}

fn explanation(e: &Explanation) -> String {
    let frontends: Vec<_> = e.frontends.iter().map(ToString::to_string).collect();
    let mut lines = vec![format!("at {}", frontends.join(", "))];
    match &e.listener {
        Some(listener) => lines.push(format!("  listener {listener}, host {}", e.hostnames.join(", "))),
        None => lines.push(format!("  hosts of the listeners: {}", e.hostnames.join(", "))),
    }
    lines.extend(e.conditions.iter().map(|condition| format!("  {condition}")));
    let passed =
        |p: &PassedOver| format!("  passed over {} {}#{} {}: {}", p.kind, p.route, p.rule, p.matches, p.reason);
    lines.extend(e.passed_over.iter().map(passed));
    if e.more > 0 {
        lines.push(format!("  and {} more", e.more));
    }
    if let Some(row) = &e.matched {
        lines.push(format!("  matched {} {} {}", row.kind, row.place(), row.matches));
        lines.extend(row.actions.iter().map(|action| format!("  then {action}")));
        let ejected = row.backends.iter().flat_map(|backend| &backend.ejected);
        lines.extend(ejected.map(|(at, why)| format!("  ejected {at}: {why}")));
    }
    lines.push(format!("  {}", e.answer));
    lines.join("\n")
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
pub fn instances(list: &discovery::view::InstanceList) -> String {
    let header = ["ID", "ADDRESSES", "PORTS", "STATE", "NODE", "ZONE", "TARGET", "LAST CHANGE"];
    let rows = table(&header, list.instances.iter().map(instance));
    format!("{}\n{}", or_none(list.instances.len(), "no instances", rows), counts(list.counts, &list.last_change))
}

/// `sluice instances`.
#[must_use]
pub fn all_instances(all: &discovery::view::OwnedInstances) -> String {
    let header = ["SERVICE", "ID", "ADDRESSES", "PORTS", "STATE", "NODE", "ZONE", "TARGET", "LAST CHANGE"];
    let row = |owned: &discovery::view::OwnedInstance| {
        let mut cells = vec![format!("{}/{}", owned.namespace, owned.service)];
        cells.extend(instance(&owned.instance));
        cells
    };
    let rows = table(&header, all.instances.iter().map(row));
    format!("{}\n{}", or_none(all.instances.len(), "no instances", rows), counts(all.counts, &all.last_change))
}

fn instance(i: &discovery::view::Instance) -> Vec<String> {
    let port = |(name, p): (&String, &discovery::view::InstancePort)| {
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

fn counts(c: discovery::view::Counts, last_change: &str) -> String {
    format!(
        "{} in all: {} ready, {} not ready, {} terminating; last change {last_change}",
        c.total, c.ready, c.not_ready, c.terminating
    )
}
