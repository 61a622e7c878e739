//! What becomes of a connection before there is a request: which listener has its server name, and whether HTTP follows at all.
use super::{Explanation, Known, MOST, Outcome, PassedOver};
use crate::{
    model::{
        http::{Hostname, HttpListener},
        stream_route::StreamEntry,
    },
    proxy::router::Site,
};

/// How a connection begins.
pub(super) enum Begun<'a> {
    /// Requests follow: after a handshake for this listener, or in clear text.
    Http(Option<usize>),
    /// Its bytes go to an endpoint of this route; nowhere where there is none.
    Stream(&'a HttpListener, Option<&'a StreamEntry>),
    /// It ends, for this reason.
    Ended(String),
}

/// How a connection begins that names this server, by TLS or in clear text.
pub(super) fn begun<'a>(site: &'a Site, is_https: bool, server_name: Option<&str>) -> Begun<'a> {
    match (site.is_secured(), is_https) {
        (false, false) => return Begun::Http(None),
        (false, true) => return Begun::Ended("no TLS handshake is made: clear text is spoken here".to_owned()),
        (true, false) => {
            return Begun::Ended("the connection ends: TLS is spoken here, and the URL is of http".to_owned());
        }
        (true, true) => {}
    }
    let Some(index) = site.listener_of(server_name) else {
        let reason = match server_name {
            Some(name) => format!("no listener has the server name {name}"),
            None => "no listener takes clients that name no server".to_owned(),
        };
        return Begun::Ended(match site.has_streams() {
            true => format!("the connection ends: {reason}"),
            false => format!("the handshake ends with the alert unrecognized_name: {reason}"),
        });
    };
    let listener = &site.listeners()[index];
    match listener.streams {
        None => Begun::Http(Some(index)),
        Some(_) => Begun::Stream(listener, site.stream_of(index, server_name)),
    }
}

/// What becomes of a connection to a listener that passes streams on.
pub(super) fn stream(
    known: Known<'_>,
    mut out: Explanation,
    (listener, entry): (&HttpListener, Option<&StreamEntry>),
    server_name: Option<&str>,
) -> Explanation {
    out.listener = Some(format!("{}/{}", listener.gateway, listener.name));
    out.hostnames = vec![listener.hostname.to_string()];
    let others = listener.streams.iter().flat_map(|streams| streams.iter());
    for other in others.filter(|other| entry.is_none_or(|entry| !std::ptr::eq(*other, entry))) {
        if out.passed_over.len() == MOST {
            out.more += 1;
            continue;
        }
        out.passed_over.push(PassedOver {
            kind: other.kind.name().to_owned(),
            route: other.route.to_string(),
            rule: 0,
            matches: "TLS".to_owned(),
            reason: reason(other, server_name),
        });
    }
    let Some(entry) = entry else {
        return out.with(Outcome::ended("the connection ends: no route has the server name".to_owned()));
    };
    let named = |hostname: &&Hostname| server_name.is_none_or(|name| hostname.holds(name));
    let hostname = entry.hostnames.iter().filter(named).min().unwrap_or(&Hostname::Any);
    let mut row = known.model.stream_row(&out.frontends, listener, hostname, entry);
    row.note(known.ejected);
    let outcome = known.stream(entry, &row.backends);
    out.matched = Some(row);
    out.with(outcome)
}

/// Why another route of the listener is passed over.
fn reason(entry: &StreamEntry, server_name: Option<&str>) -> String {
    let names: Vec<String> = entry.hostnames.iter().map(ToString::to_string).collect();
    let wanted = names.join(" or ");
    match server_name {
        Some(name) if entry.hostnames.iter().any(|hostname| hostname.holds(name)) => {
            format!("another route's name is more specific, or older, for the server name {name}")
        }
        Some(name) => format!("the server name is {name}, want {wanted}"),
        None => format!("the client names no server, want {wanted}"),
    }
}
