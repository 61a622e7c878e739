//! What `why` says of routes: where clients meet each rule and who gets what of it; and `why route/NAME` for those who do not know the kind.
use super::{super::explain, names, read_name};
use crate::{
    api::RouteKind,
    model::{
        Model, ObjectRef,
        http::listing::{BackendRow, RouteRow},
    },
    source::Snapshot,
};

/// Lines for one route, at most; what is beyond it is counted.
const MOST: usize = 20;

/// What a route of whichever kind is called when it is asked for.
const ANY: [&str; 2] = ["route", "routes"];

const KINDS: [RouteKind; 5] = [RouteKind::Http, RouteKind::Grpc, RouteKind::Tls, RouteKind::Tcp, RouteKind::Udp];

/// Whether any kind of route is meant.
pub(super) fn is_any(kind: &str) -> bool {
    ANY.contains(&kind.to_lowercase().as_str())
}

/// The kind that a route of this name has.
///
/// # Errors
/// No route has the name, or routes of several kinds have: a sentence that lists them.
pub(super) fn kind_of(snapshot: &Snapshot, model: &Model, name: &str) -> Result<&'static str, String> {
    let object = read_name(super::find("HTTPRoute")?, name).map_err(|reason| reason.replace("HTTPRoute", "route"))?;
    let has = |kind: &&RouteKind| {
        let judged = ObjectRef::new(kind.name(), object.clone());
        model.verdicts.contains_key(&judged) || names(snapshot, kind.name()).contains(&object)
    };
    let found: Vec<&RouteKind> = KINDS.iter().filter(has).collect();
    match found.as_slice() {
        [only] => Ok(only.name()),
        [] => {
            let kinds = KINDS.map(RouteKind::name).join(", ");
            Err(format!("no route {object} of any kind ({kinds}) is known to this node"))
        }
        several => {
            let names: Vec<String> =
                several.iter().map(|kind| format!("{}/{object}", kind.name().to_lowercase())).collect();
            Err(format!("several routes are named {object}: ask for one of {}", names.join(", ")))
        }
    }
}

/// Where clients meet a route, in sentences; none of what is no route.
pub(super) fn lines(model: &Model, object: &ObjectRef) -> Vec<String> {
    if !KINDS.iter().any(|kind| kind.name() == object.kind) {
        return Vec::new();
    }
    let rows = model.http.rows_of(object);
    let mut lines: Vec<String> = rows.iter().take(MOST).map(line).collect();
    if rows.len() > MOST {
        lines.push(format!("and {} more: `sluice routes` lists them", rows.len() - MOST));
    }
    let of_kernel = || explain::lines(model, &std::collections::BTreeMap::new(), object);
    if lines.is_empty() && of_kernel().is_empty() {
        lines.push("no listener that is served has it: no client meets it".to_owned());
    }
    lines
}

fn line(row: &RouteRow) -> String {
    let at: Vec<String> = row.frontends.iter().map(ToString::to_string).collect();
    let place = format!("{}, listener {}/{}, host {}", at.join(", "), row.gateway, row.listener, row.hostname);
    let backends: Vec<String> = row.backends.iter().map(|backend| share(row, backend)).collect();
    let what: Vec<String> = row.actions.iter().cloned().chain(backends).collect();
    let name = row.rule_name.iter().map(|name| format!(" ({name})")).collect::<String>();
    let what = if what.is_empty() { "to no backend".to_owned() } else { what.join(", ") };
    format!("rule {}{name} at {place}, {}: {what}", row.rule, row.matches)
}

fn share(row: &RouteRow, backend: &BackendRow) -> String {
    let all: u32 = row.backends.iter().map(|backend| backend.weight).fold(0, u32::saturating_add);
    let weight = if row.backends.len() > 1 { format!("weight {} of {all} ", backend.weight) } else { String::new() };
    let BackendRow { service, ready, fault, weight: _, ejected: _ } = backend;
    match (fault, ready.len()) {
        (Some(fault), _) => format!("{weight}refused: {fault}"),
        (None, 1) => format!("{weight}to {service} (1 endpoint ready)"),
        (None, n) => format!("{weight}to {service} ({n} endpoints ready)"),
    }
}

#[cfg(test)]
mod tests;
