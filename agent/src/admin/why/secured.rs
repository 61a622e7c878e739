//! `why listener/NAMESPACE/GATEWAY/NAME`, or of a ListenerSet, and `why secret/NAMESPACE/NAME`: what clients meet at a listener, and which listeners
//! stand on a Secret. No part of a key is in either: of a certificate its names' owner, the listener, and its end are told.
use jiff::Timestamp;

use super::{
    super::{certificates, explain::BEHIND_A_HEAD},
    plain, view,
};
use crate::{
    api::ObjectName,
    model::{
        Model, ObjectRef, certificate,
        http::HttpListener,
        report::{Fault, ListenerReport},
        tls,
    },
    source::{Snapshot, snapshot::NamedKind},
    spelling::nearest,
};

/// What became of a listener.
///
/// # Errors
/// As [`find`].
pub(super) fn listener(model: &Model, written: &str, now: i64) -> Result<view::Object, String> {
    let (gateway, found) = find(model, written)?;
    let name = found.full_name();
    let (outcome, reason) = match (found.is_served(), faults(found).next()) {
        (false, Some(fault)) => ("refused", fault.reason),
        (false, None) => ("refused", "NotServed"),
        (true, Some(fault)) => ("partial", fault.reason),
        (true, None) => ("accepted", "Accepted"),
    };
    let mut messages = of_report(found);
    let report = model.gateways.get(gateway);
    let addressed = report.and_then(|report| report.addressed.as_ref().err());
    messages.extend(addressed.map(|fault| format!("the Gateway has no address: {}", fault.message)));
    for (at, listeners) in &model.http.frontends {
        let own = listeners.iter().filter(|listener| listener.gateway == *gateway && listener.name == name);
        let head = if model.http.is_proxied(gateway, at.port()) { BEHIND_A_HEAD } else { "" };
        messages.extend(own.map(|listener| format!("{at}: {}{head}", what_clients_meet(listener))));
    }
    let shown = |warning: &String| warning.contains(&format!("{gateway}/{name} "));
    messages.extend(certificates::warnings(&model.http, now).into_iter().filter(shown));
    let others = report.iter().flat_map(|report| &report.listeners);
    let others = others.filter(|other| other.name == found.name && other.set != found.set);
    let others: Vec<String> = others.map(|other| place(gateway, other)).collect();
    if !others.is_empty() {
        messages.push(format!("others of its Gateway have this name: {}", others.join(", ")));
    }
    let object = ObjectRef::new("Listener", ObjectName::new(gateway.to_string(), name));
    Ok(view::Object { messages, ..plain(&object, outcome, reason, String::new()) })
}

/// How a listener is asked for.
fn place(gateway: &ObjectName, listener: &ListenerReport) -> String {
    format!("listener/{gateway}/{}", listener.full_name())
}

/// The listener that is meant: of a Gateway, `NAMESPACE/GATEWAY/NAME`; of a ListenerSet `NAMESPACE/SET/NAME`, or in full, as `sluice
/// routes` has it, `NAMESPACE/GATEWAY/NAMESPACE/SET/NAME`. Names may repeat over the sets of a Gateway (GEP-1713): the Gateway's own
/// comes first, and one name of several sets is none.
///
/// # Errors
/// The name is none, several have it, or nobody: a sentence, with those that do, or the nearest that is there.
fn find<'a>(model: &'a Model, written: &str) -> Result<(&'a ObjectName, &'a ListenerReport), String> {
    let parts: Vec<&str> = written.split('/').collect();
    let (ns, owner, name) = match parts[..] {
        [ns, owner, name] => (ns, owner, name.to_owned()),
        [ns, gateway, set_ns, set, name] => (ns, gateway, format!("{set_ns}/{set}/{name}")),
        _ => {
            let want = "listener/NAMESPACE/GATEWAY/NAME, or listener/NAMESPACE/LISTENERSET/NAME";
            return Err(format!("listener {written:?}: want {want}"));
        }
    };
    let owner = ObjectName::new(ns, owner);
    let of_gateway = model.gateways.get_key_value(&owner);
    if let Some((gateway, report)) = of_gateway
        && let Some(found) = report.listeners.iter().find(|listener| listener.full_name() == name)
    {
        return Ok((gateway, found));
    }
    let all = || model.gateways.iter().flat_map(|(gateway, report)| report.listeners.iter().map(move |l| (gateway, l)));
    if let Some(found) = all().find(|(_, listener)| listener.set.as_ref() == Some(&owner) && listener.name == name) {
        return Ok(found);
    }
    let Some((gateway, report)) = of_gateway else {
        let names = all().filter(|(_, listener)| listener.set.as_ref() == Some(&owner)).map(|(_, l)| l.name.as_str());
        let names: Vec<&str> = names.collect();
        return Err(match names.is_empty() {
            true => format!(
                "no Gateway or ListenerSet {owner} of ours is known to this node, whose listener {name} could be"
            ),
            false => format!("ListenerSet {owner} has no listener {name}{}", meant(&name, names)),
        });
    };
    let of_sets: Vec<_> = report.listeners.iter().filter(|listener| listener.name == name).collect();
    match of_sets.as_slice() {
        [only] => Ok((gateway, only)),
        [] => {
            let names = report.listeners.iter().map(|listener| listener.name.as_str()).collect();
            Err(format!("Gateway {gateway} has no listener {name}{}", meant(&name, names)))
        }
        several => {
            let places: Vec<String> = several.iter().map(|listener| place(gateway, listener)).collect();
            Err(format!(
                "several listeners of Gateway {gateway} are named {name}: ask for one of {}",
                places.join(", ")
            ))
        }
    }
}

fn meant(name: &str, names: Vec<&str>) -> String {
    nearest(name, names).map(|near| format!(", did you mean {near}?")).unwrap_or_default()
}

fn faults(listener: &ListenerReport) -> impl Iterator<Item = &Fault> {
    [listener.accepted.as_ref().err(), listener.conflict.as_ref(), listener.resolved.as_ref().err()]
        .into_iter()
        .flatten()
}

/// Sentences about what the API says of a listener.
fn of_report(listener: &ListenerReport) -> Vec<String> {
    let mut out: Vec<String> = listener.set.iter().map(|set| format!("it is of ListenerSet {set}")).collect();
    out.extend(faults(listener).map(|fault| fault.message.clone()));
    if !listener.is_secured {
        out.push("it has no certificate that could be shown: TLS handshakes are refused".to_owned());
    }
    let kinds: Vec<String> = listener.kinds.iter().map(|kind| kind.name().to_owned()).collect();
    let routes = match listener.attached {
        0 => "no route is attached".to_owned(),
        1 => "1 route is attached".to_owned(),
        n => format!("{n} routes are attached"),
    };
    out.push(match kinds.is_empty() {
        true => format!("{routes}; it takes routes of no kind"),
        false => format!("{routes}; it takes those of kind {}", kinds.join(" and ")),
    });
    out
}

/// What happens to a connection to a listener.
fn what_clients_meet(listener: &HttpListener) -> String {
    let hosts = match listener.hostname.to_string() {
        any if any == "*" => "every host".to_owned(),
        name => format!("host {name}"),
    };
    let security = match (&listener.tls, &listener.streams) {
        (Some(tls), _) => {
            let secrets: Vec<String> =
                tls.certificates.iter().map(|c| format!("{}, {}", c.secret, until(c.not_after))).collect();
            let version = tls.only_version().map_or_else(|| "TLS".to_owned(), |version| format!("{version} alone"));
            format!("under {version} with the certificate of Secret {}", secrets.join("; of Secret "))
        }
        (None, Some(_)) => "TLS passed through to the backend".to_owned(),
        (None, None) => "in clear text".to_owned(),
    };
    format!("{hosts}, {security}")
}

fn until(not_after: i64) -> String {
    match Timestamp::from_second(not_after) {
        Ok(time) => format!("valid until {time}"),
        Err(_) => "valid for ever".to_owned(),
    }
}

/// What became of a Secret; `None` where nobody refers to it and it was not read.
pub(super) fn secret(snapshot: &Snapshot, model: &Model, name: &ObjectName, now: i64) -> Option<view::Object> {
    let object = ObjectRef::new("Secret", name.clone());
    let is_wanted = tls::references(snapshot).contains(&(NamedKind::Secret, name.clone()));
    let Some(read) = snapshot.secrets.get(name) else {
        let message = "listeners refer to it, and it does not exist, or may not be read: `sluice status` tells which";
        return is_wanted.then(|| plain(&object, "refused", "NotFound", message.to_owned()));
    };
    let mut messages = Vec::new();
    let (outcome, reason) = match certificate::parse(name, read) {
        Err(_) if !is_wanted => ("ignored", "NotReferred"),
        Err(reason) => {
            messages.push(format!("it cannot be used: {reason}"));
            ("refused", "InvalidCertificateRef")
        }
        Ok(certificate) => {
            messages.push(format!("it has a certificate and its key, {}", until(certificate.not_after)));
            ("accepted", "Accepted")
        }
    };
    let shown_by = |listener: &&HttpListener| {
        listener.tls.iter().flat_map(|tls| &tls.certificates).any(|certificate| certificate.secret == *name)
    };
    let all = model.http.frontends.iter().flat_map(|(at, listeners)| listeners.iter().map(move |l| (at, l)));
    let shown: Vec<String> = all
        .filter(|(_, listener)| shown_by(listener))
        .map(|(at, listener)| format!("listener {}/{} shows it at {at}", listener.gateway, listener.name))
        .collect();
    messages.extend(match (shown.is_empty(), is_wanted) {
        (false, _) => shown,
        (true, true) => vec!["it is referred to, and no listener that is served shows it".to_owned()],
        (true, false) => vec!["nothing refers to it".to_owned()],
    });
    let of_this = |warning: &String| warning.contains(&format!("Secret {name},"));
    messages.extend(certificates::warnings(&model.http, now).into_iter().filter(of_this));
    Some(view::Object { messages, ..plain(&object, outcome, reason, String::new()) })
}

#[cfg(test)]
mod tests;
