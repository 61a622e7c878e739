//! `why listener/NAMESPACE/GATEWAY/NAME` and `why secret/NAMESPACE/NAME`: what clients meet at a listener, and which listeners
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

/// What became of a listener; several where ListenerSets of one Gateway have listeners of this name.
///
/// # Errors
/// The name is none, or nobody has it: a sentence, with the nearest that is there.
pub(super) fn listener(model: &Model, written: &str, now: i64) -> Result<view::Object, String> {
    let parts: Vec<&str> = written.split('/').collect();
    let [ns, gateway, name] = parts[..] else {
        return Err(format!("listener {written:?}: want listener/NAMESPACE/GATEWAY/NAME"));
    };
    let gateway = ObjectName::new(ns, gateway);
    let Some(report) = model.gateways.get(&gateway) else {
        return Err(format!("no Gateway {gateway} of ours is known to this node, whose listener {name} could be"));
    };
    let found: Vec<_> = report.listeners.iter().filter(|listener| listener.name == name).collect();
    if found.is_empty() {
        let near = nearest(name, report.listeners.iter().map(|listener| listener.name.as_str()));
        let meant = near.map(|near| format!(", did you mean {near}?")).unwrap_or_default();
        return Err(format!("Gateway {gateway} has no listener {name}{meant}"));
    }
    let faults = || found.iter().flat_map(|listener| faults(listener));
    let served = found.iter().filter(|listener| listener.is_served()).count();
    let (outcome, reason) = match (served, faults().next()) {
        (0, Some(fault)) => ("refused", fault.reason),
        (0, None) => ("refused", "NotServed"),
        (_, Some(fault)) => ("partial", fault.reason),
        (_, None) => ("accepted", "Accepted"),
    };
    let mut messages: Vec<String> = found.iter().flat_map(|listener| of_report(listener)).collect();
    messages
        .extend(report.addressed.as_ref().err().map(|fault| format!("the Gateway has no address: {}", fault.message)));
    for (at, listeners) in &model.http.frontends {
        let own = listeners.iter().filter(|listener| listener.gateway == gateway && listener.name == name);
        let head = if model.http.is_proxied(&gateway, at.port()) { BEHIND_A_HEAD } else { "" };
        messages.extend(own.map(|listener| format!("{at}: {}{head}", what_clients_meet(listener))));
    }
    let shown = |warning: &String| found.iter().any(|l| warning.contains(&format!("{gateway}/{} ", l.name)));
    messages.extend(certificates::warnings(&model.http, now).into_iter().filter(shown));
    let object = ObjectRef::new("Listener", ObjectName::new(gateway.to_string(), name));
    Ok(view::Object { messages, ..plain(&object, outcome, reason, String::new()) })
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
            format!("under TLS with the certificate of Secret {}", secrets.join("; of Secret "))
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
